import io

import jax
import numpy as np
from PIL import Image
import pytest

from rrl_jax.corruptions import _jpeg, _pixelate
from tests.corruptions.test_corrupt import smooth_images
from tests.tiers import first

jpeg = jax.jit(_jpeg.jpeg, static_argnums=(1, 2))
pixelate = jax.jit(_pixelate.pixelate, static_argnums=(1, 2))


def planes(image):
  return np.moveaxis(image, -1, 0).astype(np.float32) / 255


@pytest.mark.fast
@pytest.mark.parametrize(
  ('height', 'width', 'scale'), [(32, 32, 0.85), (28, 30, 0.9), (45, 64, 0.3)]
)
def test_pixelation_is_that_of_pillow(rng, height, width, scale):
  image = smooth_images(rng, 1, height, width, 3)[0]
  small = int(width * scale), int(height * scale)
  expected = Image.fromarray(image).resize(small, Image.Resampling.BOX)
  expected = expected.resize((width, height), Image.Resampling.BOX)
  found = np.moveaxis(pixelate(planes(image), None, scale), 0, -1)
  np.testing.assert_array_equal(np.round(255 * found), expected)


@pytest.mark.parametrize(
  ('shape', 'quality'),
  first(
    [
      ((32, 32, 3), 58),
      ((28, 28, 1), 80),
      ((33, 45, 3), 25),
      ((17, 30, 3), 7),
      ((50, 49, 1), 10),
    ]
  ),
)
def test_jpeg_is_that_of_pillow_to_the_bit(rng, shape, quality):
  image = smooth_images(rng, 1, *shape)[0]
  file = io.BytesIO()
  picture = Image.fromarray(image if shape[-1] == 3 else image[..., 0])
  picture.save(file, 'JPEG', quality=quality)
  expected = np.asarray(Image.open(file)).reshape(shape)
  found = np.moveaxis(jpeg(planes(image), None, quality), 0, -1)
  np.testing.assert_array_equal(np.round(255 * found), expected)
