"""Runs a claim: tune every method alike, then train it over several seeds."""

import itertools
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from rrl_jax import train
from rrl_jax.errors import ConfigError, DivergedError
from rrl_jax.studies import cross_attack, programs, ranking
from rrl_jax.studies import table as table_lib
from rrl_jax.train import evaluation, experiment, provenance
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
  thinning, wrong labels and the held-out examples, and is shared by the
  methods. With ``study.conditions`` (name -> 'all' or a method -> fields to
  change) all of this is done once under each of them. The held-out part is as
  noisy as the rest: no clean label chooses anything.

  With ``study.inferred_groups`` (method -> an earlier method) a run is told the
  clusters that the earlier method's run of the same seed found in its features;
  while tuning, those of its best point.
  With ``study.same_order``, the name of a condition, the order of the methods
  under each other one is compared with that under it, see `ranking`.
  With ``study.cross_attack`` the linear probes of one target task are attacked
  once more, with more steps and restarts and by each other's images, see
  `cross_attack`.

  Writes ``table.md`` and ``table.json``; each run has a folder of its own, so
  that a study that was stopped goes on where it was.

  Args:
    config: A config with a ``study``: methods, order, grids, seeds,
      tuning_seeds, tuning_evals, validation, select, baseline, metrics, and
      perhaps conditions, same_order, inferred_groups, cross_attack and
      tuning_transfer (target tasks of the tuning runs, which otherwise have
      none; ``validation`` has to be held out of them).
    root: The study's folder.
    overrides: Fields that the command line changed, for the record.

  Raises:
    ConfigError: The grids differ in size, or a field does not exist.
  """
  study = config.study
  grids = {name: _points(study.grids[name]) for name in study.methods}
  conditions = study.get('conditions', {'': {}})
  _check(study, grids, conditions)
  workdir_lib.Workdir(root).check_owner(config)
  workdir_lib.Workdir(root).claim(config, overrides)
  found = {}
  for condition, changes in conditions.items():
    folder = root / condition
    chosen, results = {}, {}
    for name in study.order:
      method = _under(study.methods[name], changes, name)
      chosen[name] = _tune(study, name, method, grids, chosen, folder)
      results[name] = [
        _run(
          _told_groups(
            study,
            name,
            _changed(method, chosen[name], seed),
            (folder / 'runs').joinpath,
          ),
          folder / 'runs' / name,
          seed,
        )
        for seed in study.seeds
      ]
      for metric in study.metrics:
        _at(results[name][0], metric, 'study.metrics')
    table = table_lib.make_table(results, study.baseline, study.metrics)
    found[condition] = table_lib.Found(chosen, results, table)
    _write(root, study, found)  # What is there so far, should it be stopped.
    if 'cross_attack' in study:
      _cross_attack(study, changes, chosen, folder)
  if 'same_order' in study:
    _compare_order(root, study, found)
  if jax.process_index() == 0:
    print((root / 'table.md').read_text())


def _cross_attack(study, changes, chosen, folder):
  """Writes ``cross_attack.md`` and ``.json``: the probes' order, tested."""
  kw = study.cross_attack.to_dict()
  steps = kw.pop('num_steps'), kw.pop('strong_steps')
  restarts = 1, kw.pop('num_restarts')
  ensemble_examples = kw.pop('auto_attack_examples')
  probe = {name: kw.pop(name) for name in ('task', 'l2', 'num_train')}
  weak, strong, ensemble = [], [], []
  for seed in study.seeds:
    probes = {
      name: cross_attack.probe_of(
        _changed(
          _under(study.methods[name], changes, name), chosen[name], seed
        ),
        folder / 'runs' / name / f'seed{seed}',
        **probe,
      )
      for name in study.order
    }
    for each, num_steps, num_restarts in zip(
      (weak, strong), steps, restarts, strict=True
    ):
      each.append(
        cross_attack.accuracies(
          probes,
          jax.random.key(seed),
          num_steps=num_steps,
          num_restarts=num_restarts,
          **kw,
        )
      )
    ensemble_kw = kw | {'num_examples': ensemble_examples}
    ensemble.append(
      {
        name: cross_attack.auto_attacked(
          each, jax.random.key(seed), **ensemble_kw
        )
        for name, each in probes.items()
      }
    )
  rows = cross_attack.summary(weak, strong, ensemble)
  words = (
    f'Linear probes of task {probe["task"]}, {kw["norm"]} radius'
    f' {kw["epsilon"]:g}, {kw["num_examples"]} test images, mean over'
    f' {len(study.seeds)} seeds: PGD of {steps[0]} steps as in the table, of'
    f' {steps[1]} steps and {restarts[1]} restarts, AutoAttack on'
    f' {ensemble_examples} of them, and images that the second made for another'
    ' encoder.'
  )
  workdir_lib.write_json(
    folder / 'cross_attack.json',
    {
      'summary': rows,
      'weak': weak,
      'strong': strong,
      'auto_attack': ensemble,
    },
  )
  text = cross_attack.to_markdown(rows, words)
  workdir_lib.write_bytes(folder / 'cross_attack.md', text.encode())
  print(text)


