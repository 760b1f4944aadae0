import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from rrl_jax.data import cifar100, noise, source
from rrl_jax.errors import ConfigError, DataError
from tests.tiers import first

CIFAR10 = (
  'airplane', 'automobile', 'bird', 'cat', 'deer',
  'dog', 'frog', 'horse', 'ship', 'truck',
)  # fmt: skip
FASHION = (
  'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat',
  'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip
DIGITS = tuple('0123456789')
SIMPLE = ('symmetric', 'symmetric_inclusive', 'pair')


def make(labels, names=DIGITS, **kw):
  labels = np.asarray(labels)
  images = np.zeros((len(labels), 1, 1, 1), np.uint8)
  return source.Source(images, labels, names, **kw)


def balanced(each=1000, names=DIGITS):
  return make(np.arange(each * len(names)) % len(names), names)


def confusion(train):
  """Counts [C, C]: true labels down, given labels across."""
  num = train.num_classes
  pairs = train.truth.labels * num + train.labels
  return np.bincount(pairs, minlength=num**2).reshape(num, num)


def fits(counts, probs):
  """Whether counts may come from a multinomial with these probabilities."""
  assert (counts[probs == 0] == 0).all()
  counts, probs = counts[probs > 0], probs[probs > 0]
  if len(counts) < 2 or not counts.sum():
    return True
  return stats.chisquare(counts, counts.sum() * probs).pvalue > 1e-4


# How many, and to what.


@pytest.mark.fast
@pytest.mark.parametrize('rate', [0.0, 0.123, 0.4, 1.0])
def test_symmetric_flips_the_exact_count_of_each_class_to_the_others(rate):
  labels = np.repeat(np.arange(5), [1, 10, 501, 1500, 3000])
  train = make(labels, tuple('abcde'))
  noisy = noise.flip(train, kind='symmetric', rate=rate, seed=3)
  counts = confusion(noisy)
  np.testing.assert_array_equal(np.diag(counts), [
    n - round(rate * n) for n in (1, 10, 501, 1500, 3000)
  ])  # fmt: skip
  for k in range(5):
    others = np.delete(counts[k], k)
    assert others.sum() < 20 or fits(others, np.full(4, 0.25))
  np.testing.assert_array_equal(noisy.truth.labels, labels)
  np.testing.assert_array_equal(noisy.truth.flipped, noisy.labels != labels)
  assert not noisy.truth.abnormal.any()


@pytest.mark.fast
def test_inclusive_noise_redraws_the_exact_count_but_spares_some():
  train = balanced(each=10_000)
  noisy = noise.flip(train, kind='symmetric_inclusive', rate=0.5, seed=0)
  wrong = noisy.truth.flipped.sum()
  # 50,000 redrawn, a tenth of them to the label they had.
  assert abs(wrong - 45_000) < 5 * np.sqrt(50_000 * 0.9 * 0.1)
  for k, row in enumerate(confusion(noisy)):
    drawn = row.copy()
    drawn[k] -= 5000  # Not chosen.
    assert drawn.sum() == 5000
    assert fits(drawn, np.full(10, 0.1))


@pytest.mark.fast
def test_pair_flips_to_the_next_class_and_the_last_to_the_first():
  counts = confusion(noise.flip(balanced(), kind='pair', rate=0.45, seed=0))
  expected = 550 * np.eye(10) + 450 * np.roll(np.eye(10), 1, axis=1)
  np.testing.assert_array_equal(counts, expected)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('mapping', 'names', 'arrows'),
  [
    ('cifar10', CIFAR10, [(9, 1), (2, 0), (4, 7), (3, 5), (5, 3)]),
    ('mnist', DIGITS, [(7, 1), (2, 7), (3, 8), (5, 6), (6, 5)]),
    (
      'fashion_mnist', FASHION,
      [(0, 6), (6, 0), (2, 4), (4, 2), (5, 7), (7, 9)],
    ),
    ('9>1 2>0 4>7 3<>5', DIGITS, [(9, 1), (2, 0), (4, 7), (3, 5), (5, 3)]),
    ('9>1 2>0 4>7 3<>5', CIFAR10, [(9, 1), (2, 0), (4, 7), (3, 5), (5, 3)]),
    ('ankle_boot>T-shirt/top 1>Bag', FASHION, [(9, 0), (1, 8)]),
  ],
)  # fmt: skip
def test_asymmetric_follows_its_map(mapping, names, arrows):
  train = balanced(names=names)
  noisy = noise.flip(
    train, kind='asymmetric', rate=0.4, seed=0, mapping=mapping
  )
  expected = 1000 * np.eye(10)
  for start, end in arrows:
    expected[start, start], expected[start, end] = 600, 400
  np.testing.assert_array_equal(confusion(noisy), expected)
  expected_rate = 0.4 * len(arrows) / 10
  for given_source in (None, train, noisy):
    found = noise.rates(
      'asymmetric', 0.4, 10, mapping=mapping, source=given_source
    )
    np.testing.assert_allclose(found[:2], (0.4, expected_rate))


