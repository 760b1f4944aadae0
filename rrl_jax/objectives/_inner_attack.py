"""The attack inside a training step, its arguments checked once."""

from collections.abc import Callable
import functools

import jax

from rrl_jax import attacks, typing

NORMS = ('linf', 'l2', 'l1')

# (loss_fn of points -> [B], key, images [B, H, W, C]) -> attacked images.
Attack = Callable[[typing.LossFn, jax.Array, jax.Array], jax.Array]


def make(
  *,
  epsilon: float,
  norm: str = 'linf',
  inner_steps: int = 1,
  inner_step_size: float | None = None,
) -> Attack:
  """PGD from a random start, with the arguments that objectives share.

  Args:
    epsilon: Radius of the ball in units of images in [0, 1], at most 1 for
      'linf'.
    norm: 'linf', 'l2' or 'l1'.
    inner_steps: Gradient steps.
    inner_step_size: Of each; None takes 2.5 epsilon / inner_steps, and epsilon
      for one step.

  Raises:
    ValueError: A value is out of range.
  """
  check(epsilon=epsilon, norm=norm)
  if inner_steps < 1:
    raise ValueError(f'inner_steps={inner_steps} is not positive')
  if inner_step_size is None:
    inner_step_size = epsilon * min(2.5 / inner_steps, 1.0)
  if not 0 < inner_step_size < float('inf'):
    raise ValueError(f'inner_step_size={inner_step_size} is not positive')
  return functools.partial(
    attacks.pgd,
    epsilon=epsilon,
    step_size=inner_step_size,
    num_steps=inner_steps,
    norm=norm,
  )


def check(*, epsilon: float, norm: str) -> None:
  """Raises ValueError for a ball that is none of images in [0, 1]."""
  if norm not in NORMS:
    raise ValueError(f'norm={norm!r}; known: {", ".join(NORMS)}')
  if not 0 < epsilon < float('inf') or (norm == 'linf' and epsilon > 1):
    raise ValueError(
      f'epsilon={epsilon} is not in (0, {"1]" if norm == "linf" else "inf)"},'
      ' in units of images in [0, 1]'
    )
