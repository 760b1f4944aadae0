"""A network whose features and logits are linear in the pixels."""

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
  """Weights for images of 16 pixels, as NumPy arrays."""
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {'in': draw(16, 5), 'out': draw(5, NUM_CLASSES), 'predict': draw(5, 5)}


def draw_batch(rng):
  """Eight images, in two views, at least 0.3 from black and white."""
  views = rng.uniform(0.3, 0.7, size=(8, 2, 4, 4, 1)).astype(np.float32)
  return {
    'image': views[:, 0],
    'views': views,
    'label': np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32),
    'index': np.arange(8, dtype=np.int32),
  }


def draw():
  """``(params, batch)``, the same ones each time."""
  rng = np.random.default_rng(0)
  return draw_params(rng), draw_batch(rng)


def passes():
  """The state of the network before the first pass."""
  return {name: np.zeros((), np.float32) for name in ('clean', 'adversarial')}


def init(objective, params, batch):
  """What the objective remembers before the first step."""
  return objective.init(params, passes(), batch, jax.random.key(0))


def take(objective, params, batch, step=0, aux_state=None):
  """``(loss, gradient, model_state, aux_state, metrics)`` of one step."""
  if aux_state is None:
    aux_state = init(objective, params, batch)
  (loss, (state, aux_state, metrics)), grads = jax.value_and_grad(
    objective, has_aux=True
  )(params, passes(), aux_state, batch, jax.random.key(0), step)
  return loss, grads, state, aux_state, metrics
