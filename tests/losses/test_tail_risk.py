"""CVaR and chi-square over examples: solvers, duals, limits, many devices."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from scipy import optimize

from rrl_jax import losses
from tests.tiers import first

VALUES = np.array([0.3, 1.1, 0.75, 0.6, 2.0, 0.6, 0.1, 1.4])
M = len(VALUES)
CVAR = [{'level': a} for a in (0.05, 0.3, 0.5, 0.9, 1.0)]
SOFT = [{'level': a, 'penalty': b} for a, b in ((0.2, 0.1), (0.5, 1.0), (1, 2))]
CHI2 = [{'penalty': x} for x in (0.05, 0.4, 3.0)]
BALL = [{'radius': x} for x in (0.0, 0.02, 0.3, 1.0, 2.0)]


WEIGHTS = [jax.jit(losses.cvar_weights), jax.jit(losses.chi2_weights)]
RISKS = [jax.jit(losses.cvar_risk), jax.jit(losses.chi2_risk)]
DUALS = [jax.jit(losses.cvar_dual), jax.jit(losses.chi2_dual)]


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def is_cvar(kw):
  return 'level' in kw


def weights_of(values, kw, **more):
  return WEIGHTS[not is_cvar(kw)](values, **kw, **more)


def risk_of(values, kw, **more):
  if 'axis_name' in more:
    fun = losses.cvar_risk if is_cvar(kw) else losses.chi2_risk
    return fun(values, **kw, **more)
  return RISKS[not is_cvar(kw)](values, **kw, **more)


def dual_of(values, eta, kw):
  return DUALS[not is_cvar(kw)](values, eta, **kw).mean()


def solve(kw):
  """Maximiser and value from the definition, by SLSQP."""
  cap = 1 / (kw['level'] * M) if is_cvar(kw) else 1.0
  chi2 = lambda p: np.sum((M * p - 1) ** 2) / (2 * M)

  def value(p):
    out = p @ VALUES
    if is_cvar(kw) and 'penalty' in kw:
      p = np.maximum(p, 1e-300)
      return out - kw['penalty'] * np.sum(p * np.log(M * p))
    return out - kw.get('penalty', 0) * chi2(p)

  constraints = [{'type': 'eq', 'fun': lambda p: p.sum() - 1}]
  if 'radius' in kw:
    constraints.append(
      {'type': 'ineq', 'fun': lambda p: kw['radius'] - chi2(p)}
    )
  result = optimize.minimize(
    lambda p: -value(p),
    np.full(M, 1 / M),
    bounds=[(0, cap)] * M,
    constraints=constraints,
    method='SLSQP',
    options={'maxiter': 1000, 'ftol': 1e-14},
  )
  return result.x, -result.fun


@pytest.mark.parametrize('kw', first(CVAR + SOFT + CHI2 + BALL, 4), ids=str)
def test_it_solves_the_game_and_equals_its_dual(x64, kw):
  weights = np.asarray(weights_of(VALUES, kw))
  risk, grad = jax.value_and_grad(lambda v: risk_of(v, kw))(VALUES)
  np.testing.assert_allclose(weights.mean(), 1, rtol=1e-12)
  assert (weights >= 0).all()
  np.testing.assert_allclose(grad, weights / M, rtol=1e-12)
  reference, value = solve(kw)
  np.testing.assert_allclose(risk, value, atol=2e-7)
  if kw not in CVAR + BALL[:1]:  # There the maximiser is not unique, or sharp.
    np.testing.assert_allclose(weights / M, reference, atol=2e-4)
  best = optimize.minimize_scalar(
    lambda e: dual_of(VALUES, e, kw),
    bounds=(-1e4 if kw.get('radius') == 0.0 else -6, 3),
    method='bounded',
    options={'xatol': 1e-11},
  )
  np.testing.assert_allclose(
    best.fun, risk, atol=1e-4 if kw.get('radius') == 0.0 else 1e-7
  )
  for eta in (-1.0, 0.2, 0.9, 5.0):
    assert dual_of(VALUES, eta, kw) >= risk - 1e-9


@pytest.mark.parametrize('kw', first(CVAR + CHI2 + BALL[1:3], 3), ids=str)
def test_it_is_the_response_over_concepts_of_equal_prior(x64, kw):
  prior = jnp.full(M, 1 / M)
  if 'radius' in kw:
    p, _ = losses.concept_best_response_in_ball(
      VALUES, prior, radius=kw['radius'], divergence='chi2'
    )
  else:
    p = losses.concept_best_response(
      VALUES,
      prior,
      temperature=kw.get('level', kw.get('penalty')),
      divergence='cvar' if is_cvar(kw) else 'chi2',
    )
  np.testing.assert_allclose(weights_of(VALUES, kw) / M, p, atol=1e-9)


@pytest.mark.full
def test_ties_share_and_equal_losses_are_uniform():
  tied = jnp.array([2.0, 1.0, 1.0, 0.0])
  np.testing.assert_allclose(
    WEIGHTS[0](tied, level=0.5), [2, 1, 1, 0], rtol=1e-6
  )
  for value in (0.0, 7.0, -1e4):
    for kw in CVAR + SOFT + CHI2 + BALL:
      out = weights_of(jnp.full(5, value), kw)
      np.testing.assert_allclose(out, np.ones(5), rtol=1e-5)


@pytest.mark.fast
def test_a_ball_that_holds_the_worst_alone_gives_it():
  out = WEIGHTS[1](jnp.asarray(VALUES, 'f'), radius=3.5)
  np.testing.assert_allclose(out, M * (VALUES == 2.0), atol=1e-5)


def test_limits_are_the_mean_and_the_maximum(x64):
  np.testing.assert_allclose(
    RISKS[0](VALUES, level=1.0), VALUES.mean(), rtol=1e-12
  )
  np.testing.assert_allclose(RISKS[0](VALUES, level=1e-3), 2.0)
  np.testing.assert_allclose(RISKS[1](VALUES, penalty=1e-9), 2.0)
  soft = WEIGHTS[0](VALUES, level=0.3, penalty=1e-9)
  hard = WEIGHTS[0](VALUES, level=0.3)
  np.testing.assert_allclose(soft, hard, atol=1e-6)
  whole = RISKS[0](VALUES, level=1e-6, penalty=0.5)
  log_mean = 0.5 * np.log(np.mean(np.exp(VALUES / 0.5)))
  np.testing.assert_allclose(whole, log_mean, rtol=1e-9)
  # Small radius and large penalty: mean and variance.
  np.testing.assert_allclose(
    RISKS[1](VALUES, radius=1e-3),
    VALUES.mean() + np.sqrt(2e-3 * VALUES.var()),
    rtol=1e-12,
  )
  np.testing.assert_allclose(
    RISKS[1](VALUES, penalty=20.0),
    VALUES.mean() + VALUES.var() / 40,
    rtol=1e-12,
  )


@functools.cache
def compiled(name, dtype):
  kw = (CVAR[1], SOFT[0], CHI2[0], BALL[2])[name]

  def everything(values, eta):
    dual = lambda v, e: dual_of(v, e, kw)
    return (
      weights_of(values, kw),
      jax.value_and_grad(lambda v: risk_of(v, kw).astype('f'))(values),
      jax.value_and_grad(dual, argnums=(0, 1))(values, eta),
    )

  return jax.jit(everything)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
@pytest.mark.parametrize('name', range(4))
def test_extremes_stay_finite_in_value_and_gradient(name, dtype):
  for row in (
    [1e4, -1e4, 0, 1],
    [1e30, -1e30, 0, 1],
    [0, 0, 0, 0],
    [1e-30, 0, 0, -1e-30],
    [1e4, 1e4, 1e4, 1e4],
  ):
    values = jnp.array(row, dtype)
    for eta in (values[0].astype('f'), jnp.zeros(())):
      out = compiled(name, dtype)(values, eta)
      for leaf in jax.tree.leaves(out):
        assert np.isfinite(np.asarray(leaf, 'f')).all()
    np.testing.assert_allclose(out[0].mean(), 1, rtol=1e-4)


@pytest.mark.parametrize(
  'kw', first([CVAR[1], SOFT[0], CHI2[1], BALL[2]]), ids=str
)
def test_masked_rows_count_for_nothing(x64, kw):
  bad = np.insert(VALUES, [2, 5], [np.nan, np.inf])
  where = np.isfinite(bad)
  out = np.asarray(weights_of(bad, kw, where=where))
  np.testing.assert_allclose(out[where], weights_of(VALUES, kw), rtol=1e-9)
  assert (out[~where] == 0).all()
  risk, grad = jax.value_and_grad(lambda v: risk_of(v, kw, where=where))(bad)
  np.testing.assert_allclose(risk, risk_of(VALUES, kw), rtol=1e-9)
  assert (np.asarray(grad)[~where] == 0).all()
  nobody = np.zeros(len(bad), bool)
  np.testing.assert_array_equal(weights_of(bad, kw, where=nobody), 0 * where)
  assert risk_of(bad, kw, where=nobody) == 0


@pytest.mark.full
@pytest.mark.parametrize('kw', [CVAR[1], SOFT[0], CHI2[1], BALL[2]], ids=str)
def test_eight_devices_agree_with_one(mesh, rng, kw):
  values = jnp.asarray(rng.uniform(size=32), 'f')
  where = jnp.arange(32) % 5 > 0

  def total(v, w):
    spread = lambda v, w: jax.lax.pmean(
      risk_of(v, kw, where=w, axis_name='data'), 'data'
    )
    return jax.shard_map(spread, mesh=mesh, in_specs=P('data'), out_specs=P())(
      v, w
    )

  out = jax.jit(jax.value_and_grad(total))(values, where)
  whole = jax.value_and_grad(lambda v: risk_of(v, kw, where=where))(values)
  for a, b in zip(out, whole, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_spread_dual_agrees_with_one_device(mesh, rng):
  values = jnp.asarray(rng.uniform(size=32), 'f')

  def total(v, eta):
    spread = lambda v, eta: jax.lax.pmean(
      losses.chi2_dual(v, eta, radius=0.3, axis_name='data'), 'data'
    )
    return jax.shard_map(
      spread, mesh=mesh, in_specs=(P('data'), P()), out_specs=P()
    )(v, eta)

  whole = lambda v, eta: losses.chi2_dual(v, eta, radius=0.3)
  out, expected = (
    jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(values, 0.4)
    for f in (total, whole)
  )
  for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ('call', 'words'),
  [
    (lambda v: losses.cvar_weights(v, level=0.0), 'level must lie in'),
    (lambda v: losses.cvar_risk(v, level=2.0), 'level must lie in'),
    (
      lambda v: losses.cvar_dual(v, 0.0, level=0.5, penalty=0.0),
      'penalty must lie in',
    ),
    (lambda v: losses.chi2_weights(v), 'exactly one of penalty and radius'),
    (
      lambda v: losses.chi2_risk(v, penalty=1.0, radius=1.0),
      'exactly one of penalty and radius',
    ),
    (lambda v: losses.chi2_dual(v, 0.0, radius=-1.0), 'radius must lie in'),
    (lambda v: losses.chi2_weights(v[None], radius=1.0), 'must have rank 1'),
    (lambda v: losses.cvar_weights(v[:0], level=0.5), 'at least one example'),
  ],
)
def test_wrong_arguments_are_named(call, words):
  with pytest.raises(ValueError, match=words) as caught:
    call(jnp.asarray(VALUES, 'f'))
  assert '\n' not in str(caught.value)
