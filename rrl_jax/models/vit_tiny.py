"""ViT-Tiny (Dosovitskiy et al., 2021; Touvron et al., 2021)."""

from typing import ClassVar

from rrl_jax.models import _vit


class Model(_vit.ViT):
  """192 dimensions in 3 heads; see `_vit.ViT`."""

  width: ClassVar[int] = 192
  num_heads: ClassVar[int] = 3
