"""What target tasks withstand: their accuracies under attack, and the bound."""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any

import numpy as np

from rrl_jax.report import _drawing, _figures, _files

_NBSP = '\N{NO-BREAK SPACE}'
_TIMES = '\N{MULTIPLICATION SIGN}'
_PROTOCOLS = {  # Prefix of the keys -> (name, what is attacked).
  'linear_probe': (
    'Linear probe (SLF)',
    'SLF: a linear probe fitted on the frozen features of clean images.',
  ),
  'adversarial_probe': (
    'Adversarial probe (ALF)',
    'ALF: a linear probe fitted on those of attacked images.',
  ),
  'fine_tuning': (
    'Adversarial fine-tuning (AFF)',
    'AFF: the whole network, tuned on attacked images.',
  ),
}
_NAME = re.compile(
  rf'transfer/(?:(?P<task>.+)/)?(?P<protocol>{"|".join(_PROTOCOLS)})'
  r'_(?:(?P<attack>pgd\d+|auto_attack)_)?accuracy'
  r'(?:/epsilon=(?P<epsilon>[^/]+))?'
)
_AGREEMENT = re.compile(r'transfer/.+/linear_probe_zero_epsilon_agreement')
_MEAN = 'Mean over tasks'
_MAX_TASKS = 12  # In one figure, and with a figure of their own.
_BINS = 24
_CELLS = 120  # A side of the grid on which dots would lie on each other.
_BOUND = (  # Key -> (row of the table, what it is).
  ('clean_loss', 'Clean loss', 'nats'),
  ('adversarial_loss', 'Loss under attack', 'nats'),
  ('lipschitz', 'K, Lipschitz constant of the probe', ''),
  ('feature_shift', 'R, mean feature shift found', ''),
  ('', f'K {_TIMES} R', 'nats'),
  ('bound', f'Bound: clean loss + K {_TIMES} R', 'nats'),
  ('slack', 'Slack: bound minus loss under attack', 'nats'),
  ('violations', 'Images on which the inequality failed', ''),
  ('margin_certificate_rate', 'Margin above the shift found', ''),
  ('certified_feature_shift', 'Certified R: no attack shifts farther', ''),
  ('certified_bound', 'Certified bound', 'nats'),
  ('certified_accuracy', 'Certified accuracy: right under any attack', ''),
)

Measured = Mapping[str, Mapping[str, Any]]


def part(
  measured: Measured, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any] | None, set[str]]:
  """Everything that the page shows of attacked target tasks.

  Args:
    measured: Numbers of results.json, as ``_results.measurements`` has them.
    arrays: Contents of figures.npz.

  Returns:
    ``({'table', 'sanity', 'curve', 'bound', 'shifts', 'shifts_gap', 'pairs',
    'pairs_gap'}, names of the numbers shown)``; None and no names without an
    attack.
  """
  table, in_table = accuracies(measured)
  curve, in_curve = by_radius(measured, arrays)
  bound, in_bound = bounds(measured)
  if not (table or curve or bound):
    return None, set()
  sanity, in_sanity = _sanity(measured) if table else ('', [])
  if table:
    table['measures'] += _measures(measured[name] for name in in_sanity)
  shifts, shifts_gap = shift_figures(measured, arrays)
  pairs, pairs_gap = _figures.pairs(arrays, 'figure/probe_examples')
  return {
    'table': table,
    'sanity': sanity,
    'curve': curve,
    'bound': bound,
    'shifts': shifts,
    'shifts_gap': shifts_gap,
    'pairs': pairs,
    'pairs_gap': '' if ' holds no ' in pairs_gap else pairs_gap,
  }, in_table | in_curve | in_bound | set(in_sanity)


