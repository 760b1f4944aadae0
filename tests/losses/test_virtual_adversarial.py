"""The virtual adversarial direction, its randomness and its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

W = np.random.default_rng(1).normal(size=(5, 3))


def net(w, x):
  return jnp.tanh(x @ w) * 2


def kl(w, x, moved):
  p, q = jax.nn.log_softmax(net(w, x)), jax.nn.log_softmax(net(w, moved))
  return jnp.sum(jnp.exp(p) * (p - q), -1)


@functools.partial(jax.jit, static_argnames='num_steps')
def virtual(w, key, x, **kw):
  return losses.virtual_adversarial(lambda z: net(w, z), key, x, **kw)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


@pytest.mark.full
def test_many_rounds_find_the_leading_eigenvector(x64, key, rng):
  x = rng.normal(size=(3, 5))
  out = virtual(W, key, x, epsilon=0.1, num_steps=12)
  curve = jax.jit(
    lambda row: jax.hessian(lambda r: kl(W, row, row + r))(jnp.zeros(5))
  )
  for row, value in zip(x, out, strict=True):
    hessian = curve(row)
    _, vectors = np.linalg.eigh(hessian)
    best = [kl(W, row, row + s * 0.1 * vectors[:, -1]) for s in (1, -1)]
    assert np.min(np.abs(np.asarray(best) - value)) < 1e-7


def test_one_round_is_the_published_finite_difference(x64, key, rng):
  x, xi = rng.normal(size=(3, 5)), 1e-6
  draw = lambda i: jax.random.normal(jax.random.fold_in(key, i), (5,))
  d = jax.vmap(draw)(jnp.arange(3))
  unit = lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True)
  grad = jax.grad(lambda r: kl(W, x, x + r).sum())(xi * unit(d))
  expected = kl(W, x, x + 0.5 * unit(grad))
  out = virtual(W, key, x, epsilon=0.5)
  np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_an_examples_result_does_not_depend_on_its_batch(key, rng):
  x = jnp.asarray(rng.normal(size=(4, 5)), 'f')
  call = lambda x, ids: virtual(
    W.astype('f'), key, x, epsilon=0.5, example_ids=ids
  )
  whole = call(x, jnp.arange(4))
  alone = call(x[2:3], jnp.array([2]))
  np.testing.assert_allclose(alone, whole[2:3], rtol=1e-5)


def test_the_gradient_flows_through_the_perturbed_side_alone(x64, key, rng):
  x = rng.normal(size=(3, 5))

  loss = jax.jit(lambda w: virtual(w, key, x, epsilon=0.5).sum())

  # The same with everything that is constant computed outside.
  _, log_p = kl(W, x, x), jax.nn.log_softmax(net(W, x))
  moved = []

  def spy(z):
    moved.append(z)
    return net(W, z)

  losses.virtual_adversarial(spy, key, x, epsilon=0.5)

  def by_hand(w):
    log_q = jax.nn.log_softmax(net(w, moved[-1]))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

  np.testing.assert_allclose(
    jax.grad(loss)(W), jax.jit(jax.grad(by_hand))(W), rtol=1e-9
  )


def test_it_needs_no_forward_mode_rule(key):
  @jax.custom_vjp
  def double(x):
    return 2 * x

  double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))
  x = jnp.ones((2, 3))
  w = jnp.asarray(W[:3], 'f')
  call = lambda f: jax.jit(
    lambda x: losses.virtual_adversarial(
      lambda z: f(z) @ w, key, x, epsilon=0.3
    )
  )(x)
  np.testing.assert_allclose(call(double), call(lambda z: 2 * z), rtol=1e-5)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_flat_models_and_masks_are_finite(key, dtype):
  # Saturated logits and a constant model have no most sensitive direction.
  x = jnp.ones((3, 5), dtype).at[1].set(jnp.nan)
  where = jnp.array([True, False, True])

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def total(w):
    out = losses.virtual_adversarial(
      lambda z: z @ w, key, x, epsilon=0.5, num_steps=2, where=where
    )
    return out.sum(), out

  for scale in (0.0, 1e4):
    w = jnp.asarray(W * scale, dtype)

    (_, out), grad = total(w)
    assert np.isfinite(np.asarray(out, 'f')).all()
    assert np.isfinite(np.asarray(grad, 'f')).all()
    assert out[1] == 0


@pytest.mark.fast
def test_wrong_arguments_are_named(key):
  fun, x = (lambda z: z), jnp.ones((2, 3))
  with pytest.raises(ValueError, match='num_steps must lie in'):
    losses.virtual_adversarial(fun, key, x, epsilon=1.0, num_steps=-1)
  with pytest.raises(ValueError, match='epsilon must lie in'):
    losses.virtual_adversarial(fun, key, x, epsilon=-1.0)
  with pytest.raises(ValueError, match=r'logits_fn must return \[2, K\]'):
    losses.virtual_adversarial(lambda z: z[0], key, x, epsilon=1.0)
  with pytest.raises(ValueError, match='example_ids must have shape'):
    losses.virtual_adversarial(
      fun, key, x, epsilon=1.0, example_ids=jnp.arange(3)
    )
