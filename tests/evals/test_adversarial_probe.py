"""A head trained on attacked images, where the best one is known."""

import jax
import numpy as np
import pytest

from rrl_jax import attacks, evals
from rrl_jax.errors import ConfigError
from rrl_jax.evals import adversarial_probe, transfer
from tests.evals import toy

FEW = {
  'epsilon': 0.1,
  'num_steps': 3,
  'train_steps': 2,
  'epochs': 2,
  'num_examples': 64,
}
NAME = 'transfer/{}adversarial_probe{}_accuracy'


def measure(encoder, data, key, **kw):
  kw = {**FEW, **kw}
  return dict(adversarial_probe.evaluate(encoder, data, key=key, **kw))


def run(encoder, data, key, **kw):
  found = measure(encoder, data, key, **kw)
  return {name: m.value for name, m in found.items()}


def pixels(variables, images):
  features = images.reshape(images.shape[0], -1)
  return features, features


def test_it_leaves_the_feature_that_an_attack_can_turn(rng, key):
  data, best = toy.one_robust_task(rng)
  encoder = evals.Encoder(pixels, {})
  kw = {'num_examples': 0, 'batch_size': 100, 'train_steps': 3}
  standard = run(encoder, data, key, lr=1e-9, epochs=1, **kw)
  robust = run(encoder, data, key, lr=0.5, epochs=40, **kw)
  of = lambda found, attack: found[NAME.format('t/', attack)]
  # The standard probe reads the pixel that is always right and near.
  assert of(standard, '') == 1
  assert of(standard, '_pgd3') < 0.2
  # The first pixel alone is right nine times in ten, attacked or not.
  assert of(robust, '') == of(robust, '_pgd3') == best
  assert 0.85 < best < 0.95


def test_it_starts_from_the_standard_probe(key):
  encoder, data = toy.encoder(), toy.data()
  found = run(encoder, data, key, lr=1e-9, num_train=50, epochs=1)
  clean = dict(
    transfer.evaluate(
      encoder, data, key=key, num_train=50, probes=('linear_probe',)
    )
  )
  for task in ('one/', 'two/', ''):
    value = clean[f'transfer/{task}linear_probe_accuracy'].value
    assert found[NAME.format(task, '')] == value


def test_radius_zero_is_clean_accuracy(key):
  found = run(
    toy.encoder(batch_size=32), toy.data(), key, epsilon=0, num_examples=0
  )
  for task in ('one/', 'two/', ''):
    value = found[NAME.format(task, '')]
    assert found[NAME.format(task, '_pgd3')] == value
    assert 0 < value < 1


def test_each_task_has_its_numbers_and_all_a_mean(monkeypatch, key):
  cheap = toy.cheap_auto_attack(attacks.auto_attack)
  monkeypatch.setattr(attacks, 'auto_attack', cheap)
  found = measure(
    toy.encoder(batch_size=8), toy.data(), key, auto_attack_examples=8
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
    'task one: linear probe on frozen features',
    'radius 0.1 on images in [0, 1], 2 steps of 0.125',
    'starting from logistic regression by L-BFGS, l2=0.0001',
    '2 epochs (2 steps) of SGD on 150 training images, batch 150',
    'no augmentation, the last state is taken',
    '3 steps of 0.0833333',
    'clean accuracy of the same images 0.',
    'n=64',
  ):
    assert words in said
  said = found[NAME.format('two/', '_auto_attack')].protocol
  assert 'AutoAttack standard, linf radius 0.1' in said
  assert 'n=8,' in said


def test_numbers_do_not_depend_on_devices_or_other_tasks(key, mesh):
  data = toy.data()
  alone = evals.EvalData(data.train, data.test, data.tasks[:1])
  kw = {'num_train': 128, 'batch_size': 64, 'lr': 0.3}
  found = run(toy.encoder(batch_size=16), data, key, **kw)
  again = run(toy.encoder(batch_size=16, mesh=mesh), alone, key, **kw)
  for name, value in again.items():
    if '/one' in name:
      assert found[name] == value
  standard = run(toy.encoder(), alone, key, **{**kw, 'lr': 1e-9})
  name = NAME.format('one/', '_pgd3')
  assert found[name] != standard[name]


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


def test_training_that_diverges_is_said_and_counts_as_wrong(key):
  found = measure(toy.encoder(), toy.data(), key, lr=1e38, epochs=3)
  measured = found[NAME.format('one/', '')]
  assert measured.value == 0
  assert 'the training diverged' in measured.protocol


def test_a_task_of_one_class_is_refused_before_any_work():
  def apply(variables, images):
    raise AssertionError('worked')

  train = toy.source(3, 150)
  train = train.take(np.flatnonzero(train.labels == 1))
  data = toy.data()
  task = evals.Task('single', train, data.test)
  data = evals.EvalData(data.train, data.test, (data.tasks[0], task))
  with pytest.raises(ConfigError, match='adversarial_probe: .* task single'):
    run(evals.Encoder(apply, {}), data, jax.random.key(0))


def test_without_tasks_nothing_is_said(key):
  data = toy.data()
  assert run(toy.encoder(), evals.EvalData(data.train, data.test), key) == {}


@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'epsilon': -0.1}, 'epsilon=-0.1 must be at least 0'),
    ({'train_steps': 0}, 'train_steps=0 must be a whole number, at least 1'),
    ({'epochs': 0}, 'epochs=0 must be a whole number, at least 1'),
    ({'lr': 0}, 'lr=0 must be positive'),
    ({'momentum': 1}, r'momentum=1 must be in \[0, 1\)'),
    ({'weight_decay': -1}, 'weight_decay=-1 must be at least 0'),
    ({'decays': (10,)}, r'decays=\(10,\) must be a list of parts of the run'),
    ({'decays': 0.5}, 'decays=0.5 must be a list of parts of the run'),
    ({'auto_attack_examples': -1}, 'auto_attack_examples=-1 must be a whole'),
    ({'beta': 6}, 'beta is unknown; keys: epsilon'),
  ],
)
def test_what_is_out_of_range_is_refused_before_training(kw, message):
  match = f'evals.adversarial_probe.{message}'
  with pytest.raises(ConfigError, match=match) as e:
    evals.check({'adversarial_probe': kw})
  assert '\n' not in str(e.value)
