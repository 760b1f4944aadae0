"""Training objectives: one file per name, each with one ``make``."""

import importlib
import inspect
import pkgutil
from typing import Any

from rrl_jax import typing
from rrl_jax.errors import ConfigError


def names() -> list[str]:
  """Names that ``make`` knows."""
  modules = (module.name for module in pkgutil.iter_modules(__path__))
  return sorted(name for name in modules if not name.startswith('_'))


def make(
  name: str,
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec,
  kw: dict[str, Any],
) -> typing.Objective:
  """Builds the objective ``name`` with the arguments of a config.

  Args:
    name: A module of this package.
    apply_fn: The network.
    data: What the objective may know of the training set.
    kw: Its hyper-parameters; None leaves one at its default.

  Raises:
    ConfigError: An unknown name or argument, or a value out of range.
  """
  if name not in names():
    raise ConfigError(f'objective.name={name!r}; known: {", ".join(names())}')
  module = importlib.import_module(f'{__name__}.{name}')
  known = set(inspect.signature(module.make).parameters) - {'apply_fn', 'data'}
  kw = {key: value for key, value in kw.items() if value is not None}
  for key in kw:
    if key not in known:
      raise ConfigError(
        f'objective.kw.{key}: {name} knows {", ".join(sorted(known))}'
      )
  try:
    return module.make(apply_fn, data=data, **kw)
  except (TypeError, ValueError) as error:
    raise ConfigError(f'objective.kw: {error}') from error
