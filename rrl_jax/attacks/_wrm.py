"""The Wasserstein adversary in its Lagrangian form."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import _ascent, _checks, _projections


def wrm(
  loss_fn: Callable[[jax.Array], jax.Array],
  inputs: ArrayLike,
  *,
  gamma: ArrayLike,
  num_steps: int = 1,
  step_size: ArrayLike | None = None,
  bounds: tuple[float, float] | None = (0.0, 1.0),
  unroll: int | bool | None = None,
) -> jax.Array:
  r"""Examples moved to raise their loss at a price on the squared distance.

  Ascends, for each example, the surrogate of Wasserstein robustness

  .. math:: \phi_\gamma(x) = \sup_z\; \ell(z) - \frac{\gamma}{2}\|z - x\|^2,
     \qquad z \leftarrow z + a\,(\nabla\ell(z) - \gamma (z - x)),

  from :math:`z = x`, clipping to the bounds after each step. The step is
  :math:`a = 1/\gamma` throughout: one step is :math:`z = x +
  \nabla\ell(x)/\gamma`, and the iteration :math:`z \leftarrow x +
  \nabla\ell(z)/\gamma` is a contraction by :math:`L/\gamma` for a loss with
  L-Lipschitz gradient, so that it converges linearly whenever
  :math:`\gamma > L`, the range in which the maximum is unique, without
  knowing L. Losses are summed inside; the result is under stop_gradient, and
  what ``loss_fn`` closes over is held constant.

  Args:
    loss_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to one loss
      an example, ``[B]``.
    inputs: Clean examples within the bounds, shape ``[B, ...]``, float.
    gamma: Price of half the squared distance, positive: a scalar, which may be
      traced, or one an example, ``[B]``. Infinite gives the identity.
    num_steps: Number of steps, static, may be 0.
    step_size: Step a of every step, the first included, in place of 1/gamma.
    bounds: Least and greatest value of a coordinate, or None.
    unroll: Steps to write out in the compiled loop; None for all on CPU and
      one elsewhere.

  Returns:
    Adversarial examples, shape and dtype of ``inputs``, within the bounds. No
    ball limits how far they go.

  Raises:
    TypeError: Inputs are not floating or ``num_steps`` is not an integer.
    ValueError: Bad rank, a static gamma or step that is not positive, bounds
      out of order, or a ``loss_fn`` that does not return ``[B]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> adv = attacks.wrm(lambda x: x @ jnp.array([1.0, -2.0]),
    ...                   jnp.array([[0.5, 0.5]]), gamma=8.0)
    >>> print(adv)
    [[0.625 0.25 ]]

  References:
    Sinha, Namkoong, Duchi, `Certifying Some Distributional Robustness with
    Principled Adversarial Training <https://arxiv.org/abs/1710.10571>`_, 2018.

  .. note::
    The authors' code takes steps of :math:`1/(\gamma\sqrt{t+2})` after the
    first and does not clip; its ``eps`` is :math:`1/\gamma` here.
  """
  inputs = jax.lax.stop_gradient(_checks.inputs(inputs))
  _checks.scalar('gamma', gamma, positive=True)
  _checks.scalar('step_size', step_size, positive=True)
  _checks.count('num_steps', num_steps, 0)
  box = _checks.bounds(bounds, inputs)
  loss_fn = _ascent.freeze(loss_fn, inputs)
  centre = _projections.widen(inputs)
  price = _projections.per_example(jax.lax.stop_gradient(gamma), centre)
  down = jnp.minimum(box[0] - centre, 0)
  up = jnp.maximum(box[1] - centre, 0)

  def step(delta):
    points = _projections.apply_delta(inputs, delta, box)
    grads = _ascent.gradient(loss_fn, points)
    if step_size is None:
      delta = grads / price
    else:
      size = _projections.per_example(jax.lax.stop_gradient(step_size), centre)
      delta = delta + size * (grads - price * delta)
    return jnp.clip(jnp.nan_to_num(delta), down, up)

  delta = _ascent.repeat(step, jnp.zeros_like(centre), num_steps, unroll)
  return jax.lax.stop_gradient(_projections.apply_delta(inputs, delta, box))
