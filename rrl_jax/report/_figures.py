"""Figures as SVG that takes its colours from the page, pictures as PNG.

Matplotlib draws in marker colours, which then become CSS variables: one
drawing serves the light and the dark page, and its text is text.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
import io
import math
import re
from typing import Any

from markupsafe import Markup, escape
import matplotlib
from matplotlib import ticker
from matplotlib.backends import backend_svg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

_INK, _RULE, _MUTED = '#010101', '#020202', '#030303'
_NUM_COLORS = 8
_COLORS = [f'#0400{k:02x}' for k in range(_NUM_COLORS)]
_CSS = {
  _INK: 'currentColor',
  _RULE: 'var(--rule)',
  _MUTED: 'var(--muted)',
} | {color: f'var(--c{k})' for k, color in enumerate(_COLORS)}
_DASHES = ['-', (0, (4, 1.5)), (0, (1, 1.2))]
_MARKERS = ['o', 's', '^', 'D', 'v', 'P', 'X']
_SIZE = (4.6, 2.9)  # Inches: near its size on a phone, so text stays legible.
_MAX_POINTS = 300  # Of a curve; more are averaged in runs.
_MAX_LINES = 12  # In one figure of concepts.
_MAX_LABELS = 20  # Classes named on the map.
_CURVES = {  # Metric -> (title, axis), in the order they are shown.
  'train/loss': ('Training loss', 'loss'),
  'train/accuracy': ('Accuracy on training batches', 'accuracy'),
  'train/transport_cost': ('Transport cost of the worst case', 'cost'),
  'train/gamma': ('Price of transport', 'gamma'),
  'train/grad_norm': ('Norm of the gradient', 'norm'),
  'train/learning_rate': ('Learning rate', 'rate'),
  'train/images_per_sec': ('Speed', 'images a second'),
}


def curves(
  metrics: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], str]:
  """A figure for each scalar that was logged.

  Args:
    metrics: Lines of metrics.jsonl by step.

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
  ]
  known = list(_CURVES)
  names.sort(key=lambda n: (known.index(n) if n in known else len(known), n))
  figures, constant = [], []
  for name in names:
    steps, values = _series(metrics, name)
    if len(steps) == 0:
      continue
    title, axis = _CURVES.get(name, (_words(name), ''))
    if len(steps) > 1 and values.min() == values.max():
      constant.append(f'{title.lower()} {_number(values[0])}')
      continue

    def draw(ax, steps=steps, values=values, axis=axis, name=name):
      ax.plot(*_thin(steps, values), color=_COLORS[0], marker=_dot(steps))
      ax.set(xlabel='step', ylabel=axis)
      _scale(ax, values, name)

    figures.append(
      {
        'title': title,
        'text': f'From {_number(values[0])} at step {steps[0]:,.0f} to '
        f'{_number(values[-1])} at step {steps[-1]:,.0f}; least '
        f'{_number(values.min())}, greatest {_number(values.max())}.',
        'svg': _svg(draw, f'curve{len(figures)}', f'{title} by step'),
      }
    )
  said = f'Never changed: {", ".join(constant)}.' if constant else ''
  return figures, said


