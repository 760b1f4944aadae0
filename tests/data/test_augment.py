import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from rrl_jax.data import augment as lib
from rrl_jax.errors import ConfigError
from tests.tiers import first

pytestmark = pytest.mark.optimized

SETTINGS = (
    'crop', 'flip', 'resized_crop', 'scale', 'ratio', 'jitter',
    'jitter_probability', 'grayscale', 'blur', 'solarize',
)  # fmt: skip
# Eager calls would compile each operation.
jitted = jax.jit(lib.augment, static_argnames=SETTINGS)
views = jax.jit(lib.views, static_argnames=('num_views', *SETTINGS))
COLOURS = {'jitter': 0.5, 'grayscale': 0.2, 'blur': 0.5, 'solarize': 0.2}
EVERYTHING = {'crop': 2, 'flip': True, 'resized_crop': 6} | COLOURS


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


@pytest.mark.parametrize('kw', [{}, {'jitter': 1.0, 'jitter_probability': 0.0}])
def test_nothing_asked_changes_nothing(images, key, kw):
  np.testing.assert_array_equal(lib.augment(images, key, **kw), images)
  repeated = lib.views(images, key, 2, **kw)
  np.testing.assert_array_equal(repeated, np.stack([images, images], axis=1))


@pytest.mark.parametrize(
  'kw',
  first(
    [{'crop': 2}, {'flip': True}, {'resized_crop': 6}, COLOURS, EVERYTHING]
  ),
)
def test_an_example_alone_equals_itself_in_a_batch(images, key, kw):
  together = jitted(images, key, **kw)
  for i in range(len(images)):
    alone = jitted(images[i : i + 1], key, **kw, example_ids=np.array([i]))
    np.testing.assert_allclose(alone[0], together[i], atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
def test_eight_devices_equal_one_without_any_communication(images, key, kind):
  run = jax.jit(lambda x: lib.views(x, key, 2, **EVERYTHING))
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec('data')))
    compiled = run.lower(sharded).compile()
    result = compiled(sharded)
  assert result.sharding.spec[0] == 'data'
  np.testing.assert_allclose(result, run(images), atol=1e-6)
  text = compiled.as_text()
  for word in ('all-reduce', 'all-gather', 'all-to-all', 'permute('):
    assert word not in text


@pytest.mark.fast
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


@pytest.mark.full
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


@pytest.mark.parametrize('channels', first([1, 3]))
def test_values_stay_in_the_unit_interval_and_dtype(rng, key, channels):
  images = rng.uniform(0, 1, (64, 7, 9, channels))
  images[:32] = images[:32].round()  # Extreme colours.
  strongest = {'jitter': 1.25, 'grayscale': 0.3, 'blur': 0.5, 'solarize': 0.5}
  for dtype in (jnp.float32, jnp.bfloat16):
    result = jitted(
      jnp.asarray(images, dtype), key, crop=2, resized_crop=6, **strongest
    )
    assert result.shape == (64, 6, 6, channels)
    assert result.dtype == dtype
    result = np.asarray(result, np.float32)
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


def test_bf16_is_computed_in_float32(images, key):
  rounded = jnp.asarray(images, jnp.bfloat16)
  low = jitted(rounded, key, **COLOURS)
  high = jitted(rounded.astype(jnp.float32), key, **COLOURS)
  np.testing.assert_allclose(  # One rounding, of the result.
    low.astype(jnp.float32), high, rtol=0, atol=2**-9 + 1e-6
  )


@pytest.mark.parametrize(
  'kw',
  first(
    [
      {'jitter': 0.5, 'jitter_probability': 0.3},
      {'grayscale': 0.3},
      {'blur': 0.3},
      {'solarize': 0.3},
    ]
  ),
)
def test_so_many_images_change_as_the_probability_says(rng, key, kw):
  images = rng.uniform(0, 1, (2000, 3, 3, 3)).astype(np.float32)
  changed = np.any(jitted(images, key, **kw) != images, axis=(1, 2, 3))
  # The narrowest kernels change no digit of an image.
  assert abs(changed.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 2000)


