"""Checks at trace time; each message is one line that names the argument."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

NORMS = ('linf', 'l2', 'l1')


def inputs(x: ArrayLike, name: str = 'inputs') -> jax.Array:
  """Returns ``x`` as a floating array with a batch axis, else raises."""
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f'{name} must have a floating dtype, got {x.dtype}')
  if x.ndim < 2:
    raise ValueError(f'{name} must have shape [B, ...], got {x.shape}')
  return x


def norm(name: Any) -> None:
  """Raises ValueError unless the norm is known."""
  if name not in NORMS:
    raise ValueError(f'norm must be one of {", ".join(NORMS)}, got {name!r}')


def scalar(name: str, value: Any, *, positive: bool) -> None:
  """Raises ValueError if a number, or one of an array, is out of range.

  Traced values pass: they have nothing to compare.

  Args:
    name: What the message calls ``value``.
    value: The number or numbers; None passes.
    positive: Whether zero is refused too.
  """
  numbers = concrete(value)
  if value is None or numbers is None:
    return
  right = numbers > 0 if positive else numbers >= 0  # NaN fails as well.
  if not np.all(right):
    word = 'positive' if positive else 'non-negative'
    worst = numbers[~right].ravel()[0]
    raise ValueError(f'{name} must be {word}, got {worst:.6g}')


def concrete(value: Any) -> np.ndarray | None:
  """The numbers of a value that has some, float64 or wider; None if traced."""
  if isinstance(value, jax.core.Tracer):
    return None
  return np.asarray(value, np.float64)


def radius(
  value: ArrayLike, inputs: jax.Array, box: tuple[float, float], norm: str
) -> None:
  """Raises ValueError unless ``epsilon`` is a radius of balls around inputs.

  Args:
    value: A scalar or one an example, non-negative.
    inputs: Clean examples, ``[B, ...]``.
    box: Least and greatest value of a coordinate.
    norm: Of the ball.
  """
  scalar('epsilon', value, positive=False)
  shape = jnp.shape(value)
  if shape not in ((), inputs.shape[:1]):
    raise ValueError(
      f'epsilon must be a scalar or have shape {inputs.shape[:1]}, got {shape}'
    )
  numbers = concrete(value)
  power = {'linf': 0, 'l2': 0.5, 'l1': 1}[norm]
  widest = (box[1] - box[0]) * float(np.prod(inputs.shape[1:])) ** power
  if numbers is not None and np.any(numbers > widest * (1 + 1e-6)):
    raise ValueError(
      f'epsilon={numbers.max():.6g} is larger than the whole range of the'
      f' inputs, {widest:.6g} in {norm}; it is in units of the inputs, as'
      ' 8 / 255 of images in [0, 1]'
    )


def count(name: str, value: Any, least: int) -> None:
  """Raises unless ``value`` is a static integer of at least ``least``."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f'{name} must be a Python integer, got {value!r}')
  if value < least:
    raise ValueError(f'{name} must be at least {least}, got {value}')


def bounds(value: Any, inputs: jax.Array | None = None) -> tuple[float, float]:
  """Returns the bounds as two floats in order; None is the whole line.

  Args:
    value: What the caller gave.
    inputs: Examples that must lie within them; those that are traced pass.

  Raises:
    ValueError: The bounds are not two numbers in order, or the inputs, unless
      they are traced, are not within them but for rounding.
  """
  if value is None:
    return -np.inf, np.inf
  try:
    low, high = (float(v) for v in value)
  except (TypeError, ValueError):
    raise ValueError(
      f'bounds must be two numbers (low, high) or None, got {value!r}'
    ) from None
  if not low < high:
    raise ValueError(f'bounds must be in order, got ({low}, {high})')
  if inputs is not None and _is_here(inputs):
    _check_within(inputs, low, high)
  return low, high


def _is_here(x):
  """Whether the numbers of an array are known to this process."""
  return not isinstance(x, jax.core.Tracer) and x.is_fully_addressable


def _check_within(inputs, low, high):
  if not inputs.size:
    return
  least, most = float(jnp.min(inputs)), float(jnp.max(inputs))
  slack = 4 * float(jnp.finfo(inputs.dtype).eps) * max(abs(least), abs(most))
  if not (low - slack <= least and most <= high + slack):  # NaN fails as well.
    raise ValueError(
      f'inputs must lie within the bounds ({low:g}, {high:g}), got values from'
      f' {least:.9g} to {most:.9g}; a network normalises inside, and other'
      ' bounds are given by bounds='
    )


def losses(values: jax.Array, batch_size: int) -> jax.Array:
  """Returns the losses if ``loss_fn`` gave one an example, else raises."""
  shape = getattr(values, 'shape', None)
  if shape != (batch_size,):
    raise ValueError(
      f'loss_fn must return one loss an example, shape ({batch_size},), '
      f'got {shape if shape is not None else type(values).__name__}'
    )
  return values
