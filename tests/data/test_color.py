import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax.data import _color as lib

ORDERS = np.array(list(itertools.permutations(range(4))))


def gray(image):
  return (
    image @ [0.2989, 0.587, 0.114] if image.shape[-1] == 3 else image[..., 0]
  )


def turned(image, angle):
  """Pixel by pixel, with the standard library."""
  pixels = []
  for pixel in image.reshape(-1, 3):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    pixels.append(colorsys.hsv_to_rgb((hue + angle) % 1, saturation, value))
  return np.reshape(pixels, image.shape)


def changed(image, operation, amount):
  """An operation of torchvision's ColorJitter in float64."""
  if operation == lib.BRIGHTNESS:
    image = amount * image
  elif operation == lib.CONTRAST:
    image = amount * image + (1 - amount) * gray(image).mean()
  elif operation == lib.SATURATION:
    image = amount * image + (1 - amount) * gray(image)[..., None]
  elif image.shape[-1] == 3:
    image = turned(image, amount)
  return np.clip(image, 0, 1)


def planes(images):
  return tuple(jnp.moveaxis(jnp.asarray(images, jnp.float32), -1, 0))


def drawn(rng, n, channels):
  images = rng.uniform(0, 1, (n, 5, 4, channels))
  images[:, 0, 0] = 0  # Black, gray and a tie of two colours are special.
  images[:, 0, 1] = 0.5
  images[:, 0, 2] = [0.75, 0.75, 0.25][:channels]
  amounts = rng.uniform(0, 2, (n, 4))
  amounts[:, lib.HUE] = rng.uniform(-0.25, 0.25, n)
  return images, amounts


def close(actual, expected):
  np.testing.assert_allclose(
    np.stack(actual, axis=-1), expected, rtol=0, atol=2e-5
  )


@pytest.mark.fast
def test_each_operation_is_the_one_of_torchvision(rng):
  for channels, operations in ((3, range(4)), (1, range(2))):
    images, amounts = drawn(rng, 4, channels)
    operations = np.array(operations)
    n = len(operations)
    actual = jax.jit(jax.vmap(lib.change))(
      planes(images[:n]),
      operations,
      np.float32(amounts)[operations, operations],
    )
    expected = [changed(images[op], op, amounts[op, op]) for op in operations]
    close(actual, np.stack(expected))


def test_operations_follow_each_other_in_each_of_the_orders(rng):
  images, amounts = drawn(rng, 24, 3)
  actual = jax.jit(jax.vmap(lib.jitter))(
    planes(images), ORDERS, np.float32(amounts)
  )
  expected = images.copy()
  for i, order in enumerate(ORDERS):
    for operation in order:
      expected[i] = changed(expected[i], operation, amounts[i, operation])
  close(actual, expected)
  assert len(np.unique(np.stack(actual)[:, :, 1, 1].round(4))) > 24


def test_a_third_of_a_turn_takes_red_to_green_to_blue():
  pure = np.eye(3)[None]
  turn = jax.jit(lib.turn_hue)
  close(turn(planes(pure), 1 / 3), np.eye(3)[None, [1, 2, 0]])
  close(turn(planes(pure), -1 / 3), np.eye(3)[None, [2, 0, 1]])
  close(turn(planes(pure), 1 / 2), 1 - pure)
  grays = np.linspace(0, 1, 11)[None, :, None].repeat(3, axis=-1)
  np.testing.assert_array_equal(
    np.stack(turn(planes(grays), 0.2), axis=-1), np.float32(grays)
  )


def test_all_orders_are_equally_likely(key):
  n = 9600
  order, _ = jax.jit(jax.vmap(lambda k: lib.draw(k, 1.0, 4, jnp.float32)))(
    jax.random.split(key, n)
  )
  _, counts = np.unique(np.asarray(order), axis=0, return_counts=True)
  assert len(counts) == 24
  assert np.abs(counts - n / 24).max() < 4.5 * np.sqrt(n / 24)


def test_amounts_fill_the_range_of_the_strength(key):
  n, strength = 9600, 0.5
  order, amounts = jax.jit(
    jax.vmap(lambda k: lib.draw(k, strength, 2, jnp.float32))
  )(jax.random.split(key, n))
  np.testing.assert_array_equal(np.sort(order, axis=1), [[0, 1]] * n)
  low = np.array([0.6, 0.6, 0.6, -0.1])
  high = np.array([1.4, 1.4, 1.4, 0.1])
  unit = (np.asarray(amounts) - low) / (high - low)
  for share in np.linspace(0, 1, 9)[1:-1]:  # Uniform.
    error = np.abs((unit < share).mean(axis=0) - share)
    assert error.max() < 4 * 0.5 / np.sqrt(n)
  assert unit.min() > -1e-6
  assert unit.max() < 1 + 1e-6
  assert np.abs(np.corrcoef(unit.T) - np.eye(4)).max() < 4 / np.sqrt(n)
