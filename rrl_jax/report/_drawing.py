"""Drawings as SVG that takes its colours from the page, pictures as PNG.

Matplotlib draws in marker colours, which then become CSS variables: one
drawing serves the light and the dark page, and its text is text.
"""

import base64
from collections.abc import Callable
import io
import re
from typing import Any

from markupsafe import Markup, escape
import matplotlib
from matplotlib import ticker
from matplotlib.backends import backend_svg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from rrl_jax.report import _files

INK, RULE, MUTED = '#010101', '#020202', '#030303'
NUM_COLORS = 8
COLORS = [f'#0400{k:02x}' for k in range(NUM_COLORS)]
_DASHES = ['-', (0, (4, 1.5)), (0, (1, 1.2))]
_CSS = {
  INK: 'currentColor',
  RULE: 'var(--rule)',
  MUTED: 'var(--muted)',
} | {color: f'var(--c{k})' for k, color in enumerate(COLORS)}
_SIZE = (4.6, 2.9)  # Inches: near its size on a phone, so text stays legible.
_MAX_POINTS = 300  # Of a curve; more are averaged in runs.


def words(name):
  """'train/step_scale' -> 'Step scale', 'test/loss' -> 'Test loss'."""
  words = name.removeprefix('train/').replace('/', ' ').replace('_', ' ')
  return words[:1].upper() + words[1:]


def series(metrics, name):
  """Steps and finite values of a metric."""
  rows = [
    (line['step'], line[name])
    for line in metrics
    if _files.is_number(line.get(name))
  ]
  steps, values = zip(*rows, strict=True) if rows else ((), ())
  return np.array(steps, np.float64), np.array(values, np.float64)


def thin(steps, values):
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


def part(ax, texts):
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


def tick(value, position=None):
  """A number of an axis: 250, 12k, 1.5M."""
  del position
  if abs(value) >= 1e6:
    return f'{value / 1e6:g}M'
  if abs(value) >= 1e4:
    return f'{value / 1e3:g}k'
  return f'{value:g}'


def scale(ax, values, name):
  """From zero, or logarithmic where a curve falls by orders."""
  falls = any(word in name for word in ('loss', 'risk', 'cost', 'norm'))
  if falls and values.min() > 0 and values.max() > 100 * values.min():
    ax.set_yscale('log')
    ax.yaxis.set_minor_locator(ticker.NullLocator())
  elif values.min() >= 0:
    ax.set_ylim(bottom=0)
  ax.yaxis.set_major_formatter(tick)
  ax.xaxis.set_major_formatter(tick)


def number(value):
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'


def dashes(k):
  """Of the k-th line, so that colours may repeat."""
  return _DASHES[k // NUM_COLORS % len(_DASHES)]


def dot(steps):
  """A lone point would be invisible as a line."""
  return 'o' if len(steps) == 1 else None


def spread(values, gap, low, high):
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


def name_ends(ax, lines, size=15):
  """Writes names beside the ends of lines, apart from each other.

  Args:
    ax: Axes with room to their right.
    lines: ``(name, last value, colour)`` of each.
    size: Characters of a name.
  """
  # Heights of the lines' ends in the axes, also on a logarithmic one.
  low, high = ax.transAxes.transform([(0, 0), (0, 1)])[:, 1]
  ends = [ax.transData.transform((0, last))[1] for _, last, _ in lines]
  ends = [(end - low) / (high - low) for end in ends]
  order = sorted(range(len(lines)), key=lambda k: -ends[k])
  places = spread([ends[k] for k in order], 0.072, 0.0, 1.0)
  for k, place in zip(order, places, strict=True):
    name, _, color = lines[k]
    ax.annotate(
      short(name, size),
      (1.02, place),
      xycoords='axes fraction',
      color=color,
      va='center',
    )


def short(name, size):
  if len(name) <= size:
    return name
  return name[: size - 1] + '\N{HORIZONTAL ELLIPSIS}'


def svg(
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
      'axes.edgecolor': MUTED,
      'axes.labelcolor': MUTED,
      'axes.spines.top': False,
      'axes.spines.right': False,
      'axes.grid': True,
      'axes.axisbelow': True,
      'grid.color': RULE,
      'grid.linewidth': 0.7,
      'lines.linewidth': 1.6,
      'text.color': INK,
      'xtick.color': MUTED,
      'ytick.color': MUTED,
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


def png(image: np.ndarray) -> str:
  """A data URL of an image, ``[H, W, C]``, bytes or floats in [0, 1]."""
  if image.dtype == np.uint8:
    image = image / 255
  channels = image.shape[-1]
  if channels not in (1, 3):
    image = image.mean(axis=-1, keepdims=True)
  pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
  if pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, 'PNG', optimize=True)
  return 'data:image/png;base64,' + base64.b64encode(out.getvalue()).decode()
