"""FGSM: one step of PGD without a random start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks

W = np.random.default_rng(7).normal(size=(12,)).astype('f')
X = np.random.default_rng(0).uniform(size=(6, 12)).astype('f')


def loss_fn(z):
  return jnp.sin(z.astype(jnp.float32) @ W)


GRADS = np.asarray(jax.grad(lambda z: loss_fn(z).sum())(X))


def test_linf_steps_along_the_sign():
  z = attacks.fgsm(loss_fn, X, epsilon=0.1)
  expected = np.clip(X + 0.1 * np.sign(GRADS), 0, 1)
  np.testing.assert_allclose(z, expected, atol=1e-7)


def test_l2_steps_along_the_unit_gradient():
  z = attacks.fgsm(loss_fn, X, epsilon=0.3, norm='l2')
  unit = GRADS / np.linalg.norm(GRADS, axis=1, keepdims=True)
  np.testing.assert_allclose(z, np.clip(X + 0.3 * unit, 0, 1), atol=2e-6)


def test_l1_spends_the_radius_on_the_steepest_coordinates():
  z = attacks.fgsm(loss_fn, X, epsilon=1.5, norm='l1')
  for x, grad, moved in zip(X, GRADS, np.asarray(z - X), strict=True):
    left, expected = 1.5, np.zeros(12)
    for i in np.argsort(-np.abs(grad)):
      move = min(left, 1 - x[i] if grad[i] > 0 else x[i])
      expected[i], left = np.sign(grad[i]) * move, left - move
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize(
  ('norm', 'order'), [('linf', np.inf), ('l2', 2), ('l1', 1)]
)
def test_stays_in_ball_and_bounds_exactly_in_bfloat16(norm, order):
  x = jnp.asarray(X, jnp.bfloat16)
  z = attacks.fgsm(loss_fn, x, epsilon=8 / 255, norm=norm)
  assert z.dtype == x.dtype
  delta = np.asarray(z, float) - np.asarray(x, float)
  assert np.linalg.norm(delta, ord=order, axis=1).max() <= 8 / 255
  assert float(z.min()) >= 0
  assert float(z.max()) <= 1
  assert np.abs(delta).max() > 0


@pytest.mark.fast
def test_an_unknown_norm_is_named():
  with pytest.raises(ValueError, match='norm must be one of') as caught:
    attacks.fgsm(loss_fn, X, epsilon=0.1, norm='inf')
  assert '\n' not in str(caught.value)
