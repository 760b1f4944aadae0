"""ResNet-20 of the CIFAR family (He et al., 2016, section 4.2)."""

from typing import ClassVar

from rrl_jax.models import _resnet


class Model(_resnet.ResNet):
  """3 basic blocks in each of three stages of 16, 32 and 64 channels.

  Shortcuts between stages are 1x1 convolutions, where He et al. pad with
  zeros; see `_resnet.ResNet`.
  """

  stage_sizes: ClassVar[tuple[int, ...]] = (3, 3, 3)

  width: int = 16
