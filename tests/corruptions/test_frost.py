import jax
import numpy as np
import pytest

from rrl_jax import corruptions
from rrl_jax.corruptions import _frost


@pytest.mark.fast
@pytest.mark.parametrize('channels', [1, 3])
def test_textures_have_the_colours_of_the_pictures(channels):
  textures = _frost.generated(128, channels)
  assert textures.shape == (5, 128, 128, channels)
  mean, deviation = np.moveaxis(_frost._COLOURS, 1, 0)
  found = textures.mean(axis=(1, 2)) / 255
  if channels == 1:
    mean = mean @ np.array([[0.2989], [0.587], [0.114]])
    np.testing.assert_allclose(found, mean, atol=0.01)
    return
  np.testing.assert_allclose(found, mean, atol=0.01)
  np.testing.assert_allclose(
    textures.std(axis=(1, 2)) / 255, deviation, atol=0.02
  )


def test_a_piece_of_a_given_texture_is_mixed_in(rng, key):
  images = rng.uniform(0, 0.2, (6, 16, 17, 3)).astype(np.float32)
  textures = rng.integers(0, 256, (2, 24, 40, 3)).astype(np.uint8)
  frosted = corruptions.corrupt(
    images, key, name='frost', severity=3, frost_textures=textures
  )
  pieces = np.round((frosted - 0.9 * images) / 0.4 * 255)
  windows = [
    texture[i : i + 16, j : j + 17]
    for texture in textures
    for i in range(9)
    for j in range(24)
  ]
  chosen = set()
  for piece in pieces:
    found = [k for k, w in enumerate(windows) if np.array_equal(w, piece)]
    assert len(found) == 1
    chosen.add(found[0])
  assert len(chosen) > 3


def test_small_textures_continue(rng, key):
  images = np.zeros((1, 32, 32, 1), np.float32)
  textures = rng.integers(0, 256, (1, 8, 16, 1)).astype(np.uint8)
  frosted = np.asarray(
    corruptions.corrupt(
      images, key, name='frost', severity=1, frost_textures=textures
    )
  )
  np.testing.assert_array_equal(frosted[:, 8:], frosted[:, :-8])
  np.testing.assert_array_equal(frosted[:, :, 16:], frosted[:, :, :-16])
  assert len(np.unique(frosted)) > 40
  assert jax.numpy.max(frosted) <= 0.2 + 1e-6
