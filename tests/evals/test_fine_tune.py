"""Fine-tuning against attacks, where the best network is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks, evals
from rrl_jax.errors import ConfigError
from rrl_jax.evals import adversarial_probe, fine_tune
from tests.evals import toy

FEW = {
  'epsilon': 0.1,
  'num_steps': 3,
  'train_steps': 2,
  'epochs': 2,
  'num_examples': 64,
}
NAME = 'transfer/{}fine_tuning{}_accuracy'


def measure(encoder, data, key, **kw):
  return dict(fine_tune.evaluate(encoder, data, key=key, **{**FEW, **kw}))


def run(encoder, data, key, **kw):
  found = measure(encoder, data, key, **kw)
  return {name: m.value for name, m in found.items()}


def one_feature(params, model_state, images, *, train):
  """A weighted sum of the pixels."""
  centred = images.reshape(images.shape[0], -1) - 0.5
  features = centred @ params['v']
  return (features, {'features': features}), model_state


def test_it_moves_the_encoder_to_what_an_attack_cannot_turn(rng, key):
  data, best = toy.one_robust_task(rng)
  # The encoder sees the near pixel alone.
  params = {'v': np.array([[0.0], [3.0]], np.float32)}
  kept = params['v'].copy()
  encoder = toy.trainable(one_feature, params)
  kw = {'num_examples': 0, 'train_steps': 3, 'lr': 0.3, 'epochs': 30}
  frozen = dict(
    adversarial_probe.evaluate(encoder, data, key=key, **{**FEW, **kw})
  )
  tuned = run(encoder, data, key, **kw)
  of_frozen = frozen['transfer/t/adversarial_probe_pgd3_accuracy'].value
  assert of_frozen < 0.6
  assert tuned[NAME.format('t/', '_pgd3')] == best
  assert tuned[NAME.format('t/', '')] == best
  np.testing.assert_array_equal(encoder.variables[0]['v'], kept)


@pytest.mark.parametrize(
  'kw', [{}, {'loss': 'pgd'}, {'beta': 0}], ids=['trades', 'pgd', 'clean']
)
def test_only_a_price_on_the_attack_makes_it_robust(kw, rng, key):
  def scaled(params, model_state, images, *, train):
    features = params['scale'] * (images.reshape(images.shape[0], -1) - 0.5)
    return (features, {'features': features}), model_state

  data, best = toy.one_robust_task(rng)
  # The near pixel is the louder one.
  params = {'scale': np.array([[1.0, 10.0]], np.float32)}
  found = run(
    toy.trainable(scaled, params),
    data,
    key,
    epochs=20,
    num_examples=0,
    **kw,
  )
  of = lambda attack: found[NAME.format('t/', attack)]
  if kw.get('beta') == 0:
    assert of('') == 1
    assert of('_pgd3') < 0.2
  else:
    assert of('') == of('_pgd3') == best


@pytest.mark.parametrize(('loss', 'passes'), [('trades', 2), ('pgd', 1)])
def test_statistics_follow_the_training_passes_alone(loss, passes, rng, key):
  data, best = toy.one_robust_task(rng)
  steps = 30  # 10 epochs of 300 examples in batches of 100.

  def sees(total):
    def network(params, model_state, images, *, train):
      seen = model_state['seen']
      features = params['scale'] * images.reshape(images.shape[0], -1)
      if train:
        return (features, {'features': features}), {'seen': seen + 1}
      features = jnp.where(seen == total, features, 0.0)
      return (features, {'features': features}), model_state

    scale, seen = {'scale': np.float32(1.0)}, {'seen': np.int32(0)}
    return toy.trainable(network, scale, seen)

  kw = {'loss': loss, 'epochs': 10, 'batch_size': 100, 'lr': 1.0}
  found = run(sees(passes * steps), data, key, **kw)
  assert found[NAME.format('t/', '')] >= best
  found = run(sees(passes * steps - 1), data, key, **kw)
  assert found[NAME.format('t/', '')] < 0.6


def test_radius_zero_is_clean_accuracy(key):
  found = run(
    toy.trainable(batch_size=32), toy.data(), key, epsilon=0, num_examples=0
  )
  for task in ('one/', 'two/', ''):
    value = found[NAME.format(task, '')]
    assert found[NAME.format(task, '_pgd3')] == value
    assert 0 < value < 1


def test_each_task_has_its_numbers_and_all_a_mean(monkeypatch, key):
  cheap = toy.cheap_auto_attack(attacks.auto_attack)
  monkeypatch.setattr(attacks, 'auto_attack', cheap)
  found = measure(
    toy.trainable(batch_size=8), toy.data(), key, auto_attack_examples=8
  )
  suffixes = ('', '_pgd3', '_auto_attack')
  assert list(found) == [
    NAME.format(task, suffix)
    for task in ('one/', 'two/', '')
    for suffix in suffixes
  ]
  for suffix in suffixes:
    one, two, mean = (
      found[NAME.format(task, suffix)] for task in ('one/', 'two/', '')
    )
    assert mean.value == pytest.approx((one.value + two.value) / 2)
  said = found[NAME.format('one/', '_pgd3')].protocol
  for words in (
    'task one: all weights and a linear head fine-tuned by TRADES (beta 6)',
    'radius 0.1 on images in [0, 1], 2 steps of 0.125',
    '2 epochs (2 steps) of SGD on 150 training images, batch 128',
    'no augmentation, the last state is taken',
    '3 steps of 0.0833333',
    'clean accuracy of the same images 0.',
    'n=64',
  ):
    assert words in said


def test_numbers_do_not_depend_on_devices_or_other_tasks(key, mesh):
  data = toy.data()
  alone = evals.EvalData(data.train, data.test, data.tasks[:1])
  kw = {'num_train': 128, 'batch_size': 64, 'num_steps': 1, 'train_steps': 1}
  found = run(toy.trainable(batch_size=16), data, key, **kw)
  again = run(toy.trainable(batch_size=16, mesh=mesh), alone, key, **kw)
  for name, value in again.items():
    if '/one' in name:
      assert found[name] == value


def test_tasks_of_one_shape_share_what_is_compiled(key):
  traced = []

  def network(params, model_state, images, *, train):
    traced.append(images.shape)
    return toy.network(params, model_state, images, train=train)

  data = toy.data()
  alone = evals.EvalData(data.train, data.test, data.tasks[:1])
  run(toy.trainable(network), alone, key)
  once = len(traced)
  traced.clear()
  run(toy.trainable(network), data, key)
  # The shape of the features is asked for each.
  assert len(traced) <= once + 1


def test_an_encoder_without_a_network_is_refused(key):
  with pytest.raises(ConfigError, match='fine_tune: this encoder has no netw'):
    run(toy.encoder(), toy.data(), key)


def test_a_task_of_one_class_is_refused_before_any_work():
  def network(params, model_state, images, *, train):
    raise AssertionError('worked')

  train = toy.source(3, 150)
  train = train.take(np.flatnonzero(train.labels == 1))
  data = toy.data()
  task = evals.Task('single', train, data.test)
  data = evals.EvalData(data.train, data.test, (data.tasks[0], task))
  with pytest.raises(ConfigError, match='fine_tune: .* task single'):
    run(toy.trainable(network), data, jax.random.key(0))


def test_without_tasks_nothing_is_said(key):
  data = toy.data()
  assert run(toy.trainable(), evals.EvalData(data.train, data.test), key) == {}


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
