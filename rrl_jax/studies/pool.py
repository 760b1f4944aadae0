"""Many models of one data set, and what tells how robust each is."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from rrl_jax import evals, train
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.studies import (
  association,
  feature_member,
  pool_table,
  programs,
)
from rrl_jax.train import evaluation, experiment, multihost, provenance
from rrl_jax.train import workdir as workdir_lib

FIELDS = (
  'train_only', 'models', 'folders', 'features', 'evals', 'targets', 'control',
  'combination', 'resamples', 'seed',
)  # fmt: skip
# Fields of data that decide which images and classes a model is tested on.
_TESTED = ('name', 'kw', 'classes', 'coarse', 'split_seed', 'groups')
_TRAINING_EVALS = {'accuracy': {'train_examples': 0}}


@dataclasses.dataclass(frozen=True)
class Member:
  """A model of the pool.

  Attributes:
    name: Unique in the pool.
    config: Of its run.
    folder: Where its results are written, inside the pool's folder.
    source: Folder of a run elsewhere whose checkpoint it is; None for a model
      that the pool trains.
  """

  name: str
  config: ConfigDict
  folder: pathlib.Path
  source: pathlib.Path | None = None

  @property
  def recipe(self) -> str:
    """The same for runs whose training differs in nothing but its seeds."""
    fields = {
      name: value
      for name, value in workdir_lib.trained_fields(self.config).items()
      if name.split('.')[-1] != 'seed'
    }
    config = self.config
    length = 'total_epochs' if config.total_steps is None else 'total_steps'
    fields[length] = config[length]
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run(
  config: ConfigDict, root: pathlib.Path, overrides: dict[str, Any]
) -> bool:
  """Trains the models of a pool, evaluates all of them, and relates the two.

  First every model is trained, with its accuracy as the only evaluation; with
  ``pool.train_only`` that is all. Then every model, and the last checkpoint of
  each of ``pool.folders``, is evaluated by ``pool.evals``. What is done is not
  done again, so that a pool that was stopped goes on, and may grow. Writes
  ``table.json`` and ``table.md``.

  Args:
    config: A config with a ``pool``, see configs/studies/indicators.py.
    root: The pool's folder. Runs of ``pool.folders`` are copied into it; their
      own folders stay as they are.
    overrides: Fields that the command line changed, for the record.

  Returns:
    Whether models were evaluated and table.json was written.

  Raises:
    ConfigError: A field does not exist or is wrong, or models are tested on
      different data.
    DataError: Too few models, a folder without a checkpoint, or a file of
      features that cannot be used.
  """
  pool = config.pool
  root = pathlib.Path(root)
  members = members_of(pool, root)
  files = [feature_member.read(path) for path in pool.features]
  _check_names([m.name for m in members] + [each.name for each in files])
  _check_number(pool, members, files)
  workdir_lib.Workdir(root).check_owner(config)
  workdir_lib.Workdir(root).claim(config, overrides)
  for i, member in enumerate(members):
    if member.source is None:
      _train(member, f'{i + 1}/{len(members)}')
  if pool.train_only:
    print(f'{root}: {len(members)} models are trained')
    return False
  asked = _cached(pool.evals.to_dict(), root)
  models = {}
  for i, member in enumerate(members):
    found = _measure(member, asked, f'{i + 1}/{len(members)}')
    models[member.name] = Model(
      member.recipe, member.source, found, _figures(member.folder)
    )
  for each in files:
    found = each.measure(
      asked.get('indicators', {}), control=pool.control, target=pool.targets[0]
    )
    models[each.name] = Model(each.name, each.path, *found)
  if jax.process_index() == 0:
    table = _table(pool, models)
    workdir_lib.write_json(root / 'table.json', table)
    origin = provenance.of_runs(root, [member.folder for member in members])
    text = f'{pool_table.to_markdown(table)}\n{origin}\n'
    workdir_lib.write_bytes(root / 'table.md', text.encode())
    print(text)
  return True


class Model(NamedTuple):
  """What was found of a model.

  Attributes:
    recipe: Shared with models that are not independent of it.
    source: Where it comes from, or None.
    measurements: By name.
    figures: Arrays by name.
  """

  recipe: str
  source: pathlib.Path | None
  measurements: dict[str, evals.Measurement]
  figures: dict[str, np.ndarray]


def _cached(config_evals, root):
  """The evaluations, told to keep corrupted images for the next model."""
  corruption = config_evals.get('corruption')
  if corruption is not None and not corruption.get('cache'):
    cache = {'cache': str(root.absolute() / 'corrupted')}
    config_evals = config_evals | {'corruption': corruption | cache}
  return config_evals


def _table(pool, models):
  """All that the pool shows, as plain data."""
  results = [
    {name: each.value for name, each in model.measurements.items()}
    | pool_table.sweep(model.figures)
    for model in models.values()
  ]
  wanted = ('test/', 'indicators/', 'corruption/', 'shifted/')
  finite = lambda value: float(value) if np.isfinite(value) else None
  return {
    'control': pool.control,
    'combination': list(pool.combination),
    'targets': {
      target: pool_table.relate(
        results,
        list(models),
        [model.recipe for model in models.values()],
        target=target,
        control=pool.control,
        combination=list(pool.combination),
        resamples=pool.resamples,
        seed=pool.seed,
      )
      for target in pool.targets
    },
    'models': {
      name: {
        'recipe': model.recipe,
        'source': model.source and str(model.source),
        'results': {
          field: {
            end: finite(getattr(each, end)) for end in ('value', 'low', 'high')
          }
          for field, each in model.measurements.items()
          if field.startswith(wanted) and np.isfinite(each.value)
        },
      }
      for name, model in models.items()
    },
    'agreement_on_the_line': pool_table.agreement_on_the_line(
      {name: model.figures for name, model in models.items()}
    ),
    'estimates': pool_table.estimates(results),
  }


def _figures(folder):
  """A model's arrays by their names."""
  path = workdir_lib.Workdir(folder).figures
  try:
    with np.load(path, allow_pickle=False) as found:
      return {
        name.removeprefix('figure/'): found[name]
        for name in found.files
        if name.removeprefix('figure/').startswith(
          ('corruption_', 'clean_', 'indicator_')
        )
      }
  except (OSError, ValueError) as error:
    raise DataError(f'{path} cannot be read: {error}') from error


