import jax
import numpy as np
import pytest

from rrl_jax.corruptions import _fog


def diamond_square(noise, size, decay):
  """Heights before they are scaled, point by point."""
  heights = np.zeros((size, size))
  noise, wibble, step = iter(noise.astype(float)), 100.0, size
  at = lambda i, j: heights[i % size, j % size]
  while step >= 2:
    half = step // 2
    corners = range(0, size, step)
    around = ((half, 0), (-half, 0), (0, half), (0, -half))
    for i in corners:
      for j in corners:
        total = at(i, j) + at(i + step, j) + at(i, j + step)
        total += at(i + step, j + step)
        heights[i + half, j + half] = total / 4 + wibble**2 * next(noise)
    for a, b in ((0, half), (half, 0)):
      for i in corners:
        for j in corners:
          total = sum(at(i + a + y, j + b + x) for y, x in around)
          heights[i + a, j + b] = total / 4 + wibble**2 * next(noise)
    step, wibble = half, wibble / decay
  return heights


@pytest.mark.fast
def test_the_fractal_is_the_diamond_square_algorithm(key):
  found = jax.jit(_fog.fractal, static_argnums=(1, 2))(key, 16, 2.5)
  noise = jax.random.uniform(key, (255,), minval=-1, maxval=1)
  expected = diamond_square(np.asarray(noise), 16, 2.5)
  expected = (expected - expected.min()) / np.ptp(expected)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fog_keeps_the_greatest_value_as_a_bound(rng, key):
  image = rng.uniform(0, 0.6, (3, 20, 33)).astype(np.float32)
  fog = jax.jit(_fog.fog, static_argnums=(2, 3))
  foggy = np.asarray(fog(image, key, 2, 1.7))
  assert foggy.shape == image.shape
  assert foggy.min() >= 0
  assert foggy.max() <= image.max() + 1e-6
  layer = foggy * (image.max() + 2) / image.max() - image
  np.testing.assert_allclose(layer[1:], layer[:2], atol=1e-5)  # No colour.
  np.testing.assert_array_equal(fog(0 * image, key, 2, 1.7), 0)
