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
  """Raises ValueError if a Python or NumPy number is out of range.

  Arrays of JAX pass: a traced value has nothing to compare.

  Args:
    name: What the message calls ``value``.
    value: The number.
    positive: Whether zero is refused too.
  """
  if not isinstance(value, int | float | np.number):
    return
  if not (value > 0 if positive else value >= 0):  # NaN fails as well.
    word = 'positive' if positive else 'non-negative'
    raise ValueError(f'{name} must be {word}, got {value}')


def count(name: str, value: Any, least: int) -> None:
  """Raises unless ``value`` is a static integer of at least ``least``."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f'{name} must be a Python integer, got {value!r}')
  if value < least:
    raise ValueError(f'{name} must be at least {least}, got {value}')


def bounds(value: Any) -> tuple[float, float]:
  """Returns the bounds as two floats in order; None is the whole line."""
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
  return low, high


def losses(values: jax.Array, batch_size: int) -> jax.Array:
  """Returns the losses if ``loss_fn`` gave one an example, else raises."""
  shape = getattr(values, 'shape', None)
  if shape != (batch_size,):
    raise ValueError(
      f'loss_fn must return one loss an example, shape ({batch_size},), '
      f'got {shape if shape is not None else type(values).__name__}'
    )
  return values
