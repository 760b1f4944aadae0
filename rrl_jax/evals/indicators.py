"""How robust a representation may be, told from clean features alone."""

from collections.abc import Iterator, Sequence
import inspect
from typing import Any

import jax
import numpy as np
import scipy.special

from rrl_jax import indicators
from rrl_jax.data.source import Source, holdout
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.feature_file import FeatureFile
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.prediction import predicted
from rrl_jax.evals.task import EvalData, choose, test_images

SWEEP = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SWEPT = ('accuracy', 'purity', 'ari', 'num_clusters')  # Columns of the figure.
_MULTICUT = 'the multicut of cosines at the threshold'
_KMEANS = 'k-means on unit features'
_MATCHED = 'share of examples in the cluster that is matched to their class'
_COMMONEST = 'share of examples of the commonest class of their cluster'

# What each number is.
_MEANINGS = {
  'clean_accuracy': 'top-1',
  'kmeans_accuracy': f'{_KMEANS}, {_MATCHED}',
  'purity': f'{_KMEANS}, {_COMMONEST}',
  'kmeans_nmi': f'{_KMEANS}, normalised mutual information with classes',
  'kmeans_ari': f'{_KMEANS}, adjusted Rand index with the classes',
  'kmeans_raw_accuracy': f'k-means on features as they are, {_MATCHED}',
  'raw_purity': f'k-means on features as they are, {_COMMONEST}',
  'kmeans_accuracy_ratio': 'k-means accuracy over clean accuracy',
  'multicut_accuracy': f'{_MULTICUT}, {_MATCHED}',
  'multicut_purity': f'{_MULTICUT}, {_COMMONEST}; it rises with the clusters',
  'multicut_nmi': f'{_MULTICUT}, normalised mutual information with classes',
  'multicut_ari': f'{_MULTICUT}, adjusted Rand index with the classes',
  'multicut_num_clusters': f'clusters of {_MULTICUT}',
  'multicut_accuracy_ratio': (
    'multicut accuracy over clean accuracy, of the same images'
  ),
  'multicut_threshold': 'cosine above which a pair attracts',
  'multicut_num_examples': 'rows that enter what looks at pairs, drawn',
  'silhouette': 'mean silhouette of the classes, by cosine',
  'silhouette_kmeans': 'mean silhouette of the k-means clusters, by cosine',
  'overlap': (
    'common area of the histograms of cosine distances within and between'
    ' classes'
  ),
  'spread': 'mean over classes of the deviation of distances within',
  'relative_spread': 'that deviation over the mean distance between classes',
  'knn_accuracy': 'nearest neighbours among the others, top-1',
  'nc1': 'neural collapse: variance within classes over that between',
  'nc2_equinorm': 'neural collapse: variation of the lengths of class means',
  'nc2_equiangular': 'neural collapse: distance of their angles from equal',
  'nc3': 'neural collapse: distance of the last layer from the class means',
  'nc4': 'neural collapse: share predicted unlike the nearest class mean',
  'rank_me': 'effective rank of the features',
  'alpha_req': 'decay of the eigenvalues of their covariance',
  'log_me': 'log evidence of linear models of the labels',
  'h_score': 'H-score of features and labels',
  'calinski_harabasz': 'Calinski-Harabasz index of the classes',
  'mean_confidence': 'mean of the largest probability',
  'calibration_error': 'expected calibration error',
  'leep': 'log expected empirical prediction of the labels',
}
_SHARES = (
  'clean_accuracy', 'kmeans_accuracy', 'purity', 'kmeans_raw_accuracy',
  'raw_purity', 'multicut_accuracy', 'multicut_purity', 'knn_accuracy',
)  # fmt: skip
_OF_PAIRS = (  # Of the rows that enter what looks at pairs.
  'multicut_accuracy', 'multicut_purity', 'multicut_nmi', 'multicut_ari',
  'multicut_num_clusters', 'multicut_accuracy_ratio', 'overlap', 'spread',
  'relative_spread', 'knn_accuracy',
)  # fmt: skip
_EXACT = (
  'multicut_num_clusters', 'multicut_threshold', 'multicut_num_examples',
)  # fmt: skip
_AT_THRESHOLD = (
  'threshold', 'num_clusters', 'accuracy', 'purity', 'nmi', 'ari',
)  # fmt: skip
_LABEL_FREE = 'label_free/'