def members_of(pool: ConfigDict, root: pathlib.Path) -> list[Member]:
  """The models of a pool, every field looked at before any work.

  Raises:
    ConfigError: A field does not exist or is wrong, or models are tested on
      different data.
    DataError: A folder without a checkpoint, or data that cannot be used.
  """
  for field in FIELDS:
    if field not in pool:
      raise ConfigError(f'pool.{field} is missing; fields: {", ".join(FIELDS)}')
  for field in pool:
    if field not in FIELDS:
      raise ConfigError(f'pool.{field} is unknown; fields: {", ".join(FIELDS)}')
  if not pool.targets or isinstance(pool.targets, str):
    raise ConfigError(f'pool.targets={pool.targets!r}: names, at least one')
  for field in ('resamples', 'seed'):
    if pool[field] < 0:
      raise ConfigError(f'pool.{field}={pool[field]} is negative')
  members = [
    Member(name, ConfigDict(fields), root / 'models' / name)
    for name, fields in pool.models.items()
  ]
  folders = [pathlib.Path(path) for path in pool.folders]
  for name, folder in zip(_names(folders), folders, strict=True):
    members.append(
      Member(name, _read_config(folder), root / 'folders' / name, folder)
    )
  if not pool.train_only:
    try:
      evals.check(pool.evals.to_dict())
    except ConfigError as error:
      raise ConfigError(f'pool.{error}') from error
  for member in members:
    _check(member)
  if members:
    _check_same_data(members)
    if not pool.train_only:
      test = experiment.load_data(members[0].config).test
      evals.check_test(pool.evals.to_dict(), test)
  return members


def _check_names(names):
  """Raises if two models are called alike."""
  for name in names:
    if names.count(name) > 1:
      raise ConfigError(f'pool: two models are called {name!r}')


def _check_number(pool, members, files):
  """Raises if no association can show."""
  told = [each for each in files if each.robust_accuracy is not None]
  number = len(members) + len(told)
  if number < association.MIN_MODELS:
    raise DataError(
      f'pool: {number} models, and no association shows over fewer than'
      f' {association.MIN_MODELS}'
      + (
        '; files without robust_accuracy do not count' if pool.features else ''
      )
    )


def _check(member):
  """Looks at a model's config and, of a run elsewhere, for its checkpoint."""
  where = 'pool.folders' if member.source else 'pool.models'
  if member.source and not workdir_lib.Workdir(member.source).trained_steps():
    raise DataError(f'pool.folders: {member.source} has no checkpoint')
  try:
    experiment.check(member.config)
  except ConfigError as error:
    raise ConfigError(f'{where}: {member.name}: {error}') from error
  except (AttributeError, KeyError, TypeError) as error:
    text = ' '.join(str(error).split())
    raise ConfigError(
      f'{where}: {member.name} has no whole config: {text}'
    ) from error
  if member.source is None:
    workdir_lib.Workdir(member.folder).check_owner(member.config)