def accuracies(
  measured: Measured,
) -> tuple[dict[str, Any] | None, set[str]]:
  """Tasks by attacks.

  Args:
    measured: Numbers by name.

  Returns:
    ``({'text', 'protocols', 'attacks', 'rows', 'measures'}, names)``: what the
    columns are, the two rows of the head, rows of cells, and how each number
    was measured; None if nothing was attacked.
  """
  cells, tasks = {}, {}
  for name, row in measured.items():
    found = _NAME.fullmatch(name)
    if found and found['epsilon'] is None:
      task, protocol, attack = found['task'], found['protocol'], found['attack']
      cells[task, protocol, attack] = row
      tasks[task] = None
  if not any(attack for _, _, attack in cells):
    return None, set()
  columns = sorted(
    {(protocol, attack) for _, protocol, attack in cells},
    key=lambda c: (list(_PROTOCOLS).index(c[0]), _strength(c[1])),
  )
  order = [task for task in tasks if task is not None]
  if len(order) != 1 and None in tasks:  # Of one task it says nothing new.
    order.append(None)
  spans = {
    protocol: sum(p == protocol for p, _ in columns) for protocol in _PROTOCOLS
  }
  return {
    'text': ' '.join(_PROTOCOLS[p][1] for p, span in spans.items() if span),
    'protocols': [
      {'name': _PROTOCOLS[p][0], 'span': span}
      for p, span in spans.items()
      if span
    ],
    'attacks': [
      {
        'name': _attack(attack),
        'first': k == 0 or columns[k - 1][0] != protocol,
      }
      for k, (protocol, attack) in enumerate(columns)
    ],
    'rows': [
      {
        'name': _MEAN if task is None else task,
        'mean': task is None,
        'cells': [_cell(cells.get((task, *column))) for column in columns],
      }
      for task in order
    ],
    'measures': _measures(
      [
        cells[task, *column]
        for task in tasks
        for column in columns
        if (task, *column) in cells
      ]
    ),
  }, {row['name'] for row in cells.values()}


def _strength(attack):
  """Order of the columns: clean, PGD by its steps, AutoAttack."""
  if attack is None:
    return 0, 0
  return (2, 0) if attack == 'auto_attack' else (1, int(attack[3:]))


def _attack(attack):
  if attack is None:
    return 'clean'
  return 'AutoAttack' if attack == 'auto_attack' else f'PGD-{attack[3:]}'


def _measures(rows):
  """Name and protocol of each number."""
  return [
    {
      'name': row['name'],
      'protocol': row['protocol'] or 'No protocol was written.',
    }
    for row in rows
  ]


def _sanity(measured):
  """What an attack of radius 0 did; nothing unless it did nothing."""
  rows = [row for name, row in measured.items() if _AGREEMENT.fullmatch(name)]
  if not rows or any(row['number'] != 1 for row in rows):
    return '', []
  return 'As a check, the attack with radius 0 changed no prediction.', [
    row['name'] for row in rows
  ]


