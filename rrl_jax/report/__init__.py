"""One page that tells what a run did, from the files in its folder alone."""

from collections.abc import Mapping
import math
import os
import pathlib
from typing import Any

from rrl_jax.report import _files

__all__ = ['build']

_MAX_ROWS = 60  # Concepts listed one by one.


def build(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes ``report/index.html`` into a run's folder.

  The page is self-contained: styles, figures and pictures are inside, nothing
  is requested, no script runs. It reads config.json, metrics.jsonl,
  results.json, protocols.json and figures.npz; what is missing or unreadable
  leaves its section out, and the page says so. The same files give the same
  page, byte for byte.

  Args:
    workdir: The run's folder.

  Returns:
    Path of the page.
  """
  import jinja2  # With Matplotlib in _figures, slow to import.

  workdir = pathlib.Path(workdir)
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('rrl_jax.report', '.'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  page = environment.get_template('page.html').render(_content(workdir))
  path = workdir / 'report' / 'index.html'
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  partial.write_text(page, encoding='utf-8')
  partial.replace(path)
  return path


def _content(workdir: pathlib.Path) -> dict[str, Any]:
  """Everything the template shows."""
  from rrl_jax.report import _figures

  config, no_config = _files.read_json(workdir / 'config.json')
  metrics, no_metrics = _files.read_metrics(workdir / 'metrics.jsonl')
  results, no_results = _files.read_json(workdir / 'results.json')
  protocols, no_protocols = _files.read_json(workdir / 'protocols.json')
  arrays, no_arrays = _files.read_arrays(workdir / 'figures.npz')
  measured = _measurements(results, protocols)
  curves, constant = _figures.curves(metrics)
  weights = _figures.concept_lines(
    metrics,
    'train/concept_weight/',
    title='Weight of each concept',
    ident='weights',
  )
  risks = _figures.concept_lines(
    metrics,
    'train/concept_risk/',
    title='Risk of each concept',
    ident='risks',
  )
  pairs, pairs_gap = _figures.pairs(arrays)
  feature_map, map_gap = _figures.feature_map(arrays)
  per_concept = _concepts(measured, arrays)
  return {
    'title': _title(config, workdir),
    'facts': _facts(config, results),
    'config': _files.pretty(config),
    'config_gap': no_config,
    'highlights': _highlights(measured),
    'groups': _groups(measured),
    'results_gap': no_results or _gap(measured, 'results.json', 'number'),
    'protocols_gap': no_protocols,
    'curves': curves,
    'constant': constant,
    'curves_gap': no_metrics
    or _gap(curves or constant, 'metrics.jsonl', 'curve'),
    'concept_figures': [figure for figure in (weights, risks) if figure],
    'concept_figures_gap': no_metrics
    or _gap(weights, 'metrics.jsonl', 'train/concept_weight/... value'),
    'concepts': per_concept[:_MAX_ROWS],
    'concepts_hidden': len(per_concept[_MAX_ROWS:]),
    'concepts_gap': no_results
    or _gap(per_concept, 'results.json', 'test/accuracy/<concept> value'),
    'pairs': pairs,
    'pairs_gap': no_arrays or pairs_gap,
    'map': feature_map,
    'map_gap': no_arrays or map_gap,
  }


def _gap(found: Any, file: str, what: str) -> str:
  """Says that a readable file lacks something; '' if it does not."""
  return '' if found else f'{file} holds no {what}'


def _measurements(
  results: Mapping[str, Any], protocols: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Numbers with interval, protocol and how to write them, by name."""
  measured = {}
  for name, value in results.items():
    base, _, end = name.rpartition('.')
    if end in ('low', 'high') and base in results:
      continue
    low, high = results.get(f'{name}.low'), results.get(f'{name}.high')
    # A number without an interval is a count: the step evaluated.
    if not (_number(value) and _number(low) and _number(high)):
      continue
    share = 0 <= low <= high <= 1
    protocol = protocols.get(name, '')
    measured[name] = {
      'name': name,
      'label': _label(name),
      'value': _write(value, share),
      'interval': f'{_write(low, share, unit=False)} to {_write(high, share)}',
      'protocol': protocol if isinstance(protocol, str) else '',
      # Positions on a bar from 0 to 1, in percent of its length.
      'bar': {
        'low': round(100 * low, 2),
        'width': round(100 * (high - low), 2),
        'value': round(100 * value, 2),
      }
      if share
      else None,
    }
  return measured


def _number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _write(value: float, share: bool, *, unit: bool = True) -> str:
  """A share as a percentage, anything else to four digits."""
  if not share:
    return f'{value:.4g}'
  return f'{100 * value:.1f}' + ('\N{NO-BREAK SPACE}%' if unit else '')


def _label(name: str) -> str:
  """'test/worst_concept_accuracy' -> 'Worst concept accuracy'."""
  _, _, rest = name.partition('/')
  task, slash, what = (rest or name).rpartition('/')
  words = what.replace('_', ' ').replace('knn', 'kNN').replace('svm', 'SVM')
  words = words.replace('pgd', 'PGD-')
  if slash:
    return f'{task}: {words}'
  return words if words.startswith('kNN') else words[:1].upper() + words[1:]


def _highlights(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Up to four numbers that say most."""
  attacked = [n for n in measured if n.startswith('test/pgd')]
  attacked = [n for n in attacked if n.endswith('_accuracy')]
  names = [
    'test/accuracy',
    'test/worst_concept_accuracy',
    'test/balanced_concept_accuracy',
    'test/noise_accuracy',
    *attacked[:1],
    'transfer/linear_probe_accuracy',
    'transfer/knn_accuracy',
  ]
  there = [measured[name] for name in names if name in measured]
  # Rather one of each kind than two of one.
  for spare in (
    'test/balanced_concept_accuracy',
    'transfer/knn_accuracy',
    'test/noise_accuracy',
  ):
    if len(there) > 4:
      there = [m for m in there if m['name'] != spare]
  return there[:4]


def _groups(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Numbers by their prefix, those of single concepts left out."""
  titles = {
    'test': 'Test split of the source',
    'train': 'Training split of the source',
    'transfer': 'Transfer to target tasks',
    'robust': 'Under attack',
    'groups': 'Groups',
    'coarse_to_fine': 'From coarse to fine labels',
    'indicators': 'Indicators',
  }
  groups: dict[str, list] = {}
  for name, row in measured.items():
    if not name.startswith('test/accuracy/'):
      groups.setdefault(name.partition('/')[0], []).append(row)
  order = [*titles, *(g for g in groups if g not in titles)]
  return [
    {'title': titles.get(g, g.replace('_', ' ')), 'rows': groups[g]}
    for g in order
    if g in groups
  ]


def _concepts(
  measured: Mapping[str, Any], arrays: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Accuracy of each concept, the worst first, with its training share."""
  prefix = 'test/accuracy/'
  names = arrays.get('figure/concept_names')
  counts = arrays.get('figure/concept_train_counts')
  sizes = {}
  if names is not None and counts is not None and names.shape == counts.shape:
    sizes = {str(n): int(c) for n, c in zip(names, counts, strict=True)}
  rows = []
  for name, row in measured.items():
    if name.startswith(prefix):
      concept = name[len(prefix) :]
      rows.append(row | {'concept': concept, 'count': sizes.get(concept)})
  return sorted(rows, key=lambda r: r['bar']['value'] if r['bar'] else math.inf)


def _title(config: Mapping[str, Any], workdir: pathlib.Path) -> str:
  """'HRO on digits', or the folder's name."""
  objective = _files.dig(config, 'objective.name')
  data = _files.dig(config, 'data.name')
  if not objective or not data:
    return workdir.resolve().name
  objective = str(objective)
  return f'{objective.upper() if len(objective) <= 5 else objective} on {data}'


def _facts(
  config: Mapping[str, Any], results: Mapping[str, Any]
) -> list[tuple[str, str]]:
  """What one needs to know to read the numbers."""
  rows = []
  for label, field in (
    ('Objective', 'objective'),
    ('Data', 'data'),
    ('Model', 'model'),
    ('Optimizer', 'optim'),
  ):
    part = _files.dig(config, field)
    if isinstance(part, Mapping) and part.get('name'):
      rows.append((label, _files.sentence(part)))
  by_steps = _files.dig(config, 'total_steps') is not None  # It wins.
  for label, field in (
    ('Batch size', 'batch_size'),
    ('Steps', 'total_steps') if by_steps else ('Epochs', 'total_epochs'),
    ('Seed', 'seed'),
  ):
    value = _files.dig(config, field)
    if value is not None:
      rows.append((label, _files.scalar(value)))
  if _number(results.get('step')):
    rows.append(('Evaluated at', f'step {results["step"]:,.0f}'))
  return rows
