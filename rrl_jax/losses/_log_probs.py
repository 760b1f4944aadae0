"""Log-probabilities of logits that stay finite, and sums over them."""

import jax
import jax.numpy as jnp

from rrl_jax.losses import _simplex

# Below every logit that matters; differences of it stay finite in float32.
_LOWEST = -1e30


def log_probs(logits: jax.Array) -> jax.Array:
  """Log-softmax over the last axis, finite for every finite input.

  Args:
    logits: Shape ``[..., K]``, finite.

  Returns:
    Shape ``[..., K]``, float32 at the least.
  """
  logits = logits.astype(_simplex.compute_dtype(logits))
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  return jax.nn.log_softmax(jnp.maximum(logits - top, _LOWEST))


def kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """``sum_k p_k (log p_k - log q_k)``, ``[..., K] -> [...]``.

  Both arguments are log-probabilities: with probabilities, an underflowed
  target has a gradient of 0 * inf.
  """
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def is_label(labels: jax.Array, num_classes: int) -> jax.Array:
  """Boolean one-hot rows, ``[B] -> [B, K]``; a label outside has no entry.

  Sums over such rows replace gathers, which need a sharding of their own on
  a mesh with Explicit axes.
  """
  return labels[:, None] == jnp.arange(num_classes)[None, :]


def pick(values: jax.Array, member: jax.Array) -> jax.Array:
  """The entry of each row where ``member`` holds, ``[B, K] -> [B]``, else 0."""
  return jnp.sum(jnp.where(member, values, 0), axis=-1)
