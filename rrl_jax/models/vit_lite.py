"""A small vision transformer for small images (Hassani et al., 2021)."""

from typing import ClassVar

from rrl_jax.models import _vit


class Model(_vit.ViT):
  """256 dimensions in 8 heads, 7 blocks, an MLP twice as wide; see `_vit.ViT`.

  The network of Chen, Fu et al., 2022, but for their dropout and stochastic
  depth of 5 to 10%. Hassani et al. have 4 heads.
  """

  width: ClassVar[int] = 256
  num_heads: ClassVar[int] = 8
  mlp_ratio: ClassVar[int] = 2
  norm_patches: ClassVar[bool] = True

  patch_size: int = 4
  depth: int = 7
