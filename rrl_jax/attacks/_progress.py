"""A progress bar of an evaluation; plain lines where there is no terminal."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

import jax

_LINES = 20  # Plain lines an evaluation prints, about.


@contextlib.contextmanager
def show(console: Any = None) -> Iterator[Callable[[Any], None]]:
  """Yields what to call with each ``Progress``.

  Only process 0 prints. Imports rich, so that the attacks do not need it.

  Args:
    console: A ``rich.console.Console``; None for standard output.
  """
  if jax.process_index() != 0:
    yield lambda state: None
    return
  import rich.console
  import rich.progress

  if console is None:
    console = rich.console.Console()
  if not console.is_terminal:
    yield _plain_lines(console)
    return
  columns = (
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(bar_width=None),
    rich.progress.TextColumn('{task.fields[robust]}'),
    rich.progress.TextColumn('{task.fields[left]}'),
  )
  with rich.progress.Progress(*columns, console=console) as bar:
    task = bar.add_task('compiling', total=1, robust='', left='')

    def update(state):
      bar.update(
        task,
        description=f'{state.attack} {state.run}/{state.num_runs}',
        completed=_share(state),
        robust=f'robust {state.num_robust}/{state.num_examples}',
        left=f'{_clock(state.seconds_left)} left',
      )

    yield update


def _share(state):
  """How much is done, at most 1."""
  total = state.seconds + state.seconds_left
  return state.seconds / total if total > 0 else 1.0


def _clock(seconds):
  """Time as a person reads it."""
  seconds = round(seconds)
  if seconds < 120:
    return f'{seconds} s'
  minutes = round(seconds / 60)
  return f'{minutes} min' if minutes < 120 else f'{minutes / 60:.1f} h'


def _plain_lines(console):
  """Prints a line at the first call, the last, at a new attack and between."""
  shown = {'attack': None, 'share': 0.0}

  def update(state):
    share = _share(state)
    due = share - shown['share'] >= 1 / _LINES or state.seconds_left == 0
    if state.attack == shown['attack'] and not due:
      return
    shown.update(attack=state.attack, share=share)
    console.print(
      f'{state.attack}  run {state.run}/{state.num_runs}'
      f'  robust {state.num_robust}/{state.num_examples}'
      f'  {_clock(state.seconds_left)} left',
      highlight=False,
      soft_wrap=True,
    )

  return update
