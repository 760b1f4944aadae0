"""Intervals hold the truth as often as they promise, in simulated draws.

``python -m benchmarks.coverage`` prints the whole grid.
"""

import pytest

from benchmarks import coverage
from tests.tiers import first

pytestmark = pytest.mark.fast

DRAWS = 150  # A share of 0.95 is 0.91 or more in all but 1% of such samples.


@pytest.mark.parametrize(
  ('examples', 'bins', 'shape'),
  first(
    [
      (1000, 15, 'two bins by .2'),
      (10_000, 15, 'one bin by .2'),
      (10_000, 100, 'a tenth by .1'),
      (300, 100, 'none'),
      (300, 15, 'signs, 1.5 errors'),
      (1000, 15, 'all by .1'),
    ],
    4,
  ),
)
def test_the_interval_of_the_calibration_error_holds_it(examples, bins, shape):
  held, width = coverage.calibration_cell(examples, bins, shape, DRAWS)
  assert held >= 0.91
  assert width < 3


@pytest.mark.parametrize('p', [0.9, 0.98, 0.999])
@pytest.mark.parametrize(('groups', 'size'), [(10, 30), (100, 100)])
def test_the_interval_of_the_worst_group_holds_it(groups, size, p):
  assert coverage.worst_group_cell(groups, size, p, DRAWS) >= 0.95


@pytest.mark.parametrize('models', [5, 8])
def test_null_p_values_of_partial_correlations_are_rarely_small(models):
  for share in coverage.partial_cell(models, 300).values():
    assert share < 0.09  # 0.05 and three standard errors.


@pytest.mark.parametrize(('r', 'least'), [(0.0, 0.9), (0.9, 0.85)])
def test_intervals_of_explained_variance_hold_it(r, least):
  square, held_out = coverage.explained_cell(34, r, 60)
  assert square >= least
  assert held_out >= least
