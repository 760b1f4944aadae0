"""Mean and interval over seeds of every method, and paired against one."""

from typing import Any, NamedTuple

import numpy as np


class Cell(NamedTuple):
  """One method on one metric, over seeds.

  Attributes:
    mean: Mean over seeds.
    half_width: Half of the 95% Student interval of the mean over seeds.
    difference: Mean over seeds of this method minus the baseline, the same
      seed on both sides; 0 for the baseline.
    difference_half_width: Half of its 95% Student interval.
  """

  mean: float
  half_width: float
  difference: float
  difference_half_width: float


class Found(NamedTuple):
  """What a study found under one condition.

  Attributes:
    chosen: Method -> the point of its grid that tuning chose.
    results: Method -> for each seed, number by metric.
    table: Method -> metric -> ``Cell``.
  """

  chosen: dict[str, dict[str, Any]]
  results: dict[str, list[dict[str, float]]]
  table: dict[str, dict[str, Cell]]


def make_table(
  results: dict[str, list[dict[str, float]]],
  baseline: str,
  metrics: tuple[str, ...],
) -> dict[str, dict[str, Cell]]:
  """Summarises runs; row i of every method is of the same seed.

  Args:
    results: Method -> for each seed, number by metric.
    baseline: Method to compare with.
    metrics: Metrics to summarise.

  Returns:
    Method -> metric -> ``Cell``.
  """
  table = {}
  for name, runs in results.items():
    table[name] = {}
    for metric in metrics:
      values = np.array([run[metric] for run in runs])
      against = np.array([run[metric] for run in results[baseline]])
      table[name][metric] = Cell(
        *mean_interval(values), *mean_interval(values - against)
      )
  return table


def to_markdown(
  table: dict[str, dict[str, Cell]],
  baseline: str,
  chosen: dict[str, dict[str, Any]],
  num_seeds: int,
) -> str:
  """The table as Markdown: percent, with a mark where 0 is not in reach.

  A difference from the baseline is marked with ``+`` or ``-`` when its paired
  95% interval leaves zero out. The marks are not corrected for their number.
  """
  metrics = list(next(iter(table.values())))
  lines = [
    '| method | ' + ' | '.join(_heading(name) for name in metrics) + ' |',
    '|---' * (len(metrics) + 1) + '|',
  ]
  for name, row in table.items():
    cells = ' | '.join(_cell(cell) for cell in row.values())
    lines.append(f'| {name} | {cells} |')
  settings = _settings(chosen)
  return '\n'.join(
    [
      *lines,
      '',
      _legend(baseline, num_seeds)
      + (f' Chosen on held-out examples: {settings}.' if settings else ''),
      '',
    ]
  )


def conditions_to_markdown(
  found: dict[str, Found], baseline: str, num_seeds: int
) -> str:
  """A table for each metric: a row a method, a column a condition."""
  first = next(iter(found.values())).table
  lines = []
  for metric in next(iter(first.values())):
    names = ' | '.join(name.replace('_', ' ') for name in found)
    lines += [f'{_heading(metric).capitalize()}:', '', f'| method | {names} |']
    lines.append('|---' * (len(found) + 1) + '|')
    for method in first:
      cells = (_cell(each.table[method][metric]) for each in found.values())
      lines.append(f'| {method} | {" | ".join(cells)} |')
    lines.append('')
  lines.append(_legend(baseline, num_seeds))
  settings = {name: _settings(each.chosen) for name, each in found.items()}
  if any(settings.values()):
    lines += ['', 'Chosen on held-out examples:']
  for condition, chosen in settings.items():
    if chosen:
      lines.append(f'* {condition.replace("_", " ")}: {chosen}.')
  return '\n'.join([*lines, ''])


def _cell(cell):
  """Mean and half width, with a mark where the difference leaves zero out."""
  mark = ''
  if abs(cell.difference) > cell.difference_half_width:
    mark = ' **+**' if cell.difference > 0 else ' **-**'
  return f'{cell.mean:.1%} ± {cell.half_width:.1%}{mark}'


def _legend(baseline, num_seeds):
  """What the numbers and marks of a table mean."""
  return (
    f'Mean over {num_seeds} seeds ± half of the 95% Student interval.'
    f' **+**, **-**: the paired 95% interval of the difference from'
    f' {baseline} leaves zero out (not corrected for the number of'
    ' comparisons).'
  )


def _settings(chosen):
  """The points that tuning chose, as words."""
  number = lambda x: f'{x:g}' if isinstance(x, int | float) else str(x)
  return '; '.join(
    f'{name}: '
    + ', '.join(f'{field.split(".")[-1]} {number(x)}' for field, x in p.items())
    for name, p in chosen.items()
    if p
  )


def _heading(metric):
  """``test/worst_concept_accuracy`` as ``worst concept``."""
  name = metric.removeprefix('test/').removesuffix('accuracy')
  name = name.replace('_accuracy/', '/').strip('/_')
  return name.replace('_', ' ').replace('/', ', ') or 'accuracy'


def mean_interval(values: np.ndarray) -> tuple[float, float]:
  """Mean and half of the 95% Student interval, of numbers over seeds."""
  from scipy import stats

  n = len(values)
  spread = np.std(values, ddof=1) / np.sqrt(n) if n > 1 else np.inf
  return float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * spread)
