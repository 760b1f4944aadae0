import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from rrl_jax import corruptions
from rrl_jax.corruptions import _corrupt, _severity
from rrl_jax.errors import ConfigError
from tests.tiers import first

EVERY_NAME = corruptions.NAMES + corruptions.EXTRA_NAMES
FIXED = {  # What ignores the key.
  'defocus_blur', 'zoom_blur', 'brightness', 'contrast', 'pixelate',
  'jpeg_compression', 'gaussian_blur', 'saturate',
}  # fmt: skip


def smooth_images(rng, count, height, width, channels):
  """Bytes with slopes, edges and grain, like photographs."""
  coarse = rng.normal(size=(count, height // 4 + 2, width // 4 + 2, channels))
  coarse = coarse.cumsum(axis=1).cumsum(axis=2)
  images = np.kron(coarse, np.ones((1, 4, 4, 1)))[:, :height, :width]
  images += rng.normal(size=images.shape)
  low = images.min((1, 2, 3), keepdims=True)
  spread = np.ptp(images, axis=(1, 2, 3), keepdims=True)
  return np.uint8(255 * (images - low) / spread)


@pytest.mark.fast
def test_both_tables_have_five_severities_of_each_corruption():
  assert len(corruptions.NAMES) == 15
  assert len(EVERY_NAME) == 19
  for table in _severity.TABLES.values():
    assert set(table) == set(EVERY_NAME) == set(_corrupt._FUNCTIONS)
    assert {len(constants) for constants in table.values()} == {5}


@pytest.mark.parametrize('name', first(EVERY_NAME, 6))
def test_a_row_depends_on_its_own_id_alone(rng, key, name):
  images = smooth_images(rng, 4, 28, 28, 1).astype(np.float32) / 255
  corrupt = lambda x, ids: corruptions.corrupt(
    x, key, name=name, severity=5, example_ids=ids
  )
  result = np.asarray(corrupt(images, np.arange(4)))
  assert result.shape == images.shape
  assert result.dtype == images.dtype
  assert np.isfinite(result).all()
  assert result.min() >= 0
  assert result.max() <= 1
  if name != 'saturate':  # Of gray.
    assert np.all(np.any(result != images, axis=(1, 2, 3)))
  ids = np.array([3, 0, 2, 1])
  np.testing.assert_allclose(corrupt(images[ids], ids), result[ids], atol=1e-5)
  same = np.asarray(corrupt(images[[0] * 4], np.array([0, 0, 5, 6])))
  np.testing.assert_allclose(same[1], same[0], atol=1e-5)
  np.testing.assert_allclose(same[1], result[0], atol=1e-5)
  assert np.array_equal(same[2], same[3]) == (name in FIXED)


@pytest.mark.full
@pytest.mark.parametrize('table', _severity.TABLES)
@pytest.mark.parametrize('name', EVERY_NAME)
def test_any_size_and_dtype_can_be_traced(key, name, table):
  corrupt = lambda x: corruptions.corrupt(
    x, key, name=name, severity=3, table=table
  )
  for shape in ((2, 28, 28, 1), (1, 33, 64, 3)):
    for dtype in (jnp.bfloat16, jnp.float32):
      images = jax.ShapeDtypeStruct(shape, dtype)
      result = jax.eval_shape(corrupt, images)
      assert result.shape == shape
      assert result.dtype == dtype


@pytest.mark.full
def test_images_of_imagenet_size_are_corrupted(rng, key):
  images = smooth_images(rng, 1, 224, 224, 3).astype(np.float32) / 255
  for name in ('fog', 'glass_blur', 'defocus_blur'):
    result = corruptions.corrupt(
      images, key, name=name, severity=3, table='imagenet_c'
    )
    assert np.isfinite(result).all()
    assert 0.01 < np.abs(result - images).mean() < 0.7


def test_bf16_is_computed_in_float32(rng, key):
  images = smooth_images(rng, 2, 16, 16, 3).astype(np.float32) / 255
  low = jnp.asarray(images, jnp.bfloat16)
  kw = {'name': 'contrast', 'severity': 3}
  result = corruptions.corrupt(low, key, **kw)
  expected = corruptions.corrupt(low.astype(jnp.float32), key, **kw)
  assert result.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    result.astype(jnp.float32), expected, rtol=0, atol=2**-9 + 1e-6
  )


@pytest.mark.full
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('name', ['gaussian_noise', 'motion_blur', 'fog'])
def test_eight_devices_equal_one_without_any_communication(
  rng, key, kind, name
):
  images = smooth_images(rng, 8, 16, 16, 3).astype(np.float32) / 255
  run = jax.jit(lambda x: corruptions.corrupt(x, key, name=name, severity=2))
  expected = np.asarray(run(images))
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec('data')))
    compiled = run.lower(sharded).compile()
    result = compiled(sharded)
  assert result.sharding.spec[0] == 'data'
  np.testing.assert_allclose(result, expected, atol=1e-5)
  text = compiled.as_text()
  for word in ('all-reduce', 'all-gather', 'all-to-all', 'permute('):
    assert word not in text


