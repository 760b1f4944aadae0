"""A pool of models: which number told how robust they are, model by model."""

from collections.abc import Mapping
import math
from typing import Any

from matplotlib import ticker
import numpy as np

from rrl_jax.report import _drawing, _files

COLUMNS = {
  'spearman': 'Spearman',
  'partial_spearman': 'partial Spearman',
  'pearson': 'Pearson',
  'partial_pearson': 'partial Pearson',
  'held_out_r_squared': 'held-out R²',
}
_RATIO = (
  ' This target is a ratio with the clean accuracy below the line, which'
  ' indicators called ratio have there too: such a pair goes together by'
  ' itself.'
)
_TESTED = ('spearman', 'partial_pearson', 'partial_spearman')
_MAX_BARS = 16  # Indicators in the drawing of strengths.
_MAX_ROWS = 16  # Of a table of indicators; the rest is folded up.
_MAX_SCATTERS = 6
_SWEEPS = {'accuracy': 0, 'purity': 1, 'ari': 2}  # Measure -> colour.


def content(table: Mapping[str, Any], gap: str, name: str) -> dict[str, Any]:
  """Everything that pool.html shows.

  Args:
    table: Contents of table.json.
    gap: What is wrong with the file, or ''.
    name: Of the pool's folder.

  Returns:
    What the template needs; only ``gap`` counts where that is not ''.
  """
  title = f'Robustness of the models in {name}'
  needed = ('models', 'targets', 'control', 'combination')
  missing = [field for field in needed if not table.get(field)]
  if not gap and missing:
    gap = f'table.json holds no {", ".join(missing)}'
  if gap:
    return {'title': title, 'gap': gap, 'highlights': []}
  target = next(iter(table['targets']))
  order = ranked(table, target)
  found = table['targets'][target]
  line = table.get('agreement_on_the_line', {})
  line_gap = '' if 'error' in line else line.get('left_out', 'none in the file')
  return {
    'title': title,
    'gap': '',
    'highlights': _highlights(table, found),
    'control': words(table['control']),
    'targets': [_target(table, name) for name in table['targets']],
    'strengths': [
      figure
      for figure in (_strengths(table, target), _sweep(found, target))
      if figure
    ],
    'scatters': _scatters(table, target, order),
    'ranking': _ranking(table, order),
    'heat': _heat(table, order),
    'line': {} if line_gap else _line(line, order),
    'line_gap': line_gap,
  }


def words(name: str) -> str:
  """``indicators/label_free/purity`` as ``label free purity``."""
  for prefix in ('indicators/', 'corruption/'):
    name = name.removeprefix(prefix)
  return name.replace('/', ' ').replace('_', ' ')


def ranked(table: Mapping[str, Any], target: str) -> list[str]:
  """Names of the models, the best by a target first, those without it last."""

  def worth(name):
    found = table['models'][name]['results'].get(target)
    return -math.inf if found is None else found['value']

  return sorted(table['models'], key=worth, reverse=True)


def _highlights(table, found):
  """How many models, what was strongest, how much of it was clean accuracy."""
  rows = [
    {'label': 'Models', 'value': len(table['models']), 'interval': ''},
  ]
  rows[0]['interval'] = f'of {found.get("num_recipes", 0)} recipes'
  associations = found.get('associations', {})
  control = associations.get(table['control'])
  if control and control['spearman']['value'] is not None:
    rows.append(
      {
        'label': f'Spearman of the {words(table["control"])}',
        **_number(control['spearman']),
      }
    )
  for which, label in (
    ('spearman', 'Strongest rank correlation'),
    ('partial_spearman', 'Strongest when that is held fixed'),
  ):
    best = _strongest(
      {
        name: row
        for name, row in associations.items()
        if name != table['control'] and not name.endswith('/clean_accuracy')
      },
      which,
    )
    if best:
      name, each = best[0]
      rows.append({'label': f'{label}: {words(name)}', **_number(each[which])})
  return rows


def _number(estimate):
  cell = _cell(estimate)
  return {'value': cell['text'], 'interval': cell['interval']}


def _strongest(associations, which):
  """Indicators by the size of a statistic, undefined ones left out."""
  rows = [
    (name, row)
    for name, row in associations.items()
    if row[which]['value'] is not None
  ]
  return sorted(rows, key=lambda item: -abs(item[1][which]['value']))


