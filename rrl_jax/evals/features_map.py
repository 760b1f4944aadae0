"""A map of the features in the plane, for the eye and never as a metric."""

from collections.abc import Iterator

import jax
import numpy as np

from rrl_jax.evals import rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.task import EvalData, choose

RULES = {'num_examples': rules.COUNT}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  num_examples: int = 2000,
) -> Iterator[tuple[str, np.ndarray]]:
  """Projects test features onto their first two principal components.

  Args:
    encoder: What is evaluated.
    data: ``test`` is mapped.
    key: Chooses the examples.
    num_examples: Examples on the map; 0 for all.

  Yields:
    ``figure/map`` [n, 2], ``figure/map_labels`` [n], ``figure/map_concepts``
    [n], ``figure/map_explained`` [2] (shares of the variance), and the names
    of classes and concepts; ``figure/map_index`` [n], places in the test
    split, by which `infer_groups` tells the cluster of each; and, where there
    are any, ``figure/map_fine`` [n] and ``figure/map_groups`` [n] with
    ``figure/map_fine_names`` and ``figure/map_group_names``.
  """
  rules.check('features_map', RULES, {'num_examples': num_examples})
  chosen = choose(key, len(data.test), num_examples)
  _, features = encoder.predict(data.test.images)
  points, explained = principal_components(features[chosen])
  yield 'figure/map', points.astype(np.float32)
  yield 'figure/map_labels', data.test.labels[chosen]
  yield 'figure/map_concepts', data.test.concepts[chosen]
  yield 'figure/map_explained', explained.astype(np.float32)
  yield 'figure/map_class_names', np.array(data.test.class_names)
  yield 'figure/map_concept_names', np.array(data.test.concept_names)
  yield 'figure/map_index', chosen
  if data.test.fine_labels is not None:
    yield 'figure/map_fine', data.test.fine_labels[chosen]
    yield 'figure/map_fine_names', np.array(data.test.fine_names)
  if data.test.groups is not None:
    yield 'figure/map_groups', data.test.groups[chosen]
    yield 'figure/map_group_names', np.array(data.test.group_names)


def principal_components(
  features: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """First two principal components, each signed by its largest loading.

  Args:
    features: ``[n, D]``.

  Returns:
    ``(points [n, 2], explained [2])``, the second being shares of the total
    variance; components that do not exist are zero.
  """
  centred = np.asarray(features, np.float64)
  centred = centred - centred.mean(axis=0)
  _, scales, loadings = np.linalg.svd(centred, full_matrices=False)
  loadings, scales = loadings[:2], scales**2
  largest = np.argmax(np.abs(loadings), axis=1)
  signs = np.sign(loadings[np.arange(len(loadings)), largest])
  points = np.zeros((len(centred), 2))
  points[:, : len(loadings)] = centred @ (loadings * signs[:, None]).T
  explained = np.zeros(2)
  explained[: len(loadings)] = scales[:2] / max(scales.sum(), 1e-30)
  return points, explained
