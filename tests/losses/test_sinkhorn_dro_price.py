"""The learned price of Sinkhorn DRO is the one that a search finds."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
import numpy as np
import pytest
from scipy import optimize, special

from rrl_jax import losses
from tests.tiers import first

EPSILON = 0.1
risk = jax.jit(losses.sinkhorn_dro_risk)
update = jax.jit(losses.sinkhorn_dro_update)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def objective(rows, price, radius):
  """``lambda rho + lambda eps E log E exp(loss / (lambda eps))``."""
  heat = price * EPSILON
  logs = special.logsumexp(rows / heat, axis=1) - np.log(rows.shape[1])
  return price * radius + heat * logs.mean()


def search(rows, radius):
  found = optimize.minimize_scalar(
    lambda log: objective(rows, np.exp(log), radius),
    bounds=(-8, 8),
    method='bounded',
    options={'xatol': 1e-10},
  )
  return np.exp(found.x), found.fun


def learn(rows, radius, start, rate, num_steps):
  body = lambda _, state: losses.sinkhorn_dro_update(
    state, rows, epsilon=EPSILON, radius=radius, rate=rate
  )
  return jax.jit(lambda s: jax.lax.fori_loop(0, num_steps, body, s))(
    losses.sinkhorn_dro_init(start)
  )


@pytest.mark.parametrize('radius', first([0.003, 0.03, 0.1]))
def test_it_goes_to_the_price_of_least_risk(x64, rng, radius):
  rows = rng.normal(size=(5, 12)) * rng.uniform(0.2, 2, size=(5, 1))
  price, value = search(rows, radius)
  for start in (1e-2, 1.0, 1e3):
    state = learn(rows, radius, start, rate=0.4, num_steps=200)
    np.testing.assert_allclose(state.penalty, price, rtol=1e-4)
    found = risk(rows, state, epsilon=EPSILON, radius=radius)
    np.testing.assert_allclose(found, value, rtol=1e-9)


def test_the_risk_is_its_equation_and_its_gradient_is_its_slope(x64, rng):
  rows = rng.normal(size=(3, 6))
  state = losses.sinkhorn_dro_init(1.7)
  out = risk(rows, state, epsilon=EPSILON, radius=0.05)
  np.testing.assert_allclose(out, objective(rows, 1.7, 0.05), rtol=1e-10)
  check_grads(
    lambda v, s: risk(
      v, losses.SinkhornDROState(s), epsilon=EPSILON, radius=0.05
    ),
    (rows, state.log_penalty),
    order=1,
    modes=['rev'],
  )
  fixed = losses.sinkhorn_dro(rows, penalty=1.7, epsilon=EPSILON)
  np.testing.assert_allclose(out, 1.7 * 0.05 + fixed.mean(), rtol=1e-10)


def test_gradient_descent_on_the_state_goes_there_too(x64, rng):
  rows = rng.normal(size=(5, 12))
  price, _ = search(rows, 0.03)
  slope = jax.grad(
    lambda s: losses.sinkhorn_dro_risk(
      rows, losses.SinkhornDROState(s), epsilon=EPSILON, radius=0.03
    )
  )
  log = jax.jit(
    lambda s: jax.lax.fori_loop(0, 2000, lambda _, s: s - 2.0 * slope(s), s)
  )(jnp.asarray(0.0))
  np.testing.assert_allclose(jnp.exp(log), price, rtol=1e-4)


def test_the_least_risk_is_the_worst_law_in_the_ball(x64, rng):
  # Weights of samples with mean eps * KL of at most the radius, by SLSQP.
  rows, radius = rng.normal(size=(2, 4)), 0.02
  start = np.full(rows.size, 1 / rows.shape[1])

  def room(p):
    p = np.maximum(p, 1e-300).reshape(rows.shape)
    kl = np.sum(p * np.log(p * rows.shape[1]), axis=1)
    return radius - EPSILON * kl.mean()

  found = optimize.minimize(
    lambda p: -p @ rows.ravel() / len(rows),
    start,
    bounds=[(0, 1)] * rows.size,
    constraints=[
      {'type': 'eq', 'fun': lambda p: p.reshape(rows.shape).sum(1) - 1},
      {'type': 'ineq', 'fun': room},
    ],
    method='SLSQP',
    options={'maxiter': 500, 'ftol': 1e-14},
  )
  state = learn(rows, radius, 1.0, rate=0.4, num_steps=200)
  out = risk(rows, state, epsilon=EPSILON, radius=radius)
  np.testing.assert_allclose(out, -found.fun, atol=1e-6)


def test_a_linear_loss_has_the_price_of_its_closed_form(key):
  # F = a.x + |a|^2 / (2 lambda): the best lambda is |a| / sqrt(2 rho).
  a, x = jnp.array([0.6, -0.8]), jnp.array([[0.2, 0.5]])
  z = losses.sinkhorn_dro_samples(key, x, epsilon=EPSILON, num_samples=20_000)
  state = learn(z @ a, 0.02, 1.0, rate=0.4, num_steps=60)
  np.testing.assert_allclose(state.penalty, 1 / np.sqrt(0.04), rtol=0.03)


def test_minibatches_and_fresh_noise_find_it_as_well(key):
  a, x = jnp.array([0.6, -0.8]), jnp.array([[0.2, 0.5]])

  def body(t, state):
    z = losses.sinkhorn_dro_samples(
      jax.random.fold_in(key, t), x, epsilon=EPSILON, num_samples=256
    )
    return losses.sinkhorn_dro_update(
      state, z @ a, epsilon=EPSILON, radius=0.02, rate=0.05
    )

  run = jax.jit(lambda s: jax.lax.fori_loop(0, 200, body, s))
  state = run(losses.sinkhorn_dro_init(30.0))
  np.testing.assert_allclose(state.penalty, 5.0, rtol=0.1)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extremes_and_masks_stay_finite(dtype):
  @jax.jit
  def run(rows, log, where):
    state = losses.SinkhornDROState(log)
    kw = {'epsilon': EPSILON, 'radius': 0.05, 'where': where}
    new = losses.sinkhorn_dro_update(state, rows, **kw)
    return new, jax.value_and_grad(
      lambda v, s: losses.sinkhorn_dro_risk(
        v, losses.SinkhornDROState(s), **kw
      ),
      (0, 1),
    )(rows, log)

  rows = (
    jnp.array(
      [[1e4, -1e4, 0, 1], [3, 3, 3, 3], [1e30, -1e30, 0, 0], [0, 0, 0, 0]],
      dtype,
    )
    .at[1]
    .set(jnp.nan)
  )
  where = np.array([True, False, True, True])
  for log in (-9.0, 0.0, 9.0):
    out = run(rows, jnp.float32(log), where)
    for leaf in jax.tree.leaves(out):
      assert np.isfinite(np.asarray(leaf, 'f')).all()
    assert not np.asarray(out[1][1][0], 'f')[1].any()
    new, (value, _) = run(rows, jnp.float32(log), where & False)
    assert new.log_penalty == log
    np.testing.assert_allclose(value, 0.05 * np.exp(log), rtol=1e-5)


@pytest.mark.full
def test_eight_devices_agree_with_one(mesh, rng):
  rows = jnp.asarray(rng.normal(size=(32, 4)), 'f')
  where = jnp.arange(32) % 5 > 0
  kw = {'epsilon': EPSILON, 'radius': 0.05}

  def spread(log, v, w):
    state = losses.SinkhornDROState(log)
    out = losses.sinkhorn_dro_risk(v, state, where=w, axis_name='data', **kw)
    new = losses.sinkhorn_dro_update(state, v, where=w, axis_name='data', **kw)
    return jax.lax.pmean((out, new.log_penalty), 'data')

  def total(log, v):
    return jax.shard_map(
      spread, mesh=mesh, in_specs=(P(), P('data'), P('data')), out_specs=P()
    )(log, v, where)

  def alone(log, v):
    state = losses.SinkhornDROState(jnp.asarray(log))
    new = losses.sinkhorn_dro_update(state, v, where=where, **kw)
    out = losses.sinkhorn_dro_risk(v, state, where=where, **kw)
    return out, new.log_penalty

  out, want = (
    jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(0.3, rows)
    for f in (total, alone)
  )
  for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.fast
def test_wrong_arguments_are_named():
  state, rows = losses.sinkhorn_dro_init(), jnp.ones((2, 3))
  with pytest.raises(ValueError, match='penalty must lie in'):
    losses.sinkhorn_dro_init(0.0)
  with pytest.raises(ValueError, match='radius must lie in'):
    losses.sinkhorn_dro_update(state, rows, epsilon=0.1, radius=0.0)
  with pytest.raises(ValueError, match='epsilon must lie in'):
    losses.sinkhorn_dro_risk(rows, state, epsilon=0.0, radius=0.1)
  with pytest.raises(ValueError, match='losses must have rank 2'):
    losses.sinkhorn_dro_risk(rows[0], state, epsilon=0.1, radius=0.1)