def test_an_image_without_colour_has_none_to_change(rng, key):
  images = rng.uniform(0, 1, (64, 5, 5, 1)).astype(np.float32)
  np.testing.assert_array_equal(lib.augment(images, key, grayscale=1.0), images)
  jittered = jitted(
    images * 0.2 + 0.4, key, jitter=0.25, jitter_probability=1.0
  )
  # Brightness and contrast are affine: within [0, 1] they keep proportions.
  unit = lambda x: (
    (x - x.min((1, 2, 3), keepdims=True))
    / np.ptp(x, axis=(1, 2, 3), keepdims=True)
  )
  np.testing.assert_allclose(
    unit(np.asarray(jittered)), unit(images), atol=1e-4
  )
  assert len(np.unique(np.asarray(jittered).mean(axis=(1, 2, 3)))) == 64


@pytest.mark.full
def test_one_thing_comes_after_the_other(images, key):
  jitter = {'jitter': 0.5, 'jitter_probability': 1.0}
  jittered = np.asarray(jitted(images, key, **jitter))
  gray = (jittered @ np.float32([0.2989, 0.587, 0.114]))[..., None]
  gray = np.broadcast_to(gray, images.shape)
  blurred = np.asarray(jitted(gray, key, blur=1.0))
  expected = np.where(blurred < 0.5, blurred, 1 - blurred)
  actual = jitted(images, key, **jitter, grayscale=1.0, blur=1.0, solarize=1.0)
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  for channel in (1, 2):
    np.testing.assert_array_equal(actual[..., channel], actual[..., 0])


@pytest.mark.full
def test_each_view_is_an_augmentation_with_a_key_of_its_own(images, key):
  several = np.asarray(views(images, key, num_views=3, **EVERYTHING))
  assert several.shape == (8, 3, 6, 6, 3)
  for v in range(3):
    single = jitted(images, jax.random.fold_in(key, v), **EVERYTHING)
    np.testing.assert_allclose(several[:, v], single, atol=1e-5)
  for one, other in ((0, 1), (0, 2), (1, 2)):
    differ = np.abs(several[:, one] - several[:, other]).max(axis=(1, 2, 3))
    assert differ.min() > 0.01
  first = views(images, key, num_views=1, **EVERYTHING)
  np.testing.assert_allclose(first[:, 0], several[:, 0], atol=1e-5)


@pytest.mark.full
def test_it_maps_over_batches(images, key):
  batches = images.reshape(2, 4, 7, 9, 3)
  fun = lambda x: lib.augment(x, key, **COLOURS)
  together = jax.jit(jax.vmap(fun))(batches)
  for batch, result in zip(batches, together, strict=True):
    np.testing.assert_allclose(jitted(batch, key, **COLOURS), result, atol=1e-5)


@pytest.mark.fast
def test_another_key_gives_other_images(images, key):
  one = jitted(images, key, **EVERYTHING)
  np.testing.assert_array_equal(jitted(images, key, **EVERYTHING), one)
  other = jitted(images, jax.random.key(1), **EVERYTHING)
  assert np.abs(one - other).max(axis=(1, 2, 3)).min() > 0.01


@pytest.mark.fast
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


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'crop': -1}, 'crop=-1'),
    ({'resized_crop': 2.5}, 'resized_crop=2.5'),
    ({'scale': (0.0, 1.0)}, 'scale'),
    ({'scale': (0.9, 0.1)}, 'scale'),
    ({'ratio': (2.0, 1.0)}, 'ratio'),
    ({'jitter': -0.1}, 'jitter=-0.1'),
    ({'jitter': 1.3}, 'jitter=1.3'),
    ({'jitter': float('nan')}, 'jitter=nan'),
    ({'jitter_probability': 1.1}, 'jitter_probability=1.1'),
    ({'grayscale': -0.2}, 'grayscale=-0.2'),
    ({'blur': 2.0}, 'blur=2.0'),
    ({'solarize': -1.0}, 'solarize=-1.0'),
  ],
)
def test_settings_out_of_range_are_told(images, key, kw, message):
  with pytest.raises(ConfigError, match=message):
    lib.augment(images, key, **kw)


