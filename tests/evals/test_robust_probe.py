"""The probe under attack, and both sides of the bound, where they are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import evals
from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError
from rrl_jax.evals import robust_probe, transfer
from tests.evals import toy

FEW = {'epsilon': 0.1, 'num_steps': 3, 'num_examples': 64}


def run(encoder, data, key, **kw):
  """Values by name; with ``FEW`` steps unless told."""
  found = dict(robust_probe.evaluate(encoder, data, key=key, **{**FEW, **kw}))
  return {
    name: value.value if isinstance(value, evals.Measurement) else value
    for name, value in found.items()
  }


def linear(variables, images):
  features = images.reshape(images.shape[0], -1) @ variables['v']
  return features, features


def linear_encoder(v, **kw):
  return evals.Encoder(linear, {'v': np.asarray(v, np.float32)}, **kw)


def problem(rng, size=60, shape=(2, 3, 1), classes=3):
  """Classes told apart in part, every pixel in [0.3, 0.7]."""
  labels = rng.integers(0, classes, size).astype(np.int32)
  prototypes = np.random.default_rng(5).random((classes, *shape))
  images = prototypes[labels] + rng.normal(0, 0.2, (size, *shape))
  images = 0.3 + 0.4 * np.clip(images, 0, 1)
  return Source(images.astype(np.float32), labels, tuple('abcdefg'[:classes]))


def one_task(rng, **kw):
  train, test = problem(rng, 80, **kw), problem(rng, 40, **kw)
  return evals.EvalData(train, test, (evals.Task('t', train, test),))


@pytest.fixture(scope='module')
def found():
  return run(toy.encoder(), toy.data(), jax.random.key(0))


def test_each_task_has_its_numbers_and_the_accuracy_a_mean(found):
  of_a_task = [
    'transfer/{}/linear_probe_pgd3_accuracy',
    'transfer/{}/linear_probe_zero_epsilon_agreement',
    'bound/{}/clean_loss',
    'bound/{}/adversarial_loss',
    'bound/{}/feature_shift',
    'bound/{}/lipschitz',
    'bound/{}/bound',
    'bound/{}/slack',
    'bound/{}/certified_accuracy',
    'bound/{}/violations',
    'figure/bound_shift/{}',
    'figure/bound_loss_gap/{}',
  ]
  mean = 'transfer/linear_probe_pgd3_accuracy'
  names = [n.format(task) for task in ('one', 'two') for n in of_a_task]
  assert list(found) == [*names, mean]
  parts = [found[names[i]] for i in (0, len(of_a_task))]
  assert found[mean] == pytest.approx(np.mean(parts))
  for task in ('one', 'two'):
    assert found[f'transfer/{task}/linear_probe_zero_epsilon_agreement'] == 1
    of = lambda name, task=task: found[f'bound/{task}/{name}']
    assert of('adversarial_loss') > of('clean_loss')
    assert of('bound') == pytest.approx(
      of('clean_loss') + of('lipschitz') * of('feature_shift'), rel=1e-5
    )
    assert of('slack') == pytest.approx(of('bound') - of('adversarial_loss'))
    assert found[f'figure/bound_shift/{task}'].shape == (64,)
    assert found[f'figure/bound_shift/{task}'].mean() == pytest.approx(
      of('feature_shift')
    )
    assert found[f'figure/bound_loss_gap/{task}'].mean() == pytest.approx(
      of('adversarial_loss') - of('clean_loss'), rel=1e-4
    )


@pytest.mark.parametrize(
  ('norm', 'dual'), [('linf', 1), ('l2', 2), ('l1', 'm')]
)
def test_shift_of_one_linear_feature_is_its_closed_form(norm, dual, rng, key):
  v = rng.normal(size=(6, 1))
  longest = np.abs(v).max() if dual == 'm' else np.linalg.norm(v[:, 0], dual)
  found = run(
    linear_encoder(v),
    one_task(rng),
    key,
    norm=norm,
    step_size=1.0,
    num_steps=4,
  )
  np.testing.assert_allclose(
    found['figure/bound_shift/t'], 0.1 * longest, rtol=1e-5
  )
  assert found['bound/t/feature_shift'] == pytest.approx(
    0.1 * longest, rel=1e-5
  )
  # The inequality, image by image.
  rise = found['bound/t/lipschitz'] * 0.1 * longest
  assert np.all(found['figure/bound_loss_gap/t'] <= rise * (1 + 1e-5))
  assert found['figure/bound_loss_gap/t'].max() > 0.3 * rise
  assert found['bound/t/violations'] == 0
  assert found['bound/t/slack'] >= 0
  robust = found['transfer/t/linear_probe_pgd4_accuracy']
  assert 0 < found['bound/t/certified_accuracy'] <= robust


def test_shift_of_many_linear_features_is_nearly_that_of_the_best_vertex(
  rng, key
):
  # A convex function on a box is largest at a vertex.
  v = rng.normal(size=(6, 4))
  vertices = 0.1 * np.array(list(itertools.product((-1, 1), repeat=6)))
  largest = np.linalg.norm(vertices @ v, axis=1).max()
  found = run(linear_encoder(v), one_task(rng), key, num_steps=6)
  shift = found['figure/bound_shift/t']
  assert np.all(shift <= largest * (1 + 1e-5))
  assert shift.mean() > 0.8 * largest
  rise = found['bound/t/lipschitz'] * largest
  assert np.all(found['figure/bound_loss_gap/t'] <= rise)


def test_radius_zero_is_the_clean_accuracy_of_transfer(key):
  # Whatever the key, both fit the same 50 examples.
  encoder, data = toy.encoder(batch_size=32), toy.data()
  found = run(encoder, data, key, epsilon=0, num_train=50, num_examples=0)
  clean = dict(
    transfer.evaluate(
      encoder,
      data,
      key=jax.random.key(9),
      num_train=50,
      probes=('linear_probe',),
    )
  )
  for name in ('', 'one/', 'two/'):
    value = clean[f'transfer/{name}linear_probe_accuracy'].value
    assert found[f'transfer/{name}linear_probe_pgd3_accuracy'] == value
    assert value < 1
  for task in ('one', 'two'):
    of = lambda name, task=task: found[f'bound/{task}/{name}']
    assert of('adversarial_loss') == of('clean_loss') == of('bound')
    assert of('feature_shift') == of('slack') == of('violations') == 0
    value = clean[f'transfer/{task}/linear_probe_accuracy'].value
    assert of('certified_accuracy') == value


def test_protocol_says_radius_steps_and_clean_accuracy(key):
  encoder, data = toy.encoder(), toy.data()
  found = dict(robust_probe.evaluate(encoder, data, key=key, **FEW))
  said = found['transfer/one/linear_probe_pgd3_accuracy'].protocol
  for words in (
    'radius 0.1 ',
    '3 steps of 0.0833333',
    'clean accuracy of the same images 0.',
    'l2=0.0001',
    'on 150 frozen features',
    'n=64',
  ):
    assert words in said
  certified = found['bound/one/certified_accuracy'].protocol
  assert 'upper estimate and no certificate' in certified


def test_numbers_do_not_depend_on_batches_or_devices(found, key, mesh):
  for kw in ({'batch_size': 7}, {'batch_size': 16, 'mesh': mesh}):
    other = run(toy.encoder(**kw), toy.data(), key)
    assert list(other) == list(found)
    for name, value in other.items():
      np.testing.assert_allclose(
        value, found[name], rtol=1e-3, atol=1e-5, err_msg=name
      )
      if name.startswith('transfer/'):
        assert value == found[name]


def test_units_of_the_features_change_no_bound(found, key):
  def scaled(variables, images):
    logits, features = toy.apply(variables, images)
    return logits, 100 * features + 3

  other = run(evals.Encoder(scaled, toy.variables()), toy.data(), key)
  for name, factor in (
    ('bound', 1),
    ('adversarial_loss', 1),
    ('feature_shift', 100),
    ('lipschitz', 0.01),
  ):
    want = factor * found[f'bound/one/{name}']
    assert other[f'bound/one/{name}'] == pytest.approx(want, rel=1e-2)


def test_a_shift_that_the_attack_missed_is_a_violation(rng, key):
  # To the right of an image its feature is ten times as steep: from a start on
  # the left the distance is climbed to the wrong end.
  centre = 0.5

  def kinked(variables, images):
    x = images.reshape(images.shape[0], -1)[:, :1] - centre
    local = x - jnp.round(x * 10) / 10  # Images are multiples of 0.1.
    features = jnp.round(x * 10) + jnp.where(local > 0, 10 * local, local)
    return features, features

  tenths = rng.integers(3, 8, 80)
  images = (tenths / 10).astype(np.float32).reshape(-1, 1, 1, 1)
  labels = (tenths < 5).astype(np.int32)  # The loss rises to the right.
  source = Source(images, labels, ('right', 'left'))
  data = evals.EvalData(source, source, (evals.Task('t', source, source),))
  found = run(
    evals.Encoder(kinked, {}), data, key, epsilon=0.04, num_steps=6, l2=0.1
  )
  shift = found['figure/bound_shift/t']
  assert np.all((shift < 0.05) | (shift > 0.35))
  assert 0.2 < np.mean(shift < 0.05) < 0.8
  assert 0.1 < found['bound/t/violations'] < 0.6
  gap = found['figure/bound_loss_gap/t']
  violated = gap > found['bound/t/lipschitz'] * shift
  assert found['bound/t/violations'] == violated.mean()
  assert np.all(shift[violated] < 0.05)


def test_an_image_that_is_wrong_stays_wrong_though_noise_puts_it_right(key):
  def step(variables, images):
    features = jnp.where(images.reshape(-1, 1) > 0.5, 1.0, 0.0)
    return features, features

  def source(pixels, labels):
    images = np.array(pixels, np.float32).reshape(-1, 1, 1, 1)
    return Source(images, np.array(labels, np.int32), ('low', 'high'))

  train = source([0.2, 0.8], [0, 1])
  test = source([0.5] * 20, [1] * 20)
  data = evals.EvalData(train, test, (evals.Task('t', train, test),))
  found = run(evals.Encoder(step, {}), data, key)
  assert found['figure/bound_loss_gap/t'].min() < -1
  assert found['transfer/t/linear_probe_pgd3_accuracy'] == 0
  assert found['bound/t/certified_accuracy'] == 0


def test_collapsed_features_are_safe_and_useless(key):
  def constant(variables, images):
    zero = 0 * images.reshape(images.shape[0], -1)[:, :3]
    return zero, zero + 7.0

  found = run(
    evals.Encoder(constant, {}), toy.data(), key, num_steps=1, num_examples=0
  )
  for task, source in (
    ('one', toy.source(3, 150)),
    ('two', toy.source(5, 150)),
  ):
    most = np.bincount(source.labels).argmax()
    test = toy.data().tasks[('one', 'two').index(task)].test
    want = np.mean(test.labels == most)
    assert found[f'transfer/{task}/linear_probe_pgd1_accuracy'] == want
    assert found[f'bound/{task}/certified_accuracy'] == want
    for name in ('lipschitz', 'feature_shift', 'violations', 'slack'):
      assert found[f'bound/{task}/{name}'] == 0


def test_tasks_of_one_shape_share_what_is_compiled(key):
  traced = []

  def apply(variables, images):
    traced.append(images.shape)
    return toy.apply(variables, images)

  data = toy.data()
  run(evals.Encoder(apply, toy.variables()), data, key)
  both = len(traced)
  traced.clear()
  alone = evals.EvalData(data.train, data.test, data.tasks[:1])
  run(evals.Encoder(apply, toy.variables()), alone, key)
  assert both == len(traced)


def test_another_task_behind_changes_no_number(key):
  data = toy.data()
  alone = evals.EvalData(data.train, data.test, data.tasks[:1])
  both, one = (run(toy.encoder(), d, key, num_train=50) for d in (data, alone))
  for name in one:
    if '/one' in name:
      np.testing.assert_array_equal(both[name], one[name])


def test_a_task_of_one_class_is_refused_before_any_work(key):
  def apply(variables, images):
    raise AssertionError('worked')

  train = toy.source(3, 150)
  train = train.take(np.flatnonzero(train.labels == 1))
  task = evals.Task('single', train, toy.source(4, 90))
  data = toy.data()
  data = evals.EvalData(data.train, data.test, (data.tasks[0], task))
  with pytest.raises(ConfigError, match='task single are all of class b') as e:
    run(evals.Encoder(apply, {}), data, key)
  assert '\n' not in str(e.value)


def test_without_tasks_nothing_is_said(key):
  data = toy.data()
  assert run(toy.encoder(), evals.EvalData(data.train, data.test), key) == {}


@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'epsilon': -0.1}, r'epsilon=-0.1 must be at least 0'),
    ({'epsilon': '8/255'}, r"epsilon='8/255' must be at least 0"),
    ({'step_size': -1}, 'step_size=-1 must be None or at least 0'),
    ({'norm': 'l3'}, "norm='l3' must be one of linf, l2, l1"),
    ({'num_steps': 0}, 'num_steps=0 must be a whole number, at least 1'),
    ({'l2': -1}, 'l2=-1 must be at least 0'),
    ({'tol': 0}, 'tol=0 must be positive'),
    ({'num_train': -1}, 'num_train=-1 must be a whole number, at least 0'),
    ({'num_examples': 0.5}, 'num_examples=0.5 must be a whole number'),
    ({'svm_c': 1.0}, 'svm_c is unknown; keys: epsilon'),
  ],
)
def test_what_is_out_of_range_is_refused_before_training(kw, message):
  with pytest.raises(ConfigError, match=f'evals.robust_probe.{message}') as e:
    evals.check({'robust_probe': kw})
  assert '\n' not in str(e.value)


def test_evaluate_checks_its_own_arguments(key):
  with pytest.raises(ConfigError, match='num_steps=0'):
    run(toy.encoder(), toy.data(), jax.random.key(0), num_steps=0)
