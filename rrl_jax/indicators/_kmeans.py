"""k-means on the host, or on the device where there are many rows."""

import warnings

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks
from rrl_jax.indicators._unit_rows import unit_rows


def kmeans(
  features: ArrayLike,
  num_clusters: int,
  *,
  normalize: bool = False,
  num_restarts: int = 10,
  max_iterations: int = 300,
  tol: float = 1e-4,
  seed: int = 0,
  backend: str = 'sklearn',
) -> np.ndarray:
  r"""Clusters that minimise the squared distance to their means.

  .. math:: \min \sum_i \|z_i - m_{a_i}\|^2

  by Lloyd's iterations from k-means++ starts; of ``num_restarts`` the lowest
  sum wins. The same seed gives the same clusters.

  Args:
    features: Float, shape ``[N, D]``.
    num_clusters: K, at most N; the number of classes is the usual choice.
    normalize: Whether rows are scaled to unit length first.
    num_restarts: Independent starts.
    max_iterations: Lloyd iterations of each.
    tol: Stop when the means move by less, in squared distance over the mean
      variance of a column.
    seed: Of the starts.
    backend: ``'sklearn'`` on the host, or ``'ott'`` compiled for the device,
      for N in the hundred thousands; it holds ``[N, K]`` distances. Their
      random starts differ.

  Returns:
    Cluster of each row, int64 ``[N]``, in ``[0, K)``. Where fewer than K rows
    differ, some clusters stay empty.

  Raises:
    DataError: NaN or inf, or fewer rows than clusters.
    ValueError: An argument is out of range.

  Example:
    >>> from rrl_jax import indicators
    >>> a = indicators.kmeans([[0.0], [0.1], [5.0], [5.1]], 2)
    >>> bool(a[0] == a[1] != a[2] == a[3])
    True

  References:
    Arthur and Vassilvitskii, k-means++: the advantages of careful seeding,
    SODA, 2007.
  """
  features = _checks.features('features', features)
  _checks.one_of('backend', backend, ('sklearn', 'ott'))
  _checks.at_least('num_clusters', num_clusters, 1)
  _checks.at_least('num_restarts', num_restarts, 1)
  _checks.at_least('max_iterations', max_iterations, 1)
  _checks.at_least('tol', tol, 0)
  if len(features) < num_clusters:
    raise DataError(
      f'features has {len(features)} rows, fewer than'
      f' num_clusters={num_clusters}'
    )
  if normalize:
    features = unit_rows(features)
  solve = _on_host if backend == 'sklearn' else _on_device
  found = solve(features, num_clusters, num_restarts, max_iterations, tol, seed)
  return np.asarray(found, np.int64)


def _on_host(features, num_clusters, num_restarts, max_iterations, tol, seed):
  """By scikit-learn."""
  from sklearn import cluster, exceptions  # Slow to import.

  model = cluster.KMeans(
    num_clusters,
    n_init=num_restarts,
    max_iter=max_iterations,
    tol=tol,
    random_state=seed,
  )
  with warnings.catch_warnings():
    # Fewer distinct rows than clusters.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    return model.fit_predict(features)


def _on_device(features, num_clusters, num_restarts, max_iterations, tol, seed):
  """By ott-jax."""
  import jax

  # Distances are differences of squares, whose digits a large mean would take.
  centre = features.mean(axis=0, dtype=np.float64)
  features = (features - centre).astype(features.dtype)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # ott warns of what it imports.
    from ott.tools import k_means
  with jax.numpy_rank_promotion('allow'):
    return k_means.k_means(
      jax.numpy.asarray(features),
      num_clusters,
      n_init=num_restarts,
      max_iterations=max_iterations,
      tol=tol,
      rng=jax.random.key(seed),
    ).assignment
