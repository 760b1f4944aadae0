import numpy as np
import pytest

from rrl_jax import corruptions


@pytest.fixture
def errors(rng):
  return {name: rng.uniform(0.5, 1, 5) for name in corruptions.NAMES}


@pytest.mark.fast
def test_a_baseline_has_an_mce_of_one(errors):
  assert corruptions.mean_corruption_error(errors, errors) == 1
  assert (
    corruptions.relative_mean_corruption_error(errors, 0.2, errors, 0.2) == 1
  )
  alexnet = corruptions.ALEXNET_ERRORS
  assert tuple(alexnet) == corruptions.NAMES
  assert corruptions.mean_corruption_error(alexnet, alexnet) == 1


@pytest.mark.fast
def test_sums_over_severities_are_divided_before_corruptions_are_averaged():
  errors = {'fog': [0.1, 0.3], 'snow': [0.6, 0.8]}
  baseline = {'fog': [0.4, 0.4], 'snow': [0.5, 0.9]}
  found = corruptions.mean_corruption_error(errors, baseline)
  assert found == pytest.approx((0.4 / 0.8 + 1.4 / 1.4) / 2)
  found = corruptions.relative_mean_corruption_error(errors, 0.1, baseline, 0.3)
  assert found == pytest.approx((0.2 / 0.2 + 1.2 / 0.8) / 2)
  found = corruptions.unnormalized_mean_corruption_error(errors)
  assert found == pytest.approx((0.2 + 0.7) / 2)
  found = corruptions.unnormalized_relative_mean_corruption_error(errors, 0.1)
  assert found == pytest.approx((0.1 + 0.6) / 2)


@pytest.mark.fast
def test_mean_errors_do_as_well_as_those_of_each_severity(errors):
  means = {name: values.mean() for name, values in errors.items()}
  base = corruptions.ALEXNET_ERRORS
  assert corruptions.mean_corruption_error(
    means, base
  ) == corruptions.mean_corruption_error(errors, base)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('errors', 'message'),
  [
    ({}, 'errors of no corruption'),
    ({'fog': []}, 'errors of fog'),
    ({'fog': [0.5, 30]}, r'errors of fog are \[0.5, 30.0\], not in'),
    ({'fog': np.nan}, 'errors of fog'),
    ({'snow': 0.5}, 'not in both errors and baseline_errors: fog, snow'),
  ],
)
def test_wrong_errors_are_named(errors, message):
  with pytest.raises(ValueError, match=message):
    corruptions.mean_corruption_error(errors, {'fog': 0.5})


@pytest.mark.fast
def test_a_baseline_without_errors_cannot_be_divided_by():
  with pytest.raises(ValueError, match='baseline_errors of fog leave 0.0'):
    corruptions.mean_corruption_error({'fog': 0.5}, {'fog': 0})
  with pytest.raises(ValueError, match='clean_error=2'):
    corruptions.unnormalized_relative_mean_corruption_error({'fog': 0.5}, 2)