def _write(root, study, found):
  """Writes ``table.json`` and ``table.md``."""
  plain = {
    condition: {
      'chosen': each.chosen,
      'cells': {
        name: {metric: cell._asdict() for metric, cell in row.items()}
        for name, row in each.table.items()
      },
      'results': each.results,
    }
    for condition, each in found.items()
  }
  plain = plain.get('', {'conditions': plain})
  workdir_lib.write_json(
    root / 'table.json', {'seeds': list(study.seeds)} | plain
  )
  if '' in found:
    text = table_lib.to_markdown(
      found[''].table, study.baseline, found[''].chosen, len(study.seeds)
    )
  else:
    text = table_lib.conditions_to_markdown(
      found, study.baseline, len(study.seeds)
    )
  runs = [
    root / condition / 'runs' / name / f'seed{seed}'
    for condition in found
    for name in study.order
    for seed in study.seeds
  ]
  text = f'{text}\n{provenance.of_runs(root, runs)}\n'
  workdir_lib.write_bytes(root / 'table.md', text.encode())


def _compare_order(root, study, found):
  """Writes ``order.md`` and ``.json``: the conditions' order of the methods."""
  first = study.same_order
  texts, plain = [], {}
  for condition in found:
    if condition == first:
      continue
    agreements = ranking.compare(
      found[first].results, found[condition].results, study.metrics
    )
    plain[condition] = {name: a._asdict() for name, a in agreements.items()}
    texts.append(
      ranking.to_markdown(agreements, first, condition, len(study.seeds))
    )
  workdir_lib.write_json(root / 'order.json', plain)
  text = '\n'.join(texts)
  workdir_lib.write_bytes(root / 'order.md', text.encode())
  if jax.process_index() == 0:
    print(text)


def _check(study, grids, conditions):
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
  if not conditions:
    raise ConfigError('study.conditions is empty')
  same_order = study.get('same_order')
  if same_order is not None and same_order not in conditions:
    raise ConfigError(
      f'study.same_order={same_order!r}; conditions: {", ".join(conditions)}'
    )
  for name, source in study.get('inferred_groups', {}).items():
    order = list(study.order)
    if name not in order or source not in order[: order.index(name)]:
      raise ConfigError(
        f'study.inferred_groups.{name}={source!r}: a method and one that comes'
        f' before it in {", ".join(order)}'
      )
  for changes in conditions.values():
    for name, points in grids.items():
      method = _under(study.methods[name], changes, name)
      configs = [_changed(method, point, seed=0) for point in points]
      _check_method(study, name, configs[0])


