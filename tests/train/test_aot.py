"""What a step takes on chips that are not here, and how a refusal reads."""

import importlib.util
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import erm, hro, tarrl, thanos
import launch
from rrl_jax import data, target
from rrl_jax.errors import ConfigError
from rrl_jax.train import aot, chips, experiment, hlo, sharding
from tests import launching

needs_libtpu = pytest.mark.usefixtures('libtpu')


@needs_libtpu
def test_a_small_run_is_compiled_and_described(tmp_path):
  done = launching.run(
    '--config=configs/hro.py',
    '--aot=v5e:2x2',
    '--config.model.kw.widths=(256,128)',
    f'--workdir={tmp_path / "run"}',
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  lines = dict(
    line.split(': ', 1) for line in done.stdout.splitlines() if ': ' in line
  )
  assert lines['chips'] == '4'
  used, of, limit = lines['bytes/chip'].partition(' GiB of ')
  assert 0 < float(used) < 1
  assert (of, limit) == (' GiB of ', '16 GiB')
  per_chip = float(lines['flops/step/chip'])
  assert float(lines['flops/step']) == pytest.approx(4 * per_chip, rel=1e-3)
  # Products of the layers: the attack adds a pass forward and one back to the
  # pixels, which training does without.
  layers = np.array([64 * 256, 256 * 128, 128 * 7])
  erm = 3 * layers.sum() - layers[0]
  ratio = (erm + 2 * layers.sum()) / erm
  found = float(lines['flops/step over erm'])
  assert found == pytest.approx(ratio, rel=0.1)
  assert lines['images/s (roofline)'].split()[0].isdigit()
  assert 'all-reduce' in lines
  assert 'in attack' not in done.stdout
  assert not (tmp_path / 'run').exists()


@pytest.mark.full
@needs_libtpu
def test_a_ring_sends_a_chips_own_rows_and_no_image():
  local, views, dim = 128, 2, 64
  plain = ('jitter', 'grayscale', 'blur', 'solarize')  # Quick to compile.
  done = launching.run(
    '--config=configs/simclr.py',
    '--aot=v5e:4x4',
    f'--config.batch_size={16 * local}',
    '--config.model.kw.widths=(64,)',
    *(f'--config.data.augment.{transform}=0.0' for transform in plain),
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  step = done.stdout.partition('evaluation')[0]
  hop = f'{local * views * dim * 4 // 1024} KiB'
  sent = re.findall(r'(\S+): \d+ of ([\d.]+ \w+),', step)
  assert ('collective-permute', hop) in sent
  kinds = {kind for kind, _ in sent}
  assert kinds == {'collective-permute', 'all-reduce'}
  # Embeddings are the most that hops; weights are all that is summed.
  hops = [n for kind, n in _kib(sent) if kind == 'collective-permute']
  assert max(hops) == local * views * dim * 4 / 1024
  assert sum(n for kind, n in _kib(sent) if kind == 'all-reduce') < 64


def _kib(sent):
  """Sizes in KiB."""
  units = {'B': 1 / 1024, 'KiB': 1, 'MiB': 1024}
  for kind, size in sent:
    number, unit = size.split()
    yield kind, float(number) * units[unit]


@pytest.fixture
def quiet_libtpu(libtpu, monkeypatch):
  """libtpu in this process, as ``launch.py --aot`` loads it."""
  for name, value in launch._COMPILE_ONLY.items():
    monkeypatch.setenv(name, value)


@pytest.mark.parametrize('topology', ['v4:2x2x1', 'v5p:2x2x1', 'v6e:2x2'])
def test_a_chip_of_each_kind_is_a_device(topology, quiet_libtpu):
  assert sharding.make_mesh(-1, aot.devices(topology)).size == 4


@pytest.mark.fast
def test_without_libtpu_one_line_says_how_to_get_it(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *args: None if name == 'libtpu' else find(name, *args),
  )
  with pytest.raises(ConfigError, match='--aot needs libtpu') as error:
    aot.report(hro.get_config(), 'v5e:2x2')
  assert '\n' not in str(error.value)
  assert "pip install -e '.[tpu]'" in str(error.value)


@pytest.mark.full
def test_a_command_without_libtpu_ends_in_that_line():
  code = (
    'import importlib.util, sys; find = importlib.util.find_spec;'
    'importlib.util.find_spec = lambda name, *a:'
    " None if name == 'libtpu' else find(name, *a);"
    'import launch; sys.exit(launch.main(sys.argv))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, '--config=configs/hro.py', '--aot=v5e:2x2'],
    cwd=launching.ROOT,
    env=launching.environment(),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert "pip install -e '.[tpu]'" in done.stderr


def test_a_topology_that_cannot_be_read_is_one_line():
  done = launching.run('--config=configs/hro.py', '--aot=v5e:16')
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert '--aot=v5e:16' in done.stderr


def test_a_topology_that_there_is_not_is_one_line(quiet_libtpu):
  with pytest.raises(ConfigError, match='--aot=v5e:3x5: libtpu says') as error:
    aot.devices('v5e:3x5')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('module', 'arg', 'shape', 'num_classes'),
  [
    (hro, 'imagenet', (256, 256, 3), 1000),
    (tarrl, 'cifar10', (32, 32, 3), 10),
    (erm, 'fashion_mnist', (28, 28, 1), 7),
    (thanos, 'celeb_a', (224, 224, 3), 2),
    (thanos, 'cifar100', (32, 32, 3), 20),
  ],
)
def test_shapes_are_known_without_the_data(module, arg, shape, num_classes):
  config = module.get_config(arg)
  config.data.kw.data_dir = None
  splits = experiment.load_data(config, shapes_only=True)
  assert splits.train.image_shape == splits.test.image_shape == shape
  assert splits.train.num_classes == num_classes
  assert set(np.unique(splits.train.labels)) == set(range(num_classes))
  assert (splits.train.concept_counts > 0).all()
  assert not splits.train.images[np.arange(3)].any()


@pytest.mark.fast
def test_mock_shapes_take_no_memory():
  kw = {'image_shape': (512, 512, 3), 'num_examples': 10**6}
  train, _ = data.load('mock', shapes_only=True, num_classes=5, **kw)
  assert train.images.shape == (10**6, 512, 512, 3)
  assert train.num_classes == 5


def test_model_flops_are_those_of_the_layers():
  config = erm.get_config('digits')
  config.mesh.data = 2
  config.model.kw.widths = (32, 16)
  config.batch_size = 8
  built = experiment.build(config)
  classes = built.data.train.num_classes
  layers = 64 * 32 + 32 * 16 + 16 * classes
  assert aot.model_flops(built) == 3 * 2 * layers * 8 / 2


@pytest.mark.fast
def test_erm_of_a_config_has_its_model_and_batch():
  config = tarrl.get_config('digits')
  plain = aot.erm_config(config)
  assert plain.objective.name == 'erm'
  assert plain.model == config.model
  assert plain.batch_size == config.batch_size
  assert config.objective.name == 'tarrl'
  experiment.check(plain)


@pytest.mark.fast
def test_a_cost_is_bound_by_its_slowest_part():
  chip = chips.CHIPS['v5e']
  cost = aot.Cost(
    num_chips=4,
    num_bytes=1,
    flops=chip.flops_per_s,
    hbm_bytes=2 * chip.hbm_bytes_per_s,
    collectives=[
      hlo.Collective('all-reduce', 800, 1, 'jit(f)/attack/while/body/sum'),
      hlo.Collective('all-gather', 400, 3, 'jit(f)/attacker'),
      hlo.Collective('collective-permute', 100, 7, ''),
    ],
    seconds=0.0,
  )
  assert cost.ici_bytes() == 2 * 600 + 3 * 300 + 7 * 100
  bounds = cost.bounds(chip)
  assert bounds['arithmetic'] == 1
  assert max(bounds, key=bounds.get) == 'memory'
  assert [c.kind for c in cost.in_attack()] == ['all-reduce']
  lines = aot.collective_lines(cost)
  assert lines[0].startswith('all-gather: 3 of 400 B')
  assert 'in attack' in lines[1]


def test_loops_are_traced_for_the_platform_meant():
  traced = lambda: str(jax.make_jaxpr(lambda x: _ascend(x))(jnp.ones((2, 3))))
  assert 'unroll=3' in traced()
  with target.traced_for('tpu'):
    assert 'unroll=3' not in traced()
  assert target.platform() == 'cpu'


def _ascend(x):
  from rrl_jax import attacks

  return attacks.pgd(
    lambda z: jnp.sum(z, axis=1),
    None,
    x,
    epsilon=0.1,
    step_size=0.1,
    num_steps=3,
    random_start=False,
  )


@pytest.mark.fast
def test_memory_that_is_not_there_is_said():
  error = aot.DoesNotFitError(23.456, chips.CHIPS['v5e'])
  assert isinstance(error, ConfigError)
  assert '23.46 GiB or more and has 16' in str(error)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('message', 'gib'),
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required'
      ' for HLO temporaries (40.30G) exceeds available HBM (15.75G).',
      40.3,
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M'
      ' of 15.75G hbm.',
      0.5,
    ),
    ('INTERNAL: 3G of something else', None),
    ('RESOURCE_EXHAUSTED: of what, it does not say', None),
  ],
)
def test_the_compiler_says_how_much_does_not_fit(message, gib):
  assert aot.needed_gib(message) == gib
