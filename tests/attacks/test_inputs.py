"""Inputs and radii that are not what an attack takes are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks

pytestmark = pytest.mark.fast

KEY = jax.random.key(0)
LABELS = jnp.array([0, 1])
W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def logits_fn(x):
  return x @ W


def loss_fn(x):
  return jnp.sum(jnp.square(x), axis=1)


# Each a function of the inputs and a radius.
RUNS = {
  'apgd': lambda x, e: attacks.apgd(
    logits_fn, KEY, x, LABELS, epsilon=e, num_steps=1
  ),
  'auto_attack': lambda x, e: attacks.auto_attack(
    logits_fn, KEY, x, LABELS, epsilon=e, batch_size=2
  ),
  'eot_pgd': lambda x, e: attacks.eot_pgd(
    lambda x, key: loss_fn(x),
    KEY,
    x,
    epsilon=e,
    step_size=0.1,
    num_steps=1,
    num_samples=1,
  ),
  'fab': lambda x, e: attacks.fab(
    logits_fn, KEY, x, LABELS, epsilon=e, num_steps=1
  ),
  'fgsm': lambda x, e: attacks.fgsm(loss_fn, x, epsilon=e),
  'interacting_particles': lambda x, e: attacks.interacting_particles(
    loss_fn, KEY, x, epsilon=e, step_size=0.1, num_steps=1
  ),
  'pgd': lambda x, e: attacks.pgd(
    loss_fn, KEY, x, epsilon=e, step_size=0.1, num_steps=1
  ),
  'square': lambda x, e: attacks.square(
    logits_fn, KEY, x, LABELS, epsilon=e, num_queries=1
  ),
  'udr': lambda x, e: attacks.udr(
    loss_fn, KEY, x, epsilon=e, multiplier=0.5, step_size=0.1, num_steps=1
  ),
}
PRICED = {
  'sinkhorn': lambda x, gamma: attacks.sinkhorn(
    loss_fn, x, gamma=gamma, epsilon=0.1, num_steps=1
  ),
  'wrm': lambda x, gamma: attacks.wrm(loss_fn, x, gamma=gamma),
}
INSIDE = jnp.full((2, 4), 0.5)


@pytest.mark.parametrize('name', [*RUNS, *PRICED])
@pytest.mark.parametrize('wrong', [1.5, -0.01, np.nan])
def test_inputs_outside_of_the_bounds_are_refused(name, wrong):
  run = (RUNS | PRICED)[name]
  with pytest.raises(ValueError, match=r'inputs must lie within the bounds'):
    run(INSIDE.at[1, 2].set(wrong), 0.1)


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.parametrize(
  ('radius', 'words'),
  [
    (jnp.float32(8.0), 'larger than the whole range'),
    (np.array([0.1, 16.0]), 'larger than the whole range'),
    (jnp.float32(-0.1), 'must be non-negative'),
    (jnp.float32(jnp.nan), 'must be non-negative'),
    (np.float16(-1), 'must be non-negative'),
  ],
)
def test_a_radius_that_is_none_is_refused(name, radius, words):
  with pytest.raises(ValueError, match=words):
    RUNS[name](INSIDE, radius)


@pytest.mark.parametrize('name', RUNS)
def test_a_radius_for_each_pixel_is_refused(name):
  with pytest.raises(ValueError, match=r'epsilon must be a scalar or have'):
    RUNS[name](INSIDE, jnp.full((2, 4), 0.1))


@pytest.mark.parametrize('name', PRICED)
@pytest.mark.parametrize('gamma', [jnp.float32(0), jnp.bfloat16(-1), np.nan])
def test_a_price_that_is_not_positive_is_refused(name, gamma):
  with pytest.raises(ValueError, match='gamma must be positive'):
    PRICED[name](INSIDE, gamma)


def test_rounding_is_within_the_bounds():
  inputs = INSIDE.at[0, 0].set(1 + 1.2e-7)
  assert RUNS['fgsm'](inputs, 0.1).max() <= inputs.max()


def test_other_bounds_have_another_range():
  inputs = jnp.full((2, 4), 100.0)
  adv = attacks.fgsm(loss_fn, inputs, epsilon=8.0, bounds=(0.0, 255.0))
  np.testing.assert_allclose(adv, 108)
