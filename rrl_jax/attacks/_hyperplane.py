"""The nearest point of a hyperplane within a box, in linf, l2 and l1."""

import jax
import jax.numpy as jnp

_STEPS = {'linf': 12, 'l2': 24}  # Seven are the most seen away from corners.


def displacement(
  normal: jax.Array,
  excess: jax.Array,
  down: jax.Array,
  up: jax.Array,
  norm: str,
) -> jax.Array:
  r"""Shortest move of each point onto its hyperplane without leaving a box.

  .. math:: \arg\min_d \|d\|_p \quad\text{s.t.}\quad
     \langle w, d\rangle = -c,\; l \le d \le u

  where the box is large enough; else the move that ends nearest the plane.
  Every coordinate moves against c w. Its length is min(t, room) for linf and
  min(t |w|, room) for l2, and t is the root of a concave piecewise linear
  function, which Newton's method reaches from the left in a few passes over
  the coordinates (by sorting it takes far longer). For l1 the coordinates of
  largest |w| use their room up, the last one in part.

  Args:
    normal: Normals w, ``[B, ...]``.
    excess: Offsets c = <w, x> - b of the points, ``[B, 1, ...]``.
    down: Least move of each coordinate, not positive, ``[B, ...]``.
    up: Greatest, not negative.
    norm: One of linf, l2, l1.

  Returns:
    Moves, ``[B, ...]``.
  """
  axes = tuple(range(1, normal.ndim))
  total = lambda x: jnp.sum(x, axis=axes, keepdims=True)
  slope = jnp.abs(normal)
  gap = jnp.abs(excess)
  sign = -jnp.sign(normal) * jnp.where(excess >= 0, 1, -1).astype(normal.dtype)
  room = jnp.where(sign > 0, up, -down)
  room = jnp.where(slope > 0, room, 0)
  within = total(slope * room) > gap
  if norm == 'l1':
    # No coordinate needs more than closes the gap; there may be no box.
    alone = gap / jnp.where(slope > 0, slope, 1)
    size = _greedy(slope, jnp.minimum(room, alone), gap, total)
  else:
    rate = slope if norm == 'l2' else jnp.ones_like(slope)

    def newton(_, reach):
      full = room <= reach * rate
      fixed = total(jnp.where(full, slope * room, 0))
      free = total(jnp.where(full, 0, slope * rate))
      better = (gap - fixed) / jnp.where(free > 0, free, 1)
      return jnp.where(free > 0, jnp.maximum(reach, better), reach)

    reach = jax.lax.fori_loop(0, _STEPS[norm], newton, 0 * gap)
    size = jnp.minimum(reach * rate, room)
  return sign * jnp.where(within, size, room)


def _greedy(slope, room, gap, total):
  """Uses up the room of the largest slopes until the gap is closed."""
  worth = slope * room

  def halve(_, bracket):  # Slopes above the high end do not close the gap.
    low, high = bracket
    middle = (low + high) / 2
    closes = total(jnp.where(slope > middle, worth, 0)) >= gap
    return jnp.where(closes, middle, low), jnp.where(closes, high, middle)

  axes = tuple(range(1, slope.ndim))
  high = jnp.max(slope, axis=axes, keepdims=True)
  steps = jnp.finfo(slope.dtype).nmant + 4
  low, high = jax.lax.fori_loop(0, steps, halve, (0 * high, high))
  first = slope > high
  last = (slope > low) & ~first
  left = jnp.maximum(gap - total(jnp.where(first, worth, 0)), 0)
  width = total(jnp.where(last, worth, 0))
  # Slopes that rounding cannot tell apart share what is left.
  share = jnp.clip(left / jnp.where(width > 0, width, 1), 0, 1)
  return jnp.where(first, room, jnp.where(last, share * room, 0))
