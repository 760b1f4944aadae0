"""Metrics of a run: JSON lines and TensorBoard events, written once a step."""

from collections.abc import Callable
import contextlib
import json
import os
import pathlib
import socket
import struct
import time
from typing import Any
import zlib

import jax

from rrl_jax.errors import DataError

Write = Callable[[int, dict[str, float]], None]


@contextlib.contextmanager
def writer(
  root: pathlib.Path, *, step: int, tracker: str, config: dict[str, Any]
):
  """Yields ``write(step, values)``, which has written when it returns.

  Values go to ``metrics.jsonl``, one flat object a line, to TensorBoard events
  beside it and, if asked, to Weights & Biases. Lines past ``step`` are dropped
  first: a resumed run repeats them, and each step stands once. Only process 0
  writes.

  Args:
    root: The run's folder.
    step: Steps done before.
    tracker: 'none' or 'wandb'.
    config: The run's config as plain data, for the tracker.

  Raises:
    DataError: The folder cannot be written, the disk being full perhaps.
  """
  if jax.process_index() != 0:
    yield lambda step, values: None
    return
  path = root / 'metrics.jsonl'
  with contextlib.ExitStack() as stack:
    with _told(root):
      _drop_lines_after(path, step)
      # Without a buffer nothing is left to be written by a failing close.
      lines = stack.enter_context(path.open('ab', buffering=0))
      events = stack.enter_context(_Events(root, step))
    run = None
    if tracker == 'wandb':
      run = stack.enter_context(_wandb_run(root, config))

    def write(step, values):
      line = {'step': step, 'time': time.time()} | values
      with _told(root):
        lines.write((json.dumps(line) + '\n').encode())
        events.write(step, values)
      if run is not None:
        run.log(values, step=step)

    yield write


def read(path: pathlib.Path) -> list[dict[str, float]]:
  """The lines of a ``metrics.jsonl``; what is no such line is left out."""
  if not path.exists():
    return []
  lines = []
  for text in path.read_text(errors='replace').splitlines():
    with contextlib.suppress(ValueError):
      line = json.loads(text)
      if isinstance(line, dict) and isinstance(line.get('step'), int):
        lines.append(line)
  return lines


class _Events:
  """TensorBoard's file, written by the caller's thread, unbuffered.

  tensorboardX's own writer has a thread, which a full disk kills; the next
  events then wait for it for ever.
  """

  def __init__(self, root, step):
    from tensorboardX import record_writer, summary
    from tensorboardX.proto import event_pb2

    self._event = event_pb2.Event
    self._scalar = summary.scalar
    self._checksum = record_writer.masked_crc32c
    name = f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}'
    self._file = (root / name).open('ab', buffering=0)
    # What an earlier start wrote from the next step on does not count.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._file.write(
      self._record(file_version='brain.Event:2')
      + self._record(step=step + 1, session_log=start)
    )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._file.close()

  def write(self, step, values):
    records = [
      self._record(step=step, summary=self._scalar(name, value))
      for name, value in values.items()
    ]
    self._file.write(b''.join(records))

  def _record(self, **content):
    """One event as TFRecord: length, its checksum, content, its checksum."""
    event = self._event(wall_time=time.time(), **content).SerializeToString()
    length = struct.pack('<Q', len(event))
    checksums = (struct.pack('<I', self._checksum(x)) for x in (length, event))
    return length + next(checksums) + event + next(checksums)


@contextlib.contextmanager
def _told(root):
  """Says of a failure to write where, and that checkpoints are not hurt."""
  try:
    yield
  except OSError as error:
    raise DataError(
      f'cannot write metrics to {root}: {error.strerror or error}; what is'
      ' saved there is intact'
    ) from error


def _drop_lines_after(path, step):
  """Rewrites the file without the lines past ``step``, by rename."""
  if not path.exists():
    return
  kept = [line for line in read(path) if line['step'] <= step]
  unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
  unfinished.write_text(''.join(json.dumps(line) + '\n' for line in kept))
  unfinished.replace(path)


def _wandb_run(root, config):
  """The tracker's run of this folder: the same one after a resume."""
  import wandb

  folder = str(root.absolute())
  return wandb.init(
    project='rrl_jax',
    id=f'{root.name}-{zlib.crc32(folder.encode()):08x}',
    dir=folder,
    config=config,
    resume='allow',
  )
