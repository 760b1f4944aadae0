"""Who is worst off: accuracy of each true group, and groups found again."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from rrl_jax.report import _figures, _files

_MAX_ROWS = 60  # Groups listed one by one.
_ACCURACY, _REWEIGHTED = 'groups/accuracy/', 'groups/dfr_accuracy/'
_RECALL, _PURITY = 'groups/inferred_recall/', 'groups/inferred_purity/'
_INDEX = 'groups/inferred_adjusted_rand_index/'

Measured = Mapping[str, Mapping[str, Any]]


def part(
  measured: Measured,
  arrays: Mapping[str, np.ndarray],
  metrics: Sequence[Mapping[str, Any]] = (),
) -> tuple[dict[str, Any] | None, set[str]]:
  """Everything that the page shows of single groups.

  Args:
    measured: Numbers of results.json, as `_results.measurements` has them.
    arrays: Contents of figures.npz.
    metrics: Lines of metrics.jsonl by step.

  Returns:
    ``({'rows', 'hidden', 'said', 'found', 'found_hidden', 'found_said',
    'weights'}, names of the numbers shown)``; rows have the worst group first,
    ``found`` says how well each group was discovered, ``weights`` is the figure
    of what group DRO gave each, as `_figures.concept_lines` has it. None and no
    names for a run without groups.
  """
  rows = accuracies(measured, arrays)
  found = discovered(measured)
  shown = {row['name'] for row in rows} | {
    name
    for name in measured
    if name.startswith((_REWEIGHTED, _RECALL, _PURITY, _INDEX))
  }
  weights = _figures.concept_lines(
    metrics,
    'train/group_weight/',
    title='Weight of each group',
    ident='group-weights',
  )
  if weights:
    weights['text'] = (
      'What group DRO gave each group while training: those with a large loss'
      ' gain weight.'
    )
  if not (rows or found or weights):
    return None, set()
  return {
    'rows': rows[:_MAX_ROWS],
    'hidden': len(rows[_MAX_ROWS:]),
    'said': _means(measured),
    'found': found[:_MAX_ROWS],
    'found_hidden': len(found[_MAX_ROWS:]),
    'found_said': _agreement(measured),
    'weights': weights,
  }, shown


def accuracies(
  measured: Measured, arrays: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
  """Accuracy of each true group, the worst first and marked, with its sizes."""
  train = _sizes(arrays, 'figure/group_train_counts')
  test = _sizes(arrays, 'figure/group_test_counts')
  rows = []
  for name, row in measured.items():
    if name.startswith(_ACCURACY):
      group = name[len(_ACCURACY) :]
      rows.append(
        row
        | {
          'group': group,
          'train': train.get(group),
          'test': test.get(group),
          'dfr': measured.get(f'{_REWEIGHTED}{group}'),
        }
      )
  rows.sort(key=lambda row: row['number'])
  least = rows[0]['number'] if rows else math.nan
  return [row | {'worst': row['number'] == least} for row in rows]


def discovered(measured: Measured) -> list[dict[str, Any]]:
  """How much of each true group one cluster holds, the least found first."""
  rows = [
    {
      'group': name[len(_RECALL) :],
      'recall': row,
      'purity': measured.get(f'{_PURITY}{name[len(_RECALL) :]}'),
    }
    for name, row in measured.items()
    if name.startswith(_RECALL)
  ]
  return sorted(rows, key=lambda row: row['recall']['number'])


def _means(measured: Measured) -> str:
  """The averages beside the worst, in a sentence."""
  parts = [
    f'{words} {measured[name]["value"]}'
    for name, words in (
      ('groups/worst_accuracy', 'the worst group has'),
      ('groups/average_accuracy', 'all test images together'),
      ('groups/reweighted_accuracy', 'with groups as common as in training'),
      ('groups/dfr_worst_accuracy', 'the worst after a new last layer'),
    )
    if name in measured
  ]
  said = ', '.join(parts)
  return said[:1].upper() + said[1:] + '.' if said else ''


def _agreement(measured: Measured) -> str:
  """How well clusters and groups agree, in a sentence."""
  parts = [
    f'{words} {measured[name]["value"]}'
    for name, words in (
      ('groups/inferred_adjusted_rand_index', 'adjusted Rand index'),
      ('groups/inferred_within_adjusted_rand_index', 'inside a class'),
      ('groups/class_adjusted_rand_index', 'of the classes themselves'),
      ('groups/inferred_purity', 'purity'),
      ('groups/class_purity', 'of the classes themselves'),
    )
    if name in measured
  ]
  said = ', '.join(parts)
  return said[:1].upper() + said[1:] + '.' if said else ''


def _sizes(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, int]:
  """Images of each group by its name."""
  names, counts = arrays.get('figure/group_names'), arrays.get(name)
  if (
    names is None
    or counts is None
    or not names.shape == counts.shape == (names.size,)
    or not _files.is_numeric(counts)
  ):
    return {}
  return {str(n): int(c) for n, c in zip(names, counts, strict=True)}
