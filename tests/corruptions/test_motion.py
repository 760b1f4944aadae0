import jax
import numpy as np
import pytest

from rrl_jax.corruptions import _motion

blur = jax.jit(_motion.blur, static_argnums=(2, 3))


@pytest.mark.fast
@pytest.mark.parametrize('angle', [0.0, -90.0, 90.0, 45.0, -30.0, -135.0])
def test_an_impulse_becomes_a_line_along_the_angle(angle):
  image = np.zeros((1, 41, 41), np.float32)
  image[0, 20, 20] = 1
  found = np.asarray(blur(image, np.float32(angle), 6, 2.5))[0]
  expected = np.zeros((41, 41))
  weights = np.exp(-0.5 * (np.arange(13) / 2.5) ** 2)
  direction = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
  for i, weight in enumerate(weights / weights.sum()):
    y, x = np.ceil(np.round(i * direction, 5) - 0.5).astype(int)
    expected[20 - y, 20 - x] += weight
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_past_the_border_the_last_pixel_repeats():
  image = np.full((3, 30, 31), 0.3, np.float32)
  for angle in (-90.0, 30.0):
    np.testing.assert_allclose(
      blur(image, np.float32(angle), 10, 4), image, rtol=1e-5
    )


def test_what_is_moved_by_the_whole_image_is_left_out():
  image = np.ones((1, 16, 40), np.float32)
  weights = np.exp(-0.5 * (np.arange(41) / 15) ** 2)
  kept = weights[:16].sum() / weights.sum()
  found = blur(image, np.float32(90), 20, 15)
  np.testing.assert_allclose(found, kept, rtol=1e-4)


def test_angles_are_uniform(key):
  keys = jax.random.split(key, 1000)
  angles = np.sort(jax.vmap(lambda k: _motion.draw_angle(k, -45, 45))(keys))
  assert np.abs(angles - np.linspace(-45, 45, 1000)).max() < 90 * 0.06
