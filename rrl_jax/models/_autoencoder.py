"""A network with a decoder beside its heads."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.models import _decoder, _layers

CONDITIONS = ('encoder', 'label')
OUTPUTS = ('sigmoid', 'linear')


class Autoencoder(nn.Module):
  """An encoder and a decoder of its features, ``out['reconstruction']``.

  Attributes:
    encoder: Any network.
    decoder: What follows its features.
    condition: How the class enters: 'encoder', through the features alone (a
      head that learns the classes shares them); 'label', as an input of the
      decoder beside them.
    output: 'sigmoid', images in (0, 1); 'linear', images in the encoder's
      normalised channels without a bound, brought back to [0, 1] and beyond.

  References:
    Chen, Fu et al., `Perfectly Balanced: Improving Transfer and Robustness of
    Supervised Contrastive Learning <https://arxiv.org/abs/2204.07596>`_, 2022:
    'label' is their theory's decoder, 'encoder' with 'linear' their code's.
  """

  encoder: _layers.Network
  decoder: _decoder.Decoder
  condition: str = 'encoder'
  output: str = 'sigmoid'

  @property
  def dual_norm(self) -> bool:
    """Whether the encoder has BatchNorms of attacked images."""
    return getattr(self.encoder, 'dual_norm', False)

  @property
  def takes_labels(self) -> bool:
    """Whether labels are an input."""
    return self.condition == 'label'

  def check(self) -> None:
    """Raises ConfigError for a value out of range."""
    self.encoder.check()
    _layers.require_one_of('decoder_condition', self.condition, CONDITIONS)
    _layers.require_one_of('decoder_output', self.output, OUTPUTS)

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    labels: jax.Array | None = None,
    **kw: bool,
  ):
    """Returns ``(logits, out)`` of images ``[B, H, W, C]`` in [0, 1].

    Without labels, a decoder that takes them takes the predicted classes.
    """
    logits, out = self.encoder(x, train=train, **kw)
    z = out['features']
    if self.takes_labels:
      if labels is None:
        labels = jnp.argmax(logits, axis=-1)
      classes = jax.nn.one_hot(labels, logits.shape[-1], dtype=z.dtype)
      z = jnp.concatenate([z, classes], axis=-1)
    images = self.decoder(z, x.shape[1:], train=train)
    if self.output == 'sigmoid':
      images = jax.nn.sigmoid(images)
    else:
      mean, std = (
        np.broadcast_to(np.asarray(moment, np.float32), (1, 1, 1, x.shape[-1]))
        for moment in (self.encoder.mean, self.encoder.std)
      )
      images = images * std + mean
    return logits, out | {'reconstruction': images}