@pytest.mark.fast
def test_superclass_noise_swaps_two_classes_of_each():
  train = balanced(each=50, names=cifar100.FINE)
  parent = {
    name: group
    for group, names in cifar100.SUPERCLASSES.items()
    for name in names
  }
  maps = set()
  for seed in range(3):
    noisy = noise.flip(
      train, kind='asymmetric', rate=0.4, seed=seed,
      mapping='cifar100_superclass',
    )  # fmt: skip
    counts = confusion(noisy)
    np.testing.assert_array_equal(counts, counts.T)  # Swaps.
    off = counts - np.diag(np.diag(counts))
    starts, ends = np.nonzero(off)
    assert set(off[starts, ends]) == {20}
    assert len(starts) == 40
    groups = [parent[cifar100.FINE[k]] for k in starts]
    assert groups == [parent[cifar100.FINE[k]] for k in ends]
    assert {groups.count(group) for group in set(groups)} == {2}
    np.testing.assert_allclose(noisy.truth.flipped.mean(), 0.4 * 0.4)
    found = noise.rates(
      'asymmetric', 0.4, 100, mapping='cifar100_superclass', seed=seed
    )
    np.testing.assert_allclose(found.expected, 0.16)
    maps.add(tuple(starts))
  assert len(maps) == 3


@pytest.mark.fast
def test_block_noise_goes_round_alphabetical_blocks():
  noisy = noise.flip(
    balanced(each=10, names=cifar100.FINE), kind='asymmetric', rate=0.3, seed=0,
    mapping='cifar100_block',
  )  # fmt: skip
  block = 7 * np.eye(5) + 3 * np.roll(np.eye(5), 1, axis=1)
  np.testing.assert_array_equal(confusion(noisy), np.kron(np.eye(20), block))
  np.testing.assert_allclose(
    noise.rates('asymmetric', 0.3, 100, mapping='cifar100_block').expected, 0.3
  )


@pytest.mark.fast
def test_a_map_on_unequal_classes_flips_its_share_of_them():
  train = make(np.repeat([0, 1, 2], [100, 300, 600]), tuple('abc'))
  kw = {'mapping': 'b>c'}
  noisy = noise.flip(train, kind='asymmetric', rate=0.5, seed=0, **kw)
  assert noisy.truth.flipped.sum() == 150
  for given_source in (train, noisy):  # Of true labels, not of given ones.
    found = noise.rates('asymmetric', 0.5, 3, source=given_source, **kw)
    np.testing.assert_allclose(found.expected, 0.15)


@pytest.mark.fast
@pytest.mark.parametrize('kind', SIMPLE)
def test_drawing_each_example_by_itself_flips_that_many_on_average(kind):
  noisy = noise.flip(balanced(2000), kind=kind, rate=0.3, seed=1, exact=False)
  expected = noise.matrix(kind, 0.3, DIGITS)
  counts = confusion(noisy)
  for k in range(10):
    assert fits(counts[k], expected[k])
  assert len(set(np.diag(counts))) > 1  # Not exact.


# The matrix, and what it says of given labels.


@pytest.mark.fast
def test_matrices_by_hand():
  np.testing.assert_allclose(
    noise.matrix('symmetric', 0.3, 'abcd'), 0.6 * np.eye(4) + 0.1
  )
  np.testing.assert_allclose(
    noise.matrix('symmetric_inclusive', 0.4, 'abcd'), 0.6 * np.eye(4) + 0.1
  )
  np.testing.assert_allclose(
    noise.matrix('asymmetric', 0.25, 'abc', mapping='a>c'),
    [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 1]],
  )
  np.testing.assert_array_equal(noise.matrix('none', 0.3, 'ab'), np.eye(2))


