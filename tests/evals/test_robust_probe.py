"""The probe under attack, and both sides of the bound, where they are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import evals
from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError
from rrl_jax.evals import downstream_bound, robust_probe, transfer
from rrl_jax.evals import task as task_lib
from tests.evals import toy

KEY = jax.random.key(0)
# All runs have one number of images, which compiles what follows an attack
# once.
FEW = {'epsilon': 0.1, 'num_steps': 3, 'num_train': 48, 'num_examples': 80}
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


def measure(encoder, data, key=KEY, **kw):
  """What the evaluator yields; with ``FEW`` steps unless told."""
  return dict(robust_probe.evaluate(encoder, data, key=key, **{**FEW, **kw}))


def values(measured):
  return {
    name: value.value if isinstance(value, evals.Measurement) else value
    for name, value in measured.items()
  }


def run(encoder, data, key=KEY, **kw):
  """Values by name."""
  return values(measure(encoder, data, key, **kw))


def small_encoder(**kw):
  """The encoder of all runs whose subject is not the encoder."""
  return toy.encoder(**{'batch_size': 32, **kw})


@pytest.fixture(scope='module')
def measured():
  return measure(small_encoder(), toy.data())


@pytest.fixture(scope='module')
def found(measured):
  return values(measured)


@pytest.fixture(scope='module')
def alone():
  """Of the first task alone, and how often its encoder was traced."""
  encoder, traced = toy.counting(batch_size=32)
  return run(encoder, toy.first_task(), num_pictures=2), len(traced)


def test_each_task_has_its_numbers_and_the_accuracy_a_mean(measured, found):
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
  toy.assert_sound({n: m for n, m in measured.items() if 'figure' not in n})
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
    assert found[f'figure/bound_shift/{task}'].shape == (80,)
    assert found[f'figure/bound_shift/{task}'].mean() == pytest.approx(
      of('feature_shift')
    )
    assert found[f'figure/bound_loss_gap/{task}'].mean() == pytest.approx(
      of('adversarial_loss') - of('clean_loss'), rel=1e-4
    )


def linear(variables, images):
  features = images.reshape(images.shape[0], -1) @ variables['v']
  return features, features


def box_of_linear(variables, lower, upper):
  centre, radius = (upper + lower) / 2, (upper - lower) / 2
  flat = lambda x: x.reshape(x.shape[0], -1)
  centre = flat(centre) @ variables['v']
  radius = flat(radius) @ jnp.abs(variables['v'])
  return centre - radius, centre + radius


def linear_encoder(v):
  return evals.Encoder(
    linear,
    {'v': np.asarray(v, np.float32)},
    batch_size=80,
    feature_bounds=box_of_linear,
  )


def problem(rng, shape=(2, 3, 1), classes=2):
  """Classes told apart in part, every pixel in [0.3, 0.7]."""
  labels = rng.integers(0, classes, 80).astype(np.int32)
  prototypes = np.random.default_rng(5).random((classes, *shape))
  images = prototypes[labels] + rng.normal(0, 0.2, (80, *shape))
  images = 0.3 + 0.4 * np.clip(images, 0, 1)
  return Source(images.astype(np.float32), labels, tuple('abcdefg'[:classes]))


@pytest.fixture(scope='module')
def of_linear():
  """Runs of linear features with bounds, each done once."""
  done = {}

  def run_once(norm, units):
    """Weights ``[6, 4]``, all but the first ``units`` columns zero; values."""
    if (norm, units) not in done:
      rng = np.random.default_rng(0)
      v = rng.normal(size=(6, 4)) * (np.arange(4) < units)
      train, test = problem(rng), problem(rng)
      data = evals.EvalData(train, test, (evals.Task('t', train, test),))
      kw = {'norm': norm, 'step_size': 1.0, 'num_steps': 4, 'num_train': 80}
      done[norm, units] = v, measure(linear_encoder(v), data, **kw)
    return done[norm, units]

  return run_once


@pytest.mark.parametrize(
  ('norm', 'dual'),
  [
    ('linf', 1),
    ('l2', 2),
    pytest.param('l1', 'm', marks=pytest.mark.full),
  ],
)
def test_shift_of_one_linear_feature_is_its_closed_form(norm, dual, of_linear):
  v, found = of_linear(norm, 1)
  found = values(found)
  longest = np.abs(v).max() if dual == 'm' else np.linalg.norm(v[:, 0], dual)
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
  of_linear,
):
  # A convex function on a box is largest at a vertex.
  v, found = of_linear('linf', 4)
  found = values(found)
  vertices = 0.1 * np.array(list(itertools.product((-1, 1), repeat=6)))
  largest = np.linalg.norm(vertices @ v, axis=1).max()
  shift = found['figure/bound_shift/t']
  assert np.all(shift <= largest * (1 + 1e-5))
  assert shift.mean() > 0.8 * largest
  rise = found['bound/t/lipschitz'] * largest
  assert np.all(found['figure/bound_loss_gap/t'] <= rise)


def test_radius_zero_is_the_clean_accuracy_of_transfer(at_zero):
  # Whatever the key, both fit the same 48 examples.
  found, data = at_zero
  clean = dict(
    transfer.evaluate(
      small_encoder(),
      data,
      key=jax.random.key(9),
      num_train=48,
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


@pytest.fixture(scope='module')
def at_zero():
  """A run without a radius, on all that the other runs attack."""
  data = toy.data()
  tasks = [
    evals.Task(
      task.name, task.train, task.test.take(task_lib.choose_test(task, 80))
    )
    for task in data.tasks
  ]
  data = evals.EvalData(data.train, data.test, tuple(tasks))
  return run(small_encoder(), data, epsilon=0, num_examples=0), data


def test_further_radii_are_those_of_runs_of_their_own(at_zero):
  encoder, data = small_encoder(), toy.data()
  radii = [0, 0.1, 0.05, 0.025]
  measured = measure(encoder, data, step_size=0.06, epsilons=radii)
  found = values(measured)
  half = run(encoder, data, step_size=0.03, epsilon=0.05)
  clean, _ = at_zero
  for task in ('', 'one/', 'two/'):
    name = f'transfer/{task}linear_probe_pgd3_accuracy'
    assert found[f'{name}/epsilon=0'] == clean[name]
    assert found[f'{name}/epsilon=0.1'] == found[name]
    assert found[f'{name}/epsilon=0.05'] == half[name]
    assert found[name] < half[name] < clean[name]
  name = 'transfer/one/linear_probe_pgd3_accuracy/epsilon=0.025'
  said = measured[name].protocol
  assert 'radius 0.025 ' in said
  assert '3 steps of 0.015,' in said


@pytest.fixture(scope='module')
def three():
  """A run with three random starts, and how often its encoder was traced."""
  encoder, traced = toy.counting(batch_size=32)
  kw = {'num_steps': 1, 'num_restarts': 3, 'epsilons': [0.05]}
  return measure(encoder, toy.data(), **kw), len(traced)


def test_more_random_starts_find_no_less(three):
  measured, _ = three
  more = values(measured)
  one = run(small_encoder(), toy.data(), num_steps=1, epsilons=[0.05])
  fell = False
  for name, value in more.items():
    if '_accuracy' in name:
      assert value <= one[name]
      fell |= value < one[name]
  assert fell
  for task in ('one', 'two'):
    for name in ('bound_shift', 'bound_loss_gap'):
      rows, fewer = (f[f'figure/{name}/{task}'] for f in (more, one))
      assert np.all(rows >= fewer)
      assert np.mean(rows > fewer) > 0.2
    assert more[f'transfer/{task}/linear_probe_zero_epsilon_agreement'] == 1
  said = measured['transfer/one/linear_probe_pgd1_accuracy'].protocol
  assert '3 random starts, the worst of them counting' in said


def test_pictures_are_of_fooled_images_of_the_first_task(found, alone):
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
  fewer, _ = alone
  np.testing.assert_array_equal(fewer['figure/probe_examples_adv'], adv[:2])


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('units', [1, 4])
def test_certificate_of_linear_features_is_the_farthest_corner(
  norm, units, of_linear
):
  v, found = of_linear(norm, units)
  found = values(found)
  corner = 0.1 * np.linalg.norm(np.abs(v).sum(axis=0))
  of = lambda name: found[f'bound/t/{name}']
  assert of('certified_feature_shift') == pytest.approx(corner, rel=1e-4)
  assert of('certified_feature_shift') >= of('feature_shift')
  assert of('certified_bound') == pytest.approx(
    of('clean_loss') + of('lipschitz') * of('certified_feature_shift')
  )
  assert of('certified_bound') >= of('bound') >= of('adversarial_loss')
  assert of('certified_accuracy') <= of('margin_certificate_rate')
  assert (
    of('certified_accuracy') <= found['transfer/t/linear_probe_pgd4_accuracy']
  )
  if (units, norm) == (1, 'linf'):  # No corner is forgotten.
    assert of('certified_feature_shift') == pytest.approx(
      of('feature_shift'), rel=1e-4
    )
    assert 0 < of('certified_accuracy') == of('margin_certificate_rate')


def test_only_an_encoder_with_bounds_has_certificates(found, of_linear):
  assert not [name for name in found if 'certified' in name]
  _, found = of_linear('l2', 1)
  assert [name for name in found if 'certified' in name] == CERTIFIED
  for name in CERTIFIED:
    assert 'from the box that holds the l2 ball' in found[name].protocol
    assert 'times the mean shift that the attack found' in found[name].protocol


def test_the_box_of_an_image_ends_at_black_and_white():
  images = np.repeat([[0.0], [1.0]], 6, axis=1).reshape(2, 2, 3, 1)
  # Only one sign of weights can raise the feature at either end.
  encoder = linear_encoder([[1], [-1], [1], [-1], [1], [-1]])
  reach = downstream_bound.certifier(encoder)
  radius = np.full(2, 0.1, np.float32)
  found = encoder.map_batches(reach, images.astype(np.float32), radius)
  np.testing.assert_allclose(downstream_bound.length(found), 0.3, rtol=1e-5)


def test_protocol_says_radius_steps_and_clean_accuracy(measured):
  said = measured['transfer/one/linear_probe_pgd3_accuracy'].protocol
  for words in (
    'radius 0.1 ',
    '3 steps of 0.0833333',
    'clean accuracy of the same images 0.',
    'l2=0.0001',
    'on 48 frozen features',
    'n=80',
  ):
    assert words in said
  certified = measured['bound/one/margin_certificate_rate'].protocol
  assert 'upper estimate and no certificate' in certified


def test_numbers_do_not_depend_on_batches_or_devices(found, mesh):
  # Of 24 rows three lie on each device, and the last batch is filled up.
  other = run(small_encoder(batch_size=24, mesh=mesh), toy.data())
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


def test_units_of_the_features_change_no_bound(found):
  def scaled(variables, images):
    logits, features = toy.apply(variables, images)
    return logits, 100 * features + 3

  encoder = evals.Encoder(scaled, toy.variables(), batch_size=32)
  other = run(encoder, toy.first_task())
  for name, factor in (
    ('bound', 1),
    ('adversarial_loss', 1),
    ('feature_shift', 100),
    ('lipschitz', 0.01),
  ):
    want = factor * found[f'bound/one/{name}']
    assert other[f'bound/one/{name}'] == pytest.approx(want, rel=1e-2)


def test_a_shift_that_the_attack_missed_is_a_violation(rng):
  # To the right of an image its feature is ten times as steep: from a start on
  # the left the distance is climbed to the wrong end.
  centre = 0.5

  def kinked(variables, images):
    x = images.reshape(images.shape[0], -1)[:, :1] - centre
    local = x - jnp.round(x * 10) / 10  # Images are multiples of 0.1.
    feature = jnp.round(x * 10) + jnp.where(local > 0, 10 * local, local)
    features = jnp.pad(feature, ((0, 0), (0, 3)))
    return features, features

  tenths = rng.integers(3, 8, 80)
  images = (tenths / 10).astype(np.float32).reshape(-1, 1, 1, 1)
  labels = (tenths < 5).astype(np.int32)  # The loss rises to the right.
  source = Source(images, labels, ('right', 'left'))
  data = evals.EvalData(source, source, (evals.Task('t', source, source),))
  encoder = evals.Encoder(kinked, {}, batch_size=80)
  kw = {'epsilon': 0.04, 'num_steps': 6, 'l2': 0.1, 'num_train': 80}
  found = run(encoder, data, **kw)
  shift = found['figure/bound_shift/t']
  assert np.all((shift < 0.05) | (shift > 0.35))
  assert 0.2 < np.mean(shift < 0.05) < 0.8
  assert 0.1 < found['bound/t/violations'] < 0.6
  gap = found['figure/bound_loss_gap/t']
  violated = gap > found['bound/t/lipschitz'] * shift
  assert found['bound/t/violations'] == violated.mean()
  assert np.all(shift[violated] < 0.05)


def test_an_image_that_is_wrong_stays_wrong_though_noise_puts_it_right():
  def step(variables, images):
    feature = jnp.where(images.reshape(-1, 1) > 0.5, 1.0, 0.0)
    features = jnp.pad(feature, ((0, 0), (0, 3)))
    return features, features

  def source(pixels, labels):
    images = np.array(pixels, np.float32).reshape(-1, 1, 1, 1)
    return Source(images, np.array(labels, np.int32), ('low', 'high'))

  train = source([0.2, 0.8] * 40, [0, 1] * 40)
  test = source([0.5] * 80, [1] * 80)
  data = evals.EvalData(train, test, (evals.Task('t', train, test),))
  encoder = evals.Encoder(step, {}, batch_size=80)
  found = run(encoder, data, num_train=80)
  assert found['figure/bound_loss_gap/t'].min() < -1
  assert found['transfer/t/linear_probe_pgd3_accuracy'] == 0
  assert found['bound/t/margin_certificate_rate'] == 0


def test_collapsed_features_are_safe_and_useless():
  def constant(variables, images):
    logits, features = toy.apply(variables, images)
    return logits, 0 * features + 7

  data = toy.data()
  found = run(
    evals.Encoder(constant, toy.variables(), batch_size=32), data, num_steps=1
  )
  for task in data.tasks:
    chosen = task_lib.choose_training(task, 48)
    most = np.bincount(task.train.labels[chosen]).argmax()
    labels = task.test.labels[task_lib.choose_test(task, 80)]
    want = np.mean(labels == most)
    name = f'transfer/{task.name}/linear_probe_pgd1_accuracy'
    assert found[name] == want
    assert found[f'bound/{task.name}/margin_certificate_rate'] == want
    for name in ('lipschitz', 'feature_shift', 'violations', 'slack'):
      assert found[f'bound/{task.name}/{name}'] == 0


def test_tasks_and_radii_and_starts_share_what_is_compiled(alone, three):
  assert alone[1] == three[1] > 0


def test_another_task_behind_changes_no_number(found, alone):
  one, _ = alone
  for name in one:
    if '/one' in name:
      np.testing.assert_array_equal(found[name], one[name])


@pytest.mark.fast
def test_a_task_of_one_class_is_refused_before_any_work():
  data = toy.one_class_among_tasks()
  with pytest.raises(ConfigError, match='task single are all of class b') as e:
    run(evals.Encoder(toy.never, {}), data)
  assert '\n' not in str(e.value)


@pytest.mark.fast
def test_without_tasks_nothing_is_said():
  data = toy.data()
  assert run(toy.encoder(), evals.EvalData(data.train, data.test)) == {}


@pytest.mark.fast
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


@pytest.mark.fast
def test_evaluate_checks_its_own_arguments():
  with pytest.raises(ConfigError, match='num_steps=0'):
    run(toy.encoder(), toy.data(), num_steps=0)
