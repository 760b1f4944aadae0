"""The price in Sinkhorn DRO, learned for a given radius."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _concept_response, _rows, _sinkhorn_dro

_STEEPEST = 10.0  # Greatest ratio of used to given radius that counts.
_EXTREME = 80.0  # Greatest logarithm of a price, of either sign.


class SinkhornDROState(NamedTuple):
  """What the radius costs so far.

  Attributes:
    log_penalty: Logarithm of the price lambda, a scalar.
  """

  log_penalty: jax.Array

  @property
  def penalty(self) -> jax.Array:
    """The price lambda, positive, in loss per squared unit of x."""
    return jnp.exp(self.log_penalty)


def sinkhorn_dro_init(penalty: ArrayLike = 1.0) -> SinkhornDROState:
  """The state before any batch.

  Args:
    penalty: First price lambda, positive, in loss per squared unit of x.

  Returns:
    The state, at least float32.

  Raises:
    ValueError: A static price that is not positive.

  Example:
    >>> from rrl_jax import losses
    >>> print(losses.sinkhorn_dro_init(2.0).penalty)
    2.0
  """
  _checks.in_range('penalty', penalty, 0.0, open_low=True)
  penalty = jnp.asarray(penalty)
  dtype = jnp.promote_types(penalty.dtype, jnp.float32)
  return SinkhornDROState(jnp.log(penalty.astype(dtype)))


def sinkhorn_dro_risk(
  losses: ArrayLike,
  state: SinkhornDROState,
  *,
  epsilon: ArrayLike,
  radius: ArrayLike,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Sinkhorn robust risk at a radius for the price so far, a scalar.

  .. math:: \lambda\bar\rho + \frac1m \sum_i \lambda\epsilon
            \log \frac1M \sum_{j=1}^M e^{\ell_{ij}/(\lambda\epsilon)}

  with :math:`\lambda = e^{\text{log\_penalty}}`: the mean ``sinkhorn_dro`` over
  the m unmasked rows and the price of the radius. It is convex in
  :math:`\lambda`; the least value is the largest expected loss over laws
  whose samples have weights with a mean of :math:`\epsilon\,\mathrm{KL}_i`,
  against equal ones, of at most :math:`\bar\rho`. Exact gradients flow to the
  losses and to the state, to the latter :math:`\lambda\,(\bar\rho - \epsilon\,
  \overline{\mathrm{KL}})`, so that an optimiser may learn it, too.

  Args:
    losses: Loss of each sample of ``sinkhorn_dro_samples``, ``[B, M]``, float.
    state: The state, for its price.
    epsilon: Variance of the samples, positive, in squared units of x.
    radius: Radius rho-bar, non-negative, in squared units of x: what is left
      of the ball's for moving mass once the noise itself is paid.
    where: Optional mask, shape ``[B]``; a masked row counts for nothing and
      may hold inf or NaN. With no row left the risk is lambda * radius.
    axis_name: Name of a mapped axis over which the batch is spread. The value
      is that of the batch of all devices, on each of them; the pmean of it
      has the global gradient.

  Returns:
    A scalar, float32 at the least.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes or static values out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.sinkhorn_dro_risk(
    ...   jnp.array([[1.0, 1.0]]), losses.sinkhorn_dro_init(2.0), epsilon=0.1,
    ...   radius=0.25))
    1.5

  References:
    Wang, Gao, Xie, `Sinkhorn Distributionally Robust Optimization
    <https://arxiv.org/abs/2109.11926>`_, 2021, the dual of Theorem 1.

  .. note::
    As in the paper :math:`\bar\rho = \rho + \epsilon\,\mathbb{E}\log
    \mathbb{E}\,e^{-c/\epsilon}` against the reference measure; the Gaussian
    samples have its normalisation already.
  """
  _checks.in_range('radius', radius, 0.0)
  _checks.in_range('epsilon', epsilon, 0.0, open_low=True)
  losses, rows = _sinkhorn_dro.inputs(losses, where)
  penalty = _penalty(state, losses.dtype)
  values = _rows.keep(rows, _sinkhorn_dro.soft_max(losses, penalty, epsilon))
  count = jnp.maximum(_count(rows, axis_name), 1)
  local = jnp.sum(values) / count.astype(values.dtype)
  shared = jax.lax.stop_gradient(local)
  if axis_name is not None:
    local = local * jax.lax.axis_size(axis_name)
    shared = jax.lax.psum(shared, axis_name)
  mean = shared + (local - jax.lax.stop_gradient(local))
  return jnp.asarray(radius, mean.dtype) * penalty + mean


