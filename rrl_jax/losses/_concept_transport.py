"""The cost of transport between two given distributions over concepts."""

import jax
import jax.numpy as jnp

_MAX_ITERATIONS = 5_000


def entropic_cost(
  probs: jax.Array, prior: jax.Array, cost: jax.Array, epsilon: jax.Array
) -> jax.Array:
  """``min_P <P, cost> - epsilon * H(P)`` over plans with both marginals.

  Sinkhorn in the log domain until the marginals hold to a few ulps. The value
  is that of the dual at fixed potentials, whose gradient is exact (Danskin).

  Args:
    probs: Target marginal, shape ``[K]``.
    prior: Source marginal, shape ``[K]``.
    cost: ``cost[k, j]`` from source j to target k, ``[K, K]``.
    epsilon: Positive scalar.

  Returns:
    A scalar.
  """
  dtype = probs.dtype
  cost, epsilon = cost.astype(dtype), jnp.asarray(epsilon, dtype)
  fixed = jax.lax.stop_gradient((probs, prior, cost, epsilon))
  target, source, price, eps = fixed
  lse = jax.scipy.special.logsumexp
  has_target, has_source = target > 0, source > 0
  log_target = jnp.log(jnp.where(has_target, target, 1))
  log_source = jnp.log(jnp.where(has_source, source, 1))

  def soft_min(potential, mask, axis):
    spread = potential - price
    return eps * lse(spread / eps, axis=axis, where=mask)

  def step(state):
    _, g, _, count = state
    f = eps * log_target - soft_min(g[None, :], has_source[None, :], 1)
    new = eps * log_source - soft_min(f[:, None], has_target[:, None], 0)
    moved = jnp.max(jnp.where(has_source, jnp.abs(new - g), 0))
    return f, new, moved, count + 1

  def unfinished(state):
    f, _, moved, count = state
    scale = eps + jnp.max(jnp.where(has_target, jnp.abs(f), 0))
    return (moved > 4 * jnp.finfo(dtype).eps * scale) & (
      count < _MAX_ITERATIONS
    )

  start = (jnp.zeros_like(target), jnp.zeros_like(source))
  f, g, _, _ = jax.lax.while_loop(unfinished, step, step((*start, 0.0, 0)))
  pairs = has_target[:, None] & has_source[None, :]
  powers = jnp.where(pairs, f[:, None] + g[None, :] - cost, 0) / epsilon
  mass = jnp.sum(jnp.where(pairs, jnp.exp(powers), 0))
  value = jnp.sum(jnp.where(has_target, probs * f, 0))
  value = value + jnp.sum(jnp.where(has_source, prior * g, 0))
  return value - epsilon * (mass - 1)