def by_radius(
  measured: Measured, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any] | None, set[str]]:
  """Accuracy of linear probes by the radius of the attack, a line a task.

  Args:
    measured: Numbers by name.
    arrays: Contents of figures.npz; ``figure/probe_epsilon`` is the radius of
      the accuracies that name none.

  Returns:
    ``({'title', 'svg', 'text', 'head', 'table', 'hidden', 'measures'},
    names)``; None without further radii.
  """
  main = arrays.get('figure/probe_epsilon')
  if main is not None and not (main.shape == () and _files.is_numeric(main)):
    main = None
  lines: dict[str | None, dict[float, Any]] = {}
  attack, further = None, []
  for name, row in measured.items():
    found = _NAME.fullmatch(name)
    if not (found and found['epsilon'] and found['attack'] and row['bar']):
      continue
    try:
      radius = float(found['epsilon'])
    except ValueError:
      continue
    attack = attack or (found['protocol'], found['attack'])
    if np.isfinite(radius) and attack == (found['protocol'], found['attack']):
      lines.setdefault(found['task'], {})[radius] = row
      further.append(row)
  if not lines:
    return None, set()
  if main is not None:
    for task, line in lines.items():
      prefix = 'transfer/' if task is None else f'transfer/{task}/'
      row = measured.get(f'{prefix}{"_".join(attack)}_accuracy')
      if row is not None and row['bar']:
        line.setdefault(float(main), row)
  named = {task: sorted(line.items()) for task, line in lines.items() if task}
  named = named or {_MEAN: sorted(lines[None].items())}
  radii = sorted({radius for line in lines.values() for radius in line})
  shown = list(named.items())[:_MAX_TASKS]

  def draw(ax):
    for k, (_, line) in enumerate(shown):
      x = np.array([radius for radius, _ in line])
      low = np.array([row['bar']['low'] for _, row in line]) / 100
      width = np.array([row['bar']['width'] for _, row in line]) / 100
      color = _drawing.COLORS[k % _drawing.NUM_COLORS]
      ax.fill_between(x, low, low + width, color=color, alpha=0.15, lw=0)
      ax.plot(
        x,
        [row['number'] for _, row in line],
        color=color,
        linestyle=_drawing.dashes(k),
        marker='o',
        markersize=4,
        clip_on=False,
      )
    ax.set(xlabel='radius', ylabel='accuracy', ylim=(0, 1.02))
    ax.set_xlim(left=min(0, radii[0]))
    ax.xaxis.set_major_formatter(_drawing.tick)
    ax.yaxis.set_major_formatter(_drawing.tick)
    ax.locator_params(axis='x', nbins=6)
    _drawing.name_ends(
      ax,
      [
        (name, line[-1][1]['number'], _drawing.COLORS[k % _drawing.NUM_COLORS])
        for k, (name, line) in enumerate(shown)
      ],
    )

  rows = [
    {
      'name': _MEAN if task is None else task,
      'cells': [_cell(lines[task].get(radius)) for radius in radii],
    }
    for task in sorted(lines, key=lambda task: task is None)
  ]
  return {
    'title': 'Accuracy by the radius of the attack',
    'svg': _drawing.svg(
      draw, 'radius', 'Accuracy of each task by radius', right=0.7
    ),
    'text': f'{_PROTOCOLS[attack[0]][0]} under {_attack(attack[1])} of '
    f'{len(radii)} radii, in units of images in [0,{_NBSP}1]; bands are '
    f'95{_NBSP}% intervals. The table below holds the numbers.',
    'head': [f'{radius:g}' for radius in radii],
    'table': rows,
    'hidden': max(len(named) - _MAX_TASKS, 0),
    'measures': _measures(further),
  }, {row['name'] for row in further}


def bounds(
  measured: Measured,
) -> tuple[dict[str, Any] | None, set[str]]:
  """Both sides of the bound, a column a task.

  Args:
    measured: Numbers by name.

  Returns:
    ``({'tasks', 'rows', 'says', 'measures'}, names)``; None without a bound.
  """
  tasks = [
    name.removeprefix('bound/').removesuffix('/bound')
    for name in measured
    if name.startswith('bound/') and name.endswith('/bound')
  ]
  of = {
    task: {
      key: measured[f'bound/{task}/{key}']
      for key, *_ in _BOUND
      if f'bound/{task}/{key}' in measured
    }
    for task in tasks
  }
  for found in of.values():
    # Before there were certified shifts, the rate had this name.
    if 'certified_bound' not in found:
      found.pop('certified_accuracy', None)
  needed = {'clean_loss', 'adversarial_loss', 'lipschitz', 'feature_shift'}
  tasks = [task for task in tasks if needed <= set(of[task])]
  if not tasks:
    return None, set()
  rows = []
  for key, label, unit in _BOUND:
    cells = []
    for task in tasks:
      if key:
        cells.append(_cell(of[task].get(key)))
      else:
        product = _number(of[task], 'lipschitz') * _number(
          of[task], 'feature_shift'
        )
        cells.append({'value': _short(product), 'interval': ''})
    if any(cells):
      rows.append({'label': label, 'unit': unit, 'cells': cells})
  shown = [row for task in tasks for row in of[task].values()]
  return {
    'tasks': tasks,
    'rows': rows,
    'says': _verdict([of[task] for task in tasks], tasks),
    'measures': _measures(shown),
  }, {row['name'] for row in shown}


