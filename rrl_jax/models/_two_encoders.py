"""Two networks side by side, their features concatenated."""

from flax import linen as nn
import jax
import jax.numpy as jnp


class TwoEncoders(nn.Module):
  """A contrastive encoder and an autoencoder of the same images.

  ``out['features']`` are those of the first, then those of the second;
  ``out['embedding']`` is the first's and ``out['reconstruction']`` the
  second's. The weights are disjoint.

  Attributes:
    contrastive: Any network.
    autoencoder: Any network, with a decoder or without.
    joint: Whether one classifier reads the concatenated features: the logits
      are the sum of both. Otherwise each network has its own classifier,
      ``out['branch_logits']`` ``[2, B, K]``, so that neither learns anything
      from the other, and the logits are their mean.

  References:
    Chen, Fu et al., `Perfectly Balanced: Improving Transfer and Robustness of
    Supervised Contrastive Learning <https://arxiv.org/abs/2204.07596>`_, 2022.
  """

  contrastive: nn.Module
  autoencoder: nn.Module
  joint: bool = False

  @property
  def dual_norm(self) -> bool:
    """Whether the encoders have BatchNorms of attacked images."""
    return getattr(self.contrastive, 'dual_norm', False)

  @property
  def takes_labels(self) -> bool:
    """Whether labels are an input."""
    return getattr(self.autoencoder, 'takes_labels', False)

  def check(self) -> None:
    """Raises ConfigError for a value out of range."""
    self.contrastive.check()
    self.autoencoder.check()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, labels=None, **kw: bool):
    """Returns ``(logits, out)`` of images ``[B, H, W, C]`` in [0, 1]."""
    first, out = self.contrastive(x, train=train, **kw)
    if self.takes_labels:
      kw = kw | {'labels': labels}
    second, other = self.autoencoder(x, train=train, **kw)
    both = [out['features'], other['features']]
    out = other | out | {'features': jnp.concatenate(both, axis=-1)}
    if self.joint:
      return first + second, out
    branches = jnp.stack([first, second])
    return jnp.mean(branches, axis=0), out | {'branch_logits': branches}
