"""Risks of the worst part of a batch: CVaR and chi-square, primal and dual."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _example_response, _rows, _simplex


def cvar_weights(
  losses: ArrayLike,
  *,
  level: ArrayLike,
  penalty: ArrayLike | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Weights of the worst fraction of a batch, one weight an example.

  With m unmasked losses and the level :math:`\alpha`, the maximiser of

  .. math:: \sum_i p_i \ell_i - \lambda\,\mathrm{KL}(p \| 1/m)
            \quad\text{with}\quad p_i \le \frac{1}{\alpha m}

  returned as :math:`w_i = m p_i`, so that the mean of ``w * loss`` over the
  unmasked rows is the CVaR and its gradient that of the risk (Danskin).
  Without a penalty the :math:`\alpha m` largest losses have weight
  :math:`1/\alpha`, with equal losses sharing what is left; with one,
  :math:`w_i = \min(e^{(\ell_i-\eta)/\lambda}, 1/\alpha)`. No gradient flows.

  Args:
    losses: Loss of each example, shape ``[B]``, float.
    level: Fraction alpha of the batch that counts, in (0, 1].
    penalty: Weight lambda of the divergence, positive, in the unit of the
      losses; None for none.
    where: Optional mask, shape ``[B]``. A masked row has weight zero and may
      hold inf or NaN.
    axis_name: Name of a mapped axis over which the batch is spread: the worst
      are sought in the batch of all devices, and the pmean of the local means
      is its CVaR.

  Returns:
    Weights in [0, 1/alpha] of mean one, shape ``[B]``, float32 at the least;
    all zero if no row counts.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes or static values out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.cvar_weights(jnp.array([3.0, 1.0, 2.0, 0.0]), level=0.5))
    [2. 0. 2. 0.]

  References:
    Levy et al., `Large-Scale Methods for Distributionally Robust Optimization
    <https://arxiv.org/abs/2010.05893>`_, 2020, section 2 and appendix A.
  """
  weights, _, _, _ = _cvar(losses, level, penalty, where, axis_name)
  return weights


def cvar_risk(
  losses: ArrayLike,
  *,
  level: ArrayLike,
  penalty: ArrayLike | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Conditional value at risk of a batch, a scalar.

  The maximum of which ``cvar_weights`` are the maximiser: the mean of the
  worst :math:`\alpha m` losses, less the penalty. Its gradient in the losses
  is exact, :math:`p`; level and penalty have none.

  Args:
    losses: Loss of each example, shape ``[B]``, float.
    level: As in ``cvar_weights``.
    penalty: As there.
    where: As there; with no row left the risk is zero.
    axis_name: As there. The value is then that of the batch of all devices,
      on each of them; the pmean of it has the global gradient.

  Returns:
    A scalar, float32 at the least, between the mean and the largest loss.

  Raises:
    TypeError: As ``cvar_weights``.
    ValueError: As there.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.cvar_risk(jnp.array([3.0, 1.0, 2.0, 0.0]), level=0.5))
    2.5
  """
  weights, losses, rows, p = _cvar(losses, level, penalty, where, axis_name)
  cost = jnp.zeros((), losses.dtype)
  if penalty is not None:
    count = jnp.sum(_rows.whole(rows, axis_name)).astype(p.dtype)
    divergence = jnp.sum(jax.scipy.special.xlogy(p, p * count))
    cost = jnp.asarray(penalty, p.dtype) * jnp.maximum(divergence, 0)
  cost = jax.lax.stop_gradient(cost)
  return _rows.risk(losses, weights, rows, cost, axis_name)


def cvar_dual(
  losses: ArrayLike,
  eta: ArrayLike,
  *,
  level: ArrayLike,
  penalty: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""The dual of CVaR at a threshold, per example.

  .. math:: \eta + \frac{(\ell_i - \eta)_+}{\alpha}

  Its mean over examples is at least the CVaR, with equality at the best
  :math:`\eta`, a quantile of the losses; minimised over :math:`\eta` together
  with the model it is an unbiased objective at any batch size. With a
  penalty :math:`\lambda` and :math:`s = \ell_i - \eta`:

  .. math:: \eta + \begin{cases}
              \lambda (e^{s/\lambda} - 1) & s \le \lambda\log(1/\alpha) \\
              s/\alpha - \lambda\big(\tfrac1\alpha\log\tfrac1\alpha -
              \tfrac1\alpha + 1\big) & \text{else}
            \end{cases}

  The caller reduces. Gradients flow to the losses and to ``eta``.

  Args:
    losses: Loss of each example, shape ``[B]``, float.
    eta: Threshold, a scalar in the unit of the losses.
    level: Fraction alpha, in (0, 1].
    penalty: Weight lambda of the divergence, positive; None for none.
    where: Optional mask, shape ``[B]``; masked rows give zero.

  Returns:
    Shape ``[B]``, float32 at the least.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes or static values out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> values = losses.cvar_dual(jnp.array([3., 1., 2., 0.]), 1.0, level=0.5)
    >>> print(values.mean())
    2.5

  References:
    Levy et al., `Large-Scale Methods for Distributionally Robust Optimization
    <https://arxiv.org/abs/2010.05893>`_, 2020, section 2.
  """
  check_cvar(level, penalty)
  losses, rows = _inputs(losses, where)
  dtype = losses.dtype
  eta, level = jnp.asarray(eta, dtype), jnp.asarray(level, dtype)
  gap = losses - eta
  if penalty is None:
    return _rows.keep(rows, eta + jnp.maximum(gap, 0) / level)
  penalty = jnp.asarray(penalty, dtype)
  knee = -penalty * jnp.log(level)
  below = penalty * jnp.expm1(jnp.minimum(gap, knee) / penalty)
  beyond = jnp.maximum(gap - knee, 0) / level
  return _rows.keep(rows, eta + below + beyond)