@pytest.mark.full
@pytest.mark.parametrize(
  'name', ['gaussian_noise', 'impulse_noise', 'fog', 'brightness', 'contrast']
)
def test_distortion_grows_with_severity(rng, key, name):
  images = smooth_images(rng, 4, 16, 16, 3).astype(np.float32) / 255
  far = [
    np.square(
      corruptions.corrupt(images, key, name=name, severity=severity) - images
    ).mean()
    for severity in range(1, 6)
  ]
  assert np.all(np.diff(far) > 0)


@pytest.mark.full
def test_bytes_are_those_of_floats_in_any_chunks(rng, monkeypatch):
  images = smooth_images(rng, 5, 16, 16, 3)
  kw = {'name': 'speckle_noise', 'severity': 4}
  floats = corruptions.corrupt(
    images.astype(np.float32) / 255, jax.random.key(3), **kw
  )
  whole = corruptions.corrupt_uint8(images, seed=3, **kw)
  assert whole.dtype == np.uint8
  np.testing.assert_array_equal(whole, np.floor(255 * floats + 1e-3))
  monkeypatch.setattr(_corrupt, '_CHUNK', 2)
  np.testing.assert_array_equal(
    corruptions.corrupt_uint8(images, seed=3, **kw), whole
  )
  gray = corruptions.corrupt_uint8(images[..., 0], 'contrast', severity=1)
  assert gray.shape == (5, 16, 16)
  empty = corruptions.corrupt_uint8(images[:0], 'contrast', severity=1)
  assert empty.shape == (0, 16, 16, 3)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'name': 'rain'}, "name='rain': one of gaussian_noise"),
    ({'severity': 0}, 'severity=0: 1, 2, 3, 4 or 5'),
    ({'severity': 2.5}, 'severity=2.5'),
    ({'severity': True}, 'severity=True'),
    ({'table': 'cifar'}, "table='cifar': one of cifar10_c, imagenet_c"),
    ({'frost_textures': np.zeros((1, 9, 9, 3), np.uint8)}, 'only of frost'),
  ],
)
def test_what_is_unknown_is_one_line(key, change, message):
  kw = {'name': 'snow', 'severity': 1} | change
  with pytest.raises(ConfigError, match=message) as caught:
    corruptions.corrupt(np.zeros((1, 16, 16, 3), np.float32), key, **kw)
  assert '\n' not in str(caught.value)


def test_what_is_no_batch_of_images_is_refused(key):
  kw = {'name': 'frost', 'severity': 1}
  images = np.zeros((2, 16, 16, 3), np.float32)
  for bad in (images[0], images[..., :2], images[:, :8]):
    with pytest.raises(ValueError, match='images have shape'):
      corruptions.corrupt(bad, key, **kw)
  with pytest.raises(TypeError, match='uint8, not floats.*corrupt_uint8'):
    corruptions.corrupt(images.astype(np.uint8), key, **kw)
  with pytest.raises(TypeError, match='float32, not uint8'):
    corruptions.corrupt_uint8(images, 'fog', severity=1)
  with pytest.raises(ValueError, match='example_ids have shape'):
    corruptions.corrupt(images, key, **kw, example_ids=np.arange(3))
  with pytest.raises(ValueError, match='frost_textures have shape'):
    corruptions.corrupt(
      images, key, **kw, frost_textures=np.zeros((9, 9, 3), np.uint8)
    )


@pytest.mark.fast
@pytest.mark.parametrize('wrong', [255.0, -0.1, np.nan])
def test_images_outside_of_the_range_are_refused(wrong):
  images = jnp.full((2, 16, 16, 3), 0.5).at[1, 2, 3, 0].set(wrong)
  with pytest.raises(ValueError, match=r'floats must lie in \[0, 1\]'):
    corruptions.corrupt(
      images, jax.random.key(0), name='brightness', severity=1
    )