def _check_method(study, name, config):
  """Looks at a method's config, and for the evaluators that tuning asks."""
  if len(_points(study.grids[name])) > 1:
    for evaluator in study.tuning_evals:
      if evaluator not in config.evals:
        raise ConfigError(
          f'study.tuning_evals: {evaluator!r} is not among the evals of {name}:'
          f' {", ".join(config.evals) or "none"}'
        )
  try:
    experiment.check(config)
  except ConfigError as error:
    raise ConfigError(f'study.methods.{name}: {error}') from error


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
  """``(('a', (1, 2)), ('b', (3,)))`` as ``[{'a': 1, 'b': 3}, ...]``.

  An axis may move several fields at once:
  ``((('a', 'b'), ((1, 3), (2, 4))),)`` is ``[{'a': 1, 'b': 3}, ...]`` too.
  """
  axes = []
  for field, values in grid:
    if isinstance(field, str):
      field, values = (field,), [(value,) for value in values]
    axes.append([dict(zip(field, each, strict=True)) for each in values])
  points = []
  for steps in itertools.product(*axes):
    points.append({name: x for step in steps for name, x in step.items()})
  return points


def _under(method, changes, name):
  """A method's config under a condition: what all change, then its own."""
  config = ConfigDict(method).copy_and_resolve_references()
  for who in ('all', name):
    config = _update(config, changes.get(who, ()), 'study.conditions')
  return config


def _tune(study, name, method, grids, chosen, root):
  """The point with the best mean over tuning seeds on held-out examples."""
  points = grids[name]
  if len(points) == 1:
    return points[0]
  evaluations = list(study.tuning_evals)
  if name in study.get('inferred_groups', {}).values():
    evaluations.append('infer_groups')

  def tuned(source):
    best = grids[source].index(chosen[source])
    return root / 'tuning' / source / str(best)

  scores = []
  for i, point in enumerate(points):
    found = []
    for seed in study.tuning_seeds:
      config = _changed(method, point, seed)
      config = _told_groups(study, name, config, tuned)
      config.data.validation = study.validation
      config.evals = {
        which: config.evals[which].to_dict() for which in evaluations
      }
      config.interim_steps = 0
      config.transfer = study.get('tuning_transfer', {})
      try:
        results = _run(config, root / 'tuning' / name / str(i), seed)
      except DivergedError as error:
        print(f'{name}, point {i}: {error}', flush=True)
        found.append(-np.inf)
        continue
      found.append(_at(results, study.select, 'study.select'))
    scores.append(np.mean(found))
  return points[int(np.argmax(scores))]


def _changed(method, point, seed):
  """A copy of a method's config at one point of its grid and one seed."""
  config = ConfigDict(method).copy_and_resolve_references()
  config = _update(config, point, 'study.grids')
  config.seed = seed
  config.data.seed = seed
  config.data.noise.seed = seed
  config.data.abnormal.seed = seed
  config.data.groups.seed = seed
  return config


def _told_groups(study, name, config, folder_of):
  """The config, told the clusters that another method's run has found."""
  source = study.get('inferred_groups', {}).get(name)
  if source is not None:
    figures = folder_of(source) / f'seed{config.seed}' / 'figures.npz'
    config.data.inferred_groups = str(figures)
  return config


def _update(config, fields, where):
  """The config with fields changed that it has."""
  config.lock()
  try:
    config.update_from_flattened_dict(dict(fields))
  except (KeyError, AttributeError, TypeError, ValueError) as error:
    raise ConfigError(f'{where}: {" ".join(str(error).split())}') from error
  config.unlock()
  return config


def _finished(config, folder):
  """What was measured, if this very run has been done, without loading data."""
  workdir = workdir_lib.Workdir(folder)
  workdir.check_owner(config)
  if config.total_steps is None:
    return None
  return evaluation.from_first(
    lambda: workdir.read_results(config, config.total_steps)
  )


def _run(config, folder, seed):
  """Trains and evaluates once; numbers by name."""
  folder = folder / f'seed{seed}'
  measurements = _finished(config, folder)
  if measurements is None:
    measurements = train.train_and_evaluate(config, folder, {}, quiet=True)
    programs.drop_when_many()
    print(f'{folder} done', flush=True)
  return {name: found.value for name, found in measurements.items()}
