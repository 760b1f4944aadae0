"""A smooth two-layer network, and its gradient in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import objectives
from rrl_jax.typing import DataSpec

NUM_CLASSES, NUM_EXAMPLES = 4, 24
ROWS = np.arange(NUM_EXAMPLES)


def apply_fn(params, model_state, images, *, train):
  del train
  flat = images.reshape(images.shape[0], -1)
  features = jnp.tanh(flat @ params['in'])
  return (features @ params['out'], {'features': features}), model_state


def make(name, num_classes=NUM_CLASSES, **kw):
  """The objective of that name on this network."""
  spec = DataSpec(
    class_names=tuple(str(k) for k in range(num_classes)),
    concept_names=('a',),
    concept_counts=np.array([NUM_EXAMPLES]),
    sampling_probs=np.array([1.0]),
    num_examples=NUM_EXAMPLES,
  )
  return objectives.make(name, apply_fn, data=spec, kw=kw)


def draw():
  """``(params, batch)``, the same ones each time."""
  rng = np.random.default_rng(0)
  params = {
    'in': (rng.normal(size=(16, 8)) / 2).astype(np.float32),
    'out': rng.normal(size=(8, NUM_CLASSES)).astype(np.float32),
  }
  labels = rng.integers(NUM_CLASSES, size=NUM_EXAMPLES).astype(np.int32)
  images = rng.uniform(size=(NUM_EXAMPLES, 4, 4, 1)).astype(np.float32)
  return params, {
    'image': images,
    'label': labels,
    'concept': labels,
    'index': ROWS.astype(np.int32),
  }


def take(objective, params, batch, step=0, aux_state=None):
  """``(gradient, aux_state, metrics)`` of one step."""
  if aux_state is None:
    aux_state = objective.init(params, {}, batch, jax.random.key(0))
  grads, (_, aux_state, metrics) = jax.grad(objective, has_aux=True)(
    params, {}, aux_state, batch, jax.random.key(1), step
  )
  return grads, aux_state, metrics


def take_several(objective, params, batch, steps, aux_state=None):
  """The same of steps that follow each other, stacked."""
  if aux_state is None:
    aux_state = objective.init(params, {}, batch, jax.random.key(0))

  def one(aux_state, step):
    found = take(objective, params, batch, step, aux_state)
    return found[1], found

  return jax.lax.scan(one, aux_state, jnp.asarray(steps))[1]


def logits_of(params, batch):
  return apply_fn(params, {}, batch['image'], train=False)[0][0]


# In NumPy and float64.


def forward(params, batch):
  """Features and logits."""
  flat = np.asarray(batch['image'], np.float64).reshape(len(batch['image']), -1)
  features = np.tanh(flat @ np.asarray(params['in'], np.float64))
  return features, features @ np.asarray(params['out'], np.float64)


def softmax(logits):
  probs = np.exp(logits - logits.max(axis=1, keepdims=True))
  return probs / probs.sum(axis=1, keepdims=True)


def cross_entropy(params, batch):
  """Of each example."""
  probs = softmax(forward(params, batch)[1])
  return -np.log(probs[np.arange(len(probs)), batch['label']])


def residual(params, batch):
  """The slope of each example's cross entropy with respect to its logits."""
  probs = softmax(forward(params, batch)[1])
  probs[np.arange(len(probs)), batch['label']] -= 1
  return probs


def pull_back(params, batch, slopes):
  """The gradient of the parameters, given that of the logits."""
  features, _ = forward(params, batch)
  flat = np.asarray(batch['image'], np.float64).reshape(len(slopes), -1)
  inner = slopes @ np.asarray(params['out'], np.float64).T
  return {
    'in': flat.T @ (inner * (1 - features**2)),
    'out': features.T @ slopes,
  }
