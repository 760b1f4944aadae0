"""Common image corruptions: CIFAR-10-C's and ImageNet-C's, on the device.

Images are floats in [0, 1], ``[B, H, W, C]``; randomness is keyed by row.
"""

from rrl_jax.corruptions._corrupt import corrupt, corrupt_uint8
from rrl_jax.corruptions._corrupted_sets import corrupted_sets, enlargement
from rrl_jax.corruptions._error import (
  ALEXNET_ERRORS,
  mean_corruption_error,
  relative_mean_corruption_error,
  unnormalized_mean_corruption_error,
  unnormalized_relative_mean_corruption_error,
)
from rrl_jax.corruptions._published import read_published
from rrl_jax.corruptions._severity import EXTRA_NAMES, NAMES

__all__ = (
  'ALEXNET_ERRORS',
  'EXTRA_NAMES',
  'NAMES',
  'corrupt',
  'corrupt_uint8',
  'corrupted_sets',
  'enlargement',
  'mean_corruption_error',
  'read_published',
  'relative_mean_corruption_error',
  'unnormalized_mean_corruption_error',
  'unnormalized_relative_mean_corruption_error',
)
