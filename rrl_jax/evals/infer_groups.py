"""Groups guessed from the features: clusters of each class's training images.

What a network spread out inside a class is found again by clustering; training
on the worst cluster then needs no group label. A second run reads what a first
one wrote:

  --config.evals.infer_groups.num_clusters=2                 (the first)
  --config.data.inferred_groups=runs/first/figures.npz       (group_dro)

The steps of GEORGE are settings: ``reduce='umap'``, ``num_clusters=0`` (the
silhouette says how many) and ``overclustering=5``.
"""

from collections.abc import Iterator
import importlib
import importlib.util
from typing import Any
import warnings

import jax
import numpy as np

from rrl_jax import indicators
from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError
from rrl_jax.evals import accuracy, linear_probe, measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, test_images

REDUCTIONS = ('none', 'pca', 'umap')
CLUSTERERS = ('kmeans', 'gaussian_mixture')
RULES = {
  'reduce': (
    lambda v: (
      v in REDUCTIONS[:-1]
      or (v == 'umap' and importlib.util.find_spec('umap') is not None)
    ),
    f'one of {", ".join(REDUCTIONS)} (the last needs umap-learn: pip install'
    " -e '.[umap]')",
  ),
  'num_components': rules.POSITIVE_COUNT,
  'cluster': (lambda v: v in CLUSTERERS, 'one of ' + ', '.join(CLUSTERERS)),
  'num_clusters': rules.COUNT,
  'max_clusters': (lambda v: v >= 2 and v == int(v), 'a whole number above 1'),
  'overclustering': rules.POSITIVE_COUNT,
  'min_share': (lambda v: 0 <= v <= 1, 'in [0, 1]'),
  'min_size': rules.POSITIVE_COUNT,
}
_SAMPLE = 2000  # Examples of a class whose silhouettes are looked at.
_NEIGHBORS = 10  # Of UMAP, as GEORGE has it.
_SAID = {'kmeans': 'k-means', 'gaussian_mixture': 'a Gaussian mixture'}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  reduce: str = 'none',
  num_components: int = 2,
  cluster: str = 'kmeans',
  num_clusters: int = 2,
  max_clusters: int = 10,
  overclustering: int = 1,
  min_share: float = 0.005,
  min_size: int = 25,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  r"""Clusters the training features of each given class.

  Features are standardised over the training split, reduced, and clustered
  class by class. No group label is used but to say how good the clusters are,
  against the true groups or, where there are none, the fine classes. A test
  image has the cluster of its nearest training image of the same class.

  With an ``overclustering`` F above 1 every cluster is cut into F parts, of
  which those become clusters of their own that GEORGE keeps: the mean
  silhouette of the part's images rises by the cut, their mean cross entropy is
  not below that of the cluster, and they are at least ``min_size`` and
  ``min_share`` of their class. What is left stays one cluster.

  Args:
    encoder: What is evaluated.
    data: ``train``, and ``test`` for the accuracy of clusters.
    key: Seeds the reduction and the clusters.
    reduce: 'none'; 'pca', principal components; 'umap', with 10 neighbours and
      a least distance of 0 as in GEORGE (package ``umap-learn``).
    num_components: Dimensions after the reduction, of 'pca' and 'umap'.
    cluster: 'kmeans' (the best of ten starts) or 'gaussian_mixture' (full
      covariances).
    num_clusters: Clusters of each class; 0 takes the number from 2 to
      ``max_clusters`` with the largest silhouette, a mean over clusters of the
      mean over their images, class by class.
    max_clusters: The largest tried.
    overclustering: F; 1 leaves clusters as they are, GEORGE takes 5.
    min_share: The least share of its class in a part, in [0, 1].
    min_size: The least number of its images.

  Yields:
    Where there are groups or fine classes g, with :math:`n_{kg}` training
    images in cluster k,
    ``groups/inferred_purity``, :math:`\sum_k \max_g n_{kg} / N`, and
    ``groups/class_purity``, the same of classes without clusters;
    ``groups/inferred_adjusted_rand_index`` and
    ``groups/class_adjusted_rand_index``, likewise;
    ``groups/inferred_within_adjusted_rand_index``, a mean over images of that
    inside their class, and ``groups/inferred_adjusted_rand_index/<class>``;
    ``groups/inferred_recall/<group>``, :math:`\max_k n_{kg} / n_g`, and
    ``groups/inferred_purity/<group>``, :math:`n_{kg} / n_k` of that cluster k.
    Always ``groups/inferred_worst_accuracy``, test accuracy of the worst
    cluster, by which GEORGE selects models; and as figures the cluster and the
    given label of each training image and the names of clusters, which
    ``data.inferred_groups`` reads, and the cluster of each test image.

  Raises:
    ConfigError: A value is out of range, or umap-learn is not installed
      (``evals.check`` says so before training).
    DataError: Features that are not finite.

  References:
    Sohoni et al., `No Subclass Left Behind
    <https://arxiv.org/abs/2011.12945>`_, 2020 (GEORGE: clusters of a class as
    groups of group DRO; Section 4 and the released code); Chen, Fu et al.,
    `Perfectly Balanced <https://arxiv.org/abs/2204.07596>`_, 2022 (of which
    earlier code of the authors has UMAP of the whole training split, then
    k-means of two clusters a class); McInnes et al., `UMAP
    <https://arxiv.org/abs/1802.03426>`_, 2018.

  .. note::
    GEORGE finds the cluster of a held-out image by the fitted reduction and
    clusters, and asks a part for 25 validation images too; here its nearest
    neighbour says, before any reduction, and nothing is held out. Silhouettes
    are of at most 2,000 images of a class, chosen at random.
  """
  settings = {
    'reduce': reduce,
    'num_components': num_components,
    'cluster': cluster,
    'num_clusters': num_clusters,
    'max_clusters': max_clusters,
    'overclustering': overclustering,
    'min_share': min_share,
    'min_size': min_size,
  }
  rules.check('infer_groups', RULES, settings)
  train, test = data.train, data.test
  seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
  logits, features = encoder.predict(train.images)
  features, asked = linear_probe.standardise(
    features, encoder.predict(test.images)[1]
  )
  linear_probe.check_finite(asked, 'test')
  reduced, how = _reduce(features, reduce, num_components, seed)
  losses = _cross_entropy(logits, train.labels)
  clusters = np.zeros(len(train), np.int32)
  names = []
  for label, class_name in enumerate(train.class_names):
    members = np.flatnonzero(train.labels == label)
    if not len(members):
      continue
    points = reduced[members]
    found = _cluster(points, cluster, num_clusters, max_clusters, seed)
    if overclustering > 1:
      least = max(min_size, min_share * len(members))
      found = _split(
        points, found, losses[members], cluster, overclustering, least, seed
      )
    clusters[members] = len(names) + found
    names += [f'{class_name}:cluster_{k}' for k in range(found.max() + 1)]
  how = (
    f'{len(names)} clusters of {train.num_classes} classes by {_SAID[cluster]}'
    f' on {how}'
  )
  if overclustering > 1:
    how += f', cut into {overclustering} where that is kept'
  yield from _agreement(train, clusters, how)
  test_clusters = _nearest(features, train.labels, asked, test.labels, clusters)
  known = np.flatnonzero(test_clusters >= 0)
  if len(known):
    right = accuracy.predictions(encoder, test) == test.labels
    total = np.bincount(test_clusters[known], minlength=len(names))
    right &= test_clusters >= 0
    correct = np.bincount(test_clusters[right], minlength=len(names))
    there = np.flatnonzero(total)
    worst = there[np.argmin(correct[there] / total[there])]
    yield (
      'groups/inferred_worst_accuracy',
      measurement.minimum(
        correct[there],
        total[there],
        f'{test_images(test)}, top-1, {names[worst]} of {how}, each test image'
        ' in the cluster of its nearest training image of its class',
      ),
    )
  yield 'figure/inferred_groups', clusters
  yield 'figure/inferred_labels', train.labels
  yield 'figure/inferred_names', np.array(names)
  yield 'figure/inferred_test_groups', test_clusters


