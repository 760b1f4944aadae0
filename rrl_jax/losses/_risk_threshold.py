"""The threshold in the duals of CVaR and chi-square, learned as a state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _rows, _simplex, _tail_risk

_HEAVIEST = 100.0  # Greatest mean weight that counts.


class RiskThresholdState(NamedTuple):
  """What the dual of a risk remembers between batches.

  Attributes:
    eta: Threshold, a scalar in the unit of the losses.
  """

  eta: jax.Array


def risk_threshold_init(eta: ArrayLike = 0.0) -> RiskThresholdState:
  """The state before any batch.

  Args:
    eta: First threshold, in the unit of the losses; the mean loss of a first
      batch is a good one.

  Returns:
    The state, at least float32.

  Example:
    >>> from rrl_jax import losses
    >>> print(losses.risk_threshold_init(2.0).eta)
    2.0
  """
  eta = jnp.asarray(eta)
  return RiskThresholdState(
    eta.astype(jnp.promote_types(eta.dtype, jnp.float32))
  )


def cvar_threshold_update(
  state: RiskThresholdState,
  losses: ArrayLike,
  *,
  level: ArrayLike,
  step_size: ArrayLike,
  penalty: ArrayLike | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> RiskThresholdState:
  r"""A descent step of the threshold on the batch's mean ``cvar_dual``.

  .. math:: \eta \leftarrow \eta - s\,\Big(1 - \frac1m \sum_i w_i\Big),
            \qquad w_i = \frac{1[\ell_i > \eta]}{\alpha}
            \quad\text{or}\quad
            \min\big(e^{(\ell_i-\eta)/\lambda}, 1/\alpha\big)

  with the first weight without a penalty, the second with one. It stands
  still where the weights have mean one. As the dual is a mean over examples
  the step is unbiased at any batch size: with steps in proportion to
  :math:`1/\sqrt t`, here and on the model's ``cvar_dual`` at the new
  threshold, both go to the risk over all of the data. No gradient flows.

  Args:
    state: The state so far.
    losses: Loss of each example, shape ``[B]``, float.
    level: Fraction alpha, in (0, 1].
    step_size: Step s, positive, in the unit of the losses. A batch without
      loss above the threshold lowers it by s, one with all above it raises it
      by ``s * (1 / alpha - 1)``.
    penalty: Weight lambda of the divergence, positive; None for none.
    where: Optional mask, shape ``[B]``; masked rows count for nothing and may
      hold inf or NaN. With no row left the state stays.
    axis_name: Name of a mapped axis over which the batch is spread.

  Returns:
    The new state, in the dtype of the old.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes or static values out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> state = losses.cvar_threshold_update(
    ...   losses.risk_threshold_init(), jnp.array([3.0, 1.0, 2.0, 4.0]),
    ...   level=0.5, step_size=0.25)
    >>> print(state.eta)
    0.25

  References:
    Levy et al., `Large-Scale Methods for Distributionally Robust Optimization
    <https://arxiv.org/abs/2010.05893>`_, 2020, the dual formulation as a
    baseline.

  .. note::
    The step alternates with the model's; the authors' code gives model and
    threshold to one optimiser, which ``cvar_dual`` allows as well.
  """
  _tail_risk.check_cvar(level, penalty)
  gap, rows = _gap(state, losses, step_size, where)
  level = jnp.asarray(level, gap.dtype)
  if penalty is None:
    weights = (gap > 0) / level
  else:
    power = jnp.minimum(gap / jnp.asarray(penalty, gap.dtype), -jnp.log(level))
    weights = jnp.exp(power)
  mean = _mean(weights, rows, axis_name, empty=1)
  return _step(state, mean, step_size)


def chi2_threshold_update(
  state: RiskThresholdState,
  losses: ArrayLike,
  *,
  step_size: ArrayLike,
  penalty: ArrayLike | None = None,
  radius: ArrayLike | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> RiskThresholdState:
  r"""A descent step of the threshold on the batch's ``chi2_dual``.

  .. math:: \eta \leftarrow \eta - s\,\Big(1 - \frac1m \sum_i w_i\Big),
            \qquad w_i = \frac{(\ell_i-\eta)_+}{\lambda}
            \quad\text{or}\quad
            \frac{\sqrt{1+2\rho}\;(\ell_i-\eta)_+}
            {\sqrt{\frac1m\sum_j(\ell_j-\eta)_+^2}}

  With a penalty the step is unbiased at any batch size, with a radius it is
  that of the batch's own ball. No gradient flows.

  Args:
    state: The state so far.
    losses: Loss of each example, shape ``[B]``, float.
    step_size: Step s, positive, in the unit of the losses. With a penalty
      the curvature is at most ``1 / penalty``: from ``step_size = penalty``
      on downwards the approach is monotone. The mean weight counts as at most
      100, so that no single batch decides.
    penalty: Weight lambda, positive, in the unit of the losses.
    radius: Radius rho, non-negative; either this or ``penalty``. At 0 the
      best threshold is minus infinity.
    where: As in ``cvar_threshold_update``.
    axis_name: As there.

  Returns:
    The new state, in the dtype of the old.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes, static values out of range, or not exactly one
      of penalty and radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> state = losses.chi2_threshold_update(
    ...   losses.risk_threshold_init(), jnp.array([2.0, 0.0]), penalty=2.0,
    ...   step_size=1.0)
    >>> print(state.eta)
    -0.5

  References:
    Levy et al., `Large-Scale Methods for Distributionally Robust Optimization
    <https://arxiv.org/abs/2010.05893>`_, 2020, the dual formulation as a
    baseline.
  """
  _tail_risk.check_chi2(penalty, radius)
  gap, rows = _gap(state, losses, step_size, where)
  over = _rows.keep(rows, jnp.maximum(gap, 0))
  if penalty is not None:
    weights = over / jnp.asarray(penalty, over.dtype)
    mean = _mean(jnp.minimum(weights, 1e30), rows, axis_name, empty=1)
    return _step(state, jnp.minimum(mean, _HEAVIEST), step_size)
  top = jnp.max(over, initial=0)
  if axis_name is not None:
    top = jax.lax.pmax(top, axis_name)
  over = over / jnp.where(top > 0, top, 1)
  square = _mean(jnp.square(over), rows, axis_name, empty=1)
  root = jnp.sqrt(jnp.where(square > 0, square, 1))
  widest = jnp.sqrt(1 + 2 * jnp.asarray(radius, over.dtype))
  mean = _mean(widest * over / root, rows, axis_name, empty=1)
  return _step(state, mean, step_size)


def _gap(state, losses, step_size, where):
  """``(losses - eta, rows that count)``, finite, without gradient."""
  _checks.in_range('step_size', step_size, 0.0, open_low=True)
  losses = _checks.floating('losses', losses, rank=1)
  eta = _checks.floating('state.eta', state.eta, rank=0)
  rows = _rows.mask(where, losses)
  dtype = jnp.promote_types(_simplex.compute_dtype(losses), eta.dtype)
  gap = _rows.keep(rows, losses.astype(dtype)) - eta.astype(dtype)
  largest = jnp.finfo(dtype).max / 4
  return jax.lax.stop_gradient(jnp.clip(gap, -largest, largest)), rows


def _mean(values, rows, axis_name, empty):
  """Over the rows of all devices that count; ``empty`` if there are none."""
  total, count = jnp.sum(_rows.keep(rows, values)), jnp.sum(rows)
  if axis_name is not None:
    total, count = jax.lax.psum((total, count), axis_name)
  mean = total / jnp.maximum(count, 1).astype(total.dtype)
  return jnp.where(count > 0, mean, empty)


def _step(state, mean, step_size):
  """Down the slope ``1 - mean`` of the dual."""
  move = jnp.asarray(step_size, mean.dtype) * (1 - mean)
  eta = jax.lax.stop_gradient(state.eta.astype(mean.dtype) - move)
  return RiskThresholdState(eta.astype(state.eta.dtype))
