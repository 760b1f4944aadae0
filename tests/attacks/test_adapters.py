"""One attack, four ways to write the same network."""

import equinox as eqx
from flax import linen, nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rrl_jax import attacks
from tests.tiers import first

D, HIDDEN, K, B = 12, 10, 3, 16
RNG = np.random.default_rng(11)
WEIGHTS = {
  'w1': RNG.normal(size=(D, HIDDEN)).astype('f'),
  'b1': RNG.normal(size=HIDDEN).astype('f'),
  'w2': RNG.normal(size=(HIDDEN, K)).astype('f'),
  'b2': RNG.normal(size=K).astype('f'),
}
X = RNG.uniform(size=(B, D)).astype('f')
LABELS = RNG.integers(K, size=B).astype('int32')


class LinenNet(linen.Module):
  @linen.compact
  def __call__(self, x):
    x = linen.Dense(HIDDEN)(x)
    return linen.Dense(K)(jnp.tanh(x))


class NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(D, HIDDEN, rngs=rngs)
    self.second = nnx.Linear(HIDDEN, K, rngs=rngs)

  def __call__(self, x):
    return self.second(jnp.tanh(self.first(x)))


class EquinoxNet(eqx.Module):
  first: eqx.nn.Linear
  second: eqx.nn.Linear

  def __init__(self, key):
    self.first = eqx.nn.Linear(D, HIDDEN, key=key)
    self.second = eqx.nn.Linear(HIDDEN, K, key=key)

  def __call__(self, x):  # One example, as equinox has it.
    return self.second(jnp.tanh(self.first(x)))


def plain():
  """``(params, params -> logits_fn)``."""
  return (
    WEIGHTS,
    lambda p: (
      lambda x: jnp.tanh(x @ p['w1'] + p['b1'][None]) @ p['w2'] + p['b2'][None]
    ),
  )


def from_linen():
  params = {
    'Dense_0': {'kernel': WEIGHTS['w1'], 'bias': WEIGHTS['b1']},
    'Dense_1': {'kernel': WEIGHTS['w2'], 'bias': WEIGHTS['b2']},
  }
  return params, lambda p: lambda x: LinenNet().apply({'params': p}, x)


def from_nnx():
  model = NnxNet(nnx.Rngs(0))
  model.first.kernel[...] = jnp.asarray(WEIGHTS['w1'])
  model.first.bias[...] = jnp.asarray(WEIGHTS['b1'])
  model.second.kernel[...] = jnp.asarray(WEIGHTS['w2'])
  model.second.bias[...] = jnp.asarray(WEIGHTS['b2'])
  graph, params = nnx.split(model)
  return params, lambda p: lambda x: nnx.merge(graph, p)(x)


def from_equinox():
  leaves = lambda m: (
    m.first.weight,
    m.first.bias,
    m.second.weight,
    m.second.bias,
  )
  model = eqx.tree_at(
    leaves,
    EquinoxNet(jax.random.key(0)),
    (WEIGHTS['w1'].T, WEIGHTS['b1'], WEIGHTS['w2'].T, WEIGHTS['b2']),
  )
  params, static = eqx.partition(model, eqx.is_array_like)
  return params, lambda p: jax.vmap(eqx.combine(p, static))


MODELS = {
  'plain': plain,
  'linen': from_linen,
  'nnx': from_nnx,
  'equinox': from_equinox,
}


def attack(logits_of, params, x, labels):
  logits_fn = logits_of(params)
  loss_fn = attacks.untargeted_objective(logits_fn, labels)
  z = attacks.pgd(
    loss_fn,
    jax.random.key(1),
    x,
    epsilon=0.2,
    step_size=0.05,
    num_steps=4,
    norm='l2',
    num_restarts=2,
    momentum=0.5,
    unroll=1,
  )
  kl = attacks.kl_objective(logits_fn, logits_fn(x))
  return z, attacks.udr(
    kl,
    jax.random.key(2),
    x,
    epsilon=0.1,
    multiplier=0.5,
    step_size=0.05,
    num_steps=3,
    unroll=1,
  )


def run(name):
  params, logits_of = MODELS[name]()
  return jax.jit(lambda p, x, y: attack(logits_of, p, x, y))(params, X, LABELS)


@pytest.mark.parametrize('name', first([n for n in MODELS if n != 'plain']))
def test_every_kind_of_model_gives_the_same_result(name):
  for z, expected in zip(run(name), run('plain'), strict=True):
    assert np.abs(expected - X).max() > 0.05
    np.testing.assert_allclose(z, expected, atol=2e-6)


@pytest.mark.full
@pytest.mark.parametrize('name', first(MODELS))
def test_no_collectives_and_the_same_result_on_eight_devices(name, mesh):
  params, logits_of = MODELS[name]()
  whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
  args = (
    jax.device_put(params, whole),
    jax.device_put(X, rows),
    jax.device_put(LABELS, rows),
  )
  compiled = (
    jax.jit(lambda p, x, y: attack(logits_of, p, x, y)).lower(*args).compile()
  )
  text = compiled.as_text()
  for word in ('all-reduce', 'all-gather', 'all-to-all', 'permute('):
    assert word not in text
  for z, expected in zip(compiled(*args), run(name), strict=True):
    np.testing.assert_allclose(z, expected, atol=2e-6)
    assert z.sharding.is_equivalent_to(rows, 2)


@pytest.mark.fast
@pytest.mark.parametrize('name', MODELS)
def test_no_gradient_reaches_the_parameters_through_the_attack(name):
  params, logits_of = MODELS[name]()

  def through(p):
    return sum(jnp.sum(z) for z in attack(logits_of, p, X, LABELS))

  leaves = jax.tree.leaves(jax.jit(jax.grad(through))(params))
  assert len(leaves) == 4
  for leaf in leaves:
    np.testing.assert_array_equal(leaf, 0)
