"""ResNet-18 (He et al., 2016)."""

from typing import ClassVar

from rrl_jax.models import _resnet


class Model(_resnet.ResNet):
  """Two basic blocks in each of four stages; see `_resnet.ResNet`."""

  stage_sizes: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)
