"""The worst weights over the examples of a batch; no pairs of examples.

All of it works on gaps to a reference loss in units of the problem's own
scale, so that no loss is too large, and treats equal losses alike.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Down to neighbouring numbers: of a bracket of width one, and of any bracket.
_HALVINGS, _MANY_HALVINGS = 60, 200


def tail(losses: jax.Array, rows: jax.Array, level: jax.Array) -> jax.Array:
  """The worst ``level`` of the rows in equal parts; ties share what is left.

  Args:
    losses: Shape ``[N]``, finite.
    rows: The rows that count, shape ``[N]``.
    level: Fraction in (0, 1].

  Returns:
    Probabilities, shape ``[N]``; zero if no row counts.
  """
  _, mass, edge = _quantile(losses, rows, level)
  above = rows & (losses > edge)
  at = rows & (losses == edge)
  left = mass - jnp.sum(above).astype(losses.dtype)
  share = left / jnp.maximum(jnp.sum(at), 1).astype(losses.dtype)
  share = jnp.clip(share, 0, 1)
  return _normalized(jnp.where(above, 1, jnp.where(at, share, 0)))


def soft_tail(
  losses: jax.Array, rows: jax.Array, level: jax.Array, penalty: jax.Array
) -> jax.Array:
  """``min(exp((loss - eta) / penalty), 1 / level) / count``, summing to one."""
  count, _, edge = _quantile(losses, rows, level)
  # Against the edge of the tail, eta is above log(level): below it, more than
  # the tail would be at the cap.
  z = _scaled(losses - edge, penalty)
  cap = -jnp.log(level)
  power = lambda eta: jnp.where(rows, jnp.exp(jnp.minimum(z - eta, cap)), 0)
  top = jnp.max(z, initial=0, where=rows)
  short = lambda eta: jnp.sum(power(eta)) > count
  eta = _bisect(short, -cap, top, halvings=_MANY_HALVINGS)
  return _normalized(power(eta))


def positive_part(
  losses: jax.Array, rows: jax.Array, penalty: jax.Array
) -> jax.Array:
  """``(loss - eta)_+ / (penalty * count)`` with eta such that it sums to one.

  The response for a penalty of ``penalty / 2 * mean((count * p - 1)^2)``.
  """
  count = _count(losses, rows)
  top = jnp.max(losses, initial=-jnp.inf, where=rows)
  # In units of the penalty times the count; below -1 nothing is poured.
  z = jnp.where(rows, _scaled((losses - top) / count, penalty), -2)
  z = jnp.maximum(z, -2)
  power = lambda eta: jnp.where(rows, jnp.maximum(z - eta, 0), 0)
  one = jnp.ones((), losses.dtype)
  eta = _bisect(lambda e: jnp.sum(power(e)) > 1, -one, 0 * one)
  return _normalized(power(eta))


def positive_part_in_ball(
  losses: jax.Array, rows: jax.Array, radius: jax.Array
) -> jax.Array:
  """``p`` in proportion to ``(loss - eta)_+`` with a chi-square of ``radius``.

  The worst p with ``mean((count * p - 1)^2) / 2 <= radius``: where that holds
  the worst rows alone, it is those in equal parts.
  """
  count = _count(losses, rows)
  top = jnp.max(losses, initial=-jnp.inf, where=rows)
  least = jnp.min(losses, initial=jnp.inf, where=rows)
  width = jnp.maximum(top - least, 0)
  z = jnp.where(rows, _scaled(losses - top, width), -1)
  mean = jnp.sum(jnp.where(rows, z, 0)) / count
  var = jnp.sum(jnp.where(rows, jnp.square(z - mean), 0)) / count
  root = jnp.sqrt(2 * radius)
  # With all rows in the support the level is known; without spread there is
  # nothing to choose.
  inside = root * (mean + 1) <= jnp.sqrt(var)
  steep = root / jnp.sqrt(jnp.where(var > 0, var, 1))
  spread_out = jnp.where(rows, 1 + (z - mean) * steep, 0)

  power = lambda eta: jnp.where(rows, jnp.maximum(z - eta, 0), 0)

  def short(eta):
    # Whether p for this level is still inside the ball.
    p = power(eta)
    return count * jnp.sum(jnp.square(p)) < (1 + 2 * radius) * jnp.square(
      jnp.sum(p)
    )

  one = jnp.ones((), losses.dtype)
  eta = _bisect(short, -one, 0 * one)
  worst = rows & (z == 0)
  most = count <= (1 + 2 * radius) * jnp.sum(worst)
  partial = jnp.where(most, worst, power(eta))
  return _normalized(jnp.maximum(jnp.where(inside, spread_out, partial), 0))


def _quantile(losses, rows, level):
  """``(count, level * count, least loss of the worst level)``."""
  count = _count(losses, rows)
  mass = jnp.minimum(level, 1) * count
  falling = jnp.sort(jnp.where(rows, losses, -jnp.inf), descending=True)
  rank = jnp.clip(jnp.ceil(mass) - 1, 0, count - 1)
  at = jnp.arange(losses.size) == rank.astype(int)
  return count, mass, jnp.sum(jnp.where(at, falling, 0))


def _count(losses, rows):
  return jnp.maximum(jnp.sum(rows), 1).astype(losses.dtype)


def _scaled(gap, scale):
  """``gap / scale`` held inside the finite numbers; 0 for a scale of 0."""
  largest = jnp.finfo(gap.dtype).max / 4
  positive = scale > 0
  gap = jnp.clip(gap, -largest, largest) / jnp.where(positive, scale, 1)
  return jnp.where(positive, jnp.clip(gap, -largest, largest), 0)


def _bisect(
  is_low: Callable[[jax.Array], jax.Array],
  low: jax.Array,
  high: jax.Array,
  halvings: int = _HALVINGS,
) -> jax.Array:
  """The point where ``is_low`` turns False, from below."""

  def halve(_, bracket):
    low, high = bracket
    centre = low + (high - low) / 2
    below = is_low(centre)
    return jnp.where(below, centre, low), jnp.where(below, high, centre)

  # Carried values have to vary over the devices as the predicate does.
  start = halve(0, (low, high))
  low, _ = jax.lax.fori_loop(1, halvings, halve, start)
  return low


def _normalized(p):
  total = jnp.sum(p)
  return p / jnp.where(total > 0, total, 1)
