"""Features of an encoder trained elsewhere, from one NumPy ``.npz`` file."""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from rrl_jax.data import npz
from rrl_jax.errors import ConfigError, DataError


class FeatureFile(NamedTuple):
  """What an encoder made of labelled examples.

  Attributes:
    name: Of the file.
    features: float32 or float64 ``[N, D]``, finite.
    labels: Classes, int64 ``[N]``, at least two of them.
    logits: Of the classifier on these features, ``[N, K]``, or None; labels
      are its columns.
    train_features: Of training examples, ``[M, D]``, or None.
    train_labels: Their classes, int64 ``[M]``, or None.
  """

  name: str
  features: np.ndarray
  labels: np.ndarray
  logits: np.ndarray | None = None
  train_features: np.ndarray | None = None
  train_labels: np.ndarray | None = None


def read(path: str | os.PathLike) -> FeatureFile:
  """Reads ``features, labels`` and, if there, ``logits`` and training examples.

  The arrays ``train_features`` and ``train_labels`` calibrate what has to be
  calibrated on other examples than it is measured on. Further arrays are left
  alone; none may be pickled.

  Args:
    path: The file.

  Returns:
    A `FeatureFile`.

  Raises:
    ConfigError: ``path`` is no text.
    DataError: One line that names the file, the array, and what is wrong.
  """
  if not isinstance(path, str | os.PathLike) or not str(path):
    raise ConfigError(f'features={path!r}: the path of a .npz file')
  arrays = npz.read(path)
  for name in ('features', 'labels'):
    if name not in arrays:
      raise DataError(
        f'{path} has no array {name!r}; it holds {", ".join(arrays) or "none"}'
      )
  if ('train_features' in arrays) != ('train_labels' in arrays):
    there, missing = sorted(
      ('train_features', 'train_labels'), key=lambda name: name not in arrays
    )
    raise DataError(f'{path} has {there!r} but no {missing!r}')
  features = _rows(path, arrays, 'features')
  labels = _classes(path, arrays, 'labels', len(features), 'features')
  if len(np.unique(labels)) < 2:
    raise DataError(
      f'{path}: labels holds one class, {labels[0]}; at least two are needed'
    )
  logits = None
  if 'logits' in arrays:
    logits = _rows(path, arrays, 'logits')
    if len(logits) != len(features):
      raise DataError(
        f'{path}: logits has {len(logits)} rows, features {len(features)}'
      )
    if _are_probabilities(logits):
      raise DataError(
        f'{path}: logits holds probabilities, each row of which adds up to 1;'
        ' give the logits, or their logarithm'
      )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
      raise DataError(
        f'{path}: labels run from {labels.min()} to {labels.max()}, logits has'
        f' {logits.shape[1]} columns'
      )
  train_features = train_labels = None
  if 'train_features' in arrays:
    train_features = _rows(path, arrays, 'train_features')
    if train_features.shape[1] != features.shape[1]:
      raise DataError(
        f'{path}: train_features has {train_features.shape[1]} columns,'
        f' features {features.shape[1]}'
      )
    train_labels = _classes(
      path, arrays, 'train_labels', len(train_features), 'train_features'
    )
  return FeatureFile(
    pathlib.Path(path).name,
    features,
    labels,
    logits,
    train_features,
    train_labels,
  )


def _rows(path, arrays, name):
  """An array of finite rows."""
  x = arrays[name]
  if x.ndim != 2 or 0 in x.shape:
    raise DataError(
      f'{path}: {name} has shape {x.shape}, not rows and columns, at least one'
      ' of each'
    )
  if x.dtype.kind not in 'fiub':
    raise DataError(f'{path}: {name} has dtype {x.dtype}, not real numbers')
  if x.dtype not in (np.float32, np.float64):
    x = x.astype(np.float32 if x.dtype.kind == 'f' else np.float64)
  finite = np.isfinite(x).all(axis=1)
  if not finite.all():
    raise DataError(
      f'{path}: {name} holds NaN or inf in {np.sum(~finite)} of {len(x)} rows,'
      f' first in row {np.argmin(finite)}'
    )
  return x


def _are_probabilities(rows):
  """Whether rows look like a softmax, in 16 bits too, and not all alike."""
  inside = rows.min() >= 0 and rows.max() <= 1 + 1e-2
  adds_up = np.abs(rows.sum(axis=1) - 1).max() < 1e-2
  return inside and adds_up and np.ptp(rows, axis=0).max() > 0


def _classes(path, arrays, name, length, of):
  """An array of integers, one for each row of ``of``."""
  labels = arrays[name]
  if labels.ndim != 1 or labels.dtype.kind not in 'iub':
    raise DataError(
      f'{path}: {name} has shape {labels.shape} of {labels.dtype}, not'
      f' [{length}] of integers'
    )
  if len(labels) != length:
    raise DataError(
      f'{path}: {name} has {len(labels)} entries, {of} {length} rows'
    )
  return labels.astype(np.int64)
