import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rrl_jax.corruptions import _noise

LEVELS = np.array([0, 10, 100, 255], np.float32) / 255
MANY = 40_000


@pytest.fixture(scope='module')
def planes():
  """Four constant planes, one a level."""
  return np.broadcast_to(LEVELS[:, None, None], (4, 1, MANY))


def test_gaussian_and_speckle_noise_have_the_standard_deviation(planes, key):
  added = np.asarray(_noise.gaussian(planes, key, 0.1)) - planes
  assert stats.kstest(added.ravel() / 0.1, 'norm').pvalue > 1e-3
  times = np.asarray(_noise.speckle(planes, key, 0.2))[1:] / planes[1:] - 1
  assert stats.kstest(times.ravel() / 0.2, 'norm').pvalue > 1e-3
  np.testing.assert_array_equal(_noise.speckle(planes, key, 0.2)[0], 0)


@pytest.mark.fast
def test_half_of_the_impulses_are_salt(planes, key):
  found = np.asarray(_noise.impulse(planes + 0.001, key, 0.2)).ravel()
  for value in (0, 1):
    share = (found == value).mean()
    assert abs(share - 0.1) < 5 * np.sqrt(0.09 / found.size)


@pytest.mark.parametrize('photons', [3, 60, 500])
def test_thresholds_and_aliases_are_the_poisson_distribution(photons):
  threshold, alias = _noise._alias_tables(photons)
  rows = np.broadcast_to(np.arange(256)[:, None], alias.shape)
  probability = threshold.astype(float)
  np.add.at(probability, (rows, alias), 1 - threshold.astype(float))
  probability /= alias.shape[1]
  outcomes = np.arange(alias.shape[1])
  expected = stats.poisson.pmf(
    outcomes, photons * np.arange(256)[:, None] / 255
  )
  np.testing.assert_allclose(probability, expected, atol=2e-7)


def test_shot_noise_is_poisson(planes, key):
  photons = 12
  found = np.asarray(jax.jit(lambda x: _noise.shot(x, key, photons))(planes))
  counts = np.round(found * photons)
  np.testing.assert_allclose(found * photons, counts, atol=1e-4)
  np.testing.assert_array_equal(counts[0], 0)
  for level, plane in zip(LEVELS[1:], counts[1:], strict=True):
    mean = photons * level
    for k in range(30):
      p = stats.poisson.pmf(k, mean)
      deviation = np.sqrt(p * (1 - p) / MANY)
      assert abs((plane == k).mean() - p) < 5 * deviation + 1e-6


def test_values_between_bytes_are_rounded_to_bytes(key):
  images = jnp.full((1, 2, 3), 100.3 / 255)
  np.testing.assert_array_equal(
    _noise.shot(images, key, 50), _noise.shot(images - 0.2 / 255, key, 50)
  )