def _thresholds(values):
  """Whether they are different cosines, at least one."""
  return (
    not isinstance(values, str)
    and 0 < len(values) == len({f'{value:g}' for value in values})
    and all(-1 <= value <= 1 for value in values)
  )


RULES = {
  'num_examples': rules.COUNT,
  'num_train': rules.POSITIVE_COUNT,
  'num_clusters': rules.COUNT,
  'num_neighbors': rules.COUNT,
  'num_restarts': rules.POSITIVE_COUNT,
  'max_examples': (
    lambda v: v >= 2 and v == int(v),
    'a whole number, at least 2',
  ),
  'sweep': (_thresholds, 'at least one cosine in [-1, 1], all different'),
  'seed': rules.COUNT,
}


def check_test(
  test: Source, *, num_examples: int = 2000, num_clusters: int = 0, **kw
) -> None:
  """Looks whether there are classes and examples enough to cluster.

  Args:
    test: The test split.
    num_examples: As of `evaluate`.
    num_clusters: As of `evaluate`.
    **kw: The other arguments of `evaluate`.

  Raises:
    ConfigError: Fewer than two classes, or fewer examples than clusters.
  """
  del kw
  num_classes = len(np.unique(test.labels))
  used = min(len(test), num_examples or len(test))
  if num_classes < 2:
    raise ConfigError(
      f'evals.indicators: test images of {num_classes} class; two are needed'
    )
  if used < max(num_clusters, num_classes):
    raise ConfigError(
      f'evals.indicators: {used} test images for'
      f' {max(num_clusters, num_classes)} clusters'
    )


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  num_examples: int = 2000,
  num_train: int = 2000,
  sweep: Sequence[float] = SWEEP,
  num_clusters: int = 0,
  num_neighbors: int = 0,
  num_restarts: int = 10,
  max_examples: int = 1000,
  seed: int = 0,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Clusterings of clean test features, and rivals that see no more.

  Which examples are used follows from ``seed`` and the splits, not from the
  run: all models are judged by the same ones. The threshold of the multicut is
  calibrated on training features and their given labels.

  Args:
    encoder: What is evaluated.
    data: ``test`` is clustered, ``train`` calibrates.
    key: Not used.
    num_examples: Test images used; 0 for all.
    num_train: Most training images that calibrate.
    sweep: Thresholds of the multicut that are reported besides.
    num_clusters: Of k-means; 0 for the number of classes.
    num_neighbors: Of the graph of the multicut; 0 for the complete graph.
    num_restarts: Of k-means.
    max_examples: Most test images that enter what looks at pairs.
    seed: Chooses examples and starts k-means.

  Yields:
    ``indicators/<name>`` of `indicators.robustness_indicators`, and
    ``indicators/label_free/<name>``, the same against predictions; as figures
    ``figure/indicator_thresholds [T]``, ``figure/indicator_sweep [T, 4]`` and
    ``figure/indicator_sweep_label_free [T, 4]``, whose columns are accuracy,
    purity, adjusted Rand index, number of clusters, and
    ``figure/indicator_threshold [1]``, the calibrated one. Shares have a Wilson
    interval with the clustering and its matching held fixed; other numbers
    have none.

  Raises:
    ConfigError: A value is out of range.
    DataError: Features that are not finite.

  References:
    Ho et al., `Estimating the Robustness of Classification Models by the
    Structure of the Learned Feature-Space
    <https://arxiv.org/abs/2106.12303>`_, 2022, for the idea.
  """
  del key
  values = {
    'num_examples': num_examples,
    'num_train': num_train,
    'sweep': sweep,
    'num_clusters': num_clusters,
    'num_neighbors': num_neighbors,
    'num_restarts': num_restarts,
    'max_examples': max_examples,
    'seed': seed,
  }
  rules.check('indicators', RULES, values)
  check_test(data.test, **values)
  test_key, train_key = jax.random.split(jax.random.key(seed))
  chosen = choose(test_key, len(data.test), num_examples)
  logits, features = encoder.predict(data.test.images)
  logits, features = logits[chosen], features[chosen]
  usable = np.arange(len(data.train))
  if data.train.truth is not None:  # An image of no class tells of no class.
    usable = np.flatnonzero(~data.train.truth.abnormal)
  fitted = data.train.take(usable[choose(train_key, len(usable), num_train)])
  _, train_features = encoder.encode(fitted.images)
  yield from measure(
    features,
    data.test.labels[chosen],
    logits,
    train=(train_features, fitted.labels),
    weights=last_layer(encoder.variables, features, logits),
    on=test_images(data.test),
    calibrated_on=f'{len(fitted)} training images',
    **_arguments(values),
  )


def evaluate_file(
  file: FeatureFile, **kw: Any
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """The same for features that come from elsewhere.

  Without training examples in the file the threshold is calibrated on the
  classifier's predictions; without these either, on a fifth of each class,
  which is then left out.

  Args:
    file: The features.
    **kw: Arguments of `evaluate`.

  Yields:
    As `evaluate`.

  Raises:
    ConfigError: An argument is unknown or out of range.
    DataError: Fewer examples than clusters.
  """
  parameters = inspect.signature(evaluate).parameters.values()
  values = {p.name: p.default for p in parameters if p.default is not p.empty}
  for name in kw:
    if name not in values:
      raise ConfigError(
        f'evals.indicators.{name} is unknown; keys: {", ".join(values)}'
      )
  values |= kw
  rules.check('indicators', RULES, values)
  test_key, train_key = jax.random.split(jax.random.key(values['seed']))
  rows, train, calibrated_on = np.arange(len(file.labels)), None, ''
  if file.train_features is not None:
    fitted = choose(train_key, len(file.train_labels), values['num_train'])
    train = file.train_features[fitted], file.train_labels[fitted]
    calibrated_on = f'{len(fitted)} training examples of {file.name}'
  elif file.logits is None and np.bincount(_indices(file.labels)).max() > 9:
    rows, fitted = holdout(file.labels, seed=values['seed'], where=file.name)
    train = file.features[fitted], file.labels[fitted]
    calibrated_on = f'{len(fitted)} other examples of {file.name}'
  rows = rows[choose(test_key, len(rows), values['num_examples'])]
  num_classes = len(np.unique(file.labels[rows]))
  if num_classes < 2 or len(rows) < max(values['num_clusters'], num_classes):
    raise DataError(
      f'{file.name}: {len(rows)} examples of {num_classes} classes for'
      f' {values["num_clusters"] or num_classes} clusters of features'
    )
  yield from measure(
    file.features[rows],
    file.labels[rows],
    None if file.logits is None else file.logits[rows],
    train=train,
    on=f'examples of {file.name}',
    calibrated_on=calibrated_on,
    **_arguments(values),
  )


def measure(
  features: np.ndarray,
  labels: np.ndarray,
  logits: np.ndarray | None,
  *,
  train: tuple[np.ndarray, np.ndarray] | None,
  on: str,
  calibrated_on: str,
  weights: np.ndarray | None = None,
  sweep: Sequence[float] = SWEEP,
  **kw: Any,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Every indicator of given features, as `evaluate` yields them.

  Args:
    features: ``[N, D]``.
    labels: ``[N]``.
    logits: ``[N, K]``; without them there are no predictions, and what needs
      them is left out.
    train: Features and labels that calibrate the threshold; None to calibrate
      it on the predictions.
    on: What the examples are, for the protocols.
    calibrated_on: What the threshold was calibrated on, for theirs.
    weights: Of the last layer, ``[D, K]``, or None.
    sweep: Thresholds reported besides.
    **kw: Other arguments of `indicators.robustness_indicators`.

  Yields:
    Measurements and figures by name.

  Raises:
    DataError: What `indicators.robustness_indicators` cannot use.
  """
  predictions = labels if logits is None else predicted(logits)
  probabilities = None
  if logits is not None:
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=-1)
  threshold = _calibrate(train, kw.get('seed', 0))
  if threshold is None:
    calibrated_on = 'predictions on the examples themselves'
  found = indicators.robustness_indicators(
    features,
    labels,
    predictions,
    probabilities=probabilities,
    weights=weights,
    threshold=threshold,
    sweep=sweep,
    **kw,
  )
  if logits is None:
    needs = ('clean_accuracy', 'nc4', _LABEL_FREE)
    if threshold is None:  # It would come from the labels themselves.
      needs += tuple(f'multicut_{word}' for word in _AT_THRESHOLD)
    found = {
      name: value
      for name, value in found.items()
      if not name.startswith(needs) and not name.endswith('_ratio')
    }
  sizes = len(labels), int(found['multicut_num_examples'])
  for name, value in found.items():
    if 'sweep/' not in name:
      yield (
        f'indicators/{name}',
        _measurement(name, value, sizes, on, calibrated_on),
      )
  yield 'figure/indicator_thresholds', np.array(sweep, np.float64)
  for prefix, end in (('', ''), (_LABEL_FREE, '_label_free')):
    if f'{prefix}sweep/{sweep[0]:g}/accuracy' in found:
      yield f'figure/indicator_sweep{end}', _swept(found, prefix, sweep)
  if 'multicut_threshold' in found:
    yield (
      'figure/indicator_threshold',
      np.array([found['multicut_threshold']]),
    )


