"""A network whose features and logits are linear in the pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import objectives
from rrl_jax.typing import DataSpec

NUM_CLASSES = 3


def apply_fn(params, model_state, images, *, train, adversarial=False):
  """Counts its passes in train mode: of clean images, of attacked ones."""
  flat = images.reshape(images.shape[0], -1)
  features = flat @ params['in']
  out = {
    'features': features,
    'embedding': jnp.tanh(features),
    'prediction': jnp.tanh(features) @ params['predict'],
  }
  if train:
    which = 'adversarial' if adversarial else 'clean'
    model_state = model_state | {which: model_state[which] + 1}
  return (features @ params['out'], out), model_state


def make(name, **kw):
  """The objective of that name on this network."""
  spec = DataSpec(
    class_names=tuple('012'),
    concept_names=('a',),
    concept_counts=np.array([8]),
    sampling_probs=np.array([1.0]),
    num_examples=8,
  )
  return objectives.make(name, apply_fn, data=spec, kw=kw)


def draw_params(rng):
  """Weights for images of 16 pixels."""
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {'in': draw(16, 5), 'out': draw(5, NUM_CLASSES), 'predict': draw(5, 5)}


def draw_batch(rng):
  """Eight images, in two views, at least 0.3 from black and white."""
  views = jnp.asarray(rng.uniform(0.3, 0.7, size=(8, 2, 4, 4, 1)), jnp.float32)
  return {
    'image': views[:, 0],
    'views': views,
    'label': jnp.asarray([0, 1, 2, 0, 1, 2, 0, 1]),
    'index': jnp.arange(8),
  }


def passes():
  """The state of the network before the first pass."""
  return {'clean': jnp.zeros(()), 'adversarial': jnp.zeros(())}


def init(objective, params, batch):
  """What the objective remembers before the first step."""
  return objective.init(params, passes(), batch, jax.random.key(0))


@functools.cache
def _compiled(objective):
  """Value and gradient, compiled once for all steps."""
  return jax.jit(jax.value_and_grad(objective, has_aux=True))


def run(objective, params, batch, step=0, aux_state=None):
  """``(loss, gradient, model_state, aux_state, metrics)`` of one step."""
  if aux_state is None:
    aux_state = init(objective, params, batch)
  (loss, (state, aux_state, metrics)), grads = _compiled(objective)(
    params, passes(), aux_state, batch, jax.random.key(0), step
  )
  return loss, grads, state, aux_state, metrics


def close(a, b, rtol=1e-5, atol=1e-6):
  """Asserts that two trees hold nearly the same numbers."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b
  )
