"""What a run drew: its curves, its concepts, its images."""

from collections.abc import Container, Mapping, Sequence
import math
from typing import Any

import numpy as np

from rrl_jax.report import _drawing, _files

_MAX_LINES = 12  # In one figure of concepts.
_NOT_MINIMISED = (
  ' This is the weighted cross entropy. The rescaled gradient is not its '
  'gradient, so it may rise while the network learns.'
)
_EXPLAINED = {  # Metric -> what its name does not say.
  'train/accuracy': (
    ' Of the images as they are trained on, augmented and perhaps attacked,'
    ' against the labels as they are given, which may be wrong.'
  ),
  'train/images_per_sec': (
    ' The first value of each start counts the compilation.'
  ),
  'train/effective_share': (
    ' How many examples of equal weight would have the same sum of squared'
    ' shares of the gradient, as a share of the batch.'
  ),
  'train/log_normalizer': (
    " Of one batch: what the examples' weights are divided by."
  ),
  'train/collapse': (
    " The largest share of a class among a batch's predictions, less the"
    ' largest share among its labels.'
  ),
}
_CURVES = {  # Metric -> (title, axis), in the order they are shown.
  'train/loss': ('Training loss', 'loss'),
  'train/accuracy': ('Accuracy on training batches', 'accuracy'),
  'train/transport_cost': ('Transport cost of the worst case', 'cost'),
  'train/gamma': ('Price of transport', 'gamma'),
  'train/grad_norm': ('Norm of the gradient', 'norm'),
  'train/param_norm': ('Norm of the parameters', 'norm'),
  'train/focus': ('Focus of the emphasis', 'focus'),
  'train/spread': ('Spread of the emphasis', 'spread'),
  'train/noise_rate': ('Estimated rate of wrong labels', 'rate'),
  'train/effective_share': ('Share of a batch that counts', 'share'),
  'train/log_normalizer': ('Logarithm of the sum of weights', 'log sum'),
  'train/collapse': ('Excess of the commonest prediction', 'share'),
  'test/accuracy': ('Accuracy on test images', 'accuracy'),
  'test/worst_concept_accuracy': (
    'Accuracy of the worst concept, test images',
    'accuracy',
  ),
  'train/learning_rate': ('Learning rate', 'rate'),
  'train/images_per_sec': ('Speed of training', 'images a second'),
}


def curves(
  metrics: Sequence[Mapping[str, Any]], without: Container[str] = ()
) -> tuple[list[dict[str, Any]], str]:
  """A figure for each scalar that was logged.

  Args:
    metrics: Lines of metrics.jsonl by step.
    without: Names of scalars that are drawn elsewhere.

  Returns:
    ``{'title', 'svg', 'text'}`` of each figure, and a sentence on those that
    never changed, or ''.
  """
  names = {name: None for line in metrics for name in line}
  names = [
    name
    for name in names
    if name.startswith(('train/', 'test/', 'validation/'))
    and name.count('/') == 1
    and name not in without
  ]
  rescaled = 'train/effective_share' in names  # Gradient rescaling alone.
  known = list(_CURVES)
  names.sort(key=lambda n: (known.index(n) if n in known else len(known), n))
  figures, constant = [], []
  for name in names:
    steps, values = _drawing.series(metrics, name)
    if len(steps) == 0:
      continue
    title, axis = _CURVES.get(name, (_drawing.words(name), ''))
    if len(steps) > 1 and values.min() == values.max():
      constant.append(f'{title.lower()} {_drawing.number(values[0])}')
      continue

    def draw(ax, steps=steps, values=values, axis=axis, name=name):
      ax.plot(
        *_drawing.thin(steps, values),
        color=_drawing.COLORS[0],
        marker=_drawing.dot(steps),
      )
      ax.set(xlabel='step', ylabel=axis)
      _drawing.scale(ax, values, name)

    first, last, least, greatest = map(
      _drawing.number, (values[0], values[-1], values.min(), values.max())
    )
    figures.append(
      {
        'title': title,
        'text': f'From {first} at step {steps[0]:,.0f} to {last} at step '
        f'{steps[-1]:,.0f}; least {least}, greatest {greatest}.'
        + (_NOT_MINIMISED if rescaled and name == 'train/loss' else '')
        + _EXPLAINED.get(name, ''),
        'svg': _drawing.svg(draw, f'curve{len(figures)}', f'{title} by step'),
      }
    )
  said = f'Never changed: {", ".join(constant)}.' if constant else ''
  return figures, said


