"""One training step as a pure function of the state and a batch."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import optax

from rrl_jax import target, typing
from rrl_jax.train.state import AveragedState, TrainState

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
    objective: The objective, for its ``aux_state`` and number of networks.
    tx: The optimizer.
    batch: Arrays or shapes of a batch.
    ema: Whether to keep an average of the weights and BatchNorm statistics.
  """
  model_key, aux_key = jax.random.split(key)
  if objective.num_networks > 1:
    model_keys = jax.random.split(model_key, objective.num_networks)
    params, model_state = jax.vmap(model_init)(model_keys)
  else:
    params, model_state = model_init(model_key)
  copy = lambda tree: jax.tree.map(jnp.copy, tree)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    opt_state=tx.init(params),
    ema_params=copy(params) if ema else None,
    aux_state=objective.init(params, model_state, batch, aux_key),
  )
  if not ema or not jax.tree.leaves(model_state):
    return state
  return AveragedState(**vars(state), ema_model_state=copy(model_state))


def make(
  objective: typing.Objective,
  tx: optax.GradientTransformation,
  *,
  key: jax.Array,
  prepare: Callable[[typing.Batch, jax.Array, jax.Array], typing.Batch],
  ema_decay: float = 0.0,
  micro_batches: int = 1,
  whole: jax.sharding.Sharding | None = None,
) -> Step:
  """Returns ``(state, batch) -> (state, metrics)``, to be compiled by jit.

  The randomness of a step is a function of ``key`` and the step's number
  alone, so that a resumed run repeats what an uninterrupted one does.

  Args:
    objective: What to minimise.
    tx: The optimizer.
    key: Root of the randomness of all steps.
    prepare: ``(batch, key, step) -> batch`` that brings images to [0, 1]
      floats and augments them.
    ema_decay: Decay of the averaged weights and BatchNorm statistics, if the
      state keeps them. In step t, from 0, it is at most (1 + t) / (10 + t), as
      that of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``: a
      short run's average is not one with its initial weights.
    micro_batches: Into how many parts of equal size a batch is cut, each of
      which goes through the network by itself. For a loss that sees its
      examples one by one the gradient is that of the whole batch. BatchNorm
      sees the parts one after the other, and what an objective draws or
      chooses within a batch it does within each part: mixup's pairs,
      co-teaching's small losses. Not for objectives that compare a batch's
      examples or whose adversary has a ``whole_batch``: `experiment.check`
      refuses them.
    whole: How an array is copied to all devices, where the state's weights
      are split over them: they are put together to compute, and each device
      updates its own. None where the state is copied anyway.
  """

  def step(state, batch):
    augment_key, loss_key = jax.random.split(
      jax.random.fold_in(key, state.step)
    )
    batch = prepare(batch, augment_key, state.step)
    compute = functools.partial(_gradient, objective)
    if micro_batches > 1:
      compute = functools.partial(_accumulate, objective, micro_batches)
    used = state
    if whole is not None:
      used = state.replace(
        params=jax.lax.with_sharding_constraint(state.params, whole)
      )
    loss, grads, (model_state, aux_state, metrics) = compute(
      used, batch, loss_key
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    if objective.step_scale is not None:
      scale = objective.step_scale(metrics)
      updates = jax.tree.map(lambda update: scale * update, updates)
    params = optax.apply_updates(state.params, updates)
    share = jnp.maximum(1 - ema_decay, 9 / (10 + state.step))
    follow = functools.partial(_follow, share)
    if isinstance(state, AveragedState):
      state = state.replace(
        ema_model_state=follow(state.ema_model_state, model_state)
      )
    state = state.replace(
      step=state.step + 1,
      params=params,
      model_state=model_state,
      opt_state=opt_state,
      ema_params=follow(state.ema_params, params),
      aux_state=aux_state,
    )
    metrics = metrics | {
      'loss': loss,
      'grad_norm': optax.global_norm(grads),
      'param_norm': optax.global_norm(params),
    }
    return state, metrics

  return step


def _follow(share, average, new):
  """Moves an average, or None, by a share of the way to what is new.

  What is not a float, a count say, has no average: the newest is kept.
  """

  def move(average, new):
    if not jnp.issubdtype(new.dtype, jnp.floating):
      return new
    return average + share.astype(new.dtype) * (new - average)

  return None if average is None else jax.tree.map(move, average, new)


def _gradient(objective, state, batch, key):
  """``(loss, gradient, (model_state, aux_state, metrics))`` of a batch."""
  (loss, rest), grads = jax.value_and_grad(objective, has_aux=True)(
    state.params,
    state.model_state,
    state.aux_state,
    batch,
    key,
    state.step,
  )
  return loss, grads, rest


def _accumulate(objective, micro_batches, state, batch, key):
  """What `_gradient` gives, from parts of the batch, one after the other.

  A part whose gradient was divided by n counts in proportion to n. The sum
  runs online, as a softmax over the parts does: no n need be small. Metrics
  are means over the parts.
  """

  def cut(rows):  # Part m has every m-th row, so each device keeps its own.
    parts = rows.reshape(-1, micro_batches, *rows.shape[1:])
    return jnp.moveaxis(parts, 1, 0)

  def add(carry, part):
    total, mean, model_state, aux_state = carry
    m, rows = part
    loss, grads, (model_state, aux_state, metrics) = _gradient(
      objective,
      state.replace(model_state=model_state, aux_state=aux_state),
      rows,
      jax.random.fold_in(key, m),
    )
    log_normalizer = metrics.get('log_normalizer', jnp.zeros(()))
    new_total = jnp.logaddexp(total, log_normalizer)
    share = jnp.exp(log_normalizer - new_total)
    mean = jax.tree.map(
      lambda old, new: old + share.astype(old.dtype) * (new - old),
      mean,
      (loss, grads),
    )
    return (new_total, mean, model_state, aux_state), metrics

  parts = jnp.arange(micro_batches), jax.tree.map(cut, dict(batch))
  rows = jax.tree.map(lambda rows: rows[0], parts[1])
  loss, grads, _ = jax.eval_shape(
    functools.partial(_gradient, objective), state, rows, key
  )
  nothing = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (loss, grads)
  )
  start = jnp.full((), -jnp.inf), nothing, state.model_state, state.aux_state
  # XLA's convolutions crawl inside loops on the CPU.
  unroll = micro_batches if target.platform() == 'cpu' else 1
  (total, (loss, grads), model_state, aux_state), metrics = jax.lax.scan(
    add, start, parts, unroll=unroll
  )
  metrics = jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
  if 'log_normalizer' in metrics:
    metrics['log_normalizer'] = total
  return loss, grads, (model_state, aux_state, metrics)
