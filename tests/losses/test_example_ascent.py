"""Weights over all examples: exact projections, the risk as their limit."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from scipy import optimize

from rrl_jax import losses
from tests.tiers import first

VALUES = np.array([0.3, 1.1, 0.75, 0.6, 2.0, 0.65, 0.1, 1.4])
N = len(VALUES)
CASES = [{'level': 0.3}, {'level': 1.0}, {'radius': 0.3}, {'radius': 0.0}]
IDS = np.arange(N)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def risk(kw):
  fun = losses.cvar_risk if 'level' in kw else losses.chi2_risk
  return fun(jnp.asarray(VALUES), **kw)


update = jax.jit(losses.example_weights_update)


def start(dtype=jnp.float64):
  return losses.example_weights_init(N, dtype)


@pytest.mark.parametrize('kw', first(CASES), ids=str)
def test_the_game_ends_at_the_risk(x64, kw):
  body = lambda _, state: losses.example_weights_update(
    state, VALUES, IDS, step_size=0.1, **kw
  )
  state = jax.jit(lambda s: jax.lax.fori_loop(0, 1500, body, s))(start())
  np.testing.assert_allclose(state.probs.sum(), 1, rtol=1e-9)
  np.testing.assert_allclose(state.probs @ VALUES, risk(kw), rtol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize('kw', [CASES[0], CASES[2]], ids=str)
def test_small_batches_go_there_as_well(x64, rng, kw):
  draws = rng.integers(N, size=(8000, 2))

  def body(carry, ids):
    state, total = carry
    new = losses.example_weights_update(
      state, jnp.asarray(VALUES)[ids], ids, step_size=0.01, **kw
    )
    return (new, total + new.probs), None

  (_, total), _ = jax.jit(lambda s: jax.lax.scan(body, s, draws))(
    (start(), jnp.zeros(N))
  )
  np.testing.assert_allclose(total @ VALUES / 8000, risk(kw), rtol=0.03)


def project(q, distance, room, cap):
  found = optimize.minimize(
    distance,
    np.full(N, 1 / N),
    bounds=[(0, cap)] * N,
    constraints=[
      {'type': 'eq', 'fun': lambda p: p.sum() - 1},
      {'type': 'ineq', 'fun': room},
    ],
    method='SLSQP',
    options={'maxiter': 1000, 'ftol': 1e-15},
  )
  return found.x


@pytest.mark.parametrize('kw', [{'radius': 0.05}, {'radius': 5.0}], ids=str)
def test_a_step_projects_on_the_ball(x64, kw):
  chi2 = lambda p: np.sum((N * p - 1) ** 2) / (2 * N)
  state = start()
  for _ in range(2):
    q = np.asarray(state.probs) + np.minimum(0.4 * VALUES, 0.7) / N
    state = update(state, VALUES, IDS, step_size=0.4, clip=0.7, **kw)
    want = project(
      q,
      lambda p, q=q: N * np.sum((p - q) ** 2),
      lambda p: kw['radius'] - chi2(p),
      1,
    )
    np.testing.assert_allclose(state.probs, want, atol=1e-5)
    assert chi2(np.asarray(state.probs)) <= kw['radius'] + 1e-9


def test_a_step_projects_on_the_cap_by_its_divergence(x64):
  state = start()
  for _ in range(2):
    q = np.asarray(state.probs) * np.exp(np.minimum(0.9 * VALUES, 1.0))
    kl = lambda p, q=q: np.sum(
      np.maximum(p, 1e-300) * np.log(np.maximum(p, 1e-300) / q)
    )
    state = update(state, VALUES, IDS, step_size=0.9, level=0.6)
    want = project(q, kl, lambda p: 1.0, 1 / (0.6 * N))
    np.testing.assert_allclose(state.probs, want, atol=1e-5)


def test_absent_and_masked_rows_do_not_move_and_repeats_add_up():
  state = start(jnp.float32)
  ids = np.array([4, 4, -1, N, 2])
  values = jnp.array([1.0, 3.0, jnp.nan, jnp.inf, jnp.nan])
  where = np.array([True, True, True, True, False])
  kw = {'step_size': 0.01, 'radius': 5.0}
  out = update(state, values, ids, where=where, **kw)
  twice = update(state, jnp.array([2.0, 2.0]), np.array([4, 4]), **kw)
  np.testing.assert_allclose(out.probs, twice.probs, rtol=1e-6)
  np.testing.assert_allclose(N * out.probs[4], 1 + 0.16 * 7 / 8, rtol=1e-5)
  none = update(state, values, ids, where=where & False, **kw)
  np.testing.assert_allclose(none.probs, state.probs, rtol=1e-6)


@pytest.mark.parametrize('kw', CASES, ids=str)
@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extremes_stay_a_distribution(kw, dtype):
  state = start(jnp.float32)
  for row in ([1e4, 0, 1, 1e4], [1e30, -1e30, 0, 0], [0, 0, 0, 0]):
    for _ in range(3):
      state = update(
        state,
        jnp.array(row, dtype),
        np.array([0, 1, 2, 0]),
        step_size=1.0,
        **kw,
      )
      assert np.isfinite(state.probs).all()
      assert (np.asarray(state.probs) >= 0).all()
      np.testing.assert_allclose(state.probs.sum(), 1, rtol=1e-5)


def test_eight_devices_agree_with_one(mesh, rng):
  values = jnp.asarray(rng.uniform(size=32), 'f')
  ids = jnp.asarray(rng.integers(N, size=32))
  where = jnp.arange(32) % 5 > 0
  kw = {'step_size': 0.3, 'level': 0.5}
  spread = jax.shard_map(
    lambda s, v, i, w: losses.example_weights_update(
      s, v, i, where=w, axis_name='data', **kw
    ),
    mesh=mesh,
    in_specs=(P(), P('data'), P('data'), P('data')),
    out_specs=P(),
    check_vma=False,
  )
  out = jax.jit(spread)(start(jnp.float32), values, ids, where)
  whole = update(start(jnp.float32), values, ids, where=where, **kw)
  np.testing.assert_allclose(out.probs, whole.probs, rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'words'),
  [
    ({}, 'exactly one of level and radius'),
    ({'level': 0.5, 'radius': 1.0}, 'exactly one of level and radius'),
    ({'level': 0.0}, 'level must lie in'),
    ({'radius': 1.0, 'clip': 0.0}, 'clip must lie in'),
    ({'radius': 1.0, 'step_size': -1.0}, 'step_size must lie in'),
  ],
)
def test_wrong_arguments_are_named(kw, words):
  kw = {'step_size': 0.1} | kw
  with pytest.raises(ValueError, match=words) as caught:
    losses.example_weights_update(start(jnp.float32), jnp.ones(8), IDS, **kw)
  assert '\n' not in str(caught.value)
