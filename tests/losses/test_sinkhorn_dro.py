"""Sinkhorn DRO: closed forms, the multilevel estimate, extremes."""

import itertools

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

dro = jax.jit(losses.sinkhorn_dro)
multilevel = jax.jit(losses.sinkhorn_dro_multilevel)
samples = jax.jit(losses.sinkhorn_dro_samples, static_argnames='num_samples')


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def reference(row, temperature):
  return temperature * np.log(np.mean(np.exp(row / temperature)))


@pytest.mark.parametrize('temperature', [0.2, 1.0, 50.0])
def test_it_equals_its_equation(x64, rng, temperature):
  rows = rng.normal(size=(4, 7))
  kw = {'penalty': temperature / 0.1, 'epsilon': 0.1}
  out = dro(rows, **kw)
  expected = [reference(row, temperature) for row in rows]
  np.testing.assert_allclose(out, expected, rtol=1e-10)
  check_grads(
    lambda v, a, b: dro(v, penalty=a, epsilon=b),
    (rows, kw['penalty'], kw['epsilon']),
    order=1,
    modes=['rev'],
  )


def test_limits_are_the_mean_and_the_largest(rng):
  rows = jnp.asarray(rng.normal(size=(3, 8)), 'f')
  np.testing.assert_allclose(
    dro(rows, penalty=1e6, epsilon=1.0),
    rows.mean(1),
    atol=1e-5,
  )
  np.testing.assert_allclose(
    dro(rows, penalty=1e-6, epsilon=1.0),
    rows.max(1),
    atol=1e-5,
  )


def test_a_linear_loss_has_its_closed_form(x64, key):
  # E exp(a.z / T) of a Gaussian: a.x + |a|^2 / (2 lambda), as WRM's surrogate.
  a, x = jnp.array([0.6, -0.8]), jnp.array([[0.2, 0.5]])
  z = samples(key, x, epsilon=0.3, num_samples=40_000)
  out = dro(z @ a, penalty=2.0, epsilon=0.3)
  np.testing.assert_allclose(out, x @ a + 0.25, atol=0.02)


def test_samples_have_the_law_and_repeat_by_example(key):
  x = jnp.arange(6.0).reshape(3, 2)
  z = samples(key, x, epsilon=0.25, num_samples=2000)
  np.testing.assert_allclose(z.mean(1), x, atol=0.05)
  np.testing.assert_allclose(z.std(1), np.full((3, 2), 0.5), atol=0.03)
  fewer = samples(
    key,
    x[1:2],
    epsilon=0.25,
    num_samples=4,
    example_ids=jnp.array([1]),
  )
  np.testing.assert_allclose(fewer[0], z[1, :4], rtol=1e-6)


def test_levels_add_up_to_the_expectation_of_the_highest(x64):
  # A loss of two values: expectations over all draws, without sampling.
  values, kw = np.array([0.0, 1.0]), {'penalty': 2.0, 'epsilon': 0.1}

  def expected(fun, level):
    draws = np.array(list(itertools.product(values, repeat=2**level)))
    return float(jnp.mean(fun(draws, **kw)))

  levels = [expected(multilevel, k) for k in range(4)]
  for top in range(4):
    np.testing.assert_allclose(
      sum(levels[: top + 1]), expected(dro, top), rtol=1e-10
    )
  # Corrections are positive and shrink; the plain estimate is low.
  assert levels[1] > levels[2] > levels[3] > 0
  assert sum(levels) < reference(values, 0.2)


def test_a_random_level_is_unbiased_for_the_highest(x64):
  kw = {'penalty': 2.0, 'epsilon': 0.1}
  probs = losses.multilevel_probs(2)
  np.testing.assert_allclose(probs, np.array([4, 2, 1]) / 7)
  values = np.array([0.0, 1.0])
  total = 0.0
  for level, prob in enumerate(probs):
    draws = np.array(list(itertools.product(values, repeat=2**level)))
    out = multilevel(draws, level_prob=prob, **kw)
    total += prob * float(out.mean())
  draws = np.array(list(itertools.product(values, repeat=4)))
  top = dro(draws, **kw).mean()
  np.testing.assert_allclose(total, top, rtol=1e-12)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extreme_and_equal_losses_stay_finite(dtype):
  rows = jnp.array(
    [[1e4, -1e4, 0, 1], [3, 3, 3, 3], [-1e4] * 4, [1e30, -1e30, 0, 0]], dtype
  )

  @jax.jit
  def both(rows, penalty):
    out = {}
    for fun in (losses.sinkhorn_dro, losses.sinkhorn_dro_multilevel):
      total = lambda v, fun=fun: fun(v, penalty=penalty, epsilon=0.1).sum()
      out[fun.__name__] = jax.value_and_grad(total)(rows)
    return out

  for penalty in (1e-4, 1.0, 1e4):
    for leaf in jax.tree.leaves(both(rows, penalty)):
      assert np.isfinite(np.asarray(leaf, 'f')).all()
  equal = dro(rows[1:3], penalty=1.0, epsilon=0.1)
  np.testing.assert_allclose(equal, rows[1:3, 0].astype('f'), rtol=1e-6)


@pytest.mark.parametrize('fun', first([dro, multilevel]))
def test_a_mask_stops_value_and_gradient(fun, rng):
  rows = jnp.asarray(rng.normal(size=(3, 4)), 'f').at[1].set(jnp.nan)
  where = jnp.array([True, False, True])

  @jax.jit
  def both(rows):
    out, pull = jax.vjp(
      lambda v: fun(v, penalty=2.0, epsilon=0.5, where=where), rows
    )
    return out, *pull(jnp.ones(3))

  out, grad = both(rows)
  alone = fun(rows[::2], penalty=2.0, epsilon=0.5)
  np.testing.assert_allclose(out[::2], alone, rtol=1e-6)
  assert out[1] == 0
  assert (grad[1] == 0).all()
  assert np.isfinite(grad).all()


@pytest.mark.fast
@pytest.mark.parametrize(
  ('call', 'words'),
  [
    (
      lambda v: losses.sinkhorn_dro(v, penalty=0.0, epsilon=1.0),
      'penalty must lie in',
    ),
    (
      lambda v: losses.sinkhorn_dro(v[0], penalty=1.0, epsilon=1.0),
      'losses must have rank 2',
    ),
    (
      lambda v: losses.sinkhorn_dro_multilevel(v, penalty=1.0, epsilon=1.0),
      r'2\*\*k samples a row, got 3',
    ),
    (lambda v: losses.multilevel_probs(-1), 'max_level must lie in'),
    (
      lambda v: losses.sinkhorn_dro_samples(
        jax.random.key(0), v, epsilon=1.0, num_samples=0
      ),
      'num_samples must lie in',
    ),
  ],
)
def test_wrong_arguments_are_named(call, words):
  with pytest.raises(ValueError, match=words) as caught:
    call(jnp.ones((2, 3)))
  assert '\n' not in str(caught.value)
