"""FAB: shortest moves onto planes, and nearest points of affine models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rrl_jax import attacks
from rrl_jax.attacks import _hyperplane
from tests.tiers import first

ORDER = {'linf': np.inf, 'l2': 2, 'l1': 1}
DUAL = {'linf': 1, 'l2': 2, 'l1': np.inf}
RNG = np.random.default_rng(5)
W = RNG.normal(size=(10, 4)).astype('f')
X = RNG.uniform(0.3, 0.7, size=(8, 10)).astype('f')


def affine(x):
  return x @ jnp.asarray(W, x.dtype)


Y = np.asarray(affine(X).argmax(axis=1))


def attack(logits_fn=affine, x=X, y=Y, **kw):
  kw = {'epsilon': 0.05} | kw
  run = lambda x, y: attacks.fab(logits_fn, None, x, y, **kw)
  return jax.jit(run)(x, y)


def shortest(w, gap, down, up, norm):
  """Size of the shortest move d with w d = gap in the box, by programming."""
  size = len(w)
  if norm == 'l2':
    found = scipy.optimize.minimize(
      lambda d: d @ d,
      np.zeros(size),
      jac=lambda d: 2 * d,
      bounds=list(zip(down, up, strict=True)),
      constraints={'type': 'eq', 'fun': lambda d: w @ d - gap},
      options={'ftol': 1e-14, 'maxiter': 500},
    )
    return np.sqrt(found.fun)
  if norm == 'l1':  # d = a - b.
    found = scipy.optimize.linprog(
      np.ones(2 * size),
      A_eq=[np.concatenate([w, -w])],
      b_eq=[gap],
      bounds=[(0, u) for u in up] + [(0, -d) for d in down],
    )
    return found.fun
  eye, one = np.eye(size), np.ones((size, 1))
  found = scipy.optimize.linprog(
    np.append(np.zeros(size), 1),
    A_ub=np.block([[eye, -one], [-eye, -one]]),
    b_ub=np.zeros(2 * size),
    A_eq=[np.append(w, 0)],
    b_eq=[gap],
    bounds=[*zip(down, up, strict=True), (0, None)],
  )
  return found.fun


@pytest.mark.parametrize('norm', ORDER)
def test_moves_onto_a_plane_are_the_shortest_in_the_box(norm):
  rng = np.random.default_rng(0)
  x = np.clip(rng.normal(0.5, 0.5, size=(40, 9)), 0, 1)
  w = rng.normal(size=(40, 9)) * (rng.uniform(size=(40, 9)) > 0.1)
  reach = np.where(w > 0, w * (1 - x), -w * x).sum(axis=1)
  gap = reach * rng.uniform(0.01, 0.97, size=40)
  with jax.enable_x64(True):
    d = np.asarray(
      _hyperplane.displacement(
        jnp.asarray(w), jnp.asarray(-gap[:, None]), -x, 1 - x, norm
      )
    )
  np.testing.assert_allclose((w * d).sum(axis=1), gap, atol=1e-12)
  assert (x + d).min() >= 0
  assert (x + d).max() <= 1
  size = np.linalg.norm(d, ORDER[norm], axis=1)
  expected = [shortest(w[i], gap[i], -x[i], 1 - x[i], norm) for i in range(40)]
  np.testing.assert_allclose(size, expected, rtol=1e-4)


@pytest.mark.parametrize('norm', ORDER)
def test_a_plane_out_of_reach_is_neared_as_far_as_the_box_goes(norm):
  w = jnp.array([[2.0, -1.0, 0.0]])
  d = _hyperplane.displacement(
    w, jnp.array([[-9.0]]), -0.25 * jnp.ones(w.shape), 0.75 + 0 * w, norm
  )
  np.testing.assert_array_equal(d, [[0.75, -0.25, 0.0]])
  flat = _hyperplane.displacement(
    0 * w, jnp.array([[1.0]]), 0 * w - 1, 0 * w + 1, norm
  )
  np.testing.assert_array_equal(flat, 0 * w)


@pytest.mark.parametrize('targeted', [False, True])
@pytest.mark.parametrize('norm', ORDER)
def test_finds_the_nearest_point_of_an_affine_model(norm, targeted):
  targets = (Y + 1) % 4 if targeted else None
  result = attack(norm=norm, targets=targets, bounds=None)
  logits = np.asarray(affine(X), float)
  sizes = np.full((8, 4), np.inf)
  for k in range(4):
    w = W[:, k, None] - W[:, Y]
    size = np.linalg.norm(w, ord=DUAL[norm], axis=0)
    gap = logits[np.arange(8), Y] - logits[:, k]
    sizes[:, k] = np.where(k == Y, np.inf, gap / np.where(k == Y, 1, size))
  nearest = sizes.min(axis=1)
  assert (result.distances >= nearest * (1 - 1e-5)).all()
  if not targeted:  # It ends beyond the border by half a percent or so.
    assert (result.distances <= nearest * 1.008).all()
    np.testing.assert_array_equal(result.robust, nearest > 0.05)
  delta = np.asarray(result.best_inputs) - X
  np.testing.assert_allclose(
    np.linalg.norm(delta, ORDER[norm], axis=1), result.distances, rtol=1e-5
  )
  assert (affine(result.best_inputs).argmax(axis=1) != Y).all()


@pytest.mark.fast
@pytest.mark.parametrize('norm', ORDER)
def test_robustness_falls_as_the_radius_grows(norm):
  run = jax.jit(
    lambda epsilon: (
      attacks.fab(
        affine, None, X, Y, epsilon=epsilon, norm=norm, num_steps=30
      ).robust
    )
  )
  flags = np.stack([run(e) for e in (0.0, 0.01, 0.05, 0.2, 0.8)])
  assert flags[0].all()
  assert (flags[1:] <= flags[:-1]).all()
  assert flags[-1].sum() < 8


@pytest.mark.parametrize('dtype', first(['float32', 'bfloat16']))
@pytest.mark.parametrize('norm', first(ORDER))
def test_stays_in_ball_and_bounds_exactly(norm, dtype):
  x = jnp.asarray(X, dtype).at[:2].set(0).at[2:4].set(1)
  y = np.asarray(affine(x).argmax(axis=1))
  epsilon = {'linf': 0.1, 'l2': 0.3, 'l1': 0.8}[norm]
  result = attack(x=x, y=y, norm=norm, epsilon=epsilon, num_steps=20)
  assert result.adv_inputs.dtype == dtype
  assert (~result.robust).any()
  delta = np.asarray(result.adv_inputs, float) - np.asarray(x, float)
  assert np.linalg.norm(delta, ord=ORDER[norm], axis=1).max() <= epsilon
  for points in (result.adv_inputs, result.best_inputs):
    assert float(points.min()) >= 0
    assert float(points.max()) <= 1
  wrong = affine(result.adv_inputs).argmax(axis=1) != y
  np.testing.assert_array_equal(wrong, ~result.robust)


@pytest.mark.full
def test_an_example_is_the_same_alone_and_in_any_batch():
  whole = attack(num_restarts=2)
  alone = attack(x=X[[5]], y=Y[[5]], num_restarts=2, example_ids=np.array([5]))
  np.testing.assert_allclose(
    alone.best_inputs[0], whole.best_inputs[5], atol=1e-5
  )


@pytest.mark.full
def test_restarts_find_nothing_farther():
  wavy = lambda x: jnp.sin(9 * x @ W) @ W[:4]
  y = np.asarray(wavy(X).argmax(axis=1))
  once = attack(wavy, y=y, num_steps=10)
  more = attack(wavy, y=y, num_steps=10, num_restarts=3)
  assert (more.distances <= once.distances).all()
  assert not (more.robust & ~once.robust).any()


def test_a_model_of_one_class_has_no_nearest_point():
  constant = lambda x: jnp.stack([1 + 0 * x[:, 0], 0 * x[:, 0]], axis=1)
  result = attack(constant, y=np.zeros(8, int), num_steps=5)
  assert result.robust.all()
  assert np.isinf(result.distances).all()
  np.testing.assert_array_equal(result.best_inputs, X)


def test_a_misclassified_clean_input_has_distance_zero():
  result = attack(y=(Y + 1) % 4, num_steps=3)
  assert not result.robust.any()
  np.testing.assert_array_equal(result.distances, 0)
  np.testing.assert_array_equal(result.best_inputs, X)


def test_wrong_arguments_are_named():
  for kwargs, error, words in (
    ({'norm': 'l3'}, ValueError, 'norm must be one of'),
    ({'num_restarts': 0}, ValueError, 'num_restarts must be at least 1'),
    ({'eta': 0.0}, ValueError, 'eta must be positive'),
    ({'bounds': 3}, ValueError, 'bounds must be two numbers'),
    ({'targets': np.full(8, 4)}, ValueError, 'targets must lie in 0..3'),
  ):
    with pytest.raises(error, match=words):
      attacks.fab(affine, None, X, Y, **({'epsilon': 0.1} | kwargs))
