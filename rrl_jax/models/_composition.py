"""Decoders and second encoders, which any network can have."""

import dataclasses

from flax import linen as nn

from rrl_jax.models import _autoencoder, _decoder, _layers, _two_encoders

ENCODERS = ('one', 'two', 'joint')


@dataclasses.dataclass(frozen=True)
class Composition:
  """What stands beside a network; fields of ``model.kw`` of every network.

  Attributes:
    decoder: 'none'; 'mirror', the network in opposite order; or the name of
      another network, whose mirror in its default size it is.
    decoder_condition: How the class enters the decoder: 'encoder', through the
      features alone; 'label', as an input beside them.
    decoder_output: 'sigmoid', images in (0, 1), or 'linear', without a bound.
    encoders: 'one', which the decoder follows; 'two', a contrastive one and
      one with the decoder, learning apart; 'joint', both under one classifier.
  """

  decoder: str = 'none'
  decoder_condition: str = 'encoder'
  decoder_output: str = 'sigmoid'
  encoders: str = 'one'


FIELDS = tuple(field.name for field in dataclasses.fields(Composition))


def compose(
  network: _layers.Network,
  composition: Composition,
  mirrored: _layers.Network | None,
) -> nn.Module:
  """Puts a decoder and a second encoder beside a network.

  Args:
    network: The encoder.
    composition: What to put beside it.
    mirrored: The network that the decoder mirrors, None for no decoder.

  Raises:
    ConfigError: A value does not exist.
  """
  _layers.require_one_of('encoders', composition.encoders, ENCODERS)
  if composition.encoders != 'one':
    second = network.clone(embedding_dim=0, predictor=False)
    return _two_encoders.TwoEncoders(
      contrastive=network,
      autoencoder=_decoded(second, composition, mirrored),
      joint=composition.encoders == 'joint',
    )
  return _decoded(network, composition, mirrored)


def _decoded(network, composition, mirrored):
  """The network with its decoder, if it is to have one."""
  if mirrored is None:
    return network
  return _autoencoder.Autoencoder(
    encoder=network,
    decoder=_decoder.Decoder(mirrored.clone()),
    condition=composition.decoder_condition,
    output=composition.decoder_output,
  )
