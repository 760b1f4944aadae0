"""Metrics of a run: JSON lines and TensorBoard events, written once a step."""

from collections.abc import Callable
import contextlib
import json
import os
import pathlib
import time
from typing import Any
import zlib

import jax

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
  """
  if jax.process_index() != 0:
    yield lambda step, values: None
    return
  from tensorboardX import SummaryWriter

  path = root / 'metrics.jsonl'
  _drop_lines_after(path, step)
  with contextlib.ExitStack() as stack:
    lines = stack.enter_context(path.open('a'))
    events = stack.enter_context(SummaryWriter(str(root), purge_step=step + 1))
    run = None
    if tracker == 'wandb':
      run = stack.enter_context(_wandb_run(root, config))

    def write(step, values):
      line = {'step': step, 'time': time.time()} | values
      lines.write(json.dumps(line) + '\n')
      lines.flush()
      for name, value in values.items():
        events.add_scalar(name, value, step)
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
