"""Networks from features back to images: each the mirror of an encoder."""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from rrl_jax.models import _layers, _resnet, _vit, cnn, mlp

_SEED = 4  # Side of the image from which a residual decoder grows.
_STEMS = {'cifar': 1, 'imagenet': 4}  # By how much they coarsen.


class Decoder(nn.Module):
  """Vectors ``[B, D]`` to what becomes pixels.

  Layers come in the opposite order of the mirrored network's, with the same
  widths; where that halves the resolution, every pixel is repeated.

  Attributes:
    mirrored: An encoder, for its settings; it is never called.
  """

  mirrored: _layers.Network

  @nn.compact
  def __call__(
    self, z: jax.Array, image_shape: tuple[int, int, int], *, train: bool
  ) -> jax.Array:
    """Returns float32 ``[B, *image_shape]``, unbounded."""
    decode = {
      mlp.Model: self._mlp,
      cnn.Model: self._cnn,
      _resnet.ResNet: self._resnet,
      _vit.ViT: self._vit,
    }
    kind = next(kind for kind in decode if isinstance(self.mirrored, kind))
    z = z.astype(self.mirrored.compute_dtype)
    return decode[kind](z, image_shape, train).astype(jnp.float32)

  def _mlp(self, z, image_shape, train):
    """The hidden layers; the last of the encoder, the features, is given."""
    del train
    activation = _layers.activation_fn(self.mirrored.activation)
    dtype = self.mirrored.compute_dtype
    for i, width in enumerate(reversed(self.mirrored.widths[:-1])):
      z = activation(nn.Dense(width, dtype=dtype, name=f'dense{i}')(z))
    z = nn.Dense(math.prod(image_shape), dtype=dtype, name='pixels')(z)
    return z.reshape(-1, *image_shape)

  def _cnn(self, z, image_shape, train):
    """A dense layer, then convolutions with an upsampling before each."""
    del train
    activation = _layers.activation_fn(self.mirrored.activation)
    dtype, widths = self.mirrored.compute_dtype, self.mirrored.widths
    sizes = _halvings(image_shape, len(widths))
    small = (*sizes[-1], widths[-1])
    x = nn.Dense(math.prod(small), dtype=dtype, name='dense')(z)
    x = activation(x).reshape(-1, *small)
    for i in reversed(range(len(widths) - 1)):
      x = _upsample(x, sizes[i])
      x = nn.Conv(widths[i], (3, 3), dtype=dtype, name=f'conv{i}')(x)
      x = activation(x)
    return nn.Conv(image_shape[-1], (3, 3), dtype=dtype, name='pixels')(x)

  def _resnet(self, z, image_shape, train):
    """The stages; the first from a small image, the others upsampled."""
    network = self.mirrored
    conv, norm = _resnet.layers(network, train)
    coarser = _STEMS[network.stem]
    stem = [math.ceil(side / coarser) for side in image_shape[:2]]
    sizes = _halvings(stem, len(network.stage_sizes))
    width = network.width * 2 ** (len(sizes) - 1)
    width *= 4 if network.bottleneck else 1
    x = nn.Dense(_SEED**2 * width, dtype=z.dtype, name='dense')(z)
    x = x.reshape(-1, _SEED, _SEED, width)
    x = jax.image.resize(x, (len(x), *sizes[-1], width), 'linear')
    for i, num_blocks in reversed([*enumerate(network.stage_sizes)]):
      x = _upsample(x, sizes[i])
      for j in range(num_blocks):
        x = _resnet.Block(
          width=network.width * 2**i,
          stride=1,
          bottleneck=network.bottleneck,
          zero_init_last=network.zero_init_last,
          conv=conv,
          norm=norm,
          name=f'stage{i}_block{j}',
        )(x)
    for size in reversed(_halvings(image_shape, int(math.log2(coarser)))):
      x = _upsample(x, size)
    return conv(
      image_shape[-1], (3, 3), padding=1, use_bias=True, name='pixels'
    )(x)

  def _vit(self, z, image_shape, train):
    """The vector at every position, blocks, then the pixels of each patch."""
    del train
    network, (height, width, channels) = self.mirrored, image_shape
    size = network.patch_size
    _layers.require(
      height % size == 0 and width % size == 0,
      'decoder',
      f'a transformer with patch_size={size}',
      f'a divisor of the image size, {height} x {width}',
    )
    rows, cols = height // size, width // size
    positions = self.param(
      'positions', nn.initializers.normal(0.02), (1, rows * cols, network.width)
    )
    x = nn.Dense(network.width, dtype=z.dtype, name='tokens')(z)
    x = x[:, None] + positions.astype(z.dtype)
    for i in range(network.depth):
      x = _vit.block(network, name=f'block{i}')(x)
    x = nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name='norm')(x)
    x = nn.Dense(size * size * channels, dtype=z.dtype, name='pixels')(x)
    x = x.reshape(-1, rows, cols, size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *image_shape)


def _halvings(sides, count):
  """Height and width after 0 to ``count - 1`` halvings, rounded up."""
  return [
    tuple(math.ceil(side / 2**i) for side in sides[:2]) for i in range(count)
  ]


def _upsample(x, sides):
  """Every pixel twice in each direction, cut to height and width."""
  if x.shape[1:3] == tuple(sides):
    return x
  x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
  return x[:, : sides[0], : sides[1]]
