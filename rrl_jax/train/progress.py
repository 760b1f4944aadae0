"""What a person sees of a run: a bar on a terminal, plain lines elsewhere."""

import contextlib
import time

import jax
import rich.console
import rich.progress

_LINES = 20  # Plain lines a run prints, at most.


@contextlib.contextmanager
def show(*, start: int, total: int, quiet: bool = False):
  """Yields ``update(step, loss, images_per_sec)`` to call once a step.

  Only process 0 prints.

  Args:
    start: Steps done before.
    total: Steps of the whole run.
    quiet: Whether to show nothing.
  """
  console = rich.console.Console()
  if quiet or jax.process_index() != 0:
    yield lambda step, loss, images_per_sec: None
  elif console.is_terminal:
    with _bar(console) as bar:
      task = bar.add_task(
        'training', total=total, completed=start, loss='compiling', rate=''
      )

      def update(step, loss, images_per_sec):
        bar.update(
          task,
          completed=step,
          loss=f'loss {loss:.4f}',
          rate=f'{images_per_sec:,.0f} images/s',
        )

      yield update
  else:
    yield _plain_lines(start, total)


def _bar(console):
  """The progress bar: what matters most comes first on a narrow screen."""
  return rich.progress.Progress(
    rich.progress.TextColumn('{task.completed:.0f}/{task.total:.0f}'),
    rich.progress.BarColumn(bar_width=None),
    rich.progress.TextColumn('{task.fields[loss]}'),
    rich.progress.TextColumn('{task.fields[rate]}'),
    rich.progress.TimeRemainingColumn(compact=True),
    console=console,
  )


def _plain_lines(start, total):
  """Prints a line at the first step, the last, and evenly in between."""
  every = max((total - start) // (_LINES - 1), 1)
  began = time.monotonic()

  def update(step, loss, images_per_sec):
    done = step - start
    if done != 1 and done % every and step != total:
      return
    left = (time.monotonic() - began) / done * (total - step)
    print(
      f'step {step}/{total}  loss {loss:.4f}'
      f'  {images_per_sec:,.0f} images/s  {left:.0f} s left',
      flush=True,
    )

  return update
