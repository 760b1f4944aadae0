"""The table of chips is in the right units."""

import pytest

from rrl_jax.errors import ConfigError
from rrl_jax.train import chips

pytestmark = pytest.mark.fast


def test_chips_are_of_plausible_size():
  assert set(chips.CHIPS) == {'v4', 'v5e', 'v5p', 'v6e'}
  for name, chip in chips.CHIPS.items():
    assert chip.name == name
    assert 16 * 2**30 <= chip.hbm_bytes <= 2**37
    # Products that keep a chip busy for each byte it reads, or gets sent.
    assert 100 < chip.flops_per_s / chip.hbm_bytes_per_s < 1000
    assert 2 < chip.hbm_bytes_per_s / chip.ici_bytes_per_s < 10
    assert 'https://cloud.google.com/tpu/docs/' in chip.source
  by_flops = sorted(chips.CHIPS, key=lambda n: chips.CHIPS[n].flops_per_s)
  assert by_flops == ['v5e', 'v4', 'v5p', 'v6e']


@pytest.mark.parametrize('topology', ['v5e:16x16', 'v6e:4x4', 'v4:4x4x4'])
def test_a_topology_has_a_chip(topology):
  assert chips.of_topology(topology).name == topology.partition(':')[0]


@pytest.mark.parametrize(
  'topology', ['', 'v5e', 'v5e:', 'v5e:16', 'v5e:4x4x4', 'v4:4x4', 'v3:4x4',
               'v5e:0x4', 'v5e:axb', 'v5e:-4x4'],
)  # fmt: skip
def test_another_topology_is_refused_in_words(topology):
  with pytest.raises(ConfigError, match='v5e:16x16') as caught:
    chips.of_topology(topology)
  assert f'--aot={topology}' in str(caught.value)
