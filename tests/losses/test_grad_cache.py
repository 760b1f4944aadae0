"""Encoding in chunks: the same gradient with the activations of one chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first


def encode(params, inputs):
  x = inputs['image']
  for w in params:
    x = jnp.tanh(x @ w)
  noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))
  return losses.l2_normalize(x + 0.01 * noise(inputs['key']))


def problem(num, width=8, depth=3):
  keys = jax.random.split(jax.random.key(0), depth + 1)
  params = [0.5 * jax.random.normal(k, (width, width)) for k in keys[1:]]
  inputs = {
    'image': jax.random.normal(keys[0], (num, width)),
    'key': jax.random.split(keys[0], num),
  }
  return params, inputs


def grad_of(encoder, num):
  ids = jnp.arange(num) // 2

  def loss(params, image, key):
    z = encoder(params, {'image': image, 'key': key})
    return losses.infonce(z, ids, temperature=0.5).mean()

  return lambda params, image, key: jax.value_and_grad(loss, (0, 1))(
    params, image, key
  )


@pytest.mark.parametrize('unroll', first([True, False]))
@pytest.mark.parametrize('chunk_size', first([4, 5, 50]))
def test_value_and_gradient_are_those_of_the_whole_batch(chunk_size, unroll):
  with jax.enable_x64(True):
    params, inputs = problem(12)
    chunked = lambda params, inputs: losses.grad_cache(
      encode, params, inputs, chunk_size=chunk_size, unroll=unroll
    )
    got = jax.jit(grad_of(chunked, 12))(params, **inputs)
    want = jax.jit(grad_of(encode, 12))(params, **inputs)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-15, rtol=1e-12)


@pytest.mark.full
def test_memory_is_that_of_one_chunk():
  num, width = 512, 64
  params, inputs = problem(num, width, depth=24)

  def temporaries(encoder):
    compiled = jax.jit(grad_of(encoder, num)).lower(params, **inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  chunked = lambda params, inputs: losses.grad_cache(
    encode, params, inputs, chunk_size=32
  )
  assert temporaries(chunked) < 0.5 * temporaries(encode)


@pytest.mark.fast
def test_wrong_arguments_are_named():
  with pytest.raises(ValueError, match='leading axis'):
    losses.grad_cache(encode, (), {}, chunk_size=2)
  uneven = {'a': jnp.ones(3), 'b': jnp.ones(4)}
  with pytest.raises(ValueError, match='one leading axis'):
    losses.grad_cache(encode, (), uneven, chunk_size=2)
  with pytest.raises(ValueError, match='chunk_size'):
    losses.grad_cache(encode, (), jnp.ones(3), chunk_size=0)
