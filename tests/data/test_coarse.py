import numpy as np
import pytest

from rrl_jax import data
from rrl_jax.data import cifar100, coarse, concepts, noise, source
from rrl_jax.errors import ConfigError, DataError

CIFAR10 = (
  'airplane', 'automobile', 'bird', 'cat', 'deer',
  'dog', 'frog', 'horse', 'ship', 'truck',
)  # fmt: skip


def splits_of(names, each=6, hierarchy=None):
  """Pixel value = fine class; ``each`` examples of it in both splits."""
  labels = np.tile(np.arange(len(names)), each)
  images = np.broadcast_to(labels[:, None, None, None], (len(labels), 2, 2, 1))
  made = source.Source(images.astype(np.uint8), labels, tuple(names))
  if hierarchy is not None:
    group_of, group_names = hierarchy
    made = source.Source(
      made.images, labels, names, np.asarray(group_of)[labels], group_names
    )
  return source.Splits(made, made)


def coarsened(whole, text, *, classes='', by='class'):
  selected = concepts.select(whole, classes=classes, concepts=by)
  return coarse.apply(selected, text, whole=whole, concepts=by)


@pytest.mark.fast
def test_labels_become_coarse_and_the_fine_ones_stay():
  whole = splits_of('abcdef')
  for split in coarsened(whole, 'x=e,1 y=0,2,3 f'):
    assert split.class_names == split.concept_names == ('x', 'y', 'f')
    assert split.fine_names == tuple('abcdef')
    fine = split.images[:, 0, 0, 0]
    np.testing.assert_array_equal(split.fine_labels, fine)
    np.testing.assert_array_equal(
      split.labels, np.array([1, 0, 1, 1, 0, 2])[fine]
    )
    np.testing.assert_array_equal(split.concepts, split.labels)


@pytest.mark.fast
def test_without_a_map_nothing_changes():
  whole = splits_of('abc')
  assert coarsened(whole, '')[0].fine_labels is None


