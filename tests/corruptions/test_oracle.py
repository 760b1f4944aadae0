"""Against imagecorruptions-imaug, which has the constants of ImageNet-C."""

import jax
import numpy as np
import pytest

from rrl_jax import corruptions
from rrl_jax.corruptions import _edges, _motion, _spatter
from tests.corruptions.test_corrupt import smooth_images
from tests.tiers import first

oracle = pytest.importorskip('imagecorruptions')


@pytest.fixture
def images(rng):
  return smooth_images(rng, 2, 32, 32, 3)


def theirs(images, name, severity):
  corrupt = lambda x: oracle.corrupt(x, severity, name)
  return np.stack([corrupt(image) for image in images]).astype(int)


@pytest.mark.parametrize(
  ('name', 'severity'),
  [
    ('brightness', 1),
    ('contrast', 3),
    ('saturate', 4),
    ('defocus_blur', 2),
    ('defocus_blur', 5),
    ('gaussian_blur', 2),
    ('zoom_blur', 1),
    ('zoom_blur', 5),
    ('pixelate', 3),
    ('jpeg_compression', 3),
  ],
)
def test_what_is_not_random_is_the_same(images, name, severity):
  ours = corruptions.corrupt_uint8(
    images, name, severity=severity, table='imagenet_c'
  )
  gap = np.abs(ours - theirs(images, name, severity))
  # Truncation to bytes magnifies rounding; where many values are whole numbers,
  # as a mean of 29 bytes is (defocus blur 1), it would do so more often.
  assert gap.max() <= 1
  assert (gap > 0).mean() < 0.02


@pytest.mark.fast
@pytest.mark.parametrize('angle', [-100.0, -44.0, 3.0, 45.0])
def test_motion_is_the_same_for_an_angle(images, angle):
  image = images[0].astype(np.float32)
  expected = oracle.corruptions._motion_blur(image, 10, 3, angle)
  blur = jax.jit(_motion.blur, static_argnums=(2, 3))
  found = blur(np.moveaxis(image, -1, 0), np.float32(angle), 10, 3)
  np.testing.assert_allclose(np.moveaxis(found, 0, -1), expected, atol=1e-2)


@pytest.mark.parametrize(
  ('name', 'severity'),
  first(
    [
      ('gaussian_noise', 3),
      ('shot_noise', 3),
      ('impulse_noise', 5),
      ('speckle_noise', 3),
      ('snow', 1),
      ('snow', 3),
      ('fog', 2),
      ('spatter', 2),
      ('spatter', 4),
    ]
  ),
)
def test_what_is_random_has_the_same_moments(images, name, severity):
  np.random.seed(0)  # noqa: NPY002 - what they draw from.
  count = 60
  many = np.broadcast_to(images[:1], (count, 32, 32, 3))
  expected = theirs(many, name, severity) - images[0].astype(int)
  found = corruptions.corrupt_uint8(
    many, name, severity=severity, table='imagenet_c'
  )
  found = found.astype(int) - images[0].astype(int)
  for statistic in (np.mean, np.std):
    a = statistic(expected, axis=(1, 2, 3))
    b = statistic(found, axis=(1, 2, 3))
    error = np.sqrt((a.var() + b.var()) / count)
    assert abs(a.mean() - b.mean()) < 5 * error + 0.5


def test_edges_and_drops_are_those_of_opencv(rng):
  cv2 = pytest.importorskip('cv2')
  ndimage = pytest.importorskip('scipy.ndimage')
  edges = jax.jit(_edges.canny, static_argnums=(1, 2))
  distance = jax.jit(_edges.distance, static_argnums=1)
  water = jax.jit(_spatter.water)
  for sigma in (1, 2, 4):
    liquid = ndimage.gaussian_filter(
      rng.normal(0.65, 0.3, (48, 40)), sigma, mode='nearest'
    )
    liquid = np.where(liquid < 0.68, 0, np.minimum(liquid, 1))
    liquid = (255 * liquid).astype(np.uint8)
    expected = cv2.Canny(liquid, 50, 150)
    assert expected.any()
    found = np.asarray(edges(liquid.astype(np.int32), 50, 150))
    np.testing.assert_array_equal(found, expected > 0)
    far = cv2.distanceTransform(255 - expected, cv2.DIST_L2, 5)
    far = np.minimum(far, 20)
    np.testing.assert_allclose(distance(found, 20), far, atol=1e-4)
    light = cv2.equalizeHist(cv2.blur(far, (3, 3)).astype(np.uint8))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    light = cv2.blur(cv2.filter2D(light, cv2.CV_8U, relief), (3, 3))
    light = liquid * light.astype(np.float32)
    np.testing.assert_allclose(
      water(liquid.astype(np.float32)), light / light.max(), atol=1e-5
    )


@pytest.mark.full
def test_water_without_liquid_is_nothing():
  np.testing.assert_array_equal(
    _spatter.water(np.zeros((16, 16), np.float32)), 0
  )
