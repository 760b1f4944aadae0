"""A head trained on attacked images, where the best one is known."""

import jax
import pytest

from rrl_jax import attacks, evals
from rrl_jax.errors import ConfigError
from rrl_jax.evals import adversarial_probe, transfer
from tests.evals import toy

FEW = {
  'epsilon': 0.1,
  'num_steps': 3,
  'train_steps': 2,
  'epochs': 4,
  'batch_size': 24,
  'lr': 0.3,
  'num_train': 48,
  'num_examples': 64,
}
KEY = jax.random.key(0)
NAME = 'transfer/{}adversarial_probe{}_accuracy'


def measure(encoder, data, key=KEY, **kw):
  kw = {**FEW, **kw}
  return dict(adversarial_probe.evaluate(encoder, data, key=key, **kw))


def run(encoder, data, key=KEY, **kw):
  found = measure(encoder, data, key, **kw)
  return {name: m.value for name, m in found.items()}


@pytest.fixture(scope='module')
def measured():
  """Of two tasks, with an AutoAttack of two steps."""
  with pytest.MonkeyPatch.context() as patch:
    cheap = toy.cheap_auto_attack(attacks.auto_attack)
    patch.setattr(attacks, 'auto_attack', cheap)
    encoder = toy.encoder(batch_size=16)
    return measure(encoder, toy.data(), auto_attack_examples=8)


@pytest.fixture(scope='module')
def standard():
  """Trained by steps of no length; and how often its encoder was traced."""
  encoder, traced = toy.counting()
  return run(encoder, toy.data(), lr=1e-9), len(traced)


@pytest.fixture(scope='module')
def diverged():
  """Trained on one task, too fast; and how often its encoder was traced."""
  encoder, traced = toy.counting()
  return measure(encoder, toy.first_task(), lr=1e38), len(traced)


def pixels(variables, images):
  features = images.reshape(images.shape[0], -1)
  return features, features


def test_it_leaves_the_feature_that_an_attack_can_turn(rng):
  data, best = toy.one_robust_task(rng)
  encoder = evals.Encoder(pixels, {})
  kw = {'num_examples': 0, 'num_train': 0, 'batch_size': 100, 'train_steps': 3}
  standard = run(encoder, data, **{**kw, 'lr': 1e-9, 'epochs': 1})
  robust = run(encoder, data, **{**kw, 'lr': 0.5, 'epochs': 40})
  of = lambda found, attack: found[NAME.format('t/', attack)]
  # The standard probe reads the pixel that is always right and near.
  assert of(standard, '') == 1
  assert of(standard, '_pgd3') < 0.2
  # The first pixel alone is right nine times in ten, attacked or not.
  assert of(robust, '') == of(robust, '_pgd3') == best
  assert 0.85 < best < 0.95


def test_it_starts_from_the_standard_probe(standard):
  found, _ = standard
  clean = dict(
    transfer.evaluate(
      toy.encoder(),
      toy.data(),
      key=KEY,
      num_train=48,
      probes=('linear_probe',),
    )
  )
  for task in ('one/', 'two/', ''):
    value = clean[f'transfer/{task}linear_probe_accuracy'].value
    assert found[NAME.format(task, '')] == value


def test_radius_zero_is_clean_accuracy():
  found = run(toy.encoder(batch_size=32), toy.data(), epsilon=0, num_examples=0)
  for task in ('one/', 'two/', ''):
    value = found[NAME.format(task, '')]
    assert found[NAME.format(task, '_pgd3')] == value
    assert 0 < value < 1


def test_each_task_has_its_numbers_and_all_a_mean(measured):
  toy.assert_sound(measured)
  suffixes = ('', '_pgd3', '_auto_attack')
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
  said = measured[NAME.format('one/', '_pgd3')].protocol
  for words in (
    'task one: linear probe on frozen features',
    'radius 0.1 on images in [0, 1], 2 steps of 0.125',
    'starting from logistic regression by L-BFGS, l2=0.0001',
    '4 epochs (8 steps) of SGD on 48 training images, batch 24',
    'no augmentation, the last state is taken',
    '3 steps of 0.0833333',
    'clean accuracy of the same images 0.',
    'n=64',
  ):
    assert words in said
  said = measured[NAME.format('two/', '_auto_attack')].protocol
  assert 'AutoAttack standard, linf radius 0.1' in said
  assert 'n=8,' in said


def test_numbers_do_not_depend_on_devices_or_other_tasks(
  measured, standard, mesh
):
  again = run(toy.encoder(batch_size=16, mesh=mesh), toy.first_task())
  for name, value in again.items():
    if '/one' in name:
      assert measured[name].value == value
  name = NAME.format('one/', '_pgd3')
  assert measured[name].value != standard[0][name]


def test_tasks_of_one_shape_share_what_is_compiled(standard, diverged):
  assert standard[1] == diverged[1] > 0


def test_training_that_diverges_is_said_and_counts_as_wrong(diverged):
  measured = diverged[0][NAME.format('one/', '')]
  assert measured.value == 0
  assert 'the training diverged' in measured.protocol


@pytest.mark.fast
def test_a_task_of_one_class_is_refused_before_any_work():
  with pytest.raises(ConfigError, match='adversarial_probe: .* task single'):
    run(evals.Encoder(toy.never, {}), toy.one_class_among_tasks())


@pytest.mark.fast
def test_without_tasks_nothing_is_said():
  data = toy.data()
  assert run(toy.encoder(), evals.EvalData(data.train, data.test)) == {}


@pytest.mark.fast
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
