"""Transport of examples and re-weighting of them, under one multiplier."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _rows, _simplex, _transport


class ArmorState(NamedTuple):
  """What the adversary's budget costs so far.

  Attributes:
    multiplier: Lambda, a positive scalar in the unit of the losses.
  """

  multiplier: jax.Array


def armor_init(multiplier: ArrayLike = 1.0) -> ArmorState:
  """The state before any batch.

  Args:
    multiplier: First lambda, positive, in the unit of the losses.

  Returns:
    The state, at least float32.

  Raises:
    ValueError: A static multiplier that is not positive.
  """
  _checks.in_range('multiplier', multiplier, 0.0, open_low=True)
  multiplier = jnp.asarray(multiplier)
  dtype = jnp.promote_types(multiplier.dtype, jnp.float32)
  return ArmorState(multiplier.astype(dtype))


def armor_weights(
  losses: ArrayLike,
  costs: ArrayLike,
  state: ArmorState,
  *,
  cost_weight: ArrayLike,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Weights of attacked examples, one weight an example.

  With the loss :math:`\ell_i` of the moved example, its transport cost
  :math:`c_i`, the multiplier :math:`\lambda` and the cost's weight L,

  .. math:: w_i = m\,\mathrm{softmax}_i(\ell_i/\lambda - L c_i)

  of mean one over the m unmasked rows: the mean of ``w * loss`` over them has
  the gradient of ``armor_risk`` (Danskin). No gradient flows.

  Args:
    losses: Loss of each moved example, shape ``[B]``, float. The caller's
      attack maximises ``loss - multiplier * cost_weight * cost``: with
      ``attacks.wrm`` and ``transport_cost``, gamma = multiplier * cost_weight.
    costs: Transport cost of each example, shape ``[B]``, non-negative.
    state: The state, for its multiplier.
    cost_weight: L, non-negative, one over the unit of the cost.
    where: Optional mask, shape ``[B]``. A masked row has weight zero and may
      hold inf or NaN.
    axis_name: Name of a mapped axis over which the batch is spread.

  Returns:
    Weights of mean one, shape ``[B]``, float32 at the least; all zero if no
    row counts.

  Raises:
    TypeError: ``losses`` or ``costs`` are not floating.
    ValueError: Wrong shapes or a negative static weight of the cost.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.armor_weights(
    ...   jnp.array([1.0, 1.0]), jnp.array([0.0, 0.0]), losses.armor_init(),
    ...   cost_weight=1.0))
    [1. 1.]

  References:
    Birrell, Ebrahimi, `Adversarially Robust Learning with Optimal Transport
    Regularized Divergences <https://arxiv.org/abs/2309.03791>`_, 2023, the KL
    case.
  """
  parts = _inputs(losses, costs, state, cost_weight, where)
  p, _ = _respond(*parts[:3], state, cost_weight, axis_name)
  rows, losses = parts[2], parts[0]
  weights = _rows.own(p, losses, axis_name)
  return weights * _rows.mean_scale(rows, axis_name).astype(p.dtype)