def _cell(row):
  """Value and interval, short, without nats."""
  if row is None:
    return None
  if row['bar']:  # What is said with the value needs no second time.
    interval = row['interval'].removesuffix(f'{_NBSP}%')
    return {'value': row['value'], 'interval': interval}
  interval = row['interval']
  if interval not in ('exact', 'none'):
    low, high = row['ends']
    interval = f'{_short(low)} to {_short(high)}'
  return {'value': _short(row['number']), 'interval': interval}


def _short(value):
  """Three digits, or all before the point."""
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def _number(found, key):
  return found[key]['number']


def _verdict(found: Sequence[Measured], tasks: Sequence[str]) -> str:
  """Whether the inequality was seen to hold, and how loose it is."""
  broken = [
    f'{f["violations"]["value"]} of the images of {task}'
    for f, task in zip(found, tasks, strict=True)
    if 'violations' in f and _number(f, 'violations') > 0
  ]
  if broken:
    words = (
      f'The inequality was seen to fail on {", ".join(broken)}: there the '
      'attack on the features found less than the attack on the loss used.'
    )
  elif all('violations' in f for f in found):
    words = 'The inequality was seen to hold on every attacked image.'
  else:
    words = ''
  loose = _ratios(
    found,
    lambda f: _number(f, 'bound'),
    lambda f: _number(f, 'adversarial_loss'),
  )
  used = _ratios(
    found,
    lambda f: 100 * (_number(f, 'adversarial_loss') - _number(f, 'clean_loss')),
    lambda f: _number(f, 'lipschitz') * _number(f, 'feature_shift'),
  )
  if loose:
    words += f' The bound is {loose} times the loss under attack'
    words += (
      f'; that rose by {used}{_NBSP}% of K {_TIMES} R, which the bound allows.'
      if used
      else '.'
    )
  certified = [f for f in found if 'certified_bound' in f]
  if certified:
    ratio = _ratios(
      certified,
      lambda f: _number(f, 'certified_feature_shift'),
      lambda f: _number(f, 'feature_shift'),
    )
    if ratio:
      words += (
        f' What bound propagation certifies is {ratio} times the shift found'
      )
      shares = [
        f['certified_accuracy'] for f in certified if 'certified_accuracy' in f
      ]
      best = max(shares, key=lambda row: row['number'], default=None)
      if best is None:
        words += '.'
      elif best['number'] == 0:
        words += ': it holds for every attack, and certifies no image here.'
      else:
        words += (
          ': it holds for every attack, and certifies up to '
          f'{best["value"]} of the images of a task.'
        )
  return words.strip()


def _ratios(
  found: Sequence[Measured],
  above: Callable[[Measured], float],
  below: Callable[[Measured], float],
) -> str:
  """'12 to 15', the least and the greatest ratio; '' if one has none."""
  if any(below(f) <= 0 for f in found):
    return ''
  ratios = [above(f) / below(f) for f in found]
  low, high = (
    f'{r:.0f}' if r >= 9.95 else f'{r:.2g}' for r in (min(ratios), max(ratios))
  )
  return low if low == high else f'{low} to {high}'


def shift_figures(
  measured: Measured, arrays: Mapping[str, np.ndarray]
) -> tuple[list[dict[str, Any]], str]:
  """Of each task: rise of the loss against feature shift, and how often.

  Args:
    measured: Numbers by name.
    arrays: Contents of figures.npz.

  Returns:
    ``(figures, what is wrong)``; figures are ``{'title', 'svg', 'text'}``.
  """
  prefix = 'figure/bound_shift/'
  figures, gaps = [], []
  tasks = [n.removeprefix(prefix) for n in arrays if n.startswith(prefix)]
  for k, task in enumerate(tasks[:_MAX_TASKS]):
    shift = arrays[f'{prefix}{task}']
    rise = arrays.get(f'figure/bound_loss_gap/{task}')
    slope = measured.get(f'bound/{task}/lipschitz')
    if shift.ndim != 1 or not len(shift):
      gaps.append(f'{prefix}{task} has shape {shift.shape}')
    elif not _files.is_numeric(shift) or shift.min() < 0:
      gaps.append(f'{prefix}{task} holds values that are no lengths')
    else:
      if (
        slope is None
        or rise is None
        or rise.shape != shift.shape
        or not _files.is_numeric(rise)
      ):
        rise = None
      figures.append(
        _shift_figure(
          task,
          f'shift{k}',
          shift.astype(np.float64),
          None if rise is None else rise.astype(np.float64),
          None if rise is None else slope['number'],
        )
      )
  return figures, '; '.join(gaps)


