"""Each evaluator counts what its name and its protocol say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from sklearn import neighbors, svm

from rrl_jax import errors, evals
from rrl_jax.data.source import Source
from rrl_jax.evals import features_map, knn, linear_probe, remix, shift
from tests.evals import toy


@pytest.fixture(scope='module')
def encoder():
  return toy.encoder(batch_size=64)


@pytest.fixture(scope='module')
def data():
  return toy.data()


def predicted(source):
  weights = toy.variables()
  features = np.tanh(source.images.reshape(len(source), -1) @ weights['v'])
  return np.argmax(features @ weights['w'], axis=-1)


def run(encoder, data, key, **config):
  return evals.run(encoder, data, config, key=key)


# One size of steps at every radius: one program.
PGD = {'step_size': 0.05, 'num_steps': 3, 'num_examples': 0}
COMMON = {
  'accuracy': {},
  'shift': {},
  'remix': {},
  'pgd': {'epsilon': 0.1, **PGD, 'num_pictures': 3},
}


@pytest.fixture(scope='module')
def common(encoder, data):
  """Measurements and figures of several evaluators."""
  return run(encoder, data, jax.random.key(0), **COMMON)


def test_accuracy_counts_by_concept(encoder, data, key):
  found, figures = run(encoder, data, key, accuracy={'train_examples': 0})
  right = predicted(data.test) == data.test.labels
  assert 0.5 < right.mean() < 1
  assert found['test/accuracy'].value == pytest.approx(right.mean(), abs=1e-12)
  by_concept = [right[data.test.concepts == k].mean() for k in range(3)]
  for k, name in enumerate(data.test.concept_names):
    assert found[f'test/accuracy/{name}'].value == pytest.approx(by_concept[k])
  assert found['test/worst_concept_accuracy'].value == min(by_concept)
  assert 'n=203' in found['test/accuracy'].protocol
  assert figures['figure/concept_test_counts'].sum() == 203
  assert 'train/accuracy' not in found


def test_train_accuracy_is_of_a_seeded_sample(encoder, data, key):
  found, _ = run(encoder, data, key, accuracy={'train_examples': 100})
  again, _ = run(encoder, data, key, accuracy={'train_examples': 100})
  assert found['train/accuracy'] == again['train/accuracy']
  assert 'n=100' in found['train/accuracy'].protocol


def test_a_concept_without_test_examples_is_left_out(encoder, data, key):
  test = data.test.take(np.flatnonzero(data.test.concepts != 1))
  found, _ = run(
    encoder,
    evals.EvalData(data.train, test),
    key,
    accuracy={'train_examples': 0},
    remix={},
  )
  assert 'test/accuracy/second' not in found
  assert found['test/worst_concept_accuracy'].value > 0
  assert 'in 2 parts' in found['test/balanced_concept_accuracy'].protocol


def test_numbers_do_not_depend_on_batches_or_devices(common, data, key, mesh):
  # Of 24 rows three lie on each device, and the last batch is filled up.
  other, _ = run(toy.encoder(batch_size=24, mesh=mesh), data, key, **COMMON)
  # How much of the set the sanity check covers is one batch.
  agreement = 'test/pgd3_zero_epsilon_agreement'
  one, many = dict(common[0]), dict(other)
  assert one.pop(agreement).value == many.pop(agreement).value == 1
  assert one == many


add_noise = jax.jit(shift.add_noise)


def test_noise_belongs_to_the_example(key):
  images, ids = np.full((64, 16, 16, 1), 0.5, np.float32), np.arange(64)
  noisy = add_noise(images, ids, key=key, sigma=0.1)
  other = add_noise(images, ids + 2, key=key, sigma=0.1)
  np.testing.assert_array_equal(noisy[2:], other[:-2])
  assert not np.allclose(noisy[0], noisy[1])


def test_noise_has_its_sigma_and_stays_in_bounds(key):
  images, ids = np.full((64, 16, 16, 1), 0.5, np.float32), np.arange(64)
  noisy = np.asarray(add_noise(images, ids, key=key, sigma=0.1))
  np.testing.assert_allclose(np.std(noisy), 0.1, rtol=0.02)
  noisy = np.asarray(add_noise(images, ids, key=key, sigma=5.0))
  assert noisy.min() == 0
  assert noisy.max() == 1


@pytest.mark.fast
def test_blur_equals_scipy(rng):
  from scipy import ndimage

  images = rng.random((2, 9, 7, 3)).astype(np.float32)
  want = ndimage.gaussian_filter(
    images.astype(np.float64), (0, 1.3, 1.3, 0), mode='nearest', radius=4
  )
  found = shift.blur(jnp.asarray(images), sigma=1.3)
  np.testing.assert_allclose(found, want, atol=1e-5)


def test_coarsen_keeps_constants_and_loses_detail():
  flat = np.full((8, 8, 1), 0.3, np.float32)
  checkerboard = (np.indices((8, 8)).sum(0)[..., None] % 2).astype(np.float32)
  coarse = np.asarray(
    shift.coarsen(jnp.asarray([flat, checkerboard]), rows=4, cols=4)
  )
  np.testing.assert_allclose(coarse[0], flat, atol=1e-6)
  assert np.std(coarse[1]) < 0.1 * np.std(checkerboard)


def test_shift_without_change_is_clean_accuracy(encoder, data, key):
  found, _ = run(
    encoder,
    data,
    key,
    shift={'noise_sigma': 0.0, 'blur_sigma': 0.01, 'resolution': 1.0},
    accuracy={},
  )
  for name in ('noise', 'blur', 'low_resolution'):
    assert found[f'test/{name}_accuracy'].value == found['test/accuracy'].value


def test_remix_of_the_test_mix_itself_is_clean_accuracy(encoder, data, key):
  same = evals.EvalData(train=data.test, test=data.test)
  found, _ = run(
    encoder,
    same,
    key,
    accuracy={},
    remix={'total_variation': 0.0},
  )
  for name in ('train_mix', 'worst_mix'):
    assert found[f'test/{name}_accuracy'].value == pytest.approx(
      found['test/accuracy'].value
    )
  found, _ = run(
    encoder, same, key, accuracy={}, remix={'total_variation': 1.0}
  )
  worst = found['test/worst_concept_accuracy']
  np.testing.assert_allclose(
    found['test/worst_mix_accuracy'][:3], worst[:3], rtol=1e-12
  )


@pytest.mark.fast
def test_worst_mix_equals_a_linear_program(rng):
  for _ in range(20):
    accuracies, mix = rng.random(5), rng.dirichlet(np.ones(5))
    radius = rng.uniform(0, 1)
    # Variables q and t >= |q - mix|, with sum t <= 2 radius.
    eye = np.eye(5)
    solved = optimize.linprog(
      np.concatenate([accuracies, np.zeros(5)]),
      A_ub=np.block(
        [[eye, -eye], [-eye, -eye], [np.zeros((1, 5)), np.ones((1, 5))]]
      ),
      b_ub=np.concatenate([mix, -mix, [2 * radius]]),
      A_eq=np.concatenate([np.ones((1, 5)), np.zeros((1, 5))], axis=1),
      b_eq=[1],
    )
    found = remix.worst_mix(accuracies, mix, radius)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(), 1)
    np.testing.assert_allclose(found @ accuracies, solved.fun, atol=1e-9)


@pytest.mark.fast
def test_reversed_mix_does_not_depend_on_order(rng):
  mix = np.array([0.4, 0.1, 0.1, 0.25, 0.15])
  order = rng.permutation(5)
  np.testing.assert_allclose(
    remix.reversed_mix(mix[order]), remix.reversed_mix(mix)[order]
  )
  np.testing.assert_allclose(
    remix.reversed_mix([0.7, 0.1, 0.2]), [0.1, 0.7, 0.2]
  )
  np.testing.assert_allclose(remix.reversed_mix([0.25] * 4), [0.25] * 4)


def test_pgd_hurts_more_the_larger_the_radius(common, encoder, data, key):
  found = {0.1: common}
  for epsilon in (0.0, 0.02):
    found[epsilon] = run(encoder, data, key, pgd={'epsilon': epsilon, **PGD})
  for epsilon, (measured, figures) in found.items():
    assert measured['test/pgd3_zero_epsilon_agreement'].value == 1
    difference = (
      figures['figure/examples_adv'] - figures['figure/examples_clean']
    )
    assert np.abs(difference).max() <= epsilon + 1e-6
    few = 3 if epsilon == 0.1 else 6
    assert len(figures['figure/examples_labels']) == few
  values = {
    epsilon: measured['test/pgd3_accuracy'].value
    for epsilon, (measured, _) in found.items()
  }
  assert values[0.0] == common[0]['test/accuracy'].value
  assert values[0.0] > values[0.02] > values[0.1]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_pgd_does_not_depend_on_a_factor_of_the_logits(key, dtype):
  rng = np.random.default_rng(2)
  images = rng.random((300, 4, 4, 1), np.float32)
  w = rng.normal(size=(16, 3)).astype(np.float32)
  truth = (images.reshape(-1, 16) @ w).argmax(axis=1)
  source = Source(images, truth, ('a', 'b', 'c'))

  def apply(variables, x):  # One program for all factors.
    features = x.reshape(len(x), -1).astype(dtype)
    factor, head = variables
    return factor * (features @ head), features

  base = evals.Encoder(apply, None, batch_size=100)
  found = []
  for factor in (1e-3, 1.0, 37.0, 4e3):
    weights = jnp.asarray(factor, dtype), jnp.asarray(w, dtype)
    measured, _ = evals.run(
      base.with_variables(weights),
      evals.EvalData(source, source),
      {'pgd': {'epsilon': 0.15, 'num_steps': 5}},
      key=key,
    )
    assert measured['test/pgd5_zero_gradient'].value == 0
    found.append(measured['test/pgd5_accuracy'].value)
  assert np.ptp(found) <= 0.02
  assert 0.2 < found[1] < 0.8


def test_images_without_a_gradient_are_counted(key):
  images = np.random.default_rng(3).random((40, 2, 2, 1), np.float32)
  truth = (images[:, 0, 0, 0] > 0.5).astype(np.int32)
  source = Source(images, truth, ('dark', 'light'))

  def apply(variables, x):  # Half of the images sit where a step is flat.
    features = x.reshape(len(x), -1)
    steps = jnp.where(features[:, :1] > 0.5, 1.0, features[:, :1])
    return jnp.concatenate([1.2 - steps, steps], axis=1), features

  encoder = evals.Encoder(apply, {}, batch_size=40)
  measured, _ = evals.run(
    encoder,
    evals.EvalData(source, source),
    {'pgd': {'epsilon': 0.05, 'num_steps': 2}},
    key=key,
  )
  np.testing.assert_allclose(
    measured['test/pgd2_zero_gradient'].value, truth.mean()
  )
  said = measured['test/pgd2_accuracy'].protocol
  assert f'{truth.sum()} of 40 have no gradient' in said


def test_pgd_pictures_show_fooled_examples_of_different_concepts(common):
  _, figures = common
  labels = figures['figure/examples_labels']
  np.testing.assert_array_equal(figures['figure/examples_clean_preds'], labels)
  assert np.all(figures['figure/examples_adv_preds'] != labels)
  assert len(set(np.minimum(labels, 2))) == 3


def test_knn_equals_scikit_learn(rng):
  train, queries = rng.normal(size=(90, 6)), rng.normal(size=(300, 6))
  labels = rng.integers(0, 4, 90)
  for k in (1, 7):
    model = neighbors.KNeighborsClassifier(k, metric='cosine')
    want = model.fit(train, labels).predict(queries)
    found = knn.predict(
      train.astype(np.float32),
      labels,
      queries.astype(np.float32),
      num_classes=4,
      k=k,
      chunk_size=128,
    )
    np.testing.assert_array_equal(found, want)


def test_knn_takes_fewer_neighbours_than_asked_where_there_are_fewer(rng):
  train = rng.normal(size=(3, 2)).astype(np.float32)
  found = knn.predict(train, np.array([1, 1, 0]), train, num_classes=2, k=20)
  np.testing.assert_array_equal(found, [1, 1, 1])


def test_transfer_gives_each_task_and_the_mean(encoder, data, key):
  found, _ = run(encoder, data, key, transfer={'k': 5, 'num_train': 48})
  assert len(found) == 9
  for probe in ('linear_probe', 'svm', 'knn'):
    one, two = (
      found[f'transfer/{task}/{probe}_accuracy'] for task in ('one', 'two')
    )
    mean = found[f'transfer/{probe}_accuracy']
    assert mean.value == pytest.approx((one.value + two.value) / 2)
    assert one.value > 0.5
    assert mean.high - mean.low < one.high - one.low
  assert 'l2=0.0001' in found['transfer/linear_probe_accuracy'].protocol
  assert '5 nearest' in found['transfer/knn_accuracy'].protocol


def test_transfer_is_what_scikit_learn_finds_on_the_same_features(
  encoder, data, key
):
  found, _ = run(encoder, data, key, transfer={'probes': ('svm',)})
  task = data.tasks[0]
  train, test = linear_probe.standardise(
    encoder.predict(task.train.images)[1], encoder.predict(task.test.images)[1]
  )
  model = svm.LinearSVC(dual='auto', random_state=0)
  model.fit(train, task.train.labels)
  names = [f'transfer/{x}svm_accuracy' for x in ('one/', 'two/', '')]
  assert list(found) == names
  assert found['transfer/one/svm_accuracy'].value == pytest.approx(
    model.score(test, task.test.labels)
  )


def test_transfer_says_how_many_examples_it_fits(encoder, data, key):
  found, _ = run(
    encoder, data, key, transfer={'num_train': 48, 'probes': ('knn',)}
  )
  protocol = found['transfer/one/knn_accuracy'].protocol
  assert '48 training and 90 test images' in protocol


@pytest.mark.fast
def test_transfer_without_tasks_says_nothing(encoder, data, key):
  found, figures = run(
    encoder, evals.EvalData(data.train, data.test), key, transfer={}
  )
  assert (found, figures) == ({}, {})


@pytest.mark.fast
def test_map_preserves_distances_of_a_plane(rng):
  plane = rng.normal(size=(30, 2)) * [3, 1]
  axes, _ = np.linalg.qr(rng.normal(size=(9, 2)))
  points, explained = features_map.principal_components(plane @ axes.T + 5)
  distances = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)
  np.testing.assert_allclose(distances(points), distances(plane), atol=1e-9)
  np.testing.assert_allclose(explained.sum(), 1)


@pytest.mark.fast
def test_map_of_one_dimension_has_a_flat_second_axis():
  line = np.array([[1.0], [3.0]])
  points, explained = features_map.principal_components(line)
  np.testing.assert_allclose(points, [[-1, 0], [1, 0]])
  np.testing.assert_allclose(explained, [1, 0])


def test_figures_of_the_map_belong_together(encoder, data, key):
  _, figures = run(encoder, data, key, features_map={'num_examples': 50})
  assert figures['figure/map'].shape == (50, 2)
  assert figures['figure/map_labels'].shape == (50,)
  assert figures['figure/map_class_names'].tolist() == list('abcde')
  index = figures['figure/map_index']
  np.testing.assert_array_equal(
    data.test.labels[index], figures['figure/map_labels']
  )
  assert 'figure/map_fine' not in figures
  assert 'figure/map_groups' not in figures


def test_the_map_tells_fine_classes_and_groups_where_there_are_some(
  encoder, data, key
):
  test = dataclasses.replace(
    data.test,
    labels=data.test.labels > 2,
    class_names=('low', 'high'),
    fine_labels=data.test.labels,
    fine_names=data.test.class_names,
    groups=np.arange(len(data.test)) % 2,
    group_names=('even', 'odd'),
  )
  coarse = dataclasses.replace(data, test=test)
  _, figures = run(encoder, coarse, key, features_map={'num_examples': 50})
  index = figures['figure/map_index']
  for name, ids, names in (
    ('labels', test.labels, 'class_names'),
    ('fine', test.fine_labels, 'fine_names'),
    ('groups', index % 2, 'group_names'),
  ):
    ids = ids if name == 'groups' else ids[index]
    np.testing.assert_array_equal(figures[f'figure/map_{name}'], ids)
    assert figures[f'figure/map_{names}'].tolist() == list(getattr(test, names))


def test_an_evaluator_more_does_not_change_the_others(encoder, data, key):
  sample = {'train_examples': 100}
  alone, _ = run(encoder, data, key, accuracy=sample)
  beside, _ = run(encoder, data, key, remix={}, accuracy=sample)
  assert {k: beside[k] for k in alone} == alone


@pytest.mark.fast
@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'accuracys': {}}, 'evals.accuracys is unknown; evaluators: accuracy'),
    ({'encoder': {}}, 'evals.encoder is unknown'),
    (
      {'shift': {'sigma': 1}},
      'shift.sigma is unknown; keys: noise_sigma',
    ),
    ({'pgd': {'key': 1}}, 'evals.pgd.key is unknown'),
    ({'pgd': {'norm': 'l3'}}, "norm='l3' must be one of linf, l2, l1"),
    ({'remix': {'total_variation': 2}}, 'must be in'),
    ({'shift': {'resolution': 0}}, r'resolution=0 must be in \(0, 1\]'),
    ({'shift': {'noise_sigma': 'big'}}, "noise_sigma='big' must be at least 0"),
    ({'transfer': {'k': 0}}, 'k=0 must be a whole number, at least 1'),
    (
      {'transfer': {'probes': ('mlp',)}},
      'must be some of linear_probe, svm, knn',
    ),
  ],
)
def test_what_does_not_exist_is_refused_in_one_line(config, message):
  with pytest.raises(errors.ConfigError, match=message) as error:
    evals.check(config)
  assert '\n' not in str(error.value)


# Costly evaluators, whose own tests ask for sound measurements.
APART = {'adversarial_probe', 'auto_attack', 'fine_tune', 'robust_probe'}
NEEDY = {name for name in evals.names() if hasattr(evals.get(name), 'REQUIRES')}


def test_all_measurements_are_numbers_within_their_intervals(data, key):
  config = {n: {} for n in evals.names() if n not in NEEDY | APART}
  config['pgd'] = {'num_steps': 2}
  config['transfer'] = {'num_train': 48}
  one = {'names': ('contrast',), 'severities': (1,), 'num_examples': 16}
  config['corruption'] = one
  found, figures = evals.run(
    toy.trainable(batch_size=64), data, config, key=key
  )
  toy.assert_sound(found)
  assert all(name.startswith('figure/') for name in figures)
  assert all(x.dtype.kind != 'O' for x in figures.values())
  assert jax.process_index() == 0


@pytest.mark.full
def test_all_evaluators_go_together(data, key):
  config = {n: {} for n in evals.names() if n not in NEEDY}
  config['pgd'] = config['robust_probe'] = {'num_steps': 2}
  few = {'attacks': ('apgd-ce',), 'num_steps': 2, 'num_examples': 8}
  config['auto_attack'] = few
  config['adversarial_probe'] = config['fine_tune'] = {
    'num_steps': 2,
    'train_steps': 2,
    'epochs': 1,
  }
  one = {'names': ('contrast',), 'severities': (1,), 'num_examples': 16}
  config['corruption'] = one
  found, figures = evals.run(
    toy.trainable(batch_size=64), data, config, key=key
  )
  toy.assert_sound(found)
  assert all(name.startswith('figure/') for name in figures)
  assert all(x.dtype.kind != 'O' for x in figures.values())
