import numpy as np
import pytest
from scipy import ndimage

from rrl_jax.corruptions import _lines


@pytest.mark.fast
@pytest.mark.parametrize('border', ['nearest', 'reflect', 'mirror'])
@pytest.mark.parametrize('sigma', [0.05, 0.7, 3, 40])
def test_gaussian_filters_are_those_of_scipy(rng, border, sigma):
  line = rng.normal(size=20)
  expected = ndimage.gaussian_filter1d(line, sigma, mode=border)
  filtered = _lines.gaussian(sigma, 20, border) @ line
  np.testing.assert_allclose(filtered, expected, atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize('size', [28, 32, 45])
@pytest.mark.parametrize('factor', [1.0, 1.01, 1.06, 1.75, 2.25, 4.5])
def test_zooms_are_those_of_scipy(rng, factor, size):
  line = rng.normal(size=size)
  matrix, start = _lines.zoom(factor, size)
  middle = line[start : start + matrix.shape[1]]
  expected = ndimage.zoom(middle, factor, order=1)
  trim = (len(expected) - size) // 2
  expected = expected[trim : trim + size]
  np.testing.assert_allclose(matrix @ middle, expected, atol=1e-6)


@pytest.mark.fast
def test_a_zoom_of_one_changes_nothing():
  matrix, start = _lines.zoom(1, 9)
  np.testing.assert_array_equal(matrix, np.eye(9))
  assert start == 0
