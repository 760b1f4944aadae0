"""What a run made of wrong labels: whom it learned from, whom it suspects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rrl_jax.report import _drawing, _files

_GROUPS = ('clean', 'flipped', 'abnormal')
# Told apart without colour vision too; the same in every figure and the key.
_COLORS = (_drawing.COLORS[0], _drawing.COLORS[1], _drawing.MUTED)
_CSS = ('var(--c0)', 'var(--c1)', 'var(--muted)')
_DASHED = (0, (3, 2))
_BINS = 20  # Of the histogram.
_MAX_IMAGES = 48
_TINY = 64  # Pixels a side, up to which an image is enlarged by pixels.
_LARGE = 160  # Pixels a side, from which an image is reduced.


def key(
  arrays: Mapping[str, np.ndarray], rates: Mapping[str, float]
) -> list[dict[str, str]]:
  """Names, meanings and colours of the groups that occur.

  Args:
    arrays: Contents of figures.npz.
    rates: Share of each group in the training split, where counted.

  Returns:
    ``{'name', 'meaning', 'color'}`` of each group.
  """
  meanings = (
    'its label is the true one',
    'its label is wrong',
    'its image belongs to no class',
  )
  groups = arrays.get('figure/label_group')
  there = [rates.get(name, 0) > 0 for name in _GROUPS]
  if groups is not None and _files.is_numeric(groups):
    there = [t or bool((groups == k).any()) for k, t in enumerate(there)]
  return [
    {'name': name, 'meaning': meaning, 'color': color}
    for name, meaning, color, t in zip(
      _GROUPS, meanings, _CSS, there, strict=True
    )
    if t
  ]


def rates(
  measured: Mapping[str, Mapping[str, Any]],
  metrics: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
  """Share of each group in the training split; empty if nobody knows.

  Args:
    measured: Numbers of results.json, as ``_results.measurements`` has them.
    metrics: Lines of metrics.jsonl by step.
  """
  found = {}
  for name in _GROUPS[1:]:
    metric = f'noise/{name}_rate'
    if metric in measured:
      found[name] = measured[metric]['number']
    else:
      _, values = _drawing.series(metrics, metric)
      if len(values):
        found[name] = float(values[-1])
  if not all(0 <= rate <= 1 for rate in found.values()) or not found:
    return {}
  return {'clean': max(1 - sum(found.values()), 0.0)} | found


def emphasis(
  arrays: Mapping[str, np.ndarray],
  metrics: Sequence[Mapping[str, Any]],
  *,
  known: bool,
) -> tuple[dict[str, Any] | None, str]:
  """How hard examples pull by their label's probability, and where they are.

  Args:
    arrays: Contents of figures.npz.
    metrics: Lines of metrics.jsonl by step, of which the last tells focus and
      spread.
    known: Whether it is known which labels are wrong.

  Returns:
    ``({'wide', 'title', 'svg', 'text'}, '')``, ``(None, what is wrong)``, or
    ``(None, '')`` if nobody looked at the labels.
  """
  p = arrays.get('figure/label_probability')
  group = arrays.get('figure/label_group')
  weight = arrays.get('figure/label_weight')
  if p is None:
    return None, ''
  if p.ndim != 1 or not len(p):
    return None, f'figure/label_probability has shape {p.shape}'
  if not _files.is_numeric(p) or p.min() < 0 or p.max() > 1.0001:
    return None, 'figure/label_probability holds values that are no probability'
  p = np.clip(p.astype(np.float64), 0, 1)
  if (
    group is None
    or group.shape != p.shape
    or not np.isin(group, range(3)).all()
  ):
    return None, 'figure/label_group does not tell the group of each example'
  if weight is not None and (
    weight.shape != p.shape or not _files.is_numeric(weight) or weight.min() < 0
  ):
    return None, 'figure/label_weight holds no weight of each example'
  members = {k: group == k for k in range(3) if (group == k).any()}
  if not known:
    members = {0: np.ones(len(p), bool)}
  colors = _COLORS if known else (_drawing.MUTED,)

  def draw(ax):
    edges = np.linspace(0, 1, _BINS + 1)
    below = ax
    if weight is not None:
      ax.set_position((0.16, 0.5, 0.8, 0.47))
      _draw_weight(ax, p, weight, members, colors, formula)
      ax.tick_params(labelbottom=False)
      below = ax.figure.add_axes((0.16, 0.13, 0.8, 0.3), sharex=ax)
    floor = np.zeros(_BINS)
    for k, those in members.items():
      counts, _ = np.histogram(p[those], edges)
      below.bar(
        (edges[1:] + edges[:-1]) / 2,
        counts,
        0.9 / _BINS,
        bottom=floor,
        color=colors[k],
      )
      floor = floor + counts
    below.set(
      xlim=(-0.015, 1.015),
      xlabel='p, the probability of the given label',
      ylabel='examples',
    )
    below.yaxis.set_major_formatter(_drawing.tick)
    below.xaxis.set_major_formatter(_drawing.tick)
    below.locator_params(axis='y', nbins=4, integer=True)

  formula = None if weight is None else _formula(metrics, p, weight)
  medians = ', '.join(
    f'{_GROUPS[k] if known else "all"} {np.median(p[those]):.2f}'
    for k, those in members.items()
  )
  bars = f'how many examples have which p (median: {medians}).'
  if weight is None:
    text = (
      f'Bars: {bars} A loss that resists leaves wrong labels on the left; one '
      'that memorises moves them to the right.'
    )
  else:
    line = 'their mean, dashed where none is'
    if formula:
      line = _written(*formula)
    text = (
      'Above: how hard examples pull (L1 norm of the loss gradient at their '
      'logits) by the probability p of their given label; dots: examples, '
      f'line: {line}. Below: {bars} A loss resists if wrong labels lie where '
      'the line is low, right ones where it is high.'
    )
  return {
    'wide': True,
    'title': 'Emphasis' if weight is not None else 'Probability of the labels',
    'svg': _drawing.svg(
      draw,
      'emphasis',
      'Weight and number of examples by the probability of their label',
      size=(4.6, 3.9 if weight is not None else 2.9),
    ),
    'text': text,
  }, ''


def _formula(metrics, p, weight):
  """Focus and spread that the weights do follow, or None."""
  found = [
    (line['train/focus'], line['train/spread'])
    for line in metrics
    if _files.is_number(line.get('train/focus'))
    and _files.is_number(line.get('train/spread'))
  ]
  if not found:
    return None
  with np.errstate(all='ignore'):
    wanted = _emphasis(p, *found[-1])
    exact = np.allclose(weight, wanted, rtol=0.01)
  return found[-1] if exact else None


def _written(focus, spread):
  """The emphasis as a formula."""
  power = {0: '', 1: ' p'}.get(focus, f' p^{focus:.3g}')
  formula = f'exp({spread:.3g}{power} (1 \N{MINUS SIGN} p))'
  return formula.replace(' ', '\N{NO-BREAK SPACE}')


def _emphasis(p, focus, spread):
  return np.exp(spread * p**focus * (1 - p))


def _draw_weight(ax, p, weight, members, colors, formula):
  """The curve, and some examples of each group that lie on it."""
  if formula:
    x = np.linspace(0, 1, 201)
    ax.plot(x, _emphasis(x, *formula), color=_drawing.INK, lw=1)
  else:
    bins = np.minimum((p * 2 * _BINS).astype(int), 2 * _BINS - 1)
    counts = np.bincount(bins, minlength=2 * _BINS)
    with np.errstate(invalid='ignore'):
      x = np.bincount(bins, p, 2 * _BINS) / counts
      y = np.bincount(bins, weight, 2 * _BINS) / counts
    there = counts > 0
    ax.plot(x[there], y[there], color=_drawing.INK, lw=0.8, linestyle=_DASHED)
    ax.plot(x, y, color=_drawing.INK, lw=1)
  # Where examples would lie on each other, one of the commonest group there.
  top = max(float(weight.max()), 1e-12)
  cells = np.stack([p * 50, weight / top * 50]).astype(int)
  _, chosen, cells = np.unique(
    cells, axis=1, return_index=True, return_inverse=True
  )
  tally = {
    k: np.bincount(cells.ravel()[those], minlength=len(chosen))
    for k, those in members.items()
  }
  commonest = np.array(list(tally))[np.argmax(list(tally.values()), axis=0)]
  for k in members:
    shown = chosen[commonest == k]
    ax.plot(
      p[shown],
      weight[shown],
      linestyle='none',
      marker='o',
      markersize=4,
      markeredgewidth=0,
      color=colors[k],
      clip_on=False,
      zorder=3,
    )
  ax.set_ylim(bottom=0)
  ax.set_ylabel('weight')
  ax.yaxis.set_major_formatter(_drawing.tick)


def mass(
  metrics: Sequence[Mapping[str, Any]], rates: Mapping[str, float]
) -> dict[str, Any] | None:
  """The share of the gradient that each group has, over steps.

  Args:
    metrics: Lines of metrics.jsonl by step.
    rates: Share of each group in the training split, where counted.

  Returns:
    ``{'wide', 'title', 'svg', 'text'}``, or None if nothing was logged.
  """
  lines = [
    (k, *_drawing.series(metrics, f'mass/{name}'))
    for k, name in enumerate(_GROUPS)
  ]
  lines = [line for line in lines if len(line[1])]
  if not lines:
    return None

  def draw(ax):
    for k, steps, values in lines:
      ax.plot(
        *_drawing.thin(steps, values),
        color=_COLORS[k],
        marker=_drawing.dot(steps),
      )
      if _GROUPS[k] in rates:
        ax.axhline(
          rates[_GROUPS[k]], color=_COLORS[k], lw=0.9, linestyle=_DASHED
        )
    _steps_and_shares(ax, 'share of the gradient')
    _drawing.name_ends(
      ax, [(_GROUPS[k], values[-1], _COLORS[k]) for k, _, values in lines]
    )

  ends = ', '.join(
    f'{_GROUPS[k]} {_percent(values[-1])}'
    + (
      f' (of the examples {_percent(rates[_GROUPS[k]])})'
      if _GROUPS[k] in rates
      else ''
    )
    for k, _, values in lines
  )
  return {
    'wide': False,
    'title': 'Who gets the gradient',
    'svg': _drawing.svg(
      draw, 'mass', 'Share of the gradient of each group by step', right=0.78
    ),
    'text': 'Share of each group in the sum of the L1 norms of the logit '
    'gradients'
    + ('; dashed, its share of the examples' if rates else '')
    + f'. A loss that resists gives wrong labels less than their share. At the '
    f'end: {ends}.',
  }


def fit(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
  """What was fitted, and what that did to the test accuracy, over steps.

  Args:
    metrics: Lines of metrics.jsonl by step.

  Returns:
    ``{'wide', 'title', 'svg', 'text'}``, or None if nothing was logged.
  """
  wanted = (
    ('fit/clean_accuracy', 'clean: label', _COLORS[0], '-'),
    ('fit/flipped_accuracy', 'flipped: label', _COLORS[1], '-'),
    ('fit/flipped_true_accuracy', 'flipped: truth', _COLORS[1], (0, (4, 1.5))),
    ('fit/abnormal_accuracy', 'abnormal: label', _COLORS[2], '-'),
    ('test/accuracy', 'test images', _drawing.INK, (0, (1, 1.2))),
  )
  lines = {
    name: (*_drawing.series(metrics, name), *style) for name, *style in wanted
  }
  lines = {name: line for name, line in lines.items() if len(line[0])}
  if not any(name.startswith('fit/') for name in lines):
    return None
  tested = lines.get('test/accuracy')
  best = None if tested is None else int(np.argmax(tested[1]))

  def draw(ax):
    for steps, values, _, color, dashes in lines.values():
      ax.plot(
        *_drawing.thin(steps, values),
        color=color,
        linestyle=dashes,
        marker=_drawing.dot(steps),
      )
    if tested is not None:
      ax.plot(
        tested[0][best],
        tested[1][best],
        marker='o',
        markersize=6,
        markerfacecolor='none',
        color=_drawing.INK,
      )
    _steps_and_shares(ax, 'accuracy')
    _drawing.name_ends(
      ax, [(name, values[-1], c) for _, values, name, c, _ in lines.values()]
    )

  text = 'Accuracy on training images against their given label'
  if 'fit/flipped_true_accuracy' in lines:
    text += '; dashed, of flipped ones against their true label'
  if tested is not None:
    text += '; dotted, on test images, the best ringed'
  text += '. '
  for name in ('flipped', 'abnormal'):
    if f'fit/{name}_accuracy' in lines:
      last = lines[f'fit/{name}_accuracy'][1][-1]
      text += f'Of {name} ones {_percent(last)} are memorised at the end. '
  if tested is not None:
    text += (
      f'Test accuracy: best {_percent(tested[1][best])} at step '
      f'{tested[0][best]:,.0f}, last {_percent(tested[1][-1])}.'
    )
  return {
    'wide': False,
    'title': 'What was learned, what memorised',
    'svg': _drawing.svg(
      draw, 'fit', 'Accuracy of each group by step', right=0.7
    ),
    'text': text,
  }


def _percent(share):
  return f'{100 * share:.1f}\N{NO-BREAK SPACE}%'


def _steps_and_shares(ax, label):
  """Axes of shares over steps."""
  ax.set(xlabel='step', ylabel=label, ylim=(0, 1.02))
  ax.set_xlim(left=min(0, ax.get_xlim()[0]))
  ax.xaxis.set_major_formatter(_drawing.tick)
  ax.yaxis.set_major_formatter(_drawing.tick)
  ax.locator_params(axis='x', nbins=6)


def suspicious(
  arrays: Mapping[str, np.ndarray], *, known: bool
) -> tuple[dict[str, Any] | None, str]:
  """Training images whose label the network finds least probable.

  Args:
    arrays: Contents of figures.npz.
    known: Whether it is known which labels are wrong.

  Returns:
    ``({'text', 'images'}, '')``, ``(None, what is wrong)``, or ``(None, '')``
    if nobody looked for them.
  """
  images = arrays.get('figure/suspicious_images')
  if images is None:
    return None, ''
  if images.ndim != 4 or not images.size or images.shape[-1] not in (1, 3):
    return None, f'figure/suspicious_images has shape {images.shape}'
  if not _files.is_numeric(images) or images.dtype.kind == 'i':
    return None, 'figure/suspicious_images holds values that are no pixels'
  columns = {}
  for name in ('given', 'predicted', 'true', 'probability'):
    column = arrays.get(f'figure/suspicious_{name}')
    if (
      column is None
      or column.shape != images.shape[:1]
      or not _files.is_numeric(column)
    ):
      return None, f'figure/suspicious_{name} does not go with the images'
    columns[name] = column.tolist()
  names = arrays.get('figure/class_names')
  name_of = lambda k: _files.class_name(names, int(k))
  rows = []
  for i, image in enumerate(images[:_MAX_IMAGES]):
    given, predicted, true, p = (column[i] for column in columns.values())
    if not known:
      truth, verdict = '', 3
    elif true < 0:
      truth, verdict = 'no class', 2
    else:
      truth, verdict = name_of(true), 0 if true == given else 1
    rows.append(
      {
        'src': _drawing.png(_reduced(image)),
        'tiny': max(image.shape[:2]) <= _TINY,
        'given': name_of(given),
        'predicted': name_of(predicted),
        'true': truth,
        'color': (*_CSS, 'var(--muted)')[verdict],
        'probability': f'{p:.2g}' if p >= 0.001 or not p else f'{p:.0e}',
        'kind': verdict,
      }
    )
  found = [sum(row['kind'] == k for row in rows) for k in range(3)]
  text = (
    f'The {len(rows)} training images whose label is least probable (p), in '
    'this order.'
    if len(rows) > 1
    else 'The training image whose label is least probable (p).'
  )
  if known:
    said = ('{} labelled rightly', '{} with a wrong label', '{} of no class')
    counts = [w.format(n) for w, n in zip(said, found, strict=True) if n]
    text += f' In truth: {", ".join(counts)}.'
  return {'text': text, 'images': rows}, ''


def _reduced(image):
  """At most `_LARGE` pixels a side: the page shows no more."""
  factor = -(-max(image.shape[:2]) // _LARGE)
  if factor == 1:
    return image
  scaled = image if image.dtype == np.uint8 else 255 * np.clip(image, 0, 1)
  channels = [
    Image.fromarray(np.round(scaled[..., c]).astype(np.uint8)).reduce(factor)
    for c in range(image.shape[-1])
  ]
  return np.stack([np.asarray(channel) for channel in channels], axis=-1)
