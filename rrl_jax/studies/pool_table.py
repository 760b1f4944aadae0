"""What a pool of models shows: associations, a ranking, agreement on the line.

Everything is plain data that goes to table.json; the page is drawn from it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrl_jax import indicators as indicators_lib
from rrl_jax.errors import DataError
from rrl_jax.studies import association

# What is measured beside the indicators, under the same prefix.
_NO_INDICATORS = ('multicut_num_examples', '_mean_absolute_error')
_SWEPT = ('accuracy', 'purity', 'ari', 'num_clusters')
_RATIO = (
  'A ratio with the clean accuracy below the line, which an indicator whose'
  ' name ends in ratio has there too: such a pair goes together by itself.'
)
_COLUMNS = {
  'pearson': 'Pearson',
  'spearman': 'Spearman',
  'kendall': 'Kendall',
  'held_out_r_squared': 'held-out R^2',
  'partial_pearson': 'partial Pearson',
  'partial_spearman': 'partial Spearman',
}

TESTED = ('spearman', 'partial_pearson', 'partial_spearman')


def indicator_names(
  results: Sequence[Mapping[str, float]], control: str
) -> list[str]:
  """What may tell robustness: the control, clean indicators, then rivals.

  Rivals look at shifted images. The sweep over thresholds is drawn, not
  tested: its many numbers would weigh on every corrected p-value.
  """
  found = dict.fromkeys(name for row in results for name in row)
  names = [
    name
    for prefix in ('indicators/', 'shifted/')
    for name in found
    if name.startswith(prefix)
    and '/sweep/' not in name
    and not name.endswith(_NO_INDICATORS)
  ]
  return list(dict.fromkeys([control, *names]))


def relate(
  results: Sequence[Mapping[str, float]],
  names: Sequence[str],
  recipes: Sequence[str],
  *,
  target: str,
  control: str,
  combination: Sequence[str],
  resamples: int,
  seed: int,
  permutations: int = 10_000,
) -> dict[str, Any]:
  """Associations of every indicator with one target, as plain data.

  Args:
    results: Of each model, number by name.
    names: Of the models.
    recipes: Of each model, what it shares with others of its recipe.
    target: Name of what is to be told.
    control: Name of what is known anyway; models without it are left out, as
      are those without the target.
    combination: Indicators that are fitted together.
    resamples: Bootstrap draws.
    seed: Of all draws.
    permutations: For p-values.

  Returns:
    ``num_models``, ``num_recipes``, ``associations`` (indicator -> statistic ->
    value, low, high, p_value, holm), ``weakest`` (indicator -> value and
    left_out, the partial Pearson correlation without the models of the two
    recipes that carry most of it), ``combinations`` (name -> value and interval
    of the held-out R^2) and ``sweep`` (measure -> rows of threshold and rank
    correlation); or ``left_out``, why there is none of that.
  """
  rows = [
    i for i, row in enumerate(results) if target in row and control in row
  ]
  results = [results[i] for i in rows]
  names = [names[i] for i in rows]
  recipes = [recipes[i] for i in rows]
  counts = {'num_models': len(rows), 'num_recipes': len(set(recipes))}
  if counts['num_recipes'] < association.MIN_MODELS:
    return counts | {
      'left_out': f'{counts["num_recipes"]} recipes have {target} and {control}'
    }
  column = lambda name: np.array([row.get(name, np.nan) for row in results])
  kw = {'clusters': recipes, 'resamples': resamples, 'seed': seed}
  y, z = column(target), column(control)
  found = association.associations(
    {name: column(name) for name in indicator_names(results, control)},
    y,
    control=z,
    permutations=permutations,
    **kw,
  )
  plain = {
    name: {which: each._asdict() for which, each in row.items()}
    for name, row in found.items()
  }
  return counts | {
    'associations': plain,
    'weakest': {
      name: _weakest(column(name), y, z, names, recipes) for name in plain
    },
    'combinations': _combinations(column, y, control, combination, kw),
    'sweep': _sweep(results, column, y, kw),
  }


def _weakest(x, y, z, names, recipes):
  """Without the two recipes that carry most, of models that have x."""
  kept = np.flatnonzero(np.isfinite(x))
  clusters = [recipes[i] for i in kept]
  if len(set(clusters)) < association.MIN_MODELS:
    return {'value': None, 'left_out': []}
  value, gone = association.weakest_partial(
    x[kept], y[kept], z[kept], clusters=clusters
  )
  return {
    'value': value,
    'left_out': [names[i] for i in kept if recipes[i] in gone],
  }


def _combinations(column, y, control, combination, kw):
  """Held-out R^2 of the control, of the indicators, of both."""
  there = [name for name in combination if np.all(np.isfinite(column(name)))]
  short = lambda names: ' + '.join(name.split('/')[-1] for name in names)
  found = {}
  for names in ([control], there, [control, *there]):
    if names and short(names) not in found:
      estimate = association.combine(
        {name: column(name) for name in names}, y, **kw
      )
      found[short(names)] = estimate._asdict()
  return found


def _sweep(results, column, y, kw):
  """Rank correlation of the multicut's scores by threshold."""
  names = sorted(
    {
      name
      for row in results
      for name in row
      if name.startswith('indicators/sweep/')
    }
  )
  found = association.associations(
    {name: column(name) for name in names}, y, permutations=0, **kw
  )
  curves = {}
  for name in names:
    threshold, measure = name.removeprefix('indicators/sweep/').split('/', 1)
    each = found[name]['spearman']
    if each.value is not None:
      curves.setdefault(measure, []).append(
        {'threshold': float(threshold)} | each._asdict()
      )
  for rows in curves.values():
    rows.sort(key=lambda row: row['threshold'])
  return curves


