"""Clean accuracy: overall, of each concept, and of the worst concept."""

from collections.abc import Iterator

import jax
import numpy as np

from rrl_jax.data import source as source_lib
from rrl_jax.data.source import Source
from rrl_jax.evals import measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.prediction import predicted
from rrl_jax.evals.task import EvalData, choose, test_images

RULES = {'train_examples': rules.COUNT}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  train_examples: int = 2000,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Counts right predictions on clean images.

  A concept without a test example has no accuracy and is left out.

  Args:
    encoder: What is evaluated.
    data: ``test`` and, for comparison, a sample of ``train``.
    key: Chooses the sample of ``train``.
    train_examples: Size of that sample; 0 leaves ``train/accuracy`` out.

  Yields:
    ``test/accuracy``, ``test/worst_concept_accuracy``,
    ``test/accuracy/<concept>``, ``train/accuracy``, the share of test images
    that are training images as ``test/seen_in_training``, if there is any, and
    the concepts' sizes as figures.

  Raises:
    ValueError: Logits that have not one column for each class.
  """
  rules.check('accuracy', RULES, {'train_examples': train_examples})
  logits, _ = encoder.predict(data.test.images)
  columns, num_classes = logits.shape[1], data.test.num_classes
  if columns != num_classes:
    raise ValueError(
      'apply must return (logits [B, K], features [B, D]): the logits have'
      f' {columns} columns, and there are {num_classes} classes'
    )
  correct, total = concept_counts(encoder, data.test)
  images = test_images(data.test)
  yield (
    'test/accuracy',
    measurement.proportion(correct.sum(), total.sum(), f'{images}, top-1'),
  )
  there = total > 0
  yield (
    'test/worst_concept_accuracy',
    measurement.minimum(
      correct[there], total[there], f'{images}, top-1, by concept'
    ),
  )
  for k in np.flatnonzero(there):
    concept = data.test.concept_names[k]
    yield (
      f'test/accuracy/{measurement.key_part(concept)}',
      measurement.proportion(
        correct[k], total[k], f'{images} of concept {concept}, top-1'
      ),
    )
  seen = source_lib.seen_in_training(data.train, data.test)
  if seen is not None and seen.any():
    yield (
      'test/seen_in_training',
      measurement.exact(
        seen.mean(),
        f'share of {seen.size} test images that are, bit for bit, training'
        ' images, so that accuracy on them is no test',
      ),
    )
  if train_examples:
    chosen = choose(key, len(data.train), train_examples)
    sample = data.train.take(chosen)
    right = predictions(encoder, sample) == sample.labels
    yield (
      'train/accuracy',
      measurement.proportion(
        right.sum(),
        right.size,
        'training images without augmentation, chosen at random, top-1 against'
        ' the labels that training saw',
      ),
    )
  yield 'figure/concept_names', np.array(data.test.concept_names)
  yield 'figure/concept_train_counts', np.asarray(data.train.concept_counts)
  yield 'figure/concept_test_counts', np.asarray(total, np.int64)


def predictions(encoder: Encoder, source: Source) -> np.ndarray:
  """Predicted class of each image, int64 ``[N]``, see `predicted`."""
  logits, _ = encoder.predict(source.images)
  return predicted(logits)


def concept_counts(
  encoder: Encoder, source: Source
) -> tuple[np.ndarray, np.ndarray]:
  """Right predictions and examples of each concept.

  Args:
    encoder: What is evaluated.
    source: Labelled images.

  Returns:
    ``(correct [K], total [K])``, int64.
  """
  right = predictions(encoder, source) == source.labels
  correct = np.bincount(source.concepts[right], minlength=source.num_concepts)
  return correct, np.asarray(source.concept_counts)
