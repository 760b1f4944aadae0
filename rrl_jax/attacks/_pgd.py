"""Projected gradient ascent within a norm ball."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import _ascent, _checks, _projections


def pgd(
  loss_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array | None,
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  step_size: ArrayLike,
  num_steps: int,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
  random_start: bool = True,
  num_restarts: int = 1,
  momentum: float = 0.0,
  example_ids: ArrayLike | None = None,
  unroll: int | bool | None = None,
) -> jax.Array:
  r"""Examples moved within a ball so as to raise their own loss.

  From a uniform draw in the ball (or the clean point), repeated:

  .. math:: z \leftarrow \Pi\big(z + \alpha\, d(\nabla_z \ell(z))\big)

  with d the steepest direction of the norm (linf: the sign; l2: the unit
  gradient) and :math:`\Pi` the exact projection on the intersection of ball and
  bounds. An l1 step spends its length on the coordinates of largest gradient,
  each as far as the bounds let it, and gives back what exceeds the ball where
  it is worth least. With momentum :math:`\mu` the direction is that of
  :math:`m \leftarrow \mu m + \nabla_z \ell / \|\nabla_z \ell\|_1` instead of
  the gradient. The last iterate is returned; of several restarts the one
  of highest loss, example by example. Losses are summed inside, so that an
  example's result does not depend on its batch. The result is under
  stop_gradient, and what ``loss_fn`` closes over is held constant.

  A loss whose gradient is zero in floating point is not raised: cross-entropy
  of very large logits looks robust and is not. Of logits that are not known to
  be moderate attack ``untargeted_objective(..., scale=logit_scale(logits))``.

  Args:
    loss_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to one loss
      an example, ``[B]``.
    key: Typed PRNG key of the random start; may be None without one.
    inputs: Clean examples within the bounds, shape ``[B, ...]``, float.
    epsilon: Radius of the ball, non-negative: a scalar or one an example. A
      Python number is rounded down to the dtype, a traced one taken as it is.
    step_size: Length of a step in the same norm, non-negative: the same.
    num_steps: Number of steps, static, may be 0.
    norm: One of linf, l2, l1.
    bounds: Least and greatest value of a coordinate, or None.
    random_start: Whether to start at a random point of the ball.
    num_restarts: Number of independent runs; more than one needs a random
      start.
    momentum: Decay of the accumulated gradient, non-negative, static; 0 for
      none. The momentum iterative fast gradient sign method has 1, no random
      start and a step of ``epsilon / num_steps``.
    example_ids: Integers ``[B]`` that key the randomness of each row, by
      default its position. With ids an example draws the same noise in any
      batch and on any device.
    unroll: Steps to write out in the compiled loop; None for all on CPU and
      one elsewhere. Pass 1 on CPU if compiling many steps takes too long.

  Returns:
    Adversarial examples, shape and dtype of ``inputs``; within the ball and
    the bounds in exact arithmetic, in every dtype.

  Raises:
    TypeError: Inputs are not floating, or a count is not a static integer.
    ValueError: Unknown norm, bad rank, negative static radius or step, bounds
      out of order, no key for a random start, restarts without one, or a
      ``loss_fn`` that does not return ``[B]``.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> adv = attacks.pgd(
    ...   lambda x: x @ jnp.array([1.0, -2.0]), jax.random.key(0),
    ...   jnp.array([[0.5, 0.5]]), epsilon=0.25, step_size=0.125, num_steps=5)
    >>> print(adv)
    [[0.75 0.25]]

  References:
    Madry et al., `Towards Deep Learning Models Resistant to Adversarial
    Attacks <https://arxiv.org/abs/1706.06083>`_, 2018; Dong et al., `Boosting
    Adversarial Attacks with Momentum <https://arxiv.org/abs/1710.06081>`_,
    2018.

  .. note::
    The l1 step is ours. Other libraries step along the gradient over its l1
    norm and project; that takes many more steps to as high a loss.
  """
  inputs = jax.lax.stop_gradient(_checks.inputs(inputs))
  _checks.norm(norm)
  _checks.scalar('step_size', step_size, positive=False)
  _checks.count('num_steps', num_steps, 0)
  _checks.count('num_restarts', num_restarts, 1)
  _checks.scalar('momentum', momentum, positive=False)
  box = _checks.bounds(bounds, inputs)
  _checks.radius(epsilon, inputs, box, norm)
  if random_start and key is None:
    raise ValueError('random_start needs a key')
  if num_restarts > 1 and not random_start:
    raise ValueError('num_restarts > 1 needs random_start')
  loss_fn = _ascent.freeze(loss_fn, inputs)
  epsilon, step_size = map(_ascent.constant, (epsilon, step_size))

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
    delta, velocity = state
    points = _projections.apply_delta(inputs, delta, box)
    grads = _ascent.gradient(loss_fn, points)
    if velocity is not None:
      grads = velocity = momentum * velocity + _ascent.unit_l1(grads)
    if norm == 'l1':
      delta = _ascent.steepest_l1(
        delta, grads, size=size, radius=radius, down=down, up=up
      )
    else:
      delta = project(delta + _ascent.steepest(grads, size=size, norm=norm))
    return delta, velocity

  def run(restart_keys):
    delta = jnp.zeros_like(centre)
    if restart_keys is not None:
      noise = _ascent.ball_noise(restart_keys, centre, norm)
      delta = project(delta + radius * noise)
    velocity = jnp.zeros_like(centre) if momentum else None
    delta, _ = _ascent.repeat(step, (delta, velocity), num_steps, unroll)
    if norm == 'l1':  # For sums that rounding carried over the radius.
      delta = project(delta)
    return _projections.apply_delta(inputs, delta, box)

  if not random_start:
    return jax.lax.stop_gradient(run(None))
  keys = _ascent.row_keys(key, example_ids, inputs.shape[0])
  return jax.lax.stop_gradient(
    _ascent.best_of(run, loss_fn, keys, num_restarts)
  )
