"""The bounds hold on random heads and attacks, and are tight where they can."""

import functools

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from rrl_jax import attacks, losses
from tests.tiers import first

HEADS, B = 400, 25


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def cross_entropy(z, y, w, b):
  return -jax.nn.log_softmax(z @ w + b[None, :])[jnp.arange(len(y)), y]


def random_heads(rng, d=5, k=6):
  """Heads of many scales; features and shifts of many scales."""
  scale = np.exp(rng.normal(size=(HEADS, 1, 1)) * 2)
  return (
    rng.normal(size=(HEADS, d, k)) * scale,
    rng.normal(size=(HEADS, k)),
    rng.normal(size=(HEADS, B, d)),
    rng.normal(size=(HEADS, B, d)) * np.exp(rng.normal(size=(HEADS, B, 1))),
    rng.integers(0, k, size=(HEADS, B)),
  )


def test_bounds_hold_for_ten_thousand_random_heads_and_shifts(x64, rng):
  @jax.jit
  @jax.vmap
  def check(w, b, z, delta, y):
    moved = z + delta
    rise = cross_entropy(moved, y, w, b) - cross_entropy(z, y, w, b)
    clean = cross_entropy(z, y, w, b)
    shift = losses.feature_shift(z, moved, distance='l2')
    pairs, spectral = (
      losses.head_lipschitz(w),
      losses.head_lipschitz(w, method='spectral'),
    )
    convex = losses.linear_loss_gap(z, moved, y, w, b)
    norm = losses.linear_loss_gap(z, moved, y, w, b, form='norm')
    bound = losses.adversarial_loss_bound(clean, shift, lipschitz=pairs)
    u, v = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (z, moved))
    unit_rise = cross_entropy(v, y, w, b) - cross_entropy(u, y, w, b)
    unit = pairs * losses.feature_shift(z, moved, distance='unit_l2')
    radius = losses.margin_certificate(z @ w + b[None, :], w)
    kept = jnp.argmax(z @ w + b[None, :], 1) == jnp.argmax(
      moved @ w + b[None, :], 1
    )
    ladder = (rise, convex, norm, bound - clean, spectral * shift)
    steps = [hi - lo for lo, hi in zip(ladder, ladder[1:], strict=False)]
    return jnp.stack([*steps, unit - unit_rise]), (shift < radius) & ~kept

  room, broken = check(*random_heads(rng))
  assert room.min() > -1e-9
  assert not broken.any()


def test_the_lipschitz_constant_is_reached(x64):
  # One class certain at z, another far along w_j - w_y: the slope is all of
  # |w_y - w_j|, so that no smaller constant would do.
  w = jnp.array([[2.0, -1.0], [0.5, 1.5]])
  constant = losses.head_lipschitz(w)
  np.testing.assert_allclose(constant, np.hypot(3.0, 1.0), rtol=1e-12)
  way = (w[:, 1] - w[:, 0]) / constant
  z, moved, b = 20 * way[None], 21 * way[None], jnp.zeros(2)
  y = jnp.array([0])
  bound = losses.adversarial_loss_bound(
    cross_entropy(z, y, w, b), jnp.ones(1), lipschitz=constant
  )
  np.testing.assert_allclose(bound, cross_entropy(moved, y, w, b), rtol=1e-12)
  gap = losses.linear_loss_gap(z, moved, y, w, b)
  np.testing.assert_allclose(gap, constant, rtol=1e-12)


@pytest.mark.fast
def test_both_constants_agree_for_two_opposite_classes():
  w = jnp.array([[1.0, -1.0], [2.0, -2.0]])
  np.testing.assert_allclose(
    losses.head_lipschitz(w, method='spectral'),
    losses.head_lipschitz(w),
    rtol=1e-6,
  )