@pytest.mark.fast
def test_selected_classes_keep_the_numbers_of_the_set_and_their_alignment():
  whole = splits_of('abcdef')
  train, _ = coarsened(whole, 'x=0-2 y=3 z=4,5', classes='1,2,4', by='fine')
  assert train.class_names == ('x', 'z')  # No class of y is kept.
  assert train.fine_names == train.concept_names == ('b', 'c', 'e')
  was = train.images[:, 0, 0, 0]
  np.testing.assert_array_equal(np.array([1, 2, 4])[train.fine_labels], was)
  np.testing.assert_array_equal(train.concepts, train.fine_labels)
  np.testing.assert_array_equal(train.labels, was // 4)
  some = train.take(np.array([5, 0, 7]))
  np.testing.assert_array_equal(some.fine_labels, train.fine_labels[[5, 0, 7]])
  assert some.fine_names == train.fine_names


@pytest.mark.fast
def test_concepts_by_hand_are_of_fine_classes():
  train, _ = coarsened(splits_of('abcd'), 'x=0,1 y=2,3', by='p=0,2 q=1,3')
  assert train.class_names == ('x', 'y')
  assert train.concept_names == ('p', 'q')
  np.testing.assert_array_equal(train.concepts, train.fine_labels % 2)


@pytest.mark.fast
def test_a_coarse_class_may_have_one_fine_class():
  train, _ = coarsened(splits_of('abc'), 'x=0 y=1,2')
  np.testing.assert_array_equal(np.bincount(train.labels), [6, 12])


@pytest.mark.fast
@pytest.mark.parametrize('names', [CIFAR10, tuple('0123456789')])
def test_the_map_of_cifar10_fits_names_and_numbers(names):
  train, _ = coarsened(splits_of(names), 'cifar10')
  assert train.class_names == ('animals', 'vehicles')
  vehicles = np.isin(train.fine_labels, [0, 1, 8, 9])
  np.testing.assert_array_equal(train.labels, vehicles)


@pytest.mark.fast
@pytest.mark.parametrize(
  'names', [cifar100.FINE, tuple(str(k) for k in range(100))]
)
def test_the_map_of_cifar100_fits_names_and_numbers(names):
  train, _ = coarsened(splits_of(names, 1), 'cifar100')
  assert train.class_names == tuple(cifar100.SUPERCLASSES)
  for fine, label in enumerate(train.labels):
    members = cifar100.SUPERCLASSES[train.class_names[label]]
    assert cifar100.FINE[fine] in members


@pytest.mark.fast
def test_each_map_has_every_class_once():
  for name, groups in coarse.MAPS.items():
    members = [c for group in groups.values() for c in group]
    assert len(members) == len(set(members)) == (100 if '100' in name else 10)


@pytest.mark.fast
def test_a_map_fits_a_set_of_some_of_its_classes():
  train, _ = coarsened(splits_of(('ship', 'cat', 'dog')), 'cifar10')
  np.testing.assert_array_equal(np.bincount(train.labels), [12, 6])
  train, _ = coarsened(splits_of(tuple('35789')), 'mnist')
  np.testing.assert_array_equal(train.labels[:5], [0, 1, 1, 1, 1])


def test_digits_bring_below_five_and_the_rest():
  train, test = data.load('digits', coarse='source', concepts='fine')
  for split in (train, test):
    assert split.class_names == ('0-4', '5-9')
    np.testing.assert_array_equal(split.labels, split.fine_labels >= 5)
  by_hand, _ = data.load('digits', coarse='0-4 5-9')
  np.testing.assert_array_equal(by_hand.labels, train.labels)
  grouped, _ = data.load('digits', concepts='coarse')
  assert grouped.fine_labels is None
  np.testing.assert_array_equal(grouped.concepts, train.labels)


@pytest.mark.fast
def test_a_hierarchy_in_the_set_comes_before_a_known_map():
  whole = splits_of(tuple('0123'), hierarchy=([0, 1, 1, 0], ('p', 'q')))
  train, _ = coarsened(coarse.of_source(whole, 'digits', {}), 'source')
  assert train.class_names == ('p', 'q')
  np.testing.assert_array_equal(train.labels[:4], [0, 1, 1, 0])


@pytest.mark.fast
def test_sets_of_tensorflow_datasets_are_known_by_name():
  whole = splits_of(CIFAR10)
  for name in ('cifar10', 'cifar10:3.0.2', 'cifar10_corrupted/fog_3:1.0.0'):
    known = coarse.of_source(whole, 'tfds', {'data_set': name})
    assert known.train.concept_names == ('animals', 'vehicles')
  assert coarse.of_source(whole, 'tfds', {'data_set': 'stl10'}) is whole
  assert coarse.of_source(whole, 'npz', {'path': 'cifar10'}) is whole


@pytest.mark.fast
def test_imbalance_of_fine_classes_thins_training_only():
  kw = {'coarse': 'source', 'concepts': 'fine'}
  plain = data.load('digits', **kw)
  text = '1,1,1,1,1,1,1,1,0.05,1'
  train, test = data.load('digits', **kw, imbalance=text)
  expected = plain.train.concept_counts.copy()
  expected[8] = round(0.05 * expected[8])
  np.testing.assert_array_equal(train.concept_counts, expected)
  np.testing.assert_array_equal(np.bincount(train.fine_labels), expected)
  np.testing.assert_array_equal(test.fine_labels, plain.test.fine_labels)


@pytest.mark.fast
def test_noise_flips_coarse_labels_and_fine_ones_stay_true():
  damage = {'kind': 'symmetric', 'rate': 0.25, 'seed': 3}
  train, _ = data.load('digits', coarse='source', concepts='fine', noise=damage)
  true = train.fine_labels >= 5
  np.testing.assert_array_equal(train.truth.labels, true)
  np.testing.assert_array_equal(train.truth.flipped, train.labels != true)
  assert abs(train.truth.flipped.mean() - 0.25) < 0.001
  np.testing.assert_array_equal(train.concepts, train.fine_labels)


@pytest.mark.fast
def test_the_truth_of_a_noisy_set_is_merged_too():
  """A flip inside a coarse class is none; fine labels are the true ones."""
  whole = splits_of('abcd', 200)
  noisy = whole._replace(
    train=noise.flip(whole.train, kind='symmetric', rate=0.6, seed=0)
  )
  train, _ = coarsened(noisy, 'x=0,1 y=2,3')
  true = train.images[:, 0, 0, 0]
  np.testing.assert_array_equal(train.fine_labels, true)
  np.testing.assert_array_equal(train.truth.labels, true // 2)
  np.testing.assert_array_equal(train.labels, noisy.train.labels // 2)
  assert abs(train.truth.flipped.mean() - 0.4) < 0.05


@pytest.mark.fast
@pytest.mark.parametrize(
  ('text', 'by', 'message'),
  [
    ('', 'fine', "data.concepts='fine': there are no coarse labels"),
    ('source', 'class', "data.coarse='source': this set brings no hierarchy"),
    ('x=0,1', 'class', "data.coarse='x=0,1': in no group: c, d"),
    ('x=0,1 y=1-3', 'class', "data.coarse=.*class 'b' is in 'x' and in 'y'"),
    ('x=0-9', 'class', "data.coarse='x=0-9': no class '9'"),
    ('nonsense', 'class', "data.coarse='nonsense': no class 'nonsense'"),
    ('cifar10', 'class', "data.coarse='cifar10': in no group: a, b, c, d"),
  ],
)
def test_an_unusable_map_is_told_in_one_line(text, by, message):
  with pytest.raises(ConfigError, match=message) as error:
    coarsened(splits_of('abcd'), text, by=by)
  assert '\n' not in str(error.value)


@pytest.mark.fast
def test_a_hierarchy_with_a_class_in_two_places_is_no_map():
  whole = splits_of('abcd')
  torn = source.Source(
    whole.train.images,
    whole.train.labels,
    tuple('abcd'),
    np.arange(24) // 12,
    ('p', 'q'),
  )
  with pytest.raises(DataError, match="class 'a' lies in two places"):
    coarsened(source.Splits(torn, torn), 'source')


@pytest.mark.fast
def test_an_image_of_another_source_gets_a_fine_label_of_its_class():
  train, _ = data.load(
    'digits',
    coarse='source',
    abnormal={'kind': 'source', 'rate': 0.5, 'name': 'mock'},
  )
  assert train.truth.abnormal.sum() > 500
  np.testing.assert_array_equal(train.labels, train.fine_labels >= 5)
