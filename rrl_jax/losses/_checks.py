"""Checks at trace time; each message is one line that names the argument."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np


def floating(name: str, x: ArrayLike, rank: int | None = None) -> jax.Array:
  """Returns ``x`` as an array of real floating dtype and, if given, of a rank.

  Args:
    name: What the message calls ``x``.
    x: The value to check.
    rank: Required number of axes, or None for any.

  Raises:
    TypeError: The dtype is not floating.
    ValueError: The rank differs.
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f'{name} must have a floating dtype, got {x.dtype}')
  if rank is not None and x.ndim != rank:
    raise ValueError(f'{name} must have rank {rank}, got shape {x.shape}')
  return x


def integer(name: str, x: ArrayLike, rank: int) -> jax.Array:
  """Returns ``x`` as an array of integer dtype and of a rank, else raises."""
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.integer):
    raise TypeError(f'{name} must have an integer dtype, got {x.dtype}')
  if x.ndim != rank:
    raise ValueError(f'{name} must have rank {rank}, got shape {x.shape}')
  return x


def same_shape(**arrays: jax.Array) -> None:
  """Raises ValueError unless all arrays have one shape."""
  shapes = {name: x.shape for name, x in arrays.items()}
  if len(set(shapes.values())) > 1:
    text = ', '.join(f'{name} {shape}' for name, shape in shapes.items())
    raise ValueError(f'shapes must be equal, got {text}')


def in_range(
  name: str,
  value: Any,
  low: float = -np.inf,
  high: float = np.inf,
  *,
  open_low: bool = False,
) -> None:
  """Raises ValueError if a number, or one of an array, is outside the range.

  Traced values pass: they have nothing to compare.

  Args:
    name: What the message calls ``value``.
    value: The number or numbers to check; None passes.
    low: Least allowed value.
    high: Greatest allowed value.
    open_low: Whether ``low`` itself is not allowed.
  """
  if value is None or isinstance(value, jax.core.Tracer):
    return
  numbers = np.asarray(value)
  if numbers.dtype.kind not in 'biuf':  # Also the 16 bits of JAX.
    numbers = numbers.astype(np.float64)
  above = numbers > low if open_low else numbers >= low
  within = above & (numbers <= high)  # NaN fails as well.
  if not np.all(within):
    left, right = '(' if open_low else '[', ')' if high == np.inf else ']'
    worst = numbers[~within].ravel()[0]
    raise ValueError(
      f'{name} must lie in {left}{low}, {high}{right}, got {worst}'
    )


def one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
  """Raises ValueError unless ``value`` is one of the known words."""
  if value not in known:
    raise ValueError(f'{name} must be one of {", ".join(known)}, got {value!r}')
