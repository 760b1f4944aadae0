"""WRM on quadratics, where the worst case is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks
from tests.tiers import first

D = 5
RNG = np.random.default_rng(3)
ROOT = np.linalg.qr(RNG.normal(size=(D, D)))[0]
EIGENVALUES = np.array([-1.0, -0.4, 0.1, 0.6, 1.0])
A = (ROOT * EIGENVALUES) @ ROOT.T  # Curvature within L = 1, both signs.
B = RNG.normal(size=D)
X = RNG.uniform(size=(4, D))


def quadratic(z):
  a, b = jnp.asarray(A, z.dtype), jnp.asarray(B, z.dtype)
  return z @ b + 0.5 * jnp.sum((z @ a) * z, axis=1)


def exact(x, gamma):
  """``(argmax, value)`` of loss(z) - gamma/2 |z - x|^2, gamma > L."""
  z = np.linalg.solve(gamma * np.eye(D) - A, (gamma * x + B).T).T
  return z, value(z) - gamma / 2 * np.sum((z - x) ** 2, axis=1)


def value(z):
  return z @ B + 0.5 * np.sum((z @ A) * z, axis=1)


def attack(x, gamma, loss_fn=quadratic, **kw):
  kw = {'bounds': None, 'unroll': 1} | kw
  run = jax.jit(lambda x, gamma: attacks.wrm(loss_fn, x, gamma=gamma, **kw))
  return run(x, gamma)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def test_one_step_is_the_gradient_over_gamma(x64):
  z = attack(X, 3.0)
  np.testing.assert_allclose(z, X + (X @ A + B) / 3, rtol=1e-12)


@pytest.mark.parametrize('gamma', first([1.2, 2.0, 10.0]))
def test_converges_to_the_worst_case_at_the_stated_rate(x64, gamma):
  best, _ = exact(X, gamma)
  gap = lambda t: np.linalg.norm(attack(X, gamma, num_steps=t) - best)
  start = np.linalg.norm(X - best)
  for steps in (1, 3, 10):
    assert gap(steps) <= start * gamma**-steps * (1 + 1e-9)  # L = 1.
  np.testing.assert_allclose(attack(X, gamma, num_steps=300), best, atol=1e-12)


@pytest.mark.parametrize('gamma', [2.0, 5.0, 20.0])
def test_the_worst_case_lies_between_its_bounds(x64, gamma):
  # l + |g|^2/(2(gamma+L)) <= phi <= l + |g|^2/(2(gamma-L)).
  z = attack(X, gamma, num_steps=200)
  phi = value(z) - gamma / 2 * np.sum(np.square(z - X), axis=1)
  np.testing.assert_allclose(phi, exact(X, gamma)[1], rtol=1e-10)
  slope = np.sum((X @ A + B) ** 2, axis=1)
  assert (phi >= value(X) + slope / (2 * (gamma + 1))).all()
  assert (phi <= value(X) + slope / (2 * (gamma - 1))).all()


@pytest.mark.parametrize('gamma', [2.0, 5.0, 20.0])
def test_one_step_reaches_its_guaranteed_share(x64, gamma):
  z = attack(X, gamma)
  phi = value(z) - gamma / 2 * np.sum(np.square(z - X), axis=1)
  slope = np.sum((X @ A + B) ** 2, axis=1)
  share = 1 / gamma - (gamma + 1) / (2 * gamma**2)
  assert (phi >= value(X) + share * slope - 1e-12).all()
  assert (phi <= exact(X, gamma)[1] + 1e-12).all()


def test_bounds_give_the_constrained_worst_case(x64):
  # A separable loss: clipping the free maximiser is exact.
  curve = np.array([-0.5, 0.2, 0.7, -0.1, 0.4])
  loss_fn = lambda z: jnp.sum(5 * B * z + 0.5 * curve * jnp.square(z), axis=1)
  with jax.numpy_rank_promotion('allow'):
    z = attack(X, 3.0, loss_fn, num_steps=100, bounds=(0.0, 1.0))
  free = (3 * X + 5 * B) / (3 - curve)
  np.testing.assert_allclose(z, np.clip(free, 0, 1), atol=1e-9)
  assert ((free < 0) | (free > 1)).any()  # The bounds do bind.


def test_a_given_step_size_replaces_all_steps(x64):
  z = X
  for _ in range(3):
    z = z + 0.1 * (z @ A + B - 4.0 * (z - X))
  got = attack(X, 4.0, num_steps=3, step_size=0.1)
  np.testing.assert_allclose(got, z, rtol=1e-12)


def test_a_high_price_gives_the_clean_examples():
  x = X.astype('f')
  np.testing.assert_allclose(attack(x, 1e8), x, atol=1e-6)
  np.testing.assert_array_equal(attack(x, np.inf, num_steps=3), x)


@pytest.mark.fast
def test_no_step_is_the_identity():
  x = X.astype('f')
  np.testing.assert_array_equal(attack(x, 1.0, num_steps=0), x)


def test_each_example_may_have_its_own_price():
  x, gammas = X.astype('f'), np.array([1.5, 2.0, 8.0, 100.0], 'f')
  z = attack(x, gammas, num_steps=4)
  for i in range(4):
    alone = attack(x[i : i + 1], gammas[i], num_steps=4)
    np.testing.assert_allclose(z[i : i + 1], alone, atol=1e-5)


def test_an_example_does_not_depend_on_its_batch():
  x = X.astype('f')
  loss_fn = lambda z: jnp.sum(jnp.sin(3 * z), axis=1)
  whole = attack(x, 5.0, loss_fn, num_steps=3)
  part = attack(x[[2, 0]], 5.0, loss_fn, num_steps=3)
  np.testing.assert_array_equal(part, whole[jnp.array([2, 0])])


@pytest.mark.parametrize('gamma', [1e-30, 1e-3])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_a_low_price_stays_finite_and_in_bounds(dtype, gamma):
  x = jnp.asarray(X, dtype)
  z = attack(x, gamma, bounds=(0.1, 0.9), num_steps=4)
  assert z.dtype == dtype
  z = np.asarray(z, np.float64)
  inside = (X >= 0.11) & (X <= 0.89)
  assert (z[inside] >= 0.1).all()
  assert (z[inside] <= 0.9).all()
  assert np.isfinite(np.asarray(attack(x, gamma, num_steps=4), 'f')).all()


def test_written_out_and_rolled_loops_agree():
  x = X.astype('f')
  rolled = attack(x, 3.0, num_steps=6)
  for unroll in (None, True, 4):
    np.testing.assert_allclose(
      attack(x, 3.0, num_steps=6, unroll=unroll), rolled, atol=1e-6
    )


@pytest.mark.parametrize(
  ('kwargs', 'error', 'words'),
  [
    ({'gamma': 0.0}, ValueError, 'gamma must be positive'),
    ({'gamma': -1.0}, ValueError, 'gamma must be positive'),
    ({'step_size': 0.0}, ValueError, 'step_size must be positive'),
    ({'num_steps': -1}, ValueError, 'num_steps must be at least 0'),
    ({'bounds': (1.0, 1.0)}, ValueError, 'in order'),
    ({'loss_fn': lambda z: z}, ValueError, 'one loss an example'),
    ({'inputs': np.ones((2, 3), int)}, TypeError, 'floating'),
  ],
)
def test_wrong_arguments_are_named(kwargs, error, words):
  kwargs = {
    'loss_fn': quadratic,
    'inputs': X.astype('f'),
    'gamma': 2.0,
  } | kwargs
  with pytest.raises(error, match=words) as caught:
    attacks.wrm(kwargs.pop('loss_fn'), kwargs.pop('inputs'), **kwargs)
  assert '\n' not in str(caught.value)
