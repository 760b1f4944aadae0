"""The cost of moving an example, and the price that holds a radius."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_the_cost_is_half_the_squared_distance(rng, dtype):
  x = jnp.asarray(rng.normal(size=(3, 4, 2)), dtype)
  z = jnp.asarray(rng.normal(size=(3, 4, 2)), dtype)
  gap = np.asarray(z, np.float64) - np.asarray(x, np.float64)
  cost = losses.transport_cost(x, z)
  assert cost.dtype == jnp.float32
  np.testing.assert_allclose(cost, (gap**2).sum((1, 2)) / 2, rtol=1e-5)


def test_the_gradient_of_the_cost_is_the_displacement(rng):
  x, z = jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32)
  grad = jax.grad(lambda z: jnp.sum(losses.transport_cost(x, z)))(z)
  np.testing.assert_allclose(grad, z - x, rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize('rate', [0.1, 0.5])
@pytest.mark.parametrize('start', [1e-3, 30.0])
def test_gamma_settles_where_the_mean_cost_is_the_radius(start, rate):
  slopes, radius = jnp.array([0.5, 2.0, 1.0]), 0.02

  def body(_, gamma):
    moved = slopes / gamma  # One adversarial step on a linear loss.
    cost = jnp.mean(jnp.square(moved)) / 2
    return losses.adapt_gamma(gamma, cost, radius=radius, rate=rate)

  gamma = jax.jit(lambda g: jax.lax.fori_loop(0, 150, body, g))(start)
  np.testing.assert_allclose(
    gamma, np.sqrt(np.mean(np.square(slopes)) / (2 * radius)), rtol=1e-4
  )


def test_gamma_rises_with_an_overspending_adversary_and_falls_otherwise():
  step = lambda cost: losses.adapt_gamma(2.0, cost, radius=0.1, rate=0.3)
  assert step(0.2) > 2
  assert step(0.05) < 2
  np.testing.assert_allclose(step(0.1), 2, rtol=1e-6)


@pytest.mark.parametrize('cost', [0.0, 1e-30, 3e38])
def test_gamma_stays_positive_and_within_a_factor(cost):
  gamma = losses.adapt_gamma(jnp.float32(2.0), cost, radius=0.1, rate=0.5)
  assert 2 / np.sqrt(10.1) < gamma < 2 * np.sqrt(10.1)
  held = losses.adapt_gamma(2.0, cost, radius=0.1, rate=9.0, bounds=(1.0, 3.0))
  assert 1 <= held <= 3


def test_wrong_arguments_are_named():
  with pytest.raises(ValueError, match='radius must lie'):
    losses.adapt_gamma(1.0, 1.0, radius=0.0)
  with pytest.raises(ValueError, match='bounds must be positive'):
    losses.adapt_gamma(1.0, 1.0, radius=1.0, bounds=(0.0, 1.0))
  with pytest.raises(ValueError, match='shapes must be equal'):
    losses.transport_cost(jnp.ones((2, 3)), jnp.ones((2, 4)))
  with pytest.raises(TypeError, match='floating'):
    losses.transport_cost(jnp.ones((2, 3)), jnp.ones((2, 3), int))
