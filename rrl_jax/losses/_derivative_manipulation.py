"""Losses made from the gradient they shall have: one pull an example.

Cross entropy and every other loss of the labelled class's probability p alone
push the logits in one direction; they differ in how hard. So the strength can
be chosen, and the direction of L1 norm 1, half the gradient of the log-odds
against the label, be multiplied by it.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.losses import _checks, _emphasis, _label_odds, _rows

NORMALIZATIONS = ('batch', 'integral', 'none')

# Logarithms of p and 1 - p in, logarithm of the weight out; elementwise.
LogWeightFn = Callable[[jax.Array, jax.Array], jax.Array]


def gradient_rescaling(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  focus: ArrayLike,
  spread: ArrayLike,
  normalization: str = 'batch',
  guard: ArrayLike = 0.0,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Gradient rescaling: chosen emphasis instead of a chosen loss.

  With p the softmax probability of the labelled class, :math:`q_i` the
  softmax over all other classes, :math:`e_{y}` the one-hot label and
  :math:`w_i = e^{\beta p_i^\lambda (1-p_i)}`, the gradient of the *mean* over
  the (unmasked) batch with respect to the logits of example i is

  .. math:: g_i = \frac{w_i}{\sum_k w_k} \cdot
            \frac{p_i - e_{y_i}}{2(1-p_{i y_i})}
            = \frac{w_i}{\sum_k w_k} \cdot \frac12 (q_i - e_{y_i})

  so that each row sums to 0, has L1 norm :math:`w_i / \sum_k w_k`, and the
  batch has L1 norm 1 however well the net fits. No gradient flows through
  the weights or their sum. The *value* is for logging: its mean is the
  weighted cross entropy :math:`\sum_i w_i (-\log p_i) / \sum_i w_i`, of which
  the gradient above is *not* the derivative. No elementary loss has it, so
  do not compare values by finite differences or search lines by them.

  The caller takes the mean. With ``axis_name`` the mean over devices of the
  local means has the gradient of the global batch. Where a step accumulates
  micro-batches, average the gradients of ``normalization='none'`` and the
  weights over all of them, and divide the one by the other at the end.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` has zero value and gradient and no share in the sum of
      weights.
    focus: Scalar lambda, at least 0; the weight is largest at
      p = lambda / (1 + lambda). A traced negative focus counts as 0.
    spread: Scalar beta, of any sign; how much the weight varies.
    normalization: What the weights are divided by: batch, their sum over the
      batch (as released; the step no longer depends on the batch size);
      integral, their integral over p in [0, 1], times the batch size; none,
      the batch size alone.
    guard: Constant added to 2(1-p) in the denominator, at least 0. The
      released code has 1e-6, with which examples fitted to rounding no
      longer pull.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, no weight, and may hold inf or NaN.
    axis_name: Name of a mapped axis over which the batch is spread, inside
      ``shard_map`` or ``pmap``.

  Returns:
    Values, shape ``[B]``, float32 at the least, non-negative.

  Raises:
    TypeError: Logits are not floating or labels not integer (soft labels).
    ValueError: Wrong shapes, fewer than two classes, an unknown
      normalization, or a static focus or guard that is negative.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> logits, labels = jnp.array([[0.0, 0.0], [9.0, 0.0]]), jnp.array([0, 0])
    >>> fun = lambda z: losses.gradient_rescaling(
    ...   z, labels, focus=0.0, spread=0.0).mean()
    >>> print(jax.grad(fun)(logits))
    [[-0.25  0.25]
     [-0.25  0.25]]

  References:
    Wang et al., `Robust Discriminative Representation Learning via Gradient
    Rescaling <https://arxiv.org/abs/1905.11233v4>`_, 2019, and the authors'
    released layer of the same day; v5 and later as Derivative Manipulation,
    whose text normalises by the integral.

  .. note::
    Written as a margin, this needs no division by 1 - p: where float32 makes
    p = 1, the released code's gradient is 0 and this one, with the default
    guard, :math:`w_i/\sum w` as the formula says. The released code starts
    the sum of weights at 1e-8; here it starts at 0. Weights above e^60 in
    float32 saturate for integral and none; batch cannot overflow.
  """
  _checks.in_range('focus', focus, 0.0)
  log_weight_fn = functools.partial(
    _emphasis.emphasis_log_weight, focus=focus, spread=spread
  )
  return derivative_manipulation(
    logits,
    labels,
    log_weight_fn,
    normalization=normalization,
    guard=guard,
    where=where,
    axis_name=axis_name,
  )


