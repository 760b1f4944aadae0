"""AutoAttack as an evaluation, where robust accuracy is known."""

import jax
import numpy as np
import pytest

from rrl_jax import evals
from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError
from rrl_jax.evals import auto_attack, linear_head
from rrl_jax.evals import task as task_lib
from tests.evals import toy

CHEAP = {'attacks': ('apgd-ce',), 'num_steps': 3}
EPSILON = 0.1
KEY = jax.random.key(0)


def run(encoder, data, key=KEY, **kw):
  kw = {'epsilon': EPSILON, **CHEAP, **kw}
  return dict(auto_attack.evaluate(encoder, data, key=key, **kw))


def linear(variables, images):
  """Two classes, told apart by the mean of all pixels."""
  features = images.reshape(images.shape[0], -1)
  margin = features.mean(axis=1, keepdims=True) - 0.5
  return 10 * (margin @ np.array([[-1.0, 1.0]], np.float32)), features


def problem(rng, size):
  """Means 0.5 +- up to 0.2, so that margins say what is robust."""
  images = rng.uniform(0.48, 0.52, (size, 2, 2, 1))
  labels = np.arange(size) % 2
  shift = rng.uniform(0.0, 0.2, size) * (2 * labels - 1)
  images = (images + shift[:, None, None, None]).astype(np.float32)
  return Source(images, labels.astype(np.int32), ('dark', 'bright'))


@pytest.fixture
def two_classes(rng):
  train, test = problem(rng, 80), problem(rng, 30)
  task = evals.Task('t', train, test)
  return evals.Encoder(linear, {}), evals.EvalData(train, test, (task,))


def margins(source):
  means = source.images.reshape(len(source), -1).mean(axis=1) - 0.5
  return means * (2 * source.labels - 1)


@pytest.mark.parametrize(
  'attacks',
  [
    ('apgd-ce', 'apgd-t'),
    pytest.param(
      ('apgd-ce', 'apgd-t', 'fab-t', 'square'), marks=pytest.mark.full
    ),
  ],
)
def test_of_two_linear_classes_it_finds_the_closed_form(attacks, two_classes):
  encoder, data = two_classes
  found = run(encoder, data, attacks=attacks, num_steps=5, num_queries=5)
  found = found['robust/auto_attack_accuracy']
  robust = np.mean(margins(data.test) > EPSILON)
  assert 0.2 < robust < 0.8
  assert found.value == robust
  clean = np.mean(margins(data.test) > 0)
  for words in (
    f'{", ".join(attacks)} of AutoAttack, linf radius 0.1 on images',
    f'clean accuracy of the same images {clean:.4f}',
    f'apgd-ce {round((clean - robust) * 30)}, '
    + ', '.join(f'{attack} 0' for attack in attacks[1:]),
    'apgd-t raises the difference of logits: its dlr needs at least 4 classes',
    'apgd-t has 1 targets instead of 9',
    'n=30',
  ):
    assert words in found.protocol


@pytest.mark.parametrize(
  ('norm', 'dual'),
  [pytest.param('linf', 1, marks=pytest.mark.full), ('l2', 2)],
)
def test_of_a_linear_probe_it_finds_the_closed_form(norm, dual, two_classes):
  encoder, data = two_classes
  task = data.tasks[0]
  found = run(
    encoder, data, head='linear_probe', norm=norm, num_steps=20, l2=0.01
  )
  flat = lambda s: s.images.reshape(len(s), -1)
  head = linear_head.fit(flat(task.train), task.train.labels, 2, 0.01, 1e-5)
  w, b = head.w[:, 1] - head.w[:, 0], head.b[1] - head.b[0]
  margin = (flat(task.test) @ w + b) * (2 * task.test.labels - 1)
  robust = np.mean(margin > EPSILON * np.linalg.norm(w, dual))
  assert 0 < robust < 1
  assert list(found) == [
    'transfer/t/linear_probe_auto_attack_accuracy',
    'transfer/linear_probe_auto_attack_accuracy',
    'robust/auto_attack_accuracy',
  ]
  for measured in found.values():
    assert measured.value == robust
    assert f'{norm} radius 0.1' in measured.protocol


def test_radius_zero_is_clean_accuracy():
  encoder, data = toy.encoder(batch_size=8), toy.first_task()
  transfer = {'probes': ('linear_probe',), 'num_train': 48}
  config = {'accuracy': {}, 'transfer': transfer}
  clean, _ = evals.run(encoder, data, config, key=KEY)
  kw = {'epsilon': 0, 'num_examples': 0, 'num_steps': 1, 'num_train': 48}
  own = run(encoder, data, **kw)
  assert (
    own['robust/auto_attack_accuracy'].value == clean['test/accuracy'].value
  )
  probes = run(encoder, data, head='linear_probe', **kw)
  for task in ('one/', ''):
    value = probes[f'transfer/{task}linear_probe_auto_attack_accuracy'].value
    assert value == clean[f'transfer/{task}linear_probe_accuracy'].value
    assert value < 1


