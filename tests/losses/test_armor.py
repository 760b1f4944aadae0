"""ARMOR: the dual and its game, the multiplier, many devices."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from scipy import optimize

from rrl_jax import attacks, losses
from tests.tiers import first

VALUES = np.array([0.3, 1.1, 0.7, 2.0, 0.6])
COSTS = np.array([0.0, 0.02, 0.5, 0.1, 0.05])
KW = {'cost_weight': 0.4, 'radius': 0.3}


armor_risk = jax.jit(losses.armor_risk)
armor_update = jax.jit(losses.armor_update)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def risk(lam, values=VALUES, costs=COSTS, **kw):
  state = losses.ArmorState(jnp.asarray(lam))
  return armor_risk(values, costs, state, **(KW | kw))


def reference(lam):
  s = VALUES / lam - KW['cost_weight'] * COSTS
  return KW['radius'] * lam + lam * np.log(np.mean(np.exp(s)))


@pytest.mark.parametrize('lam', [0.1, 1.0, 30.0])
def test_it_equals_its_equation_and_gradients(x64, lam):
  np.testing.assert_allclose(risk(lam), reference(lam), rtol=1e-12)
  slope = jax.grad(risk)(lam)
  step = 1e-6 * lam
  np.testing.assert_allclose(
    slope,
    (reference(lam + step) - reference(lam - step)) / (2 * step),
    atol=1e-6,
  )
  grad = jax.grad(lambda v: risk(lam, v))(VALUES)
  weights = jax.jit(losses.armor_weights)(
    VALUES, COSTS, losses.armor_init(lam), cost_weight=0.4
  )
  s = np.exp(VALUES / lam - 0.4 * COSTS)
  np.testing.assert_allclose(grad, s / s.sum(), rtol=1e-10)
  np.testing.assert_allclose(weights, 5 * s / s.sum(), rtol=1e-10)


def test_the_least_risk_is_the_worst_reweighting_in_the_budget(x64):
  least = optimize.minimize_scalar(
    reference, bounds=(1e-2, 50), method='bounded', options={'xatol': 1e-10}
  )
  used = lambda p: np.sum(p * np.log(5 * p)) + 0.4 * p @ COSTS
  worst = optimize.minimize(
    lambda p: -p @ VALUES,
    np.full(5, 0.2),
    bounds=[(1e-12, 1)] * 5,
    constraints=[
      {'type': 'eq', 'fun': lambda p: p.sum() - 1},
      {'type': 'ineq', 'fun': lambda p: KW['radius'] - used(p)},
    ],
    method='SLSQP',
    options={'ftol': 1e-14},
  )
  np.testing.assert_allclose(risk(least.x), -worst.fun, rtol=1e-6)
  # The update goes there from both sides and stays.
  update = jax.jit(
    lambda s: losses.armor_update(s, VALUES, COSTS, rate=0.3, **KW)
  )
  for start in (0.05, 20.0):
    state = losses.armor_init(start)
    for _ in range(60):
      state = update(state)
    np.testing.assert_allclose(state.multiplier, least.x, rtol=1e-5)


def test_moves_by_wrm_reach_the_inner_maximum_of_a_linear_loss(x64):
  # sup_z a.z - lam L |z-x|^2 / 2 = a.x + |a|^2 / (2 lam L).
  a, x = jnp.array([0.5, -1.0]), jnp.array([[0.4, 0.5], [0.6, 0.3]])
  lam, weight = 2.0, 3.0
  z = attacks.wrm(lambda z: z @ a, x, gamma=lam * weight)
  costs = losses.transport_cost(x, z)
  out = risk(lam, z @ a, costs, cost_weight=weight, radius=0.1)
  inner = (x @ a + 1.25 / (2 * lam * weight)) / lam
  expected = 0.1 * lam + lam * np.log(np.mean(np.exp(inner)))
  np.testing.assert_allclose(out, expected, rtol=1e-10)


@pytest.mark.fast
def test_limits_are_the_mean_and_the_maximum(x64):
  free = {'cost_weight': 0.0, 'radius': 0.0}
  np.testing.assert_allclose(risk(1e7, **free), VALUES.mean(), rtol=1e-6)
  np.testing.assert_allclose(risk(1e-4, **free), 2.0, rtol=1e-3)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extreme_and_equal_losses_stay_finite(dtype):
  for row in ([1e4, -1e4, 0], [5, 5, 5], [1e30, 0, -1e30]):
    values, costs = jnp.array(row, dtype), jnp.array([0, 1e4, 1], dtype)
    for lam in (1e-3, 1.0, 1e4):
      out, grads = jax.value_and_grad(risk, argnums=(0, 1))(lam, values, costs)
      state = armor_update(losses.armor_init(lam), values, costs, **KW)
      for leaf in (out, *grads, state.multiplier):
        assert np.isfinite(np.asarray(leaf, 'f')).all()


def test_masked_rows_count_for_nothing(x64):
  bad = np.insert(VALUES, 2, np.nan)
  costs = np.insert(COSTS, 2, np.inf)
  where = np.isfinite(bad)
  out, grad = jax.value_and_grad(lambda v: risk(0.7, v, costs, where=where))(
    bad
  )
  np.testing.assert_allclose(out, risk(0.7), rtol=1e-10)
  assert grad[2] == 0
  state = losses.armor_init(0.7)
  some = armor_update(state, bad, costs, where=where, **KW)
  plain = armor_update(state, VALUES, COSTS, **KW)
  np.testing.assert_allclose(some.multiplier, plain.multiplier, rtol=1e-10)
  none = armor_update(state, bad, costs, where=where & False, **KW)
  assert none.multiplier == state.multiplier


@pytest.mark.full
def test_eight_devices_agree_with_one(mesh, rng):
  values = jnp.asarray(rng.uniform(size=32), 'f')
  costs = jnp.asarray(rng.uniform(size=32), 'f')

  def total(lam, v):
    def spread(lam, v, c):
      state = losses.ArmorState(lam)
      out = losses.armor_risk(v, c, state, axis_name='data', **KW)
      new = losses.armor_update(state, v, c, axis_name='data', **KW)
      return jax.lax.pmean((out, new.multiplier), 'data')

    return jax.shard_map(
      spread, mesh=mesh, in_specs=(P(), P('data'), P('data')), out_specs=P()
    )(lam, v, costs)

  out = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(
    0.3, values
  )
  expected = jax.value_and_grad(
    lambda lam, v: (
      risk(lam, v, costs),
      losses.armor_update(
        losses.ArmorState(jnp.asarray(lam)), v, costs, **KW
      ).multiplier,
    ),
    argnums=(0, 1),
    has_aux=True,
  )(0.3, values)
  for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_wrong_arguments_are_named():
  state, row = losses.armor_init(), jnp.ones(3)
  with pytest.raises(ValueError, match='multiplier must lie in'):
    losses.armor_init(0.0)
  with pytest.raises(ValueError, match='cost_weight must lie in'):
    losses.armor_weights(row, row, state, cost_weight=-1.0)
  with pytest.raises(ValueError, match='radius must lie in'):
    losses.armor_risk(row, row, state, cost_weight=1.0, radius=-1.0)
  with pytest.raises(ValueError, match='shapes must be equal'):
    losses.armor_weights(row, row[:2], state, cost_weight=1.0)