def sweep(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
  """A model's multicuts at other thresholds, as numbers by name.

  Args:
    arrays: Its ``indicator_thresholds [T]`` and ``indicator_sweep [T, 4]``
      (accuracy, purity, adjusted Rand index, clusters), if it has them.

  Returns:
    ``indicators/sweep/<threshold>/<measure>`` to number.
  """
  thresholds = arrays.get('indicator_thresholds')
  values = arrays.get('indicator_sweep')
  if thresholds is None or values is None:
    return {}
  return {
    f'indicators/sweep/{threshold:g}/{measure}': float(value)
    for threshold, row in zip(thresholds, values, strict=True)
    for measure, value in zip(_SWEPT, row, strict=True)
    if np.isfinite(value)
  }


def estimates(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Mean over models of how far each estimate of an accuracy is off."""
  end = '_mean_absolute_error'
  found = {}
  for row in results:
    for name, value in row.items():
      if name.startswith('shifted/') and name.endswith(end):
        short = name.removeprefix('shifted/').removesuffix(end)
        found.setdefault(short, []).append(value)
  return {name: float(np.mean(values)) for name, values in found.items()}


def agreement_on_the_line(
  figures: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
  """Accuracies on each corruption by how far models agree, and how far off.

  Args:
    figures: Of each model, its arrays ``clean_predictions [N]``,
      ``corruption_predictions [C, S, N]``, ``corruption_labels [N]`` and
      ``corruption_accuracy [C, S]``; models without are left out.

  Returns:
    ``models`` (name -> estimates of its mean accuracy over corruptions by the
    line alone, by pairs, and the truth), ``error`` (mean absolute error of
    both and of the clean accuracy, over models, corruptions and severities),
    ``correlation`` (of the agreements, mean over the lines) and ``num_lines``;
    or ``left_out``, why there is none of that.
  """
  needed = (
    'clean_predictions', 'corruption_predictions', 'corruption_labels'
  )  # fmt: skip
  names = [
    name for name, arrays in figures.items() if all(k in arrays for k in needed)
  ]
  if len(names) < 3:
    return {'left_out': f'{len(names)} models have predictions'}
  labels = figures[names[0]]['corruption_labels']
  shape = figures[names[0]]['corruption_predictions'].shape
  for name in names:
    if figures[name][
      'corruption_predictions'
    ].shape != shape or not np.array_equal(
      figures[name]['corruption_labels'], labels
    ):
      return {
        'left_out': f'{name} and {names[0]} were tested on different images'
      }
  clean, shifted = (
    np.stack([figures[name][which].astype(np.int64) for name in names])
    for which in ('clean_predictions', 'corruption_predictions')
  )
  shifted = shifted.reshape(len(names), -1, len(labels))  # [M, C S, N]
  truth = np.mean(shifted == labels, axis=-1)
  estimates, correlations, kept = [], [], []
  for k in range(shifted.shape[1]):
    try:
      found = indicators_lib.agreement_on_the_line(clean, labels, shifted[:, k])
    except DataError:
      continue  # Models agree too much or too little for a line.
    estimates.append((found.simple, found.pairwise))
    correlations.append(found.correlation)
    kept.append(k)
  if not kept:
    return {'left_out': 'no corruption leaves pairs enough for a line'}
  truth = truth[:, kept].T  # [lines, M]
  simple, pairwise = np.moveaxis(np.array(estimates), 1, 0)
  on_clean = np.mean(clean == labels, axis=-1)
  error = lambda guess: float(np.mean(np.abs(guess - truth)))
  return {
    'models': {
      name: {
        'simple': float(simple[:, i].mean()),
        'pairwise': float(pairwise[:, i].mean()),
        'truth': float(truth[:, i].mean()),
      }
      for i, name in enumerate(names)
    },
    'error': {
      'simple': error(simple),
      'pairwise': error(pairwise),
      'clean_accuracy': error(on_clean[None]),
    },
    'correlation': float(np.mean(correlations)),
    'num_lines': len(kept),
  }


def to_markdown(table: Mapping[str, Any]) -> str:
  """The table as Markdown."""
  control = table['control']
  lines = []
  for target, found in table['targets'].items():
    lines += [f'## {words(target)}', '']
    if 'left_out' in found:
      lines += [f'Left out: {found["left_out"]}.', '']
      continue
    lines += [
      f'{found["num_models"]} models of {found["num_recipes"]} recipes. Behind'
      ' each number its 95% bootstrap interval over recipes; p by permutation,'
      ' behind it after Holm over all rows. Partial: given'
      f' {words(control)}; without two: the partial Pearson without the two'
      ' models that carry most of it.'
      + (f' {_RATIO}' if 'relative' in target else ''),
      '',
      f'| indicator | {" | ".join(_COLUMNS.values())} |'
      f' {" | ".join(f"p of {words(name)}" for name in TESTED)} |'
      ' without two |',
      '|---' * (len(_COLUMNS) + len(TESTED) + 2) + '|',
    ]
    rows = sorted(found['associations'].items(), key=_strength, reverse=True)
    for name, row in rows:
      cells = [_interval(row[which]) for which in _COLUMNS]
      cells += [_p_values(row[which]) for which in TESTED]
      cells.append(_without(found['weakest'][name]))
      lines.append(f'| {words(name)} | {" | ".join(cells)} |')
    lines += ['', 'Held-out R^2 of a fit to several numbers together:', '']
    lines += [
      f'* {name.replace("_", " ")}: {_interval(each) or "too few models"}'
      for name, each in found['combinations'].items()
    ]
    lines.append('')
  lines += _ranking(table) + _agreement(table['agreement_on_the_line'])
  if table['estimates']:
    found = ', '.join(
      f'{name.replace("_", " ")} {error:.1%}'
      for name, error in table['estimates'].items()
    )
    lines += [f'Of estimates that look at one model: {found}.', '']
  return '\n'.join(lines)


def words(name: str) -> str:
  """``indicators/label_free/purity`` as ``label free purity``."""
  for prefix in ('indicators/', 'corruption/'):
    name = name.removeprefix(prefix)
  return name.replace('_', ' ').replace('/', ' ')


def ranked(table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
  """The models, the best by the first target first, those without it last."""
  target = next(iter(table['targets']))
  worth = lambda item: item[1]['results'].get(target, {}).get('value', -np.inf)
  return sorted(table['models'].items(), key=worth, reverse=True)


def shown(table: Mapping[str, Any]) -> list[str]:
  """The numbers that stand beside a model's name."""
  names = [*table['targets'], table['control'], *table['combination']]
  return list(dict.fromkeys(names))


def _ranking(table):
  """The models in order, a row each."""
  columns = shown(table)
  lines = [
    '## Models',
    '',
    f'| model | {" | ".join(words(name) for name in columns)} |',
    '|---' * (len(columns) + 1) + '|',
  ]
  for name, model in ranked(table):
    cells = [_value(model['results'].get(column)) for column in columns]
    lines.append(f'| {name} | {" | ".join(cells)} |')
  return [*lines, '']


def _agreement(found):
  """Agreement on the line, in a sentence."""
  lines = ['## Agreement on the line', '']
  if 'left_out' in found:
    return [*lines, f'Left out: {found["left_out"]}.', '']
  error = found['error']
  return [
    *lines,
    f'Mean absolute error over {len(found["models"])} models and'
    f' {found["num_lines"]} corruptions at one severity: {error["simple"]:.1%}'
    f' by the line alone, {error["pairwise"]:.1%} by pairs,'
    f' {error["clean_accuracy"]:.1%} for the clean accuracy itself; mean'
    f' correlation of the agreements {found["correlation"]:.2f}.',
    '',
  ]


def _strength(item):
  """By how strong the rank correlation is; undefined ones last."""
  value = item[1]['spearman']['value']
  return -1.0 if value is None else abs(value)


def _value(found):
  return '' if found is None else f'{found["value"]:.3g}'


def _interval(found):
  """``0.72 [0.50, 0.85]``."""
  if found['value'] is None:
    return ''
  if found['low'] is None:
    return _short(found['value'])
  low, high = _short(found['low']), _short(found['high'])
  return f'{_short(found["value"])} [{low}, {high}]'


def _short(value):
  """Two places; a fit that is off by far is told from a bad one no better."""
  return '<-10' if value < -10 else f'{value:.2f}'


def _without(found):
  """``0.10 (gr, noise_40_long)``."""
  if found['value'] is None:
    return ''
  return f'{_short(found["value"])} ({", ".join(found["left_out"])})'


def _p_values(found):
  """``0.0001 (0.004)``."""
  if found['p_value'] is None:
    return ''
  return f'{found["p_value"]:.2g} ({found["holm"]:.2g})'
