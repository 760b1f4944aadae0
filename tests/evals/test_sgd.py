"""Momentum SGD on a task: order, schedule and steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax.evals import sgd
from tests.evals import toy


def record(key, *, chosen, **kw):
  """Runs steps that write down what they were given."""
  total = sgd.num_steps(
    len(chosen), kw['epochs'], min(kw['batch_size'], len(chosen))
  )
  size = min(kw['batch_size'], len(chosen))

  def step(state, images, labels, ids, lr, step_key):
    seen, rates, place = state
    seen = seen.at[place].set(ids.astype(jnp.int32))
    return seen, rates.at[place].set(lr), place + 1

  state = (
    np.zeros((total, size), np.int32),
    np.zeros(total, np.float32),
    np.int32(0),
  )
  seen, rates, steps = sgd.train(
    toy.encoder(), step, state, toy.source(), chosen, key=key, **kw
  )
  assert steps == total
  return np.asarray(seen), np.asarray(rates)


def test_each_epoch_has_each_example_once(key):
  chosen = np.arange(0, 60, 3)
  kw = {'epochs': 4, 'batch_size': 8, 'lr': 1.0, 'decays': ()}
  seen, _ = record(key, chosen=chosen, **kw)
  epochs = seen.reshape(4, 20)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), chosen)
  assert np.any(epochs[0] != epochs[1])
  again, _ = record(key, chosen=chosen, **kw)
  np.testing.assert_array_equal(again, seen)
  other, _ = record(jax.random.key(1), chosen=chosen, **kw)
  assert np.any(other != seen)


def test_learning_rate_falls_to_a_tenth_at_each_decay(key):
  _, rates = record(
    key,
    chosen=np.arange(10),
    epochs=10,
    batch_size=10,
    lr=0.5,
    decays=(0.4, 0.8),
  )
  want = [0.5] * 4 + [0.05] * 4 + [0.005] * 2
  np.testing.assert_allclose(rates, want, rtol=1e-6)


def test_a_batch_is_never_larger_than_the_set(key):
  seen, _ = record(
    key, chosen=np.arange(5), epochs=2, batch_size=512, lr=1.0, decays=()
  )
  assert seen.shape == (2, 5)


def test_steps_are_those_of_momentum_sgd_with_decay_of_kernels(rng):
  w, b = rng.normal(size=(3, 2)), rng.normal(size=2)
  params = (jnp.asarray(w, jnp.float32), jnp.asarray(b, jnp.float32))
  tx = sgd.optimizer(momentum=0.9, weight_decay=0.1)
  state = tx.init(params)
  speed_w, speed_b = 0.0, 0.0
  for lr in (0.5, 0.5, 0.05):
    grad_w, grad_b = rng.normal(size=(3, 2)), rng.normal(size=2)
    grads = tuple(jnp.asarray(g, jnp.float32) for g in (grad_w, grad_b))
    direction, state = tx.update(grads, state, params)
    params = sgd.descend(params, direction, lr)
    speed_w = 0.9 * speed_w + grad_w + 0.1 * w
    speed_b = 0.9 * speed_b + grad_b
    w, b = w - lr * speed_w, b - lr * speed_b
  np.testing.assert_allclose(params[0], w, rtol=1e-5)
  np.testing.assert_allclose(params[1], b, rtol=1e-5)


@pytest.mark.fast
def test_divergence_is_said():
  assert sgd.divergence({'w': jnp.ones(2)}) == ''
  for bad in (np.nan, np.inf):
    assert 'diverged' in sgd.divergence({'w': jnp.array([1.0, bad])})


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'value'),
  [('decays', (1.0,)), ('decays', '0.5'), ('momentum', 1), ('lr', 0)],
)
def test_what_is_out_of_range_breaks_its_rule(name, value):
  assert not sgd.RULES[name][0](value)