def _cell(estimate, form='{:.2f}'):
  """A number and its interval as text."""
  if estimate is None or estimate['value'] is None:
    return {'text': '', 'interval': ''}
  interval = ''
  if estimate.get('low') is not None and estimate.get('high') is not None:
    low, high = _short(form, estimate['low']), _short(form, estimate['high'])
    interval = f'{low} to {high}'
  return {'text': _short(form, estimate['value']), 'interval': interval}


def _short(form, value):
  """A number; a held-out fit that is off by far is off, no matter how far."""
  return '< -10' if value < -10 else form.format(value)


def _target(table, target):
  """The table of one target."""
  found = table['targets'][target]
  row = {
    'title': _drawing.words(words(target)),
    'gap': found.get('left_out', ''),
  }
  if row['gap']:
    return row
  associations = found['associations']
  strong = [name for name, _ in _strongest(associations, 'spearman')]
  names = strong + [name for name in associations if name not in strong]
  row['text'] = (
    f'{found["num_models"]} models of {found["num_recipes"]} recipes. Below'
    ' each number its 95% bootstrap interval over recipes; p-values by'
    ' permutation, below each that after Holm’s correction for all rows.'
    ' Without two: the partial Pearson without the two models that carry most'
    ' of it; table.md names them and has Kendall’s tau too.'
  ) + (_RATIO if 'relative' in target else '')
  rows = [
    {
      'name': words(name),
      'cells': [_cell(associations[name][which]) for which in COLUMNS]
      + [_p_value(associations[name][w]) for w in _TESTED]
      + [_without(found.get('weakest', {}).get(name))],
    }
    for name in names
  ]
  row |= {'rows': rows[:_MAX_ROWS], 'weaker': rows[_MAX_ROWS:]}
  row['columns'] = [
    *COLUMNS.values(), 'p of Spearman', 'p of partial Pearson',
    'p of partial Spearman', 'without two',
  ]  # fmt: skip
  row['combinations'] = [
    {'name': name.replace('_', ' '), **_cell(each)}
    for name, each in found.get('combinations', {}).items()
  ]
  return row


def _without(weakest):
  """What is left of a correlation without the models that carry it."""
  if not weakest or weakest['value'] is None:
    return {'text': '', 'interval': ''}
  return {'text': _short('{:.2f}', weakest['value']), 'interval': ''}


def _p_value(estimate):
  if estimate['p_value'] is None:
    return {'text': '', 'interval': ''}
  return {
    'text': f'{estimate["p_value"]:.2g}',
    'interval': f'{estimate["holm"]:.2g}',
  }


def _strengths(table, target):
  """Rank correlations of the strongest indicators, before and after control."""
  associations = table['targets'][target].get('associations', {})
  rows = _strongest(associations, 'spearman')[:_MAX_BARS]
  if not rows:
    return None
  height = 0.27 * len(rows) + 0.75

  def draw(ax):
    ax.set_position((0.42, 0.5 / height, 0.56, 1 - 0.6 / height))
    for shift, which, color, marker in (
      (0.13, 'spearman', _drawing.COLORS[0], 'o'),
      (-0.13, 'partial_spearman', _drawing.COLORS[1], 's'),
    ):
      for k, (_, row) in enumerate(rows):
        each = row[which]
        if each['value'] is None:
          continue
        place = len(rows) - 1 - k + shift
        if each['low'] is not None:
          ax.plot(
            (each['low'], each['high']), (place, place), color=color, lw=1.2
          )
        ax.plot(each['value'], place, marker, color=color, ms=4)
    ax.axvline(0, color=_drawing.MUTED, lw=0.8)
    ax.set(xlim=(-1.02, 1.02), ylim=(-0.6, len(rows) - 0.4))
    ax.set_xlabel('rank correlation')
    ax.set_yticks(
      range(len(rows)),
      [_drawing.short(words(name), 26) for name, _ in reversed(rows)],
    )
    ax.grid(visible=False, axis='y')

  return {
    'title': f'Rank correlation with the {words(target)}',
    'text': 'Circles: Spearman’s. Squares: the partial one, given the'
    f' {words(table["control"])}. Bars: 95% bootstrap intervals over recipes.'
    f' The {len(rows)} strongest of {len(associations)}.',
    'svg': _drawing.svg(
      draw, 'strengths', 'Rank correlations by indicator', size=(4.6, height)
    ),
  }


