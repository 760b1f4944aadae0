"""Eight fake devices, strict numerics, one compilation cache for all tests."""

import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)

# What compiles for long, compiles once for all workers and child processes.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

from absl import flags  # noqa: E402
import jax  # noqa: E402
from jax.sharding import AxisType, Mesh  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

flags.FLAGS.mark_as_parsed()  # Grain reads absl flags.
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='module', autouse=True)
def forget_programs():
  """Drops a module's compiled programs, each of which maps memory of its own.

  Linux allows a process 65,530 such mappings; one more, and it crashes.
  """
  yield
  jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
  return jax.random.key(0)


@pytest.fixture
def mesh() -> Mesh:
  """Eight devices on one 'data' axis, Auto as in the trainer."""
  return jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))


@pytest.fixture
def rng() -> np.random.Generator:
  return np.random.default_rng(0)
