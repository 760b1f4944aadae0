"""Projected ascent on a randomised model, with fresh draws at each step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import _ascent, _checks, _projections, _surrogates


def eot_pgd(
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array],
  key: jax.Array,
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  step_size: ArrayLike,
  num_steps: int,
  num_samples: int = 1,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
  random_start: bool = True,
  example_ids: ArrayLike | None = None,
  unroll: int | bool | None = None,
) -> jax.Array:
  r"""``pgd`` on the expected loss of a randomised model.

  Step t takes the gradient of

  .. math:: \bar\ell_t(z_i) = \frac1n \sum_{s=1}^n \ell(z_i; k_{i,t,s})

  whose keys are folded from the key, the example's id, the number of the step
  and that of the sample: no two steps share a draw, and each gradient is an
  unbiased estimate of the expected loss's. It is the same result in any batch
  and on any device. Losses are summed inside; the result is under
  stop_gradient, and what ``loss_fn`` closes over is held constant.

  Args:
    loss_fn: Maps points ``[N, ...]`` of the dtype of ``inputs`` and keys
      ``[N]`` to one loss a point, ``[N]``; the randomness of a row is to come
      from its key.
    key: Typed PRNG key of the draws and of the random start.
    inputs: Clean examples within the bounds, shape ``[B, ...]``, float.
    epsilon: Radius of the ball, non-negative: a scalar or one an example.
    step_size: Length of a step in the same norm, non-negative: the same.
    num_steps: Number of steps, static, may be 0.
    num_samples: Draws n that a gradient is averaged over, static, at least 1.
    norm: One of linf, l2, l1.
    bounds: Least and greatest value of a coordinate, or None.
    random_start: Whether to start at a random point of the ball.
    example_ids: Integers ``[B]`` that key the randomness of each row, by
      default its position.
    unroll: Steps to write out in the compiled loop; None for all on CPU and
      one elsewhere.

  Returns:
    Adversarial examples, shape and dtype of ``inputs``; within the ball and
    the bounds in exact arithmetic, in every dtype.

  Raises:
    TypeError: Inputs are not floating, or a count is not a static integer.
    ValueError: Unknown norm, bad rank, negative static radius or step, bounds
      out of order, or a ``loss_fn`` that does not return one loss a point.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> def noisy(points, keys):
    ...   noise = jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)
    ...   return jnp.sum((jnp.array([[1.0, -2.0]]) + 0.1 * noise) * points, 1)
    >>> adv = attacks.eot_pgd(
    ...   noisy, jax.random.key(0), jnp.array([[0.5, 0.5]]), epsilon=0.25,
    ...   step_size=0.125, num_steps=5, num_samples=4)
    >>> print(adv)
    [[0.75 0.25]]

  References:
    Athalye et al., `Synthesizing Robust Adversarial Examples
    <https://arxiv.org/abs/1707.07397>`_, 2018.

  .. note::
    There are no restarts: with other draws each, their losses do not compare.
    Run it with several keys and judge the results by
    ``expectation_over_transformation`` with a key of its own.
  """
  inputs = jax.lax.stop_gradient(_checks.inputs(inputs))
  _checks.norm(norm)
  _checks.scalar('step_size', step_size, positive=False)
  _checks.count('num_steps', num_steps, 0)
  box = _checks.bounds(bounds, inputs)
  _checks.radius(epsilon, inputs, box, norm)
  epsilon, step_size = map(_ascent.constant, (epsilon, step_size))
  start_key, draw_key = jax.random.split(key)
  expected = _surrogates.expectation_over_transformation(
    loss_fn, draw_key, num_samples, example_ids=example_ids
  )
  first = jnp.zeros((), int)
  expected, constants = jax.closure_convert(expected, inputs, first)
  constants = jax.lax.stop_gradient(constants)

  centre = _projections.widen(inputs)
  radius = _projections.radius_within(epsilon, inputs, norm)
  size = _projections.per_example(step_size, centre)
  down = jnp.minimum(box[0] - centre, 0)
  up = jnp.maximum(box[1] - centre, 0)

  def project(delta):
    return _projections.project_delta(
      delta, centre, radius=radius, norm=norm, box=box
    )

  def step(state):
    t, delta = state
    points = _projections.apply_delta(inputs, delta, box)
    grads = _ascent.gradient(lambda z: expected(z, t, *constants), points)
    if norm == 'l1':
      delta = _ascent.steepest_l1(
        delta, grads, size=size, radius=radius, down=down, up=up
      )
    else:
      delta = project(delta + _ascent.steepest(grads, size=size, norm=norm))
    return t + 1, delta

  delta = jnp.zeros_like(centre)
  if random_start:
    keys = _ascent.row_keys(start_key, example_ids, inputs.shape[0])
    delta = project(radius * _ascent.ball_noise(keys, centre, norm))
  _, delta = _ascent.repeat(step, (first, delta), num_steps, unroll)
  if norm == 'l1':  # For sums that rounding carried over the radius.
    delta = project(delta)
  return jax.lax.stop_gradient(_projections.apply_delta(inputs, delta, box))
