"""What a chip of each kind of TPU has: memory, bandwidths, peak arithmetic."""

from collections.abc import Mapping
import dataclasses

from rrl_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip, as its maker describes it.

  Attributes:
    name: As topologies are named: ``v5e`` of ``v5e:16x16``.
    hbm_bytes: Memory. Programs get a little less: of the v5e's 16 GiB the
      compiler leaves them 15.75.
    hbm_bytes_per_s: Bandwidth of the memory.
    flops_per_s: Peak rate of bfloat16 products. Float32 products run at the
      same rate by default, since they are rounded to bfloat16 first.
    ici_bytes_per_s: Bandwidth to the neighbours, all links together, one way.
    source: Where these numbers are from.
    topology_options: What libtpu is told besides a topology's name.
  """

  name: str
  hbm_bytes: int
  hbm_bytes_per_s: float
  flops_per_s: float
  ici_bytes_per_s: float
  source: str
  topology_options: Mapping[str, str] = dataclasses.field(default_factory=dict)


_DOCS = 'https://cloud.google.com/tpu/docs/'
CHIPS = {
  chip.name: chip
  for chip in (
    # Six links of 50 GB/s, by the paper. The page has the pod's bisection,
    # 24 TB/s: over the 512 links that halve its 16x16x16 torus, 47 GB/s each.
    Chip(
      'v4',
      32 * 2**30,
      1200e9,
      275e12,
      300e9,
      _DOCS + 'v4, https://arxiv.org/abs/2304.01433',
      {'chip_config_name': 'megacore'},  # Both cores are one device.
    ),
    # 16 GB, 819 GB/s, 197 TFLOP/s, 1600 Gbit/s (400 GB/s both ways).
    Chip('v5e', 16 * 2**30, 819e9, 197e12, 200e9, _DOCS + 'v5e'),
    # 95 GB, 2765 GB/s, 459 TFLOP/s, 4800 Gbit/s.
    Chip('v5p', 95 * 2**30, 2765e9, 459e12, 600e9, _DOCS + 'v5p'),
    # 32 GB, 1638 GB/s, 918 TFLOP/s, 800 GB/s both ways.
    Chip('v6e', 32 * 2**30, 1638e9, 918e12, 400e9, _DOCS + 'v6e'),
  )
}


def of_topology(topology: str) -> Chip:
  """The chip of a topology such as ``v5e:4x4``.

  Raises:
    ConfigError: No such chip, or no shape behind it.
  """
  name, _, shape = topology.partition(':')
  sides = shape.split('x')
  dimensions = 3 if name in ('v4', 'v5p') else 2
  if (
    name not in CHIPS
    or len(sides) != dimensions
    or not all(side.isdecimal() and int(side) > 0 for side in sides)
  ):
    raise ConfigError(
      f'--aot={topology}: a kind of TPU and its shape, as v5e:16x16, v6e:4x4,'
      ' v4:4x4x4 or v5p:4x4x8'
    )
  return CHIPS[name]
