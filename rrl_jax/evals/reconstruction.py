"""What a decoder makes of the features: its error, and some images."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.data import augment
from rrl_jax.evals import measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, choose

RULES = {'num_examples': rules.COUNT, 'num_pictures': rules.COUNT}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  num_examples: int = 1000,
  num_pictures: int = 12,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Decodes test images; nothing of a network without a decoder.

  A decoder that takes classes gets the predicted ones.

  Args:
    encoder: What is evaluated; its ``network`` has the decoder.
    data: ``test`` is decoded.
    key: Chooses the examples.
    num_examples: Test examples used; 0 for all.
    num_pictures: How many of them the report shows, of one fine class, or
      class, after the other.

  Yields:
    ``reconstruction/error``, the squared error of images in [0, 1], a mean
    over pixels, channels and images; and
    ``figure/reconstructions_{inputs,outputs,labels,class_names}``.

  Raises:
    ConfigError: A value is out of range.
  """
  values = {'num_examples': num_examples, 'num_pictures': num_pictures}
  rules.check('reconstruction', RULES, values)
  if encoder.network is None:
    return

  network = encoder.network

  def decode(variables, images):
    images = augment.to_float(images)
    (_, out), _ = network(*variables, images, train=False)
    return out.get('reconstruction')

  test = data.test.take(choose(key, len(data.test), num_examples))
  one = jax.ShapeDtypeStruct((1, *test.image_shape), jnp.float32)
  decoded = jax.eval_shape(decode, encoder.variables, one)
  if decoded is None:
    return
  size = max(decoded.shape[1:3])

  def compare(variables, images):
    given = augment.central_crop(augment.to_float(images), size)
    made = decode(variables, images)
    error = jnp.mean(jnp.square(made - given), axis=(1, 2, 3))
    return error, given, made

  compare = encoder.remembered('reconstruction', compare, {'size': size})
  errors, given, made = encoder.map_batches(compare, test.images)
  yield (
    'reconstruction/error',
    measurement.bootstrap(
      lambda errors: errors.mean(),
      (errors,),
      'squared error of decoded test images in [0, 1], mean over pixels',
      bounds=(0.0, np.inf),
    ),
  )
  fine = test.fine_labels is not None
  labels = test.fine_labels if fine else test.labels
  shown = _in_turn(labels)[:num_pictures]
  yield 'figure/reconstructions_inputs', given[shown]
  yield 'figure/reconstructions_outputs', np.clip(made[shown], 0, 1)
  yield 'figure/reconstructions_labels', labels[shown]
  yield (
    'figure/reconstructions_class_names',
    np.array(test.fine_names if fine else test.class_names),
  )


def _in_turn(labels: np.ndarray) -> np.ndarray:
  """Positions of the examples, of one class after the other, ``[N]``."""
  turns = np.zeros(len(labels), np.int64)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    turns[members] = np.arange(len(members))
  return np.lexsort((labels, turns))
