"""Tiers of tests, strict numerics, what a machine may lack, one compile cache.

docs/testing.md says which tier to run when.
"""

import gc
import os
import pathlib
import shutil

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)

# A program is compiled once for all workers, child processes and later runs.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
# A worker has one core: threads of libraries would only wait for each other.
for _threads in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
  os.environ.setdefault(_threads, '1')

from absl import flags  # noqa: E402
import jax  # noqa: E402
from jax.sharding import AxisType, Mesh  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

gc.set_threshold(100_000, 50, 100)  # Traces are many small objects.
flags.FLAGS.mark_as_parsed()  # Grain reads absl flags.
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)  # Compiles sooner.


def pytest_addoption(parser):
  parser.addoption(
    '--full',
    action='store_true',
    help='Runs every test, also those marked full (below half an hour).',
  )


def pytest_collection_modifyitems(config, items):
  """Leaves the full tier out unless it is asked for; doctests belong to it."""
  if config.getoption('--full'):
    return
  full = [
    item
    for item in items
    if item.get_closest_marker('full') or isinstance(item, pytest.DoctestItem)
  ]
  config.hook.pytest_deselected(items=full)
  left_out = set(full)
  items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope='module', autouse=True)
def optimisation(request):
  """Optimises the programs of modules marked optimized as a user's are.

  All others compile in three quarters of the time at XLA's lowest level, with
  the same results up to rounding.
  """
  optimized = request.node.get_closest_marker('optimized') is not None
  jax.config.update('jax_disable_most_optimizations', not optimized)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


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


@pytest.fixture(scope='session')
def chromium() -> str:
  """The browser's program."""
  for name in ('chromium', 'google-chrome'):
    if path := shutil.which(name):
      return path
  pytest.skip('needs a browser: apt-get install chromium')


@pytest.fixture(scope='session')
def debian_fashion_mnist() -> pathlib.Path:
  """Fashion-MNIST where Debian's package puts it."""
  folder = pathlib.Path('/usr/share/datasets/fashion-mnist')
  if not folder.is_dir():
    pytest.skip('needs data: apt-get install dataset-fashion-mnist')
  return folder


@pytest.fixture(scope='session')
def libtpu() -> None:
  """The compiler for TPUs, which needs no TPU."""
  pytest.importorskip('libtpu', reason="needs pip install -e '.[tpu]'")
