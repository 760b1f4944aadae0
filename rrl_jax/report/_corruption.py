"""Accuracy under each corruption at each severity, and what it looks like."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rrl_jax.report import _drawing, _files

_PREFIX = 'figure/corruption_'
_NBSP = '\N{NO-BREAK SPACE}'
_TINY = 64  # Sides up to this are enlarged without smoothing.
_SHADE = 45  # Percent of colour where nothing is right any more.


def part(
  measured: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any] | None, set[str]]:
  """Everything that the page shows of corruptions.

  Args:
    measured: Numbers by name, as `_results.measurements` has them.
    arrays: Contents of figures.npz.

  Returns:
    ``({'table', 'measures', 'pictures', 'gap'}, names shown here)``; None for
    a run that met no corruption.
  """
  if f'{_PREFIX}accuracy' not in arrays:
    return None, set()
  names = arrays.get(f'{_PREFIX}names')
  severities = arrays.get(f'{_PREFIX}severities')
  accuracy = arrays[f'{_PREFIX}accuracy']
  gap = _gap(names, severities, accuracy)
  if gap:
    return {'table': None, 'measures': [], 'pictures': [], 'gap': gap}, set()
  clean = measured.get('corruption/clean_accuracy', {}).get('number')
  pictures, gap = _pictures(names, arrays)
  shown = {
    name
    for name in measured
    if name.startswith(tuple(f'corruption/{one}/accuracy' for one in names))
  }
  return {
    'table': _table(names, severities, accuracy, clean),
    'measures': [
      measured[name]
      for name in (f'corruption/{one}/accuracy' for one in names)
      if name in measured
    ],
    'pictures': pictures,
    'gap': gap,
  }, shown


def _gap(names, severities, accuracy):
  """What is wrong with the figure's arrays; '' if nothing."""
  if names is None or severities is None:
    return f'figures.npz holds no {_PREFIX}names, ..._severities'
  if names.dtype.kind != 'U' or accuracy.shape != names.shape + (
    severities.shape
  ):
    return f'accuracies under corruptions have shape {accuracy.shape}'
  if accuracy.ndim != 2 or not accuracy.size:
    return f'accuracies under corruptions have shape {accuracy.shape}'
  if not (_files.is_numeric(accuracy) and _files.is_numeric(severities)):
    return 'accuracies under corruptions are not finite'
  if accuracy.min() < 0 or accuracy.max() > 1:
    return 'accuracies under corruptions are not in [0, 1]'
  return ''


def _table(names, severities, accuracy, clean):
  """Rows of shaded cells; the darker, the more was lost."""
  top = clean if clean else max(float(accuracy.max()), 1e-9)

  def cell(value):
    lost = min(max((top - value) / top, 0.0), 1.0)
    return {'value': f'{100 * value:.1f}', 'shade': round(_SHADE * lost, 1)}

  rows = [
    {
      'name': str(name).replace('_', ' '),
      'mean': cell(float(values.mean())),
      'cells': [cell(float(value)) for value in values],
    }
    for name, values in zip(names, accuracy, strict=True)
  ]
  worst = int(np.argmin(accuracy.mean(axis=1)))
  text = (
    f'Accuracy in percent; on average {100 * accuracy.mean():.1f}{_NBSP}%,'
    f' under {rows[worst]["name"]} {rows[worst]["mean"]["value"]}{_NBSP}%.'
  )
  if clean:
    text += (
      f' Without corruption it is {100 * clean:.1f}{_NBSP}% on the same images.'
      ' The darker a cell, the greater the share of it that is lost.'
    )
  return {
    'severities': [str(severity) for severity in severities],
    'rows': rows,
    'last': {
      'mean': cell(float(accuracy.mean())),
      'cells': [cell(float(value)) for value in accuracy.mean(axis=0)],
    },
    'text': text,
  }


def _pictures(names, arrays):
  """A strip of one image for each corruption, the severities side by side."""
  examples = arrays.get(f'{_PREFIX}examples')
  shown = arrays.get(f'{_PREFIX}example_severities')
  if examples is None or shown is None:
    return [], ''
  if (
    examples.ndim != 5
    or examples.shape[:2] != names.shape + shown.shape
    or examples.dtype != np.uint8
    or not examples.size
  ):
    return [], f'examples of corruptions have shape {examples.shape}'
  tiny = max(examples.shape[2:4]) <= _TINY
  words = 'severity ' + ', '.join(str(severity) for severity in shown)
  clean = arrays.get(f'{_PREFIX}example_clean')
  strips = []
  if clean is not None and clean.shape == examples.shape[2:]:
    what = arrays.get(f'{_PREFIX}example_class')
    what = f' of class {what}' if what is not None and not what.ndim else ''
    strips.append(_strip('no corruption', [clean], what, len(shown), tiny))
  for name, images in zip(names, examples, strict=True):
    name = str(name).replace('_', ' ')
    strips.append(_strip(name, images, f', {words}', len(shown), tiny))
  return strips, ''


def _strip(name, images, words, width, tiny):
  """Images side by side, on as much room as ``width`` of them take."""
  return {
    'name': name,
    'src': _drawing.png(np.concatenate(list(images), axis=1)),
    'alt': f'Test image{words}: {name}',
    'width': round(100 * len(images) / width, 1),
    'tiny': tiny,
  }
