"""Residual networks as in torchvision (stride in the 3x3 convolution)."""

import functools
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from rrl_jax.models import _layers


class ResNet(_layers.Network):
  """A residual network with BatchNorm.

  The running variances are of n examples, as Flax has them; torch divides by
  n - 1.

  Attributes:
    stem: 'cifar' (3x3, no pooling) or 'imagenet' (7x7 stride 2, max pooling).
    width: Channels of the first stage.
    zero_init_last: Whether the last BatchNorm scale of each block starts at
      zero, so that each block starts as the identity (Goyal et al., 2017).
    batch_norm_momentum: Share of the old running statistics kept at a step.
    dual_norm: Whether attacked images have BatchNorms of their own (Xie et
      al., 2020), used by calls with ``adversarial=True``.
  """

  stage_sizes: ClassVar[tuple[int, ...]] = ()
  bottleneck: ClassVar[bool] = False

  stem: str = 'cifar'
  width: int = 64
  zero_init_last: bool = True
  batch_norm_momentum: float = 0.9
  dual_norm: bool = False

  def check(self) -> None:
    """Raises ConfigError for a value out of range."""
    super().check()
    _layers.require_one_of('stem', self.stem, ('cifar', 'imagenet'))
    _layers.require(self.width > 0, 'width', self.width, 'positive')
    momentum = self.batch_norm_momentum
    _layers.require(
      0 <= momentum < 1, 'batch_norm_momentum', momentum, 'in [0, 1)'
    )

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, adversarial: bool = False):
    """Returns ``(logits, out)`` of images ``[B, H, W, C]`` in [0, 1]."""
    conv, norm = layers(self, train)
    if self.dual_norm:
      norm = functools.partial(_DualNorm, norm=norm, adversarial=adversarial)
    x = self.normalise(x)
    if self.stem == 'imagenet':
      x = conv(self.width, (7, 7), 2, padding=3, name='stem_conv')(x)
    else:
      x = conv(self.width, (3, 3), 1, padding=1, name='stem_conv')(x)
    x = jax.nn.relu(norm(name='stem_norm')(x))
    if self.stem == 'imagenet':
      x = _layers.max_pool(x, 3, 2, 1)
    for i, num_blocks in enumerate(self.stage_sizes):
      for j in range(num_blocks):
        x = Block(
          width=self.width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          bottleneck=self.bottleneck,
          zero_init_last=self.zero_init_last,
          conv=conv,
          norm=norm,
          name=f'stage{i}_block{j}',
        )(x)
    return self.heads(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))


def layers(
  network: ResNet, train: bool
) -> tuple[functools.partial, functools.partial]:
  """Convolution and normalisation with the settings of a network."""
  conv = functools.partial(
    nn.Conv,
    use_bias=False,
    dtype=network.compute_dtype,
    kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
  )
  norm = functools.partial(
    nn.BatchNorm,
    use_running_average=not train,
    momentum=network.batch_norm_momentum,
    epsilon=1e-5,
    dtype=network.compute_dtype,
  )
  return conv, norm


class _DualNorm(nn.Module):
  """Two BatchNorms, of which one normalises; both exist from the start."""

  norm: functools.partial
  adversarial: bool
  scale_init: nn.initializers.Initializer = nn.initializers.ones

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    clean = self.norm(scale_init=self.scale_init, name='clean')
    attacked = self.norm(scale_init=self.scale_init, name='adversarial')
    if self.is_initializing():
      clean(x), attacked(x)
    return attacked(x) if self.adversarial else clean(x)


class Block(nn.Module):
  """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels."""

  width: int
  stride: int
  bottleneck: bool
  zero_init_last: bool
  conv: functools.partial
  norm: functools.partial

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.bottleneck:
      layers = [(self.width, 1, 1), (self.width, 3, self.stride)]
      layers.append((4 * self.width, 1, 1))
    else:
      layers = [(self.width, 3, self.stride), (self.width, 3, 1)]
    y = x
    for k, (width, size, stride) in enumerate(layers):
      last = k == len(layers) - 1
      y = self.conv(
        width, (size, size), stride, padding=size // 2, name=f'conv{k}'
      )(y)
      zero = last and self.zero_init_last
      init = nn.initializers.zeros if zero else nn.initializers.ones
      y = self.norm(scale_init=init, name=f'norm{k}')(y)
      if not last:
        y = jax.nn.relu(y)
    if x.shape != y.shape:
      x = self.conv(
        y.shape[-1], (1, 1), self.stride, padding=0, name='shortcut_conv'
      )(x)
      x = self.norm(name='shortcut_norm')(x)
    return jax.nn.relu(x + y)
