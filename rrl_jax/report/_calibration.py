"""The reliability diagram: how often a confidence is right."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rrl_jax.evals import measurement
from rrl_jax.report import _drawing, _files

_NBSP = '\N{NO-BREAK SPACE}'


def diagram(
  arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any] | None, str]:
  """Accuracy against confidence, over how many images have it.

  Args:
    arrays: Contents of figures.npz.

  Returns:
    ``({'title', 'svg', 'text'}, '')``, ``(None, what is wrong)``, or
    ``(None, '')`` if the calibration was not measured.
  """
  names = [f'figure/calibration_{k}' for k in ('count', 'right', 'confidence')]
  if not any(name in arrays for name in names):
    return None, ''
  if not all(name in arrays for name in names):
    return None, 'figures.npz holds a part of figure/calibration_... only'
  bins = [arrays[name] for name in names]
  shapes = [array.shape for array in bins]
  if len(set(shapes)) > 1 or bins[0].ndim != 1:
    return None, f'figure/calibration_... has shapes {shapes}'
  if not all(_files.is_numeric(array) for array in bins):
    return None, 'figure/calibration_... holds values that are not finite'
  count, right, confidence = (array.astype(np.float64) for array in bins)
  total = count.sum()
  # Confidences were summed: rounding may exceed their number.
  sums = np.stack([right, confidence])
  if total < 1 or (sums < 0).any() or (sums > 1.000001 * count).any():
    return None, 'figure/calibration_... holds impossible counts'
  there = count >= 1
  accuracy = right[there] / count[there]
  mean = confidence[there] / count[there]
  low, high = measurement.wilson_interval(right[there], count[there])

  def draw(ax):
    ax.set_position((0.16, 0.39, 0.8, 0.58))
    ax.plot([0, 1], [0, 1], color=_drawing.MUTED, linestyle=(0, (4, 2)), lw=1)
    ax.vlines(mean, low, high, color=_drawing.COLORS[0], lw=4, alpha=0.3)
    ax.plot(
      mean,
      accuracy,
      color=_drawing.COLORS[0],
      linestyle='none',
      marker='o',
      markersize=5,
      clip_on=False,
    )
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel='accuracy')
    ax.yaxis.set_major_formatter(_drawing.tick)
    ax.tick_params(labelbottom=False)
    below = ax.figure.add_axes((0.16, 0.12, 0.8, 0.22), sharex=ax)
    edges = np.linspace(0, 1, len(count) + 1)
    below.bar(
      (edges[1:] + edges[:-1]) / 2,
      count,
      0.86 / len(count),
      color=_drawing.COLORS[0],
    )
    below.set(xlabel='confidence', ylabel='images')
    below.yaxis.set_major_formatter(_drawing.tick)
    below.locator_params(axis='y', nbins=3, integer=True)
    below.xaxis.set_major_formatter(_drawing.tick)

  return {
    'title': 'Reliability diagram',
    'svg': _drawing.svg(
      draw, 'reliability', 'Accuracy against confidence', size=(4.6, 4.4)
    ),
    'text': f'{total:,.0f} test images by confidence; bands are 95{_NBSP}% '
    'intervals. Points below the dashed diagonal are overconfident, those '
    'above it too modest. On average the confidence is '
    f'{100 * confidence.sum() / total:.1f}{_NBSP}%, the accuracy '
    f'{100 * right.sum() / total:.1f}{_NBSP}%.',
  }, ''
