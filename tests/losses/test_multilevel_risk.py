"""Multilevel CVaR and chi-square: unbiased by enumeration, in closed form."""

import itertools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

VALUES = np.array([0.0, 1.0, 0.4])  # What a loss may be, with these chances:
CHANCES = np.array([0.6, 0.4]), np.array([0.5, 0.2, 0.3])
SLOPES = np.array([1.0, -2.0, 0.5])  # Of these losses in a parameter.
CVAR = [{'level': 0.3}, {'level': 0.5, 'penalty': 0.2}]
CHI2 = [{'penalty': 0.4}, {'radius': 0.3}]


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def names(kw):
  kind = 'cvar' if 'level' in kw else 'chi2'
  return (getattr(losses, f'{kind}_{n}') for n in ('multilevel', 'risk'))


def expected(fun, size, kinds):
  """Expected value and slope over all draws of a batch, without sampling."""
  draws = np.array(list(itertools.product(range(kinds), repeat=size)))
  chances = np.prod(CHANCES[kinds - 2][draws], axis=1)
  model = lambda t, d: fun(jnp.asarray(VALUES + t * SLOPES)[d])
  both = jax.jit(jax.vmap(jax.value_and_grad(model), (None, 0)))(0.0, draws)
  return np.array([chances @ part for part in both])


@pytest.mark.parametrize(('base_size', 'kinds'), first([(1, 3), (2, 2)]))
@pytest.mark.parametrize('kw', first(CVAR + CHI2), ids=str)
def test_a_random_level_is_unbiased_in_value_and_slope(
  x64, kw, base_size, kinds
):
  multilevel, risk = names(kw)
  levels = [base_size, 2 * base_size, 4 * base_size]
  whole = expected(lambda v: risk(v, **kw), levels[-1], kinds)

  def estimate(size, prob, **more):
    fun = lambda v: multilevel(
      v, base_size=base_size, level_prob=prob, **kw, **more
    )
    return prob * expected(fun, size, kinds)

  probs = losses.multilevel_probs(2)
  terms = [estimate(n, q) for n, q in zip(levels, probs, strict=True)]
  np.testing.assert_allclose(sum(terms), whole, rtol=1e-9)
  # The risk of a small batch is low, and the corrections shrink.
  assert terms[0][0] < whole[0]
  assert terms[1][0] > 0
  assert terms[2][0] > 0
  if base_size > 1:  # With a base that is always there, levels start at 1.
    probs = losses.multilevel_probs(1)
    terms = [
      estimate(n, q, add_base=True)
      for n, q in zip(levels[1:], probs, strict=True)
    ]
    np.testing.assert_allclose(sum(terms), whole, rtol=1e-9)


@pytest.mark.parametrize('kw', first(CVAR + CHI2), ids=str)
def test_it_equals_its_equation_and_its_gradient_is_its_slope(x64, rng, kw):
  multilevel, risk = names(kw)
  v = rng.normal(size=16)
  fun = jax.jit(
    lambda v: multilevel(v, base_size=4, level_prob=0.25, add_base=True, **kw)
  )

  @jax.jit
  def equation(v):
    halves = (risk(v[:8], **kw) + risk(v[8:], **kw)) / 2
    return (risk(v, **kw) - halves) / 0.25 + risk(v[:4], **kw)

  np.testing.assert_allclose(fun(v), equation(v), rtol=1e-10)
  check_grads(fun, (v,), order=1, modes=['rev'], atol=1e-5, rtol=1e-5)


def test_one_batch_of_the_base_size_is_its_risk_over_its_probability(x64):
  alone = losses.cvar_multilevel(VALUES, level=0.5, base_size=3, level_prob=0.5)
  risk = losses.cvar_risk(VALUES, level=0.5)
  np.testing.assert_allclose(alone, 2 * risk, rtol=1e-12)


def test_two_examples_have_a_closed_form(x64):
  # Level 1/2: the larger, less the mean of both; chi2: the same below radius.
  pair = np.array([0.2, 1.0])
  out = losses.cvar_multilevel(pair, level=0.5)
  np.testing.assert_allclose(out, 0.4, rtol=1e-12)
  out = losses.chi2_multilevel(pair, radius=0.02)
  np.testing.assert_allclose(out, np.sqrt(2 * 0.02) * 0.4, rtol=1e-9)
  out = losses.chi2_multilevel(pair, penalty=3.0)
  np.testing.assert_allclose(out, 0.16 / 6, rtol=1e-9)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extremes_and_masks_stay_finite(dtype):
  @jax.jit
  def run(v, where):
    return {
      str(kw): jax.value_and_grad(
        lambda v, kw=kw: next(names(kw))(
          v, base_size=2, add_base=True, where=where, level_prob=0.1, **kw
        ).astype('f')
      )(v)
      for kw in CVAR + CHI2
    }

  rows = ([1e4, -1e4, 0, 1], [3, 3, 3, 3], [1e30, -1e30, 0, 0])
  for row in rows:
    for where in ([1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]):
      where = np.array(where, bool)
      v = jnp.where(where, jnp.array(row, dtype), jnp.nan)
      for name, (value, grad) in run(v, where).items():
        assert np.isfinite(value), name
        assert np.isfinite(np.asarray(grad, 'f')).all(), name
        assert not np.asarray(grad, 'f')[~where].any(), name


@pytest.mark.full
@pytest.mark.parametrize('kw', first([CVAR[0], CHI2[1]]), ids=str)
def test_eight_devices_agree_with_one(mesh, rng, kw):
  values = jnp.asarray(rng.uniform(size=32), 'f')
  fun, _ = names(kw)
  kw = kw | {'base_size': 2, 'level_prob': 0.5, 'add_base': True}

  def total(v):
    spread = lambda v: jax.lax.pmean(fun(v, axis_name='data', **kw), 'data')
    return jax.shard_map(spread, mesh=mesh, in_specs=P('data'), out_specs=P())(
      v
    )

  out = jax.jit(jax.value_and_grad(total))(values)
  whole = jax.value_and_grad(lambda v: fun(v, **kw))(values)
  for a, b in zip(out, whole, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('call', 'words'),
  [
    (lambda v: losses.cvar_multilevel(v, level=0.5), r'got 6'),
    (
      lambda v: losses.chi2_multilevel(v, radius=1.0, base_size=4),
      r'base_size \* 2\*\*k = 4',
    ),
    (
      lambda v: losses.cvar_multilevel(
        v, level=0.5, base_size=6, add_base=True
      ),
      'add_base needs a level of 1 or more',
    ),
    (
      lambda v: losses.cvar_multilevel(v, level=0.5, base_size=0),
      'base_size must lie in',
    ),
    (
      lambda v: losses.chi2_multilevel(v, radius=1.0, level_prob=0.0),
      'level_prob must lie in',
    ),
    (
      lambda v: losses.chi2_multilevel(v, base_size=3),
      'exactly one of penalty and radius',
    ),
  ],
)
def test_wrong_arguments_are_named(call, words):
  with pytest.raises(ValueError, match=words) as caught:
    call(jnp.ones(6))
  assert '\n' not in str(caught.value)