@pytest.mark.fast
def test_joint_and_inverse_noise_matrix_as_worked_out_by_hand():
  # 60 of a, 40 of b, a quarter flipped: 15 a become b, 10 b become a.
  noisy = noise.flip(
    make(np.repeat([0, 1], [60, 40]), tuple('ab')),
    kind='symmetric', rate=0.25, seed=0,
  )  # fmt: skip
  joint = confusion(noisy) / 100
  np.testing.assert_allclose(joint, [[0.45, 0.15], [0.10, 0.30]])
  np.testing.assert_allclose(  # P(given | true), rows of true labels.
    joint / joint.sum(axis=1, keepdims=True),
    noise.matrix('symmetric', 0.25, 'ab'),
  )
  np.testing.assert_allclose(  # P(true | given), columns of given labels.
    joint / joint.sum(axis=0), [[45 / 55, 15 / 45], [10 / 55, 30 / 45]]
  )


@settings(max_examples=50, deadline=None)
@given(
  counts=st.lists(st.integers(0, 30), min_size=2, max_size=7),
  kind=st.sampled_from(SIMPLE),
  rate=st.floats(0, 1),
  seed=st.integers(0, 2**40),
  exact=st.booleans(),
)
def test_properties_of_any_noise(counts, kind, rate, seed, exact):
  labels = np.random.default_rng(0).permutation(
    np.repeat(np.arange(len(counts)), counts)
  )
  train = make(labels, tuple('abcdefg'[: len(counts)]))
  noisy = noise.flip(train, kind=kind, rate=rate, seed=seed, exact=exact)
  np.testing.assert_array_equal(train.labels, labels)  # Untouched.
  np.testing.assert_array_equal(noisy.truth.labels, labels)
  np.testing.assert_array_equal(noisy.truth.flipped, noisy.labels != labels)
  np.testing.assert_array_equal(noisy.concepts, noisy.labels)
  assert noisy.images is train.images
  if exact and kind != 'symmetric_inclusive':
    flipped = np.bincount(labels[noisy.truth.flipped], minlength=len(counts))
    assert flipped.tolist() == [round(rate * n) for n in counts]
  np.testing.assert_allclose(
    noise.matrix(kind, rate, train.class_names).sum(axis=1), 1
  )


# Rates in words.


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kind', 'num_classes', 'expected'),
  [
    ('none', 10, (0, 0)),
    ('symmetric', 10, (0.4, 0.4)),
    ('symmetric_inclusive', 10, (0.4, 0.36)),
    ('symmetric_inclusive', 100, (0.4, 0.396)),
    ('pair', 10, (0.4, 0.4)),
    ('instance', 10, (0.4, 0.4)),
  ],
)
def test_rates_nominal_and_expected(kind, num_classes, expected):
  found = noise.rates(kind, 0.4, num_classes)
  np.testing.assert_allclose(found[:2], expected, atol=1e-12)
  assert '\n' not in found.protocol
  if kind != 'none':
    assert f'{found.expected:.4g} of all labels' in found.protocol


@pytest.mark.fast
def test_a_protocol_tells_both_rates():
  assert noise.rates('symmetric_inclusive', 0.8, 10).protocol == (
    'symmetric_inclusive label noise: 0.8 of the labels become any of the 10'
    ' classes, itself included, uniformly; 0.72 of all labels are expected to'
    ' be wrong'
  )


# Seeds.


@pytest.mark.fast
def test_flips_are_these_on_every_platform():
  train = make(np.arange(20) % 4, tuple('abcd'))
  noisy = noise.flip(train, kind='symmetric', rate=0.4, seed=7)
  assert ''.join(map(str, noisy.labels)) == '33101123032201130123'