def armor_risk(
  losses: ArrayLike,
  costs: ArrayLike,
  state: ArmorState,
  *,
  cost_weight: ArrayLike,
  radius: ArrayLike,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Robust risk over transport and re-weighting together, a scalar.

  .. math:: \lambda\epsilon + \lambda \log \frac1m \sum_i
            \exp\big(\ell_i/\lambda - L c_i\big)

  with the symbols of ``armor_weights`` and the radius :math:`\epsilon`. At the
  :math:`\lambda` that minimises it, it is the largest expected loss over all
  weights p and moves of examples with :math:`\mathrm{KL}(p \| 1/m) + L
  \sum_i p_i c_i \le \epsilon`. Exact gradients flow
  to ``losses`` and to the state's multiplier, to the latter
  :math:`\epsilon - \mathrm{KL} - L\sum_i p_i c_i`: what of the budget is not
  used. The rest is constant.

  Args:
    losses: As in ``armor_weights``.
    costs: As there.
    state: As there.
    cost_weight: As there.
    radius: Budget epsilon, non-negative, in nats.
    where: As there; with no row left the risk is lambda * epsilon.
    axis_name: As there. The value is then that of the batch of all devices,
      on each of them; the pmean of it has the global gradient.

  Returns:
    A scalar, float32 at the least.

  Raises:
    TypeError: As ``armor_weights``.
    ValueError: As there, or a negative static radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.armor_risk(
    ...   jnp.array([1.0, 1.0]), jnp.array([0.0, 0.0]), losses.armor_init(),
    ...   cost_weight=1.0, radius=0.5))
    1.5

  References:
    Birrell, Ebrahimi, `Adversarially Robust Learning with Optimal Transport
    Regularized Divergences <https://arxiv.org/abs/2309.03791>`_, 2023, the KL
    case.

  .. note::
    The authors' MNIST attack multiplies the loss by lambda where this
    objective divides by it; here both divide. Differentiable once.
  """
  _checks.in_range('radius', radius, 0.0)
  losses, costs, rows = _inputs(losses, costs, state, cost_weight, where)
  dtype = losses.dtype
  p, used = _respond(losses, costs, rows, state, cost_weight, axis_name)
  multiplier = jnp.asarray(state.multiplier, dtype)
  still = jax.lax.stop_gradient(multiplier)
  radius = jnp.asarray(radius, dtype)
  weights = _rows.own(p, losses, axis_name)
  weights = weights * _rows.mean_scale(rows, axis_name).astype(dtype)
  # By duality lambda log mean exp is the expected loss less lambda * used.
  risk = _rows.risk(losses, weights, rows, still * used, axis_name)
  return risk + radius * multiplier - used * (multiplier - still)


def armor_update(
  state: ArmorState,
  losses: ArrayLike,
  costs: ArrayLike,
  *,
  cost_weight: ArrayLike,
  radius: ArrayLike,
  rate: ArrayLike = 0.1,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> ArmorState:
  r"""One step of the multiplier towards a budget that is just used up.

  .. math:: \lambda \leftarrow \lambda\, \Big(\frac{\mathrm{KL} + L\,
            \sum_i p_i c_i}{\epsilon}\Big)^{\eta}

  which stands still where ``armor_risk`` has its minimum in lambda and keeps
  lambda positive, by ``adapt_gamma``. Divergence and cost fall as about
  :math:`\lambda^{-2}`, so that ``rate=0.5`` is about Newton's step. No
  gradient flows.

  Args:
    state: The state so far.
    losses: As in ``armor_weights``.
    costs: As there.
    cost_weight: As there.
    radius: Budget epsilon, positive, in nats.
    rate: Exponent eta, positive, at most 0.5 for a monotone approach.
    where: As there. With no row left the state stays.
    axis_name: As there.

  Returns:
    The new state, in the dtype of the old.

  Raises:
    TypeError: As ``armor_weights``.
    ValueError: As there, or a static radius or rate that is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> state = losses.armor_update(
    ...   losses.armor_init(), jnp.array([1.0, 1.0]), jnp.array([0.5, 0.5]),
    ...   cost_weight=0.08, radius=0.01, rate=0.5)
    >>> print(state.multiplier)
    2.0

  References:
    Birrell, Ebrahimi, `Adversarially Robust Learning with Optimal Transport
    Regularized Divergences <https://arxiv.org/abs/2309.03791>`_, 2023.

  .. note::
    The authors take gradient steps on lambda (MNIST) or bisect its derivative
    on each batch (CIFAR-100); sign and fixed point are the same.
  """
  losses, costs, rows = _inputs(losses, costs, state, cost_weight, where)
  _, used = _respond(losses, costs, rows, state, cost_weight, axis_name)
  some = jnp.any(_rows.whole(rows, axis_name))
  used = jnp.maximum(used, 0)
  new = _transport.adapt_gamma(state.multiplier, used, radius=radius, rate=rate)
  return ArmorState(jnp.where(some, new, state.multiplier))


def _respond(losses, costs, rows, state, cost_weight, axis_name):
  """``(probabilities [N], KL + L * expected cost)`` of the whole batch."""
  losses, costs, rows = jax.lax.stop_gradient(
    tuple(_rows.whole(x, axis_name) for x in (losses, costs, rows))
  )
  dtype = losses.dtype
  multiplier, price = jax.lax.stop_gradient(
    (jnp.asarray(state.multiplier, dtype), jnp.asarray(cost_weight, dtype))
  )
  scores = losses - multiplier * price * costs
  some = jnp.any(rows)
  # Without a row, uniform weights go through and are cut off below.
  p = _simplex.soft_argmax(
    scores, multiplier, jnp.where(rows | ~some, 1, 0).astype(dtype)
  )
  p = jnp.where(rows, p, 0)
  count = jnp.sum(rows).astype(dtype)
  kl = jnp.sum(jax.scipy.special.xlogy(p, p * count))
  return p, jnp.maximum(kl, 0) + price * jnp.sum(p * costs)


def _inputs(losses, costs, state, cost_weight, where):
  losses = _checks.floating('losses', losses, rank=1)
  costs = _checks.floating('costs', costs, rank=1)
  _checks.same_shape(losses=losses, costs=costs)
  _checks.floating('state.multiplier', state.multiplier, rank=0)
  _checks.in_range('cost_weight', cost_weight, 0.0)
  if losses.size == 0:
    raise ValueError('losses must hold at least one example')
  rows = _rows.mask(where, losses)
  dtype = jnp.promote_types(losses.dtype, costs.dtype)
  dtype = jnp.promote_types(dtype, jnp.float32)
  return (
    _rows.keep(rows, losses.astype(dtype)),
    _rows.keep(rows, costs.astype(dtype)),
    rows,
  )