PROBES = {'head': 'linear_probe', 'num_examples': 8, 'num_train': 48}


@pytest.fixture(scope='module')
def probes():
  return run(toy.encoder(batch_size=8), toy.data(), **PROBES)


def test_the_mean_is_over_tasks(probes):
  toy.assert_sound(probes)
  means = {
    probes[f'{name}_accuracy'].value
    for name in ('robust/auto_attack', 'transfer/linear_probe_auto_attack')
  }
  parts = [
    probes[f'transfer/{t}/linear_probe_auto_attack_accuracy'].value
    for t in ('one', 'two')
  ]
  assert means == {np.mean(parts)}


def test_the_images_of_a_task_are_those_of_all_attacks(probes):
  encoder = toy.encoder()
  for task in toy.data().tasks:
    train, test = (
      encoder.predict(s.images)[1] for s in (task.train, task.test)
    )
    fitted = task_lib.choose_training(task, 48)
    head = linear_head.fit(
      train[fitted], task.train.labels[fitted], 5, 1e-4, 1e-5
    )
    chosen = task_lib.choose_test(task, 8)
    predicted = np.argmax(test[chosen] @ head.w + head.b, axis=1)
    clean = np.mean(predicted == task.test.labels[chosen])
    name = f'transfer/{task.name}/linear_probe_auto_attack_accuracy'
    said = f'clean accuracy of the same images {clean:.4f}'
    assert said in probes[name].protocol


def test_numbers_do_not_depend_on_devices(probes, mesh):
  encoder = toy.encoder(batch_size=8, mesh=mesh)
  name = 'transfer/one/linear_probe_auto_attack_accuracy'
  assert run(encoder, toy.first_task(), **PROBES)[name] == probes[name]


@pytest.mark.fast
def test_a_task_of_one_class_is_refused_before_any_work():
  data = toy.one_class_among_tasks()
  with pytest.raises(ConfigError, match='auto_attack: the .* task single'):
    run(evals.Encoder(toy.never, {}), data, head='linear_probe')


@pytest.mark.fast
def test_probes_without_tasks_say_nothing():
  data = toy.data()
  alone = evals.EvalData(data.train, data.test)
  assert run(toy.encoder(), alone, head='linear_probe') == {}


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'epsilon': -0.1}, 'epsilon=-0.1 must be at least 0'),
    ({'norm': 'l3'}, "norm='l3' must be one of linf, l2, l1"),
    ({'version': 'fast'}, "version='fast' must be one of standard, plus, rand"),
    ({'head': 'svm'}, "head='svm' must be own or linear_probe"),
    ({'attacks': ()}, r'attacks=\(\) must be None or a list out of apgd-ce'),
    ({'attacks': 'fab'}, "attacks='fab' must be None or a list"),
    ({'attacks': ('fab', 'fab')}, 'attacks=.* each once'),
    ({'batch_size': 0}, 'batch_size=0 must be None or a whole number'),
    ({'num_queries': 0}, 'num_queries=0 must be a whole number, at least 1'),
    ({'num_examples': -1}, 'num_examples=-1 must be a whole number'),
    ({'gamma': 1}, 'gamma is unknown; keys: epsilon'),
  ],
)
def test_what_is_out_of_range_is_refused_before_training(kw, message):
  with pytest.raises(ConfigError, match=f'evals.auto_attack.{message}') as e:
    evals.check({'auto_attack': kw})
  assert '\n' not in str(e.value)


@pytest.mark.fast
def test_names_of_attacks_are_those_of_the_library():
  inputs, labels = np.zeros((1, 2), np.float32), np.zeros(1, np.int32)
  with pytest.raises(ValueError, match=', '.join(auto_attack.VERSIONS)):
    auto_attack.attacks_lib.auto_attack(
      lambda x: x, None, inputs, labels, epsilon=0, version='?'
    )
  with pytest.raises(ValueError, match=', '.join(auto_attack.ATTACKS)):
    auto_attack.attacks_lib.auto_attack(
      lambda x: x,
      None,
      inputs,
      labels,
      epsilon=0,
      version='custom',
      attacks=('?',),
    )


@pytest.mark.fast
@pytest.mark.parametrize(
  ('version', 'attacks', 'steps', 'queries'),
  [
    ('standard', None, True, True),
    ('rand', None, True, False),
    ('standard', ('square',), False, True),
    ('standard', ('apgd-ce', 'fab'), True, False),
    ('rand', ('apgd-ce', 'square'), True, True),
  ],
)
def test_a_protocol_has_no_setting_of_an_attack_that_did_not_run(
  version, attacks, steps, queries
):
  said = auto_attack._words(
    epsilon=0.1,
    norm='l2',
    version=version,
    attacks=attacks,
    num_steps=7,
    num_queries=9,
  )
  assert ('7 steps' in said) == steps
  assert ('9 queries' in said) == queries
