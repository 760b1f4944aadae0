"""How far classes spread while training, and what a decoder makes of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrl_jax.report import _drawing, _figures, _files

DRAWN = ['train/within_cosine', 'train/between_cosine']  # Not once more.
_TINY = 16  # Sides up to this are enlarged without smoothing.


def part(
  metrics: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
  """Everything that the page shows of spread and reconstructions.

  Args:
    metrics: Lines of metrics.jsonl by step.
    arrays: Contents of figures.npz.

  Returns:
    ``{'figures', 'images', 'gap'}``: figures as `_figures.concept_lines` has
    them, images as `reconstructions` has them, and what is wrong with these;
    None for a run that has nothing of it.
  """
  images, gap = reconstructions(arrays)
  found = {
    'figures': [
      figure for figure in (class_spread(metrics), cosines(metrics)) if figure
    ],
    'images': images,
    'gap': '' if ' holds no ' in gap else gap,
  }
  return found if any(found.values()) else None


def class_spread(
  metrics: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
  """A line a class: the mean squared distance from its mean."""
  figure = _figures.concept_lines(
    metrics,
    'train/class_spread/',
    title='Spread of each class',
    ident='spread',
  )
  if figure:
    figure['text'] = (
      'Mean squared distance of unit embeddings from the mean of their class,'
      ' on training batches: 0 where the class has collapsed to a point, 1'
      ' where it has no direction of its own.'
    )
  return figure


def cosines(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
  """Mean cosine within and between classes."""
  lines = []
  for name, label in zip(DRAWN, ('within', 'between'), strict=True):
    steps, values = _drawing.series(metrics, name)
    if len(steps):
      lines.append((label, steps, values))
  if len(lines) < 2:
    return None

  def draw(ax):
    for k, (_, steps, values) in enumerate(lines):
      ax.plot(
        *_drawing.thin(steps, values),
        color=_drawing.COLORS[k],
        linestyle=_drawing.dashes(k),
        marker=_drawing.dot(steps),
      )
    ax.set(xlabel='step', ylim=(-1.05, 1.05))
    ax.xaxis.set_major_formatter(_drawing.tick)
    _drawing.name_ends(
      ax,
      [
        (label, values[-1], _drawing.COLORS[k])
        for k, (label, _, values) in enumerate(lines)
      ],
    )

  ends = ' and '.join(
    f'{_drawing.number(values[-1])} {label}' for label, _, values in lines
  )
  return {
    'title': 'Cosine of two embeddings, within and between classes',
    'svg': _drawing.svg(
      draw, 'cosines', 'Cosines within and between classes by step', right=0.8
    ),
    'text': f'At the end {ends} classes. All at 1 is total collapse; 1 within'
    ' and less between is class collapse; equal values are merged classes.',
    'table': [],
    'hidden': 0,
  }


def reconstructions(
  arrays: Mapping[str, np.ndarray],
) -> tuple[list[dict[str, Any]], str]:
  """Test images beside what the decoder makes of their features.

  Args:
    arrays: Contents of figures.npz.

  Returns:
    ``([{'label', 'given', 'made', 'error', 'tiny'}], '')``, or
    ``([], what is missing)``.
  """
  prefix = 'figure/reconstructions'
  given = arrays.get(f'{prefix}_inputs')
  made = arrays.get(f'{prefix}_outputs')
  labels = arrays.get(f'{prefix}_labels')
  if given is None or made is None or labels is None:
    return [], f'figures.npz holds no {prefix}_inputs, ..._outputs'
  if given.ndim != 4 or given.shape != made.shape:
    return [], f'reconstructions have shapes {given.shape} and {made.shape}'
  if labels.shape != given.shape[:1]:
    return [], f'labels of reconstructions have shape {labels.shape}'
  if not all(map(_files.is_numeric, (given, made, labels))):
    return [], 'reconstructions hold values that are not finite'
  names = arrays.get(f'{prefix}_class_names')
  errors = np.mean(
    np.square(made.astype(np.float64) - given), axis=tuple(range(1, 4))
  )
  return [
    {
      'label': _files.class_name(names, int(labels[i])),
      'given': _drawing.png(given[i]),
      'made': _drawing.png(made[i]),
      'error': f'{errors[i]:.2g}',
      'tiny': max(given.shape[1:3]) <= _TINY,
    }
    for i in range(len(given))
  ], ''
