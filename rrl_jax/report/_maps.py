"""One plane of features, in the colours of what is known of each image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rrl_jax.report import _drawing, _files

_MARKERS = ['o', 's', '^', 'D', 'v', 'P', 'X']
_MAX_LABELS = 20  # Classes named on the map.
_ONE, _BESIDE = (4.6, 4.2), (3.4, 3.2)  # Inches, of a lone map and of several.


def feature_map(
  arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any] | None, str]:
  """The plane of the first two principal components of the features.

  It is drawn once in the colours of the given classes and, where they are
  known, once more in those of the fine classes, of the true groups and of the
  clusters that `evals.infer_groups` found.

  Args:
    arrays: Contents of figures.npz.

  Returns:
    ``({'panels': [{'title', 'svg'}], 'text'}, '')``, or
    ``(None, what is missing)``.
  """
  points, labels = arrays.get('figure/map'), arrays.get('figure/map_labels')
  if points is None or labels is None:
    return None, 'figures.npz holds no figure/map'
  if points.shape != (*labels.shape, 2) or labels.ndim != 1 or not len(points):
    return None, f'figure/map has shape {points.shape}'
  if not (_files.is_numeric(points) and _files.is_numeric(labels)):
    return None, 'figure/map holds values that are not finite'
  explained = arrays.get('figure/map_explained')
  if explained is None or explained.shape != (2,):
    explained = np.zeros(2)
  ways = _ways(arrays, labels)
  panels = [
    {
      'title': title,
      'svg': _drawing.svg(
        _drawer(points, ids, names, explained),
        'map' if not k else f'map{k}',
        f'Features in the plane of their first two principal components,'
        f' coloured by {what}',
        size=_BESIDE if len(ways) > 1 else _ONE,
      ),
    }
    for k, (title, what, ids, names) in enumerate(ways)
  ]
  return {
    'panels': panels,
    'text': f'{len(points):,} test images of {len(np.unique(labels))} classes'
    ' in the plane of the first two principal components of their features,'
    f' which hold {100 * float(np.sum(explained)):.0f} % of the variance.'
    ' Distances in the plane are no measurement.',
  }, ''


def _ways(
  arrays: Mapping[str, np.ndarray], labels: np.ndarray
) -> list[tuple[str, str, np.ndarray, np.ndarray | None]]:
  """``(title, what the colours are, ids [n], names)`` of each panel."""
  names = arrays.get('figure/map_class_names')
  found = [('Given classes', 'given class', labels.astype(int), names)]
  seen = [_texts(names)]
  for title, what, ids, names in (
    ('Fine classes', 'fine class', 'map_fine', 'map_fine_names'),
    ('True groups', 'true group', 'map_groups', 'map_group_names'),
    ('Discovered groups', 'discovered group', '', 'inferred_names'),
  ):
    names = arrays.get(f'figure/{names}')
    ids = arrays.get(f'figure/{ids}') if ids else _discovered(arrays)
    if ids is None or ids.shape != labels.shape or not _files.is_numeric(ids):
      continue
    if _texts(names) in seen:  # Groups may be the fine classes.
      continue
    seen.append(_texts(names))
    found.append((title, what, ids.astype(int), names))
  return found


def _texts(names: np.ndarray | None) -> list[str] | None:
  return None if names is None else [str(name) for name in names.ravel()]


def _discovered(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
  """Cluster of each image on the map, if clusters were looked for."""
  index = arrays.get('figure/map_index')
  clusters = arrays.get('figure/inferred_test_groups')
  if index is None or clusters is None or clusters.ndim != 1:
    return None
  if index.dtype.kind not in 'iu' or not index.size:
    return None
  if not 0 <= index.min() <= index.max() < len(clusters):
    return None
  return clusters[index]


def _drawer(points, ids, names, explained):
  """Draws the points of each id in a colour and a marker of its own."""
  there = np.unique(ids)

  def draw(ax):
    texts = []
    for i, k in enumerate(there):
      members = points[ids == k]
      ax.plot(
        members[:, 0],
        members[:, 1],
        linestyle='none',
        marker=_MARKERS[i // _drawing.NUM_COLORS % len(_MARKERS)],
        markersize=2.6,
        markeredgewidth=0,
        color=_drawing.COLORS[i % _drawing.NUM_COLORS],
        alpha=0.55,
      )
    if len(there) <= _MAX_LABELS:
      for i, k in enumerate(there):
        middle = np.median(points[ids == k], axis=0)
        name = 'none' if k < 0 else _files.class_name(names, k)
        texts.append(
          ax.text(
            *middle,
            _drawing.short(name.replace(':cluster_', ' '), 14),
            ha='center',
            va='center',
            color=_drawing.INK,
            weight='bold',
            gid=f'halo{i}',
          )
        )
    for side, share in zip('xy', explained, strict=False):
      number = 1 if side == 'x' else 2
      ax.set(**{f'{side}label': f'component {number} ({100 * share:.0f} %)'})
    ax.grid(visible=False)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect('equal', adjustable='datalim')
    _drawing.part(ax, texts)

  return draw
