"""What a decoder makes of the features is measured and pictured."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import evals
from rrl_jax.evals import reconstruction
from tests.evals import toy


def decoding(params, model_state, images, *, train):
  """The toy network with a decoder that darkens, and adds a little."""
  (logits, out), state = toy.network(params, model_state, images, train=train)
  decoded = 0.5 * images + 0.1
  return (logits, out | {'reconstruction': decoded}), state


def run(encoder, data, key, **kw):
  return evals.run(encoder, data, {'reconstruction': kw}, key=key)


def test_the_error_is_the_mean_over_pixels_and_images(key):
  data = toy.data()
  found, _ = run(
    toy.trainable(decoding, batch_size=64), data, key, num_examples=0
  )
  images = np.asarray(data.test.images)
  expected = np.mean((0.5 * images + 0.1 - images) ** 2)
  measured = found['reconstruction/error']
  assert measured.value == pytest.approx(expected, rel=1e-5)
  assert measured.low < measured.value < measured.high
  assert '203 examples' in measured.protocol


def test_pictures_are_of_one_fine_class_after_the_other(key):
  data = toy.data()
  test = dataclasses.replace(
    data.test,
    labels=data.test.labels % 2,
    class_names=('even', 'odd'),
    fine_labels=data.test.labels,
    fine_names=data.test.class_names,
  )
  _, figures = run(
    toy.trainable(decoding),
    dataclasses.replace(data, test=test),
    key,
    num_pictures=7,
  )
  labels = figures['figure/reconstructions_labels']
  np.testing.assert_array_equal(labels, [0, 1, 2, 3, 4, 0, 1])
  assert ''.join(figures['figure/reconstructions_class_names']) == 'abcde'
  inputs = figures['figure/reconstructions_inputs']
  assert inputs.shape == (7, *toy.SHAPE)
  np.testing.assert_allclose(
    figures['figure/reconstructions_outputs'], 0.5 * inputs + 0.1, rtol=1e-5
  )


def test_a_smaller_image_is_compared_with_what_the_network_saw(key):
  def cropping(params, model_state, images, *, train):
    (logits, out), state = toy.network(params, model_state, images, train=train)
    return (logits, out | {'reconstruction': images[:, 1:5, 1:5]}), state

  found, figures = run(toy.trainable(cropping), toy.data(), key)
  assert found['reconstruction/error'].value == 0
  assert figures['figure/reconstructions_inputs'].shape[1:] == (4, 4, 1)


@pytest.mark.fast
def test_a_network_without_a_decoder_has_nothing_to_show(key):
  for encoder in (toy.encoder(), toy.trainable()):
    assert run(encoder, toy.data(), key) == ({}, {})


@pytest.mark.fast
def test_classes_take_turns():
  order = reconstruction._in_turn(jnp.asarray([2, 2, 2, 0, 0, 1]))
  np.testing.assert_array_equal(order, [3, 5, 0, 4, 1, 2])
