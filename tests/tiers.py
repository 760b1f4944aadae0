"""Which cases of a parametrised test belong to the default tier."""

from collections.abc import Iterable

import pytest


def first(values: Iterable, number: int = 1) -> list:
  """All values, those behind the first ones in the full tier alone.

  Args:
    values: As `pytest.mark.parametrize` takes them; tuples for several names.
    number: How many belong to the default tier.

  Returns:
    The values, to be given to `pytest.mark.parametrize`.
  """
  values = list(values)
  whole = lambda v: v if isinstance(v, tuple) else (v,)
  rest = [pytest.param(*whole(v), marks=pytest.mark.full) for v in values]
  return [*values[:number], *rest[number:]]
