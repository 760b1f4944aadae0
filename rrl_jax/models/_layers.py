"""What the networks share: base class, normalised input, heads, max pooling."""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from rrl_jax import errors

ACTIVATIONS = {
  'elu': jax.nn.elu,
  'gelu': jax.nn.gelu,
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
  'softplus': jax.nn.softplus,
  'tanh': jnp.tanh,
}
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class Network(nn.Module):
  """Fields and heads of every network.

  Attributes:
    num_classes: Number of logits K.
    embedding_dim: Size of the projected vector; 0 takes the features as they
      are.
    predictor: Whether ``out['prediction']``, another two-layer head, is there:
      the embedding as predicted from the embedding (Grill et al., 2020).
    mean: Subtracted from the image, a number or one a channel.
    std: Divides the centred image, a number or one a channel.
    dtype: Of the computation, float32 or bfloat16; weights, features,
      embedding and logits are float32 in both.
  """

  num_classes: int
  embedding_dim: int = 0
  predictor: bool = False
  mean: Any = 0.5
  std: Any = 0.5
  dtype: str = 'float32'

  def check(self) -> None:
    """Raises ConfigError for a value out of range."""
    require_one_of('dtype', self.dtype, _DTYPES)
    require(
      self.embedding_dim >= 0, 'embedding_dim', self.embedding_dim, '>= 0'
    )
    require(np.all(np.asarray(self.std) > 0), 'std', self.std, 'positive')
    for field, value in (('mean', self.mean), ('std', self.std)):
      require(
        np.all(np.abs(np.asarray(value)) <= 10),
        field,
        value,
        'about at most 1: images are in [0, 1], so divide what is for bytes by'
        ' 255',
      )

  @property
  def compute_dtype(self) -> Any:
    """The dtype as JAX knows it."""
    return _DTYPES[self.dtype]

  def normalise(self, images: jax.Array) -> jax.Array:
    """Returns ``(images - mean) / std`` in the dtype of the computation."""
    if images.ndim != 4:
      raise ValueError(f'images need shape [B, H, W, C], not {images.shape}')
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise TypeError(
        f'images need a float dtype with values in [0, 1], not {images.dtype}'
      )
    channels = images.shape[-1]
    moments = []
    for field, value in (('mean', self.mean), ('std', self.std)):
      value = np.asarray(value, np.float32).reshape(-1)
      require(
        value.size in (1, channels),
        field,
        getattr(self, field),
        f'one number, or {channels} for images of {channels} channels',
      )
      moments.append(np.broadcast_to(value, (1, 1, 1, channels)))
    mean, std = moments
    # In float32 first: 8 bits of mantissa would quantise the pixels.
    images = (images.astype(jnp.float32) - mean) / std
    return images.astype(self.compute_dtype)

  def heads(
    self, features: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns ``(logits, out)`` of the penultimate vectors ``[B, D]``.

    The projection is the two-layer head of contrastive learning, D hidden
    units with ReLU. Both heads compute in float32.
    """
    features = features.astype(jnp.float32)
    embedding = features
    if self.embedding_dim:
      hidden = nn.Dense(features.shape[-1], name='projection_hidden')(features)
      embedding = nn.Dense(self.embedding_dim, name='projection')(
        jax.nn.relu(hidden)
      )
    logits = nn.Dense(self.num_classes, name='head')(features)
    out = {'features': features, 'embedding': embedding}
    if self.predictor:
      hidden = nn.Dense(features.shape[-1], name='prediction_hidden')(embedding)
      out['prediction'] = nn.Dense(embedding.shape[-1], name='prediction')(
        jax.nn.relu(hidden)
      )
    return logits, out


def require(ok: bool, field: str, value: Any, rule: str) -> None:
  """Raises ConfigError unless a field of the network keeps its rule."""
  if not ok:
    raise errors.ConfigError(f'model.kw.{field}={value!r} must be {rule}')


def require_one_of(field: str, value: Any, known: Any) -> None:
  """Raises ConfigError unless the value is one of those known."""
  require(value in known, field, value, 'one of ' + ', '.join(known))


def activation_fn(name: str) -> Callable[[jax.Array], jax.Array]:
  """Returns a nonlinearity by name."""
  return ACTIVATIONS[name]


def _windows(x, size, stride, padding, fill):
  """Yields the ``size * size`` strided slices of padded ``x``."""
  pads = [(0, 0, 0), (padding, padding, 0), (padding, padding, 0), (0, 0, 0)]
  x = lax.pad(x, jnp.asarray(fill, x.dtype), pads)
  rows = (x.shape[1] - size) // stride + 1
  cols = (x.shape[2] - size) // stride + 1
  for i in range(size):
    for j in range(size):
      yield x[
        :,
        i : i + (rows - 1) * stride + 1 : stride,
        j : j + (cols - 1) * stride + 1 : stride,
      ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(
  x: jax.Array, size: int, stride: int, padding: int = 0
) -> jax.Array:
  """Maximum over square windows, with a gradient that is quick on a CPU.

  The gradient goes to the first maximum of a window in row-major order, as in
  PyTorch. XLA's own gradient of `reduce_window` gives the same but runs
  several times slower on the CPU backend.

  Args:
    x: Images, shape ``[B, H, W, C]``.
    size: Side of a window in pixels.
    stride: Step between windows in pixels.
    padding: Pixels of -inf added on each side.

  Returns:
    Shape ``[B, (H + 2 padding - size) // stride + 1, ..., C]``.
  """
  return functools.reduce(
    jnp.maximum, _windows(x, size, stride, padding, -jnp.inf)
  )


def _max_pool_forward(x, size, stride, padding):
  best, first = None, None
  for k, window in enumerate(_windows(x, size, stride, padding, -jnp.inf)):
    if best is None:
      best, first = window, jnp.zeros(window.shape, jnp.int8)
    else:
      first = jnp.where(window > best, jnp.int8(k), first)
      best = jnp.maximum(best, window)
  # x rides along for its shape only; XLA drops its values.
  return best, (first, x)


def _max_pool_backward(size, stride, padding, residuals, cotangent):
  first, x = residuals
  height, width = x.shape[1] + 2 * padding, x.shape[2] + 2 * padding
  zero = jnp.zeros((), cotangent.dtype)
  total = 0
  for k in range(size * size):
    i, j = divmod(k, size)
    part = jnp.where(first == k, cotangent, zero)
    rows = (part.shape[1] - 1) * stride + 1
    cols = (part.shape[2] - 1) * stride + 1
    total = total + lax.pad(
      part,
      zero,
      [
        (0, 0, 0),
        (i, height - i - rows, stride - 1),
        (j, width - j - cols, stride - 1),
        (0, 0, 0),
      ],
    )
  rows = slice(padding, height - padding)
  cols = slice(padding, width - padding)
  return (total[:, rows, cols],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