def improved_mean_absolute_error(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 8.0,
  normalization: str = 'batch',
  guard: ArrayLike = 0.0,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""IMAE: the mean absolute error's emphasis, exponentiated.

  ``gradient_rescaling`` with focus 1: the weights are
  :math:`e^{T p_i (1-p_i)}`, and all that is said there of means, values and
  gradients holds.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``.
    temperature: Scalar T.
    normalization: As for ``gradient_rescaling``.
    guard: As for ``gradient_rescaling``.
    where: Optional mask, shape ``[B]``.
    axis_name: As for ``gradient_rescaling``.

  Returns:
    Values, shape ``[B]``, float32 at the least, non-negative.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: As for ``gradient_rescaling``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.improved_mean_absolute_error(
    ...   jnp.zeros((1, 2)), jnp.array([0])).round(4))
    [0.6931]

  References:
    Wang et al., `IMAE for Noise-Robust Learning
    <https://arxiv.org/abs/1903.12141>`_, 2019.
  """
  return gradient_rescaling(
    logits,
    labels,
    focus=1.0,
    spread=temperature,
    normalization=normalization,
    guard=guard,
    where=where,
    axis_name=axis_name,
  )


def derivative_manipulation(
  logits: ArrayLike,
  labels: ArrayLike,
  log_weight_fn: LogWeightFn,
  *,
  normalization: str = 'batch',
  guard: ArrayLike = 0.0,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Any emphasis on examples as a loss, per example.

  With :math:`w_i = w(p_i)` a weight that depends on the labelled class's
  probability alone, the gradient of the *mean* over the (unmasked) batch is

  .. math:: g_i = c_i \cdot \frac12 (q_i - e_{y_i}), \qquad
            c_i = \frac{w_i}{\sum_k w_k}, \quad
            \frac{w_i}{N \int_0^1 w\,dp} \quad\text{or}\quad \frac{w_i}{N}

  for ``normalization`` batch, integral and none, q as in
  ``gradient_rescaling``. A loss L(p) has :math:`w = 2p(1-p)|L'(p)|`; with
  that weight none gives the gradient of L itself, and batch the variant that
  the paper calls L with derivative normalisation. The value, the mean and
  ``axis_name`` are as for ``gradient_rescaling``: the value does not define
  the gradient.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``; outside ``[0, K)`` as for
      ``gradient_rescaling``.
    log_weight_fn: ``(log p [...], log(1 - p) [...]) -> log w [...]``,
      elementwise: ``emphasis_log_weight``, ``normal_log_weight``,
      ``exponential_log_weight`` or ``beta_log_weight`` with their parameters
      bound, or your own. Called under stop_gradient.
    normalization: One of batch, integral, none.
    guard: Constant added to 2(1-p) in the denominator of the direction.
    where: Optional mask, shape ``[B]``.
    axis_name: Name of a mapped axis over which the batch is spread.

  Returns:
    Values, shape ``[B]``, float32 at the least, non-negative.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, an unknown
      normalization or a negative static guard.

  Example:
    >>> import functools
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> weight = functools.partial(losses.beta_log_weight, alpha=1.7, eta=2.0)
    >>> print(losses.derivative_manipulation(
    ...   jnp.zeros((1, 2)), jnp.array([0]), weight).round(4))
    [0.6931]

  References:
    Wang et al., `Derivative Manipulation for General Example Weighting
    <https://arxiv.org/abs/1905.11233>`_, 2020.

  .. note::
    The paper's text normalises by the integral, all released code by the sum
    over the batch. The integral is a double exponential quadrature, exact to
    rounding for weights no narrower in p than about 0.02.
  """
  _checks.one_of('normalization', normalization, NORMALIZATIONS)
  _checks.in_range('guard', guard, 0.0)
  odds, rows, valid = _label_odds.label_odds(logits, labels, where)
  still = _label_odds.LabelOdds(jax.lax.stop_gradient(odds), rows, valid)
  log_w = log_weight_fn(still.log_p, still.log_rest)
  coefficients = _coefficients(
    log_w, log_weight_fn, normalization, rows, valid, axis_name
  )
  coefficients = jax.lax.stop_gradient(coefficients.astype(odds.dtype))
  pull = coefficients * _guarded(still.log_rest, guard)
  # What is logged has no gradient; what has the gradient is 0.
  logged = jnp.minimum(coefficients * -still.log_p, jnp.finfo(odds.dtype).max)
  out = logged + pull * (odds - still.odds) / 2
  return _rows.keep(valid, out)


