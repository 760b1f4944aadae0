"""What the errors under corruptions amount to: mCE and its relatives."""

from collections.abc import Mapping

from jax.typing import ArrayLike
import numpy as np

from rrl_jax.corruptions._severity import NAMES

# Mean top-1 error over the severities of ImageNet-C, as used by everybody to
# normalise; in the order of NAMES.
ALEXNET_ERRORS = dict(
  zip(
    NAMES,
    (
      0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360,
      0.866816, 0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840,
      0.606500,
    ),
    strict=True,
  )
)  # fmt: skip

Errors = Mapping[str, ArrayLike]


def mean_corruption_error(errors: Errors, baseline_errors: Errors) -> float:
  r"""Mean corruption error, mCE: errors over those of a baseline.

  With :math:`E_{c,s}` the top-1 error under corruption c at severity s,

  .. math::
    \text{mCE} = \frac{1}{|C|} \sum_c
      \frac{\sum_s E_{c,s}}{\sum_s E^\text{base}_{c,s}}.

  Args:
    errors: By corruption, the error at each severity, in [0, 1], or their mean.
    baseline_errors: The same of the baseline, on the same corruptions and
      severities; `ALEXNET_ERRORS` on ImageNet-C.

  Returns:
    mCE as a share; papers print it times 100.

  Raises:
    ValueError: An error outside [0, 1], other corruptions in the two, or a
      baseline without errors.

  Example:
    >>> mean_corruption_error({'fog': [0.25, 0.5]}, {'fog': [0.5, 1.0]})
    0.5

  References:
    Hendrycks and Dietterich, `Benchmarking neural network robustness to common
    corruptions and perturbations <https://arxiv.org/abs/1903.12261>`_, 2019,
    section 4.2.
  """
  errors, baseline = _means(errors), _means(baseline_errors)
  return _mean_ratio(errors, baseline)


def unnormalized_mean_corruption_error(errors: Errors) -> float:
  """Mean of the top-1 errors over severities, then corruptions.

  What papers on CIFAR-10-C report.

  Args:
    errors: By corruption, the error at each severity, in [0, 1], or their mean.

  Returns:
    In [0, 1].

  Raises:
    ValueError: An error outside [0, 1].

  Example:
    >>> unnormalized_mean_corruption_error({'fog': [0.2, 0.4], 'snow': [0.5]})
    0.4
  """
  return float(np.mean(list(_means(errors).values())))


def relative_mean_corruption_error(
  errors: Errors,
  clean_error: float,
  baseline_errors: Errors,
  baseline_clean_error: float,
) -> float:
  r"""Relative mean corruption error: by how much errors grow over a baseline's.

  .. math::
    \frac{1}{|C|} \sum_c \frac{\sum_s (E_{c,s} - E_\text{clean})}
      {\sum_s (E^\text{base}_{c,s} - E^\text{base}_\text{clean})}

  Args:
    errors: By corruption, the error at each severity, in [0, 1], or their mean.
    clean_error: Top-1 error without corruption.
    baseline_errors: The same of the baseline.
    baseline_clean_error: The same of the baseline.

  Returns:
    As a share; papers print it times 100. Negative if corruptions help.

  Raises:
    ValueError: An error outside [0, 1], other corruptions in the two, or a
      baseline whose error does not grow.

  Example:
    >>> relative_mean_corruption_error({'fog': 0.5}, 0.25, {'fog': 0.75}, 0.25)
    0.5

  References:
    Hendrycks and Dietterich, 2019, section 4.2.
  """
  grown = _growth(errors, clean_error)
  return _mean_ratio(grown, _growth(baseline_errors, baseline_clean_error))


def unnormalized_relative_mean_corruption_error(
  errors: Errors, clean_error: float
) -> float:
  """By how much the mean error under corruptions exceeds the clean error.

  Args:
    errors: By corruption, the error at each severity, in [0, 1], or their mean.
    clean_error: Top-1 error without corruption.

  Returns:
    In [-1, 1].

  Raises:
    ValueError: An error outside [0, 1].

  Example:
    >>> unnormalized_relative_mean_corruption_error({'fog': 0.5}, 0.25)
    0.25
  """
  return float(np.mean(list(_growth(errors, clean_error).values())))


def _means(errors: Errors) -> dict[str, float]:
  """Mean over the severities of each corruption."""
  if not errors:
    raise ValueError('errors of no corruption')
  for name, values in errors.items():
    values = np.asarray(values, float)
    if not values.size or not np.all((values >= 0) & (values <= 1)):
      raise ValueError(f'errors of {name} are {values.tolist()}, not in [0, 1]')
  return {name: float(np.mean(values)) for name, values in errors.items()}


def _growth(errors: Errors, clean_error: float) -> dict[str, float]:
  """Mean errors less the clean one."""
  if not 0 <= clean_error <= 1:
    raise ValueError(f'clean_error={clean_error}: in [0, 1]')
  return {name: mean - clean_error for name, mean in _means(errors).items()}


def _mean_ratio(values: dict[str, float], base: dict[str, float]) -> float:
  """Mean over the corruptions, which have to be the same."""
  if values.keys() != base.keys():
    other = ', '.join(sorted(values.keys() ^ base.keys()))
    raise ValueError(f'not in both errors and baseline_errors: {other}')
  for name, value in base.items():
    if value <= 0:
      raise ValueError(f'baseline_errors of {name} leave {value} to divide by')
  return float(np.mean([values[name] / base[name] for name in values]))
