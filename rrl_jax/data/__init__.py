"""Labelled images: where they come from, and how batches of them are drawn.

A config names a source, a module of this folder, and the texts that say which
classes to keep, how they group into concepts and how common each concept is,
and which labels of the training split are to be wrong:

>>> from rrl_jax import data
>>> splits = data.load('digits', classes='0-4', concepts='a=0,1 b=2-4')
>>> splits.train.image_shape, splits.train.concept_names
((8, 8, 1), ('a', 'b'))
>>> noise = {'kind': 'symmetric', 'rate': 0.25}
>>> train, test = data.load('digits', noise=noise)
>>> round(float(train.truth.flipped.mean()), 2), test.truth
(0.25, None)
"""

from collections.abc import Mapping
import contextlib
import importlib
import inspect
import pkgutil
import re
from types import ModuleType

from rrl_jax.data import abnormal as abnormal_lib
from rrl_jax.data import coarse as coarse_lib
from rrl_jax.data import concepts as concepts_lib
from rrl_jax.data import groups as groups_lib
from rrl_jax.data import noise as noise_lib
from rrl_jax.data.source import Images, Source, Splits, Truth
from rrl_jax.errors import ConfigError, DataError

__all__ = [
  'DataError', 'Images', 'Source', 'Splits', 'Truth', 'get', 'load', 'names'
]  # fmt: skip
_NOISE = {
  'kind': 'none', 'rate': 0.0, 'seed': 0, 'mapping': '', 'exact': True,
  'confusion': None,
}  # fmt: skip
_GROUPS = {
  'kind': 'none', 'strength': 0.95, 'test_strength': None,
  'num_attributes': None, 'seed': 0,
}  # fmt: skip
_ABNORMAL = {
  'kind': 'none', 'rate': 0.0, 'seed': 0, 'name': '', 'kw': {}, 'classes': ''
}  # fmt: skip


def names() -> tuple[str, ...]:
  """Names of all sources: the modules here whose ``load`` takes a seed."""
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
  coarse: str = '',
  concepts: str = 'class',
  imbalance: str = '',
  seed: int = 0,
  split_seed: int = 0,
  groups: Mapping | None = None,
  noise: Mapping | None = None,
  abnormal: Mapping | None = None,
  shapes_only: bool = False,
  **kw,
) -> Splits:
  """A set of labelled images, its classes selected, grouped and thinned.

  In this order: ``classes`` selects; ``coarse`` merges classes, and from here
  on they are what a label means; ``concepts`` groups; ``imbalance`` thins the
  training split; ``groups`` plants an attribute into both splits, so that its
  strength is that of the thinned set; ``abnormal`` replaces some training
  images; ``noise`` changes some labels of the others, whose groups and fine
  labels stay the true ones. ``train.truth`` says which were replaced or
  changed. With the concepts ``'group'`` imbalance comes after groups.

  Wherever a text numbers classes they are those of the source, before anything
  was selected or merged; noise alone speaks of the labels as they are then.

  Args:
    name: A source, see `names`.
    classes: Classes to keep, as `concepts.select` reads them; '' for all.
    coarse: Which classes become one, as `coarse.apply` reads it; '' for none.
    concepts: How classes group, as `concepts.select` reads it; ``'fine'``, with
      a coarse map, for each class that it merges; ``'group'`` for the groups.
    imbalance: How rare each concept is in the training split, as
      `concepts.thin` reads it; '' for as it is.
    seed: Seeds which examples of a thinned concept stay.
    split_seed: Seeds what is held out, where a source has no test split.
    groups: Arguments of `groups.apply`: ``kind, strength, test_strength,
      num_attributes, seed``; what is left out has its default, which for kind
      is ``'none'``.
    noise: Arguments of `noise.flip` for the training split: ``kind, rate,
      seed, mapping, exact, confusion``; what is left out has its default,
      which for kind is ``'none'`` and for rate and seed 0.
    abnormal: Arguments of `abnormal.add` for the training split: ``kind, rate,
      seed``, and for the kind ``'source'`` the ``name``, ``kw`` and
      ``classes`` of another source, whose training split is used.
    shapes_only: Whether to take what the source declares of itself, classes
      and image shape, with empty images, as far as it can without its data;
      see ``declare`` of `tfds`, `fashion_mnist` and `mock`. Other sources are
      read.
    **kw: Settings of the source.

  Returns:
    Training and test split with the same classes and concepts.

  Raises:
    ConfigError: A name, key or value that does not exist.
    DataError: Data that are missing or cannot be used.
  """
  module = get(name)
  _check_settings(name, module, kw)
  for key, text in (
    ('classes', classes),
    ('coarse', coarse),
    ('concepts', concepts),
    ('imbalance', imbalance),
  ):
    if not isinstance(text, str):
      raise ConfigError(f'data.{key}={text!r}: a text')
  for key, number in (('seed', seed), ('split_seed', split_seed)):
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
      raise ConfigError(f'data.{key}={number!r}: an integer of at least 0')
  groups = _fields('groups', groups, _GROUPS)
  noise = _fields('noise', noise, _NOISE)
  abnormal = _fields('abnormal', abnormal, _ABNORMAL)
  groups_lib.check(**groups)
  noise_lib.check(**noise)
  _check_abnormal(**abnormal)
  if shapes_only and hasattr(module, 'declare'):
    whole = module.declare(**kw)
  else:
    whole = module.load(**kw, seed=split_seed)
  if coarse == 'source' or concepts == 'coarse':
    whole = coarse_lib.of_source(whole, name, kw)
  splits = concepts_lib.select(whole, classes=classes, concepts=concepts)
  splits = coarse_lib.apply(splits, coarse, whole=whole, concepts=concepts)
  thin = lambda splits: splits._replace(
    train=concepts_lib.thin(splits.train, imbalance, seed=seed)
  )
  if concepts == 'group':
    splits = thin(groups_lib.by_group(groups_lib.apply(splits, **groups)))
  else:
    splits = groups_lib.apply(thin(splits), **groups)
  train = _add(splits.train, split_seed=split_seed, **abnormal)
  train = noise_lib.flip(train, **noise)
  return splits._replace(train=train)