def last_layer(
  variables: Any, features: np.ndarray, logits: np.ndarray
) -> np.ndarray | None:
  """The weights of a linear last layer, found by what they do.

  Args:
    variables: A network's pytree.
    features: ``[N, D]``.
    logits: Of these features, ``[N, K]``.

  Returns:
    The leaf ``[D, K]`` with which ``logits - features @ leaf`` is one bias for
    all rows; None if there is no such leaf.
  """
  shape = features.shape[1], logits.shape[1]
  for leaf in jax.tree.leaves(variables):
    if np.shape(leaf) != shape:
      continue
    leaf = np.asarray(leaf, np.float64)
    bias = logits - features.astype(np.float64) @ leaf
    if np.ptp(bias, axis=0).max() <= 1e-3 * (1 + np.abs(logits).max()):
      return leaf
  return None


def _indices(labels):
  """Labels as places among the classes that occur."""
  return np.unique(labels, return_inverse=True)[1]


def _arguments(values):
  """Of the evaluator as those of `indicators.robustness_indicators`."""
  passed = ('num_restarts', 'max_examples', 'seed', 'sweep')
  return {name: values[name] for name in passed} | {
    name: values[name] or None for name in ('num_clusters', 'num_neighbors')
  }


def _calibrate(train, seed):
  """The threshold, or None without examples that have one."""
  if train is None:
    return None
  try:
    return indicators.calibrate_threshold(*train, seed=seed).threshold
  except DataError:  # Features of one class are no more alike than others.
    return None


def _measurement(name, value, sizes, on, calibrated_on):
  """One indicator with its protocol and, if it is a share, its interval."""
  free = name.startswith(_LABEL_FREE)
  base = name.removeprefix(_LABEL_FREE)
  what = _MEANINGS[base]
  if base == 'multicut_threshold':
    what += f', calibrated on {calibrated_on}'
  of = on + (', the predictions in the place of classes' if free else '')
  total = sizes[base in _OF_PAIRS]
  protocol = f'{what}; {of}'
  if base in _EXACT:
    return measurement.exact(value, protocol)
  if base in _SHARES:
    return measurement.proportion(
      round(value * total),
      total,
      protocol
      if base in ('clean_accuracy', 'knn_accuracy')
      else f'{protocol}; clusters and their classes held fixed',
    )
  sentence = f'{protocol}; {total} examples, no interval.'
  return Measurement(value, np.nan, np.nan, sentence[:1].upper() + sentence[1:])


def _swept(found, prefix, sweep):
  """The numbers at each threshold, ``[T, 4]``."""
  return np.array(
    [
      [
        found[
          f'{"" if what == "num_clusters" else prefix}sweep/{value:g}/{what}'
        ]
        for what in SWEPT
      ]
      for value in sweep
    ]
  )
