"""A teacher: the network's weights as they were, averaged over the past."""

import jax
import jax.numpy as jnp
import optax

from rrl_jax import typing


def init(params: typing.Params, model_state: typing.ModelState):
  """A teacher that equals the network, with arrays of its own."""
  return jax.tree.map(jnp.copy, {'params': params, 'model_state': model_state})


def forward(
  apply_fn: typing.ApplyFn, teacher, images: jax.Array, *, train: bool, **kw
):
  """``((logits, out), teacher)`` without gradient.

  In train mode the teacher's BatchNorm averages move, its weights never.
  """
  teacher, images = jax.lax.stop_gradient((teacher, images))
  found, model_state = apply_fn(
    teacher['params'], teacher['model_state'], images, train=train, **kw
  )
  return jax.lax.stop_gradient(found), teacher | {'model_state': model_state}


def follow(teacher, params: typing.Params, momentum: float):
  """The teacher a step later: ``momentum`` of it, the rest of the network."""
  params = optax.incremental_update(
    jax.lax.stop_gradient(params), teacher['params'], 1 - momentum
  )
  return teacher | {'params': params}
