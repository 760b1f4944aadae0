"""Unified distributional robustness: a ball with a price on leaving it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import _ascent, _checks, _projections
from rrl_jax.numerics import safe_norm

DISTANCES = ('mean_abs', 'linf', 'l2', 'l1')


class UDRState(NamedTuple):
  """The multiplier of ``udr`` and the window it is learned from.

  Attributes:
    multiplier: Price of leaving the ball, scalar, at least 0.
    distance_sum: Mean distances added up over the window, scalar.
    count: Batches in the window so far, int32 scalar.
  """

  multiplier: jax.Array
  distance_sum: jax.Array
  count: jax.Array


def udr(
  loss_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array | None,
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  multiplier: ArrayLike,
  step_size: ArrayLike,
  num_steps: int,
  tau: ArrayLike | None = None,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
  random_start: bool = True,
  num_restarts: int = 1,
  example_ids: ArrayLike | None = None,
  unroll: int | bool | None = None,
) -> jax.Array:
  r"""Examples moved to raise their loss, drawn back softly into a ball.

  The worst case under a Wasserstein ball whose ground cost is free inside the
  norm ball and grows outside, :math:`c(z, x) = \frac{1}{2\tau}
  \mathrm{dist}(z - x, \mathcal B_\epsilon)^2`, at the price
  :math:`\lambda`. From a uniform draw in the ball, with :math:`\delta = z - x`
  and :math:`\Pi` the projection on ball and bounds, each step is

  .. math:: \delta \leftarrow \delta + a\, d(\nabla_z \ell(z)), \qquad
     \delta \leftarrow \delta - \min\!\big(\tfrac{\lambda a}{\tau}, 1\big)
     \,(\delta - \Pi\delta),

  then clipping to the bounds; d is the steepest direction of the norm, as in
  ``pgd``. At :math:`\lambda a \ge \tau` this is ``pgd`` (linf and l2, to the
  bit); a smaller multiplier lets points leave the ball, and 0 leaves them
  free. ``udr_update`` learns the multiplier. Losses are summed inside; the
  result is under stop_gradient, and what ``loss_fn`` closes over is held
  constant.

  Args:
    loss_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to one loss
      an example, ``[B]``.
    key: Typed PRNG key of the random start; may be None without one.
    inputs: Clean examples within the bounds, shape ``[B, ...]``, float.
    epsilon: Radius of the free ball, non-negative: a scalar or one an example.
    multiplier: Price :math:`\lambda`, non-negative: the same; may be traced.
    step_size: Length a of a step in the norm, non-negative: the same.
    num_steps: Number of steps, static, may be 0.
    tau: Scale of the cost, positive, in the unit of ``step_size``: the same;
      None for ``step_size``, so that the share drawn back is the multiplier.
    norm: One of linf, l2, l1.
    bounds: Least and greatest value of a coordinate, or None.
    random_start: Whether to start at a random point of the ball.
    num_restarts: Number of independent runs, of which the one of highest loss
      is kept, example by example; more than one needs a random start.
    example_ids: Integers ``[B]`` that key the randomness of each row, by
      default its position.
    unroll: Steps to write out in the compiled loop; None for all on CPU and
      one elsewhere.

  Returns:
    Adversarial examples, shape and dtype of ``inputs``, within the bounds
    exactly. The ball is left by design where the multiplier is small.

  Raises:
    TypeError: Inputs are not floating, or a count is not a static integer.
    ValueError: Unknown norm, bad rank, static values out of range, bounds out
      of order, no key for a random start, restarts without one, or a
      ``loss_fn`` that does not return ``[B]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> adv = attacks.udr(
    ...   lambda x: x @ jnp.array([1.0, -2.0]), None, jnp.array([[0.5, 0.5]]),
    ...   epsilon=0.125, multiplier=0.5, step_size=0.125, num_steps=2,
    ...   random_start=False)
    >>> print(adv)
    [[0.6875 0.3125]]

  References:
    Bui et al., `A Unified Wasserstein Distributional Robustness Framework for
    Adversarial Training <https://arxiv.org/abs/2202.13437>`_, 2022.

  .. note::
    The authors' code always steps along the sign and draws back to the linf
    box; here step and ball follow ``norm``. Its share drawn back has no upper
    end, so that a multiplier over 2 (with tau = a) diverges; here it ends at
    the projection.
  """
  inputs = jax.lax.stop_gradient(_checks.inputs(inputs))
  _checks.norm(norm)
  _checks.scalar('multiplier', multiplier, positive=False)
  _checks.scalar('step_size', step_size, positive=False)
  _checks.scalar('tau', tau, positive=True)
  _checks.count('num_steps', num_steps, 0)
  _checks.count('num_restarts', num_restarts, 1)
  box = _checks.bounds(bounds, inputs)
  _checks.radius(epsilon, inputs, box, norm)
  if random_start and key is None:
    raise ValueError('random_start needs a key')
  if num_restarts > 1 and not random_start:
    raise ValueError('num_restarts > 1 needs random_start')
  loss_fn = _ascent.freeze(loss_fn, inputs)

  centre = _projections.widen(inputs)
  radius = _projections.radius_within(_ascent.constant(epsilon), inputs, norm)
  size = _projections.per_example(_ascent.constant(step_size), centre)
  share = _projections.per_example(_ascent.constant(multiplier), centre)
  if tau is not None:
    share = share * size
    share = share / _projections.per_example(_ascent.constant(tau), centre)
  share = jnp.minimum(share, 1)
  down = jnp.minimum(box[0] - centre, 0)
  up = jnp.maximum(box[1] - centre, 0)

  def project(delta):
    return _projections.project_delta(
      delta, centre, radius=radius, norm=norm, box=box
    )

  def step(delta):
    points = _projections.apply_delta(inputs, delta, box)
    grads = _ascent.gradient(loss_fn, points)
    if norm == 'l1':
      free = jnp.full_like(radius, jnp.inf)
      delta = _ascent.steepest_l1(
        delta, grads, size=size, radius=free, down=down, up=up
      )
    else:
      delta = delta + _ascent.steepest(grads, size=size, norm=norm)
    # Written so that a share of one is the projection to the bit.
    delta = (1 - share) * delta + share * project(delta)
    return jnp.clip(delta, down, up)

  def run(row_keys):
    delta = jnp.zeros_like(centre)
    if row_keys is not None:
      noise = _ascent.ball_noise(row_keys, centre, norm)
      delta = project(delta + radius * noise)
    delta = _ascent.repeat(step, delta, num_steps, unroll)
    return _projections.apply_delta(inputs, delta, box)

  if not random_start:
    return jax.lax.stop_gradient(run(None))
  keys = _ascent.row_keys(key, example_ids, inputs.shape[0])
  return jax.lax.stop_gradient(
    _ascent.best_of(run, loss_fn, keys, num_restarts)
  )


def udr_init(multiplier: ArrayLike = 1.0) -> UDRState:
  """State before the first batch.

  Args:
    multiplier: Initial price of leaving the ball, non-negative scalar.

  Returns:
    The state, float32 or wider.

  Raises:
    ValueError: The multiplier is negative or not a scalar.

  Example:
    >>> from rrl_jax import attacks
    >>> print(attacks.udr_init().multiplier)
    1.0
  """
  _checks.scalar('multiplier', multiplier, positive=False)
  dtype = jnp.promote_types(jnp.result_type(multiplier, 0.0), jnp.float32)
  multiplier = jnp.asarray(multiplier, dtype)
  if multiplier.ndim:
    raise ValueError(
      f'multiplier must be a scalar, got shape {multiplier.shape}'
    )
  zero = jnp.zeros_like(multiplier)
  return UDRState(multiplier, zero, jnp.zeros((), jnp.int32))


def udr_update(
  state: UDRState,
  inputs: ArrayLike,
  adv_inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  learning_rate: ArrayLike = 0.02,
  period: int = 10,
  distance: str = 'mean_abs',
  axis_name: str | tuple[str, ...] | None = None,
) -> UDRState:
  r"""Dual step on the multiplier, once every ``period`` batches.

  Descends :math:`\lambda\epsilon + \mathbb E \sup\{\ell - \lambda c\}`:

  .. math:: \lambda \leftarrow \max\big(0, \lambda - \eta\,(\epsilon -
     \bar d)\big)

  with :math:`\bar d` the mean distance of the attacked from the clean examples
  over the window. A cloud that went too far raises the price. No gradient
  flows.

  Args:
    state: The state so far.
    inputs: Clean examples, shape ``[B, ...]``, float.
    adv_inputs: Attacked examples, same shape.
    epsilon: Distance to hold, non-negative scalar.
    learning_rate: Step :math:`\eta`, non-negative scalar.
    period: Batches in a window, static, at least 1.
    distance: How far an example went: mean_abs (mean of the absolute
      differences of its coordinates), linf, l2 or l1.
    axis_name: Mesh axes to average over, inside ``shard_map`` or ``pmap``.

  Returns:
    The next state; its multiplier changes at the end of a window.

  Raises:
    TypeError: Inputs are not floating, or ``period`` is no static integer.
    ValueError: Unknown distance, shapes that differ, values out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> clean = jnp.zeros((4, 3))
    >>> state = attacks.udr_update(attacks.udr_init(), clean, clean + 0.5,
    ...                            epsilon=0.25, learning_rate=1.0, period=1)
    >>> print(state.multiplier)
    1.25

  References:
    Bui et al., `A Unified Wasserstein Distributional Robustness Framework for
    Adversarial Training <https://arxiv.org/abs/2202.13437>`_, 2022.

  .. note::
    The authors' code lets the multiplier become negative, which pays points
    for leaving the ball; here it stops at 0. Its distance is ``mean_abs``,
    which stays below epsilon for most points of the linf ball itself.
  """
  if distance not in DISTANCES:
    raise ValueError(
      f'distance must be one of {", ".join(DISTANCES)}, got {distance!r}'
    )
  _checks.scalar('epsilon', epsilon, positive=False)
  _checks.scalar('learning_rate', learning_rate, positive=False)
  _checks.count('period', period, 1)
  inputs = _projections.widen(_checks.inputs(inputs))
  adv_inputs = _projections.widen(_checks.inputs(adv_inputs, 'adv_inputs'))
  if inputs.shape != adv_inputs.shape:
    raise ValueError(
      f'inputs {inputs.shape} and adv_inputs {adv_inputs.shape} differ in shape'
    )
  delta = jax.lax.stop_gradient(adv_inputs - inputs)
  axes = tuple(range(1, delta.ndim))
  if distance == 'l2':
    far = safe_norm(delta, axis=axes)
  else:
    reduce = {'mean_abs': jnp.mean, 'linf': jnp.max, 'l1': jnp.sum}[distance]
    far = reduce(jnp.abs(delta), axis=axes)
  mean = jnp.mean(far)
  if axis_name is not None:
    mean = jax.lax.pmean(mean, axis_name)
  total = state.distance_sum + mean.astype(state.distance_sum.dtype)
  count = state.count + 1
  slack = epsilon - total / count
  learned = jnp.maximum(state.multiplier - learning_rate * slack, 0)
  full = count >= period
  return jax.lax.stop_gradient(
    UDRState(
      jnp.where(full, learned, state.multiplier).astype(state.multiplier.dtype),
      jnp.where(full, 0, total),
      jnp.where(full, 0, count),
    )
  )
