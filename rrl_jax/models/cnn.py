"""A small convolutional network that a CPU trains quickly."""

from flax import linen as nn
import jax

from rrl_jax import typing
from rrl_jax.models import _intervals, _layers


class Model(_layers.Network):
  """3x3 convolutions, then one dense layer, whose output is the features.

  The first convolution keeps the resolution and each later one halves it by
  its stride; there is no pooling and no BatchNorm, so an example's result
  depends on that example alone, also when training.

  Attributes:
    widths: Channels of each convolution.
    dense_width: Units of the dense layer.
    activation: 'elu', 'gelu', 'relu', 'silu', 'softplus' or 'tanh'; smooth by
      default.
  """

  widths: tuple[int, ...] = (32, 64, 64)
  dense_width: int = 128
  activation: str = 'elu'

  def check(self) -> None:
    """Raises ConfigError for a value out of range."""
    super().check()
    _layers.require(
      len(self.widths) > 0 and min(self.widths) > 0,
      'widths',
      self.widths,
      'at least one positive number',
    )
    _layers.require(
      self.dense_width > 0, 'dense_width', self.dense_width, 'positive'
    )
    _layers.require_one_of('activation', self.activation, _layers.ACTIVATIONS)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool):
    """Returns ``(logits, out)`` of images ``[B, H, W, C]`` in [0, 1]."""
    del train
    activation = _layers.activation_fn(self.activation)
    dtype = self.compute_dtype
    x = self.normalise(x)
    for i, width in enumerate(self.widths):
      stride = 1 if i == 0 else 2
      x = nn.Conv(width, (3, 3), stride, dtype=dtype, name=f'conv{i}')(x)
      x = activation(x)
    x = x.reshape(x.shape[0], -1)
    x = activation(nn.Dense(self.dense_width, dtype=dtype, name='dense')(x))
    return self.heads(x)

  def feature_bounds(
    self, params: typing.Params, lower: jax.Array, upper: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Bounds of the features, see `models.feature_bounds`."""
    dtype = self.compute_dtype
    box = _intervals.normalised(self, lower, upper)
    for i in range(len(self.widths)):
      stride = 1 if i == 0 else 2
      box = _intervals.convolution(box, params[f'conv{i}'], stride, dtype)
      box = _intervals.activation(box, self.activation, dtype)
    box = _intervals.dense(_intervals.flat(box), params['dense'], dtype)
    box = _intervals.activation(box, self.activation, dtype)
    return box.lower, box.upper
