"""Training and evaluation of one config, in one folder."""

import pathlib
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
  from rrl_jax.train import loop  # Imports the checkpoint library.

  with workdir.lock():
    trains = workdir.trained_steps() < experiment.total_steps
    workdir.claim(config, overrides, trains=trains)
    state = loop.train(experiment, workdir, quiet=quiet)
    results = workdir.read_results(config, int(state.step))
    if results is None:
      return evaluation.evaluate(experiment, state, workdir)
  if not quiet:
    print(f'{root} is done: {int(state.step)} steps trained and evaluated')
  return results


def evaluate_last(
  config: ConfigDict, root: pathlib.Path, overrides: dict[str, Any]
) -> dict:
  """Evaluates the last checkpoint of a run's folder anew.

  Args and errors as in ``train_and_evaluate``; without a checkpoint it is a
  ``DataError``.
  """
  from rrl_jax.train import evaluation
  from rrl_jax.train import experiment as experiment_lib
  from rrl_jax.train import workdir as workdir_lib

  workdir = workdir_lib.Workdir(pathlib.Path(root))
  workdir.check_owner(config)
  experiment = experiment_lib.build(config)
  with workdir.lock():
    state = _restore(experiment, workdir)
    workdir.claim(config, overrides, trains=False)
    return evaluation.evaluate(experiment, state, workdir)


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


def _restore(experiment, workdir):
  """The state of the last checkpoint."""
  from rrl_jax.train import loop

  if not workdir.trained_steps():
    raise DataError(f'{workdir.checkpoints} has no checkpoint to evaluate')
  with loop.open_checkpoints(experiment, workdir) as saved:
    state = saved.restore(experiment.abstract_state())
  if state is None:
    raise DataError(f'{workdir.checkpoints} has no whole checkpoint')
  return state
