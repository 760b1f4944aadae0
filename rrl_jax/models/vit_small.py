"""ViT-Small (Dosovitskiy et al., 2021; Touvron et al., 2021)."""

from typing import ClassVar

from rrl_jax.models import _vit


class Model(_vit.ViT):
  """384 dimensions in 6 heads; see `_vit.ViT`."""

  width: ClassVar[int] = 384
  num_heads: ClassVar[int] = 6
