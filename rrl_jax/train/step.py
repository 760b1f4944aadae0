"""One training step as a pure function of the state and a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from rrl_jax import typing
from rrl_jax.train.state import TrainState

Init = Callable[[jax.Array], TrainState]
Step = Callable[[TrainState, typing.Batch], tuple[TrainState, typing.Metrics]]


def init(
  key: jax.Array,
  *,
  model_init: Callable[[jax.Array], tuple[typing.Params, typing.ModelState]],
  objective: typing.Objective,
  tx: optax.GradientTransformation,
  batch: typing.Batch,
  ema: bool,
) -> TrainState:
  """The state before the first step.

  Args:
    key: Of the initial weights and the adversary.
    model_init: ``key -> (params, model_state)``.
    objective: The objective, for its ``aux_state``.
    tx: The optimizer.
    batch: Arrays or shapes of a batch.
    ema: Whether to keep an average of the weights.
  """
  model_key, aux_key = jax.random.split(key)
  params, model_state = model_init(model_key)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    opt_state=tx.init(params),
    ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    aux_state=objective.init(params, model_state, batch, aux_key),
  )


def make(
  objective: typing.Objective,
  tx: optax.GradientTransformation,
  *,
  key: jax.Array,
  prepare: Callable[[typing.Batch, jax.Array], typing.Batch],
  ema_decay: float = 0.0,
) -> Step:
  """Returns ``(state, batch) -> (state, metrics)``, to be compiled by jit.

  The randomness of a step is a function of ``key`` and the step's number
  alone, so that a resumed run repeats what an uninterrupted one does.

  Args:
    objective: What to minimise.
    tx: The optimizer.
    key: Root of the randomness of all steps.
    prepare: ``(batch, key) -> batch`` that brings images to [0, 1] floats and
      augments them.
    ema_decay: Decay of the averaged weights, if the state keeps them.
  """

  def step(state, batch):
    augment_key, loss_key = jax.random.split(
      jax.random.fold_in(key, state.step)
    )
    batch = prepare(batch, augment_key)
    grad_fn = jax.value_and_grad(objective, has_aux=True)
    (loss, (model_state, aux_state, metrics)), grads = grad_fn(
      state.params,
      state.model_state,
      state.aux_state,
      batch,
      loss_key,
      state.step,
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    if objective.step_scale is not None:
      scale = objective.step_scale(metrics)
      updates = jax.tree.map(lambda update: scale * update, updates)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
      ema_params = optax.incremental_update(params, ema_params, 1 - ema_decay)
    state = TrainState(
      step=state.step + 1,
      params=params,
      model_state=model_state,
      opt_state=opt_state,
      ema_params=ema_params,
      aux_state=aux_state,
    )
    metrics = metrics | {
      'loss': loss,
      'grad_norm': optax.global_norm(grads),
      'param_norm': optax.global_norm(params),
    }
    return state, metrics

  return step
