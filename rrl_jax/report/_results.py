"""The numbers of a run: how they are called, written and grouped."""

from collections.abc import Container, Mapping
import math
from typing import Any

import numpy as np

from rrl_jax.report import _files

_NBSP = '\N{NO-BREAK SPACE}'
_LABELS = {
  'test/best_accuracy': 'Best accuracy while training',
  'test/log_loss': 'Log loss',
  'test/train_mix_accuracy': 'Accuracy, concepts mixed as in training',
  'test/balanced_concept_accuracy': 'Accuracy, concepts in equal parts',
  'test/reversed_mix_accuracy': 'Accuracy, training mix reversed',
  'test/worst_mix_accuracy': 'Accuracy, worst mix near that of training',
  'train/accuracy': 'Accuracy on training images, as labelled',
  'fit/clean_accuracy': 'Clean labels fitted',
  'fit/flipped_accuracy': 'Flipped labels memorised',
  'fit/flipped_true_accuracy': 'Flipped, true class found',
  'fit/abnormal_accuracy': 'Abnormal images memorised',
  'noise/flipped_rate': 'Flipped labels',
  'noise/abnormal_rate': 'Abnormal images',
  'noise/estimated_rate': 'Wrong, as the run estimated',
  'noise/estimate_error': 'Error of that estimate',
  'reconstruction/error': 'Squared error of a pixel',
  'groups/dfr_worst_accuracy': 'Worst accuracy, last layer fitted anew',
  'groups/dfr_average_accuracy': 'Average accuracy, last layer fitted anew',
  'groups/dfr_reweighted_accuracy': (
    'Reweighted accuracy, last layer fitted anew'
  ),
  'groups/inferred_purity': 'Purity of discovered groups',
  'groups/class_purity': 'Purity of the classes',
  'groups/inferred_adjusted_rand_index': (
    'Adjusted Rand index of discovered groups'
  ),
  'groups/inferred_within_adjusted_rand_index': (
    'Adjusted Rand index inside a class'
  ),
  'groups/class_adjusted_rand_index': 'Adjusted Rand index of the classes',
  'groups/inferred_worst_accuracy': 'Worst discovered group',
}
_GROUPS = {  # Prefix -> (title, what its numbers are).
  'test': ('Test split of the source', ''),
  'train': ('Training split of the source', ''),
  'noise': (
    'Noise in the training split',
    'A flipped example has a wrong label, an abnormal one an image that '
    'belongs to no class.',
  ),
  'fit': (
    'What became of the training examples',
    'Predicted as labelled, training images all. To predict a flipped or an '
    'abnormal one as labelled is to have memorised it.',
  ),
  'mass': (
    'Who gets the gradient',
    'Share of each group in the sum of the L1 norms of the logit gradients; '
    'to be compared with its share of the examples.',
  ),
  'detect': (
    'Finding the wrong labels',
    'Flipped or abnormal against clean examples, told apart by a large loss '
    'or a small weight. Chance is 0.5 for the ROC area, the share of wrong '
    'ones for the average precision.',
  ),
  'transfer': ('Transfer to target tasks', ''),
  'bound': (
    'The bound of a task-agnostic representation',
    'The loss under attack is at most the clean loss plus the Lipschitz '
    'constant of the head times the largest shift of the features. Shifts '
    'are found by an attack, so that the bound is estimated from below; a '
    'violation says that this attack was too weak.',
  ),
  'robust': ('Under attack', ''),
  'groups': (
    'Groups',
    'True groups judge the classifier. Discovered groups are clusters of the '
    'features of each class, for which no group label was read.',
  ),
  'coarse_to_fine': ('From coarse to fine labels', ''),
  'reconstruction': ('Reconstruction', ''),
  'corruption': (
    'Common corruptions',
    'Test images under noise, blur, weather and the like. Each corruption and '
    'severity stands further below.',
  ),
  'shifted': (
    'Foretold without labels of the corrupted images',
    'Estimates and scores of each set of corrupted images, on average. The '
    'first two estimate its accuracy; the others only rank.',
  ),
  'indicators': (
    'Indicators of robustness, from clean features',
    'How well clusters of the features agree with the classes. None of it is '
    'an accuracy under shift. All of them stand further below.',
  ),
}


