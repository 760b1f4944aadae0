"""The results of a run as a table on the terminal, at most a screen of it."""

from collections.abc import Mapping
import math
import textwrap
from typing import NamedTuple
from urllib import parse

import rich.console
import rich.text

from rrl_jax.evals import Measurement
from rrl_jax.report import _results

_CONCEPT = 'test/accuracy/'
_MAX_CONCEPTS = 20  # Shown one by one; of more only the worst.
_WORST = 5
_WIDE = 110  # Columns, from which a protocol's beginning has room.
_PROTOCOL = 24  # Columns of it, at least, with the room before it.
_LEAST_LINES = 24
_AROUND = 6  # Lines of a screen that are not rows: head, ends, the prompt.
_GAP = '  '
_SANITY = '_zero_epsilon_agreement'  # Says nothing as long as it is 1.


def print_results(
  measurements: Mapping[str, Measurement],
  console: rich.console.Console | None = None,
) -> None:
  """Prints name, value and interval of as many numbers as a screen holds.

  The numbers that say most come first, and none stands twice. A name that has
  no room beside its numbers stands above them, so that none is broken unless
  it is longer than a line. Wide terminals have the beginning of each protocol.
  What is left out is counted, with the file that holds it.

  Args:
    measurements: What an evaluation found, by name.
    console: Where to print; None for standard output.
  """
  console = console or rich.console.Console()
  headline, others, better = _order(measurements)
  names = headline + others
  left = max(console.height, _LEAST_LINES) - _AROUND - bool(better)
  shown = {name: measurements[name] for name in names[:left]}
  # As people write them: keys escape what would make two of them one.
  plain = {name: parse.unquote(name) for name in shown}
  layout = _Layout.of(
    {plain[name]: found for name, found in shown.items()}, console.width
  )
  rows = []
  for name, found in shown.items():
    lines = layout.row(plain[name], found)
    left -= len(lines)
    if left < 0:
      break
    rows.append((lines, 'bold' if name in headline else ''))
  _print(console, layout.head())
  for lines, style in rows:
    for line in lines:
      _print(console, line, style)
  if better:
    _print(console, f'{better} better concepts: results.json', 'dim')
  if more := len(names) - len(rows):
    _print(console, f'{more} more: results.json, and the report', 'dim')
  if measurements:
    _print(console, 'how each number was made: protocols.json', 'dim')


def _order(measurements):
  """Names of the headline, of the others, and how many concepts are left out.

  Single concepts, the worst first, single tasks of a mean, and passed checks
  come last, so that they are what has no room; what another number repeats is
  left out.
  """
  values = {name: found.value for name, found in measurements.items()}
  headline = _results.headline(values)
  concepts = [name for name in measurements if name.startswith(_CONCEPT)]
  concepts.sort(key=values.__getitem__)
  better = concepts[_WORST:] if len(concepts) > _MAX_CONCEPTS else []
  repeated = _results.repetitions(values)
  tasks = {
    name.split('/')[1]
    for name in values
    if name not in repeated.values() and _mean_of(name) in values
  }
  single = [n for n in values if n.count('/') > 1 and n.split('/')[1] in tasks]
  passed = [n for n in values if n.endswith(_SANITY) and values[n] == 1]
  last = dict.fromkeys([*concepts, *single, *passed])
  without = {*headline, *repeated, *last}
  others = [name for name in measurements if name not in without]
  others += [n for n in last if n not in better and n not in headline]
  return headline, others, len(better)


def _mean_of(name):
  """'transfer/knn_accuracy' for 'transfer/a_task/knn_accuracy', else ''."""
  prefix, _, rest = name.partition('/')
  return f'{prefix}/{rest.partition("/")[2]}' if '/' in rest else ''


class _Layout(NamedTuple):
  """Columns of the table."""

  total: int
  name: int
  value: int
  interval: int

  @classmethod
  def of(cls, measurements, total):
    """As wide as the cells; names that have no room do not count."""
    found = measurements.values()
    value = max([len('value'), *(len(_value(m)) for m in found)])
    interval = max([len('95% interval'), *(len(_interval(m)) for m in found)])
    room = total - value - interval - 2 * len(_GAP)
    room -= _PROTOCOL if total >= _WIDE else 0
    names = [len(name) for name in measurements if len(name) <= room]
    return cls(total, max([len('result'), *names]), value, interval)

  def head(self):
    """The names of the columns over a rule."""
    head = self._line('result', 'value', '95% interval', 'protocol')
    width = self.name + self.value + self.interval + 2 * len(_GAP)
    rule = self.total if self.total >= _WIDE else min(width, self.total)
    return f'{head}\n{"─" * rule}'

  def row(self, name, found):
    """The lines of one number."""
    beside = len(name) <= self.name
    above = [] if beside else textwrap.wrap(name, self.total)
    numbers = _value(found), _interval(found)
    line = self._line(name if beside else '', *numbers, found.protocol)
    return [*above, line]

  def _line(self, name, value, interval, protocol):
    cells = (
      f'{name:<{self.name}}',
      f'{value:>{self.value}}',
      f'{interval:^{self.interval}}',
    )
    line = _GAP.join(cells) + _GAP
    if self.total >= _WIDE:
      line += textwrap.shorten(
        protocol, self.total - len(line), placeholder='...'
      )
    return line.rstrip()


def _print(console, text, style=''):
  """As it stands: nothing is markup, nothing is broken."""
  console.print(rich.text.Text(text, style=style), soft_wrap=True)


def _value(found):
  return _write(found.value)


def _write(value):
  """Four decimals of a share; of what is large as many digits."""
  decimals = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 1
  return f'{value:.{decimals}f}'


def _interval(found):
  """'0.8706 .. 0.9314', or why there is none."""
  if not (math.isfinite(found.low) and math.isfinite(found.high)):
    return 'none'
  if found.low == found.high and found.protocol.endswith('exact.'):
    return 'exact'
  return f'{_write(found.low)} .. {_write(found.high)}'
