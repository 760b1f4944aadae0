"""Surrogate losses: their formulas, and attacks that climb them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from rrl_jax import attacks

RNG = np.random.default_rng(4)
W = RNG.normal(size=(6, 5)).astype('f')
X = RNG.uniform(size=(8, 6)).astype('f')
LABELS = RNG.integers(5, size=8).astype('int32')


def logits_fn(z):
  return jnp.sin(3 * z.astype(jnp.float32) @ W) * 2


def reference(loss, logits, labels):
  logits = np.asarray(logits, float)
  own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
  if loss == 'ce':
    return special.logsumexp(logits, axis=1) - own
  others = np.where(np.arange(5) == labels[:, None], -np.inf, logits)
  gap = others.max(1) - own
  ranks = np.sort(logits, axis=1)
  return gap if loss == 'margin' else gap / (ranks[:, -1] - ranks[:, -3])


@pytest.mark.parametrize('loss', ['ce', 'margin', 'dlr'])
def test_label_losses_are_their_formulas_and_opposite(loss):
  expected = reference(loss, logits_fn(X), LABELS)
  away = attacks.untargeted_objective(logits_fn, LABELS, loss=loss)
  towards = attacks.targeted_objective(logits_fn, LABELS, loss=loss)
  np.testing.assert_allclose(away(X), expected, rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(towards(X), -expected, rtol=2e-5, atol=1e-6)


@pytest.mark.fast
def test_a_nan_logit_is_the_lowest_loss_either_way():
  bad = lambda z: logits_fn(z).at[0, 1].set(jnp.nan)
  for make in (attacks.untargeted_objective, attacks.targeted_objective):
    values = np.asarray(make(bad, LABELS)(X))
    assert values[0] == -np.inf
    assert np.isfinite(values[1:]).all()


def attack(loss_fn, key, **kw):
  kw = {'epsilon': 0.3, 'step_size': 0.1, 'num_steps': 8, 'unroll': 1} | kw
  return jax.jit(lambda x: attacks.pgd(loss_fn, key, x, **kw))(X)


def test_a_targeted_attack_reaches_its_target_more_often(key):
  targets = (LABELS + 1) % 5
  hits = lambda z: int((jnp.argmax(logits_fn(z), axis=1) == targets).sum())
  for loss in ('ce', 'margin'):
    loss_fn = attacks.targeted_objective(logits_fn, targets, loss=loss)
    z = attack(loss_fn, key)
    assert hits(z) > hits(X) + 2
    assert loss_fn(z).mean() > loss_fn(X).mean()


def test_kl_is_its_formula_and_zero_with_zero_slope_at_the_clean_point():
  clean = logits_fn(X)
  loss_fn = attacks.kl_objective(logits_fn, clean, temperature=2.0)
  z = np.clip(X + 0.1, 0, 1)
  p, q = (
    special.softmax(np.asarray(v, float) / 2, axis=1)
    for v in (clean, logits_fn(z))
  )
  np.testing.assert_allclose(loss_fn(z), (p * np.log(p / q)).sum(1), atol=1e-6)
  np.testing.assert_allclose(loss_fn(X), 0, atol=1e-6)
  slope = jax.grad(lambda z: loss_fn(z).sum())(X)
  np.testing.assert_allclose(slope, 0, atol=1e-5)


@pytest.mark.full
def test_kl_is_finite_for_extreme_logits_in_value_and_gradient():
  clean = jnp.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
  loss_fn = attacks.kl_objective(lambda z: z, clean)
  z = jnp.array([[-1e4, 1e4, 0.0], [1e4, -1e4, 3.0]])
  assert np.isfinite(loss_fn(z)).all()
  assert np.isfinite(jax.grad(lambda z: loss_fn(z).sum())(z)).all()


def test_feature_shift_takes_any_distance_and_starts_from_noise(key):
  features_fn = lambda z: logits_fn(z)[:, :, None]
  clean = features_fn(X)
  z = np.clip(X + 0.1, 0, 1)
  gap = np.asarray(features_fn(z) - clean)[..., 0]
  make = functools.partial(attacks.feature_shift_objective, features_fn, clean)
  np.testing.assert_allclose(make()(z), (gap**2).sum(1), rtol=1e-5)
  largest = make(distance=lambda a, b: jnp.abs(a - b).max(axis=(1, 2)))
  np.testing.assert_allclose(largest(z), np.abs(gap).max(1), rtol=1e-6)
  assert (make()(attack(make(), key)) > 0.01).all()
  slope = jax.grad(lambda z: make()(z).sum())(X)
  np.testing.assert_allclose(slope, 0, atol=1e-4)  # Hence the random start.


def noisy(points, keys):
  noise = jax.vmap(lambda k: jax.random.normal(k, (6,)))(keys)
  return jnp.sum(jnp.sin(3 * (points + 0.2 * noise)), axis=1)


def test_expectation_is_the_mean_over_draws_of_each_row(key):
  ids = jnp.arange(8) + 30
  loss_fn = attacks.expectation_over_transformation(
    noisy, key, 5, example_ids=ids
  )
  expected = np.zeros(8)
  for row in range(8):
    own = jax.random.fold_in(key, 30 + row)
    for s in range(5):
      draw = jax.random.fold_in(own, s)[None]
      expected[row] += float(noisy(X[row : row + 1], draw)[0]) / 5
  np.testing.assert_allclose(loss_fn(X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.full
def test_expectation_of_a_row_does_not_depend_on_its_batch(key):
  make = lambda ids: attacks.expectation_over_transformation(
    noisy, key, 4, example_ids=ids
  )
  rows = jnp.array([6, 2])
  np.testing.assert_allclose(
    make(rows)(X[rows]), make(jnp.arange(8))(X)[rows], rtol=1e-6
  )


@pytest.mark.full
def test_an_attack_on_the_expectation_raises_the_loss_of_new_draws(key):
  make = lambda seed, n: attacks.expectation_over_transformation(
    noisy, jax.random.key(seed), n
  )
  z = attack(make(1, 16), key)
  fresh = make(2, 256)
  assert (fresh(z) > fresh(X)).all()


@pytest.mark.parametrize(
  ('make', 'error', 'words'),
  [
    (
      lambda: attacks.untargeted_objective(logits_fn, LABELS, loss='mse'),
      ValueError,
      'loss must be one of',
    ),
    (
      lambda: attacks.targeted_objective(logits_fn, LABELS.astype('f')),
      TypeError,
      'targets must have an integer dtype',
    ),
    (
      lambda: attacks.untargeted_objective(logits_fn, LABELS[:3])(X),
      ValueError,
      'labels must have shape',
    ),
    (
      lambda: attacks.targeted_objective(logits_fn, LABELS + 9)(X),
      ValueError,
      'targets must lie in 0..4',
    ),
    (
      lambda: attacks.untargeted_objective(
        lambda z: z[:, :2], LABELS % 2, loss='dlr'
      )(X),
      ValueError,
      'dlr needs at least 3 classes',
    ),
    (
      lambda: attacks.kl_objective(logits_fn, X)(X),
      ValueError,
      'differ in shape',
    ),
    (
      lambda: attacks.kl_objective(logits_fn, X, temperature=0.0),
      ValueError,
      'temperature must be positive',
    ),
    (
      lambda: attacks.feature_shift_objective(logits_fn, X)(X),
      ValueError,
      'differ in shape',
    ),
    (
      lambda: attacks.expectation_over_transformation(
        noisy, jax.random.key(0), 0
      ),
      ValueError,
      'num_samples must be at least 1',
    ),
  ],
)
def test_wrong_arguments_are_named(make, error, words):
  with pytest.raises(error, match=words) as caught:
    make()
  assert '\n' not in str(caught.value)


def test_a_loss_of_scaled_logits_does_not_depend_on_a_factor():
  for loss in ('ce', 'margin', 'dlr'):
    values = []
    for factor in (1e-30, 1.0, 1e30):
      times = lambda x, factor=factor: logits_fn(x) * factor
      loss_fn = attacks.untargeted_objective(
        times, LABELS, loss=loss, scale=attacks.logit_scale(times(X))
      )
      total = lambda x, loss_fn=loss_fn: loss_fn(x).sum()
      values.append(jax.value_and_grad(total)(X))
    for value, slope in values:
      np.testing.assert_allclose(value, values[1][0], rtol=1e-4)
      np.testing.assert_allclose(slope, values[1][1], rtol=1e-3, atol=1e-6)


def test_logits_without_a_spread_have_the_scale_one():
  logits = jnp.array([[2.0, 2.0], [jnp.inf, 0.0], [jnp.nan, 0.0], [0.0, 0.0]])
  np.testing.assert_array_equal(attacks.logit_scale(logits), 1)
  with pytest.raises(ValueError, match=r'scale must have shape'):
    attacks.untargeted_objective(logits_fn, LABELS, scale=jnp.ones(1))(X)
