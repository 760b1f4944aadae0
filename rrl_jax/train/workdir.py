"""A run's folder: what stands in it, and whose it is."""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import pathlib
import platform
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import Measurement

# Fields that may differ between a run and its continuation: how long, how
# often, where, and what is asked of it afterwards.
CONTINUABLE = (
    'job', 'total_epochs', 'total_steps', 'log_steps', 'ckpt_steps',
    'keep_last', 'tracker', 'mesh', 'evals', 'eval_batch_size', 'transfer',
    'data.device_bytes', 'data.num_threads', 'study.order', 'study.metrics',
    'interim_steps', 'interim_evals', 'pool',
)  # fmt: skip
_MOST_DIFFERENCES = 5  # That a message lists.
_ENDS = ('', '.low', '.high')  # Of the keys of one measurement.
_QUESTIONS = ('evals', 'eval_batch_size', 'transfer')
_ASKED = 'config'  # In protocols.json: digest of what was asked.
_PACKAGES = (
    'rrl_jax', 'jax', 'jaxlib', 'flax', 'optax', 'chex', 'ott-jax', 'numpy',
    'scikit-learn', 'grain', 'orbax-checkpoint', 'ml-collections',
    'tensorflow-datasets',
)  # fmt: skip


def identity(config: ConfigDict) -> str:
  """Digest of the part of a config that decides what is being trained."""
  return _digest(trained_fields(config))


