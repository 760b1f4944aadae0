"""Balls and boxes: exact projections, rounding that never leaves them.

All work on a batch of points at once, each example by itself. Inside this
room a perturbed point is kept as its clean point plus ``delta``, in float32 or
wider, and becomes a point of the input's dtype only through ``apply_delta``.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.attacks import _checks
from rrl_jax.numerics import safe_norm


def project(
  points: ArrayLike,
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
) -> jax.Array:
  r"""The nearest point of the ball and the box, for each example.

  .. math:: \arg\min_z \|z - y\|_2 \quad\text{s.t.}\quad
     \|z - x\|_p \le \epsilon,\; l \le z \le u

  Exact also where the sphere and the box meet: with :math:`x` in the box the
  minimiser is :math:`\mathrm{clip}(x + s(y - x), l, u)`, where s clips (linf),
  scales by :math:`t \le 1` (l2) or soft-thresholds by :math:`\theta` (l1), and
  bisection finds the one scalar an example that spends the radius.

  Args:
    points: Points y to project, shape ``[B, ...]``, float.
    inputs: Centres x within the bounds, same shape.
    epsilon: Radius, non-negative: a scalar or one an example, ``[B]``. A
      Python number is rounded down to the dtype, a traced one taken as it is.
    norm: One of linf, l2, l1.
    bounds: Least and greatest value of a coordinate, or None.

  Returns:
    Points in the dtype of ``inputs``, inside ball and bounds exactly: values
    are rounded towards ``inputs``.

  Raises:
    TypeError: An argument is not floating.
    ValueError: Unknown norm, shapes that differ, negative static radius, or
      bounds out of order.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> print(attacks.project(jnp.array([[3.0, 0.9]]), jnp.array([[0.5, 0.5]]),
    ...                       epsilon=0.25, norm='linf'))
    [[0.75 0.75]]
  """
  inputs = _checks.inputs(inputs)
  points = _checks.inputs(points, 'points')
  if points.shape != inputs.shape:
    raise ValueError(
      f'points {points.shape} and inputs {inputs.shape} differ in shape'
    )
  _checks.norm(norm)
  _checks.scalar('epsilon', epsilon, positive=False)
  box = _checks.bounds(bounds, inputs)
  centre = widen(inputs)
  delta = points.astype(centre.dtype) - centre
  radius = radius_within(epsilon, inputs, norm)
  delta = project_delta(delta, centre, radius=radius, norm=norm, box=box)
  return apply_delta(inputs, delta, box)


def widen(x: jax.Array) -> jax.Array:
  """``x`` in the dtype to compute in, float32 at the least."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def per_example(value: ArrayLike, like: jax.Array) -> jax.Array:
  """A scalar or ``[B]`` as an array that broadcasts against ``[B, ...]``."""
  value = jnp.asarray(value, like.dtype)
  return jnp.reshape(value, (-1,) + (1,) * (like.ndim - 1))


def radius_within(epsilon: ArrayLike, inputs: jax.Array, norm: str):
  """The radius as an array that broadcasts, rounded so as not to grow.

  Args:
    epsilon: Scalar or ``[B]``. A Python number is rounded down to the dtype.
    inputs: The clean points, ``[B, ...]``.
    norm: One of linf, l2, l1. Sums of many squares round too: l2 and l1 give
      up a few ulps of the radius for that.

  Returns:
    Shape ``[1 or B, 1, ...]``, float32 or wider.
  """
  dtype = jnp.promote_types(inputs.dtype, jnp.float32)
  info = np.finfo(dtype)
  if isinstance(epsilon, int | float | np.number):
    rounded = np.asarray(epsilon, dtype)
    if float(rounded) > float(epsilon):
      rounded = np.nextafter(rounded, np.asarray(0, dtype))
    epsilon = rounded
  radius = per_example(epsilon, inputs.astype(dtype))
  if norm != 'linf':
    dimension = inputs.size // max(inputs.shape[0], 1)
    radius = radius * dtype.type(1 - (8 + dimension**0.5) * float(info.eps))
  return radius


