"""Checkpoints that are either whole or not used.

Orbax writes a step's folder under another name and renames it when all of it
is there. It keeps no checksum of the weights, so a flipped byte on disk would
load in silence: a manifest beside the arrays has the size and SHA-256 of each
file, and nothing is read whose manifest does not hold.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys

import jax
from orbax.checkpoint import multihost as ocp_multihost
from orbax.checkpoint import v1 as ocp

from rrl_jax.errors import DataError
from rrl_jax.train import multihost
from rrl_jax.train.state import TrainState

_MANIFEST = 'manifest.json'
_DISK_ERRORS = (
  errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES,
  errno.EIO,
)  # fmt: skip


class Checkpoints:
  """The checkpoints of one run, newest last.

  Attributes:
    directory: Where each step has a folder.
    identity: Digest of the config; a checkpoint of another one is refused.
    former_identity: Digest by which older checkpoints of this config go.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    identity: str,
    keep_last: int,
    former_identity: str = '',
  ):
    self.directory = pathlib.Path(directory).absolute()
    self.identity = identity
    self.former_identity = former_identity or identity
    self._keep_last = keep_last
    self._opened = None
    self._failed = False

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self._opened is None:
      return
    if self._failed and multihost.joined():
      return  # It would wait for processes that are about to end.
    with _without_log():
      try:
        self._opened.close()
      except (OSError, ValueError):
        if not self._failed:  # Else it is what `save` has raised.
          raise

  @property
  def _orbax(self):
    """Orbax's view of the folder, as it is when first asked for."""
    if self._opened is None:
      try:
        self._opened = ocp.training.Checkpointer(
          self.directory,
          context=_context() if multihost.joined() else None,
          save_decision_policy=(
            ocp.training.save_decision_policies.FixedIntervalPolicy(1)
          ),
          preservation_policy=(
            ocp.training.preservation_policies.LatestN(self._keep_last)
          ),
          cleanup_tmp_directories=True,
        )
      except OSError as error:
        raise DataError(
          f'{self.directory} cannot hold checkpoints: {error.strerror or error}'
        ) from error
    return self._opened

  def save(self, state: TrainState) -> None:
    """Writes the state; returns when it is on disk and named.

    Raises:
      DataError: The folder cannot be written; older checkpoints are intact.
      ValueError, jax.errors.JaxRuntimeError: Another process was lost, see
        `multihost.lost`; older checkpoints are intact.
    """
    step = int(state.step)
    try:
      with _without_log():
        self._orbax.save_checkpointables(step, {'state': state}, overwrite=True)
      if jax.process_index() == 0:
        self._seal(step)
    except DataError:
      raise
    except (OSError, ValueError) as error:  # Orbax wraps a full disk.
      self._failed = True
      if multihost.lost(error):
        raise
      raise DataError(
        f'cannot write checkpoint {step} to {self.directory}: {_reason(error)};'
        ' those before are intact'
      ) from error

  def restore(
    self, abstract_state: TrainState, *, set_aside: bool = False
  ) -> TrainState | None:
    """Returns the newest state that is whole, or None without any.

    A checkpoint that is damaged is named on stderr and left out.

    Args:
      abstract_state: Shapes, dtypes and shardings to restore to; the devices
        need not be those that saved.
      set_aside: Whether to rename what is damaged to ``<step>.damaged``, so
        that the step can be saved again.

    Raises:
      DataError: The newest whole checkpoint belongs to another config, or has
        another structure.
    """
    step = multihost.from_first(lambda: self._newest_whole(set_aside))
    return None if step is None else self._load(step, abstract_state)

  def _newest_whole(self, set_aside):
    """The newest step whose files are as they were written, or None."""
    steps = self.steps()
    for i, step in enumerate(reversed(steps)):
      cause = self._damage(step)
      if cause is None:
        return step
      older = steps[-i - 2] if i + 1 < len(steps) else 0
      print(
        f'checkpoint {step} is unreadable: {cause}; using {older}',
        file=sys.stderr,
        flush=True,
      )
      if set_aside:
        folder = self.directory / str(step)
        aside = folder.with_name(f'{step}.damaged')
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return None

  def steps(self) -> list[int]:
    """Steps with a folder of their own, rising, whole or not."""
    if not self.directory.is_dir():
      return []
    names = (path.name for path in self.directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if name.isdigit())

  def _load(self, step, abstract_state):
    """Reads a checkpoint whose files are as they were written."""
    try:
      found = self._orbax.load_checkpointables(step, {'state': abstract_state})
    except (ValueError, KeyError, TypeError, OSError) as error:
      while error.__cause__ is not None:
        error = error.__cause__
      raise DataError(
        f'{self.directory / str(step)} is whole but does not fit this'
        f' experiment: {_one_line(error)}'
      ) from error
    return found['state']

  def _seal(self, step):
    """Writes the manifest: the last file of a checkpoint, by rename."""
    folder = self.directory / str(step)
    manifest = {
      'step': step,
      'config': self.identity,
      'files': {
        str(path.relative_to(folder)): _fingerprint(path)
        for path in sorted(folder.rglob('*'))
        if path.is_file()
      },
    }
    unfinished = folder / (_MANIFEST + '.tmp')
    unfinished.write_text(json.dumps(manifest, indent=1))
    unfinished.rename(folder / _MANIFEST)

  def _damage(self, step):
    """What is wrong with a checkpoint's files, or None."""
    folder = self.directory / str(step)
    try:
      manifest = json.loads((folder / _MANIFEST).read_text())
      files = {name: tuple(f) for name, f in manifest['files'].items()}
      identity = manifest['config']
      for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
          return f'{name} is missing'
        if path.stat().st_size != size:
          return f'{name} has {path.stat().st_size} bytes of {size}'
        if _fingerprint(path)[1] != digest:
          return f'{name} differs from its checksum'
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      return f'no valid {_MANIFEST}, so its saving was cut short'
    if identity not in (self.identity, self.former_identity):
      raise DataError(
        f'{folder} was saved by another config; choose another --workdir'
      )
    return None


def _context():
  """Orbax's settings, but for a process that has failed: it waits for nobody.

  Orbax lets it meet the others before it raises; they are still waiting for
  its part of the checkpoint, up to 20 minutes.
  """
  context = ocp.Context()
  options = context.asynchronous.v0()
  options.barrier_sync_fn = _barrier
  context.asynchronous.v0 = lambda: options
  return context


def _barrier(*, key, timeout_ms):
  """Meets the other processes, unless an error is on its way up."""
  error = sys.exc_info()[1]
  if error is not None:
    raise error
  ocp_multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


@contextlib.contextmanager
def _without_log():
  """Keeps Orbax from logging with tracebacks what it raises as well."""
  logger = logging.getLogger('absl')
  before = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logger.setLevel(before)


def _fingerprint(path):
  """Size in bytes and SHA-256 of a file."""
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  return [path.stat().st_size, digest]


def _reason(error):
  """What the system said, which Orbax buries under paths."""
  seen = error
  while seen is not None:
    if isinstance(seen, OSError) and seen.strerror:
      return seen.strerror
    text = str(seen)
    for number in _DISK_ERRORS:
      if (said := os.strerror(number)) in text:
        return said
    seen = seen.__cause__ or seen.__context__
  return _one_line(error)


def _one_line(error):
  """The beginning of a message, on one line."""
  text = ' '.join(str(error).split())
  return f'{type(error).__name__}: {text[:120]}'
