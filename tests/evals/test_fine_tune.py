"""Fine-tuning against attacks, where the best network is known."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
import numpy as np
import pytest

from rrl_jax import attacks, evals
from rrl_jax.errors import ConfigError
from rrl_jax.evals import adversarial_probe, fine_tune
from tests.evals import toy

KEY = jax.random.key(0)
FEW = {
  'epsilon': 0.1,
  'num_steps': 3,
  'train_steps': 2,
  'epochs': 2,
  'batch_size': 24,
  'num_train': 48,
  'num_examples': 64,
}
ALL = {'num_examples': 0, 'num_train': 0, 'batch_size': 100}
LONG = {**ALL, 'train_steps': 3, 'lr': 0.3, 'epochs': 30}
NAME = 'transfer/{}fine_tuning{}_accuracy'


def measure(encoder, data, key=KEY, **kw):
  return dict(fine_tune.evaluate(encoder, data, key=key, **{**FEW, **kw}))


def run(encoder, data, key=KEY, **kw):
  found = measure(encoder, data, key, **kw)
  return {name: m.value for name, m in found.items()}


def counting(**kw):
  """An encoder and the shapes that its network was traced for."""
  traced = []

  def network(params, model_state, images, *, train):
    traced.append(images.shape)
    return toy.network(params, model_state, images, train=train)

  return toy.trainable(network, **kw), traced


@pytest.fixture(scope='module')
def measured():
  return measure(toy.trainable(batch_size=16), toy.data())


@pytest.fixture(scope='module')
def at_zero():
  """Of two tasks, without a radius; and how often its network was traced."""
  encoder, traced = counting(batch_size=32)
  return run(encoder, toy.data(), epsilon=0, num_examples=0), len(traced)


@pytest.fixture(scope='module')
def alone():
  """Of one task, on eight devices; and how often its network was traced."""
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  encoder, traced = counting(batch_size=16, mesh=mesh)
  return run(encoder, toy.first_task()), len(traced)


def one_feature(params, model_state, images, *, train):
  """A weighted sum of the pixels."""
  centred = images.reshape(images.shape[0], -1) - 0.5
  features = centred @ params['v']
  return (features, {'features': features}), model_state


def test_it_moves_the_encoder_to_what_an_attack_cannot_turn(rng):
  data, best = toy.one_robust_task(rng)
  # The encoder sees the near pixel alone.
  params = {'v': np.array([[0.0], [3.0]], np.float32)}
  kept = params['v'].copy()
  encoder = toy.trainable(one_feature, params)
  tuned = run(encoder, data, **LONG)
  assert tuned[NAME.format('t/', '_pgd3')] == best
  assert tuned[NAME.format('t/', '')] == best
  np.testing.assert_array_equal(encoder.variables[0]['v'], kept)


@pytest.mark.full
def test_no_head_on_the_encoder_as_it_was_would_do(rng):
  data, _ = toy.one_robust_task(rng)
  params = {'v': np.array([[0.0], [3.0]], np.float32)}
  encoder = toy.trainable(one_feature, params)
  kw = {**FEW, **LONG}
  frozen = dict(adversarial_probe.evaluate(encoder, data, key=KEY, **kw))
  assert frozen['transfer/t/adversarial_probe_pgd3_accuracy'].value < 0.6


@pytest.mark.parametrize(
  'kw', [{}, {'loss': 'pgd'}, {'beta': 0}], ids=['trades', 'pgd', 'clean']
)
def test_only_a_price_on_the_attack_makes_it_robust(kw, rng):
  def scaled(params, model_state, images, *, train):
    features = params['scale'] * (images.reshape(images.shape[0], -1) - 0.5)
    return (features, {'features': features}), model_state

  data, best = toy.one_robust_task(rng)
  # The near pixel is the louder one.
  params = {'scale': np.array([[1.0, 10.0]], np.float32)}
  found = run(toy.trainable(scaled, params), data, **ALL, epochs=20, **kw)
  of = lambda attack: found[NAME.format('t/', attack)]
  if kw.get('beta') == 0:
    assert of('') == 1
    assert of('_pgd3') < 0.2
  else:
    assert of('') == of('_pgd3') == best


@pytest.mark.parametrize(('loss', 'passes'), [('trades', 2), ('pgd', 1)])
def test_statistics_follow_the_training_passes_alone(loss, passes, rng):
  def network(params, model_state, images, *, train):
    seen = model_state['seen'] + 1 if train else model_state['seen']
    features = params['scale'] * images.reshape(images.shape[0], -1)
    # The network answers to one number of passes alone.
    right = train | (seen == model_state['total'])
    features = jnp.where(right, features, 0.0)
    return (features, {'features': features}), model_state | {'seen': seen}

  data, best = toy.one_robust_task(rng)
  steps = 20  # 10 epochs of 200 examples in batches of 100.
  found = []
  for total in (passes * steps, passes * steps - 1):
    state = {'seen': np.int32(0), 'total': np.int32(total)}
    encoder = toy.trainable(network, {'scale': np.float32(1.0)}, state)
    kw = {**ALL, 'loss': loss, 'epochs': 10, 'lr': 1.0, 'num_steps': 1}
    found.append(run(encoder, data, **kw)[NAME.format('t/', '')])
  assert found[0] >= best
  assert found[1] < 0.6


def test_radius_zero_is_clean_accuracy(at_zero):
  found, _ = at_zero
  for task in ('one/', 'two/', ''):
    value = found[NAME.format(task, '')]
    assert found[NAME.format(task, '_pgd3')] == value
    assert 0 < value < 1


@pytest.mark.full
def test_auto_attack_attacks_the_network_that_was_tuned(monkeypatch):
  cheap = toy.cheap_auto_attack(attacks.auto_attack)
  monkeypatch.setattr(attacks, 'auto_attack', cheap)
  encoder = toy.trainable(batch_size=16)
  found = measure(encoder, toy.data(), auto_attack_examples=8)
  assert_each_task_has(found, ('', '_pgd3', '_auto_attack'))


def assert_each_task_has(measured, suffixes):
  """Asserts that there are these numbers of each task, and their means."""
  toy.assert_sound(measured)
  assert list(measured) == [
    NAME.format(task, suffix)
    for task in ('one/', 'two/', '')
    for suffix in suffixes
  ]
  for suffix in suffixes:
    one, two, mean = (
      measured[NAME.format(task, suffix)] for task in ('one/', 'two/', '')
    )
    assert mean.value == pytest.approx((one.value + two.value) / 2)


def test_each_task_has_its_numbers_and_all_a_mean(measured):
  assert_each_task_has(measured, ('', '_pgd3'))
  said = measured[NAME.format('one/', '_pgd3')].protocol
  for words in (
    'task one: all weights and a linear head fine-tuned by TRADES (beta 6)',
    'radius 0.1 on images in [0, 1], 2 steps of 0.125',
    '2 epochs (4 steps) of SGD on 48 training images, batch 24',
    'no augmentation, the last state is taken',
    '3 steps of 0.0833333',
    'clean accuracy of the same images 0.',
    'n=64',
  ):
    assert words in said


def test_numbers_do_not_depend_on_devices_or_other_tasks(measured, alone):
  again, _ = alone
  for name, value in again.items():
    if '/one' in name:
      assert measured[name].value == value


def test_tasks_of_one_shape_share_what_is_compiled(at_zero, alone):
  # The shape of the features may be asked for each.
  assert 0 < at_zero[1] <= alone[1] + 1


@pytest.mark.fast
def test_an_encoder_without_a_network_is_refused():
  with pytest.raises(ConfigError, match='fine_tune: this encoder has no netw'):
    run(toy.encoder(), toy.data())


@pytest.mark.fast
def test_a_task_of_one_class_is_refused_before_any_work():
  with pytest.raises(ConfigError, match='fine_tune: .* task single'):
    run(toy.trainable(toy.never), toy.one_class_among_tasks())


@pytest.mark.fast
def test_without_tasks_nothing_is_said():
  data = toy.data()
  assert run(toy.trainable(), evals.EvalData(data.train, data.test)) == {}


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'loss': 'mart'}, "loss='mart' must be trades or pgd"),
    ({'beta': -1}, 'beta=-1 must be at least 0'),
    ({'norm': 'l3'}, "norm='l3' must be one of linf, l2, l1"),
    ({'batch_size': 0}, 'batch_size=0 must be a whole number, at least 1'),
    ({'num_train': 0.5}, 'num_train=0.5 must be a whole number'),
    ({'l2': 1}, 'l2 is unknown; keys: epsilon'),
  ],
)
def test_what_is_out_of_range_is_refused_before_training(kw, message):
  with pytest.raises(ConfigError, match=f'evals.fine_tune.{message}') as e:
    evals.check({'fine_tune': kw})
  assert '\n' not in str(e.value)