def trained_fields(config: ConfigDict | dict) -> dict[str, Any]:
  """The flat fields of a config that decide what is being trained.

  How long is not among them, see `CONTINUABLE`. A field that is None counts as
  one that is not there, so that a config from before the field existed stays
  the same.
  """
  fields = _identifying(config)
  return {name: value for name, value in fields.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths inside a run's folder and the rule that it has one owner."""

  root: pathlib.Path

  @property
  def checkpoints(self) -> pathlib.Path:
    """A folder for each step."""
    return self.root / 'checkpoints'

  @property
  def metrics(self) -> pathlib.Path:
    """One JSON object a line."""
    return self.root / 'metrics.jsonl'

  @property
  def truth(self) -> pathlib.Path:
    """Given and true labels of a training split that was tampered with."""
    return self.root / 'noise.npz'

  @property
  def results(self) -> pathlib.Path:
    """Flat name -> number."""
    return self.root / 'results.json'

  @property
  def protocols(self) -> pathlib.Path:
    """Flat name -> how the number was made."""
    return self.root / 'protocols.json'

  @property
  def figures(self) -> pathlib.Path:
    """Arrays that the report draws."""
    return self.root / 'figures.npz'

  def check_owner(self, config: ConfigDict) -> None:
    """Looks whether the folder is free or holds a run of this config.

    A run that ended before its first checkpoint, refused or diverged, leaves
    the folder free.

    Raises:
      ConfigError: It holds a run of another config; the message says which
        fields differ, those first that a command line set, and names a folder
        that is free.
      DataError: Its config cannot be read.
    """
    path = self.root / 'config.json'
    try:
      if not path.exists():
        return
      there = _identifying(json.loads(path.read_text()))
    except (OSError, ValueError, AttributeError) as error:
      raise DataError(f'{path} cannot be read: {error}') from error
    here = _identifying(config)
    changed = [
      name
      for name in sorted(here.keys() | there.keys())
      if here.get(name) != there.get(name)
    ]
    if not changed or not self._holds_work():
      return
    flags = self._overrides()
    changed.sort(key=lambda name: name not in flags)
    said = [
      f'{name} is {there.get(name)!r} there, {here.get(name)!r} here'
      for name in changed[:_MOST_DIFFERENCES]
    ]
    more = len(changed) - len(said)
    if more:
      said.append(f'and {more} more')
    raise ConfigError(
      f'{self.root} holds a run of another config ({"; ".join(said)}); choose'
      f' another --workdir, such as --workdir={self._free_folder()}'
    )

  def _holds_work(self) -> bool:
    """Whether something stands here that took work, of a run or of several."""
    return bool(
      self.trained_steps()
      or self.results.exists()
      or any(
        path.is_dir()
        for path in self.root.iterdir()
        if path.name not in ('checkpoints', 'report', 'wandb')
      )
    )

  def _overrides(self) -> set[str]:
    """Fields that the command line of the run here had set."""
    try:
      return set(json.loads((self.root / 'overrides.json').read_text()))
    except (OSError, ValueError, TypeError):
      return set()

  def _free_folder(self) -> pathlib.Path:
    """The first of ``<name>-2``, ``<name>-3``, ... that is not there."""
    paths = (
      self.root.with_name(f'{self.root.name}-{number}')
      for number in itertools.count(2)
    )
    return next(path for path in paths if not path.exists())

  def former_identity(self) -> str:
    """Digest of the config that is here, its None fields counted in.

    Checkpoints were once signed by it. '' without a config.
    """
    try:
      fields = json.loads((self.root / 'config.json').read_text())
      return _digest(_identifying(fields))
    except (OSError, ValueError, AttributeError):
      return ''

  @contextlib.contextmanager
  def lock(self):
    """Keeps other processes out of the folder while open.

    Raises:
      ConfigError: Another process is at work in it.
      DataError: The folder cannot be written.
    """
    if jax.process_index() != 0:
      yield
      return
    try:
      self.root.mkdir(parents=True, exist_ok=True)
      file = (self.root / '.lock').open('a')
    except OSError as error:
      raise DataError(
        f'{self.root} cannot be used as --workdir: {error.strerror or error}'
      ) from error
    with file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise ConfigError(
          f'another process is at work in {self.root}; wait for it or choose'
          ' another --workdir'
        ) from error
      except OSError:
        pass  # A file system without locks.
      yield

  def claim(
    self, config: ConfigDict, overrides: dict[str, Any], *, trains: bool = True
  ) -> None:
    """Writes config, overrides and versions.

    Args:
      config: The config.
      overrides: Fields that the command line changed.
      trains: Whether steps are going to be trained; without, a config that is
        there keeps what it says of the training.

    Raises:
      DataError: The folder cannot be written.
    """
    path = self.root / 'config.json'
    fields = plain(config)
    try:
      self.root.mkdir(parents=True, exist_ok=True)
      self._clear_remains(config)
      if not trains and path.exists():
        asked = {name: fields[name] for name in _QUESTIONS}
        fields = json.loads(path.read_text()) | asked
      write_json(path, fields)
      write_json(self.root / 'overrides.json', overrides)
      write_json(self.root / 'versions.json', versions())
    except OSError as error:
      raise DataError(
        f'{self.root} cannot be used as --workdir: {error.strerror or error}'
      ) from error

  def _clear_remains(self, config):
    """Deletes what another run left here that ended before a checkpoint."""
    try:
      there = json.loads((self.root / 'config.json').read_text())
      if _identifying(there) == _identifying(config) or self._holds_work():
        return
    except (OSError, ValueError, AttributeError):
      return
    if jax.process_index() == 0:
      for path in (
        self.metrics,
        self.truth,
        *self.root.glob('events.out.tfevents.*'),
      ):
        path.unlink(missing_ok=True)

  def trained_steps(self) -> int:
    """Steps of the newest checkpoint, whole or not; 0 without any."""
    if not self.checkpoints.is_dir():
      return 0
    names = (path.name for path in self.checkpoints.iterdir())
    return max((int(name) for name in names if name.isdigit()), default=0)

  def write_results(
    self,
    config: ConfigDict,
    step: int,
    measurements: dict[str, Measurement],
    figures: dict[str, np.ndarray],
  ) -> None:
    """Writes figures, protocols and results, each whole, results last.

    Raises:
      DataError: The folder cannot be written.
    """
    numbers = {'step': step}
    for name, found in measurements.items():
      numbers |= {
        name: float(found.value),
        f'{name}.low': float(found.low),
        f'{name}.high': float(found.high),
      }
    protocols = {name: found.protocol for name, found in measurements.items()}
    protocols[_ASKED] = _asked(config)
    packed = io.BytesIO()
    np.savez_compressed(packed, **figures)
    try:
      write_bytes(self.figures, packed.getvalue())
      write_json(self.protocols, protocols)
      write_json(self.results, finite(numbers))
    except OSError as error:
      raise DataError(
        f'cannot write results to {self.root}: {error.strerror or error}'
      ) from error

  def read_results(
    self, config: ConfigDict, step: int
  ) -> dict[str, Measurement] | None:
    """The measurements of this step by this config's evaluations, if any."""
    try:
      numbers = json.loads(self.results.read_text())
      protocols = json.loads(self.protocols.read_text())
      if numbers['step'] != step or protocols.pop(_ASKED) != _asked(config):
        return None
      return {
        name: Measurement(
          *(numbers.get(name + end, math.nan) for end in _ENDS), protocol
        )
        for name, protocol in protocols.items()
      }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      return None


def plain(config: ConfigDict | dict) -> dict[str, Any]:
  """A config as JSON data: dicts, lists, numbers, text."""
  if isinstance(config, ConfigDict):
    config = config.to_dict()
  return json.loads(json.dumps(config))


def flatten(tree: dict, prefix: str = '') -> dict[str, Any]:
  """``{'a': {'b': 1}}`` as ``{'a.b': 1}``."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes by rename, so that no reader sees half of a file."""
  write_bytes(path, (json.dumps(value, indent=2) + '\n').encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes by rename, so that no reader sees half of a file.

  Only process 0 does.
  """
  if jax.process_index() != 0:
    return
  unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
  unfinished.write_bytes(content)
  unfinished.replace(path)


def finite(numbers: dict[str, float]) -> dict[str, float]:
  """Leaves out what JSON has no number for."""
  return {name: x for name, x in numbers.items() if math.isfinite(x)}


def versions() -> dict[str, str]:
  """What the numbers of a run depend on besides its config."""
  found = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  devices = jax.devices()
  found['devices'] = f'{len(devices)} x {devices[0].device_kind}'
  found['processes'] = str(jax.process_count())
  found['matmul_precision'] = str(jax.config.jax_default_matmul_precision)
  return found


def _asked(config):
  """Digest of the fields that decide what is evaluated, and how."""
  return _digest({name: plain(config)[name] for name in _QUESTIONS})


def _digest(fields):
  """Sixteen characters that stand for plain data."""
  text = json.dumps(fields, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _identifying(config):
  """Flat fields of a config, less those a continuation may change."""
  return {
    name: value
    for name, value in flatten(plain(config)).items()
    if name not in CONTINUABLE
    and name.split('.')[0] not in CONTINUABLE
    and (name, value) != ('features', None)  # Nothing is scored but trained.
  }
