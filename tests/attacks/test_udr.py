"""UDR: PGD at a full price, freedom at none, and a dual step that learns it."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rrl_jax import attacks
from tests.tiers import first

V = np.random.default_rng(8).normal(size=(12, 5)).astype('f')
X = np.random.default_rng(0).uniform(size=(8, 12)).astype('f')


def wavy(z):
  z = z.astype(jnp.float32)
  return jnp.sum(jnp.sin(6 * z @ V) * jnp.arange(1.0, 6.0)[None], axis=1)


@functools.cache
def compiled(**static):
  return jax.jit(
    lambda key, x, multiplier: attacks.udr(
      wavy,
      key,
      x,
      multiplier=multiplier,
      **({'epsilon': 0.1, 'step_size': 0.04, 'num_steps': 4} | static),
      random_start=key is not None,
      unroll=1,
    )
  )


def attack(x, multiplier, key=None, **static):
  return compiled(**static)(key, x, multiplier)


@pytest.mark.parametrize('norm', first(['linf', 'l2']))
def test_a_full_price_is_pgd_to_the_bit(key, norm):
  kw = {'epsilon': 0.1, 'step_size': 0.04, 'num_steps': 4, 'norm': norm}
  expected = jax.jit(
    lambda x: attacks.pgd(wavy, key, x, num_restarts=2, unroll=1, **kw)
  )(X)
  for multiplier in (1.0, 7.0):
    z = attack(X, multiplier, key, norm=norm, num_restarts=2)
    np.testing.assert_array_equal(z, expected)


def test_the_soft_step_is_the_published_one():
  # Elementwise, as in the authors' code, for a multiplier up to one.
  for lam in (0.0, 0.3, 1.0):
    delta = np.zeros_like(X)
    for _ in range(4):
      grads = np.asarray(jax.grad(lambda z: wavy(z).sum())(X + delta))
      delta = delta + 0.04 * np.sign(grads)
      outside = np.abs(delta) > 0.1
      delta = delta - lam * (delta - 0.1 * np.sign(delta)) * outside
      delta = np.clip(X + delta, 0, 1) - X
    np.testing.assert_allclose(attack(X, lam), X + delta, atol=2e-6)


@pytest.mark.parametrize(
  ('norm', 'order'), [('linf', np.inf), ('l2', 2), ('l1', 1)]
)
def test_a_lower_price_lets_points_go_further(norm, order):
  kw = {'norm': norm, 'epsilon': 0.1, 'step_size': 0.08, 'num_steps': 6}
  sizes = [
    np.linalg.norm(np.asarray(attack(X, lam, **kw)) - X, ord=order, axis=1)
    for lam in (1.0, 0.5, 0.0)
  ]
  assert (sizes[0] <= 0.1).all()
  assert sizes[0].mean() < sizes[1].mean() < sizes[2].mean()
  assert (sizes[1] <= 0.1 + 0.08 + 1e-5).all()  # Half of what is outside.


def test_tau_scales_the_price():
  np.testing.assert_array_equal(
    attack(X, 0.5, tau=0.08), attack(X, 0.25, tau=0.04)
  )
  np.testing.assert_array_equal(attack(X, 0.25, tau=0.04), attack(X, 0.25))


def test_bounds_hold_in_bfloat16_where_the_ball_does_not():
  x = jnp.asarray(X, jnp.bfloat16)
  z = attack(x, 0.0, epsilon=0.01, step_size=0.3)
  assert z.dtype == x.dtype
  assert float(z.min()) >= 0
  assert float(z.max()) <= 1
  assert float(jnp.abs(z - x).max()) > 0.1


def test_the_multiplier_moves_once_a_window_by_the_mean_distance():
  clean = jnp.zeros((4, 3, 2))
  state = attacks.udr_init(0.5)
  seen = []
  for size in (0.1, 0.2, 0.6, 0.3, 0.3, 0.3):
    state = attacks.udr_update(
      state, clean, clean - size, epsilon=0.25, learning_rate=2.0, period=3
    )
    seen.append(float(state.multiplier))
  # Mean 0.3: 0.05 over, twice; the window starts afresh each time.
  np.testing.assert_allclose(seen, [0.5, 0.5, 0.6, 0.6, 0.6, 0.7], rtol=1e-5)
  assert int(state.count) == 0
  assert float(state.distance_sum) == 0


def test_the_multiplier_never_falls_below_zero():
  clean = jnp.zeros((4, 3))
  state = attacks.udr_init(0.01)
  for _ in range(3):
    state = jax.jit(functools.partial(attacks.udr_update, period=1))(
      state, clean, clean, epsilon=0.5, learning_rate=1.0
    )
    assert float(state.multiplier) == 0


def test_distances_are_the_named_ones():
  clean = jnp.zeros((2, 2))
  moved = jnp.array([[3.0, -4.0], [0.0, 0.0]])
  for distance, mean in {
    'mean_abs': 1.75,
    'linf': 2.0,
    'l2': 2.5,
    'l1': 3.5,
  }.items():
    state = attacks.udr_update(
      attacks.udr_init(), clean, moved, epsilon=0.0, distance=distance
    )
    assert float(state.distance_sum) == mean


def test_the_update_averages_over_devices(mesh):
  clean = jnp.zeros((8, 3))
  moved = jnp.arange(8.0)[:, None] * jnp.ones((8, 3))
  update = functools.partial(attacks.udr_update, epsilon=0.5, period=1)
  mapped = jax.shard_map(
    functools.partial(update, axis_name='data'),
    mesh=mesh,
    in_specs=(P(), P('data'), P('data')),
    out_specs=P(),
  )
  np.testing.assert_allclose(
    mapped(attacks.udr_init(), clean, moved).multiplier,
    update(attacks.udr_init(), clean, moved).multiplier,
    rtol=1e-6,
  )


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'multiplier': -1.0}, 'multiplier must be non-negative'),
    ({'tau': 0.0}, 'tau must be positive'),
    ({'norm': 'inf'}, 'norm must be one of'),
    ({'key': None}, 'random_start needs a key'),
  ],
)
def test_wrong_arguments_are_named(key, kwargs, words):
  kwargs = {'key': key, 'multiplier': 1.0} | kwargs
  with pytest.raises(ValueError, match=words) as caught:
    attacks.udr(
      wavy, inputs=X, epsilon=0.1, step_size=0.1, num_steps=1, **kwargs
    )
  assert '\n' not in str(caught.value)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'distance': 'far'}, 'distance must be one of'),
    ({'period': 0}, 'period must be at least 1'),
    ({'adv_inputs': X[:3]}, 'differ in shape'),
  ],
)
def test_wrong_arguments_of_the_update_are_named(kwargs, words):
  kwargs = {'inputs': X, 'adv_inputs': X, 'epsilon': 0.1} | kwargs
  with pytest.raises(ValueError, match=words):
    attacks.udr_update(attacks.udr_init(), **kwargs)


def test_the_initial_multiplier_is_a_scalar():
  with pytest.raises(ValueError, match='must be a scalar'):
    attacks.udr_init(jnp.ones(2))
