"""What an encoder is worth: measurements with intervals and protocols.

An evaluator is a module with
``evaluate(encoder, data, *, key, <kw>) -> Iterator[(name, value)]``; a value
is a `Measurement` under its key of results.json, or an array under a name
``figure/...`` for the report. `run` chooses evaluators by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any
import zlib

import jax
import numpy as np

from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError
from rrl_jax.evals import linear_head, linear_probe, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, Task, test_images

__all__ = [
  'Encoder',
  'EvalData',
  'Measurement',
  'Task',
  'check',
  'check_data',
  'check_tasks',
  'check_test',
  'get',
  'linear_probe',
  'names',
  'run',
  'test_images',
]


def names() -> tuple[str, ...]:
  """Returns the names of the evaluators, sorted."""
  modules = (m.name for m in pkgutil.iter_modules(__path__))
  return tuple(
    m
    for m in sorted(modules)
    if hasattr(importlib.import_module(f'{__name__}.{m}'), 'evaluate')
  )


def get(name: str) -> ModuleType:
  """Returns the module of an evaluator; it holds `evaluate`.

  Args:
    name: One of `names()`.

  Returns:
    The module ``rrl_jax.evals.<name>``.

  Raises:
    ConfigError: There is no such evaluator.
  """
  if name not in names():
    raise ConfigError(
      f'evals.{name} is unknown; evaluators: {", ".join(names())}'
    )
  return importlib.import_module(f'{__name__}.{name}')


def check(config_evals: Mapping[str, Mapping[str, Any]]) -> None:
  """Raises ConfigError for an unknown evaluator, argument or value.

  Quick enough to be called before training.

  Args:
    config_evals: Arguments of each evaluator by name.
  """
  for name, kw in config_evals.items():
    module = get(name)
    parameters = inspect.signature(module.evaluate).parameters.values()
    known = [
      p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != 'key'
    ]
    for field in kw:
      if field not in known:
        raise ConfigError(
          f'evals.{name}.{field} is unknown; keys: {", ".join(known) or "none"}'
        )
    rules.check(name, module.RULES, kw)


def check_data(names: Iterable[str], train: Source) -> None:
  """Raises ConfigError for an evaluator that needs what the data lack.

  Args:
    names: Evaluators.
    train: Training examples.
  """
  for name in names:
    required = getattr(get(name), 'REQUIRES', None)
    if required and getattr(train, required[0]) is None:
      raise ConfigError(f'evals.{name} needs {required[1]}')


def check_test(
  config_evals: Mapping[str, Mapping[str, Any]], test: Source
) -> None:
  """Raises for a test split that an evaluator cannot use.

  Args:
    config_evals: Arguments of each evaluator by name.
    test: Test examples.

  Raises:
    ConfigError: Images or arguments that do not go together.
    DataError: A file that the arguments name does not fit the split.
  """
  for name, kw in config_evals.items():
    getattr(get(name), 'check_test', lambda test, **kw: None)(test, **kw)


def check_tasks(
  config_evals: Mapping[str, Mapping[str, Any]], tasks: Sequence[Task]
) -> None:
  """Raises ConfigError for a task on which an evaluator can fit no head.

  Args:
    config_evals: Arguments of each evaluator by name.
    tasks: The target tasks.
  """
  for name, kw in config_evals.items():
    module = get(name)
    if getattr(module, 'FITS_HEADS', lambda kw: False)(kw):
      default = inspect.signature(module.evaluate).parameters['num_train']
      linear_head.training_examples(
        name, tasks, kw.get('num_train', default.default)
      )


def run(
  encoder: Encoder,
  data: EvalData,
  config_evals: Mapping[str, Mapping[str, Any]],
  *,
  key: jax.Array,
  begin: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, Measurement], dict[str, np.ndarray]]:
  """Runs evaluators in the order given.

  An evaluator's randomness follows from ``key`` and its own name, so adding
  one changes no other.

  Args:
    encoder: What is evaluated.
    data: The source's splits and the target tasks.
    config_evals: Arguments of each evaluator by name.
    key: Key of all randomness.
    begin: Called with the name of each evaluator before it starts.

  Returns:
    ``(measurements, figures)`` by name.

  Raises:
    ConfigError: Unknown evaluator or argument, or a value out of range.
  """
  check(config_evals)
  measurements: dict[str, Measurement] = {}
  figures: dict[str, np.ndarray] = {}
  for name, kw in config_evals.items():
    begin(name)
    own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    for found, value in get(name).evaluate(encoder, data, key=own_key, **kw):
      into = measurements if isinstance(value, Measurement) else figures
      if found in into:
        raise ConfigError(f'evals.{name} gives {found} a second time')
      into[found] = value
  return measurements, figures
