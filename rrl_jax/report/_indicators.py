"""Indicators of robustness, and the multicut at every threshold."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rrl_jax.report import _drawing, _files

_PREFIX = 'indicators/'
_FREE = 'label_free/'
_NBSP = '\N{NO-BREAK SPACE}'
_LEFT = ('clean_accuracy', 'kmeans_accuracy', 'multicut_accuracy', 'purity')
_GROUPS = (  # Title -> indicators in their order.
  (
    'Clusters against classes',
    (
      'kmeans_accuracy', 'purity', 'kmeans_nmi', 'kmeans_ari',
      'kmeans_raw_accuracy', 'raw_purity', 'multicut_accuracy',
      'multicut_purity', 'multicut_nmi', 'multicut_ari',
      'multicut_num_clusters', 'multicut_threshold', 'multicut_num_examples',
      'kmeans_accuracy_ratio', 'multicut_accuracy_ratio',
    ),
  ),
  (
    'How classes lie',
    (
      'overlap', 'spread', 'relative_spread', 'silhouette',
      'silhouette_kmeans',
    ),
  ),
  (
    'Rivals',
    (
      'clean_accuracy', 'knn_accuracy', 'mean_confidence', 'calibration_error',
      'nc1', 'nc2_equinorm', 'nc2_equiangular', 'nc3', 'nc4', 'rank_me',
      'alpha_req', 'log_me', 'h_score', 'leep', 'calinski_harabasz',
    ),
  ),
)  # fmt: skip
_LABELS = {
  'kmeans_accuracy': 'k-means: accuracy',
  'purity': 'k-means: purity',
  'kmeans_nmi': 'k-means: mutual information',
  'kmeans_ari': 'k-means: Rand index',
  'kmeans_raw_accuracy': 'k-means, raw features: accuracy',
  'raw_purity': 'k-means, raw features: purity',
  'multicut_accuracy': 'Multicut: accuracy',
  'multicut_purity': 'Multicut: purity',
  'multicut_nmi': 'Multicut: mutual information',
  'multicut_ari': 'Multicut: Rand index',
  'multicut_num_clusters': 'Multicut: clusters',
  'multicut_threshold': 'Multicut: threshold',
  'multicut_num_examples': 'Examples that enter pairs',
  'kmeans_accuracy_ratio': 'k-means accuracy over clean accuracy',
  'multicut_accuracy_ratio': 'Multicut accuracy over clean accuracy',
  'overlap': 'Overlap of distances',
  'relative_spread': 'Relative spread',
  'silhouette_kmeans': 'Silhouette of k-means',
  'knn_accuracy': 'Nearest neighbours: accuracy',
  'nc1': 'Neural collapse 1: variance',
  'nc2_equinorm': 'Neural collapse 2: lengths',
  'nc2_equiangular': 'Neural collapse 2: angles',
  'nc3': 'Neural collapse 3: last layer',
  'nc4': 'Neural collapse 4: nearest mean',
  'rank_me': 'RankMe',
  'alpha_req': '\N{GREEK SMALL LETTER ALPHA}-ReQ',
  'log_me': 'LogME',
  'h_score': 'H-score',
  'leep': 'LEEP',
  'calinski_harabasz': 'Calinski-Harabasz',
}
_CURVES = ('accuracy', 'purity', 'Rand index')
_AT_THRESHOLD = (
  'multicut_accuracy', 'multicut_purity', 'multicut_ari',
  'multicut_num_clusters',
)  # fmt: skip


def part(
  measured: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any] | None, set[str]]:
  """Everything that the page shows of indicators.

  Args:
    measured: Numbers by name, as `_results.measurements` has them.
    arrays: Contents of figures.npz.

  Returns:
    ``({'sweep', 'groups', 'free', 'measures', 'gap'}, names that the table of
    results can do without)``; None for a run without indicators.
  """
  there = {
    name.removeprefix(_PREFIX): row
    for name, row in measured.items()
    if name.startswith(_PREFIX)
  }
  sweep, gap = _sweep(there, arrays)
  if not there and not sweep and not gap:
    return None, set()
  listed = {name for _, names in _GROUPS for name in names}
  more = [
    name for name in there if name not in listed and not name.startswith(_FREE)
  ]
  groups = []
  for title, names in (*_GROUPS, ('More', more)):
    rows = [
      {
        'label': _LABELS.get(name) or _drawing.words(name),
        'value': _cell(there[name]),
        'free': _cell(there.get(_FREE + name)),
      }
      for name in names
      if name in there
    ]
    if rows:
      groups.append({'title': title, 'rows': rows})
  return {
    'sweep': sweep,
    'groups': groups,
    'free': any(name.startswith(_FREE) for name in there),
    'measures': list(there.values()),
    'gap': gap,
  }, {_PREFIX + name for name in there if name not in _LEFT}


def _cell(row):
  """Three digits, and the interval if there is one."""
  if row is None:
    return None
  low, high = row['ends']
  bounded = low != high and row['interval'] != 'none'
  return {
    'value': _write(row['number']),
    'interval': f'{_write(low)} to {_write(high)}' if bounded else '',
  }


def _write(value):
  """Shares by three decimals, counts whole, the rest by three digits."""
  if value == int(value) and abs(value) >= 2:
    return f'{value:,.0f}'
  if abs(value) < 10:
    return f'{value:.3f}'.replace('-', '\N{MINUS SIGN}')
  return f'{value:,.1f}'.replace('-', '\N{MINUS SIGN}')


def _sweep(there, arrays):
  """Agreement and number of clusters by threshold, the chosen one marked."""
  thresholds = arrays.get('figure/indicator_thresholds')
  values = arrays.get('figure/indicator_sweep')
  if thresholds is None and values is None:
    return None, ''
  if thresholds is None or values is None:
    return None, 'figures.npz holds a part of the sweep of thresholds only'
  if (
    thresholds.ndim != 1
    or not thresholds.size
    or values.shape != (*thresholds.shape, 4)
  ):
    return None, f'the sweep of thresholds has shape {values.shape}'
  if not (_files.is_numeric(thresholds) and _files.is_numeric(values)):
    return None, 'the sweep of thresholds holds values that are not finite'
  if values[:, 3].min() < 1:
    return None, 'the sweep of thresholds holds no clusters'
  order = np.argsort(thresholds)
  thresholds, values = thresholds[order], values[order]
  chosen = there.get('multicut_threshold', {}).get('number')
  marks = [there.get(name, {}).get('number') for name in _AT_THRESHOLD]

  def draw(ax):
    ax.set_position((0.13, 0.4, 0.65, 0.57))
    below = ax.figure.add_axes((0.13, 0.13, 0.65, 0.2), sharex=ax)
    for k in range(4):
      on, color = (ax, k) if k < 3 else (below, 3)
      on.plot(
        thresholds,
        values[:, k],
        color=_drawing.COLORS[color],
        marker='o',
        markersize=3,
        clip_on=False,
      )
      if chosen is not None and marks[k] is not None:
        on.plot(
          [chosen],
          [marks[k]],
          color=_drawing.COLORS[color],
          marker='D',
          markersize=5.5,
          clip_on=False,
        )
    if chosen is not None:
      for on in (ax, below):
        on.axvline(
          chosen, color=_drawing.MUTED, linestyle=(0, (4, 2)), linewidth=1
        )
    ax.set(ylim=(min(0, float(values[:, 2].min())), 1.02))
    ax.tick_params(labelbottom=False)
    ax.yaxis.set_major_formatter(_drawing.tick)
    below.set_yscale('log')
    below.set(xlabel='threshold, a cosine')
    below.yaxis.set_major_formatter(_drawing.tick)
    below.yaxis.set_minor_locator(_drawing.ticker.NullLocator())
    below.xaxis.set_major_formatter(_drawing.tick)
    _drawing.name_ends(
      ax,
      [
        (name, values[-1, k], _drawing.COLORS[k])
        for k, name in enumerate(_CURVES)
      ],
    )
    _drawing.name_ends(below, [('clusters', values[-1, 3], _drawing.COLORS[3])])

  best = int(np.argmax(values[:, 0]))
  text = (
    'Of the multicut, against the classes. The threshold alone governs how many'
    ' clusters come out; purity rises with their number and means nothing'
    ' without it. The greatest accuracy of the sweep,'
    f' {values[best, 0]:.3f}, is at {thresholds[best]:g}'
    f' with {values[best, 3]:,.0f} clusters.'
  )
  if chosen is not None:
    text += f' Dashed, with diamonds: the calibrated threshold, {chosen:.3f}'
    if marks[0] is not None and marks[3] is not None:
      text += f'; accuracy {marks[0]:.3f} with {marks[3]:,.0f} clusters'
    text += '.'
  return {
    'title': 'Every threshold of the multicut',
    'svg': _drawing.svg(
      draw,
      'sweep',
      'Accuracy, purity, Rand index and number of clusters by threshold',
      size=(4.6, 3.9),
    ),
    'text': text,
  }, ''
