"""For tests that compile many steps and run few."""

import jax
import pytest


@pytest.fixture(scope='module')
def quick_compile():
  """Halves the time to compile; what is computed stays the same."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
