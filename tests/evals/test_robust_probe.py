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
PICTURES = (
  'figure/probe_epsilon',
  'figure/probe_examples_clean',
  'figure/probe_examples_adv',
  'figure/probe_examples_labels',
  'figure/probe_examples_clean_preds',
  'figure/probe_examples_adv_preds',
  'figure/probe_examples_class_names',
)
CERTIFIED = [
  f'bound/t/certified_{name}' for name in ('feature_shift', 'bound', 'accuracy')
]


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
    'bound/{}/margin_certificate_rate',
    'bound/{}/violations',
    'figure/bound_shift/{}',
    'figure/bound_loss_gap/{}',
  ]
  mean = 'transfer/linear_probe_pgd3_accuracy'
  one, two = ([n.format(task) for n in of_a_task] for task in ('one', 'two'))
  assert list(found) == [*one, *PICTURES, *two, mean]
  parts = [found[names[0]] for names in (one, two)]
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
  assert 0 < found['bound/t/margin_certificate_rate'] <= robust


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
    assert of('margin_certificate_rate') == value


def test_further_radii_are_those_of_runs_of_their_own(key):
  encoder, data = toy.encoder(batch_size=32), toy.data()
  found = run(encoder, data, key, step_size=0.06, epsilons=[0, 0.1, 0.05])
  half = run(encoder, data, key, step_size=0.03, epsilon=0.05)
  clean = run(encoder, data, key, epsilon=0)
  for task in ('', 'one/', 'two/'):
    name = f'transfer/{task}linear_probe_pgd3_accuracy'
    assert found[f'{name}/epsilon=0'] == clean[name]
    assert found[f'{name}/epsilon=0.1'] == found[name]
    assert found[f'{name}/epsilon=0.05'] == half[name]
    assert found[name] < half[name] < clean[name]
  said = dict(
    robust_probe.evaluate(
      encoder, data, key=key, **FEW, step_size=0.06, epsilons=[0.025]
    )
  )['transfer/one/linear_probe_pgd3_accuracy/epsilon=0.025'].protocol
  assert 'radius 0.025 ' in said
  assert '3 steps of 0.015,' in said


def test_more_random_starts_find_no_less(key):
  encoder, data = toy.encoder(), toy.data()
  one, three = (
    run(encoder, data, key, num_steps=1, num_restarts=n, epsilons=[0.05])
    for n in (1, 3)
  )
  fell = False
  for name, value in three.items():
    if '_accuracy' in name:
      assert value <= one[name]
      fell |= value < one[name]
  assert fell
  for task in ('one', 'two'):
    for name in ('bound_shift', 'bound_loss_gap'):
      more, less = (f[f'figure/{name}/{task}'] for f in (three, one))
      assert np.all(more >= less)
      assert np.mean(more > less) > 0.2
    assert three[f'transfer/{task}/linear_probe_zero_epsilon_agreement'] == 1
  said = dict(
    robust_probe.evaluate(encoder, data, key=key, **FEW, num_restarts=2)
  )['transfer/one/linear_probe_pgd3_accuracy'].protocol
  assert '2 random starts, the worst of them counting' in said


def test_pictures_are_of_fooled_images_of_the_first_task(found, key):
  clean, adv = (found[f'figure/probe_examples_{k}'] for k in ('clean', 'adv'))
  assert clean.shape == adv.shape == (6, *toy.SHAPE)
  assert np.all(np.abs(adv - clean) <= 0.1 + 1e-6)
  assert np.abs(adv - clean).max() > 0.05
  labels, before, after = (
    found[f'figure/probe_examples_{k}']
    for k in ('labels', 'clean_preds', 'adv_preds')
  )
  assert np.all((before == labels) & (after != labels))
  test = toy.data().tasks[0].test
  assert all(np.any(np.all(image == test.images, (1, 2, 3))) for image in clean)
  assert found['figure/probe_epsilon'] == 0.1
  fewer = run(toy.encoder(), toy.data(), key, num_pictures=2)
  np.testing.assert_array_equal(fewer['figure/probe_examples_adv'], adv[:2])


