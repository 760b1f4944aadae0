"""Blended pairs: who with whom, how much, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrl_jax import losses

B, K = 8, 3
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(B, K)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, K, B))


@pytest.mark.full
def test_pairs_are_a_permutation_with_beta_weights():
  draw = jax.jit(losses.mixup_pairs, static_argnames=('num_examples', 'shared'))
  partners, weights = draw(jax.random.key(0), 2000, alpha=0.4, shared=False)
  np.testing.assert_array_equal(np.sort(partners), np.arange(2000))
  np.testing.assert_allclose(weights.mean(), 0.5, atol=0.03)
  variance = 1 / (4 * (2 * 0.4 + 1))
  np.testing.assert_allclose(weights.var(), variance, atol=0.01)
  _, weights = draw(jax.random.key(1), 2000, alpha=0.4)
  assert np.unique(weights).size == 1
  _, weights = draw(jax.random.key(2), 2000, alpha=1e-6, shared=False)
  assert np.isfinite(weights).all()
  assert ((weights >= 0) & (weights <= 1)).all()


def test_blends_and_their_targets_are_convex_combinations():
  partners = jnp.asarray(RNG.permutation(B))
  weights = jnp.asarray(RNG.uniform(size=B), jnp.float32)
  images = jnp.asarray(RNG.normal(size=(B, 2, 2, 1)), jnp.float32)
  out = losses.mixup_inputs(images, partners, weights)
  w = np.asarray(weights)[:, None, None, None]
  np.testing.assert_allclose(
    out, w * images + (1 - w) * images[partners], rtol=1e-6
  )
  targets = losses.mixup_targets(LABELS, partners, weights, num_classes=K)
  np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
  half = losses.mixup_inputs(images.astype(jnp.bfloat16), partners, weights)
  assert half.dtype == jnp.bfloat16


def test_loss_is_cross_entropy_with_the_mixed_targets():
  partners = jnp.asarray(RNG.permutation(B))
  weights = jnp.asarray(RNG.uniform(size=B), jnp.float32)
  targets = losses.mixup_targets(LABELS, partners, weights, num_classes=K)
  np.testing.assert_allclose(
    losses.mixup_loss(
      optax.softmax_cross_entropy_with_integer_labels,
      LOGITS,
      LABELS,
      partners,
      weights,
    ),
    optax.softmax_cross_entropy(LOGITS, targets),
    rtol=1e-5,
  )


def test_a_row_counts_if_it_and_its_partner_do():
  partners = jnp.roll(jnp.arange(B), -1)
  where = jnp.arange(B) != 3
  out = losses.mixup_loss(
    losses.focal,
    LOGITS.at[3].set(jnp.nan),
    LABELS,
    partners,
    jnp.full(B, 0.7),
    where=where,
  )
  np.testing.assert_array_equal(np.flatnonzero(out == 0), [2, 3])
  assert np.isfinite(out).all()


@pytest.mark.fast
def test_wrong_arguments_are_named():
  partners, weights = jnp.arange(B), jnp.ones(B)
  with pytest.raises(ValueError, match='alpha must lie'):
    losses.mixup_pairs(jax.random.key(0), B, alpha=0.0)
  with pytest.raises(ValueError, match='must have shape'):
    losses.mixup_inputs(LOGITS[:4], partners, weights)
  with pytest.raises(TypeError, match='partners must have an integer'):
    losses.mixup_inputs(LOGITS, weights, weights)
  with pytest.raises(TypeError, match='labels must have an integer'):
    losses.mixup_loss(losses.focal, LOGITS, weights, partners, weights)
