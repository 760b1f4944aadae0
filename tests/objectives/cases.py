"""Cases of a file of tests, compiled as one program, and how they compare."""

import jax
import numpy as np

from tests.contracts import Results


def together(cases, *args, alone=()):
  """What each case gives, compiled as one program.

  Args:
    cases: Functions of ``args`` by name.
    *args: Trees of arrays.
    alone: Names of cases that are compiled by themselves, if asked for.

  Returns:
    Trees of NumPy arrays by name.
  """

  def run(names):
    every = lambda *args: {name: cases[name](*args) for name in names}
    return jax.jit(every)(*args)

  return Results([name for name in cases if name not in alone], run)


def close(a, b, rtol=1e-5, atol=1e-6):
  """Asserts that two trees hold nearly the same numbers."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b
  )
