"""Rows of unit length, in which a cosine is an inner product."""

import numpy as np


def unit_rows(features: np.ndarray) -> np.ndarray:
  """Divides each row by its length; a row of zeros stays zero."""
  # The largest entry first: squares neither overflow nor underflow.
  scale = np.abs(features).max(axis=1, keepdims=True)
  scaled = features / np.where(scale > 0, scale, 1)
  norm = np.linalg.norm(scaled, axis=1, keepdims=True)
  return scaled / np.where(norm > 0, norm, 1)