def _sweep(found, target):
  """Rank correlation of the multicut's scores by its threshold."""
  curves = {
    measure: rows
    for measure, rows in found.get('sweep', {}).items()
    if measure in _SWEEPS and len(rows) > 1
  }
  if not curves:
    return None

  def draw(ax):
    ends = []
    for measure, rows in curves.items():
      color = _drawing.COLORS[_SWEEPS[measure]]
      x = [row['threshold'] for row in rows]
      ax.plot(x, [row['value'] for row in rows], color=color, marker='o', ms=3)
      if all(row['low'] is not None for row in rows):
        ax.fill_between(
          x,
          [row['low'] for row in rows],
          [row['high'] for row in rows],
          color=color,
          alpha=0.15,
          lw=0,
        )
      ends.append((measure, rows[-1]['value'], color))
    ax.axhline(0, color=_drawing.MUTED, lw=0.8)
    ax.set(xlabel='threshold s0', ylabel='rank correlation', ylim=(-1, 1))
    _drawing.name_ends(ax, ends, 10)

  return {
    'title': 'Multicut by its threshold',
    'text': 'Spearman’s correlation of the clusters’ agreement with the labels'
    f' with the {words(target)}, one multicut a threshold of the cosine;'
    ' bands are 95% intervals. It is drawn, not tested.',
    'svg': _drawing.svg(
      draw, 'sweep', 'Rank correlation by threshold', right=0.8
    ),
  }


def _scatters(table, target, order):
  """Indicators against the target, a number a model."""
  associations = table['targets'][target].get('associations', {})
  names = [table['control'], *table['combination']]
  names += [name for name, _ in _strongest(associations, 'partial_spearman')]
  names += [name for name, _ in _strongest(associations, 'spearman')]
  names = [name for name in dict.fromkeys(names) if name in associations]
  figures = []
  for name in names[:_MAX_SCATTERS]:
    figure = _scatter(table, name, target, order, f'scatter{len(figures)}')
    if figure:
      figure['text'] = _said(associations[name], table['control'])
      figures.append(figure)
  return figures


def _said(row, control):
  """Both rank correlations in words."""
  found = []
  for which, label in (
    ('spearman', 'Spearman'),
    ('partial_spearman', f'given the {words(control)}'),
  ):
    cell = _cell(row[which])
    if cell['text']:
      interval = f' ({cell["interval"]})' if cell['interval'] else ''
      found.append(f'{label} {cell["text"]}{interval}')
  return f'{"; ".join(found)}.' if found else 'No rank correlation.'


def _scatter(table, name, target, order, ident):
  """One indicator against the target."""
  points = []
  for k, model in enumerate(order):
    results = table['models'][model]['results']
    if name in results and target in results:
      points.append((k + 1, results[name], results[target]))
  if len(points) < 2:
    return None

  def draw(ax):
    _crosses(ax, [(x, y) for _, x, y in points], _drawing.COLORS[0])
    ax.set(
      xlabel=_drawing.short(words(name), 48),
      ylabel=_drawing.short(words(target), 32),
    )
    _numbered(ax, [(k, x['value'], y['value']) for k, x, y in points])

  return {
    'title': _drawing.words(words(name)),
    'svg': _drawing.svg(
      draw, ident, f'{words(name)} against {words(target)}, a number a model'
    ),
  }


def _crosses(ax, pairs, color):
  """Points with the intervals of both numbers."""
  for x, y in pairs:
    for low_high, along in ((_ends(x), 0), (_ends(y), 1)):
      if low_high:
        other = (y if along == 0 else x)['value']
        line = (low_high, (other, other))
        ax.plot(
          *(line if along == 0 else line[::-1]), color=color, lw=0.7, alpha=0.45
        )
  ax.plot(
    [x['value'] for x, _ in pairs],
    [y['value'] for _, y in pairs],
    'o',
    color=color,
    ms=3.2,
  )
  ax.margins(0.06, 0.14)  # Room for numbers above the points.
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_locator(ticker.MaxNLocator(5))
    axis.set_major_formatter(_drawing.tick)


def _ends(found):
  """Interval of a number, where it has one that is wider than nothing."""
  low, high = found.get('low'), found.get('high')
  if low is None or high is None or low == high:
    return None
  return low, high


