"""The results of a run as a table on the terminal."""

from collections.abc import Mapping
import math
import re

import rich.box
import rich.console
import rich.table
import rich.text

from rrl_jax.evals import Measurement

_CONCEPT = 'test/accuracy/'
_MAX_CONCEPTS = 20  # Shown one by one; of more only the worst.
_WORST = 5
_WIDE = 110  # Columns, from which the protocol has room.
_NUMBERS = 30  # Columns of value and interval with the room around them.


def print_results(
  measurements: Mapping[str, Measurement],
  console: rich.console.Console | None = None,
) -> None:
  """Prints name, value, interval and protocol of every measurement.

  Where the terminal is too narrow for the protocol beside the numbers, it
  stands in a file that is named below. Of many concepts only the worst are
  shown.

  Args:
    measurements: What an evaluation found, by name.
    console: Where to print; None for standard output.
  """
  console = console or rich.console.Console()
  table = rich.table.Table(
    box=rich.box.SIMPLE_HEAD,
    pad_edge=False,
    show_edge=False,
    padding=(0, 1, 0, 0),
  )
  table.add_column('result', overflow='fold')
  table.add_column('value', justify='right', no_wrap=True)
  table.add_column('95% interval', justify='center', no_wrap=True)
  wide = console.width >= _WIDE
  if wide:
    table.add_column('protocol', style='dim', overflow='fold')
  room = max(console.width - _NUMBERS, 12)
  left_out = _left_out(measurements)
  for name, found in measurements.items():
    if name in left_out:
      continue
    cells = [
      rich.text.Text(name if wide else _broken(name, room)),
      f'{found.value:.4f}',
      _interval(found),
    ]
    table.add_row(*cells, *([rich.text.Text(found.protocol)] if wide else []))
  console.print(table)
  if left_out:
    console.print(f'{len(left_out)} better concepts: results.json', style='dim')
  if not wide and measurements:
    console.print('how each number was made: protocols.json', style='dim')


def _left_out(measurements):
  """Names of the better concepts, if there are many."""
  concepts = [name for name in measurements if name.startswith(_CONCEPT)]
  if len(concepts) <= _MAX_CONCEPTS:
    return set()
  concepts.sort(key=lambda name: measurements[name].value)
  return set(concepts[_WORST:])


def _interval(found):
  """'0.8706 .. 0.9314', or why there is none."""
  if not (math.isfinite(found.low) and math.isfinite(found.high)):
    return 'none'
  if found.low == found.high and found.protocol.endswith('exact.'):
    return 'exact'
  return f'{found.low:.4f} .. {found.high:.4f}'


def _broken(name, width):
  """In lines that end where a word of the name does."""
  lines = ['']
  for part in re.findall('[^/_]*[/_]?', name):
    if lines[-1] and len(lines[-1]) + len(part) > width:
      lines.append('  ')
    lines[-1] += part
  return '\n'.join(lines)