def project_delta(
  delta: jax.Array,
  centre: jax.Array,
  *,
  radius: jax.Array,
  norm: str,
  box: tuple[float, float],
) -> jax.Array:
  """Nearest perturbation in the ball that keeps the point in the box."""
  axes = tuple(range(1, delta.ndim))
  # The room to move in each coordinate; the clean point lies in the box.
  down = jnp.minimum(box[0] - centre, 0)
  up = jnp.maximum(box[1] - centre, 0)
  if norm == 'linf':
    return jnp.clip(jnp.clip(delta, -radius, radius), down, up)
  steps = jnp.finfo(delta.dtype).nmant + 3

  if norm == 'l2':
    size = safe_norm(delta, axis=axes, keepdims=True)
    # Exact without a box, and never too much with one.
    least = jnp.where(size > radius, radius / jnp.where(size > 0, size, 1), 1)
    if np.isinf(box[0]) and np.isinf(box[1]):
      return delta * least

    def at(scale):
      return jnp.clip(delta * scale, down, up)

    def fits(scale):
      return safe_norm(at(scale), axis=axes, keepdims=True) <= radius

    def halve(_, bracket):  # The low end fits.
      low, high = bracket
      middle = (low + high) / 2
      inside = fits(middle)
      return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    most = jnp.ones_like(least)
    low, _ = jax.lax.fori_loop(0, steps, halve, (least, most))
    return at(jnp.where(fits(most), most, low))

  def at(threshold):
    soft = jnp.maximum(jnp.abs(delta) - threshold, 0)
    return jnp.clip(jnp.sign(delta) * soft, down, up)

  def fits(threshold):
    size = jnp.sum(jnp.abs(at(threshold)), axis=axes, keepdims=True)
    return size <= radius

  def halve(_, bracket):  # The high end fits.
    low, high = bracket
    middle = (low + high) / 2
    inside = fits(middle)
    return jnp.where(inside, low, middle), jnp.where(inside, middle, high)

  most = jnp.max(jnp.abs(delta), axis=axes, keepdims=True)
  least = jnp.zeros_like(most)
  _, high = jax.lax.fori_loop(0, steps, halve, (least, most))
  return at(jnp.where(fits(least), least, high))


def apply_delta(
  inputs: jax.Array, delta: jax.Array, box: tuple[float, float]
) -> jax.Array:
  """``inputs + delta`` in the dtype of ``inputs``, rounded towards them.

  No coordinate ends further from its clean value than ``delta`` says, in
  exact arithmetic, nor outside the box.

  Args:
    inputs: Clean points, any floating dtype.
    delta: Perturbation, same shape, float32 or wider.
    box: Least and greatest value.

  Returns:
    The perturbed points.
  """
  dtype = inputs.dtype
  wide = inputs.astype(delta.dtype)
  total = wide + delta
  # The exact rounding error of the sum (Knuth): below zero, the sum is high.
  back = total - wide
  error = (wide - (total - back)) + (delta - back)
  far = jnp.where(delta > 0, error < 0, error > 0)
  total = jnp.where(far, jnp.nextafter(total, wide), total)
  low, high = bounds_within(box, delta.dtype)
  total = jnp.where(delta > 0, jnp.minimum(total, high), total)
  total = jnp.where(delta < 0, jnp.maximum(total, low), total)
  if dtype == delta.dtype:
    return total
  narrow = total.astype(dtype)
  again = narrow.astype(delta.dtype)
  far = jnp.where(delta > 0, again > total, again < total)
  return jnp.where(far, jnp.nextafter(narrow, inputs), narrow)


def bounds_within(box: tuple[float, float], dtype: Any) -> tuple[Any, Any]:
  """The bounds in a dtype, rounded inwards."""
  kind = np.dtype(dtype).type
  low, high = kind(box[0]), kind(box[1])
  if float(low) < box[0]:
    low = np.nextafter(low, kind(np.inf))
  if float(high) > box[1]:
    high = np.nextafter(high, kind(-np.inf))
  return low, high