def concept_lines(
  metrics: Sequence[Mapping[str, Any]], prefix: str, *, title: str, ident: str
) -> dict[str, Any] | None:
  """One line a concept.

  Args:
    metrics: Lines of metrics.jsonl by step.
    prefix: Of the metrics' names; what follows is the concept.
    title: Title of the figure.
    ident: Prefix of ids inside the SVG.

  Returns:
    ``{'title', 'svg', 'text', 'table', 'hidden'}``, or None if nothing was
    logged.
  """
  names = {n: None for line in metrics for n in line if n.startswith(prefix)}
  lines = []
  for name in names:
    steps, values = _drawing.series(metrics, name)
    if len(steps):
      lines.append((name[len(prefix) :], steps, values))
  if not lines:
    return None
  # Those that end highest: their order is that of the labels.
  lines.sort(key=lambda line: (-line[2][-1], line[0]))
  shown, hidden = lines[:_MAX_LINES], lines[_MAX_LINES:]

  def draw(ax):
    for k, (_, steps, values) in enumerate(shown):
      ax.plot(
        *_drawing.thin(steps, values),
        color=_drawing.COLORS[k % _drawing.NUM_COLORS],
        linestyle=_drawing.dashes(k),
        marker=_drawing.dot(steps),
      )
    ax.set(xlabel='step')
    _drawing.scale(ax, np.concatenate([v for _, _, v in shown]), prefix)
    _drawing.name_ends(
      ax,
      [
        (name, values[-1], _drawing.COLORS[k % _drawing.NUM_COLORS])
        for k, (name, _, values) in enumerate(shown)
      ],
    )

  return {
    'title': title,
    'text': f'{title} by step; the table below holds first and last values.',
    'svg': _drawing.svg(draw, ident, f'{title} by step', right=0.72),
    'table': [
      {
        'concept': name,
        'first': f'{values[0]:.3g}',
        'last': f'{values[-1]:.3g}',
        'greatest': f'{values.max():.3g}',
      }
      for name, _, values in lines
    ],
    'hidden': len(hidden),
  }


def pairs(
  arrays: Mapping[str, np.ndarray], prefix: str = 'figure/examples'
) -> tuple[dict[str, Any] | None, str]:
  """Clean images, attacked images and their amplified differences.

  Args:
    arrays: Contents of figures.npz.
    prefix: Of the names of the arrays.

  Returns:
    ``({'factor', 'rows'}, '')``, or ``(None, what is missing)``.
  """
  clean = arrays.get(f'{prefix}_clean')
  adv = arrays.get(f'{prefix}_adv')
  if clean is None or adv is None:
    return None, f'figures.npz holds no {prefix}_clean, ..._adv'
  if clean.ndim != 4 or clean.shape != adv.shape or not len(clean):
    return None, f'example images have shapes {clean.shape} and {adv.shape}'
  if not (_files.is_numeric(clean) and _files.is_numeric(adv)):
    return None, 'example images hold values that are not finite'
  names = arrays.get(f'{prefix}_class_names')

  def named(array, row):
    ids = arrays.get(f'{prefix}_{array}')
    if ids is None or ids.shape != (len(clean),) or not _files.is_numeric(ids):
      return '?'
    return _files.class_name(names, int(ids[row]))

  delta = adv.astype(np.float64) - clean.astype(np.float64)
  largest = float(np.abs(delta).max())
  factor = 1.0
  if largest > 0:  # Two digits; the largest change becomes black or white.
    factor = 0.5 / largest
    digits = 10.0 ** (math.floor(math.log10(factor)) - 1)
    factor = math.floor(factor / digits) * digits
  rows = []
  for i in range(len(clean)):
    label = named('labels', i)
    before, after = named('clean_preds', i), named('adv_preds', i)
    rows.append(
      {
        'label': label,
        'before': before,
        'after': after,
        'fooled': before == label and after != label,
        'clean': _drawing.png(clean[i]),
        'adv': _drawing.png(adv[i]),
        'difference': _drawing.png(0.5 + factor * delta[i]),
        'largest': f'{np.abs(delta[i]).max():.3g}',
      }
    )
  return {'factor': f'{factor:.2g}', 'rows': rows}, ''