@pytest.mark.fast
def test_flips_depend_on_labels_and_seed_alone(rng):
  labels = rng.integers(0, 4, 200)
  flip = lambda train, seed: (
    noise.flip(train, kind='symmetric', rate=0.4, seed=seed).labels
  )
  plain = flip(make(labels, tuple('abcd')), 5)
  other = source.Source(
    rng.random((200, 3, 2, 1), np.float32), labels, ('w', 'x', 'y', 'z'),
    rng.integers(0, 2, 200), ('p', 'q'),
  )  # fmt: skip
  np.random.seed(1)  # noqa: NPY002 - Global state that must not matter.
  np.testing.assert_array_equal(flip(other, 5), plain)
  assert (flip(make(labels, tuple('abcd')), 6) != plain).any()


@pytest.mark.fast
def test_the_draw_of_an_example_does_not_depend_on_other_labels():
  # So that one label more or less of one class leaves the others' flips alone.
  labels = np.arange(400) % 4
  changed = labels.copy()
  changed[8] = 1
  kw = {'kind': 'symmetric', 'rate': 0.4, 'seed': 0, 'exact': False}
  first = noise.flip(make(labels, tuple('abcd')), **kw).labels
  second = noise.flip(make(changed, tuple('abcd')), **kw).labels
  np.testing.assert_array_equal(np.delete(first, 8), np.delete(second, 8))


@pytest.mark.fast
@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('kind', SIMPLE)
def test_a_smaller_rate_flips_a_subset_to_the_same_labels(kind, exact):
  train = balanced(50)
  low, high = (
    noise.flip(train, kind=kind, rate=rate, seed=2, exact=exact)
    for rate in (0.2, 0.6)
  )
  assert low.truth.flipped.any()
  assert (high.truth.flipped | ~low.truth.flipped).all()
  flipped = low.truth.flipped
  np.testing.assert_array_equal(low.labels[flipped], high.labels[flipped])


# What is left as it is.


@pytest.mark.fast
def test_no_noise_returns_the_source_itself():
  train = balanced(2)
  assert noise.flip(train, kind='none', rate=0.4, seed=0) is train
  assert train.truth is None


@pytest.mark.fast
@pytest.mark.parametrize('kind', SIMPLE)
def test_a_rate_of_zero_fills_the_truth_in(kind):
  train = balanced(2)
  noisy = noise.flip(train, kind=kind, rate=0, seed=0)
  np.testing.assert_array_equal(noisy.labels, train.labels)
  np.testing.assert_array_equal(noisy.truth.labels, train.labels)
  assert not (noisy.truth.flipped | noisy.truth.abnormal).any()


@pytest.mark.fast
def test_abnormal_examples_keep_their_labels_and_do_not_count():
  train = balanced(100)
  abnormal = np.arange(1000) % 3 == 0
  train = dataclasses.replace(
    train, truth=source.Truth(train.labels, np.zeros(1000, bool), abnormal)
  )
  noisy = noise.flip(train, kind='symmetric', rate=0.5, seed=0)
  np.testing.assert_array_equal(noisy.labels[abnormal], train.labels[abnormal])
  np.testing.assert_array_equal(noisy.truth.abnormal, abnormal)
  normal = np.bincount(train.labels[~abnormal])
  flipped = np.bincount(train.labels[noisy.truth.flipped])
  assert flipped.tolist() == [round(n / 2) for n in normal]
  protocol = noise.rates('symmetric', 0.5, 10, source=noisy).protocol
  assert '0.5 of all labels of images that are not abnormal' in protocol


@pytest.mark.fast
def test_noise_on_noise_remembers_the_first_labels():
  train = balanced(100)
  once = noise.flip(train, kind='pair', rate=0.5, seed=0)
  twice = noise.flip(once, kind='pair', rate=1, seed=0)
  np.testing.assert_array_equal(twice.truth.labels, train.labels)
  assert twice.truth.flipped.all()  # One or two classes on, of ten.
  back = noise.flip(
    noise.flip(balanced(10, tuple('ab')), kind='pair', rate=1, seed=0),
    kind='pair', rate=1, seed=0,
  )  # fmt: skip
  assert not back.truth.flipped.any()