def test_the_gap_is_exact_to_first_order(x64, rng):
  w, b, z, delta, y = (x[0] for x in random_heads(rng))
  moved = z + 1e-5 * delta
  rise = cross_entropy(moved, y, w, b) - cross_entropy(z, y, w, b)
  gap = losses.linear_loss_gap(z, moved, y, w, b)
  np.testing.assert_allclose(gap, rise, atol=1e-7)
  assert not np.allclose(rise, 0, atol=1e-6)


def test_the_certified_radius_is_exact(x64, rng):
  w, b, z, _, _ = (x[0] for x in random_heads(rng))
  logits = z @ w + b[None, :]
  y = np.argmax(logits, 1)
  radius = np.asarray(losses.margin_certificate(logits, w))
  moved_any = np.zeros(B, bool)
  for j in range(w.shape[1]):
    way = (w[:, [j]] - w[:, y]).T
    way = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-30)
    for factor, changes in ((0.999, False), (1.001, True)):
      moved = z + factor * radius[:, None] * way
      moved = np.argmax(moved @ w + b[None, :], 1) != y
      moved_any |= moved & changes
      if not changes:
        assert not moved.any()
  assert moved_any.all()


def test_a_wrong_label_has_no_certificate():
  logits, w = jnp.array([[1.0, 2.0], [2.0, 2.0]]), jnp.eye(2)
  radius = losses.margin_certificate(logits, w, labels=jnp.array([0, 0]))
  np.testing.assert_allclose(radius, [-np.sqrt(0.5), 0], rtol=1e-6)


@pytest.mark.full
def test_bounds_hold_under_an_attack_through_an_encoder(key, rng):
  a = jnp.asarray(rng.normal(size=(6, 4)), 'f')
  w = jnp.asarray(rng.normal(size=(4, 3)), 'f')
  x = jnp.asarray(rng.uniform(0.3, 0.7, size=(16, 6)), 'f')
  encode, b, y = lambda x: jnp.tanh(x @ a), jnp.zeros(3), jnp.arange(16) % 3
  loss = jax.jit(lambda x: cross_entropy(encode(x), y, w, b))
  knobs = {'epsilon': 0.1, 'step_size': 0.03, 'num_steps': 10}
  adv = jax.jit(lambda x: attacks.pgd(loss, key, x, **knobs))(x)
  # tanh is monotone and 1-Lipschitz: each feature moves by at most
  # epsilon * |a|_1, a true upper bound of the shift.
  most = 0.1 * jnp.linalg.norm(jnp.sum(jnp.abs(a), axis=0))
  bound = losses.adversarial_loss_bound(
    loss(x), jnp.full(16, most), lipschitz=losses.head_lipschitz(w)
  )
  assert (loss(adv) > loss(x)).all()
  assert (loss(adv) <= bound).all()
  radius = losses.margin_certificate(encode(x) @ w, w)
  same = jnp.argmax(encode(x) @ w, 1) == jnp.argmax(encode(adv) @ w, 1)
  shift = losses.feature_shift(encode(x), encode(adv), distance='l2')
  assert (same | (shift >= radius)).all()
  assert (shift <= most).all()


def test_pinsker_holds_for_random_distributions_and_losses(x64, rng):
  scale = np.exp(rng.normal(size=(4000, 1)) * 2)
  a, b = (rng.normal(size=(4000, 5)) * scale for _ in range(2))
  loss = rng.uniform(0, 3, size=(4000, 5))
  p, q = jax.nn.softmax(a), jax.nn.softmax(b)
  clean, moved = (jnp.sum(x * loss, 1) for x in (p, q))
  for one, other in ((a, b), (b, a)):
    kl = losses.feature_shift(one, other, distance='kl')
    bound = losses.pinsker_loss_bound(clean, kl, max_loss=3.0)
    assert (moved <= bound + 1e-12).all()
    assert (bound <= clean + 3).all()