def _shift_figure(task, ident, shift, rise, slope):
  """A histogram, below a scatter if the rise of the loss is known."""
  top = 1.05 * shift.max() or 1.0

  def draw(ax):
    below = ax
    if rise is not None:
      ax.set_position((0.16, 0.46, 0.8, 0.5))
      _draw_rise(ax, shift, rise, slope, top)
      below = ax.figure.add_axes((0.16, 0.13, 0.8, 0.26), sharex=ax)
    counts, edges = np.histogram(shift, _BINS, (0, top))
    below.bar(
      (edges[1:] + edges[:-1]) / 2,
      counts,
      0.9 * top / _BINS,
      color=_drawing.COLORS[0],
    )
    below.axvline(
      shift.mean(), color=_drawing.INK, lw=1.2, linestyle=(0, (3, 2))
    )
    below.set(xlim=(0, top), xlabel='shift of the features', ylabel='images')
    below.xaxis.set_major_formatter(_drawing.tick)
    below.yaxis.set_major_formatter(_drawing.tick)
    below.locator_params(axis='y', nbins=3, integer=True)
    below.locator_params(axis='x', nbins=6)

  low, middle, high = np.quantile(shift, (0.05, 0.5, 0.95))
  text = (
    f'Largest shift of the features that the attack found, {len(shift):,} test '
    f'images: median {middle:.3g}, 5{_NBSP}% to 95{_NBSP}% {low:.3g} to '
    f'{high:.3g}, mean R{_NBSP}={_NBSP}{shift.mean():.3g} (dashed).'
  )
  if rise is not None:
    most = slope * shift
    share = np.max(rise[most > 0] / most[most > 0], initial=0)
    text += (
      ' Above, how much an attack of its own raised the loss of each: the line '
      f'is K {_TIMES} shift, and the image nearest to it reaches '
      f'{100 * share:.0f}{_NBSP}% of it.'
    )
    over = int(_is_over(rise, most).sum())
    if over:
      text += f' {over} above the line are crosses.'
  return {
    'title': task,
    'svg': _drawing.svg(
      draw,
      ident,
      f'Feature shift of each image of {task}'
      + (' and rise of its loss' if rise is not None else ''),
      size=(4.6, 2.9 if rise is None else 4.2),
    ),
    'text': text,
  }


def _is_over(rise, most):
  return rise - most > 1e-5 * np.maximum(rise, 1)


def _draw_rise(ax, shift, rise, slope, top):
  """Dots under the line K x, crosses above it."""
  ax.plot([0, top], [0, slope * top], color=_drawing.INK, lw=1)
  over = _is_over(rise, slope * shift)
  span = max(np.ptp(rise), 1e-12)
  cells = np.stack([shift / top, (rise - rise.min()) / span]) * _CELLS
  _, chosen = np.unique(
    np.concatenate([cells.astype(int), over[None]]), axis=1, return_index=True
  )
  for those, color, marker in (
    (~over, _drawing.COLORS[0], 'o'),
    (over, _drawing.COLORS[1], 'x'),
  ):
    dots = chosen[those[chosen]]
    ax.plot(
      shift[dots],
      rise[dots],
      linestyle='none',
      marker=marker,
      markersize=3.5,
      markeredgewidth=0 if marker == 'o' else 1.2,
      color=color,
      alpha=0.7,
    )
  ax.set_ylim(bottom=min(0, rise.min()))
  ax.set_ylabel('rise of the loss, nats')
  ax.yaxis.set_major_formatter(_drawing.tick)
  ax.tick_params(labelbottom=False)