def rescaling_weights(
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array],
  logits: ArrayLike,
  labels: ArrayLike,
  log_weight_fn: LogWeightFn | None = None,
  *,
  normalization: str = 'batch',
  guard: ArrayLike = 1e-6,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Weights that give a loss of your own another emphasis, one an example.

  With :math:`u_i = \|\partial\ell_i/\partial z_i\|_1` the weight that the
  loss itself gives to example i and :math:`w_i` the wanted one,

  .. math:: c_i = \frac{N}{\sum_k w_k} \cdot \frac{w_i}{u_i + \epsilon}

  so that ``mean(c * loss)`` over the (unmasked) batch has the gradient of
  ``derivative_manipulation``, for any loss that depends on the labelled
  class's probability alone. Of any other loss the direction is kept and the
  length set. Without ``log_weight_fn`` the emphasis stays the loss's own and
  only the scale is set, :math:`c_i = N / (\sum_k u_k + \epsilon)`:
  derivative normalisation. The weights are constants to the gradient.

  Args:
    loss_fn: ``(logits [B, K], labels [B]) -> [B]``, each value a function of
      its own row.
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``; outside ``[0, K)`` as for
      ``gradient_rescaling``.
    log_weight_fn: As for ``derivative_manipulation``, or None.
    normalization: One of batch, integral, none, as for
      ``derivative_manipulation``; without ``log_weight_fn`` only batch.
    guard: The constant epsilon, at least 0.
    where: Optional mask, shape ``[B]``.
    axis_name: Name of a mapped axis over which the batch is spread.

  Returns:
    Weights, shape ``[B]``, float32 at the least, finite, non-negative; 0 on
    masked rows.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, an unknown
      normalization or a negative static guard.

  Example:
    >>> import functools
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from rrl_jax import losses
    >>> emphasis = functools.partial(
    ...   losses.emphasis_log_weight, focus=0.5, spread=8.0)
    >>> weights = losses.rescaling_weights(
    ...   optax.softmax_cross_entropy_with_integer_labels,
    ...   jnp.zeros((3, 2)), jnp.array([0, 1, 1]), emphasis)
    >>> print(weights.round(4))
    [1. 1. 1.]

  References:
    Wang et al., `Derivative Manipulation for General Example Weighting
    <https://arxiv.org/abs/1905.11233>`_, 2020.

  .. note::
    Where the loss has no gradient left in the floating point format, no
    weight restores it; ``gradient_rescaling`` has no such limit. Of cross
    entropy and the default guard this is the released code's rule.
  """
  _checks.one_of('normalization', normalization, NORMALIZATIONS)
  _checks.in_range('guard', guard, 0.0)
  if log_weight_fn is None and normalization != 'batch':
    raise ValueError(
      f'normalization must be batch without log_weight_fn, '
      f'got {normalization!r}'
    )
  clean, member, rows, valid = _label_odds.inputs(logits, labels, where)
  clean = jax.lax.stop_gradient(clean)
  labels = jnp.where(valid, labels, 0)
  grads = jax.grad(lambda z: jnp.sum(loss_fn(z, labels)))(clean)
  own = _rows.keep(valid, jnp.sum(jnp.abs(grads), axis=-1))
  floor = jnp.finfo(own.dtype).eps ** 2  # Beyond it the inverse is no number.
  if log_weight_fn is None:
    total = _across(jnp.sum(own), axis_name) + guard
    scale = _rows.mean_scale(rows, axis_name).astype(own.dtype)
    out = jnp.broadcast_to(scale / jnp.maximum(total, floor), own.shape)
  else:
    odds = _label_odds.label_odds(clean, labels, where)
    log_w = log_weight_fn(odds.log_p, odds.log_rest)
    out = _coefficients(
      log_w, log_weight_fn, normalization, rows, valid, axis_name
    ) / jnp.maximum(own + guard, floor)
  return jax.lax.stop_gradient(_rows.keep(valid, out))


def log_integral(log_weight_fn: LogWeightFn, dtype: Any) -> jax.Array:
  """Logarithm of the integral of a weight over p in [0, 1].

  Double exponential quadrature: trapezoids in x with
  ``p = sigmoid(pi sinh x)``, which crowd towards both ends, where a weight
  may have an infinite slope or an integrable pole.
  """
  step = 0.015
  x = step * np.arange(-400, 401)
  log_p = -np.logaddexp(0, -np.pi * np.sinh(x))
  log_rest = -np.logaddexp(0, np.pi * np.sinh(x))
  log_dp = np.log(step * np.pi * np.cosh(x)) + log_p + log_rest
  log_p, log_rest, log_dp = (
    jnp.asarray(v, dtype) for v in (log_p, log_rest, log_dp)
  )
  return jax.nn.logsumexp(log_weight_fn(log_p, log_rest) + log_dp)


def _coefficients(log_w, log_weight_fn, normalization, rows, valid, axis_name):
  """What multiplies each row's unit direction so that the mean is as wanted."""
  dtype = log_w.dtype
  scale = _rows.mean_scale(rows, axis_name).astype(dtype)
  if normalization == 'batch':
    top = jnp.max(log_w, initial=-jnp.inf, where=valid)
    if axis_name is not None:
      top = jax.lax.pmax(top, axis_name)
    top = jnp.where(jnp.isfinite(top), top, 0)
    w = _rows.keep(valid, jnp.exp(jnp.where(valid, log_w - top, 0)))
    total = _across(jnp.sum(w), axis_name)
    return scale * w / jnp.where(total > 0, total, 1)
  if normalization == 'integral':
    log_w = log_w - log_integral(log_weight_fn, dtype)
  # The largest number to the power 0.68 leaves room for the value.
  w = jnp.exp(jnp.minimum(log_w, 0.68 * np.log(jnp.finfo(dtype).max)))
  if axis_name is not None:  # Devices may hold unequal numbers of rows.
    count = _across(jnp.sum(rows).astype(dtype), axis_name)
    w = w * scale / jnp.maximum(count, 1)
  return w


def _guarded(log_rest, guard):
  """``2 (1 - p) / (2 (1 - p) + guard)``, 1 for no guard."""
  half = jnp.asarray(guard, log_rest.dtype) / 2
  positive = half > 0
  shift = jnp.log(jnp.where(positive, half, 1))
  factor = jax.nn.sigmoid(log_rest - shift)
  return jax.lax.stop_gradient(jnp.where(positive, factor, 1))


def _across(x, axis_name):
  return x if axis_name is None else jax.lax.psum(x, axis_name)
