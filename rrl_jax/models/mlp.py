"""A multilayer perceptron on the flattened image."""

from flax import linen as nn
import jax

from rrl_jax import typing
from rrl_jax.models import _intervals, _layers


class Model(_layers.Network):
  """Fully connected layers; the last hidden layer is the feature vector.

  Attributes:
    widths: Units of each hidden layer.
    activation: 'elu', 'gelu', 'relu', 'silu', 'softplus' or 'tanh'. Smooth by
      default, as the theory of the Wasserstein adversary asks (Sinha et al.,
      2018).
  """

  widths: tuple[int, ...] = (256, 256)
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
    _layers.require_one_of('activation', self.activation, _layers.ACTIVATIONS)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool):
    """Returns ``(logits, out)`` of images ``[B, H, W, C]`` in [0, 1]."""
    del train
    activation = _layers.activation_fn(self.activation)
    x = self.normalise(x)
    x = x.reshape(x.shape[0], -1)
    for i, width in enumerate(self.widths):
      x = nn.Dense(width, dtype=self.compute_dtype, name=f'dense{i}')(x)
      x = activation(x)
    return self.heads(x)

  def feature_bounds(
    self, params: typing.Params, lower: jax.Array, upper: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Bounds of the features, see `models.feature_bounds`."""
    dtype = self.compute_dtype
    box = _intervals.flat(_intervals.normalised(self, lower, upper))
    for i in range(len(self.widths)):
      box = _intervals.dense(box, params[f'dense{i}'], dtype)
      box = _intervals.activation(box, self.activation, dtype)
    return box.lower, box.upper