def _words(name):
  """'train/step_scale' -> 'Step scale', 'test/loss' -> 'Test loss'."""
  words = name.removeprefix('train/').replace('/', ' ').replace('_', ' ')
  return words[:1].upper() + words[1:]


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
    steps, values = _series(metrics, name)
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
        *_thin(steps, values),
        color=_COLORS[k % _NUM_COLORS],
        linestyle=_DASHES[k // _NUM_COLORS % len(_DASHES)],
        marker=_dot(steps),
      )
    ax.set(xlabel='step')
    _scale(ax, np.concatenate([v for _, _, v in shown]), prefix)
    # Heights of the lines' ends in the axes, also on a logarithmic one.
    ends = [ax.transData.transform((0, v[-1]))[1] for _, _, v in shown]
    low, high = ax.transAxes.transform([(0, 0), (0, 1)])[:, 1]
    ends = [(end - low) / (high - low) for end in ends]
    places = _spread(ends, 0.072, 0.0, 1.0)
    for k, ((name, _, _), place) in enumerate(zip(shown, places, strict=True)):
      ax.annotate(
        _short(name, 15),
        (1.02, place),
        xycoords='axes fraction',
        color=_COLORS[k % _NUM_COLORS],
        va='center',
      )

  return {
    'title': title,
    'text': f'{title} by step; the table below holds first and last values.',
    'svg': _svg(draw, ident, f'{title} by step', right=0.72),
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


def feature_map(
  arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any] | None, str]:
  """The plane of the first two principal components of the features.

  Args:
    arrays: Contents of figures.npz.

  Returns:
    ``({'svg', 'text'}, '')``, or ``(None, what is missing)``.
  """
  points, labels = arrays.get('figure/map'), arrays.get('figure/map_labels')
  if points is None or labels is None:
    return None, 'figures.npz holds no figure/map'
  if points.ndim != 2 or points.shape != (len(labels), 2) or not len(points):
    return None, f'figure/map has shape {points.shape}'
  if not np.isfinite(points).all():
    return None, 'figure/map holds values that are not finite'
  names = arrays.get('figure/map_class_names', np.array([], str))
  name_of = lambda k: str(names[k]) if k < len(names) else f'class {k}'
  classes = np.unique(labels)
  explained = arrays.get('figure/map_explained', np.zeros(2))

  def draw(ax):
    texts = []
    for i, k in enumerate(classes):
      members = points[labels == k]
      ax.plot(
        members[:, 0],
        members[:, 1],
        linestyle='none',
        marker=_MARKERS[i // _NUM_COLORS % len(_MARKERS)],
        markersize=2.6,
        markeredgewidth=0,
        color=_COLORS[i % _NUM_COLORS],
        alpha=0.55,
      )
    if len(classes) <= _MAX_LABELS:
      for i, k in enumerate(classes):
        middle = np.median(points[labels == k], axis=0)
        texts.append(
          ax.text(
            *middle,
            _short(name_of(k), 14),
            ha='center',
            va='center',
            color=_INK,
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
    _part(ax, texts)

  return {
    'svg': _svg(
      draw,
      'map',
      'Features in the plane of their first two principal components',
      size=(4.6, 4.2),
    ),
    'text': f'{len(points):,} test images of {len(classes)} classes in the '
    'plane of the first two principal components of their features, which '
    f'hold {100 * float(np.sum(explained)):.0f} % of the variance. Distances '
    'in the plane are no measurement.',
  }, ''


def pairs(
  arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any] | None, str]:
  """Clean images, attacked images and their amplified differences.

  Args:
    arrays: Contents of figures.npz.

  Returns:
    ``({'factor', 'rows'}, '')``, or ``(None, what is missing)``.
  """
  clean = arrays.get('figure/examples_clean')
  adv = arrays.get('figure/examples_adv')
  if clean is None or adv is None:
    return None, 'figures.npz holds no figure/examples_clean, ..._adv'
  if clean.ndim != 4 or clean.shape != adv.shape or not len(clean):
    return None, f'example images have shapes {clean.shape} and {adv.shape}'
  if not (np.isfinite(clean).all() and np.isfinite(adv).all()):
    return None, 'example images hold values that are not finite'
  names = arrays.get('figure/examples_class_names', np.array([], str))

  def named(array, row):
    ids = arrays.get(f'figure/examples_{array}')
    if ids is None or row >= len(ids):
      return '?'
    k = int(ids[row])
    return str(names[k]) if 0 <= k < len(names) else f'class {k}'

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
        'clean': _png(clean[i]),
        'adv': _png(adv[i]),
        'difference': _png(0.5 + factor * delta[i]),
        'largest': f'{np.abs(delta[i]).max():.3g}',
      }
    )
  return {'factor': f'{factor:.2g}', 'rows': rows}, ''


def _series(metrics, name):
  """Steps and finite values of a metric."""
  rows = [
    (line['step'], line[name])
    for line in metrics
    if isinstance(line.get(name), int | float) and math.isfinite(line[name])
  ]
  steps, values = zip(*rows, strict=True) if rows else ((), ())
  return np.array(steps, np.float64), np.array(values, np.float64)


