"""The class that logits predict, and none where they are not numbers."""

import jax
import jax.numpy as jnp
import numpy as np

NONE = -1


def predicted(logits: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
  """Class of the highest logit; the first of a tie.

  An argmax takes NaN for the highest, so that a network which has diverged
  would be right on all of class 0.

  Args:
    logits: Real, ``[..., K]``; inf is a number.

  Returns:
    Integers ``[...]``, in NumPy for NumPy's arrays and in JAX otherwise; -1,
    the label of no image, where a logit is NaN.

  Example:
    >>> predicted(np.array([[0.1, 0.9], [np.nan, 0.0]])).tolist()
    [1, -1]
  """
  xp = np if isinstance(logits, np.ndarray) else jnp
  unknown = xp.any(xp.isnan(logits), axis=-1)
  return xp.where(unknown, NONE, xp.argmax(logits, axis=-1))


def agree(
  first: np.ndarray | jax.Array, second: np.ndarray | jax.Array
) -> np.ndarray | jax.Array:
  """Where both predict one class; where there is none, nothing agrees."""
  return (first == second) & (first != NONE)