@pytest.mark.fast
def test_what_is_no_batch_of_float_images_is_told(images, key):
  with pytest.raises(ValueError, match=r'shape \(7, 9, 3\)'):
    lib.augment(images[0], key, flip=True)
  with pytest.raises(TypeError, match='uint8'):
    lib.augment(images.astype(np.uint8), key, flip=True)
  two_channels = images[..., :2]
  with pytest.raises(ValueError, match='2 channels'):
    lib.augment(two_channels, key, jitter=0.5)
  with pytest.raises(ConfigError, match='views=0'):
    lib.views(images, key, 0)


ALL_BUT_FLIP = {
  'resized_crop': 8,
  'scale': (0.2, 1.0),
  'ratio': (1.0, 1.0),
  'jitter': 1.0,
  'grayscale': 1.0,
  'blur': 1.0,
  'solarize': 1.0,
}


@pytest.mark.full
def test_strength_turns_everything_but_the_mirror_down(rng):
  images = jnp.asarray(rng.random((6, 8, 8, 3), np.float32))
  fun = jax.jit(
    lambda strength: lib.augment(
      images, jax.random.key(0), strength=strength, **ALL_BUT_FLIP
    )
  )
  np.testing.assert_allclose(fun(0.0), images, atol=1e-6)
  plain = lib.augment(images, jax.random.key(0), **ALL_BUT_FLIP)
  np.testing.assert_allclose(fun(1.0), plain, atol=1e-5)
  moved = [float(jnp.mean(jnp.abs(fun(s) - images))) for s in (0.0, 0.3, 1.0)]
  assert moved == sorted(moved)
  assert moved[1] > 0.01


def test_no_strength_takes_more_than_the_greatest_share_of_the_area():
  ramp = (jnp.arange(32) + 0.5) / 32
  images = jnp.broadcast_to(ramp[None, None, :, None], (200, 32, 32, 1))

  @jax.jit
  def shares(strength):
    boxes = lib.augment(
      images,
      jax.random.key(0),
      resized_crop=32,
      scale=(0.3, 0.7),
      ratio=(1.0, 1.0),
      strength=strength,
    )
    return ((boxes[:, 16, 23, 0] - boxes[:, 16, 8, 0]) / 15 * 32) ** 2

  for strength, least in ((1.0, 0.3), (0.75, 0.475), (0.25, 0.7)):
    found = shares(strength)
    np.testing.assert_allclose(found.max(), 0.7, atol=0.02)
    np.testing.assert_allclose(found.min(), least, atol=0.02)


def test_each_stage_begins_at_its_first_step():
  for total, stages in ((60, 20), (700, 7), (1234, 31), (98_000, 25)):
    steps = [-(-total * k // stages) for k in range(1, stages)]
    fun = jax.jit(
      lambda s, t=total, n=stages: lib.fading(s, t, stages=n, final=0)
    )
    firsts, lasts = fun(np.array(steps)), fun(np.array(steps) - 1)
    expected = 1 - np.arange(stages) / stages
    np.testing.assert_allclose(firsts, expected[1:], atol=1e-6)
    np.testing.assert_allclose(lasts, expected[:-1], atol=1e-6)


def test_an_augmentation_fades_in_equal_stages():
  fun = jax.jit(lambda s: lib.fading(s, 1000, stages=20, final=0.0))
  for step, strength in ((0, 1.0), (49, 1.0), (50, 0.95), (999, 0.05)):
    np.testing.assert_allclose(fun(step), strength, rtol=1e-5)
  half = lib.fading(500, 1000, stages=2, final=0.5)
  np.testing.assert_allclose(half, 0.75)
