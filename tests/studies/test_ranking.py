"""Two conditions agree on an order, or it is said where they do not."""

import numpy as np
import pytest

from rrl_jax.studies import ranking

pytestmark = pytest.mark.fast

METRIC = 'test/accuracy'


def rows(*values):
  return [{METRIC: value} for value in values]


FIRST = {
  'low': rows(0.10, 0.12, 0.11),
  'middle': rows(0.50, 0.53, 0.50),
  'tied': rows(0.51, 0.49, 0.52),
  'high': rows(0.90, 0.91, 0.92),
}


def compare(second):
  return ranking.compare(FIRST, second, (METRIC,))[METRIC]


def test_a_condition_agrees_with_itself():
  found = compare(FIRST)
  assert found.tau == 1
  assert found.swapped == []
  assert (found.num_apart, found.num_pairs) == (5, 6)
  assert (found.change, found.change_half_width) == (0, 0)


def test_only_a_swap_of_what_was_apart_is_named():
  swapped = FIRST | {'middle': FIRST['tied'], 'tied': FIRST['middle']}
  assert compare(swapped).swapped == []
  swapped = FIRST | {'low': FIRST['high'], 'high': FIRST['low']}
  assert set(compare(swapped).swapped) == {
    ('high', 'low'), ('high', 'middle'), ('high', 'tied'), ('middle', 'low'),
    ('tied', 'low'),
  }  # fmt: skip
  assert compare(swapped).tau < 0


def test_of_one_seed_nothing_is_apart():
  one = {name: runs[:1] for name, runs in FIRST.items()}
  found = ranking.compare(one, one, (METRIC,))[METRIC]
  assert (found.num_apart, found.swapped) == (0, [])
  text = ranking.to_markdown({METRIC: found}, 'float32', 'bfloat16', 1)
  assert 'nan' not in text
  assert 'one seed' in text


def test_what_moved_most_is_paired_by_seed():
  second = FIRST | {'middle': rows(0.70, 0.73, 0.70)}
  found = compare(second)
  assert found.moved == 'middle'
  np.testing.assert_allclose(found.change, 0.2)
  np.testing.assert_allclose(found.change_half_width, 0, atol=1e-12)


def test_the_table_names_the_swap():
  second = FIRST | {'high': rows(0.1, 0.1, 0.1)}
  found = ranking.compare(FIRST, second, (METRIC,))
  text = ranking.to_markdown(found, 'float32', 'bfloat16', 3)
  (line,) = [x for x in text.splitlines() if METRIC in x]
  assert 'high over middle' in line
  assert 'high: -81.0%' in line
  same = ranking.to_markdown(
    ranking.compare(FIRST, FIRST, (METRIC,)), 'float32', 'bfloat16', 3
  )
  assert '| none |' in same
