"""Metrics of a run: JSON lines and TensorBoard events, written once a step."""

import json
import os
import pathlib
import time
from typing import Any


class MetricWriter:
  """Appends to ``metrics.jsonl`` and, beside it, to TensorBoard events.

  Lines past ``step`` are dropped first: a resumed run repeats them, and each
  step stands once.
  """

  def __init__(
    self,
    root: pathlib.Path,
    *,
    step: int = 0,
    tracker: str = 'none',
    config: dict[str, Any] | None = None,
  ):
    from tensorboardX import SummaryWriter

    path = root / 'metrics.jsonl'
    _drop_lines_after(path, step)
    self._lines = path.open('a')
    self._events = SummaryWriter(str(root), purge_step=step + 1)
    self._run = None
    if tracker == 'wandb':
      import wandb

      self._run = wandb.init(
        project='rrl_jax',
        id=root.name,
        dir=str(root),
        config=config,
        resume='allow',
      )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._lines.close()
    self._events.close()
    if self._run is not None:
      self._run.finish()

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line; it is on disk when this returns."""
    line = {'step': step, 'time': time.time()} | values
    self._lines.write(json.dumps(line) + '\n')
    self._lines.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step)
    if self._run is not None:
      self._run.log(values, step=step)


def read(path: pathlib.Path) -> list[dict[str, float]]:
  """The lines of a ``metrics.jsonl``; one cut short at the end is left out."""
  lines = []
  if path.exists():
    for text in path.read_text().splitlines():
      try:
        lines.append(json.loads(text))
      except ValueError:
        break
  return lines


def _drop_lines_after(path, step):
  """Rewrites the file without the lines past ``step``, by rename."""
  if not path.exists():
    return
  lines = read(path)
  kept = [line for line in lines if line['step'] <= step]
  unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
  unfinished.write_text(''.join(json.dumps(line) + '\n' for line in kept))
  unfinished.replace(path)
