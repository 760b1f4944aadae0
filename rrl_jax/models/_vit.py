"""Vision transformers as in timm: pre-norm blocks, a class token."""

from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from rrl_jax.models import _layers


class ViT(_layers.Network):
  """A vision transformer without dropout.

  The position embedding belongs to the image size given at `init`.

  Attributes:
    patch_size: Side of a patch in pixels; divides both sides of the image.
    depth: Number of blocks.
    pool: What becomes the features: 'cls', the class token, or 'mean', the
      mean over patches.
  """

  width: ClassVar[int] = 0
  num_heads: ClassVar[int] = 0
  mlp_ratio: ClassVar[int] = 4
  norm_patches: ClassVar[bool] = False

  patch_size: int = 16
  depth: int = 12
  pool: str = 'cls'

  def check(self) -> None:
    """Raises ConfigError for a value out of range."""
    super().check()
    _layers.require(
      self.patch_size > 0, 'patch_size', self.patch_size, 'positive'
    )
    _layers.require(self.depth > 0, 'depth', self.depth, 'positive')
    _layers.require_one_of('pool', self.pool, ('cls', 'mean'))

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool):
    """Returns ``(logits, out)`` of images ``[B, H, W, C]`` in [0, 1]."""
    del train
    batch, height, width, channels = x.shape
    size = self.patch_size
    _layers.require(
      height % size == 0 and width % size == 0,
      'patch_size',
      size,
      f'a divisor of the image size, {height} x {width}',
    )
    dtype = self.compute_dtype
    x = self.normalise(x)
    # A convolution with stride = size, written as the matmul that it is.
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)
    x = nn.Dense(self.width, dtype=dtype, name='patches')(x)
    if self.norm_patches:
      x = nn.LayerNorm(epsilon=1e-6, dtype=dtype, name='patches_norm')(x)
    tokens = []
    if self.pool == 'cls':
      cls = self.param('cls', nn.initializers.zeros, (1, 1, self.width))
      tokens = [jnp.broadcast_to(cls.astype(dtype), (batch, 1, self.width))]
    x = jnp.concatenate([*tokens, x], axis=1)
    positions = self.param(
      'positions', nn.initializers.normal(0.02), (1, x.shape[1], self.width)
    )
    x = x + positions.astype(dtype)
    for i in range(self.depth):
      x = block(self, name=f'block{i}')(x)
    x = nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name='norm')(x)
    return self.heads(x[:, 0] if self.pool == 'cls' else jnp.mean(x, axis=1))


def block(network: ViT, name: str) -> nn.Module:
  """One block with the settings of a network."""
  return _Block(
    num_heads=network.num_heads,
    mlp_ratio=network.mlp_ratio,
    dtype=network.compute_dtype,
    name=name,
  )


class _Block(nn.Module):
  """Attention and a wider MLP, each after LayerNorm, each added."""

  num_heads: int
  mlp_ratio: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name='norm0')(x)
    qkv = nn.Dense(3 * width, dtype=self.dtype, name='qkv')(y)
    qkv = qkv.reshape(*y.shape[:2], 3, self.num_heads, -1)
    y = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0))
    y = y.reshape(x.shape)
    x = x + nn.Dense(width, dtype=self.dtype, name='attention')(y)
    y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name='norm1')(x)
    y = nn.Dense(self.mlp_ratio * width, dtype=self.dtype, name='mlp0')(y)
    y = jax.nn.gelu(y, approximate=False)
    return x + nn.Dense(width, dtype=self.dtype, name='mlp1')(y)
