"""Labelled images: where they come from, and how batches of them are drawn.

A config names a source, a module of this folder, and the texts that say which
classes to keep, how they group into concepts and how common each concept is:

>>> from rrl_jax import data
>>> splits = data.load('digits', classes='0-4', concepts='a=0,1 b=2-4')
>>> splits.train.image_shape, splits.train.concept_names
((8, 8, 1), ('a', 'b'))
"""

import importlib
import inspect
import pkgutil
from types import ModuleType

from rrl_jax.data import concepts as concepts_lib
from rrl_jax.data.source import Images, Source, Splits
from rrl_jax.errors import ConfigError, DataError

__all__ = ['DataError', 'Images', 'Source', 'Splits', 'get', 'load', 'names']


def names() -> tuple[str, ...]:
  """Names of all sources: the modules here that have a ``load``."""
  found = (module.name for module in pkgutil.iter_modules(__path__))
  return tuple(sorted(name for name in found if _module(name) is not None))


def get(name: str) -> ModuleType:
  """The module of a source.

  Raises:
    ConfigError: There is no such source.
  """
  module = _module(name)
  if module is None:
    raise ConfigError(f'data.name={name!r}: known are {", ".join(names())}')
  return module


def load(
  name: str,
  *,
  classes: str = '',
  concepts: str = 'class',
  imbalance: str = '',
  seed: int = 0,
  split_seed: int = 0,
  **kw,
) -> Splits:
  """A set of labelled images, its classes selected, grouped and thinned.

  Args:
    name: A source, see `names`.
    classes: Classes to keep, as `concepts.select` reads them; '' for all.
    concepts: How classes group, as `concepts.select` reads it.
    imbalance: How rare each concept is in the training split, as
      `concepts.thin` reads it; '' for as it is.
    seed: Seeds which examples of a thinned concept stay.
    split_seed: Seeds what is held out, where a source has no test split.
    **kw: Settings of the source.

  Returns:
    Training and test split with the same classes and concepts.

  Raises:
    ConfigError: A name, key or value that does not exist.
    DataError: Data that are missing or cannot be used.
  """
  module = get(name)
  parameters = inspect.signature(module.load).parameters
  known = [key for key in parameters if key != 'seed']
  for key in kw:
    if key not in known:
      raise ConfigError(
        f'data.kw.{key}: the source {name!r} knows'
        f' {", ".join(known) if known else "no settings"}'
      )
  for key in known:
    if parameters[key].default is inspect.Parameter.empty and key not in kw:
      raise ConfigError(f'data.kw.{key}: the source {name!r} needs it')
  for key, text in (
    ('classes', classes),
    ('concepts', concepts),
    ('imbalance', imbalance),
  ):
    if not isinstance(text, str):
      raise ConfigError(f'data.{key}={text!r}: a text')
  for key, number in (('seed', seed), ('split_seed', split_seed)):
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
      raise ConfigError(f'data.{key}={number!r}: an integer of at least 0')
  splits = module.load(**kw, seed=split_seed)
  splits = concepts_lib.select(splits, classes=classes, concepts=concepts)
  train = concepts_lib.thin(splits.train, imbalance, seed=seed)
  return splits._replace(train=train)


def _module(name: str) -> ModuleType | None:
  """The module of that name if it is there and has a ``load``."""
  if not isinstance(name, str) or not name.isidentifier():
    return None
  if name not in (module.name for module in pkgutil.iter_modules(__path__)):
    return None
  module = importlib.import_module(f'{__name__}.{name}')
  return module if hasattr(module, 'load') else None
