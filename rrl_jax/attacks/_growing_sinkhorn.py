"""The least transport of pixel mass that breaks a decision, by growing it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import (
  _ascent,
  _checks,
  _projected_sinkhorn,
  _projections,
)


class GrowingSinkhornResult(NamedTuple):
  """What the growing ball found.

  Attributes:
    adv_inputs: Images, shape and dtype of the inputs: the first that broke,
      or the last one of an image that did not.
    radius: Radius of the ball at that step, ``[B]``; 0 for an image that was
      broken when clean.
    broken: Whether it broke, bool ``[B]``.
  """

  adv_inputs: jax.Array
  radius: jax.Array
  broken: jax.Array


def growing_projected_sinkhorn(
  loss_fn: Callable[[jax.Array], jax.Array],
  broken_fn: Callable[[jax.Array], jax.Array],
  inputs: ArrayLike,
  *,
  step_size: ArrayLike,
  num_steps: int,
  epsilon: ArrayLike = 0.01,
  growth: ArrayLike = 1.1,
  growth_steps: int = 10,
  norm: str = 'linf',
  power: float = 2.0,
  window: int = 5,
  sharpness: ArrayLike = 1000.0,
  num_iterations: int = 50,
  bounds: tuple[float, float] | None = (0.0, 1.0),
  unroll: int | bool | None = 1,
) -> GrowingSinkhornResult:
  r"""``projected_sinkhorn`` in a ball that grows until an image breaks.

  Step t = 0, 1, ... of an image that is not yet broken is taken in the ball of
  radius

  .. math:: \epsilon_t = \epsilon_0\, f^{\lfloor t / T \rfloor}

  and a broken one stays what it is. The radii at which images broke give the
  accuracy at every radius in one run. Rows do not meet; the result is under
  stop_gradient.

  Args:
    loss_fn: Maps images ``[B, H, W, C]`` to one loss an example, ``[B]``.
    broken_fn: Maps the same images to whether each is broken, bool ``[B]``,
      such as ``lambda z: jnp.argmax(logits_fn(z), axis=1) != labels``. It is
      called once more than there are steps.
    inputs: Clean images within the bounds, shape ``[B, H, W, C]``, float,
      non-negative: the value of a pixel is its mass.
    step_size: As in ``projected_sinkhorn``.
    num_steps: Number of steps, static, may be 0.
    epsilon: First radius, non-negative: a scalar or one an example.
    growth: Factor f, at least 1.
    growth_steps: Steps T between two growths, static, at least 1.
    norm: As in ``projected_sinkhorn``.
    power: As there.
    window: As there.
    sharpness: As there.
    num_iterations: As there.
    bounds: As there.
    unroll: Steps to write out in the compiled loop; None for all on CPU and
      one elsewhere.

  Returns:
    A :class:`GrowingSinkhornResult`; its images lie in their balls and bounds
    as those of ``projected_sinkhorn`` do.

  Raises:
    TypeError: As ``projected_sinkhorn``.
    ValueError: As there, a static growth below 1, or a ``broken_fn`` that does
      not return booleans ``[B]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> image = jnp.array([0.0, 0.8, 0.0, 0.0]).reshape(1, 1, 4, 1)
    >>> result = attacks.growing_projected_sinkhorn(
    ...   lambda x: x[:, 0, 2, 0], lambda x: x[:, 0, 2, 0] > 0.25, image,
    ...   epsilon=0.1, growth=2.0, growth_steps=4, step_size=0.5, num_steps=20)
    >>> print(result.broken, result.radius)
    [ True] [0.4]

  References:
    Wong, Schmidt, Kolter, `Wasserstein Adversarial Examples via Projected
    Sinkhorn Iterations <https://arxiv.org/abs/1902.07906>`_, 2019, whose code
    attacks so, with steps of 0.1, a first radius of 0.01 and 400 steps.

  .. note::
    The authors' code gives a broken clean image the first radius and one that
    never broke an infinite one; here the first has 0 and the second its last
    radius. They keep the images of the step at which most of the batch was
    broken; here each image keeps its own.
  """
  _checks.count('num_steps', num_steps, 0)
  _checks.count('growth_steps', growth_steps, 1)
  _checks.scalar('epsilon', epsilon, positive=False)
  _checks.scalar('growth', growth, positive=True)
  if isinstance(growth, int | float) and growth < 1:
    raise ValueError(f'growth must be at least 1, got {growth}')
  ascent = _projected_sinkhorn.prepare(
    loss_fn,
    inputs,
    step_size=step_size,
    norm=norm,
    power=power,
    window=window,
    sharpness=sharpness,
    num_iterations=num_iterations,
    bounds=bounds,
  )
  centre = ascent.centre
  first, growth = (
    _projections.per_example(_ascent.constant(value), centre)
    for value in (epsilon, growth)
  )
  column = (centre.shape[0], 1, 1, 1)

  def is_broken(delta):
    out = jnp.asarray(broken_fn(ascent.points(delta)))
    if out.shape != column[:1] or out.dtype != bool:
      raise ValueError(
        f'broken_fn must return bool [{column[0]}], got {out.dtype} {out.shape}'
      )
    return jnp.reshape(out, column)

  def step(carry):
    t, state, radius, broken = carry
    ball = first * growth ** jnp.floor_divide(t, growth_steps)
    moved = ascent.step(state, ball)
    # A broken image stays, and with it all that belongs to it.
    state = jax.tree.map(
      lambda new, old: jnp.where(broken, old, new), moved, state
    )
    radius = jnp.where(broken, radius, ball)
    return t + 1, state, radius, broken | is_broken(state[0])

  delta, _ = ascent.start
  radius = 0 * jnp.sum(delta, axis=(1, 2, 3), keepdims=True)
  carry = jnp.zeros((), int), ascent.start, radius, is_broken(delta)
  _, (delta, _), radius, broken = _ascent.repeat(step, carry, num_steps, unroll)
  return jax.lax.stop_gradient(
    GrowingSinkhornResult(
      ascent.points(delta), radius[:, 0, 0, 0], broken[:, 0, 0, 0]
    )
  )
