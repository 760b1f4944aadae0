"""Projections against a solver that knows only the constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rrl_jax import attacks
from tests.tiers import first

NORMS = ('linf', 'l2', 'l1')
project = jax.jit(attacks.project, static_argnames=('norm', 'bounds'))
fixed = jax.jit(attacks.project, static_argnames=('norm', 'bounds', 'epsilon'))


def size_of(delta, norm):
  delta = np.abs(np.asarray(delta, np.float64)).reshape(len(delta), -1)
  return {
    'linf': delta.max(1),
    'l2': np.sqrt((delta**2).sum(1)),
    'l1': delta.sum(1),
  }[norm]


def nearest(y, x, epsilon, norm, bounds):
  """The projection by SLSQP in terms of up and down moves, float64."""
  d = x.size
  if norm == 'l1':  # delta = up - down keeps the constraint smooth.
    join = lambda v: v[:d] - v[d:]
    start = np.zeros(2 * d)
    inside = lambda v: epsilon - v.sum()
    limits = [(0, bounds[1] - c) for c in x] + [(0, c - bounds[0]) for c in x]
  else:
    join = lambda v: v
    start = np.zeros(d)
    inside = lambda v: epsilon**2 - v @ v
    limits = [(bounds[0] - c, bounds[1] - c) for c in x]
  result = optimize.minimize(
    lambda v: np.sum((x + join(v) - y) ** 2),
    start,
    bounds=limits,
    constraints=[{'type': 'ineq', 'fun': inside}],
    method='SLSQP',
    options={'maxiter': 1000, 'ftol': 1e-15},
  )
  return x + join(result.x)


@pytest.mark.parametrize('epsilon', [0.1, 0.6, 1.2])
@pytest.mark.parametrize('norm', ['l2', 'l1'])
def test_is_the_nearest_point_of_ball_and_box(rng, norm, epsilon):
  x = rng.uniform(size=(6, 5)).round(1)
  y = x + rng.normal(size=x.shape)
  with jax.enable_x64(True):
    z = project(y, x, epsilon=epsilon, norm=norm, bounds=(0.0, 1.0))
  expected = [
    nearest(b, a, epsilon, norm, (0, 1)) for a, b in zip(x, y, strict=True)
  ]
  np.testing.assert_allclose(z, expected, atol=2e-6)


@pytest.mark.fast
def test_linf_clips_to_ball_and_box(rng):
  x = rng.uniform(size=(4, 7)).astype('f')
  y = x + rng.normal(size=x.shape).astype('f')
  z = project(y, x, epsilon=0.3, norm='linf', bounds=(0.0, 1.0))
  expected = np.clip(np.clip(y, x - 0.3, x + 0.3), 0, 1)
  np.testing.assert_allclose(z, expected, atol=1e-6)


def test_without_bounds_l2_rescales_and_l1_thresholds(rng):
  with jax.enable_x64(True):
    y = 3 * rng.normal(size=(5, 8))
    z = project(y, np.zeros_like(y), epsilon=0.7, norm='l2', bounds=None)
    size = np.linalg.norm(y, axis=1, keepdims=True)
    np.testing.assert_allclose(z, y * 0.7 / size, rtol=1e-12)
    z = project(y, np.zeros_like(y), epsilon=0.7, norm='l1', bounds=None)
    # Duchi et al. 2008: the threshold from the sorted magnitudes.
    for row, got in zip(y, z, strict=True):
      mu = np.sort(np.abs(row))[::-1]
      levels = (np.cumsum(mu) - 0.7) / np.arange(1, 9)
      theta = levels[np.nonzero(mu > levels)[0][-1]]
      expected = np.sign(row) * np.maximum(np.abs(row) - theta, 0)
      np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize('norm', NORMS)
def test_a_point_inside_stays_where_it_is(rng, norm):
  x = rng.uniform(0.2, 0.8, size=(3, 4, 2)).astype('f')
  y = x + rng.uniform(-0.01, 0.01, size=x.shape).astype('f')
  z = project(y, x, epsilon=0.1, norm=norm, bounds=(0.0, 1.0))
  np.testing.assert_allclose(z, y, atol=1e-7)
  again = project(z, x, epsilon=0.1, norm=norm, bounds=(0.0, 1.0))
  np.testing.assert_allclose(again, z, atol=1e-7)


@pytest.mark.parametrize('norm', NORMS)
def test_no_radius_gives_the_centre_to_the_bit(rng, norm):
  x = rng.uniform(size=(3, 5)).astype('f')
  z = project(x + 1, x, epsilon=0.0, norm=norm, bounds=(0.0, 1.0))
  np.testing.assert_array_equal(z, x)


@pytest.mark.parametrize('norm', NORMS)
def test_each_example_may_have_its_own_radius(rng, norm):
  x = rng.uniform(size=(3, 5)).astype('f')
  y = x + rng.normal(size=x.shape).astype('f')
  radii = np.array([0.0, 0.1, 0.4], 'f')
  z = project(y, x, epsilon=radii, norm=norm, bounds=(0.0, 1.0))
  for i in range(3):
    alone = project(
      y[i : i + 1], x[i : i + 1], epsilon=radii[i], norm=norm, bounds=(0.0, 1.0)
    )
    np.testing.assert_array_equal(z[i : i + 1], alone)


@pytest.mark.parametrize('dtype', first(['float32', 'bfloat16', 'float16']))
@pytest.mark.parametrize('norm', first(NORMS))
def test_ball_and_bounds_hold_exactly_after_rounding(rng, norm, dtype):
  # Measured in float64, against the radius as written.
  x = jnp.asarray(rng.uniform(size=(64, 30)), dtype)
  x = x.at[:8].set(0).at[8:16].set(1).at[16:24].multiply(1e-3)
  y = x + jnp.asarray(rng.normal(size=x.shape), dtype)
  for epsilon in (8 / 255, 0.3, 1.7):
    z = fixed(y, x, epsilon=epsilon, norm=norm, bounds=(0.0, 1.0))
    assert z.dtype == dtype
    exact = np.asarray(z, np.float64) - np.asarray(x, np.float64)
    assert (size_of(exact, norm) <= epsilon).all()
    z = np.asarray(z, np.float64)
    assert ((z >= 0) & (z <= 1)).all()
    # And not for want of moving: most of the radius is used up.
    assert np.median(size_of(exact, norm)) > 0.8 * min(
      epsilon, {'linf': 0.9, 'l2': 1.7, 'l1': 1.7}[norm]
    )


def test_bounds_that_a_dtype_cannot_hold_are_rounded_inwards(rng):
  x = jnp.asarray(rng.uniform(0.2, 0.6, size=(8, 9)), jnp.bfloat16)
  y = x + jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16)
  z = project(y, x, epsilon=2.0, norm='linf', bounds=(0.1, 0.7))
  z = np.asarray(z, np.float64)
  assert z.min() >= 0.1
  assert z.max() <= 0.7


@pytest.mark.parametrize(
  ('kwargs', 'error', 'words'),
  [
    ({'norm': 'l0'}, ValueError, 'norm must be one of linf, l2, l1'),
    ({'epsilon': -0.1}, ValueError, 'epsilon must be non-negative'),
    ({'bounds': (1.0, 0.0)}, ValueError, 'bounds must be in order'),
    ({'bounds': 3}, ValueError, 'bounds must be two numbers'),
    ({'inputs': np.ones((2, 4), 'f')}, ValueError, 'differ in shape'),
    ({'inputs': np.ones((2, 3), int)}, TypeError, 'floating'),
    ({'inputs': np.ones(3, 'f')}, ValueError, r'shape \[B'),
  ],
)
def test_wrong_arguments_are_named(kwargs, error, words):
  kwargs = {'inputs': np.ones((2, 3), 'f'), 'epsilon': 0.1} | kwargs
  with pytest.raises(error, match=words) as caught:
    attacks.project(np.ones((2, 3), 'f'), **kwargs)
  assert '\n' not in str(caught.value)
