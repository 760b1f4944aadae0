"""From a trained state to results.json: the evaluations a config asks for."""

import jax

from rrl_jax import evals
from rrl_jax.data import augment
from rrl_jax.train import workdir as workdir_lib
from rrl_jax.train.experiment import Experiment
from rrl_jax.train.state import TrainState


def evaluate(
  experiment: Experiment,
  state: TrainState,
  workdir: workdir_lib.Workdir,
) -> dict[str, evals.Measurement]:
  """Runs the config's evaluations and writes what they find.

  Writes ``results.json`` last, so that its presence says the rest is there.

  Args:
    experiment: The experiment.
    state: A trained state.
    workdir: The run's folder.

  Returns:
    Each measurement by name.
  """
  config = experiment.config
  apply_fn = experiment.apply_fn

  def apply(variables, images):
    params, model_state = variables
    images = augment.central_crop(
      augment.to_float(images), config.data.augment.resized_crop
    )
    (logits, out), _ = apply_fn(params, model_state, images, train=False)
    return logits, out['features']

  encoder = evals.Encoder(
    apply=apply,
    variables=(state.eval_params, state.model_state),
    batch_size=config.eval_batch_size,
    mesh=experiment.mesh,
  )
  data = evals.EvalData(
    train=experiment.data.train,
    test=experiment.data.test,
    tasks=experiment.tasks,
  )
  measurements, figures = evals.run(
    encoder,
    data,
    config.evals.to_dict(),
    key=jax.random.fold_in(jax.random.key(config.seed), 2),
  )
  if jax.process_index() == 0:
    workdir.write_results(config, int(state.step), measurements, figures)
  return measurements