def _reduce(
  features: np.ndarray, reduce: str, num_components: int, seed: int
) -> tuple[np.ndarray, str]:
  """Features [N, d], and what they are in words."""
  if reduce == 'none':
    return features, 'standardised features'
  if reduce == 'pca':
    from sklearn import decomposition  # Slow to import.

    size = min(num_components, *features.shape)
    model = decomposition.PCA(size, random_state=seed)
    said = f'{size} principal components of standardised features'
    return model.fit_transform(features), said
  umap = _umap()
  # One needs more neighbours than none, and fewer than rows.
  neighbors = min(_NEIGHBORS, len(features) - 1)
  if neighbors < 2:
    raise ConfigError(
      f"evals.infer_groups.reduce='umap': {len(features)} training images are"
      ' too few'
    )
  model = umap.UMAP(
    n_neighbors=neighbors,
    min_dist=0.0,
    n_components=num_components,
    random_state=seed,
    n_jobs=1,  # With a seed there is one anyway.
  )
  said = f'{num_components} dimensions of UMAP of standardised features'
  return np.asarray(model.fit_transform(features)), said


def _umap() -> Any:
  """The package, which is optional and slow to import."""
  try:
    return importlib.import_module('umap')
  except ImportError as error:
    cause = str(error).partition('\n')[0]
    raise ConfigError(
      "evals.infer_groups.reduce='umap': umap-learn cannot be imported"
      f' ({cause})'
    ) from error


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Loss of each example, float64 ``[N]``."""
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(axis=1, keepdims=True)
  own = shifted[np.arange(len(labels)), labels]
  return np.log(np.exp(shifted).sum(axis=1)) - own


def _cluster(
  points: np.ndarray, cluster: str, num_clusters: int, most: int, seed: int
) -> np.ndarray:
  """Clusters [n] from 0 of one class's points [n, d], none of them empty."""
  distinct = len(np.unique(points, axis=0))
  if num_clusters:
    return _fit(points, cluster, min(num_clusters, distinct), seed)
  best, best_score = np.zeros(len(points), np.int64), -np.inf
  sample = _sample(len(points), seed)
  # A silhouette needs fewer clusters than rows.
  for size in range(2, min(most, distinct, len(points) - 1) + 1):
    found = _fit(points, cluster, size, seed)
    own, values = found[sample], _silhouettes(points[sample], found[sample])
    score = np.mean([values[own == k].mean() for k in np.unique(own)])
    if score > best_score:
      best, best_score = found, score
  return best