def sinkhorn_dro_update(
  state: SinkhornDROState,
  losses: ArrayLike,
  *,
  epsilon: ArrayLike,
  radius: ArrayLike,
  rate: ArrayLike = 0.1,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> SinkhornDROState:
  r"""One step of the price towards a radius that is just used up.

  With :math:`p_{ij}` the softmax of :math:`\ell_{ij}/(\lambda\epsilon)` over
  an example's samples and :math:`\overline{\mathrm{KL}}` the mean over
  examples of its divergence from equal weights,

  .. math:: \log\lambda \leftarrow \log\lambda + \eta\, \log
            \frac{\epsilon\,\overline{\mathrm{KL}}}{\bar\rho}

  which moves against the slope of ``sinkhorn_dro_risk`` in :math:`\lambda` and
  stands still at its minimum. The divergence falls as about
  :math:`\lambda^{-2}`, so that ``rate=0.5`` is about Newton's step, smaller
  rates average over batches. The ratio counts as at most 10 and at least
  1/10, so that no single batch decides. No gradient flows.

  Args:
    state: The state so far.
    losses: As in ``sinkhorn_dro_risk``.
    epsilon: As there.
    radius: Radius rho-bar, positive. M samples can use at most ``epsilon *
      log(M)``: above that the price falls without end.
    rate: Exponent eta, positive, at most 0.5 for a monotone approach.
    where: As there. With no row left the state stays.
    axis_name: As there.

  Returns:
    The new state, in the dtype of the old.

  Raises:
    TypeError: As ``sinkhorn_dro_risk``.
    ValueError: As there, or a static radius or rate that is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> state = losses.sinkhorn_dro_update(
    ...   losses.sinkhorn_dro_init(1.0), jnp.array([[1.0, 1.0]]), epsilon=0.1,
    ...   radius=0.01, rate=0.5)
    >>> print(state.penalty.round(3))
    0.316

  References:
    Wang, Gao, Xie, `Sinkhorn Distributionally Robust Optimization
    <https://arxiv.org/abs/2109.11926>`_, 2021, for the dual, whose price the
    authors find by bisection around the training.

  .. note::
    The step is derived here. A gradient step on the logarithm has the same
    sign and fixed point, but a rate that carries a unit. With few samples the
    price is that of their soft maximum, which is low: see ``sinkhorn_dro``.
  """
  _checks.in_range('radius', radius, 0.0, open_low=True)
  _checks.in_range('epsilon', epsilon, 0.0, open_low=True)
  _checks.in_range('rate', rate, 0.0, open_low=True)
  losses, rows = _sinkhorn_dro.inputs(losses, where)
  losses, log_penalty = jax.lax.stop_gradient((losses, state.log_penalty))
  dtype = losses.dtype
  epsilon = jnp.asarray(epsilon, dtype)
  temperature = _penalty(state, dtype) * epsilon
  prior = jnp.full((losses.shape[1],), 1 / losses.shape[1], dtype)

  def divergence(row):
    return _concept_response.respond(row, prior, temperature, 'kl', None, None)

  _, kl = jax.vmap(divergence)(losses)
  total = jnp.sum(_rows.keep(rows, kl))
  if axis_name is not None:
    total = jax.lax.psum(total, axis_name)
  count = _count(rows, axis_name)
  used = epsilon * total / jnp.maximum(count, 1).astype(dtype)
  ratio = used / jnp.asarray(radius, dtype)
  ratio = jnp.log(jnp.clip(ratio, 1 / _STEEPEST, _STEEPEST))
  moved = log_penalty.astype(dtype) + jnp.asarray(rate, dtype) * ratio
  moved = jnp.clip(moved, -_EXTREME, _EXTREME)
  moved = jnp.where(count > 0, moved, log_penalty.astype(dtype))
  moved = jax.lax.stop_gradient(moved)
  return SinkhornDROState(moved.astype(state.log_penalty.dtype))


def _penalty(state: SinkhornDROState, dtype: Any) -> jax.Array:
  log_penalty = _checks.floating('state.log_penalty', state.log_penalty, rank=0)
  return jnp.exp(log_penalty.astype(dtype))


def _count(rows: jax.Array, axis_name: Any) -> jax.Array:
  """Rows of all devices that count."""
  count = jnp.sum(rows)
  return count if axis_name is None else jax.lax.psum(count, axis_name)
