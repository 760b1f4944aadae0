import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from rrl_jax.data import augment as lib
from rrl_jax.errors import ConfigError

jitted = jax.jit(  # Eager calls would compile each operation.
  lib.augment,
  static_argnames=('crop', 'flip', 'resized_crop', 'scale', 'ratio'),
)
EVERYTHING = {'crop': 2, 'flip': True, 'resized_crop': 6}


@pytest.fixture
def images(rng):
  return rng.uniform(0.1, 1, (8, 7, 9, 3)).astype(np.float32)


def test_bytes_become_floats_in_the_unit_interval():
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  floats = lib.to_float(images)
  assert floats.dtype == jnp.float32
  np.testing.assert_allclose(floats, images / 255.0, rtol=1e-6)
  np.testing.assert_array_equal(np.round(floats * 255), images)
  assert lib.to_float(floats, jnp.bfloat16).dtype == jnp.bfloat16
  with pytest.raises(TypeError, match='int32'):
    lib.to_float(np.zeros((1, 2, 2, 1), np.int32))


def test_nothing_asked_changes_nothing(images, key):
  np.testing.assert_array_equal(lib.augment(images, key), images)


@pytest.mark.parametrize(
  'kw', [{'crop': 2}, {'flip': True}, {'resized_crop': 6}, EVERYTHING]
)
def test_an_example_alone_equals_itself_in_a_batch(images, key, kw):
  together = jitted(images, key, **kw)
  for i in range(len(images)):
    alone = jitted(images[i : i + 1], key, **kw, example_ids=np.array([i]))
    np.testing.assert_allclose(alone[0], together[i], atol=1e-6)


def test_a_sharded_batch_gives_the_same(images, key, mesh):
  fun = lambda x: jitted(x, key, **EVERYTHING)
  sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec('data')))
  np.testing.assert_allclose(fun(sharded), fun(images), atol=1e-6)


def test_a_crop_is_a_window_of_the_bordered_image(images, key):
  crop = 2
  cropped = np.asarray(jitted(images, key, crop=crop))
  offsets = set()
  for image, result in zip(images, cropped, strict=True):
    bordered = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
    found = [
      (i, j)
      for i in range(2 * crop + 1)
      for j in range(2 * crop + 1)
      if np.array_equal(bordered[i : i + 7, j : j + 9], result)
    ]
    assert len(found) == 1
    offsets.add(found[0])
  assert len(offsets) > 3


def test_half_of_the_images_are_mirrored(key):
  images = np.zeros((2000, 1, 2, 1), np.float32)
  images[:, :, 0] = 1
  flipped = np.asarray(jitted(images, key, flip=True))
  np.testing.assert_array_equal(flipped.sum(axis=2), 1)
  assert abs(flipped[:, 0, 1, 0].mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_a_box_of_the_whole_square_image_is_a_resize(rng, key):
  images = rng.uniform(0, 1, (3, 8, 8, 1)).astype(np.float32)
  kw = {'scale': (1.0, 1.0), 'ratio': (1.0, 1.0)}
  same = jitted(images, key, resized_crop=8, **kw)
  np.testing.assert_allclose(same, images, atol=1e-5)
  smaller = jitted(images, key, resized_crop=4, **kw)
  expected = jax.image.resize(images, (3, 4, 4, 1), 'linear')
  np.testing.assert_allclose(smaller, expected, atol=1e-5)


def test_boxes_have_the_drawn_area_and_aspect(key):
  # On a ramp the range of a resized box tells its size in that direction.
  size = 200
  ramp = np.linspace(0, 1, size, dtype=np.float32)
  across = np.broadcast_to(ramp[None, None, :, None], (300, size, size, 1))
  down = across.transpose(0, 2, 1, 3)
  images = np.concatenate([across, down], axis=-1)
  boxes = np.asarray(jitted(images, key, resized_crop=32))
  width = np.ptp(boxes[..., 0], axis=(1, 2)) * 32 / 31
  height = np.ptp(boxes[..., 1], axis=(1, 2)) * 32 / 31
  area, aspect = width * height, width / height
  assert area.min() > 0.07
  assert area.max() <= 1.1
  assert area.min() < 0.12
  assert area.max() > 0.9
  inside = np.maximum(width, height) < 0.98  # Not cut to the image.
  assert aspect[inside].min() > 0.73
  assert aspect[inside].max() < 1.37
  assert aspect.min() < 0.8
  assert aspect.max() > 1.25


def test_values_stay_in_the_unit_interval_and_dtype(images, key):
  for dtype in (jnp.float32, jnp.bfloat16):
    result = jitted(jnp.asarray(images, dtype), key, **EVERYTHING)
    assert result.shape == (8, 6, 6, 3)
    assert result.dtype == dtype
    assert result.min() >= 0
    assert result.max() <= 1


def test_another_key_gives_other_images(images, key):
  one = jitted(images, key, crop=2, flip=True)
  other = jitted(images, jax.random.key(1), crop=2, flip=True)
  assert not np.array_equal(one, other)


@pytest.mark.parametrize(
  ('size', 'rows', 'columns'),
  [
    (0, slice(0, 7), slice(0, 9)),
    (5, slice(1, 6), slice(2, 7)),
    (8, slice(0, 7), slice(0, 8)),
    (20, slice(0, 7), slice(0, 9)),
  ],
)
def test_the_middle_is_what_is_evaluated(images, size, rows, columns):
  middle = lib.central_crop(images, size)
  np.testing.assert_array_equal(middle, images[:, rows, columns])


@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'crop': -1}, 'crop=-1'),
    ({'resized_crop': 2.5}, 'resized_crop=2.5'),
    ({'scale': (0.0, 1.0)}, 'scale'),
    ({'scale': (0.9, 0.1)}, 'scale'),
    ({'ratio': (2.0, 1.0)}, 'ratio'),
  ],
)
def test_settings_out_of_range_are_told(images, key, kw, message):
  with pytest.raises(ConfigError, match=message):
    lib.augment(images, key, **kw)


def test_what_is_no_batch_of_float_images_is_told(images, key):
  with pytest.raises(ValueError, match=r'shape \(7, 9, 3\)'):
    lib.augment(images[0], key, flip=True)
  with pytest.raises(TypeError, match='uint8'):
    lib.augment(images.astype(np.uint8), key, flip=True)