def _check_settings(name: str, module: ModuleType, kw: Mapping) -> None:
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


def check_noise(noise: Mapping | None, abnormal: Mapping | None) -> None:
  """Checks what can be checked of both before any data are read.

  Args:
    noise: As for `load`.
    abnormal: As for `load`.

  Raises:
    ConfigError: A key or value that does not exist.
  """
  noise_lib.check(**_fields('noise', noise, _NOISE))
  _check_abnormal(**_fields('abnormal', abnormal, _ABNORMAL))


def check_groups(groups: Mapping | None) -> None:
  """Checks what can be checked of groups before any data are read.

  Args:
    groups: As for `load`.

  Raises:
    ConfigError: A key or value that does not exist.
  """
  groups_lib.check(**_fields('groups', groups, _GROUPS))


def _fields(group: str, given: Mapping | None, defaults: dict) -> dict:
  """The fields of a group, None meaning its default."""
  if given is None:
    return defaults
  if not isinstance(given, Mapping):
    raise ConfigError(f'data.{group}={given!r}: fields {", ".join(defaults)}')
  for key in given:
    if key not in defaults:
      raise ConfigError(f'data.{group}.{key}: known are {", ".join(defaults)}')
  return defaults | _given(given)


def _check_abnormal(kind, rate, seed, name, kw, classes) -> None:
  abnormal_lib.check(kind=kind, rate=rate, seed=seed)
  for key, text in (('name', name), ('classes', classes)):
    if not isinstance(text, str):
      raise ConfigError(f'data.abnormal.{key}={text!r}: a text')
  if not isinstance(kw, Mapping):
    raise ConfigError(f'data.abnormal.kw={kw!r}: settings of the source')
  if kind == 'source':
    with _of_abnormal():
      _check_settings(name, get(name), _given(kw))
  elif kind != 'none':
    for key, value in (
      ('name', name),
      ('kw', _given(kw)),
      ('classes', classes),
    ):
      if value:
        raise ConfigError(
          f"data.abnormal.{key}={value!r}: the kind 'source' reads it,"
          f' {kind!r} does not'
        )


def _add(
  train: Source, *, split_seed, kind, rate, seed, name, kw, classes
) -> Source:
  """The training split with abnormal images, of a source loaded for them."""
  other = None
  if kind == 'source':
    with _of_abnormal():
      splits = get(name).load(**_given(kw), seed=split_seed)
      other = concepts_lib.select(splits, classes=classes).train
  return abnormal_lib.add(train, kind=kind, rate=rate, seed=seed, other=other)


def _given(kw: Mapping) -> dict:
  return {key: value for key, value in kw.items() if value is not None}


@contextlib.contextmanager
def _of_abnormal():
  """Errors within name fields of ``data.abnormal``, not of ``data``."""
  try:
    yield
  except (ConfigError, DataError) as error:
    text = re.sub(r'^data\.', 'data.abnormal.', str(error))
    raise type(error)(text) from error


def _module(name: str) -> ModuleType | None:
  """The module of that name if it is there and is a source."""
  if not isinstance(name, str) or not name.isidentifier():
    return None
  if name not in (module.name for module in pkgutil.iter_modules(__path__)):
    return None
  module = importlib.import_module(f'{__name__}.{name}')
  loader = getattr(module, 'load', None)
  is_source = loader and 'seed' in inspect.signature(loader).parameters
  return module if is_source else None
