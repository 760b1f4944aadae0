"""From a trained state to results.json: the evaluations a config asks for."""

from collections.abc import Callable, Mapping
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import evals
from rrl_jax.data import augment
from rrl_jax.evals import measurement
from rrl_jax.train import metrics as metrics_lib
from rrl_jax.train import multihost, progress, provenance, sharding
from rrl_jax.train import workdir as workdir_lib
from rrl_jax.train.experiment import Experiment
from rrl_jax.train.state import TrainState


class Evaluator:
  """Evaluates one state of an experiment after another, compiling once."""

  def __init__(self, experiment: Experiment):
    self._experiment = experiment
    config, objective = experiment.config, experiment.objective

    def crop(images):
      return augment.central_crop(
        augment.to_float(images), config.data.augment.resized_crop
      )

    def network(
      params,
      model_state,
      images,
      *,
      train,
      adversarial=objective.eval_adversarial,
    ):
      return experiment.apply_fn(
        params,
        model_state,
        crop(images),
        train=train,
        adversarial=adversarial,
      )

    def apply(variables, images):
      (logits, out), _ = network(*variables, images, train=False)
      return logits, out['features']

    def feature_bounds(variables, lower, upper):
      params, _ = variables
      return experiment.feature_bounds(params, crop(lower), crop(upper))

    def gradient_norms(logits, labels, index, aux_state, step):
      total = lambda logits: jnp.sum(
        objective.example_loss(logits, labels, index, aux_state, step)
      )
      return jnp.sum(jnp.abs(jax.grad(total)(logits)), axis=-1)

    self._put_together = jax.jit(
      lambda tree: tree, out_shardings=sharding.replicated(experiment.mesh)
    )
    self._gradient_norms = None
    if objective.example_loss is not None:
      self._gradient_norms = jax.jit(gradient_norms)
    self._encoder = evals.Encoder(
      apply=apply,
      variables=None,
      batch_size=config.eval_batch_size,
      mesh=experiment.mesh,
      network=network,
      feature_bounds=experiment.feature_bounds and feature_bounds,
    )

  def __call__(
    self,
    state: TrainState,
    config_evals: Mapping[str, Mapping[str, Any]],
    begin: Callable[[str], None] = lambda name: None,
  ) -> tuple[dict[str, evals.Measurement], dict[str, np.ndarray]]:
    """Returns ``(measurements, figures)`` by name; see `evals.run`."""
    experiment = self._experiment
    learned = experiment.objective.learned(state.aux_state)
    data = evals.EvalData(
      train=experiment.data.train,
      test=experiment.data.test,
      tasks=experiment.tasks,
      gradient_norms=self._gradient_norms and self._norms_at(state),
      learned=workdir_lib.finite(
        {name: float(value) for name, value in learned.items()}
      ),
    )
    return evals.run(
      self.encoder(state),
      data,
      config_evals,
      key=jax.random.fold_in(jax.random.key(experiment.config.seed), 2),
      begin=begin,
    )

  def encoder(self, state: TrainState) -> evals.Encoder:
    """The network that is evaluated, at a state."""
    variables = self._variables(state)
    if self._experiment.config.mesh.fsdp:
      variables = self._put_together(variables)
    return self._encoder.with_variables(variables)

  def abstract_encoder(self, state: TrainState) -> evals.Encoder:
    """The same with shapes for weights, at a state of shapes."""
    where = sharding.replicated(self._experiment.mesh)
    return self._encoder.with_variables(
      jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=where
        ),
        jax.eval_shape(self._variables, state),
      )
    )

  def _variables(self, state):
    """Weights and BatchNorm statistics of the network that is evaluated."""
    variables = state.eval_params, state.eval_model_state
    if self._experiment.objective.num_networks > 1:
      variables = jax.tree.map(lambda leaf: leaf[0], variables)
    return variables

  def _norms_at(self, state):
    """How much examples weigh, at this state."""
    return lambda logits, labels, index: np.asarray(
      self._gradient_norms(logits, labels, index, state.aux_state, state.step)
    )


def evaluate(
  experiment: Experiment,
  state: TrainState,
  workdir: workdir_lib.Workdir,
  *,
  quiet: bool = False,
) -> dict[str, evals.Measurement]:
  """Runs the config's evaluations and writes what they find, and its origin.

  Writes ``results.json`` last, so that its presence says the rest is there.

  Args:
    experiment: The experiment.
    state: A trained state.
    workdir: The run's folder.
    quiet: Whether to show no progress.

  Returns:
    Each measurement by name.
  """
  asked, began = experiment.config.evals.to_dict(), time.monotonic()
  with progress.evaluation(list(asked), quiet=quiet) as begin:
    measurements, figures = Evaluator(experiment)(state, asked, begin)
  provenance.evaluated(experiment, state, workdir.root, began)
  return from_first(
    lambda: _write(experiment, state, workdir, measurements, figures)
  )


def from_first(
  find: Callable[[], dict[str, evals.Measurement] | None],
) -> dict[str, evals.Measurement] | None:
  """The measurements that process 0 finds, on every process."""

  def plain():
    found = find()
    if found is None:
      return None
    return {
      name: [*map(float, each[:3]), each.protocol]
      for name, each in found.items()
    }

  found = multihost.from_first(plain)
  if found is None:
    return None
  return {name: evals.Measurement(*each) for name, each in found.items()}


def _write(experiment, state, workdir, measurements, figures):
  """Adds what the run's history says, writes everything, returns it."""
  measurements |= _best(
    measurements,
    [
      line
      for line in metrics_lib.read(workdir.metrics)
      if line['step'] < int(state.step)
    ],
    experiment.data.test,
  )
  workdir.write_results(
    experiment.config, int(state.step), measurements, figures
  )
  return measurements


def _best(measurements, lines, test):
  """Test accuracy at the best evaluation, given those before the end."""
  accuracies = [
    line['test/accuracy'] for line in lines if 'test/accuracy' in line
  ]
  if not accuracies or 'test/accuracy' not in measurements:
    return {}
  best = max(*accuracies, measurements['test/accuracy'].value)
  return {
    'test/best_accuracy': measurement.proportion(
      round(best * len(test)),
      len(test),
      f'{evals.test_images(test)}, top-1, at the best of {len(accuracies) + 1}'
      ' evaluations while training, chosen by these images themselves:'
      ' optimistic',
    )
  }
