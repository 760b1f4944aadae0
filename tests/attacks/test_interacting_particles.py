"""Interacting particles: the published directions, and PGD without them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks
from tests.tiers import first

V = np.random.default_rng(8).normal(size=(12, 5))
X = np.random.default_rng(0).uniform(0.2, 0.8, size=(7, 3, 4))


def wavy(z):
  z = z.reshape(z.shape[0], -1)
  scores = jnp.sin(z @ jnp.asarray(V, z.dtype))
  return jnp.sum(scores * jnp.arange(1, 6, dtype=z.dtype)[None], axis=1)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def attack(x, key=None, **kw):
  kw = {'epsilon': 0.3, 'step_size': 0.05, 'num_steps': 3} | kw
  return jax.jit(
    lambda x: attacks.interacting_particles(
      wavy, key, x, random_start=key is not None, unroll=1, **kw
    )
  )(x)


def direction(z, grads, method, c, h2=None):
  """From the formulas, particle by particle."""
  m, flat = len(z), z.reshape(len(z), -1)
  g = grads.reshape(m, -1)
  d2 = np.array([[np.sum((a - b) ** 2) for b in flat] for a in flat])
  if h2 is None:
    h2 = 0.5 * np.median(d2) / np.log(m if method == 'blob' else m + 1)
  out = np.zeros_like(flat)
  for i in range(m):
    for j in range(m):
      k = np.exp(-d2[i, j] / (2 * h2))
      apart = flat[i] - flat[j]
      if method == 'blob':
        out[i] += c / m * (k * g[j] - k * apart / h2)
      else:
        out[i] += c * (d2[i, j] / (2 * h2) - 1) * k * apart
  return (out + g).reshape(z.shape)


@pytest.mark.parametrize('norm', first(['linf', 'l2']))
@pytest.mark.parametrize(
  ('method', 'c', 'h2'), first([('blob', 4.0, None), ('dgf', -3.0, None),
                          ('blob', -1.0, 0.7)])
)  # fmt: skip
def test_steps_are_those_of_the_formula(x64, method, c, h2, norm):
  z = X
  for _ in range(3):
    grads = np.asarray(jax.grad(lambda z: wavy(z).sum())(z))
    step = direction(z, grads, method, c, h2)
    if norm == 'linf':
      step = np.sign(step)
    else:
      step = step / np.sqrt((step**2).sum((1, 2), keepdims=True))
    z = np.asarray(attacks.project(z + 0.05 * step, X, epsilon=0.3, norm=norm))
  moved = attack(X, method=method, interaction=c, bandwidth=h2, norm=norm)
  np.testing.assert_allclose(moved, z, atol=1e-8)


@pytest.mark.parametrize('method', first(['blob', 'dgf']))
def test_without_interaction_it_is_pgd(key, method):
  x = X.astype('f')
  kw = {'epsilon': 0.3, 'step_size': 0.05, 'num_steps': 3}
  expected = jax.jit(lambda x: attacks.pgd(wavy, key, x, unroll=1, **kw))(x)
  z = attack(x, key, method=method, interaction=0.0)
  np.testing.assert_allclose(z, expected, atol=1e-6)


def test_dgf_pushes_near_particles_apart_and_blob_draws_them_together():
  x = 0.5 + 0.01 * np.random.default_rng(1).normal(size=(5, 3)).astype('f')
  spread = lambda z: float(np.var(np.asarray(z), axis=0).sum())
  run = lambda method, c: jax.jit(
    lambda x: attacks.interacting_particles(
      lambda z: 0 * z[:, 0],  # Nothing but the interaction moves them.
      None,
      x,
      epsilon=0.2,
      step_size=1e-3,
      num_steps=3,
      method=method,
      interaction=c,
      bandwidth=1.0,
      norm='l2',
      random_start=False,
      unroll=1,
    )
  )(x)
  assert spread(run('blob', 1.0)) < spread(x) < spread(run('dgf', -1.0))


def test_rounds_go_on_from_where_they_were():
  x = X.astype('f')
  whole = attack(x, num_steps=4)
  half = attack(x, num_steps=2)
  np.testing.assert_allclose(
    attack(x, num_steps=2, init=half), whole, atol=1e-6
  )


@pytest.mark.parametrize('norm', first(['linf', 'l2', 'l1']))
def test_stays_in_ball_and_bounds_exactly_in_bfloat16(key, norm):
  x = jnp.asarray(X, jnp.bfloat16)
  epsilon = {'linf': 8 / 255, 'l2': 0.5, 'l1': 2.0}[norm]
  z = attack(x, key, norm=norm, epsilon=epsilon, step_size=epsilon / 2)
  delta = np.asarray(z, float) - np.asarray(x, float)
  order = {'linf': np.inf, 'l2': 2, 'l1': 1}[norm]
  size = np.linalg.norm(delta.reshape(7, -1), ord=order, axis=1)
  assert size.min() > 0
  assert size.max() <= epsilon
  assert float(z.min()) >= 0
  assert float(z.max()) <= 1


@pytest.mark.parametrize('method', first(['blob', 'dgf']))
def test_one_particle_and_equal_particles_are_no_nan(method):
  for x in (X[:1], np.repeat(X[:1], 4, axis=0)):
    z = attack(x.astype('f'), method=method)
    assert np.isfinite(z).all()


def test_restarts_keep_the_highest_loss(key):
  x = X.astype('f')
  one, three = (wavy(attack(x, key, num_restarts=n)) for n in (1, 3))
  assert (three >= one - 1e-6).all()


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'method': 'svgd'}, 'method must be one of'),
    ({'bandwidth': 0.0}, 'bandwidth must be positive'),
    ({'init': np.zeros((2, 3), 'f')}, 'differ in shape'),
    ({'interaction': jnp.ones(2)}, 'interaction must be a scalar'),
    ({'random_start': True}, 'random_start needs a key'),
    ({'num_restarts': 2}, 'num_restarts > 1 needs'),
  ],
)
def test_wrong_arguments_are_named(kwargs, words):
  run = functools.partial(
    attacks.interacting_particles, wavy, None, X.astype('f')
  )
  kwargs = {'random_start': False} | kwargs
  with pytest.raises(ValueError, match=words) as caught:
    run(epsilon=0.1, step_size=0.1, num_steps=1, **kwargs)
  assert '\n' not in str(caught.value)