@pytest.mark.fast
def test_concepts_of_classes_are_given_and_others_true():
  train = balanced(100)
  noisy = noise.flip(train, kind='symmetric', rate=0.5, seed=0)
  np.testing.assert_array_equal(noisy.concepts, noisy.labels)
  assert not noisy.has_hierarchy
  groups = train.labels // 5
  train = dataclasses.replace(train, concepts=groups, concept_names=('a', 'b'))
  noisy = noise.flip(train, kind='symmetric', rate=0.5, seed=0)
  np.testing.assert_array_equal(noisy.concepts, groups)
  assert (noisy.labels // 5 != groups).any()


# By a model's confusion.


@pytest.fixture
def model(tmp_path, rng):
  """200 examples of 4 classes, and the file of a model's probabilities."""
  train = make(np.arange(200) % 4, tuple('abcd'))
  logits = rng.normal(size=(200, 4))
  logits[np.arange(200), train.labels] += 2
  path = tmp_path / 'model.npz'
  np.savez(path, logits=logits.astype(np.float32))
  probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  return train, probs, path


def many(train, path, rate, *, exact, times=1500):
  """How often each example got each label, [N, C]."""
  counts = np.zeros((len(train), train.num_classes))
  for seed in range(times):
    noisy = noise.flip(
      train, kind='instance', rate=rate, seed=seed, exact=exact,
      confusion=path,
    )  # fmt: skip
    counts[np.arange(len(train)), noisy.labels] += 1
    if exact:
      assert noisy.truth.flipped.sum() == round(rate * len(train))
  return counts / times


@pytest.mark.parametrize('exact', first([True, False]))
@pytest.mark.parametrize('rate', first([0.1, 0.6]))
def test_instance_noise_follows_the_mass_on_wrong_classes(model, rate, exact):
  train, probs, path = model
  rows = np.arange(200)
  mass = 1 - probs[rows, train.labels]
  # Cut at one, and scaled so that the mean is the rate: by bisection.
  low, high = 0.0, 1e6
  for _ in range(200):
    middle = (low + high) / 2
    too_much = np.minimum(middle * mass, 1).mean() > rate
    low, high = (low, middle) if too_much else (middle, high)
  chance = np.minimum(low * mass, 1)
  assert (chance.max() == 1) == (rate == 0.6)  # Both cases are met.
  expected = probs * (chance / mass)[:, None]
  expected[rows, train.labels] = 1 - chance
  found = many(train, path, rate, exact=exact)
  error = (found - expected) / np.sqrt(expected * (1 - expected) / 1500 + 1e-9)
  assert abs(error).max() < 5.5
  np.testing.assert_allclose(found[rows, train.labels], 1 - chance, atol=0.05)
  wrong = 1 - found[rows, train.labels].mean()
  np.testing.assert_allclose(wrong, rate, atol=1e-3 if not exact else 1e-9)


@pytest.mark.fast
def test_probabilities_and_logits_flip_alike(model, tmp_path):
  train, probs, path = model
  other = tmp_path / 'probs.npz'
  np.savez(other, probs=probs)
  kw = {'kind': 'instance', 'rate': 0.3, 'seed': 0}
  np.testing.assert_array_equal(
    noise.flip(train, confusion=path, **kw).labels,
    noise.flip(train, confusion=str(other), **kw).labels,
  )


@pytest.mark.fast
@pytest.mark.parametrize('rate', [0.0, 0.5, 1.0])
def test_a_model_of_any_confidence_gives_finite_noise(tmp_path, rate):
  train = make(np.arange(40) % 4, tuple('abcd'))
  path = tmp_path / 'model.npz'
  for scale in (0.0, 1e-3, 600.0):
    logits = scale * np.eye(4)[train.labels]
    np.savez(path, logits=logits)
    noisy = noise.flip(
      train, kind='instance', rate=rate, seed=0, confusion=path
    )
    assert noisy.truth.flipped.sum() == round(rate * 40)


@pytest.mark.fast
def test_classes_without_mass_are_never_drawn(tmp_path):
  train = make(np.zeros(500, int), tuple('abcd'))
  path = tmp_path / 'model.npz'
  np.savez(path, probs=np.tile([0.5, 0.2, 0.3, 0.0], (500, 1)))
  noisy = noise.flip(train, kind='instance', rate=1, seed=0, confusion=path)
  counts = np.bincount(noisy.labels, minlength=4)
  assert counts[0] == counts[3] == 0
  assert fits(counts, np.array([0, 0.4, 0.6, 0]))


@pytest.mark.fast
@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({}, 'no array "logits" or "probs"; it holds none'),
    ({'logits': np.zeros((7, 3))}, r'logits has shape \(7, 3\), not \(6, 3\)'),
    ({'logits': np.zeros((6, 2))}, r'logits has shape \(6, 2\), not \(6, 3\)'),
    (
      {'logits': np.full((6, 3), np.nan)},
      'logits holds NaN or infinity in row',
    ),
    ({'logits': np.full((6, 3), 'x')}, 'logits is <U1, not numbers'),
    ({'logits': np.full((6, 3), None)}, 'Python objects'),
    ({'probs': np.full((6, 3), 0.5)}, r'row 0 is no distribution .*sum 1.5'),
    ({'probs': np.tile([2.0, -1, 0], (6, 1))}, 'row 0 is no distribution'),
    (
      {'probs': np.eye(3)[[0, 1, 2, 0, 1, 0]]},
      'wrong classes for 1 examples only, of 6; 3 were to be flipped',
    ),
  ],
)
def test_a_confusion_that_does_not_fit_is_told(tmp_path, arrays, message):
  path = tmp_path / 'model.npz'
  np.savez(path, **arrays)
  train = make([0, 1, 2, 0, 1, 2], tuple('abc'))
  with pytest.raises(DataError, match=message) as error:
    noise.flip(train, kind='instance', rate=0.5, seed=0, confusion=path)
  assert str(path) in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.fast
