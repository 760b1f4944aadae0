"""Runs a claim: tune every method alike, then train it over several seeds."""

import itertools
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from rrl_jax import train
from rrl_jax.errors import ConfigError
from rrl_jax.studies import table as table_lib
from rrl_jax.train import workdir as workdir_lib


def run(
  config: ConfigDict, root: pathlib.Path, overrides: dict[str, Any]
) -> None:
  """Does all runs of a study, or those still missing, and writes its table.

  Every method is tuned over a grid of its own with as many points as any
  other's: each point is trained for every tuning seed with a part of the
  training split held out, and the point with the best mean of
  ``study.select`` there is taken. Only then is the test split looked at, by
  ``study.seeds`` runs of each method; a seed decides initial weights, batches,
  thinning and the held-out examples, and is shared by the methods.

  Writes ``table.md`` and ``table.json``; each run has a folder of its own, so
  that a study that was stopped goes on where it was.

  Args:
    config: A config with a ``study``: methods, order, grids, seeds,
      tuning_seeds, tuning_evals, validation, select, baseline, metrics.
    root: The study's folder.
    overrides: Fields that the command line changed, for the record.

  Raises:
    ConfigError: The grids differ in size, or a field does not exist.
  """
  study = config.study
  grids = {name: _points(study.grids[name]) for name in study.methods}
  _check(study, grids)
  workdir_lib.Workdir(root).check_owner(config)
  workdir_lib.Workdir(root).claim(config, overrides)
  chosen, results = {}, {}
  for name in study.order:
    method = study.methods[name]
    chosen[name] = _tune(study, name, method, grids[name], root)
    results[name] = [
      _run(_changed(method, chosen[name], seed), root / 'runs' / name, seed)
      for seed in study.seeds
    ]
    for metric in study.metrics:
      _at(results[name][0], metric, 'study.metrics')
  table = table_lib.make_table(results, study.baseline, study.metrics)
  workdir_lib.write_json(
    root / 'table.json',
    {
      'chosen': chosen,
      'seeds': list(study.seeds),
      'cells': {
        name: {metric: cell._asdict() for metric, cell in row.items()}
        for name, row in table.items()
      },
      'results': results,
    },
  )
  text = table_lib.to_markdown(table, study.baseline, chosen, len(study.seeds))
  workdir_lib.write_bytes(root / 'table.md', text.encode())
  print(text)


def _check(study, grids):
  """Looks at what can be judged before the first run."""
  sizes = {name: len(points) for name, points in grids.items()}
  if len(set(sizes.values())) > 1:
    raise ConfigError(
      f'study.grids: every method needs as many points to tune over; {sizes}'
    )
  if sorted(study.order) != sorted(study.methods):
    raise ConfigError(
      f'study.order={study.order}: names each of {", ".join(study.methods)}'
    )
  if study.baseline not in study.methods:
    raise ConfigError(
      f'study.baseline={study.baseline!r}; known: {", ".join(study.methods)}'
    )
  if len(set(study.seeds)) < max(len(study.seeds), 2):
    raise ConfigError('study.seeds: at least two, each another')
  if not study.tuning_seeds:
    raise ConfigError('study.tuning_seeds: at least one')
  if not 0 < study.validation < 1:
    raise ConfigError(f'study.validation={study.validation} is not in (0, 1)')
  for name, points in grids.items():
    for point in points:
      _changed(study.methods[name], point, seed=0)


def _at(results, metric, field):
  """A number by its name.

  Raises:
    ConfigError: The evaluations gave no such number.
  """
  if metric not in results:
    raise ConfigError(
      f'{field}: no {metric!r} among {", ".join(sorted(results))}'
    )
  return results[metric]


def _points(grid):
  """``(('a', (1, 2)), ('b', (3,)))`` as ``[{'a': 1, 'b': 3}, ...]``."""
  fields = [field for field, _ in grid]
  return [
    dict(zip(fields, values, strict=True))
    for values in itertools.product(*(values for _, values in grid))
  ]


def _tune(study, name, method, points, root):
  """The point with the best mean over tuning seeds on held-out examples."""
  if len(points) == 1:
    return points[0]
  scores = []
  for i, point in enumerate(points):
    found = []
    for seed in study.tuning_seeds:
      config = _changed(method, point, seed)
      config.data.validation = study.validation
      config.evals = {
        which: config.evals[which].to_dict() for which in study.tuning_evals
      }
      config.transfer = {}
      results = _run(config, root / 'tuning' / name / str(i), seed)
      found.append(_at(results, study.select, 'study.select'))
    scores.append(np.mean(found))
  return points[int(np.argmax(scores))]


def _changed(method, point, seed):
  """A copy of a method's config at one point of its grid and one seed."""
  config = ConfigDict(method).copy_and_resolve_references()
  config.lock()
  try:
    config.update_from_flattened_dict(dict(point))
  except (KeyError, AttributeError, TypeError, ValueError) as error:
    raise ConfigError(f'study.grids: {" ".join(str(error).split())}') from error
  config.unlock()
  config.seed = seed
  config.data.seed = seed
  return config


def _run(config, folder, seed):
  """Trains and evaluates once; numbers by name."""
  folder = folder / f'seed{seed}'
  measurements = train.train_and_evaluate(config, folder, {}, quiet=True)
  print(f'{folder} done', flush=True)
  return {name: found.value for name, found in measurements.items()}