def _fit(points: np.ndarray, cluster: str, size: int, seed: int) -> np.ndarray:
  """At most ``size`` clusters [n], numbered from 0."""
  from sklearn import cluster as clusterers  # Slow to import.
  from sklearn import exceptions, mixture

  if size < 2:
    return np.zeros(len(points), np.int64)
  if cluster == 'kmeans':
    model = clusterers.KMeans(size, n_init=10, random_state=seed)
  else:
    points = np.asarray(points, np.float64)
    model = mixture.GaussianMixture(size, random_state=seed)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    found = model.fit_predict(points)
  return np.unique(found, return_inverse=True)[1]


def _split(
  points: np.ndarray,
  found: np.ndarray,
  losses: np.ndarray,
  cluster: str,
  factor: int,
  least: float,
  seed: int,
) -> np.ndarray:
  """Cuts clusters into parts and keeps those that are better apart."""
  parts = np.zeros(len(points), np.int64)
  parents = []
  for parent in range(found.max() + 1):
    members = np.flatnonzero(found == parent)
    distinct = len(np.unique(points[members], axis=0))
    cut = _fit(points[members], cluster, min(factor, distinct), seed)
    parts[members] = len(parents) + cut
    parents += [parent] * (cut.max() + 1)
  sample = _sample(len(points), seed)
  before = _silhouettes(points[sample], found[sample])
  after = _silhouettes(points[sample], parts[sample])
  kept = found.copy()
  for part, parent in enumerate(parents):
    members, seen = parts == part, parts[sample] == part
    if (
      members.sum() >= least
      and seen.any()
      and after[seen].mean() > before[seen].mean()
      and losses[members].mean() >= losses[found == parent].mean()
    ):
      kept[members] = found.max() + 1 + part
  return np.unique(kept, return_inverse=True)[1]


