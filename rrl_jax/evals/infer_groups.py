"""Groups guessed from the features: clusters of each class's training images.

What a network spread out inside a class is found again by clustering; training
on the worst cluster then needs no group label. A second run reads what a first
one wrote:

  --config.evals.infer_groups.num_clusters=2                 (the first)
  --config.data.inferred_groups=runs/first/figures.npz       (group_dro)
"""

from collections.abc import Iterator
import warnings

import jax
import numpy as np

from rrl_jax.evals import linear_probe, measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData

RULES = {
  'num_clusters': rules.COUNT,
  'max_clusters': (lambda v: v >= 2 and v == int(v), 'a whole number above 1'),
}
_SAMPLE = 2000  # Examples of a class whose silhouettes are averaged.


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  num_clusters: int = 2,
  max_clusters: int = 10,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Clusters the training features of each given class by k-means.

  Features are standardised over the training split. No group label is used but
  to say how good the clusters are, where there are groups.

  Args:
    encoder: What is evaluated.
    data: ``train``.
    key: Seeds k-means.
    num_clusters: Clusters of each class; 0 takes the number from 2 to
      ``max_clusters`` with the largest mean silhouette, class by class.
    max_clusters: The largest tried.

  Yields:
    ``groups/inferred_purity``, the share of training images whose true group is
    the commonest of their cluster, and ``groups/class_purity``, the same of
    classes without clusters, where there are groups; and as figures the cluster
    and the given label of each training image and the names of clusters, which
    ``data.inferred_groups`` reads.

  Raises:
    ConfigError: A value is out of range.

  References:
    Sohoni et al., `No Subclass Left Behind
    <https://arxiv.org/abs/2011.12945>`_, 2020 (clusters of a class as groups of
    group DRO); Chen, Fu et al., `Perfectly Balanced
    <https://arxiv.org/abs/2204.07596>`_, 2022. Both reduce the features by UMAP
    first, which is not done here.
  """
  values = {'num_clusters': num_clusters, 'max_clusters': max_clusters}
  rules.check('infer_groups', RULES, values)
  train = data.train
  (features,) = linear_probe.standardise(encoder.predict(train.images)[1])
  seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
  clusters = np.zeros(len(train), np.int32)
  names = []
  for label, class_name in enumerate(train.class_names):
    members = np.flatnonzero(train.labels == label)
    if not len(members):
      continue
    found = _cluster(features[members], num_clusters, max_clusters, seed)
    clusters[members] = len(names) + found
    names += [f'{class_name}:cluster_{k}' for k in range(found.max() + 1)]
  if train.groups is not None:
    how = f'{len(names)} clusters of {train.num_classes} classes by k-means'
    for name, ids, what in (
      ('inferred', clusters, f'their cluster, {how} on standardised features'),
      ('class', train.labels, 'their given class, without clusters'),
    ):
      counts = np.zeros((ids.max() + 1, train.num_groups), np.int64)
      np.add.at(counts, (ids, train.groups), 1)
      yield (
        f'groups/{name}_purity',
        measurement.exact(
          counts.max(axis=1).sum() / len(train),
          'share of training images whose true group is the commonest of'
          f' {what}',
        ),
      )
  yield 'figure/inferred_groups', clusters
  yield 'figure/inferred_labels', train.labels
  yield 'figure/inferred_names', np.array(names)


def _cluster(features, num_clusters, max_clusters, seed):
  """Clusters [n] from 0 of one class's features [n, D], none of them empty."""
  from sklearn import cluster, exceptions, metrics  # Slow to import.

  distinct = len(np.unique(features, axis=0))
  sizes = [num_clusters] if num_clusters else range(2, max_clusters + 1)
  best, best_score = np.zeros(len(features), np.int64), -np.inf
  for size in sizes:
    size = min(size, distinct)
    if size < 2:
      break
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
      model = cluster.KMeans(size, n_init=10, random_state=seed)
      found = model.fit_predict(features)
    if num_clusters:
      best = found
      break
    if size == len(features):  # A silhouette needs fewer clusters than rows.
      break
    score = metrics.silhouette_score(
      features, found, sample_size=min(_SAMPLE, len(features)),
      random_state=seed,
    )  # fmt: skip
    if score > best_score:
      best, best_score = found, score
  return np.unique(best, return_inverse=True)[1]
