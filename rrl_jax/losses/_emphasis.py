"""How strongly an example pulls, as a function of its label's probability."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _simplex


def emphasis_weight(
  p: ArrayLike, *, focus: ArrayLike, spread: ArrayLike
) -> jax.Array:
  r"""Weight that gradient rescaling gives to an example, elementwise.

  .. math:: w(p) = e^{\beta p^\lambda (1-p)}

  with focus :math:`\lambda` and spread :math:`\beta`. It is largest (for a
  positive spread) at :math:`p = \lambda/(1+\lambda)`; :math:`w(1) = 1`, and
  :math:`w(0) = 1`, or :math:`e^\beta` where the focus is 0. Differentiable in
  p; ``gradient_rescaling`` treats it as a constant.

  Args:
    p: Probability of the labelled class, any shape, float; clipped to [0, 1].
    focus: Scalar lambda, at least 0.
    spread: Scalar beta, of any sign; 0 weighs all examples alike.

  Returns:
    Weights, shape of ``p``, float32 at the least, positive and finite.

  Raises:
    TypeError: ``p`` is not floating.
    ValueError: A static focus is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> p = jnp.array([0.0, 0.5, 1.0])
    >>> print(losses.emphasis_weight(p, focus=1.0, spread=8.0).round(2))
    [1.   7.39 1.  ]

  References:
    Wang et al., `Robust Discriminative Representation Learning via Gradient
    Rescaling <https://arxiv.org/abs/1905.11233v4>`_, 2019, the weight of the
    authors' released layer.

  .. note::
    The slope at p = 0 is infinite for a focus between 0 and 1; here it is 0.
    A weight beyond the largest finite number is that number.
  """
  _checks.in_range('focus', focus, 0.0)
  p = _checks.floating('p', p)
  p = jnp.clip(p.astype(_simplex.compute_dtype(p)), 0, 1)
  focus = jnp.maximum(jnp.asarray(focus, p.dtype), 0)
  positive = p > 0
  power = jnp.where(positive, p, 1) ** focus
  power = jnp.where(positive | (focus == 0), power, 0)
  top = 0.999 * jnp.log(jnp.finfo(p.dtype).max)
  power = jnp.asarray(spread, p.dtype) * power * (1 - p)
  return jnp.exp(jnp.clip(power, -top, top))


def emphasis_log_weight(
  log_p: ArrayLike, log_rest: ArrayLike, *, focus: ArrayLike, spread: ArrayLike
) -> jax.Array:
  r"""Logarithm of ``emphasis_weight``, for ``derivative_manipulation``.

  .. math:: \log w = \beta p^\lambda (1-p)

  Args:
    log_p: Logarithm of p, any shape, float, finite.
    log_rest: Logarithm of 1 - p, same shape.
    focus: Scalar lambda, at least 0.
    spread: Scalar beta, of any sign.

  Returns:
    Log-weights, shape of ``log_p``.

  Raises:
    TypeError: An argument is not floating.
    ValueError: Shapes differ or a static focus is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> half = jnp.log(0.5)
    >>> print(losses.emphasis_log_weight(half, half, focus=1.0, spread=8.0))
    2.0
  """
  _checks.in_range('focus', focus, 0.0)
  log_p, log_rest = _log_arguments(log_p, log_rest)
  focus = jnp.maximum(jnp.asarray(focus, log_p.dtype), 0)
  # In logarithms p ** 0 is 1 at p = 0 too, and 1 - p has all its digits.
  return jnp.asarray(spread, log_p.dtype) * jnp.exp(focus * log_p + log_rest)


def normal_log_weight(
  log_p: ArrayLike, log_rest: ArrayLike, *, mode: ArrayLike, spread: ArrayLike
) -> jax.Array:
  r"""A normal density of p, as log-weight.

  .. math:: \log w = -\beta p (p - 2\psi)

  which is, but for a constant, the density of mean :math:`\psi` and variance
  :math:`1/(2\beta)`. With :math:`\psi = 1/2` it is ``emphasis_log_weight`` of
  focus 1.

  Args:
    log_p: Logarithm of p, any shape, float, finite.
    log_rest: Logarithm of 1 - p, same shape; not needed.
    mode: Scalar psi, where the weight is largest, in [0, 1].
    spread: Scalar beta.

  Returns:
    Log-weights, shape of ``log_p``.

  Raises:
    TypeError: An argument is not floating.
    ValueError: Shapes differ or a static mode outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> half = jnp.log(0.5)
    >>> print(losses.normal_log_weight(half, half, mode=0.5, spread=8.0))
    2.0

  References:
    Wang et al., `Derivative Manipulation for General Example Weighting
    <https://arxiv.org/abs/1905.11233>`_, 2020, normal distribution.
  """
  _checks.in_range('mode', mode, 0.0, 1.0)
  log_p, log_rest = _log_arguments(log_p, log_rest)
  p = jnp.exp(log_p)
  mode = jnp.asarray(mode, p.dtype)
  return -jnp.asarray(spread, p.dtype) * p * (p - 2 * mode)


def exponential_log_weight(
  log_p: ArrayLike, log_rest: ArrayLike, *, spread: ArrayLike
) -> jax.Array:
  r"""An exponential density of p, as log-weight.

  .. math:: \log w = \beta (1 - p)

  A positive spread favours hard examples, a negative one easy examples. The
  same as ``emphasis_log_weight`` of focus 0.

  Args:
    log_p: Logarithm of p, any shape, float, finite; not needed.
    log_rest: Logarithm of 1 - p, same shape.
    spread: Scalar beta, of any sign.

  Returns:
    Log-weights, shape of ``log_p``.

  Raises:
    TypeError: An argument is not floating.
    ValueError: Shapes differ.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> half = jnp.log(0.5)
    >>> print(losses.exponential_log_weight(half, half, spread=-2.0))
    -1.0

  References:
    Wang et al., `Derivative Manipulation for General Example Weighting
    <https://arxiv.org/abs/1905.11233>`_, 2020, exponential distribution.
  """
  log_p, log_rest = _log_arguments(log_p, log_rest)
  return jnp.asarray(spread, log_p.dtype) * jnp.exp(log_rest)


def beta_log_weight(
  log_p: ArrayLike, log_rest: ArrayLike, *, alpha: ArrayLike, eta: ArrayLike
) -> jax.Array:
  r"""A beta density of p, as log-weight.

  .. math:: \log w = (\alpha-1) \log p + (\eta-1) \log(1-p)

  The common losses weigh their examples by such densities: twice this is the
  L1 norm of the logit gradient of cross entropy for (1, 2), of the mean
  absolute error for (2, 2) and of generalized cross entropy for (q+1, 2);
  four times this that of :math:`(1-p)^2` for (2, 3).

  Args:
    log_p: Logarithm of p, any shape, float, finite.
    log_rest: Logarithm of 1 - p, same shape.
    alpha: Positive scalar.
    eta: Positive scalar.

  Returns:
    Log-weights, shape of ``log_p``.

  Raises:
    TypeError: An argument is not floating.
    ValueError: Shapes differ, or a static parameter is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> half = jnp.log(0.5)
    >>> print(jnp.exp(losses.beta_log_weight(half, half, alpha=2.0, eta=2.0)))
    0.25

  References:
    Wang et al., `Derivative Manipulation for General Example Weighting
    <https://arxiv.org/abs/1905.11233>`_, 2020, beta distribution.
  """
  _checks.in_range('alpha', alpha, 0.0, open_low=True)
  _checks.in_range('eta', eta, 0.0, open_low=True)
  log_p, log_rest = _log_arguments(log_p, log_rest)
  alpha, eta = (jnp.asarray(v, log_p.dtype) for v in (alpha, eta))
  return (alpha - 1) * log_p + (eta - 1) * log_rest


def _log_arguments(log_p, log_rest):
  log_p = _checks.floating('log_p', log_p)
  log_rest = _checks.floating('log_rest', log_rest)
  _checks.same_shape(log_p=log_p, log_rest=log_rest)
  dtype = _simplex.compute_dtype(log_p)
  return log_p.astype(dtype), log_rest.astype(dtype)
