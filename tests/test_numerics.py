"""The pieces equal the obvious formulas and stay finite where those do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import numerics


def test_norm_is_the_euclidean_one(rng):
  x = rng.normal(size=(3, 4, 5))
  for axis in (0, -1, (1, 2), None):
    np.testing.assert_allclose(
      numerics.safe_norm(jnp.asarray(x, jnp.float32), axis),
      np.sqrt(np.sum(x**2, axis=axis)),
      rtol=1e-6,
    )


def test_norm_has_a_zero_gradient_at_zero_and_a_unit_one_elsewhere():
  grad = jax.grad(lambda x: numerics.safe_norm(x))
  np.testing.assert_array_equal(grad(jnp.zeros(3)), 0)
  np.testing.assert_allclose(
    grad(jnp.array([3.0, 0.0, 4.0])), [0.6, 0, 0.8], rtol=1e-6
  )


@pytest.mark.parametrize('scale', [1e-30, 1e30])
def test_norm_neither_overflows_nor_underflows(scale):
  x = jnp.array([3.0, 4.0]) * scale
  np.testing.assert_allclose(numerics.safe_norm(x), 5 * scale, rtol=1e-5)
  np.testing.assert_allclose(
    jax.grad(lambda x: numerics.safe_norm(x))(x), [0.6, 0.8], rtol=1e-5
  )


def test_masked_mean_leaves_out_what_is_masked():
  x = jnp.array([1.0, jnp.inf, 3.0])
  where = jnp.array([True, False, True])
  np.testing.assert_allclose(numerics.masked_mean(x, where), 2.0)
  np.testing.assert_allclose(
    jax.grad(lambda x: numerics.masked_mean(x, where))(x), [0.5, 0, 0.5]
  )


def test_masked_mean_of_nothing_is_zero_with_zero_gradient():
  nothing = jnp.zeros(2, bool)
  mean = lambda x: numerics.masked_mean(x, nothing)
  assert mean(jnp.ones(2)) == 0
  np.testing.assert_array_equal(jax.grad(mean)(jnp.ones(2)), 0)


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_masked_mean_of_more_than_16_bits_can_count(dtype):
  x, where = jnp.ones(70_000, dtype), jnp.ones(70_000, bool)
  for mask in (None, where, where.at[257:].set(False)):
    mean = numerics.masked_mean(x, mask)
    assert mean == 1
    assert mean.dtype == dtype
  grad = jax.grad(lambda x: numerics.masked_mean(x, where))(x)
  assert grad.dtype == dtype
  np.testing.assert_allclose(grad.astype(float), 1 / 70_000, rtol=5e-3)


@pytest.mark.fast
def test_mean_without_a_mask_is_the_mean(rng):
  x = rng.normal(size=5)
  np.testing.assert_allclose(
    numerics.masked_mean(jnp.asarray(x, jnp.float32)), x.mean(), rtol=1e-6
  )
