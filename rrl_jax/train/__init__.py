"""Training and evaluation of one config, in one folder."""

import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from rrl_jax.errors import DataError


def train_and_evaluate(
  config: ConfigDict,
  root: pathlib.Path,
  overrides: dict[str, Any],
  *,
  quiet: bool = False,
) -> dict:
  """Trains to the end of the config, or goes on, then evaluates.

  Args:
    config: The config.
    root: The run's folder. A finished run there is left as it is.
    overrides: Fields that the command line changed, for the record.
    quiet: Whether to print nothing.

  Returns:
    Each ``Measurement`` by name.

  Raises:
    ConfigError: A field is wrong, or the folder belongs to another run.
    DataError: Data or checkpoints cannot be used.
    DivergedError: A loss or gradient was not finite.
    StoppedError: SIGTERM came; the state is saved.
  """
  from rrl_jax.train import evaluation
  from rrl_jax.train import experiment as experiment_lib
  from rrl_jax.train import workdir as workdir_lib

  experiment_lib.check(config)
  workdir = workdir_lib.Workdir(pathlib.Path(root))
  workdir.check_owner(config)
  experiment = experiment_lib.build(config)
  from rrl_jax.train import loop, multihost  # Imports the checkpoint library.

  with workdir.lock():
    trained = multihost.from_first(workdir.trained_steps)
    trains = trained < experiment.total_steps
    workdir.claim(config, overrides, trains=trains)
    state = loop.train(experiment, workdir, quiet=quiet)
    step = int(state.step)
    results = evaluation.from_first(lambda: workdir.read_results(config, step))
    if results is None:
      return evaluation.evaluate(experiment, state, workdir, quiet=quiet)
  if not quiet:
    print(f'{root} is done: {int(state.step)} steps trained and evaluated')
  return results


def evaluate_last(
  config: ConfigDict,
  root: pathlib.Path,
  overrides: dict[str, Any],
  *,
  quiet: bool = False,
) -> dict:
  """Evaluates the last checkpoint of a run's folder anew.

  Args and errors as in ``train_and_evaluate``; without a checkpoint it is a
  ``DataError``.
  """
  from rrl_jax.train import evaluation, provenance
  from rrl_jax.train import experiment as experiment_lib
  from rrl_jax.train import workdir as workdir_lib

  workdir = workdir_lib.Workdir(pathlib.Path(root))
  workdir.check_owner(config)
  _check_trained(workdir)
  experiment = experiment_lib.build(config)
  with workdir.lock():
    state = _restore(experiment, workdir)
    origin = provenance.describe(experiment, state)
    provenance.check_data(origin, provenance.read(workdir.root), workdir.root)
    workdir.claim(config, overrides, trains=False)
    if not quiet:
      origin |= provenance.circumstances()
      provenance.announce(workdir.root, origin, start=int(state.step))
    return evaluation.evaluate(experiment, state, workdir, quiet=quiet)


def score_features(
  config: ConfigDict, root: pathlib.Path, overrides: dict[str, Any]
) -> dict:
  """Takes the indicators of the features in ``config.features``; no training.

  Of the config's evaluations only ``evals.indicators`` applies, if it is there;
  data, model and objective are not looked at.

  Args:
    config: A config whose ``features`` names an npz file, see
      `evals.feature_file.read`.
    root: The folder, which gets results.json, protocols.json and figures.npz
      as a run's has them.
    overrides: Fields that the command line changed, for the record.

  Returns:
    Each ``Measurement`` by name.

  Raises:
    ConfigError: A field is wrong, or the folder belongs to another run.
    DataError: The file cannot be used.
  """
  import jax

  from rrl_jax import evals
  from rrl_jax.evals import feature_file, indicators
  from rrl_jax.train import provenance
  from rrl_jax.train import workdir as workdir_lib

  evals.check(config.evals.to_dict())
  workdir = workdir_lib.Workdir(pathlib.Path(root))
  workdir.check_owner(config)
  began = time.monotonic()
  file = feature_file.read(config.features)
  kw = config.evals.to_dict().get('indicators', {})
  measurements, figures = {}, {}
  for name, value in indicators.evaluate_file(file, **kw):
    into = measurements if isinstance(value, evals.Measurement) else figures
    into[name] = value
  with workdir.lock():
    workdir.claim(config, overrides)
    provenance.scored(workdir.root, config.features, file, began)
    if jax.process_index() == 0:
      workdir.write_results(config, 0, measurements, figures)
  return measurements


def last_encoder(
  config: ConfigDict, root: pathlib.Path
) -> tuple[Any, tuple[Any, ...]]:
  """The encoder of a run's last checkpoint, and the target tasks.

  Args:
    config: The run's config.
    root: Its folder, which stays as it is.

  Returns:
    ``(evals.Encoder, tasks)``.

  Raises:
    ConfigError: A field is wrong, or the folder belongs to another run.
    DataError: Data or checkpoints cannot be used.
  """
  from rrl_jax.train import evaluation
  from rrl_jax.train import experiment as experiment_lib
  from rrl_jax.train import workdir as workdir_lib

  workdir = workdir_lib.Workdir(pathlib.Path(root))
  workdir.check_owner(config)
  experiment = experiment_lib.build(config)
  state = _restore(experiment, workdir)
  return evaluation.Evaluator(experiment).encoder(state), experiment.tasks


def _check_trained(workdir):
  """Raises where there is nothing to evaluate, before a folder is made."""
  from rrl_jax.train import multihost

  if not multihost.from_first(workdir.trained_steps):
    raise DataError(f'{workdir.checkpoints} has no checkpoint to evaluate')


def _restore(experiment, workdir):
  """The state of the last checkpoint."""
  from rrl_jax.train import loop

  _check_trained(workdir)
  with loop.open_checkpoints(experiment, workdir) as saved:
    state = saved.restore(experiment.abstract_state())
  if state is None:
    raise DataError(f'{workdir.checkpoints} has no whole checkpoint')
  return state
