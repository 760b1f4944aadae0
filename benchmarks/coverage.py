"""How often the library's intervals hold the truth, by simulation.

  python -m benchmarks.coverage
  python -m benchmarks.coverage --only=calibration --draws=200

A row is a case whose truth is known. Promised is 0.95 for intervals, and 0.05
at most for the share of null p-values below 0.05. The widths of the interval of
the calibration error are relative to one that supposes the gaps as seen.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from rrl_jax.evals import calibration, measurement
from rrl_jax.studies import association

# Gaps of bins, from the middles of the bins c, standard errors s and places k.
SHAPES = {
  'none': lambda c, s, k: 0 * c,
  'one bin by .2': lambda c, s, k: -0.2 * (k == int(0.6 * len(k))),
  'two bins by .2': lambda c, s, k: (
    0.2 * (k == int(0.5 * len(k))) - 0.2 * (k == int(0.6 * len(k)))
  ),
  'a tenth by .1': lambda c, s, k: -0.1 * np.sign(c - 0.3) * (k % 10 == 0),
  'half by .1': lambda c, s, k: -0.1 * np.sign(c - 0.3) * (k % 2 == 0),
  'all by .02': lambda c, s, k: -0.02 * np.sign(c - 0.15),
  'all by .1': lambda c, s, k: -0.1 * np.sign(c - 0.15),
  'signs, .7 errors': lambda c, s, k: 0.7 * s * (-1.0) ** k,
  'signs, 1.5 errors': lambda c, s, k: 1.5 * s * (-1.0) ** k,
}


def calibration_error(draws: int) -> Iterator[str]:
  """Of the expected calibration error, by examples, bins and shape."""
  for examples in (300, 1000, 10_000, 100_000):
    for bins in (15, 100):
      for shape in SHAPES:
        held, width = calibration_cell(examples, bins, shape, draws)
        yield f'{examples:7} {bins:4} {shape:18} {held:.3f}  x{width:.2f}'


def calibration_cell(
  examples: int, bins: int, shape: str, draws: int
) -> tuple[float, float]:
  """Share of draws in which the interval holds, and its relative width."""
  rng = np.random.default_rng(0)
  k = np.arange(bins)
  centres = (k + 0.5) / bins
  errors = np.sqrt(centres * (1 - centres) * bins / examples)
  gaps = SHAPES[shape](centres, errors, k)
  truth = np.clip(centres + gaps, 1e-3, 1 - 1e-3)
  expected = np.mean(np.abs(truth - centres))
  held = width = plain = 0.0
  for _ in range(draws):
    counts = rng.multinomial(examples, np.full(bins, 1 / bins))
    confidence = np.repeat(centres, counts)
    right = rng.random(examples) < np.repeat(truth, counts)
    found = calibration.calibration_error(
      np.repeat(k, counts), right, confidence, bins, ''
    )
    held += found.low <= expected <= found.high
    width += found.high - found.low
    sums = np.bincount(np.repeat(k, counts), right - confidence, bins)
    noise = np.sqrt(counts * centres * (1 - centres)) / examples
    seen = np.abs(sums) / examples
    plain += np.ptp(calibration.error_interval(seen, noise, shapes=(seen,)))
  return held / draws, width / plain


def worst_group(draws: int) -> Iterator[str]:
  """Of the smallest of K proportions, all of which are p."""
  for groups in (4, 10, 100):
    for size in (30, 100, 1000):
      for p in (0.5, 0.9, 0.98, 0.99, 0.995, 0.999):
        held = worst_group_cell(groups, size, p, draws)
        yield f'{groups:4} groups of {size:5} at {p:.3f}  {held:.3f}'


def worst_group_cell(groups: int, size: int, p: float, draws: int) -> float:
  """Share of draws in which the interval of the minimum holds p."""
  rng = np.random.default_rng(0)
  total = np.full(groups, size)
  held = 0
  for correct in rng.binomial(size, p, (draws, groups)):
    found = measurement.minimum(correct, total, '')
    held += found.low <= p <= found.high
  return held / draws


def partial_p_values(draws: int) -> Iterator[str]:
  """Null p-values of partial correlations, by the number of models."""
  for models in (5, 6, 10, 34):
    found = partial_cell(models, draws)
    yield f'{models:3} models ' + '  '.join(
      f'{name} {share:.3f}' for name, share in found.items()
    )


def partial_cell(models: int, draws: int) -> dict[str, float]:
  """Share of p-values below 0.05 where x and y go with the control alone."""
  rng = np.random.default_rng(0)
  found = {'partial_pearson': [], 'partial_spearman': []}
  for seed in range(draws):
    z, a, b = rng.normal(size=(3, models))
    estimates = association.associate(
      z + a, z + b, control=z, resamples=0, permutations=500, seed=seed
    )
    for name, values in found.items():
      if estimates[name].p_value is not None:
        values.append(estimates[name].p_value <= 0.05)
  return {name: float(np.mean(values)) for name, values in found.items()}


def explained_variance(draws: int) -> Iterator[str]:
  """Of r^2 and of the expected held-out R^2 of lines."""
  for models in (12, 34):
    for r in (0.0, 0.5, 0.9):
      square, held_out = explained_cell(models, r, draws)
      yield (
        f'{models:3} models r={r}  r_squared {square:.3f}'
        f'  held_out_r_squared {held_out:.3f}'
      )


def explained_cell(models: int, r: float, draws: int) -> tuple[float, float]:
  """Shares of draws in which both intervals hold."""
  rng = np.random.default_rng(0)
  ids, once = np.arange(models), np.ones((1, models))

  def draw():
    x, noise = rng.normal(size=(2, models))
    return x, r * x + np.sqrt(1 - r**2) * noise

  expected = np.mean([
    association.statistics(*draw(), None, ids, once)['held_out_r_squared'][0]
    for _ in range(1000)
  ])  # fmt: skip
  square = held_out = 0
  for seed in range(draws):
    found = association.associate(
      *draw(), resamples=400, permutations=0, seed=seed
    )
    square += found['r_squared'].low <= r**2 <= found['r_squared'].high
    each = found['held_out_r_squared']
    held_out += each.low <= expected <= each.high
  return square / draws, held_out / draws


TABLES = {
  'calibration': calibration_error,
  'worst_group': worst_group,
  'partial': partial_p_values,
  'explained': explained_variance,
}


def main():
  """Prints a table of each kind."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--draws', type=int, default=1000, help='of each case')
  parser.add_argument('--only', choices=TABLES, help='one of the tables')
  args = parser.parse_args()
  for name in [args.only] if args.only else TABLES:
    print(TABLES[name].__doc__)
    for line in TABLES[name](args.draws):
      print(line, flush=True)


if __name__ == '__main__':
  main()