def measurements(
  results: Mapping[str, Any], protocols: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Numbers with interval, protocol and how to write them.

  Args:
    results: Contents of results.json.
    protocols: Contents of protocols.json.

  Returns:
    Rows of the page's tables by name. A number with neither interval nor
    protocol is no measurement.
  """
  measured = {}
  for name, value in results.items():
    base, _, end = name.rpartition('.')
    if end in ('low', 'high') and base in results:
      continue
    if not _files.is_number(value):
      continue
    protocol = protocols.get(name, '')
    protocol = protocol if isinstance(protocol, str) else ''
    low, high = results.get(f'{name}.low'), results.get(f'{name}.high')
    bounded = _files.is_number(low) and _files.is_number(high)
    if not bounded and not protocol:
      continue
    bounds = (low, high) if bounded else (value, value)
    unit = _unit(name, (value, *bounds))
    if not bounded:
      interval = 'none'
    elif low == high and protocol.endswith('exact.'):
      interval = 'exact'
    else:
      interval = (
        f'{_write(low, unit, bare=True)} to {_write(high, unit, bare=True)}'
      )
      interval += f'{_NBSP}%' if unit == 'share' else ''
    measured[name] = {
      'name': name,
      'label': _label(name),
      'number': value,
      'ends': bounds,
      'value': _write(value, unit),
      'interval': interval,
      'protocol': protocol,
      # Positions on a bar from 0 to 1, in percent of its length.
      'bar': {
        'low': round(100 * bounds[0], 2),
        'width': round(100 * (bounds[1] - bounds[0]), 2),
        'value': round(100 * value, 2),
      }
      if unit in ('share', 'area')
      else None,
    }
  return measured


def _unit(name, values):
  """What a number is: share, area, nats, points, or just a number."""
  what = name.rpartition('/')[2]
  if name.startswith('bound/') and what.endswith(('_shift', 'lipschitz')):
    return 'number'
  if what.endswith(('_loss', 'bound')) or what == 'slack':
    return 'nats'
  if name == 'reconstruction/error':
    return 'number'
  if name in ('noise/estimate_error', 'corruption/accuracy_drop'):
    return 'points'
  if not 0 <= min(values) <= max(values) <= 1:
    return 'number'
  areas = ('auroc', 'average_precision', 'adjusted_rand_index')
  return 'area' if name.endswith(areas) else 'share'


def _write(value: float, unit: str, *, bare: bool = False) -> str:
  """With its unit, or bare."""
  if unit == 'share':
    return f'{100 * value:.1f}' + ('' if bare else f'{_NBSP}%')
  if unit == 'area':
    return f'{value:.3f}'
  if unit == 'nats':
    return f'{value:.3f}' + ('' if bare else f'{_NBSP}nats')
  if unit == 'points':  # Of a hundred; a minus as wide as the plus.
    text = f'{100 * value:+.1f}'.replace('-', '\N{MINUS SIGN}')
    return text + ('' if bare else f'{_NBSP}points')
  return f'{value:.4g}'


def _label(name: str) -> str:
  """'test/worst_concept_accuracy' -> 'Worst concept accuracy'."""
  if name in _LABELS:
    return _LABELS[name]
  group, _, rest = name.partition('/')
  if group == 'detect':
    return _detection(rest)
  task, slash, what = (rest or name).rpartition('/')
  words = what.replace('_', ' ').replace('knn', 'kNN').replace('svm', 'SVM')
  words = words.replace('pgd', 'PGD-').replace('auto attack', 'AutoAttack')
  words = words.replace('kmeans', 'k-means')
  if slash:
    return f'{task}: {words}'
  if words.startswith(('kNN', 'k-means')):
    return words
  return words[:1].upper() + words[1:]


def _detection(name):
  """'flipped_loss_auroc' -> 'Flipped, by loss: ROC area'."""
  words = name.replace('auroc', 'ROC area').split('_')
  if len(words) < 3:
    return ' '.join(words)
  who, score, *what = words
  return f'{who.capitalize()}, by {score}: {" ".join(what)}'


def headline(values: Mapping[str, float]) -> list[str]:
  """Names of up to four numbers that say most.

  Of several attacks on one classifier the lowest accuracy counts, whichever
  evaluator found it.

  Args:
    values: Numbers by name.
  """
  repeated = repetitions(values)
  attacked = [
    name
    for name in values
    if (name.startswith('test/pgd') and name.endswith('_accuracy'))
    or (name.startswith('robust/') and name.endswith('_accuracy'))
  ]
  probed = [
    name
    for name in values
    if name.startswith('transfer/linear_probe_pgd')
    and name.endswith('_accuracy')
  ]
  probed.append('transfer/linear_probe_auto_attack_accuracy')
  names = [
    'test/accuracy',
    'test/worst_concept_accuracy',
    'test/balanced_concept_accuracy',
    'groups/worst_accuracy',
    'coarse_to_fine/linear_probe_accuracy',
    'indicators/clean_accuracy',
    'indicators/kmeans_accuracy',
    'indicators/multicut_accuracy',
    'corruption/mean_accuracy',
    'test/noise_accuracy',
    *_lowest(values, [name for name in attacked if name not in repeated]),
    'fit/flipped_accuracy',
    'fit/abnormal_accuracy',
    'transfer/linear_probe_accuracy',
    *_lowest(values, probed),
    'transfer/knn_accuracy',
    'test/calibration_error',
  ]
  there = [name for name in names if name in values]
  # Rather one of each kind than two of one.
  for spare in (
    'test/calibration_error',
    'test/balanced_concept_accuracy',
    'transfer/knn_accuracy',
    'test/noise_accuracy',
  ):
    if len(there) > 4 and spare in there:
      there.remove(spare)
  return [repeated.get(name, name) for name in there[:4]]


def _lowest(values, names):
  """The name of the least of some numbers, in a list; empty without any."""
  there = [name for name in names if name in values]
  return [min(there, key=values.__getitem__)] if there else []


def repetitions(values: Mapping[str, float]) -> dict[str, str]:
  """Numbers that say again what another one says, with that one's name.

  A mean over target tasks is the task's own number where there is one task,
  and AutoAttack on linear probes has a name for each way to ask for it.

  Args:
    values: Numbers by name.
  """
  found = {}
  for name in values:
    prefix, _, what = name.partition('/')
    if prefix != 'transfer':
      continue
    tasks = [
      other
      for other in values
      if other.startswith('transfer/')
      and other.endswith(f'/{what}')
      and other.count('/') == name.count('/') + 1
    ]
    if len(tasks) == 1 and values[tasks[0]] == values[name]:
      found[name] = tasks[0]
  ensemble, probes = (
    'robust/auto_attack_accuracy',
    'transfer/linear_probe_auto_attack_accuracy',
  )
  if ensemble in values and values[ensemble] == values.get(probes):
    found[ensemble] = found.get(probes, probes)
  return found


def highlights(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The numbers of the headline, as the page writes them."""
  return [measured[name] for name in headline(numbers(measured))]


def numbers(measured: Mapping[str, Any]) -> dict[str, float]:
  """The plain numbers among what the page writes."""
  return {name: row['number'] for name, row in measured.items()}


def groups(
  measured: Mapping[str, Any], without: Container[str] = ()
) -> list[dict[str, Any]]:
  """Numbers by their prefix, each once, those of single concepts left out.

  Args:
    measured: Numbers by name.
    without: Names of numbers that the page shows elsewhere.
  """
  found: dict[str, list] = {}
  repeated = repetitions(numbers(measured))
  for name, row in measured.items():
    shown = name not in without and name not in repeated
    if shown and not name.startswith('test/accuracy/'):
      found.setdefault(name.partition('/')[0], []).append(row)
  if 'test' in found:  # The best stands beside the last.
    first = ['test/accuracy', 'test/best_accuracy']
    found['test'].sort(
      key=lambda r: first.index(r['name']) if r['name'] in first else len(first)
    )
  order = [*_GROUPS, *(g for g in found if g not in _GROUPS)]
  return [
    {'title': title, 'note': note, 'rows': found[g]}
    for g in order
    if g in found
    for title, note in [_GROUPS.get(g, (g.replace('_', ' '), ''))]
  ]


def concepts(
  measured: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
  """Accuracy of each concept, the worst first, with its training share."""
  prefix = 'test/accuracy/'
  names = arrays.get('figure/concept_names')
  counts = arrays.get('figure/concept_train_counts')
  sizes = {}
  if (
    names is not None
    and counts is not None
    and names.shape == counts.shape == (names.size,)
    and _files.is_numeric(counts)
  ):
    sizes = {str(n): int(c) for n, c in zip(names, counts, strict=True)}
  rows = []
  for name, row in measured.items():
    if name.startswith(prefix):
      concept = name[len(prefix) :]
      rows.append(row | {'concept': concept, 'count': sizes.get(concept)})
  return sorted(rows, key=lambda r: r['bar']['value'] if r['bar'] else math.inf)
