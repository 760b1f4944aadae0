"""Online updates of the adversary's distribution over concepts."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.losses import _checks, _simplex


def concept_mirror_ascent(
  probs: ArrayLike,
  risks: ArrayLike,
  prior: ArrayLike,
  *,
  step_size: ArrayLike,
  temperature: ArrayLike,
) -> jax.Array:
  r"""One entropic ascent step on :math:`p\cdot v - \tau\,\mathrm{KL}(p\|p^0)`.

  .. math:: \log p \leftarrow (1 - \eta\tau) \log p + \eta\,(\tau \log p^0 + v)

  and normalised. :math:`\eta\tau = 1` is the full best response, :math:`\tau =
  0` the update of Group DRO. It works in the log domain, and a weight that
  underflowed counts as the smallest normal number, so that it can come back;
  a concept with zero prior has weight zero. The caller stops the gradient.

  Args:
    probs: Distribution so far, shape ``[K]``, float.
    risks: Risk of each concept, shape ``[K]``, float.
    prior: Reference distribution, shape ``[K]``.
    step_size: Step eta, non-negative, with ``step_size * temperature <= 1``; a
      traced step beyond counts as ``1 / temperature``.
    temperature: Pull tau towards the prior, non-negative, in the unit of the
      risks.

  Returns:
    The new distribution, shape ``[K]``, dtype of ``probs``.

  Raises:
    TypeError: An array is not floating.
    ValueError: Shapes differ or static values are out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> prior = jnp.array([0.5, 0.5])
    >>> probs = losses.concept_mirror_ascent(
    ...   prior, jnp.array([0.0, 1.0]), prior, step_size=0.01, temperature=0.0)
    >>> print(f'{probs[0]:.4f} {probs[1]:.4f}')
    0.4975 0.5025

  References:
    Sagawa et al., `Distributionally Robust Neural Networks for Group Shifts
    <https://arxiv.org/abs/1911.08731>`_, 2020, for the case of temperature 0.
  """
  probs, risks, prior = _check(probs, risks, prior, step_size, temperature)
  if _static(step_size, temperature):
    # A rounding error above one, as of 0.1 * 10, is allowed.
    _checks.in_range(
      'step_size * temperature', step_size * temperature, 0, 1 + 1e-6
    )
  dtype = _simplex.compute_dtype(probs)
  p, v, p0 = (x.astype(dtype) for x in (probs, risks, prior))
  eta, tau = jnp.asarray(step_size, dtype), jnp.asarray(temperature, dtype)
  pull = jnp.minimum(eta * tau, 1)
  # The factor of the risks, eta, where eta * tau <= 1.
  eta = jnp.where(eta * tau > 1, 1 / jnp.where(tau > 0, tau, 1), eta)
  alive = p0 > 0
  floor = jnp.finfo(dtype).tiny
  log_p = jnp.log(jnp.maximum(jnp.where(alive, p, 1), floor))
  log_p0 = jnp.log(jnp.maximum(jnp.where(alive, p0, 1), floor))
  # Risks enter against the largest one: the constant is normalised away.
  top = jnp.max(v, initial=-jnp.inf, where=alive)
  gap = jnp.where(alive, v - jax.lax.stop_gradient(top), 0)
  gap = jnp.maximum(gap, jnp.finfo(dtype).min)
  step = jnp.maximum(eta * gap, -1e4)  # Below, the weight is zero anyway.
  powers = (1 - pull) * log_p + pull * log_p0 + step
  return jax.nn.softmax(powers, where=_any(alive)).astype(probs.dtype)


def concept_projected_ascent(
  probs: ArrayLike,
  risks: ArrayLike,
  prior: ArrayLike,
  *,
  step_size: ArrayLike,
  temperature: ArrayLike,
) -> jax.Array:
  r"""One projected ascent step on :math:`p\cdot v - \tau\,\|p-p^0\|^2`.

  .. math:: p \leftarrow \Pi_\Delta\big(p + \eta\,(v - 2\tau(p-p^0))\big)

  with the Euclidean projection on the simplex. The objective is strongly
  concave: steps of :math:`1/(2\tau t)` at time t give the dual part its
  :math:`O(\log T/T)` behaviour, and one step of :math:`1/(2\tau)` is the full
  best response. The caller stops the gradient.

  Args:
    probs: Distribution so far, shape ``[K]``, float.
    risks: Risk of each concept, shape ``[K]``, float.
    prior: Reference distribution, shape ``[K]``.
    step_size: Step eta, non-negative.
    temperature: Pull tau towards the prior, non-negative.

  Returns:
    The new distribution, shape ``[K]``, dtype of ``probs``.

  Raises:
    TypeError: An array is not floating.
    ValueError: Shapes differ or static values are negative.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> prior = jnp.array([0.5, 0.5])
    >>> print(losses.concept_projected_ascent(
    ...   prior, jnp.array([0.0, 1.0]), prior, step_size=0.2, temperature=1.0))
    [0.4 0.6]

  References:
    Qian et al., `Robust Optimization over Multiple Domains
    <https://arxiv.org/abs/1805.07588>`_, 2019, for the rate.
  """
  probs, risks, prior = _check(probs, risks, prior, step_size, temperature)
  dtype = _simplex.compute_dtype(probs)
  p, v, p0 = (x.astype(dtype) for x in (probs, risks, prior))
  p0 = _simplex.normalize(p0)
  eta, tau = jnp.asarray(step_size, dtype), jnp.asarray(temperature, dtype)
  # A constant added to all entries does not change the projection; entries
  # far below the top are outside the support for sure.
  gap = jnp.maximum(v - jnp.max(v), jnp.finfo(dtype).min)
  moved = p + eta * (gap - 2 * tau * (p - p0))
  depth = jax.lax.stop_gradient(moved - jnp.max(moved))
  moved = jnp.where(depth > -4, moved, jnp.max(moved) - 4)
  return _simplex.water_level(moved, jnp.ones_like(p)).astype(probs.dtype)


def _any(mask):
  """The mask, or all of it where it holds nothing."""
  return mask | ~jnp.any(mask)


def _static(*values):
  return all(isinstance(v, int | float | np.number) for v in values)


def _check(probs, risks, prior, step_size, temperature):
  probs = _checks.floating('probs', probs, rank=1)
  risks = _checks.floating('risks', risks, rank=1)
  prior = _checks.floating('prior', prior, rank=1)
  _checks.same_shape(probs=probs, risks=risks, prior=prior)
  _checks.in_range('step_size', step_size, 0.0)
  _checks.in_range('temperature', temperature, 0.0)
  return probs, risks, prior
