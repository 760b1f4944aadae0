import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax.data import _blur as lib

blur = jax.jit(lib.blur)


def kernel(sigma, radius):
  weights = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
  return weights / weights.sum()


def blurred(image, sigma, radius):
  """Convolution of the mirrored image with the square kernel, in float64."""
  border = ((radius, radius), (radius, radius), (0, 0))
  mirrored = np.pad(image, border, mode='reflect')
  windows = np.lib.stride_tricks.sliding_window_view(
    mirrored, (2 * radius + 1,) * 2, axis=(0, 1)
  )
  weights = np.outer(kernel(sigma, radius), kernel(sigma, radius))
  return np.einsum('hwcij,ij->hwc', windows, weights)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('shape', 'size'),
  [
    ((8, 8), 3), ((32, 32), 3), ((40, 90), 5), ((64, 64), 7), ((96, 96), 9),
    ((224, 224), 23), ((300, 224), 23),
  ],
)  # fmt: skip
def test_the_kernel_is_a_tenth_of_the_image(shape, size):
  assert 2 * lib.radius(*shape) + 1 == size


@pytest.mark.parametrize(
  ('shape', 'radius'), [((8, 8, 3), 1), ((41, 47, 1), 2), ((64, 61, 3), 3)]
)
def test_it_is_a_convolution_of_the_mirrored_image(rng, shape, radius):
  assert lib.radius(*shape[:2]) == radius
  image = rng.uniform(0, 1, shape)
  for sigma in (0.1, 0.7, 2.0):
    actual = blur(np.float32(image), sigma)
    np.testing.assert_allclose(
      actual, blurred(image, sigma, radius), rtol=0, atol=1e-6
    )


def test_a_constant_image_stays():
  image = np.full((64, 64, 3), 0.3, np.float32)
  np.testing.assert_allclose(blur(image, 1.5), image, rtol=1e-6)


@pytest.mark.fast
def test_an_impulse_becomes_the_kernel():
  image = np.zeros((64, 61, 3), np.float32)
  image[30, 20, 1] = 1
  actual = np.asarray(blur(image, 1.5))
  expected = np.zeros(image.shape)
  expected[27:34, 17:24, 1] = np.outer(kernel(1.5, 3), kernel(1.5, 3))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7)
  np.testing.assert_allclose(actual.sum(), 1, rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize(('size', 'radius'), [(2, 1), (3, 2), (9, 8), (30, 11)])
def test_rows_of_the_matrix_are_the_mirrored_kernel(size, radius):
  mirrored = np.pad(np.arange(size), radius, mode='reflect')
  expected = np.zeros((size, size))
  for i in range(size):
    np.add.at(
      expected[i], mirrored[i : i + 2 * radius + 1], kernel(1.3, radius)
    )
  actual = jax.jit(lib.matrix, static_argnums=(1, 2))(1.3, size, radius)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7)


def test_one_pixel_is_its_own_blur():
  image = jnp.full((1, 1, 3), 0.25)
  np.testing.assert_array_equal(blur(image, 1.0), image)