def test_pinsker_is_tight_for_a_small_change_of_a_fair_coin(x64):
  # At 1/2 +- t the total variation is t and KL about 2 t^2.
  t = 1e-3
  logit = np.log((0.5 + t) / (0.5 - t))
  kl = losses.feature_shift(
    np.zeros((1, 2)), np.array([[logit, 0.0]]), distance='kl'
  )
  bound = losses.pinsker_loss_bound(np.array([0.5]), kl, max_loss=1.0)
  np.testing.assert_allclose(bound - 0.5, t, rtol=1e-5)


def test_gradients_match_differences(x64, rng):
  w, b, z, delta, y = (x[0] for x in random_heads(rng))
  z, moved, y = z[:3], (z + delta)[:3], y[:3]

  @jax.jit
  def everything(z, m, w):
    return (
      losses.linear_loss_gap(z, m, y, w, b),
      losses.linear_loss_gap(z, m, y, w, b, form='norm'),
      losses.margin_certificate(z @ w, w),
      losses.head_lipschitz(w),
      losses.head_lipschitz(w, method='spectral'),
      losses.pinsker_loss_bound(m[:, 0], jnp.square(z[:, 0]), max_loss=2.0),
    )

  check_grads(everything, (z, moved, w), order=1, modes=['rev'])


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extremes_and_equal_weights_stay_finite(dtype):
  z = jnp.array([[1e4, -1e4], [0, 0], [1, 1]], dtype)
  y = jnp.array([0, 1, 2])

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1))
  def total(z, w):
    logits = (z @ w).astype(dtype)
    return (
      losses.linear_loss_gap(z, -z, y, w, jnp.zeros(3, dtype)).sum()
      + losses.head_lipschitz(w)
      + losses.head_lipschitz(w, method='spectral')
      + losses.margin_certificate(logits, w).astype('f').min()
      + losses.pinsker_loss_bound(z[:, 0], z[:, 1], max_loss=1.0).sum()
    )

  for w in (jnp.ones((2, 3)), jnp.zeros((2, 3)), 1e4 * jnp.eye(2, 3)):
    out, grads = total(z, w.astype(dtype))
    for leaf in (out, *grads):
      assert np.isfinite(np.asarray(leaf, 'f')).all()


def test_masked_rows_give_zero_and_no_gradient():
  where = jnp.array([True, False])
  bad = jnp.array([1.0, jnp.nan])
  rows = jnp.stack([bad, bad], 1)
  y, ones = jnp.array([0, 1]), jnp.ones(2)
  for fun in (
    lambda x, r: losses.adversarial_loss_bound(
      x, x, lipschitz=2.0, where=where
    ),
    lambda x, r: losses.pinsker_loss_bound(x, x, max_loss=2.0, where=where),
    lambda x, r: losses.linear_loss_gap(
      r, 2 * r, y, jnp.eye(2), jnp.zeros(2), where=where
    ),
    lambda x, r: losses.margin_certificate(r, jnp.eye(2), where=where),
  ):
    both = jax.jit(lambda *x, fun=fun: (fun(*x), jax.vjp(fun, *x)[1](ones)))
    out, grads = both(bad, rows)
    assert out[1] == 0
    for grad in grads:
      assert np.isfinite(grad).all()
      assert (grad[1] == 0).all()


def test_wrong_arguments_are_named():
  one, w = jnp.ones(2), jnp.ones((3, 4))
  with pytest.raises(ValueError, match='lipschitz must lie in'):
    losses.adversarial_loss_bound(one, one, lipschitz=-1.0)
  with pytest.raises(ValueError, match='shapes must be equal, got losses'):
    losses.pinsker_loss_bound(one, jnp.ones(3), max_loss=1.0)
  with pytest.raises(ValueError, match='method must be one of pairs'):
    losses.head_lipschitz(w, method='gram')
  with pytest.raises(ValueError, match='kernel must have 2 columns'):
    losses.margin_certificate(jnp.ones((2, 2)), w)
  with pytest.raises(ValueError, match=r'kernel must have shape \(5, 4\)'):
    losses.linear_loss_gap(
      jnp.ones((2, 5)), jnp.ones((2, 5)), jnp.arange(2), w, jnp.ones(4)
    )
