import jax
import numpy as np
import pytest
from scipy import ndimage

from rrl_jax.corruptions import _elastic

sample = jax.jit(_elastic.sample, static_argnums=3)


@pytest.mark.fast
@pytest.mark.parametrize('border', ['mirror', 'reflect'])
def test_samples_are_those_of_scipy(rng, border):
  image = rng.uniform(0, 1, (2, 20, 23)).astype(np.float32)
  y, x = rng.uniform(-30, 50, (2, 20, 23)).astype(np.float32)
  expected = [
    ndimage.map_coordinates(plane, [y, x], order=1, mode=border)
    for plane in image
  ]
  np.testing.assert_allclose(sample(image, y, x, border), expected, atol=1e-5)


def test_three_points_go_where_they_are_moved():
  size, q = 33, 11
  points = 16 + q * np.array([[1, 1], [1, -1], [-1, -1]])
  moves = np.array([[2, -1], [0, 3], [-2, 1]], np.float32)
  y, x = jax.jit(_elastic.affine_source, static_argnums=(1, 2))(
    moves, size, size
  )
  for point, move in zip(points, moves.astype(int), strict=True):
    column, row = point + move
    found = x[row, column], y[row, column]
    np.testing.assert_allclose(found, point, atol=1e-4)


def test_moves_that_flatten_the_image_leave_it_finite():
  moves = np.array([[0, -22], [0, 0], [0, 0]], np.float32)
  y, x = _elastic.affine_source(moves, 33, 33)
  assert np.isfinite(y).all()
  assert np.isfinite(x).all()


def test_the_severity_without_shifts_is_affine(rng, key):
  # Of a plane, an affine map is a plane again, away from the border.
  y, x = np.mgrid[:32, :32].astype(np.float32)
  plane = (0.2 + 0.005 * x + 0.01 * y)[None]
  elastic = jax.jit(_elastic.elastic, static_argnums=(2, 3, 4))
  inside = np.asarray(elastic(plane, key, 0, 0, 0.08))[0, 10:22, 10:22]
  assert np.abs(inside - plane[0, 10:22, 10:22]).max() > 1e-3
  for axis in (0, 1):
    assert np.abs(np.diff(inside, 2, axis)).max() < 1e-5