def test_a_confusion_that_is_not_there_is_told(tmp_path):
  with pytest.raises(DataError, match='none.npz does not exist'):
    noise.flip(
      balanced(1), kind='instance', rate=0.5, seed=0,
      confusion=str(tmp_path / 'none.npz'),
    )  # fmt: skip


# What cannot be.


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'rate': 1.2}, r'^data.noise.rate=1.2: a number in \[0, 1\]'),
    ({'rate': -0.1}, r'^data.noise.rate=-0.1'),
    ({'rate': float('nan')}, r'^data.noise.rate=nan'),
    ({'rate': '0.1'}, r"^data.noise.rate='0.1'"),
    ({'rate': True}, r'^data.noise.rate=True'),
    ({'kind': 'uniform'}, "^data.noise.kind='uniform': known are none, symm"),
    ({'kind': None}, '^data.noise.kind=None'),
    ({'seed': -1}, '^data.noise.seed=-1: an integer of at least 0'),
    ({'seed': 0.5}, '^data.noise.seed=0.5'),
    ({'exact': 'yes'}, "^data.noise.exact='yes'"),
    ({'mapping': 3}, '^data.noise.mapping=3: a text'),
    ({'mapping': 'mnist'}, "the kind 'asymmetric' reads it, 'symmetric' does"),
    ({'confusion': 'x.npz'}, "the kind 'instance' reads it, 'symmetric' does"),
    ({'confusion': 3}, '^data.noise.confusion=3: a path'),
    ({'kind': 'instance'}, '^data.noise.confusion=None: .*needs a .npz'),
    ({'kind': 'none', 'rate': 2}, '^data.noise.rate=2'),
  ],
)
def test_a_wrong_value_is_told_with_its_field(kw, message):
  kw = {'kind': 'symmetric', 'rate': 0.1, 'seed': 0} | kw
  for call in (
    lambda: noise.check(**kw),
    lambda: noise.flip(balanced(1), **kw),
  ):
    with pytest.raises(ConfigError, match=message) as error:
      call()
    assert '\n' not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('mapping', 'names', 'message'),
  [
    ('', DIGITS, "needs one of cifar10, mnist, .* or arrows such as '9>1"),
    ('svhn', DIGITS, "'svhn' is no arrow; give one of cifar10"),
    ('1>2 3', DIGITS, "'3' is no arrow"),
    ('1>', DIGITS, "'1>' is no arrow"),
    ('1>2>3', DIGITS, "'1>2>3' is no arrow"),
    ('1<2', DIGITS, "'1<2' is no arrow"),
    ('1>12', DIGITS, "no class '12'; classes are 0, 1, 2"),
    ('wolf>cat', CIFAR10, "no class 'wolf'; classes are 0 airplane"),
    ('1>2 1>3', DIGITS, "class '1' is mapped twice"),
    ('1>2 2<>1', DIGITS, "class '2' is mapped twice|class '1' is mapped twice"),
    ('cat>3', CIFAR10, "'cat>3' maps class 'cat' to itself"),
    ('cifar10', DIGITS, "'cifar10': no class 'truck'; classes are 0, 1"),
    ('mnist', CIFAR10, "'mnist': no class '7'; classes are 0 airplane"),
    ('mnist', DIGITS[:8], "no class '8'"),
    ('cifar100_superclass', CIFAR10, 'no class'),
    ('cifar100_block', cifar100.FINE[1:], "no class 'apple'"),
  ],
)
def test_a_map_that_does_not_fit_is_told(mapping, names, message):
  with pytest.raises(ConfigError, match=message) as error:
    noise.flip(
      balanced(1, names), kind='asymmetric', rate=0.1, seed=0, mapping=mapping
    )
  assert str(error.value).startswith(f'data.noise.mapping={mapping!r}: ')
  assert '\n' not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize('kind', SIMPLE)
