"""Cross attacks have a closed form on linear probes."""

import jax
import numpy as np
import pytest

from rrl_jax.data.source import Source
from rrl_jax.evals import Encoder, Task
from rrl_jax.studies import cross_attack

EPSILON = 0.1


def apply(variables, images):
  """Two classes by one direction in the pixels."""
  flat = images.reshape(len(images), -1)
  margin = flat @ variables - 0.5 * variables.sum()
  logits = np.array([-0.5, 0.5], np.float32)[None] * margin[:, None]
  return logits, flat


@pytest.fixture
def task(rng):
  images = rng.uniform(0.3, 0.7, (40, 2, 2, 1)).astype(np.float32)
  labels = (images[:, 0, 0, 0] > 0.5).astype(np.int32)
  source = Source(
    images=images,
    labels=labels,
    class_names=('0', '1'),
    concepts=labels,
    concept_names=('0', '1'),
  )
  return Task('toy', source, source)


def probe(task, *direction):
  weights = np.array(direction, np.float32)
  return cross_attack.Probe(Encoder(apply, weights, batch_size=40), task)


def test_own_images_break_a_margin_and_those_for_an_orthogonal_probe_none(
  task,
):
  probes = {
    'first': probe(task, 1.0, 0.0, 0.0, 0.0),
    'both': probe(task, 1.0, 0.5, 0.0, 0.0),
    'other': probe(task, 0.0, 0.0, 1.0, 0.0),
  }
  found = cross_attack.accuracies(
    probes,
    jax.random.key(0),
    epsilon=EPSILON,
    norm='linf',
    num_steps=5,
    num_restarts=2,
    num_examples=0,
  )
  first = task.test.images[:, 0, 0, 0]
  second = task.test.images[:, 0, 1, 0]
  sign = 2 * task.test.labels - 1
  margin = sign * (first - 0.5)
  assert found['first']['clean'] == 1
  np.testing.assert_allclose(
    found['first']['first'], np.mean(margin > EPSILON), atol=1e-6
  )
  # Images for `both` move the first pixel as far, in the same direction.
  assert found['first']['both'] == found['first']['first']
  # Those for `other` leave it within the random start.
  assert found['first']['other'] >= found['first']['first']
  both = sign * (first - 0.5 + 0.5 * (second - 0.5))
  np.testing.assert_allclose(
    found['both']['both'], np.mean(both > 1.5 * EPSILON), atol=1e-6
  )
  # Moved for `first`, an image may be right that was wrong: it does not count.
  assert found['both']['first'] <= found['both']['clean']


@pytest.mark.fast
def test_the_summary_names_the_worst_black_box_and_both_orders():
  seed = {
    'A': {'clean': 0.9, 'A': 0.5, 'B': 0.7, 'C': 0.6},
    'B': {'clean': 0.8, 'A': 0.5, 'B': 0.6, 'C': 0.7},
    'C': {'clean': 0.7, 'A': 0.6, 'B': 0.5, 'C': 0.1},
  }
  ensemble = {'A': 0.4, 'B': 0.3, 'C': 0.1}
  rows = cross_attack.summary([seed, seed], [seed, seed], [ensemble] * 2)
  assert rows['A']['black_box_from'] == 'C'
  assert rows['B']['black_box'] == 0.5
  assert rows['A']['auto_attack'] == 0.4
  text = cross_attack.to_markdown(rows, 'Words.')
  assert 'by PGD of the table, more steps, restarts: B > A > C.' in text
  assert 'by AutoAttack: A > B > C.' in text
  assert 'fool more often than its own: B.' in text
