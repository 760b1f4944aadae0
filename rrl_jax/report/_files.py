"""A run's files, read with the suspicion due to files."""

from collections.abc import Mapping
import io
import json
import math
import pathlib
from typing import Any
import zipfile
import zlib

import numpy as np


def read_json(path: pathlib.Path) -> tuple[dict[str, Any], str]:
  """Reads an object.

  Args:
    path: A file.

  Returns:
    ``(object, '')``, or ``({}, what is wrong)``.
  """
  try:
    found = json.loads(path.read_text('utf-8'))
  except FileNotFoundError:
    return {}, f'{path.name} is missing'
  except (OSError, ValueError, RecursionError) as error:
    return {}, f'{path.name} cannot be read ({_first_line(error)})'
  if not isinstance(found, dict):
    return {}, f'{path.name} holds no object'
  return found, ''


def read_metrics(path: pathlib.Path) -> tuple[list[dict[str, Any]], str]:
  """Reads one object a line; broken lines, as a crash leaves, are skipped.

  Args:
    path: metrics.jsonl.

  Returns:
    ``(lines by step, '')``, or ``([], what is wrong)``.
  """
  try:
    text = path.read_text('utf-8', errors='replace')
  except FileNotFoundError:
    return [], f'{path.name} is missing'
  except OSError as error:
    return [], f'{path.name} cannot be read ({_first_line(error)})'
  by_step = {}
  for line in text.splitlines():
    try:
      found = json.loads(line)
    except (ValueError, RecursionError):
      continue
    step = found.get('step') if isinstance(found, dict) else None
    if is_number(step):
      by_step[step] = by_step.get(step, {}) | found
  if not by_step:
    return [], f'{path.name} holds no step'
  return [by_step[step] for step in sorted(by_step)], ''


def read_arrays(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
  """Reads arrays; pickled ones are refused.

  Args:
    path: figures.npz.

  Returns:
    ``(arrays, '')``, or ``({}, what is wrong)``.
  """
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
      return {name: found[name] for name in found.files}, ''
  except FileNotFoundError:
    return {}, f'{path.name} is missing'
  except (
    OSError,
    ValueError,
    EOFError,
    MemoryError,  # A broken header may ask for any size.
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    return {}, f'{path.name} cannot be read ({_first_line(error)})'
  except AttributeError:  # An .npy under the name of an .npz.
    return {}, f'{path.name} is no archive of arrays'


def is_number(value: Any) -> bool:
  """Whether it is a finite number that a float can hold."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  try:
    return math.isfinite(value)
  except OverflowError:
    return False


def is_numeric(array: np.ndarray) -> bool:
  """Whether all of an array are finite real numbers."""
  return array.dtype.kind in 'buif' and bool(np.isfinite(array).all())


def class_name(names: np.ndarray | None, k: int) -> str:
  """Name of a class, 'class 7' where it has none."""
  known = names is not None and names.ndim == 1 and names.dtype.kind == 'U'
  return str(names[k]) if known and 0 <= k < len(names) else f'class {k}'


def _first_line(error: Exception) -> str:
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return text.splitlines()[0][:120]


def dig(config: Mapping[str, Any], path: str) -> Any:
  """Value at a dotted path, or None."""
  for part in path.split('.'):
    if not isinstance(config, Mapping):
      return None
    config = config.get(part)
  return config


def pretty(config: Mapping[str, Any]) -> str:
  """The object as indented JSON; '' if it is empty."""
  return json.dumps(config, indent=2, ensure_ascii=False) if config else ''