def _thin(steps, values):
  """At most `_MAX_POINTS` points: means over runs of equal length."""
  run = -(-len(steps) // _MAX_POINTS)
  if run <= 1:
    return steps, values
  starts = np.arange(0, len(steps), run)
  sizes = np.diff([*starts, len(steps)])
  return (
    np.add.reduceat(steps, starts) / sizes,
    np.add.reduceat(values, starts) / sizes,
  )


def _part(ax, texts):
  """Moves overlapping texts apart, up and down."""
  ax.figure.draw_without_rendering()  # Sets limits and sizes.
  boxes = [text.get_window_extent() for text in texts]
  centres = np.array([((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2) for b in boxes])
  sizes = np.array([(b.width, 0.9 * b.height) for b in boxes])
  for _ in range(100):
    moved = False
    for i in range(len(boxes)):
      for j in range(i):
        between = centres[i] - centres[j]
        overlap = (sizes[i] + sizes[j]) / 2 - np.abs(between)
        if np.all(overlap > 0.5):
          push = overlap[1] / 2 * (1 if between[1] >= 0 else -1)
          centres[i, 1] += push
          centres[j, 1] -= push
          moved = True
    if not moved:
      break
  for text, place in zip(texts, centres, strict=True):
    text.set_position(ax.transData.inverted().transform(place))


def _tick(value, position=None):
  """A number of an axis: 250, 12k, 1.5M."""
  del position
  if abs(value) >= 1e6:
    return f'{value / 1e6:g}M'
  if abs(value) >= 1e4:
    return f'{value / 1e3:g}k'
  return f'{value:g}'


def _scale(ax, values, name):
  """From zero, or logarithmic where a curve falls by orders."""
  falls = any(word in name for word in ('loss', 'risk', 'cost', 'norm'))
  if falls and values.min() > 0 and values.max() > 100 * values.min():
    ax.set_yscale('log')
    ax.yaxis.set_minor_locator(ticker.NullLocator())
  elif values.min() >= 0:
    ax.set_ylim(bottom=0)
  ax.yaxis.set_major_formatter(_tick)
  ax.xaxis.set_major_formatter(_tick)


def _number(value):
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'


def _dot(steps):
  """A lone point would be invisible as a line."""
  return 'o' if len(steps) == 1 else None


def _spread(values, gap, low, high):
  """Moves descending values apart to at least ``gap``, within bounds."""
  places = []
  for value in values:
    ceiling = places[-1] - gap if places else high
    places.append(min(value, ceiling))
  floor = low
  for i in reversed(range(len(places))):
    places[i] = max(places[i], floor)
    floor = places[i] + gap
  return places


def _short(name, size):
  if len(name) <= size:
    return name
  return name[: size - 1] + '\N{HORIZONTAL ELLIPSIS}'


def _svg(
  draw: Callable[[Any], None],
  ident: str,
  label: str,
  *,
  size: tuple[float, float] = _SIZE,
  right: float = 0.98,
) -> Markup:
  """Draws on fresh axes and returns an SVG element for the page."""
  with matplotlib.rc_context(
    {
      'svg.fonttype': 'none',
      'svg.hashsalt': ident,
      'text.parse_math': False,
      'font.size': 9.5,
      'axes.linewidth': 0.8,
      'axes.edgecolor': _MUTED,
      'axes.labelcolor': _MUTED,
      'axes.spines.top': False,
      'axes.spines.right': False,
      'axes.grid': True,
      'axes.axisbelow': True,
      'grid.color': _RULE,
      'grid.linewidth': 0.7,
      'lines.linewidth': 1.6,
      'text.color': _INK,
      'xtick.color': _MUTED,
      'ytick.color': _MUTED,
      'xtick.major.size': 0,
      'ytick.major.size': 0,
    }
  ):
    figure = Figure(figsize=size)
    backend_svg.FigureCanvasSVG(figure)
    ax = figure.add_axes((0.16, 0.16, right - 0.16, 0.8))
    draw(ax)
    out = io.StringIO()
    figure.savefig(
      out,
      format='svg',
      transparent=True,
      metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None},
    )
  return _adopt(out.getvalue(), ident, label)


def _adopt(svg: str, ident: str, label: str) -> Markup:
  """Makes a Matplotlib SVG a good citizen of the page."""
  svg = svg[svg.index('<svg') :]
  svg = re.sub(r'<metadata>.*?</metadata>\s*', '', svg, flags=re.S)
  # Ids are unique in the page, references follow.
  svg = re.sub(r'\bid="', f'id="{ident}-', svg)
  svg = re.sub(r'(href="|url\()#', rf'\1#{ident}-', svg)
  svg = re.sub(
    r'\b(fill|stroke): (#[0-9a-f]{6})\b',
    lambda m: f'{m[1]}: {_CSS.get(m[2], m[2])}',
    svg,
  )
  head, _, rest = svg.partition('>')
  box = re.search(r'viewBox="[^"]*"', head).group()
  return Markup(
    f'<svg {box} role="img" aria-label="{escape(label)}" '
    f'xmlns:xlink="http://www.w3.org/1999/xlink">{rest}'
  )


def _png(image: np.ndarray) -> str:
  """A data URL of an image in [0, 1], ``[H, W, C]``."""
  channels = image.shape[-1]
  if channels not in (1, 3):
    image = image.mean(axis=-1, keepdims=True)
  pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
  if pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, 'PNG', optimize=True)
  return 'data:image/png;base64,' + base64.b64encode(out.getvalue()).decode()