def _sample(size: int, seed: int) -> np.ndarray:
  """Positions of at most `_SAMPLE` of so many points, sorted."""
  if size <= _SAMPLE:
    return np.arange(size)
  chosen = np.random.default_rng(seed).permutation(size)[:_SAMPLE]
  return np.sort(chosen)


def _silhouettes(points: np.ndarray, clusters: np.ndarray) -> np.ndarray:
  """Silhouette of each point; 0 where there is one cluster, or only such."""
  from sklearn import metrics  # Slow to import.

  if not 1 < len(np.unique(clusters)) < len(points):
    return np.zeros(len(points))
  return metrics.silhouette_samples(points, clusters)


def _nearest(
  features: np.ndarray,
  labels: np.ndarray,
  asked: np.ndarray,
  asked_labels: np.ndarray,
  clusters: np.ndarray,
) -> np.ndarray:
  """Cluster of the nearest row of the same label, -1 of a label without one."""
  from sklearn import neighbors  # Slow to import.

  found = np.full(len(asked), -1, np.int32)
  for label in np.unique(asked_labels):
    rows = np.flatnonzero(labels == label)
    members = np.flatnonzero(asked_labels == label)
    if len(rows):
      model = neighbors.NearestNeighbors(n_neighbors=1, algorithm='brute')
      place = model.fit(features[rows]).kneighbors(
        asked[members], return_distance=False
      )
      found[members] = clusters[rows[place[:, 0]]]
  return found


def _agreement(
  train: Source, clusters: np.ndarray, how: str
) -> Iterator[tuple[str, Measurement]]:
  """How clusters and given classes agree with what nobody told."""
  truth, names, word = train.groups, train.group_names, 'true group'
  if truth is None:
    truth, names, word = train.fine_labels, train.fine_names, 'fine class'
  if truth is None:
    return
  labels = train.labels
  for name, ids, what in (
    ('inferred', clusters, f'their cluster, {how}'),
    ('class', labels, 'their given class, without clusters'),
  ):
    yield (
      f'groups/{name}_purity',
      measurement.exact(
        indicators.purity(ids, truth),
        f'share of training images whose {word} is the commonest of {what}',
      ),
    )
    yield (
      f'groups/{name}_adjusted_rand_index',
      measurement.exact(
        indicators.adjusted_rand_index(ids, truth),
        f'adjusted Rand index of the {word} of training images and of {what}',
      ),
    )
  within, shares = [], []
  for label, class_name in enumerate(train.class_names):
    members = labels == label
    if not members.any():
      continue
    index = indicators.adjusted_rand_index(clusters[members], truth[members])
    within.append(index)
    shares.append(members.mean())
    yield (
      f'groups/inferred_adjusted_rand_index/{measurement.key_part(class_name)}',
      measurement.exact(
        index,
        f'adjusted Rand index of the {word} of training images of class'
        f' {class_name} and of their cluster, {how}',
      ),
    )
  yield (
    'groups/inferred_within_adjusted_rand_index',
    measurement.exact(
      np.dot(within, shares),
      f'adjusted Rand index of {word} and cluster inside a given class, a mean'
      f' over training images, {how}',
    ),
  )
  counts = np.zeros((clusters.max() + 1, len(names)), np.int64)
  np.add.at(counts, (clusters, truth), 1)
  for k in np.flatnonzero(counts.sum(axis=0)):
    best = np.argmax(counts[:, k])
    held, size, total = counts[best, k], counts[best].sum(), counts[:, k].sum()
    yield (
      f'groups/inferred_recall/{names[k]}',
      measurement.exact(
        held / total,
        f'share of the {total} training images of {word} {names[k]} in the'
        f' cluster that has most of them, {how}',
      ),
    )
    yield (
      f'groups/inferred_purity/{names[k]}',
      measurement.exact(
        held / size,
        f'share of {word} {names[k]} in the {size} training images of the'
        f' cluster that has most of it, {how}',
      ),
    )