def _check_same_data(members):
  """Raises unless all models are tested on the same images and classes."""
  first, *others = members
  expected = _tested(first)
  for member in others:
    found = _tested(member)
    for field in dict.fromkeys([*expected, *found]):
      if found.get(field) != expected.get(field):
        raise ConfigError(
          f'pool: models are tested on different data: data.{field} is'
          f' {expected.get(field)!r} for {first.name}, {found.get(field)!r} for'
          f' {member.name}'
        )


def _tested(member):
  """Flat fields of data that decide the test split, as they are given."""
  data = workdir_lib.plain(member.config)['data']
  fields = {name: data.get(name) for name in _TESTED}
  if data.get('validation'):
    fields |= {'validation': data['validation'], 'seed': data['seed']}
  if (fields['groups'] or {}).get('kind', 'none') == 'none':
    del fields['groups']
  flat = workdir_lib.flatten(fields)
  return {name: value for name, value in flat.items() if value is not None}


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
  """The shortest ends of paths, joined, that tell them apart."""
  parts = [folder.resolve().parts[1:] for folder in folders]
  longest = max(map(len, parts), default=0)
  for length in range(1, longest + 1):
    names = ['_'.join(each[-length:]) for each in parts]
    if len(set(names)) == len(names):
      return names
  if folders:
    raise ConfigError('pool.folders: a folder is named twice')
  return []


def _read_config(folder):
  """The config that stands in a run's folder."""
  path = folder / 'config.json'
  try:
    fields = json.loads(path.read_text())
    return ConfigDict(_tuples(fields))
  except FileNotFoundError as error:
    raise DataError(
      f'pool.folders: {folder} holds no run: no config.json'
    ) from error
  except (OSError, ValueError, AttributeError, TypeError) as error:
    raise DataError(
      f'pool.folders: {path} cannot be read: {" ".join(str(error).split())}'
    ) from error


def _tuples(value):
  """JSON's lists as the tuples that they were written from."""
  if isinstance(value, Mapping):
    return {name: _tuples(each) for name, each in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(each) for each in value)
  return value


def _asking(config, config_evals):
  """The same run, asked other questions."""
  config = config.copy_and_resolve_references()
  config.unlock()
  config.job = 'train'
  config.evals = config_evals
  config.transfer = {}
  return config


def _train(member, position):
  """Trains a model to its end, unless that is done."""
  config = _asking(member.config, _TRAINING_EVALS)
  workdir = workdir_lib.Workdir(member.folder)
  if config.total_steps is None:
    config.total_steps = experiment.build(config).total_steps
  if multihost.from_first(workdir.trained_steps) >= config.total_steps:
    return
  found = train.train_and_evaluate(config, member.folder, {}, quiet=True)
  programs.drop_when_many()
  accuracy = found['test/accuracy'].value
  print(f'{position} {member.name}: accuracy {accuracy:.1%}', flush=True)


def _measure(member, config_evals, position):
  """What the pool's evaluations say of a model, now or earlier."""
  config = _asking(member.config, config_evals)
  workdir = workdir_lib.Workdir(member.folder)
  if member.source is not None:
    multihost.from_first(lambda: _copy_checkpoint(member))
  step = multihost.from_first(workdir.trained_steps)
  found = evaluation.from_first(lambda: workdir.read_results(config, step))
  if found is None:
    found = train.evaluate_last(config, member.folder, {}, quiet=True)
    programs.drop_when_many()
    print(f'{position} {member.name} is evaluated', flush=True)
  return found


def _copy_checkpoint(member):
  """Brings the newest checkpoint and the config of a run elsewhere here."""
  there = workdir_lib.Workdir(member.source)
  here = workdir_lib.Workdir(member.folder)
  step = there.trained_steps()
  if here.trained_steps() == step:
    return
  try:
    here.checkpoints.mkdir(parents=True, exist_ok=True)
    unfinished = here.checkpoints / f'{step}.copying'
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(there.checkpoints / str(step), unfinished)
    shutil.copy(there.root / 'config.json', here.root / 'config.json')
    for old in here.checkpoints.iterdir():
      if old.name.isdigit():
        shutil.rmtree(old)
    unfinished.rename(here.checkpoints / str(step))
  except OSError as error:
    raise DataError(
      f'pool.folders: {member.source} cannot be copied:'
      f' {error.strerror or error}'
    ) from error