def chi2_weights(
  losses: ArrayLike,
  *,
  penalty: ArrayLike | None = None,
  radius: ArrayLike | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Weights that grow linearly with the loss, one weight an example.

  With m unmasked losses and :math:`D(p) = \frac{1}{2m}\sum_i (m p_i - 1)^2`,
  the maximiser over the simplex of :math:`p\cdot\ell - \lambda D(p)`, or of
  :math:`p\cdot\ell` with :math:`D(p) \le \rho`, returned as :math:`w_i = m
  p_i`: the mean of ``w * loss`` over the unmasked rows has the gradient of
  the risk (Danskin). Both are in proportion to :math:`(\ell_i - \eta)_+`, the
  first with :math:`w_i = (\ell_i-\eta)_+/\lambda`. A ball that holds the
  largest losses alone gives those, in equal parts. No gradient flows.

  Args:
    losses: Loss of each example, shape ``[B]``, float.
    penalty: Weight lambda, positive, in the unit of the losses.
    radius: Radius rho, non-negative; either this or ``penalty``.
    where: Optional mask, shape ``[B]``. A masked row has weight zero and may
      hold inf or NaN.
    axis_name: As for ``cvar_weights``.

  Returns:
    Weights of mean one, shape ``[B]``, float32 at the least; all zero if no
    row counts.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes, static values out of range, or not exactly one
      of penalty and radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> weights = losses.chi2_weights(jnp.array([2.0, 1.0, 0.0]), penalty=2.0)
    >>> print(weights.round(4))
    [1.5 1.  0.5]

  References:
    Levy et al., `Large-Scale Methods for Distributionally Robust Optimization
    <https://arxiv.org/abs/2010.05893>`_, 2020, section 2 and appendix A.
  """
  weights, _, _, _ = _chi2(losses, penalty, radius, where, axis_name)
  return weights


def chi2_risk(
  losses: ArrayLike,
  *,
  penalty: ArrayLike | None = None,
  radius: ArrayLike | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Chi-square robust risk of a batch, a scalar.

  The maximum of which ``chi2_weights`` are the maximiser. For a small radius
  it is the mean plus :math:`\sqrt{2\rho\,\mathrm{var}}`, for a large penalty
  the mean plus :math:`\mathrm{var}/(2\lambda)`. Its gradient in the losses is
  exact; penalty and radius have none.

  Args:
    losses: Loss of each example, shape ``[B]``, float.
    penalty: As in ``chi2_weights``.
    radius: As there.
    where: As there; with no row left the risk is zero.
    axis_name: As for ``cvar_risk``.

  Returns:
    A scalar, float32 at the least, between the mean and the largest loss.

  Raises:
    TypeError: As ``chi2_weights``.
    ValueError: As there.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.chi2_risk(jnp.array([1.0, -1.0]), radius=0.125))
    0.5
  """
  weights, losses, rows, p = _chi2(losses, penalty, radius, where, axis_name)
  cost = jnp.zeros((), losses.dtype)
  if penalty is not None:
    everyone = _rows.whole(rows, axis_name)
    count = jnp.maximum(jnp.sum(everyone), 1).astype(p.dtype)
    spread = jnp.where(everyone, jnp.square(count * p - 1), 0)
    cost = jnp.asarray(penalty, p.dtype) * jnp.sum(spread) / (2 * count)
  cost = jax.lax.stop_gradient(cost)
  return _rows.risk(losses, weights, rows, cost, axis_name)


def chi2_dual(
  losses: ArrayLike,
  eta: ArrayLike,
  *,
  penalty: ArrayLike | None = None,
  radius: ArrayLike | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""The dual of the chi-square risk at a threshold, a scalar.

  .. math:: \eta + \frac{\lambda}{2} + \frac{1}{2\lambda m}
            \sum_i (\ell_i-\eta)_+^2
            \qquad\text{or}\qquad
            \eta + \sqrt{\frac{1+2\rho}{m}} \, \|(\ell-\eta)_+\|_2

  At least the risk, with equality at the best :math:`\eta`. The first is a
  mean over examples and so unbiased at any batch size, the second is not: a
  norm over the batch couples the examples. Gradients flow to the losses and
  to ``eta``, and are zero, not NaN, where no loss is above it.

  Args:
    losses: Loss of each example, shape ``[B]``, float.
    eta: Threshold, a scalar in the unit of the losses.
    penalty: Weight lambda, positive, in the unit of the losses.
    radius: Radius rho, non-negative; either this or ``penalty``.
    where: Optional mask, shape ``[B]``; masked rows count for nothing.
    axis_name: Name of a mapped axis over which the batch is spread. The value
      is that of the batch of all devices, on each of them; the pmean of it
      has the global gradient.

  Returns:
    A scalar, float32 at the least.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes, static values out of range, or not exactly one
      of penalty and radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.chi2_dual(jnp.array([2.0, 0.0]), -1.0, penalty=2.0))
    1.25

  References:
    Levy et al., `Large-Scale Methods for Distributionally Robust Optimization
    <https://arxiv.org/abs/2010.05893>`_, 2020, section 2.
  """
  check_chi2(penalty, radius)
  losses, rows = _inputs(losses, where)
  dtype = losses.dtype
  eta = jnp.asarray(eta, dtype)
  over = _rows.keep(rows, jnp.maximum(losses - eta, 0))
  top = jnp.max(jax.lax.stop_gradient(over), initial=0)
  count = jnp.sum(rows)
  if axis_name is not None:
    top = jax.lax.pmax(top, axis_name)
    count = jax.lax.psum(count, axis_name)
  count = jnp.maximum(count, 1).astype(dtype)
  # In units of the largest excess, whose square might overflow.
  unit = jnp.where(top > 0, top, 1)
  square = jnp.sum(jnp.square(over / unit)) / count
  if axis_name is not None:
    square = _shared(square, axis_name)
  if penalty is not None:
    penalty = jnp.asarray(penalty, dtype)
    largest = jnp.finfo(dtype).max / 4
    return (
      eta
      + penalty / 2
      + square * jnp.minimum(unit * (unit / (2 * penalty)), largest)
    )
  some = square > 0
  norm = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)
  return eta + jnp.sqrt(1 + 2 * jnp.asarray(radius, dtype)) * unit * norm


def _shared(local: jax.Array, axis_name: Any) -> jax.Array:
  """Sum over devices, with the gradient of the local term times their number.

  The mean of the devices' gradients is then that of the sum.
  """
  total = jax.lax.psum(jax.lax.stop_gradient(local), axis_name)
  devices = jax.lax.axis_size(axis_name)
  return total + devices * (local - jax.lax.stop_gradient(local))


def _cvar(losses, level, penalty, where, axis_name):
  """``(weights [B], losses [B], rows [B], probabilities of the batch)``."""
  check_cvar(level, penalty)
  losses, rows = _inputs(losses, where)
  level = jnp.asarray(level, losses.dtype)
  if penalty is None:
    respond = lambda v, r: _example_response.tail(v, r, level)
  else:
    price = jnp.asarray(penalty, losses.dtype)
    respond = lambda v, r: _example_response.soft_tail(v, r, level, price)
  return _weigh(respond, losses, rows, axis_name)


def _chi2(losses, penalty, radius, where, axis_name):
  check_chi2(penalty, radius)
  losses, rows = _inputs(losses, where)
  if penalty is not None:
    price = jnp.asarray(penalty, losses.dtype)
    respond = lambda v, r: _example_response.positive_part(v, r, price)
  else:
    rho = jnp.asarray(radius, losses.dtype)
    respond = lambda v, r: _example_response.positive_part_in_ball(v, r, rho)
  return _weigh(respond, losses, rows, axis_name)


def _weigh(respond, losses, rows, axis_name):
  still = jax.lax.stop_gradient(losses)
  p = respond(_rows.whole(still, axis_name), _rows.whole(rows, axis_name))
  p = jax.lax.stop_gradient(p)
  weights = _rows.own(p, losses, axis_name)
  weights = weights * _rows.mean_scale(rows, axis_name).astype(p.dtype)
  return weights, losses, rows, p


def _inputs(losses, where):
  losses = _checks.floating('losses', losses, rank=1)
  if losses.size == 0:
    raise ValueError('losses must hold at least one example')
  rows = _rows.mask(where, losses)
  losses = losses.astype(_simplex.compute_dtype(losses))
  return _rows.keep(rows, losses), rows


def check_cvar(level, penalty):
  """Raises ValueError if a static value is out of range."""
  _checks.in_range('level', level, 0.0, 1.0, open_low=True)
  _checks.in_range('penalty', penalty, 0.0, open_low=True)


def check_chi2(penalty, radius):
  """Raises ValueError unless one of both is given, and in range."""
  if (penalty is None) == (radius is None):
    raise ValueError('exactly one of penalty and radius must be given')
  _checks.in_range('penalty', penalty, 0.0, open_low=True)
  _checks.in_range('radius', radius, 0.0)
