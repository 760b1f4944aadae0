import colorsys

import numpy as np
import pytest

from rrl_jax.corruptions import _color


@pytest.fixture
def image(rng):
  """Random colours, black, white and gray."""
  image = rng.uniform(0, 1, (3, 4, 5)).astype(np.float32)
  image[:, 0, :3] = np.float32([0, 0.3, 1])
  return image


def in_hsv(change, image):
  """Changes each pixel in the HSV of Python."""
  pixels = [
    colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
    for pixel in image.reshape(3, -1).T.astype(float)
  ]
  return np.transpose(pixels).reshape(image.shape)


def test_brightness_adds_to_v(image):
  expected = in_hsv(lambda h, s, v: (h, s, min(v + 0.2, 1)), image)
  np.testing.assert_allclose(
    _color.brightness(image, None, 0.2), expected, atol=1e-6
  )


@pytest.mark.parametrize(('factor', 'amount'), [(0.3, 0), (2, 0.1), (20, 0.2)])
def test_saturation_changes_s(image, factor, amount):
  change = lambda h, s, v: (h, min(factor * s + amount, 1), v)
  np.testing.assert_allclose(
    _color.saturate(image, None, factor, amount),
    in_hsv(change, image),
    atol=1e-6,
  )


@pytest.mark.fast
def test_gray_images_become_brighter_but_have_no_saturation(image):
  gray = image[:1]
  np.testing.assert_allclose(
    _color.brightness(gray, None, 0.2), np.minimum(gray + 0.2, 1), atol=1e-6
  )
  np.testing.assert_array_equal(_color.saturate(gray, None, 5, 0.1), gray)


def test_contrast_keeps_means_and_scales_deviations(image):
  changed = np.asarray(_color.contrast(image, None, 0.4))
  for statistic, factor in ((np.mean, 1), (np.std, 0.4)):
    np.testing.assert_allclose(
      statistic(changed, axis=(1, 2)),
      factor * statistic(image, axis=(1, 2)),
      rtol=1e-5,
    )
