"""Does a change of condition put the methods in another order?"""

import itertools
from typing import NamedTuple

import numpy as np

from rrl_jax.studies import table as table_lib

Results = dict[str, list[dict[str, float]]]


class Agreement(NamedTuple):
  """The order of methods on one metric, under a condition and another.

  Attributes:
    tau: Kendall's tau-b of the methods' means; NaN where all means are equal.
    num_pairs: Pairs of methods.
    num_apart: Pairs whose paired 95% interval of the difference leaves zero out
      under the first condition (not corrected for their number).
    swapped: Those of them whose means are in the other order under the second:
      ``(better before, better now)``.
    moved: The method whose mean moved most.
    change: By how much, second condition minus first.
    change_half_width: Half of the 95% Student interval of that, over seeds;
      NaN or infinite with one seed.
  """

  tau: float
  num_pairs: int
  num_apart: int
  swapped: list[tuple[str, str]]
  moved: str
  change: float
  change_half_width: float


def compare(
  first: Results, second: Results, metrics: tuple[str, ...]
) -> dict[str, Agreement]:
  """Compares two conditions; row i of every method is of the same seed.

  Args:
    first: Method -> for each seed, number by metric.
    second: The same methods and seeds under the other condition.
    metrics: Metrics to compare by.

  Returns:
    Metric -> ``Agreement``.
  """
  return {
    metric: _agreement(_values(first, metric), _values(second, metric))
    for metric in metrics
  }


def to_markdown(
  found: dict[str, Agreement], first: str, second: str, num_seeds: int
) -> str:
  """A row a metric."""
  lines = [
    f'| metric | tau | pairs apart in {first} | swapped in {second} |'
    ' moved most |',
    '|---|---|---|---|---|',
  ]
  for metric, each in found.items():
    swapped = ', '.join(f'{a} over {b}' for a, b in each.swapped) or 'none'
    reach = ''
    if np.isfinite(each.change_half_width):
      reach = f' ± {each.change_half_width:.1%}'
    lines.append(
      f'| {metric} | {each.tau:.2f} | {each.num_apart} of {each.num_pairs} |'
      f' {swapped} | {each.moved}: {each.change:+.1%}{reach} |'
    )
  if num_seeds == 1:
    return '\n'.join([
      *lines,
      '',
      f"Kendall's tau-b of one seed: no difference has an interval, so that"
      f' nothing is apart. Moved: {second} minus {first}.',
      '',
    ])  # fmt: skip
  lines += [
    '',
    f"Kendall's tau-b of the means over {num_seeds} seeds. Apart: the paired"
    f' 95% interval of the difference leaves zero out in {first} (not'
    f' corrected for the number of pairs). Moved: {second} minus {first}, the'
    ' same seeds, with half of the 95% interval.',
    '',
  ]
  return '\n'.join(lines)


def _values(results, metric):
  """Method -> numbers over seeds."""
  return {
    name: np.array([run[metric] for run in runs])
    for name, runs in results.items()
  }


def _agreement(first, second):
  from scipy import stats

  mean = lambda values: [np.mean(each) for each in values.values()]
  pairs = list(itertools.combinations(first, 2))
  apart, swapped = 0, []
  for a, b in pairs:
    difference, half_width = table_lib.mean_interval(first[a] - first[b])
    if not abs(difference) > half_width:  # Of one seed there is no width.
      continue
    apart += 1
    now = np.mean(second[a] - second[b])
    if difference * now < 0:
      swapped.append((a, b) if difference > 0 else (b, a))
  change = {name: second[name] - first[name] for name in first}
  moved = max(change, key=lambda name: abs(np.mean(change[name])))
  return Agreement(
    float(stats.kendalltau(mean(first), mean(second)).statistic),
    len(pairs),
    apart,
    swapped,
    moved,
    *table_lib.mean_interval(change[moved]),
  )
