"""Checks of data at the border; each message is one line naming the field."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError


def features(name: str, x: ArrayLike) -> np.ndarray:
  """Returns features [N, D] as float32 or float64, all finite, not empty.

  Args:
    name: What the message calls them.
    x: The features; half precision is widened to float32, integers to float64.

  Raises:
    DataError: Another shape, no row, NaN or inf.
  """
  x = np.asarray(x)
  if x.ndim != 2 or 0 in x.shape:
    raise DataError(
      f'{name} must be rows and columns [N, D], at least one of each, got'
      f' shape {x.shape}'
    )
  if not _is_real(x.dtype):
    raise DataError(f'{name} must be real numbers, got dtype {x.dtype}')
  if x.dtype not in (np.float32, np.float64):
    x = x.astype(np.float64 if x.dtype.kind in 'iub' else np.float32)
  finite = np.isfinite(x).all(axis=1)
  if not finite.all():
    raise DataError(
      f'{name} has NaN or inf in {np.sum(~finite)} of {len(x)} rows, first in'
      f' row {np.argmin(finite)}'
    )
  return x


def integers(
  name: str, x: ArrayLike, length: int | None = None, of: str = 'features'
) -> np.ndarray:
  """Returns labels or assignments [N] as int64.

  Args:
    name: What the message calls them.
    x: Integers, one an example.
    length: How many there have to be, or None for any.
    of: What has that many rows.

  Raises:
    DataError: Another shape or length, none at all, or no integers.
  """
  x = np.asarray(x)
  if x.ndim != 1 or not len(x):
    raise DataError(f'{name} must be a list of integers, got shape {x.shape}')
  if x.dtype.kind not in 'iub':
    raise DataError(f'{name} must be integers, got dtype {x.dtype}')
  if length is not None and len(x) != length:
    raise DataError(f'{name} has {len(x)} entries, {of} has {length} rows')
  return x.astype(np.int64)


def classes(name: str, labels: np.ndarray, least: int = 2) -> np.ndarray:
  """Returns ``labels`` as indices into the sorted classes that occur.

  Raises:
    DataError: Fewer than ``least`` classes occur.
  """
  found, indices = np.unique(labels, return_inverse=True)
  if len(found) < least:
    raise DataError(
      f'{name} has {len(found)} class, {found[0]}; at least {least} are needed'
    )
  return indices


def rounding(x: np.ndarray) -> float:
  """Singular values of a centred matrix up to which it holds rounding alone.

  Args:
    x: The matrix before it is centred, ``[N, D]``, in the dtype in which it
      was made: float32 as float64 has the rounding of float32.

  Returns:
    ``eps(dtype) * max(N, D)`` times the largest singular value of ``x``.
  """
  largest = np.linalg.norm(np.asarray(x, np.float64), 2)
  return float(np.finfo(x.dtype).eps * max(x.shape) * largest)


def is_rounding(squares: float, x: np.ndarray) -> bool:
  """Whether a sum of squared deviations of ``x`` is no more than rounding.

  Args:
    squares: The sum, over all entries or over means of them.
    x: What deviates, ``[N, D]``, in the dtype in which it was made.
  """
  total = np.sum(np.square(x, dtype=np.float64))
  return not squares > (16 * np.finfo(x.dtype).eps) ** 2 * total


def columns(name: str, labels: np.ndarray, count: int) -> None:
  """Raises DataError unless all labels are columns 0 to ``count - 1``."""
  if labels.min() < 0 or labels.max() >= count:
    raise DataError(
      f'{name} run from {labels.min()} to {labels.max()}, and the {count}'
      f' columns are the classes 0 to {count - 1}'
    )


def probabilities(
  name: str, x: ArrayLike, length: int | None = None
) -> np.ndarray:
  """Returns rows of probabilities [N, K] as float64.

  Raises:
    DataError: Not finite, negative, or a row that does not sum to 1 (1e-3).
  """
  x = features(name, x).astype(np.float64)
  if length is not None and len(x) != length:
    raise DataError(f'{name} has {len(x)} rows, labels has {length} entries')
  sums = x.sum(axis=1)
  if (x < 0).any() or (np.abs(sums - 1) > 1e-3).any():
    row = np.argmax((x < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3))
    raise DataError(
      f'{name} must be probabilities, row {row} sums to {sums[row]:.6g} with'
      f' least entry {x[row].min():.6g}'
    )
  return x


def costs(x: ArrayLike) -> np.ndarray:
  """Returns symmetric costs [N, N] as float32 or float64.

  Raises:
    DataError: Another shape, NaN or inf off the diagonal, or not symmetric.
  """
  x = np.asarray(x)
  if x.ndim != 2 or x.shape[0] != x.shape[1] or not len(x):
    raise DataError(f'costs must be a square matrix, got shape {x.shape}')
  if not _is_real(x.dtype):
    raise DataError(f'costs must be real numbers, got dtype {x.dtype}')
  if x.dtype not in (np.float32, np.float64):
    x = x.astype(np.float64 if x.dtype.kind in 'iub' else np.float32)
  size = 256
  for start in range(0, len(x), size):
    rows = slice(start, start + size)
    for other in range(start, len(x), size):
      columns = slice(other, other + size)
      tile, mirrored = x[rows, columns], x[columns, rows].T
      with np.errstate(invalid='ignore', over='ignore'):
        plain = np.isfinite(tile.sum()) and np.array_equal(tile, mirrored)
      if not plain:  # Or only on the diagonal, or by rounding.
        _check_tile(x, start, other, size)
  return x


def at_least(name: str, value: float, least: float) -> None:
  """Raises ValueError unless ``value`` is at least ``least``; NaN is not."""
  if not value >= least:
    raise ValueError(f'{name} must be at least {least}, got {value}')


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
  """Raises ValueError unless ``value`` is one of the known words."""
  if value not in known:
    raise ValueError(f'{name} must be one of {", ".join(known)}, got {value!r}')


def _check_tile(x, start, other, size):
  """Raises DataError for a tile that is not finite or not as its mirror."""
  rows = np.arange(start, min(start + size, len(x)))
  columns = np.arange(other, min(other + size, len(x)))
  off = rows[:, None] != columns
  tile, mirrored = x[np.ix_(rows, columns)], x[np.ix_(columns, rows)].T
  for values, turned in ((tile, False), (mirrored, True)):
    bad = off & ~np.isfinite(values)
    if bad.any():
      i, j = np.argwhere(bad)[0]
      place = (rows[i], columns[j])
      row, column = place[::-1] if turned else place
      raise DataError(
        f'costs[{row}, {column}] is {values[i, j]}, must be finite'
      )
  gap = np.abs(np.where(off, tile, 0) - np.where(off, mirrored, 0))
  if gap.max() > 1e-5 * np.abs(tile).max(initial=0, where=off):
    i, j = np.unravel_index(np.argmax(gap), gap.shape)
    row, column = rows[i], columns[j]
    raise DataError(
      f'costs must be symmetric: [{row}, {column}] is {x[row, column]},'
      f' [{column}, {row}] is {x[column, row]}'
    )


def _is_real(dtype):
  """Whether numbers of a dtype are real; bfloat16 is of NumPy's kind V."""
  return dtype.kind in 'iubf' or dtype.name == 'bfloat16'
