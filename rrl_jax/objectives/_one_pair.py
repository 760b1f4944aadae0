"""Contrastive terms of one view against the other, as thanos-code has them."""

import jax
import jax.numpy as jnp

from rrl_jax import losses

_NOTHING = -1e30  # A logarithm of zero with a finite gradient.


def similarities(
  anchors: jax.Array, contrasts: jax.Array, *, by_column: bool
) -> jax.Array:
  """Cosines of every anchor with every contrast, ``[B, B]``.

  Args:
    anchors: Embeddings of one view, ``[B, D]``, of any length.
    contrasts: Those of the other.
    by_column: Whether entry (i, j) is divided by the lengths of *contrast* j
      and *anchor* j, as the released code does, which makes a cosine of the
      diagonal alone.
  """
  if by_column:
    lengths = lambda rows: jnp.sqrt(jnp.sum(jnp.square(rows), -1) + 1e-12)
    scale = 1 / (lengths(anchors) * lengths(contrasts))
    contrasts = contrasts * scale[:, None]
  else:
    anchors, contrasts = map(losses.l2_normalize, (anchors, contrasts))
  return jnp.matmul(anchors, contrasts.T, precision=jax.lax.Precision.HIGHEST)


def terms(
  logits: jax.Array, labels: jax.Array, *, numerator_clip: float | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Supervised, class-conditional and InfoNCE term of each anchor.

  The anchor's own other view is one of its positives. One positive stands in
  the denominator of the supervised term.

  Args:
    logits: Similarities over the temperature, ``[B, B]``.
    labels: ``[B]``; -1 marks an unlabelled row, whose only positive is its
      own other view.
    numerator_clip: If given, logits of positives count outside the logarithm
      as at most this, in the supervised term and in InfoNCE; the released code
      leaves the class-conditional term as it is.

  Returns:
    Three arrays ``[B]``.
  """
  own = jnp.eye(len(labels), dtype=bool)
  same = labels[:, None] == labels[None, :]
  positive = own | (same & (labels >= 0)[:, None])
  log_sum = lambda where: jax.nn.logsumexp(
    jnp.where(where, logits, _NOTHING), axis=1
  )
  log_negatives = log_sum(~positive)
  numerator = logits
  if numerator_clip is not None:
    numerator = jnp.minimum(logits, numerator_clip)
  each = jnp.logaddexp(log_negatives[:, None], logits) - numerator
  supervised = jnp.mean(each, axis=1, where=positive)
  every = jnp.ones_like(own)
  return (
    supervised,
    log_sum(positive) - jnp.diagonal(logits),
    log_sum(every) - jnp.diagonal(numerator),
  )
