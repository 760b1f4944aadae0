"""A class is predicted by numbers, and by nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import evals
from rrl_jax.data.source import Source
from rrl_jax.errors import DataError
from rrl_jax.evals import attacked, knn, prediction
from tests.evals import toy

NAN, INF = np.nan, np.inf


def test_the_highest_logit_is_the_class_and_nan_is_none():
  logits = np.array(
    [[0, 2, 1], [NAN, 0, 1], [0, 1, NAN], [INF, 0, 1], [-INF, -INF, -INF]]
  )
  want = [1, -1, -1, 0, 0]
  found = prediction.predicted(logits)
  assert isinstance(found, np.ndarray)
  np.testing.assert_array_equal(found, want)
  np.testing.assert_array_equal(
    jax.jit(prediction.predicted)(jnp.asarray(logits)), want
  )
  np.testing.assert_array_equal(
    attacked.is_right(logits, np.array([1, 0, 2, 0, 1])), [1, 0, 0, 1, 0]
  )


@pytest.mark.fast
def test_none_agrees_with_nothing():
  first, second = np.array([0, 1, -1, -1]), np.array([0, 2, -1, 1])
  assert prediction.agree(first, second).tolist() == [True, False, False, False]


def diverged(variables, images):
  """The features are what they are, the logits no numbers."""
  logits, features = toy.apply(variables, images)
  return logits * jnp.nan, features


def on_the_first_class(size=40):
  source = toy.source(2, size)
  labels = np.zeros(size, np.int32)
  return Source(source.images, labels, source.class_names)


def test_a_network_that_diverged_is_right_about_nothing():
  encoder = evals.Encoder(diverged, toy.variables(), batch_size=16)
  source = on_the_first_class()
  config = {
    'accuracy': {'train_examples': 10},
    'pgd': {'num_steps': 1, 'num_pictures': 1},
    'shift': {},
  }
  found, figures = evals.run(
    encoder,
    evals.EvalData(train=source, test=source),
    config,
    key=jax.random.key(0),
  )
  names = {'test/accuracy', 'train/accuracy', 'test/pgd1_accuracy'}
  names |= {'test/pgd1_zero_epsilon_agreement', 'test/noise_accuracy'}
  assert names <= found.keys()
  del found['test/seen_in_training']  # Both splits are one here.
  for name, measured in found.items():
    assert measured.value == 0, name
  assert figures['figure/examples_adv_preds'].tolist() == [-1]


def test_features_that_are_nan_in_an_image_are_wrong_there_alone():
  def apply(variables, images):
    logits, features = toy.apply(variables, images)
    unknown = images[:, 0, 0, 0] < 0
    return logits, jnp.where(unknown[:, None], jnp.nan, features)

  def broken(source, rows):
    images = source.images.copy()
    images[rows] = -1
    return Source(images, source.labels, source.class_names)

  encoder = evals.Encoder(apply, toy.variables(), batch_size=30)
  train, test = toy.source(3, 48), toy.source(4, 90)
  half = np.arange(90) < 45

  def accuracies(train, test):
    task = evals.Task('t', train, test)
    data = evals.EvalData(train=train, test=test, tasks=(task,))
    found, _ = evals.run(encoder, data, {'transfer': {}}, key=jax.random.key(0))
    return {name: measured.value for name, measured in found.items()}

  whole = accuracies(train, test.take(np.flatnonzero(~half)))
  some = accuracies(train, broken(test, half))
  for name in (f'{probe}_accuracy' for probe in ('linear_probe', 'svm', 'knn')):
    key = f'transfer/t/{name}'
    np.testing.assert_allclose(some[key], whole[key] / 2)
  with pytest.raises(DataError, match='features of 1 of 48 training') as error:
    accuracies(broken(train, [3]), test)
  assert '\n' not in str(error.value)


def test_a_query_that_is_not_finite_has_no_neighbours(rng):
  train, labels = rng.normal(size=(20, 3)), rng.integers(0, 2, 20)
  queries = rng.normal(size=(4, 3))
  want = knn.predict(train, labels, queries, num_classes=2, k=3)
  queries[2, 1] = NAN
  want[2] = -1
  found = knn.predict(train, labels, queries, num_classes=2, k=3)
  np.testing.assert_array_equal(found, want)
