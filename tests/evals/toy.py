"""A small problem that a fixed linear encoder solves in part."""

import jax.numpy as jnp
import numpy as np

from rrl_jax import evals
from rrl_jax.data.source import Source

NUM_CLASSES = 5
SHAPE = (6, 6, 1)


def source(seed=0, size=203, *, lazy=False):
  rng = np.random.default_rng(seed)
  prototypes = np.random.default_rng(42).random((NUM_CLASSES, *SHAPE))
  labels = rng.integers(0, NUM_CLASSES, size).astype(np.int32)
  noise = rng.normal(0, 0.35, (size, *SHAPE))
  images = np.clip(prototypes[labels] + noise, 0, 1).astype(np.float32)
  concepts = np.minimum(labels, 2)  # Classes 2, 3, 4 share a concept.
  return Source(
    images=Lazy(images) if lazy else images,
    labels=labels,
    class_names=tuple('abcde'),
    concepts=concepts,
    concept_names=('first', 'second', 'rest'),
  )


class Lazy:
  """Images that are read when they are indexed by an integer array."""

  def __init__(self, images):
    self._images = images
    self.shape, self.dtype = images.shape, images.dtype

  def __len__(self):
    return len(self._images)

  def __getitem__(self, indices):
    assert isinstance(indices, np.ndarray)
    assert indices.dtype.kind == 'i'
    return self._images[indices]


def apply(variables, images):
  features = jnp.tanh(images.reshape(images.shape[0], -1) @ variables['v'])
  return features @ variables['w'], features


def variables():
  rng = np.random.default_rng(7)
  v = rng.normal(0, 0.4, (np.prod(SHAPE), 12)).astype(np.float32)
  train = source(1, 400)
  features = np.tanh(train.images.reshape(400, -1) @ v)
  targets = np.eye(NUM_CLASSES)[train.labels]
  w, *_ = np.linalg.lstsq(features, targets, rcond=None)
  return {'v': v, 'w': 3 * w.astype(np.float32)}


def encoder(**kw):
  return evals.Encoder(apply=apply, variables=variables(), **kw)


def data(**kw):
  return evals.EvalData(
    train=source(1, 400),
    test=source(2),
    tasks=(
      evals.Task('one', source(3, 150), source(4, 90)),
      evals.Task('two', source(5, 150), source(6, 80)),
    ),
    **kw,
  )


def first_task():
  """The data without their second task."""
  both = data()
  return evals.EvalData(both.train, both.test, both.tasks[:1])


def one_class_among_tasks():
  """The data with a second task whose training examples are all of class b."""
  both = data()
  train = both.tasks[0].train
  train = train.take(np.flatnonzero(train.labels == 1))
  single = evals.Task('single', train, both.tasks[0].test)
  return evals.EvalData(both.train, both.test, (both.tasks[0], single))


def never(*args, **kw):
  """A network that may not be asked."""
  raise AssertionError('worked')


def counting(**kw):
  """An encoder and the shapes that it was traced for."""
  traced = []

  def counted(variables, images):
    traced.append(images.shape)
    return apply(variables, images)

  return evals.Encoder(counted, variables(), **kw), traced


def network(params, model_state, images, *, train):
  logits, features = apply(params, images)
  return (logits, {'features': features}), model_state


def trainable(network=network, params=None, model_state=None, **kw):
  """An encoder that evaluations may train on."""

  def apply(variables, images):
    (logits, out), _ = network(*variables, images, train=False)
    return logits, out['features']

  params = variables() if params is None else params
  state = {} if model_state is None else model_state
  return evals.Encoder(apply, (params, state), network=network, **kw)


def robust_and_not(rng, size=200):
  """Two pixels: one right of nine in ten, far; one always right, but near.

  A shift of 0.1 of each pixel makes the second worth nothing and leaves the
  first as it is.
  """
  labels = rng.integers(0, 2, size).astype(np.int32)
  signs = 2 * labels - 1
  wrong = np.where(rng.random(size) < 0.1, -1, 1)
  pixels = 0.5 + np.stack([0.3 * signs * wrong, 0.04 * signs], axis=1)
  images = pixels.reshape(size, 1, 2, 1).astype(np.float32)
  return Source(images, labels, ('low', 'high')), np.mean(wrong == 1)


def one_robust_task(rng):
  """The data of `robust_and_not`, and the best robust test accuracy."""
  train, _ = robust_and_not(rng)
  test, best = robust_and_not(rng)
  return evals.EvalData(train, test, (evals.Task('t', train, test),)), best


def cheap_auto_attack(auto_attack):
  """One attack of two steps, whatever is asked."""
  few = {'version': 'custom', 'attacks': ('apgd-ce',), 'num_steps': 2}
  return lambda *args, **kw: auto_attack(*args, **{**kw, **few})


def assert_sound(measured):
  """Asserts that all are numbers in their intervals, with a protocol."""
  any_size = ('bound/', 'indicators/', 'shifted/')
  falls = ('/slack', '/accuracy_drop', '/relative_mean_corruption_error')
  for name, m in measured.items():
    unbounded = name == 'test/log_loss' or name.startswith(any_size)
    top = np.inf if unbounded or 'relative' in name else 1
    signed = name.endswith(falls) or name.startswith(any_size[1:])
    bottom = -np.inf if signed else 0
    low, high = (m.value if np.isnan(x) else x for x in m[1:3])  # Without one.
    assert bottom <= low <= m.value <= high <= top, name
    assert m.protocol.endswith('.'), name
    assert '\n' not in m.protocol, name
