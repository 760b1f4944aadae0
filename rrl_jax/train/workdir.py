"""A run's folder: what stands in it, and whose it is."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from typing import Any

import jax
from ml_collections import ConfigDict

from rrl_jax.errors import ConfigError, DataError

# Fields that may differ between a run and its continuation: how long, how
# often, where, and what is asked of it afterwards.
CONTINUABLE = (
    'job', 'total_epochs', 'total_steps', 'log_steps', 'ckpt_steps',
    'keep_last', 'tracker', 'mesh', 'evals', 'eval_batch_size', 'transfer',
)  # fmt: skip
_PACKAGES = (
    'rrl_jax', 'jax', 'jaxlib', 'flax', 'optax', 'chex', 'ott-jax', 'numpy',
    'scikit-learn', 'grain', 'orbax-checkpoint', 'ml-collections',
    'tensorflow-datasets',
)  # fmt: skip


def identity(config: ConfigDict) -> str:
  """Digest of the part of a config that decides what is being trained."""
  return hashlib.sha256(
      json.dumps(_identifying(config), sort_keys=True).encode()
  ).hexdigest()[:16]


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

  def claim(self, config: ConfigDict, overrides: dict[str, Any]) -> None:
    """Writes config, overrides and versions, unless another run owns this.

    Raises:
      ConfigError: The folder holds a run of another config.
      DataError: The folder cannot be read or written.
    """
    path = self.root / 'config.json'
    try:
      if path.exists():
        self._compare(path, config)
      self.root.mkdir(parents=True, exist_ok=True)
      if jax.process_index() == 0:
        write_json(path, plain(config))
        write_json(self.root / 'overrides.json', overrides)
        write_json(self.root / 'versions.json', versions())
    except OSError as error:
      raise DataError(
          f'{self.root} cannot be used as --workdir: {error.strerror or error}'
      ) from error

  def read_results(self) -> dict[str, float]:
    """The results so far; empty if there are none or they were cut short."""
    try:
      return json.loads(self.results.read_text())
    except (OSError, ValueError):
      return {}

  def _compare(self, path, config):
    """Raises ConfigError if the folder's config is not this one."""
    try:
      there = json.loads(path.read_text())
    except ValueError as error:
      raise DataError(f'{path} is no JSON: {error}') from error
    here = _identifying(config)
    there = _identifying(there)
    if here == there:
      return
    here, there = flatten(here), flatten(there)
    changed = [
        f'{name} is {there.get(name)!r} there, {here.get(name)!r} here'
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    raise ConfigError(
        f'{self.root} holds a run of another config ('
        + '; '.join(changed[:3])
        + ('; ...' if len(changed) > 3 else '')
        + '); choose another --workdir'
    )


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
  """Writes by rename, so that no reader sees half of a file."""
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


def _identifying(config):
  """The config without the fields that a continuation may change."""
  fields = plain(config)
  return {
      name: value for name, value in fields.items() if name not in CONTINUABLE
  }
