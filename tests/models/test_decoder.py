"""Decoders mirror encoders; two encoders are two networks side by side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import errors, models
from tests.tiers import first

MIRRORS = {
  'mlp': ({'widths': (16, 12)}, (8, 8, 3)),
  'cnn': ({'widths': (4, 6, 8), 'dense_width': 10}, (9, 6, 1)),
  'resnet18': ({'width': 2, 'stem': 'imagenet'}, (34, 34, 3)),
  'resnet50': ({'width': 2}, (10, 10, 1)),
  'vit_lite': ({'depth': 1}, (8, 12, 3)),
}


def make(name='mlp', **kw):
  return models.make(name, num_classes=5, **MIRRORS[name][0], **kw)


def shapes(model, image_shape, size=4):
  """Shapes of variables and results, without any work."""
  variables = jax.eval_shape(
    lambda key: models.init(model, key, image_shape), jax.random.key(0)
  )
  images = jax.ShapeDtypeStruct((size, *image_shape), jnp.float32)
  apply = functools.partial(models.apply_fn(model), train=True)
  return variables, jax.eval_shape(apply, *variables, images)


@functools.cache
def network(**kw):
  """A small network on 8 x 8 images, jitted, with its variables."""
  model = make(**kw)
  apply = jax.jit(models.apply_fn(model), static_argnames='train')
  return apply, *models.init(model, jax.random.key(0), (8, 8, 3))


def images_of(rng, size=6):
  return jnp.asarray(rng.random((size, 8, 8, 3), np.float32))


@pytest.mark.parametrize('dtype', first(['float32', 'bfloat16']))
@pytest.mark.parametrize('name', first(MIRRORS))
def test_what_is_decoded_has_the_shape_of_the_images(name, dtype):
  _, image_shape = MIRRORS[name]
  model = make(name, decoder='mirror', dtype=dtype)
  (params, state), ((_, out), new_state) = shapes(model, image_shape)
  assert out['reconstruction'].shape == (4, *image_shape)
  assert out['reconstruction'].dtype == jnp.float32
  assert set(params) == {'encoder', 'decoder'}
  assert jax.tree.structure(state) == jax.tree.structure(new_state)


@pytest.mark.fast
def test_a_mirrored_perceptron_has_the_kernels_of_its_encoder_transposed():
  model = make(decoder='mirror')
  (params, _), _ = shapes(model, (8, 8, 3))
  kernels = lambda tree: [
    leaf.shape for leaf in jax.tree.leaves(tree) if leaf.ndim == 2
  ]
  encoder = dict(params['encoder'])
  del encoder['head']
  assert sorted(kernels(params['decoder'])) == sorted(
    shape[::-1] for shape in kernels(encoder)
  )


@pytest.mark.full
def test_the_encoder_beside_a_decoder_is_the_network_alone(rng):
  apply, params, state = network(decoder='mirror')
  alone = models.apply_fn(make())
  images = images_of(rng)
  (logits, out), _ = apply(params, state, images, train=False)
  (same, same_out), _ = alone(params['encoder'], {}, images, train=False)
  np.testing.assert_allclose(logits, same, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(out['features'], same_out['features'], rtol=1e-6)
  assert 0 < out['reconstruction'].min() < out['reconstruction'].max() < 1


def test_labels_reach_a_decoder_that_takes_them_and_no_other(rng):
  images = images_of(rng)
  reconstruct = lambda kw, labels: network(decoder='mirror', **kw)[0](
    *network(decoder='mirror', **kw)[1:], images, train=True, labels=labels
  )[0]
  zeros, ones = jnp.zeros(6, int), jnp.ones(6, int)
  by_label = {'decoder_condition': 'label'}
  (logits, at_zero), (_, at_one) = (
    reconstruct(by_label, labels) for labels in (zeros, ones)
  )
  moved = np.abs(at_one['reconstruction'] - at_zero['reconstruction'])
  assert moved.max() > 1e-3
  np.testing.assert_array_equal(at_one['features'], at_zero['features'])
  _, unlabelled = reconstruct(by_label, None)
  _, predicted = reconstruct(by_label, jnp.argmax(logits, axis=-1))
  np.testing.assert_array_equal(
    unlabelled['reconstruction'], predicted['reconstruction']
  )
  _, same_zero = reconstruct({}, zeros)
  _, same_one = reconstruct({}, ones)
  np.testing.assert_array_equal(
    same_zero['reconstruction'], same_one['reconstruction']
  )


def test_a_linear_output_is_in_the_channels_of_the_encoder(rng):
  moments = {'mean': (0.1, 0.2, 0.3), 'std': (2.0, 3.0, 4.0)}
  apply, params, _ = network(
    decoder='mirror', decoder_output='linear', **moments
  )
  last = params['decoder']['pixels']
  still = jax.tree.map(jnp.zeros_like, last)
  ones = still | {'bias': jnp.ones_like(last['bias'])}
  for pixels, expected in (
    (still, moments['mean']),
    (ones, np.add(moments['mean'], moments['std'])),
  ):
    decoder = params['decoder'] | {'pixels': pixels}
    (_, out), _ = apply(
      params | {'decoder': decoder}, {}, images_of(rng), train=False
    )
    np.testing.assert_allclose(
      out['reconstruction'],
      np.broadcast_to(np.float32(expected), (6, 8, 8, 3)),
      rtol=1e-6,
    )


@pytest.mark.parametrize('encoders', first(['two', 'joint']))
def test_two_encoders_are_each_network_by_itself(rng, encoders):
  images = images_of(rng)
  apply, params, _ = network(
    decoder='mirror', encoders=encoders, embedding_dim=7
  )
  assert set(params) == {'contrastive', 'autoencoder'}
  (logits, out), _ = apply(params, {}, images, train=True)
  (first, a), _ = models.apply_fn(make(embedding_dim=7))(
    params['contrastive'], {}, images, train=True
  )
  (second, b), _ = models.apply_fn(make(decoder='mirror'))(
    params['autoencoder'], {}, images, train=True
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  close(out['features'], np.concatenate([a['features'], b['features']], axis=1))
  close(out['embedding'], a['embedding'])
  close(out['reconstruction'], b['reconstruction'])
  if encoders == 'joint':
    close(logits, first + second)
    assert 'branch_logits' not in out
  else:
    close(out['branch_logits'], np.stack([first, second]))
    close(logits, (first + second) / 2)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'words'),
  [
    ({'decoder': 'mirrored'}, "decoder='mirrored' must be one of none, mirror"),
    ({'encoders': 'three'}, "encoders='three' must be one of one, two, joint"),
    (
      {'decoder': 'mirror', 'decoder_condition': 'both'},
      "decoder_condition='both' must be one of encoder, label",
    ),
    (
      {'decoder': 'mirror', 'decoder_output': 'tanh', 'encoders': 'two'},
      "decoder_output='tanh' must be one of sigmoid, linear",
    ),
    ({'width': 3}, 'keys: widths|decoder'),
  ],
)
def test_what_does_not_exist_is_refused_in_one_line(kw, words):
  with pytest.raises(errors.ConfigError, match=words) as caught:
    make(**kw)
  assert '\n' not in str(caught.value)


def test_a_decoder_of_patches_that_do_not_fit_is_refused():
  model = make(decoder='vit_tiny')  # Patches of 16 pixels.
  with pytest.raises(errors.ConfigError, match='a divisor of the image size'):
    shapes(model, (8, 8, 3))