def test_one_class_has_no_other(kind):
  one = make([0, 0], ('a',))
  for call in (
    lambda: noise.flip(one, kind=kind, rate=0.1, seed=0),
    lambda: noise.rates(kind, 0.1, 1),
    lambda: noise.matrix(kind, 0.1, ('a',)),
  ):
    with pytest.raises(ConfigError, match=f"kind='{kind}': there is no other"):
      call()


@pytest.mark.fast
def test_a_matrix_of_instance_noise_is_refused():
  with pytest.raises(ConfigError, match='differs for each example'):
    noise.matrix('instance', 0.1, 'ab')


# The file of a run.


@pytest.mark.fast
def test_what_is_saved_is_what_is_loaded(tmp_path):
  noisy = noise.flip(balanced(10), kind='symmetric', rate=0.4, seed=0)
  abnormal = ~noisy.truth.flipped & (np.arange(100) % 3 == 0)
  noisy = dataclasses.replace(
    noisy, truth=dataclasses.replace(noisy.truth, abnormal=abnormal)
  )
  path = tmp_path / 'noise.npz'
  path.write_bytes(b'what was there')
  noise.save(path, noisy)
  assert [file.name for file in tmp_path.iterdir()] == ['noise.npz']
  labels, truth = noise.load(path)
  np.testing.assert_array_equal(labels, noisy.labels)
  assert labels.dtype == truth.labels.dtype == np.int32
  for field in ('labels', 'flipped', 'abnormal'):
    np.testing.assert_array_equal(
      getattr(truth, field), getattr(noisy.truth, field)
    )
  with np.load(path, allow_pickle=False) as arrays:
    assert tuple(arrays['class_names']) == DIGITS
  written = path.read_bytes()
  noise.save(str(path), noisy)
  assert path.read_bytes() == written


@pytest.mark.fast
def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
  noisy = noise.flip(balanced(1), kind='pair', rate=0.4, seed=0)
  path = tmp_path / 'noise.npz'
  noise.save(path, noisy)
  written = path.read_bytes()

  def fail(file, **arrays):
    file.write(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(np, 'savez', fail)
  with pytest.raises(OSError, match='disk full'):
    noise.save(path, noisy)
  assert path.read_bytes() == written
  assert [file.name for file in tmp_path.iterdir()] == ['noise.npz']


@pytest.mark.fast
def test_a_source_without_truth_is_not_saved(tmp_path):
  with pytest.raises(ValueError, match='no truth'):
    noise.save(tmp_path / 'noise.npz', balanced(1))


@pytest.mark.fast
@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'flipped': None}, "no array 'flipped'"),
    ({'flipped': np.zeros(10, np.int8)}, r'flipped is int8 \(10,\)'),
    (
      {'abnormal': np.zeros(9, bool)},
      r'abnormal has shape \(9,\), not \(10,\)',
    ),
    ({'labels': np.zeros(10, int)}, 'flipped does not say'),
  ],
)
def test_a_damaged_file_is_told(tmp_path, change, message):
  arrays = {
    'labels': np.arange(10), 'true_labels': np.arange(10),
    'flipped': np.zeros(10, bool), 'abnormal': np.zeros(10, bool),
  } | change  # fmt: skip
  path = tmp_path / 'noise.npz'
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  with pytest.raises(DataError, match=message) as error:
    noise.load(path)
  assert str(path) in str(error.value)
