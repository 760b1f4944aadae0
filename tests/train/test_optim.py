"""The optimizer does what its config says, by hand-computed updates."""

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common
from rrl_jax.errors import ConfigError
from rrl_jax.train import optim

pytestmark = pytest.mark.fast


def _config(**changes) -> ConfigDict:
  config = common.base().optim
  config.update(changes)
  return config


def _update(config, params, grads, steps=1):
  tx = optim.make(config, total_steps=10)

  @jax.jit
  def last(params, grads):
    state = tx.init(params)
    for _ in range(steps):
      updates, state = tx.update(grads, state, params)
    return updates

  return last(params, grads)


def test_sgd_takes_minus_rate_times_gradient():
  params = {'w': np.ones((2, 2), np.float32)}
  updates = _update(
    _config(lr=0.1, schedule='constant'), params, {'w': 3 * params['w']}
  )
  np.testing.assert_allclose(updates['w'], -0.3, rtol=1e-6)


def test_lars_has_the_momentum_that_the_config_says():
  """Both steps are lr * trust = 1e-3 of the weight, and momentum adds one."""
  params = {'w': np.ones((1, 1), np.float32)}
  config = _config(name='lars', lr=1.0, schedule='constant')
  for momentum in (0.0, 0.5):
    config.momentum = momentum
    updates = _update(config, params, params, steps=2)
    np.testing.assert_allclose(updates['w'], -1e-3 * (1 + momentum), rtol=1e-5)


def test_weight_decay_touches_no_biases():
  params = {'w': np.ones((2, 2), np.float32), 'b': np.ones(2, np.float32)}
  grads = {'w': np.zeros((2, 2), np.float32), 'b': np.zeros(2, np.float32)}
  for name in ('sgd', 'adamw'):
    config = _config(name=name, lr=0.1, schedule='constant', weight_decay=0.5)
    updates = _update(config, params, grads)
    np.testing.assert_allclose(updates['w'], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates['b'], 0)


def test_gradient_is_clipped_to_the_global_norm():
  params = {'w': np.zeros((1, 2), np.float32)}
  config = _config(lr=1.0, schedule='constant', grad_clip_norm=1.0)
  updates = _update(config, params, {'w': np.array([[3.0, 4.0]], np.float32)})
  np.testing.assert_allclose(updates['w'], [[-0.6, -0.8]], rtol=1e-6)


def test_cosine_ends_at_zero_and_is_half_in_the_middle():
  rate = optim.learning_rate(_config(lr=2.0, schedule='cosine'), 100)
  np.testing.assert_allclose(
    [rate(0), rate(50), rate(100)], [2.0, 1.0, 0.0], atol=1e-6
  )


def test_piecewise_drops_by_ten_at_each_boundary():
  config = _config(lr=1.0, schedule='piecewise', boundaries=(0.5, 0.75))
  rate = optim.learning_rate(config, 100)
  np.testing.assert_allclose(
    [rate(s) for s in (0, 49, 51, 74, 76, 99)],
    [1, 1, 0.1, 0.1, 0.01, 0.01],
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  ('steps', 'warmup', 'boundaries', 'expected'),
  [
    # Two drops inside the warm-up, which count from its end.
    (100, 0.5, (0.2, 0.4, 0.8), {49: 1, 50: 0.01, 79: 0.01, 80: 0.001}),
    # Two that round to one step.
    (10, 0.0, (0.5, 0.52), {4: 1, 5: 0.01, 9: 0.01}),
  ],
)
def test_every_drop_counts_where_several_fall_on_one_step(
  steps, warmup, boundaries, expected
):
  config = _config(
    lr=1.0, schedule='piecewise', warmup=warmup, boundaries=boundaries
  )
  rate = optim.learning_rate(config, steps)
  np.testing.assert_allclose(
    [rate(step) for step in expected], list(expected.values()), rtol=1e-5
  )


@pytest.mark.parametrize('schedule', optim.SCHEDULES)
def test_warmup_rises_in_equal_steps_and_wastes_none(schedule):
  config = _config(lr=1.0, schedule=schedule, warmup=0.1)
  rate = optim.learning_rate(config, 100)
  np.testing.assert_allclose(
    [rate(s) for s in range(10)], np.arange(1, 11) / 10, rtol=1e-5
  )


@pytest.mark.parametrize(
  ('changes', 'word'),
  [
    ({'name': 'sdg'}, 'sgd'),
    ({'schedule': 'cosin'}, 'cosine'),
    ({'lr': 0.0}, 'lr'),
    ({'lr': float('nan')}, 'lr'),
    ({'warmup': 1.0}, 'warmup'),
    ({'weight_decay': -1.0}, 'weight_decay'),
    ({'grad_clip_norm': -1.0}, 'grad_clip_norm'),
    ({'kw': {'beta': 0.9}}, 'accumulator_dtype'),
    ({'kw': {'momentum': 0.9}}, 'set optim.momentum'),
    ({'name': 'lion', 'kw': {'weight_decay': 0.1}}, 'set optim.weight_decay'),
    ({'name': 'lars', 'kw': {'weight_decay_mask': True}}, 'two or more axes'),
    ({'name': 'adam', 'momentum': 0.9}, 'optax.adam has none'),
    ({'name': 'lion', 'nesterov': True}, 'optax.lion has none'),
  ],
)
def test_a_wrong_field_is_named_in_one_line(changes, word):
  with pytest.raises(ConfigError, match=word) as error:
    optim.make(_config(**changes), total_steps=10)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', optim.OPTIMIZERS)
def test_every_optimizer_descends(name):
  params = {'w': np.ones((4, 4), np.float32)}
  updates = _update(_config(name=name, lr=0.01), params, params, steps=2)
  assert np.sum(updates['w']) < 0
