"""Learned thresholds: slopes of the duals, the risk where they stand still."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

VALUES = np.array([0.3, 1.1, 0.75, 0.6, 2.0, 0.65, 0.1, 1.4])
CASES = [
  {'level': 0.3},
  {'level': 0.3, 'penalty': 0.4},
  {'penalty': 0.4},
  {'radius': 0.3},
]


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def of(kw, kind):
  return getattr(losses, ('cvar' if 'level' in kw else 'chi2') + '_' + kind)


def dual(kw, values, eta):
  return jnp.mean(of(kw, 'dual')(values, eta, **kw))


@pytest.mark.parametrize('kw', first(CASES), ids=str)
@pytest.mark.parametrize('eta', first([-0.7, 0.5, 1.2, 3.0]))
def test_a_step_goes_down_the_slope_of_the_dual(x64, kw, eta):
  state = losses.risk_threshold_init(eta)
  new = of(kw, 'threshold_update')(state, VALUES, step_size=0.01, **kw)
  slope = jax.grad(lambda e: dual(kw, VALUES, e))(eta)
  if eta == 3.0 and 'radius' in kw:
    slope = 1.0  # Above all losses.
  np.testing.assert_allclose(new.eta, eta - 0.01 * slope, rtol=1e-9)


@pytest.mark.parametrize('kw', CASES, ids=str)
def test_it_stands_still_where_the_dual_is_the_risk(x64, kw):
  @jax.jit
  def learn(state):
    def body(t, state):
      step = 0.3 / jnp.sqrt(1.0 + t)
      return of(kw, 'threshold_update')(state, VALUES, step_size=step, **kw)

    return jax.lax.fori_loop(0, 20_000, body, state)

  risk = of(kw, 'risk')(VALUES, **kw)
  for start in (-2.0, 4.0):
    state = learn(losses.risk_threshold_init(start))
    smooth = kw != CASES[0]
    np.testing.assert_allclose(
      dual(kw, VALUES, state.eta), risk, atol=1e-9 if smooth else 5e-3
    )
    slope = jax.grad(lambda e: dual(kw, VALUES, e))(state.eta)
    if smooth:
      np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_single_examples_find_the_risk_of_all_of_them(x64, rng):
  # Steps of one example are unbiased: the average goes to the quantile.
  order = rng.integers(len(VALUES), size=20_000)

  def body(carry, row):
    state, t = carry
    new = losses.cvar_threshold_update(
      state, row[None], level=0.3, penalty=0.4, step_size=1 / (t + 10)
    )
    return (new, t + 1), None

  start = losses.risk_threshold_init(0.0), 0.0
  (state, _), _ = jax.lax.scan(body, start, jnp.asarray(VALUES)[order])
  kw = CASES[1]
  risk = of(kw, 'risk')(VALUES, **kw)
  np.testing.assert_allclose(dual(kw, VALUES, state.eta), risk, atol=1e-3)


@pytest.mark.fast
def test_model_and_threshold_together_go_to_the_least_risk(x64):
  # Mean of the worst 40% of |x - theta| over five points, least at the middle.
  points = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0])
  fit = lambda theta: jnp.square(points - theta) / 2

  @jax.jit
  def learn(theta, state):
    def body(t, carry):
      theta, state = carry
      step = 0.5 / jnp.sqrt(1.0 + t)
      state = losses.cvar_threshold_update(
        state, fit(theta), level=0.4, step_size=step
      )
      slope = jax.grad(
        lambda th: losses.cvar_dual(fit(th), state.eta, level=0.4).mean()
      )(theta)
      return theta - step * slope, state

    return jax.lax.fori_loop(0, 3000, body, (theta, state))

  theta, _ = learn(0.3, losses.risk_threshold_init())
  np.testing.assert_allclose(theta, 2.0, atol=2e-2)


@functools.cache
def compiled(case):
  kw = CASES[case]
  return jax.jit(
    lambda eta, v, where: of(kw, 'threshold_update')(
      losses.RiskThresholdState(eta), v, step_size=0.5, where=where, **kw
    )
  )


@pytest.mark.parametrize('case', range(4))
@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extremes_and_masks_stay_finite(case, dtype):
  run = compiled(case)
  for row in ([1e4, -1e4, 0, 1], [1e30, -1e30, 0, 0], [3, 3, 3, 3]):
    for eta in (0.0, -1e4, 1e30):
      where = np.array([True, True, False, True])
      v = jnp.array(row, dtype).at[2].set(jnp.nan)
      eta = jnp.float32(eta)
      assert np.isfinite(run(eta, v, where).eta)
      assert run(eta, v, where & False).eta == eta
      rest = run(eta, v.at[2].set(v[0]), np.ones(4, bool)).eta
      assert np.isfinite(rest)
  # No gradient leaves it.
  grad = jax.grad(lambda v: run(jnp.float32(0), v, np.ones(4, bool)).eta)(
    jnp.ones(4)
  )
  assert not np.asarray(grad).any()


@pytest.mark.parametrize('case', range(4))
def test_eight_devices_agree_with_one(mesh, rng, case):
  kw = CASES[case]
  values = jnp.asarray(rng.uniform(size=32), 'f')
  where = jnp.arange(32) % 5 > 0
  state = losses.risk_threshold_init(0.4)

  def update(state, v, w, axis_name=None):
    return of(kw, 'threshold_update')(
      state, v, step_size=0.1, where=w, axis_name=axis_name, **kw
    )

  spread = jax.shard_map(
    lambda s, v, w: update(s, v, w, 'data'),
    mesh=mesh,
    in_specs=(P(), P('data'), P('data')),
    out_specs=P(),
  )
  np.testing.assert_allclose(
    jax.jit(spread)(state, values, where).eta,
    update(state, values, where).eta,
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  ('call', 'words'),
  [
    (
      lambda s, v: losses.cvar_threshold_update(s, v, level=0.0, step_size=0.1),
      'level must lie in',
    ),
    (
      lambda s, v: losses.cvar_threshold_update(s, v, level=0.5, step_size=0.0),
      'step_size must lie in',
    ),
    (
      lambda s, v: losses.chi2_threshold_update(s, v, step_size=0.1),
      'exactly one of penalty and radius',
    ),
    (
      lambda s, v: losses.chi2_threshold_update(
        s, v[None], step_size=0.1, radius=1.0
      ),
      'must have rank 1',
    ),
  ],
)
def test_wrong_arguments_are_named(call, words):
  with pytest.raises(ValueError, match=words) as caught:
    call(losses.risk_threshold_init(), jnp.ones(3))
  assert '\n' not in str(caught.value)
