"""All indicators that need clean features alone, in one dictionary."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks
from rrl_jax.indicators._agreement import (
  adjusted_rand_index,
  clustering_accuracy,
  normalized_mutual_information,
  purity,
)
from rrl_jax.indicators._alpha_req import alpha_req
from rrl_jax.indicators._calinski_harabasz import calinski_harabasz
from rrl_jax.indicators._class_distances import class_distances
from rrl_jax.indicators._confidence import (
  expected_calibration_error,
  mean_confidence,
)
from rrl_jax.indicators._h_score import h_score
from rrl_jax.indicators._kmeans import kmeans
from rrl_jax.indicators._leep import leep
from rrl_jax.indicators._log_me import log_me
from rrl_jax.indicators._multicut import multicut
from rrl_jax.indicators._nearest_neighbor_accuracy import (
  nearest_neighbor_accuracy,
)
from rrl_jax.indicators._neural_collapse import neural_collapse
from rrl_jax.indicators._rank_me import rank_me
from rrl_jax.indicators._silhouette import silhouette
from rrl_jax.indicators._threshold import calibrate_threshold, threshold_sweep

SWEEP = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def robustness_indicators(
  features: ArrayLike,
  labels: ArrayLike,
  predictions: ArrayLike,
  *,
  probabilities: ArrayLike | None = None,
  weights: ArrayLike | None = None,
  train_features: ArrayLike | None = None,
  train_labels: ArrayLike | None = None,
  threshold: float | None = None,
  sweep: Sequence[float] = SWEEP,
  num_clusters: int | None = None,
  num_neighbors: int | None = None,
  num_restarts: int = 10,
  num_bins: int = 100,
  max_examples: int = 2000,
  backend: str = 'sklearn',
  seed: int = 0,
) -> dict[str, float]:
  r"""How robust a classifier may be, told from clean features.

  Clusters the features without looking at labels and asks how well the clusters
  agree with the labels. None of the numbers is an accuracy under shift: they
  rank models, and only as far as a study of many models shows it, with the
  clean accuracy, which ranks models as well, held fixed.

  ===================================== =====================================
  key                                   meaning
  ===================================== =====================================
  clean_accuracy                        of ``predictions``
  kmeans_accuracy, purity, kmeans_nmi,  k-means on unit rows against the
  kmeans_ari                            labels
  kmeans_raw_accuracy, raw_purity       k-means on the rows as they are
  kmeans_accuracy_ratio                 over clean_accuracy
  multicut_accuracy, multicut_purity,   the multicut at the threshold
  multicut_nmi, multicut_ari,
  multicut_num_clusters
  multicut_accuracy_ratio               over clean accuracy, of the same rows
  multicut_threshold                    the threshold
  multicut_num_examples                 rows that enter what looks at pairs
  sweep/<s0>/accuracy, purity, ari,     the multicut at every other threshold
  num_clusters
  silhouette, silhouette_kmeans         of the labels, of the clusters
  overlap, spread, relative_spread      `class_distances` of the labels
  label_free/...                        the same against ``predictions``
  knn_accuracy, nc1, nc2_equinorm,      rivals that look at clean data too
  nc2_equiangular, nc3, nc4, rank_me,
  alpha_req, log_me, h_score,
  calinski_harabasz, mean_confidence,
  calibration_error, leep
  ===================================== =====================================

  A key whose number is not defined is left out: ratios at a clean accuracy of
  0, nc3 without ``weights``, confidences without ``probabilities``, and what a
  degenerate set of features does not have.

  Args:
    features: Penultimate features of a clean evaluation set, ``[N, D]``.
    labels: Its classes, integers, ``[N]``, at least two of them.
    predictions: Of the classifier, integers, ``[N]``.
    probabilities: Softmax of the classifier, ``[N, K]``, or None; labels are
      its columns.
    weights: Of its last layer, ``[D, C]``, or None.
    train_features: Of training examples, for the threshold, or None.
    train_labels: Their classes.
    threshold: Cosine of the multicut; None to calibrate it on the training
      examples or, without them, on the evaluation set with ``predictions`` in
      the place of labels.
    sweep: Thresholds reported besides.
    num_clusters: Of k-means; None for the number of classes.
    num_neighbors: None for the complete graph in the multicut.
    num_restarts: Of k-means.
    num_bins: Of the histograms of distances.
    max_examples: Rows that enter what looks at pairs (multicut, distances,
      neighbours); of more, so many are drawn.
    backend: Of `kmeans`.
    seed: Of k-means and of the draws.

  Returns:
    Name to number, all finite.

  Raises:
    DataError: NaN features, labels or predictions of another length, one class,
      fewer rows than clusters, only one of the two for training, or training
      examples of one class that are no more alike than others.
    ValueError: An argument is out of range.

  Example:
    >>> import numpy as np
    >>> from rrl_jax import indicators
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1, 2], 10)
    >>> rows = 5 * np.eye(8)[y] + 0.5 * rng.normal(size=(30, 8))
    >>> found = indicators.robustness_indicators(rows, y, y, sweep=())
    >>> found['kmeans_accuracy'], found['multicut_accuracy']
    (1.0, 1.0)

  References:
    Ho et al., `Estimating the Robustness of Classification Models by the
    Structure of the Learned Feature-Space
    <https://arxiv.org/abs/2106.12303>`_, 2022, for the idea.

  .. note::
    Only the paper's abstract and introduction were read: what is computed is
    our own reading of the idea, not a replication.
  """
  z = _checks.features('features', features)
  labels = _checks.integers('labels', labels, len(z))
  predictions = _checks.integers('predictions', predictions, len(z))
  num_classes = int(_checks.classes('labels', labels).max()) + 1
  num_clusters = num_classes if num_clusters is None else num_clusters
  _checks.at_least('num_clusters', num_clusters, 1)
  _checks.at_least('max_examples', max_examples, 2)
  if len(z) < num_clusters:
    raise DataError(
      f'features has {len(z)} rows, fewer than num_clusters={num_clusters}'
    )
  if (train_features is None) != (train_labels is None):
    missing = 'train_labels' if train_labels is None else 'train_features'
    raise DataError(f'{missing} is missing')
  if probabilities is not None:
    probabilities = _checks.probabilities(
      'probabilities', probabilities, len(z)
    )
  rows = np.arange(len(z))
  if len(z) > max_examples:
    drawn = np.random.default_rng(seed).choice(rows, max_examples, False)
    rows = np.sort(drawn)
  found = {}

  def put(name, value):
    if value is not None and np.isfinite(value):
      found[name] = float(value)

  clean = float(np.mean(predictions == labels))
  put('clean_accuracy', clean)
  found_by = {
    raw: kmeans(
      z,
      num_clusters,
      normalize=not raw,
      num_restarts=num_restarts,
      backend=backend,
      seed=seed,
    )
    for raw in (False, True)
  }
  part = z[rows]
  s0 = threshold
  if s0 is None:
    if train_features is not None:
      train = _checks.features('train_features', train_features)
      train_y = _checks.integers('train_labels', train_labels, len(train))
      s0 = calibrate_threshold(train, train_y, seed=seed).threshold
    else:
      found_s0 = _defined(
        calibrate_threshold, part, predictions[rows], seed=seed
      )
      s0 = None if found_s0 is None else found_s0.threshold
  cut = None
  if s0 is not None:
    cut = multicut(part, threshold=s0, num_neighbors=num_neighbors)
    put('multicut_threshold', s0)
    put('multicut_num_clusters', cut.max() + 1)
  put('multicut_num_examples', len(part))
  swept = threshold_sweep(part, sweep, num_neighbors=num_neighbors)
  for value, a in swept:
    put(f'sweep/{value:g}/num_clusters', a.max() + 1)
  if len(np.unique(found_by[False])) > 1:
    put('silhouette_kmeans', silhouette(z, found_by[False]))

  for prefix, y in (('', labels), ('label_free/', predictions)):
    a = found_by[False]
    put(f'{prefix}kmeans_accuracy', clustering_accuracy(a, y))
    put(f'{prefix}purity', purity(a, y))
    put(f'{prefix}kmeans_nmi', normalized_mutual_information(a, y))
    put(f'{prefix}kmeans_ari', adjusted_rand_index(a, y))
    put(f'{prefix}kmeans_raw_accuracy', clustering_accuracy(found_by[True], y))
    put(f'{prefix}raw_purity', purity(found_by[True], y))
    if cut is not None:
      put(f'{prefix}multicut_accuracy', clustering_accuracy(cut, y[rows]))
      put(f'{prefix}multicut_purity', purity(cut, y[rows]))
      put(f'{prefix}multicut_nmi', normalized_mutual_information(cut, y[rows]))
      put(f'{prefix}multicut_ari', adjusted_rand_index(cut, y[rows]))
    for value, a in swept:
      name = f'{prefix}sweep/{value:g}'
      put(f'{name}/accuracy', clustering_accuracy(a, y[rows]))
      put(f'{name}/purity', purity(a, y[rows]))
      put(f'{name}/ari', adjusted_rand_index(a, y[rows]))
    put(f'{prefix}silhouette', _defined(silhouette, z, y))
    distances = _defined(class_distances, part, y[rows], num_bins=num_bins)
    if distances is not None:
      put(f'{prefix}overlap', distances.overlap)
      put(f'{prefix}spread', distances.spread)
      put(f'{prefix}relative_spread', distances.relative_spread)
  # Of both accuracies of a ratio the same rows.
  clean_by_name = {
    'kmeans_accuracy': clean,
    'multicut_accuracy': float(np.mean((predictions == labels)[rows])),
  }
  for name, accuracy in clean_by_name.items():
    if name in found and accuracy > 0:
      put(f'{name}_ratio', found[name] / accuracy)

  put('knn_accuracy', _defined(nearest_neighbor_accuracy, part, labels[rows]))
  # A class without a row here has no mean that NC3 could compare with.
  whole = (
    weights is not None and np.shape(weights)[1:] == np.unique(labels).shape
  )
  collapse = _defined(
    neural_collapse,
    z,
    labels,
    weights=weights if whole else None,
    predictions=predictions,
  )
  if collapse is not None:
    for name, value in zip(
      ('nc1', 'nc2_equinorm', 'nc2_equiangular', 'nc3', 'nc4'),
      collapse,
      strict=True,
    ):
      put(name, value)
  put('rank_me', _defined(rank_me, z))
  put('alpha_req', _defined(alpha_req, z))
  put('log_me', log_me(z, labels))
  put('h_score', h_score(z, labels))
  put('calinski_harabasz', _defined(calinski_harabasz, z, labels))
  if probabilities is not None:
    put('mean_confidence', mean_confidence(probabilities))
    put('calibration_error', expected_calibration_error(probabilities, labels))
    put('leep', leep(probabilities, labels))
  return found


def _defined(score, *args, **kwargs):
  """A score, or None where these features do not have it."""
  try:
    return score(*args, **kwargs)
  except DataError:
    return None
