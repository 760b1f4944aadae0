"""ResNet-50 (He et al., 2016), stride in the 3x3 convolution."""

from typing import ClassVar

from rrl_jax.models import _resnet


class Model(_resnet.ResNet):
  """3, 4, 6, 3 bottleneck blocks; see `_resnet.ResNet`."""

  stage_sizes: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
  bottleneck: ClassVar[bool] = True