def box_of_linear(variables, lower, upper):
  centre, radius = (upper + lower) / 2, (upper - lower) / 2
  flat = lambda x: x.reshape(x.shape[0], -1)
  centre = flat(centre) @ variables['v']
  radius = flat(radius) @ jnp.abs(variables['v'])
  return centre - radius, centre + radius


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_certificate_of_linear_features_is_the_farthest_corner(norm, rng, key):
  for units in (1, 4):
    v = rng.normal(size=(6, units))
    encoder = linear_encoder(v, feature_bounds=box_of_linear)
    found = run(encoder, one_task(rng), key, norm=norm, num_steps=6)
    corner = 0.1 * np.linalg.norm(np.abs(v).sum(axis=0))
    of = lambda name, found=found: found[f'bound/t/{name}']
    assert of('certified_feature_shift') == pytest.approx(corner, rel=1e-4)
    assert of('certified_feature_shift') >= of('feature_shift')
    assert of('certified_bound') == pytest.approx(
      of('clean_loss') + of('lipschitz') * of('certified_feature_shift')
    )
    assert of('certified_bound') >= of('bound') >= of('adversarial_loss')
    assert of('certified_accuracy') <= of('margin_certificate_rate')
    assert (
      of('certified_accuracy') <= found['transfer/t/linear_probe_pgd6_accuracy']
    )
    if (units, norm) == (1, 'linf'):  # No corner is forgotten.
      assert of('certified_feature_shift') == pytest.approx(
        of('feature_shift'), rel=1e-4
      )
      assert 0 < of('certified_accuracy') == of('margin_certificate_rate')


def test_only_an_encoder_with_bounds_has_certificates(found, rng, key):
  assert not [name for name in found if 'certified' in name]
  encoder = linear_encoder(np.ones((6, 2)), feature_bounds=box_of_linear)
  few = {**FEW, 'norm': 'l2'}
  found = dict(robust_probe.evaluate(encoder, one_task(rng), key=key, **few))
  assert [name for name in found if 'certified' in name] == CERTIFIED
  for name in CERTIFIED:
    assert 'from the box that holds the l2 ball' in found[name].protocol
    assert 'times the mean shift that the attack found' in found[name].protocol


def test_the_box_of_an_image_ends_at_black_and_white(key):
  v = np.ones((6, 1))
  images = np.concatenate([np.zeros((30, 2, 3, 1)), np.ones((30, 2, 3, 1))])
  labels = np.repeat(np.array([0, 1], np.int32), 30)
  source = Source(images.astype(np.float32), labels, ('black', 'white'))
  data = evals.EvalData(source, source, (evals.Task('t', source, source),))
  encoder = linear_encoder(v, feature_bounds=box_of_linear)
  found = run(encoder, data, key)
  assert found['bound/t/certified_feature_shift'] == pytest.approx(
    0.6, rel=1e-5
  )


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
  certified = found['bound/one/margin_certificate_rate'].protocol
  assert 'upper estimate and no certificate' in certified


def test_numbers_do_not_depend_on_batches_or_devices(found, key, mesh):
  for kw in ({'batch_size': 7}, {'batch_size': 16, 'mesh': mesh}):
    other = run(toy.encoder(**kw), toy.data(), key)
    assert list(other) == list(found)
    for name, value in other.items():
      if name.endswith('class_names'):
        assert list(value) == list(found[name])
        continue
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
  assert found['bound/t/margin_certificate_rate'] == 0


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
    assert found[f'bound/{task}/margin_certificate_rate'] == want
    for name in ('lipschitz', 'feature_shift', 'violations', 'slack'):
      assert found[f'bound/{task}/{name}'] == 0


def test_tasks_of_one_shape_share_what_is_compiled(key):
  traced = []

  def apply(variables, images):
    traced.append(images.shape)
    return toy.apply(variables, images)

  data = toy.data()
  kw = {'epsilons': [0.05, 0.2], 'num_restarts': 2}
  run(evals.Encoder(apply, toy.variables()), data, key, **kw)
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
    ({'epsilons': (0.1, -0.1)}, r'epsilons=\(0.1, -0.1\) must be different'),
    ({'epsilons': (0.1, float('nan'))}, r'epsilons=\(0.1, nan\) must be diff'),
    ({'epsilons': [0.1, 0.1]}, r'epsilons=\[0.1, 0.1\] must be different'),
    ({'epsilons': 0.1}, r'epsilons=0.1 must be different numbers, at least 0'),
    ({'num_restarts': 0}, 'num_restarts=0 must be a whole number, at least 1'),
    ({'num_pictures': -1}, 'num_pictures=-1 must be a whole number'),
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
