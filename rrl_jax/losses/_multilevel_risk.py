"""Risks of large batches from small ones: multilevel CVaR and chi-square."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _rows, _simplex, _tail_risk


def cvar_multilevel(
  losses: ArrayLike,
  *,
  level: ArrayLike,
  base_size: int = 1,
  level_prob: ArrayLike = 1.0,
  penalty: ArrayLike | None = None,
  add_base: bool = False,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""One level of the multilevel estimate of ``cvar_risk``, a scalar.

  The risk of a batch is low on average, the more so the smaller the batch.
  With :math:`R_n` the ``cvar_risk`` of a batch of n examples and
  :math:`n_k = 2^k n_0`,

  .. math:: \Delta_0 = R_{n_0}, \qquad \Delta_k = R_{n_k} - \tfrac12\big(
            R_{n_{k-1}}^{\text{first half}} +
            R_{n_{k-1}}^{\text{second half}}\big)

  For independent examples :math:`\mathbb{E}\,\Delta_k = \mathbb{E}\,R_{n_k} -
  \mathbb{E}\,R_{n_{k-1}}`, so that the levels 0 to K add up to the
  expectation of K's. To draw one level at random, take k by
  ``multilevel_probs`` on the host (the size of the batch is static) and give
  its probability :math:`q_k`: :math:`\Delta_k / q_k` has value and gradient
  of the batch of :math:`2^K n_0` in expectation, at a mean cost of
  :math:`(K+1)\,n_0/2` to :math:`(K+1)\,n_0` examples. With ``add_base`` it is

  .. math:: R_{n_0}^{\text{first } n_0} + \Delta_k / q_k, \qquad k \ge 1

  with :math:`q` over the levels 1 to K: the same expectation, and a base that
  no probability divides. Gradients flow to the losses (Danskin).

  Args:
    losses: Losses of independent examples, shape ``[n_0 * 2**k]``, float.
    level: Fraction alpha of a batch that counts, in (0, 1].
    base_size: Size n_0 of the smallest batch, static, at least 1; about
      ``1 / level`` or more keeps the variance low.
    level_prob: Probability q of this level, in (0, 1].
    penalty: Weight lambda of the divergence, as in ``cvar_risk``.
    add_base: Whether to add the risk of the first ``base_size`` examples,
      undivided, for a level k of 1 or more.
    where: Optional mask, shape of ``losses``. A masked row counts for nothing
      in its parts and may hold inf or NaN. Levels add up for full batches.
    axis_name: Name of a mapped axis over which the batch is spread: n_k and
      its halves are then of the batch of all devices, in the order of the
      axis. The value is the same on each; the pmean of it has the global
      gradient.

  Returns:
    The estimate, a scalar, float32 at the least; it may be negative.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes, static values out of range, a number of examples
      that is not ``base_size * 2**k``, or ``add_base`` at level 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.cvar_multilevel(
    ...   jnp.array([3.0, 1.0, 2.0, 0.0]), level=0.5, base_size=2))
    0.0
    >>> print(losses.cvar_multilevel(
    ...   jnp.array([3.0, 2.0, 1.0, 0.0]), level=0.5, base_size=2))
    0.5

  References:
    Levy et al., `Large-Scale Methods for Distributionally Robust Optimization
    <https://arxiv.org/abs/2010.05893>`_, 2020, the multilevel Monte Carlo
    estimator.

  .. note::
    The published estimator is the form with ``add_base``, for levels from 1
    on, with probabilities that halve and the rest of them on the last; any
    positive ones are unbiased.
  """
  risk = lambda rows: _tail_risk.cvar_risk(
    losses, level=level, penalty=penalty, where=rows, axis_name=axis_name
  )
  return _multilevel(
    risk, losses, base_size, level_prob, add_base, where, axis_name
  )


def chi2_multilevel(
  losses: ArrayLike,
  *,
  base_size: int = 1,
  level_prob: ArrayLike = 1.0,
  penalty: ArrayLike | None = None,
  radius: ArrayLike | None = None,
  add_base: bool = False,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""One level of the multilevel estimate of ``chi2_risk``, a scalar.

  ``cvar_multilevel`` with :math:`R_n` the ``chi2_risk`` of n examples.

  Args:
    losses: Losses of independent examples, shape ``[n_0 * 2**k]``, float.
    base_size: Size n_0 of the smallest batch, static, at least 1. With a
      radius, a batch of at most 1 + 2 * radius has its maximum for a risk.
    level_prob: Probability q of this level, in (0, 1].
    penalty: Weight lambda, as in ``chi2_risk``.
    radius: Radius rho; either this or ``penalty``.
    add_base: As in ``cvar_multilevel``.
    where: As there.
    axis_name: As there.

  Returns:
    The estimate, a scalar, float32 at the least; it may be negative.

  Raises:
    TypeError: As ``cvar_multilevel``.
    ValueError: As there, or not exactly one of penalty and radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.chi2_multilevel(jnp.array([1.0, -1.0]), radius=0.125))
    0.5

  References:
    Levy et al., `Large-Scale Methods for Distributionally Robust Optimization
    <https://arxiv.org/abs/2010.05893>`_, 2020, the multilevel Monte Carlo
    estimator.
  """
  risk = lambda rows: _tail_risk.chi2_risk(
    losses, penalty=penalty, radius=radius, where=rows, axis_name=axis_name
  )
  return _multilevel(
    risk, losses, base_size, level_prob, add_base, where, axis_name
  )


def _multilevel(
  risk: Callable[[jax.Array], jax.Array],
  losses: ArrayLike,
  base_size: int,
  level_prob: ArrayLike,
  add_base: bool,
  where: ArrayLike | None,
  axis_name: Any,
) -> jax.Array:
  """The estimate from the risk of any subset of the rows."""
  losses = _checks.floating('losses', losses, rank=1)
  _checks.in_range('base_size', base_size, 1)
  _checks.in_range('level_prob', level_prob, 0.0, 1.0, open_low=True)
  devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
  size = losses.size * devices
  parts, rest = divmod(size, base_size)
  if rest or parts == 0 or parts & (parts - 1):
    raise ValueError(
      f'losses must hold base_size * 2**k = {base_size} * 2**k examples, '
      f'got {size}'
    )
  if add_base and parts == 1:
    raise ValueError(f'add_base needs a level of 1 or more, got {size} losses')
  rows = _rows.mask(where, losses)
  prob = jnp.asarray(level_prob, _simplex.compute_dtype(losses))
  if parts == 1:
    return risk(rows) / prob
  # Parts of the batch are masks, not slices: rows stay on their devices.
  place = jnp.arange(losses.size)
  if axis_name is not None:
    place = place + losses.size * jax.lax.axis_index(axis_name)
  first = risk(rows & (place < size // 2))
  second = risk(rows & (place >= size // 2))
  out = (risk(rows) - (first / 2 + second / 2)) / prob
  return out + risk(rows & (place < base_size)) if add_base else out
