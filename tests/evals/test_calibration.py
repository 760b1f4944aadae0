"""The error's interval is of the error, though the estimate is biased."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import evals
from rrl_jax.data.source import Source
from rrl_jax.errors import DataError
from rrl_jax.evals import calibration

SIZE = 256


def apply(variables, images):
  """A pixel is the probability of the first of two classes."""
  p = images[:, 0, 0, 0]
  return jnp.stack([jnp.log(p), jnp.log1p(-p)], axis=1), images[:, 0, 0]


ENCODER = evals.Encoder(apply, {}, batch_size=SIZE)


def measured(confidence, right, **kw):
  """The calibration error where the first class is predicted throughout."""
  images = np.asarray(confidence, np.float32).reshape(-1, 1, 1, 1)
  source = Source(images, 1 - np.asarray(right, np.int32), ('yes', 'no'))
  data = evals.EvalData(train=source, test=source)
  encoder = ENCODER.with_variables({})  # Remembers nothing of other images.
  found = calibration.evaluate(
    encoder, data, key=jax.random.key(0), resamples=0, **kw
  )
  return dict(found)['test/calibration_error']


@pytest.mark.parametrize('excess', [0.0, 0.05, 0.2])
def test_the_interval_covers_the_true_error(excess, rng):
  trials, covered, values = 300, 0, []
  for _ in range(trials):
    p = rng.uniform(0.55, 0.99, SIZE)
    found = measured(p, rng.random(SIZE) < p - excess)
    assert 0 <= found.low <= found.value <= found.high
    covered += found.low <= excess <= found.high
    values.append(found.value)
  assert covered / trials >= 0.92
  # The value itself is the plain estimate: too large.
  assert np.mean(values) > excess
  if not excess:
    assert np.min(values) > 0.01


def test_bins_are_of_equal_width_and_hold_their_lower_end(rng):
  p = rng.uniform(0.5, 1, SIZE).astype(np.float32)
  source = Source(p.reshape(-1, 1, 1, 1), np.zeros(SIZE, np.int32), ('a', 'b'))
  data = evals.EvalData(train=source, test=source)
  found = calibration.evaluate(
    ENCODER.with_variables({}), data, key=jax.random.key(0), resamples=0
  )
  counts, _ = np.histogram(p, np.linspace(0, 1, 16))
  np.testing.assert_array_equal(dict(found)['figure/calibration_count'], counts)


def test_an_error_that_is_far_from_noise_has_zero_outside_its_interval(rng):
  p = rng.uniform(0.55, 0.99, SIZE)
  found = measured(p, rng.random(SIZE) < p - 0.4)
  assert 0.25 < found.low < 0.4 < found.high
  assert found.high - found.low < 0.2


@pytest.mark.fast
def test_with_one_bin_it_is_the_mean_gap(rng):
  p = rng.uniform(0.7, 0.8, SIZE)
  right = rng.random(SIZE) < 0.4
  gaps = p.astype(np.float32) - right
  found = measured(p, right, num_bins=1)
  reach = 1.96 * gaps.std() / np.sqrt(SIZE)
  np.testing.assert_allclose(found.value, gaps.mean(), rtol=1e-5)
  np.testing.assert_allclose(found.value - found.low, reach, rtol=0.01)
  np.testing.assert_allclose(found.high - found.value, reach, rtol=0.1)


def test_all_right_and_certain_is_no_proof_of_calibration():
  found = measured(np.full(10, 1 - 1e-7), np.ones(10))
  assert found.value < 1e-6
  assert found.low < 1e-6
  assert 0.2 < found.high < 0.4


@pytest.mark.fast
def test_logits_that_are_nan_are_refused_in_one_line():
  images = np.full((4, 1, 1, 1), 0.7, np.float32)
  images[1] = np.nan
  source = Source(images, np.zeros(4, np.int32), ('yes', 'no'))
  data = evals.EvalData(train=source, test=source)
  with pytest.raises(DataError, match='logits of 1 of 4 test images') as error:
    list(calibration.evaluate(ENCODER, data, key=jax.random.key(0)))
  assert '\n' not in str(error.value)