def _numbered(ax, points):
  """The models' numbers above their points, apart from each other."""
  texts = [
    ax.text(
      x,
      y,
      str(k),
      fontsize=7,
      ha='center',
      va='center',
      color=_drawing.INK,
    )
    for k, x, y in points
  ]
  ax.figure.draw_without_rendering()
  height = np.ptp(ax.get_ylim())
  for text in texts:
    x, y = text.get_position()
    text.set_position((x, y + 0.035 * height))
  _drawing.part(ax, texts)


def _ranking(table, order):
  """The models in order with what matters of each."""
  columns = [*table['targets'], table['control'], *table['combination']]
  columns = list(dict.fromkeys(columns))
  return {
    'columns': [words(name) for name in columns],
    'rows': [
      {
        'name': f'{k + 1}. {name.replace("_", " ")}',
        'source': table['models'][name].get('source') or '',
        'cells': [
          _cell(table['models'][name]['results'].get(column), '{:.3f}')
          for column in columns
        ],
      }
      for k, name in enumerate(order)
    ],
  }


def _heat(table, order):
  """Accuracy of each model on each corruption."""
  key = lambda name: f'corruption/{name}/accuracy'
  names = dict.fromkeys(
    field.split('/')[1]
    for model in table['models'].values()
    for field in model['results']
    if field.startswith('corruption/') and field.endswith('/accuracy')
  )
  if not names:
    return None
  rows = []
  for k, model in enumerate(order):
    results = table['models'][model]['results']
    values = [results.get(key(name), {}).get('value') for name in names]
    rows.append((f'{k + 1}. {model.replace("_", " ")}', values))
  there = [v for _, values in rows for v in values if v is not None]
  low, width = min(there), max(max(there) - min(there), 1e-9)

  def shade(value):
    if value is None:
      return {'text': '', 'share': None}
    share = round(55 * (value - low) / width)
    return {'text': f'{100 * value:.0f}', 'share': share}

  return {
    'columns': [name.replace('_', ' ') for name in names],
    'rows': [
      {'name': name, 'cells': [shade(v) for v in values]}
      for name, values in rows
    ],
  }


def _line(found, order):
  """Estimates of agreement on the line against the truth."""
  numbers = {name: k + 1 for k, name in enumerate(order)}
  points = [
    (numbers[name], each)
    for name, each in found['models'].items()
    if name in numbers and _files.is_number(each.get('truth'))
  ]

  def draw(ax):
    ends = [v for _, each in points for v in each.values()]
    ax.plot(*[(min(ends), max(ends))] * 2, color=_drawing.MUTED, lw=0.8)
    for which, color, marker in (
      ('simple', _drawing.COLORS[1], 's'),
      ('pairwise', _drawing.COLORS[0], 'o'),
    ):
      ax.plot(
        [each['truth'] for _, each in points],
        [each[which] for _, each in points],
        marker,
        color=color,
        ms=3.5,
      )
    ax.set(xlabel='mean accuracy, true', ylabel='estimated')
    ax.xaxis.set_major_formatter(_drawing.tick)
    ax.yaxis.set_major_formatter(_drawing.tick)
    _numbered(ax, [(k, e['truth'], e['pairwise']) for k, e in points])

  error = found['error']
  text = (
    'Models that agree with each other on corrupted images as on clean ones'
    ' keep their accuracy: a line through the agreements of pairs, which need'
    ' no labels there, carries the clean accuracies over. Mean absolute error'
    f' over {len(found["models"])} models and {found["num_lines"]} corruptions'
    f' at one severity: {error["simple"]:.1%} by the line alone,'
    f' {error["pairwise"]:.1%} by pairs, {error["clean_accuracy"]:.1%} if the'
    ' clean accuracy itself is taken. The agreements correlate at'
    f' {found["correlation"]:.2f} on average; where they do not, the line means'
    ' nothing.'
  )
  figures = []
  if points:
    figures.append(
      {
        'title': 'Mean accuracy over corruptions',
        'text': 'Circles: by pairs. Squares: by the line alone. On the'
        ' diagonal the estimate is right.',
        'svg': _drawing.svg(draw, 'line', 'Estimated against true accuracy'),
      }
    )
  return {'text': text, 'figures': figures}
