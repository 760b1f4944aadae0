"""TRADES, MART and ALP against their equations; sides, masks, extremes."""

import functools

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

LOSSES = {'trades': losses.trades, 'mart': losses.mart, 'alp': losses.alp}


JITTED = {
  name: jax.jit(fun, static_argnames='stop') for name, fun in LOSSES.items()
}


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def reference(name, f, g, y, beta):
  """One example, from the equation, in float64."""
  p, q = softmax(f), softmax(g)
  kl = np.sum(p * np.log(p / q))
  if name == 'trades':
    return -np.log(p[y]) + beta * kl
  if name == 'mart':
    rival = max(q[k] for k in range(len(q)) if k != y)
    return -np.log(q[y]) - np.log(1 - rival) + beta * (1 - p[y]) * kl
  pairing = np.mean((f - g) ** 2)
  return -0.5 * np.log(p[y]) - 0.5 * np.log(q[y]) + beta * pairing


def batch(rng, n=6, k=4):
  return rng.normal(size=(n, k)), rng.normal(size=(n, k)), np.arange(n) % k


@pytest.mark.parametrize('beta', [0.0, 2.5])
@pytest.mark.parametrize('name', LOSSES)
def test_it_equals_its_equation(x64, rng, name, beta):
  f, g, y = batch(rng)
  out = JITTED[name](f, g, y, beta=beta)
  expected = [reference(name, *row, beta) for row in zip(f, g, y, strict=True)]
  np.testing.assert_allclose(out, expected, rtol=1e-12)
  check_grads(
    lambda a, b: JITTED[name](a, b, y, beta=beta),
    (f, g),
    order=1,
    modes=['rev'],
  )


@pytest.mark.parametrize('name', ['trades', 'alp'])
def test_without_an_effect_it_is_the_cross_entropy(rng, name):
  f, _, y = (x.astype('f') for x in batch(rng))
  y = y.astype(int)
  expected = -jax.nn.log_softmax(f)[np.arange(6), y]
  np.testing.assert_allclose(LOSSES[name](f, f, y), expected, rtol=1e-5)


@pytest.mark.parametrize('name', first(LOSSES))
def test_stop_makes_one_side_of_the_pair_a_constant(x64, rng, name):
  f, g, y = batch(rng)

  def grads(beta, stop):
    total = lambda a, b: JITTED[name](a, b, y, beta=beta, stop=stop).sum()
    return jax.grad(total, argnums=(0, 1))(f, g)

  bare, free = grads(0.0, 'none'), grads(2.0, 'none')
  for side, stop in enumerate(('clean', 'adv')):
    stopped = grads(2.0, stop)
    np.testing.assert_allclose(stopped[side], bare[side], atol=1e-14)
    np.testing.assert_allclose(stopped[1 - side], free[1 - side], atol=1e-14)
    assert not np.allclose(free[side], bare[side])


@functools.cache
def compiled(name):
  def value_and_grads(f, g, y, where):
    out, pull = jax.vjp(lambda a, b: LOSSES[name](a, b, y, where=where), f, g)
    return out, pull(jnp.ones_like(out))

  return jax.jit(value_and_grads)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
@pytest.mark.parametrize('name', LOSSES)
def test_extreme_and_equal_logits_stay_finite(name, dtype):
  f = jnp.array([[1e4, -1e4, 0], [-1e4, 1e4, 0], [0, 0, 0], [1e4, 1e4, 1e4]])
  g = jnp.array([[-1e4, 1e4, 0], [-1e4, 1e4, 0], [0, 0, 0], [-3e3, 7, 1e4]])
  y = jnp.array([0, 0, 1, 1])
  out, grads = compiled(name)(f.astype(dtype), g.astype(dtype), y, None)
  assert out.dtype == jnp.float32
  for leaf in (out, *grads):
    assert np.isfinite(np.asarray(leaf, 'f')).all()
  assert grads[0].dtype == dtype


def test_the_boosted_term_keeps_its_digits_where_a_rival_takes_all():
  # log(1 - p_rival) from probabilities would be log(0).
  f = jnp.zeros((1, 3))
  g = jnp.array([[0.0, 200.0, 0.0]])
  out = losses.mart(f, g, jnp.array([0]), beta=0.0)
  np.testing.assert_allclose(out, 200 + 200 - np.log(2), rtol=1e-6)


def test_one_class_has_nothing_to_lose():
  f = jnp.array([[3.0]])
  for name, loss in LOSSES.items():
    np.testing.assert_array_equal(loss(f, f, jnp.array([0])), [0.0], name)


@pytest.mark.parametrize('name', LOSSES)
def test_masked_rows_and_labels_outside_count_for_nothing(rng, name):
  f, g, y = batch(rng)
  f, g = f.astype('f'), g.astype('f')
  whole, _ = compiled(name)(f, g, y, jnp.ones(6, bool))
  f[1], g[1] = np.nan, np.inf
  y[2], y[3] = -1, 4
  where = jnp.array([True, False, True, True, True, True])
  out, grads = compiled(name)(f, g, y, where)
  kept = np.array([0, 4, 5])
  np.testing.assert_allclose(out[kept], whole[kept], rtol=1e-6)
  for leaf in (out, *grads):
    assert (np.asarray(leaf)[[1, 2, 3]] == 0).all()


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kwargs', 'error', 'words'),
  [
    ({'stop': 'both'}, ValueError, 'stop must be one of none, clean, adv'),
    ({'beta': -1.0}, ValueError, 'beta must lie in'),
    ({'labels': np.zeros(2, 'f')}, TypeError, 'labels must have an integer'),
    (
      {'labels': np.zeros(3, int)},
      ValueError,
      r'labels must have shape \(2,\)',
    ),
    ({'adv_logits': np.ones((2, 4), 'f')}, ValueError, 'shapes must be equal'),
    ({'logits': np.ones(2, 'f')}, ValueError, 'logits must have rank 2'),
  ],
)
@pytest.mark.parametrize('name', LOSSES)
def test_wrong_arguments_are_named(name, kwargs, error, words):
  args = {
    'logits': np.ones((2, 3), 'f'),
    'adv_logits': np.ones((2, 3), 'f'),
    'labels': np.zeros(2, int),
  }
  with pytest.raises(error, match=words) as caught:
    LOSSES[name](**(args | kwargs))
  assert '\n' not in str(caught.value)
