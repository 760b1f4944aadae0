import jax
import numpy as np
import pytest

from rrl_jax.corruptions import _glass


@pytest.mark.fast
@pytest.mark.parametrize('reach', [1, 2, 4])
def test_pointers_end_where_the_loop_over_pixels_does(rng, reach):
  height, width = 19, 16
  shifts = rng.integers(-reach, reach, (2, height, width))
  expected = np.arange(height * width).reshape(height, width)
  for h in range(height - reach, reach, -1):
    for w in range(width - reach, reach, -1):
      dy, dx = shifts[:, h, w]
      expected[h, w] = expected[h + dy, w + dx]
  found = jax.jit(_glass.sources, static_argnums=1)(shifts, reach)
  np.testing.assert_array_equal(found, expected)


def test_the_longest_chain_is_followed_to_its_end():
  shifts = np.zeros((2, 9, 400), np.int32)
  shifts[1] = 1  # Each pixel takes over what its right neighbour has.
  found = np.asarray(_glass.sources(shifts, 2)).reshape(9, 400)
  index = np.arange(9 * 400).reshape(9, 400)
  expected = index.copy()
  expected[3:8, 3:399] = index[3:8, 399:400]
  np.testing.assert_array_equal(found, expected)


def test_pixels_move_no_further_than_the_reach(rng, key):
  # One colour a pixel; sigma so small that nothing is blurred.
  image = np.arange(256, dtype=np.float32).reshape(1, 16, 16) / 255
  moved = np.asarray(_glass.glass(image, key, 0.05, 1, 1))
  source = np.round(255 * moved[0]).astype(int)
  down, right = np.indices((16, 16)) - np.divmod(source, 16)
  assert set(np.unique(down)) == {0, 1}
  assert set(np.unique(right)) == {0, 1}
  index = np.arange(256).reshape(16, 16)
  np.testing.assert_array_equal(source[:2], index[:2])
  np.testing.assert_array_equal(source[:, :2], index[:, :2])
