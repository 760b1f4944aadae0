"""What a person sees of a run: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import threading
import time

import jax
import rich.console
import rich.progress

_LINES = 20  # Plain lines a run prints, at most.
_SILENCE = 30.0  # Seconds after which an evaluation says that it is at work.

Update = Callable[[int, float, float | None], None]


@contextlib.contextmanager
def show(*, start: int, total: int, quiet: bool = False) -> Iterator[Update]:
  """Yields ``update(step, loss, images_per_sec)`` to call once a step.

  The first step is compiled, so that its time tells nothing of the others: it
  is named as such, and how long is left is said from the second step on. A
  speed that is not known yet is None. Only process 0 prints.

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
        'training',
        total=total,
        completed=start,
        loss='compiling the first step',
        rate='',
        left='',
      )
      time_left = _time_left(total)

      def update(step, loss, images_per_sec):
        bar.update(
          task,
          completed=step,
          loss=f'loss {loss:.4f}',
          rate=_rate(images_per_sec),
          left=time_left(step),
        )

      yield update
  else:
    yield _plain_lines(start, total)


@contextlib.contextmanager
def evaluation(
  names: Sequence[str], *, quiet: bool = False
) -> Iterator[Callable[[str], None]]:
  """Yields ``begin(name)`` to call before each evaluator starts.

  Where there is no terminal, an evaluator that takes long says every half
  minute that it is still at work. Only process 0 prints.

  Args:
    names: The evaluators, in order.
    quiet: Whether to show nothing.
  """
  console = rich.console.Console()
  if quiet or not names or jax.process_index() != 0:
    yield lambda name: None
  elif console.is_terminal:
    columns = (
      rich.progress.SpinnerColumn(),
      rich.progress.TextColumn('{task.description}'),
      rich.progress.BarColumn(bar_width=None),
      rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=console) as bar:
      task = bar.add_task('evaluation', total=len(names))

      def begin(name):
        at = names.index(name)
        bar.update(
          task,
          completed=at,
          description=f'evaluation {at + 1}/{len(names)}: {name}',
        )

      yield begin
      bar.update(task, completed=len(names))
  else:
    with _Heartbeat(names) as heartbeat:
      yield heartbeat.begin


class _Heartbeat:
  """A line for each evaluator, and one now and then while it works."""

  def __init__(self, names):
    self._names = names
    self._at = ('', 0.0)  # What is said of the evaluator, and since when.
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *error):
    self._done.set()
    self._thread.join()

  def begin(self, name):
    at = self._names.index(name) + 1
    line = f'evaluation {at}/{len(self._names)}: {name}'
    self._at = (line, time.monotonic())
    print(line, flush=True)

  def _beat(self):
    while not self._done.wait(_SILENCE):
      line, since = self._at
      seconds = time.monotonic() - since
      if line and seconds >= _SILENCE:
        print(f'{line}, for {clock(seconds)} so far', flush=True)


def clock(seconds: float) -> str:
  """A time as a person reads it.

  >>> clock(84.2), clock(1000), clock(20_000)
  ('84 s', '17 min', '5.6 h')
  """
  if seconds < 119.5:
    return f'{seconds:.0f} s'
  minutes = seconds / 60
  return f'{minutes:.0f} min' if minutes < 119.5 else f'{minutes / 60:.1f} h'


def _bar(console):
  """The progress bar: what matters most comes first on a narrow screen."""
  return rich.progress.Progress(
    rich.progress.TextColumn('{task.completed:.0f}/{task.total:.0f}'),
    rich.progress.BarColumn(bar_width=None),
    rich.progress.TextColumn('{task.fields[loss]}'),
    rich.progress.TextColumn('{task.fields[rate]}'),
    rich.progress.TextColumn('{task.fields[left]}'),
    console=console,
  )


def _time_left(total):
  """``step -> '3 s left'``, told from the steps after the first; '' at it."""
  first = None

  def left(step):
    nonlocal first
    now = time.monotonic()
    if first is None:
      first = (step, now)
    done = step - first[0]
    if step == total:
      return '0 s left'
    if not done:
      return ''
    return f'{clock((now - first[1]) / done * (total - step))} left'

  return left


def _rate(images_per_sec):
  """The speed, or '' while it is not known."""
  return '' if images_per_sec is None else f'{images_per_sec:,.0f} images/s'


def _plain_lines(start, total):
  """Prints a line at the first step, the last, and evenly in between."""
  every = max((total - start) // (_LINES - 1), 1)
  began = time.monotonic()
  time_left = _time_left(total)

  def update(step, loss, images_per_sec):
    left = time_left(step)
    first = step == start + 1
    if not first and (step - start) % every and step != total:
      return
    parts = [f'step {step}/{total}', f'loss {loss:.4f}', _rate(images_per_sec)]
    if first:
      parts.append(f'compiled in {clock(time.monotonic() - began)}')
    print('  '.join(filter(None, [*parts, left])), flush=True)

  return update
