"""Losses of the labelled class's probability alone, made for noisy labels.

All push the logits in the direction of cross entropy, ``softmax - one-hot``;
each formula below is followed by how hard, the L1 norm of its logit gradient.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.losses import _checks, _label_odds, _rows

LOG_ZERO = float(np.log(1e-4))  # What the released code has for log 0.


def generalized_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  q: ArrayLike = 0.7,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Generalized cross entropy, between cross entropy and absolute error.

  With p the probability of the labelled class,

  .. math:: \ell_i = (1 - p_i^q) / q, \qquad
            \|\partial\ell_i/\partial z_i\|_1 = 2 p_i^q (1-p_i)

  q = 0 is cross entropy and q = 1 the mean absolute error. The caller
  reduces; gradients flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    q: Scalar in [0, 1]; larger ignores doubtful labels more.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, in [0, 1/q].

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, or a static q outside [0,
      1].

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.generalized_cross_entropy(
    ...   jnp.zeros((1, 2)), jnp.array([0]), q=1.0))
    [0.5]

  References:
    Zhang, Sabuncu, `Generalized Cross Entropy Loss for Training Deep Neural
    Networks with Noisy Labels <https://arxiv.org/abs/1805.07836>`_, 2018, the
    loss L_q.

  .. note::
    Released code clamps p at 1e-7, which cuts the gradient below it; here
    nothing is clamped.
  """
  _checks.in_range('q', q, 0.0, 1.0)
  odds = _label_odds.label_odds(logits, labels, where)
  return _rows.keep(odds.valid, power_loss(odds.log_p, q))


def truncated_generalized_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  q: ArrayLike = 0.7,
  threshold: ArrayLike = 0.5,
  keep: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Generalized cross entropy of the examples that are kept.

  With p the probability of the labelled class, q and k scalars and v saying
  which examples are kept,

  .. math:: \ell_i = v_i \left(\frac{1-p_i^q}{q} - \frac{1-k^q}{q}\right)

  The published procedure takes :math:`v_i = [p_i > k]` from the best
  checkpoint so far, every few epochs, after some epochs without: give it as
  ``keep`` (``label_probability(...) > k``). Without, it is that of the given
  logits. The caller reduces; gradients flow to the logits of kept examples.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    q: Scalar in [0, 1].
    threshold: Scalar k in (0, 1].
    keep: Optional booleans v, shape ``[B]``.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least; negative for a kept example
    with p > k, 0 for one that is not kept.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, or static scalars out of
      range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.truncated_generalized_cross_entropy(
    ...   jnp.zeros((2, 2)), jnp.array([0, 1]), q=1.0, threshold=1.0,
    ...   keep=jnp.array([True, False])))
    [0.5 0. ]

  References:
    Zhang, Sabuncu, `Generalized Cross Entropy Loss for Training Deep Neural
    Networks with Noisy Labels <https://arxiv.org/abs/1805.07836>`_, 2018, the
    truncated L_q.

  .. note::
    The paper's truncated loss is this plus the constant of the threshold on
    every example: the same gradient.
  """
  _checks.in_range('q', q, 0.0, 1.0)
  _checks.in_range('threshold', threshold, 0.0, 1.0, open_low=True)
  odds = _label_odds.label_odds(logits, labels, where)
  log_p = odds.log_p
  edge = jnp.log(jnp.asarray(threshold, log_p.dtype))
  kept = log_p > edge if keep is None else _rows.mask(keep, log_p)
  loss = power_loss(log_p, q) - power_loss(edge, q)
  return _rows.keep(odds.valid & kept, loss)


def mean_absolute_error(
  logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
  r"""One minus the labelled class's probability, per example.

  .. math:: \ell_i = 1 - p_i = \frac12 \|\mathrm{softmax}(z_i)-e_{y_i}\|_1,
            \qquad \|\partial\ell_i/\partial z_i\|_1 = 2 p_i (1-p_i)

  The caller reduces; gradients flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, in [0, 1].

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.mean_absolute_error(jnp.zeros((1, 2)), jnp.array([0])))
    [0.5]

  References:
    Ghosh, Kumar, Sastry, `Robust Loss Functions under Label Noise for Deep
    Neural Networks <https://arxiv.org/abs/1712.09482>`_, 2017.

  .. note::
    Half of that paper's sum of absolute errors, as in most released code.
  """
  odds = _label_odds.label_odds(logits, labels, where)
  return _rows.keep(odds.valid, jax.nn.sigmoid(odds.odds))


def reverse_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  log_zero: ArrayLike = LOG_ZERO,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross entropy with label and prediction exchanged, per example.

  With the logarithm of the label's zeros set to a finite A,

  .. math:: \ell_i = -\sum_k p_{ik} \log e_{y_i k} = -A (1-p_i)

  The caller reduces; gradients flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    log_zero: Scalar A, at most 0; log(1e-4) as in the released code.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, in [0, -A].

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, or a positive static
      log_zero.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.reverse_cross_entropy(
    ...   jnp.zeros((1, 2)), jnp.array([0]), log_zero=-4.0))
    [2.]

  References:
    Wang et al., `Symmetric Cross Entropy for Robust Learning with Noisy
    Labels <https://arxiv.org/abs/1908.06112>`_, 2019, the reverse
    cross entropy.

  .. note::
    The paper's text has A = -4, its released code log(1e-4) = -9.21.
  """
  _checks.in_range('log_zero', log_zero, high=0.0)
  odds = _label_odds.label_odds(logits, labels, where)
  return _rows.keep(odds.valid, -log_zero * jax.nn.sigmoid(odds.odds))


def symmetric_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  alpha: ArrayLike = 0.1,
  beta: ArrayLike = 1.0,
  log_zero: ArrayLike = LOG_ZERO,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Symmetric cross entropy: the forward and the reverse one, per example.

  .. math:: \ell_i = -\alpha \log p_i - \beta A (1-p_i), \qquad
            \|\partial\ell_i/\partial z_i\|_1 =
            2 (1-p_i) (\alpha - \beta A p_i)

  The caller reduces; gradients flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    alpha: Weight of the cross entropy, non-negative. The authors have 0.1 on
      CIFAR-10 and 6 on CIFAR-100.
    beta: Weight of the reverse one, non-negative; 1 and 0.1 there.
    log_zero: Scalar A, as for ``reverse_cross_entropy``.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, non-negative.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, or static scalars out of
      range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.symmetric_cross_entropy(
    ...   jnp.zeros((1, 2)), jnp.array([0]), alpha=1.0, beta=1.0,
    ...   log_zero=-4.0).round(4))
    [2.6931]

  References:
    Wang et al., `Symmetric Cross Entropy for Robust Learning with Noisy
    Labels <https://arxiv.org/abs/1908.06112>`_, 2019.

  .. note::
    Equal to alpha times ``optax.losses.poly_loss_cross_entropy`` with
    epsilon -beta A / alpha. For A see ``reverse_cross_entropy``.
  """
  _checks.in_range('alpha', alpha, 0.0)
  _checks.in_range('beta', beta, 0.0)
  _checks.in_range('log_zero', log_zero, high=0.0)
  odds = _label_odds.label_odds(logits, labels, where)
  reverse = -log_zero * jax.nn.sigmoid(odds.odds)
  return _rows.keep(odds.valid, -alpha * odds.log_p + beta * reverse)


def focal(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  gamma: ArrayLike = 2.0,
  stop_modulator: bool = False,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Softmax focal loss: hard examples count more, per example.

  .. math:: \ell_i = -(1-p_i)^\gamma \log p_i, \qquad
            \|\partial\ell_i/\partial z_i\|_1 =
            2 (1-p_i)^\gamma (1 - p_i - \gamma p_i \log p_i)

  The caller reduces; gradients flow to the logits, through both factors
  unless ``stop_modulator``. ``optax.sigmoid_focal_loss`` is the binary form.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    gamma: Scalar, at least 0; 0 is cross entropy.
    stop_modulator: Whether the factor :math:`(1-p)^\gamma` is a constant to
      the gradient, whose norm is then :math:`2 (1-p)^{\gamma+1}`.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, non-negative.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, or a negative static
      gamma.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.focal(jnp.zeros((1, 2)), jnp.array([0])).round(4))
    [0.1733]

  References:
    Lin et al., `Focal Loss for Dense Object Detection
    <https://arxiv.org/abs/1708.02002>`_, 2017, Eq. (4).
  """
  _checks.in_range('gamma', gamma, 0.0)
  odds = _label_odds.label_odds(logits, labels, where)
  modulator = jnp.exp(gamma * odds.log_rest)
  if stop_modulator:
    modulator = jax.lax.stop_gradient(modulator)
  return _rows.keep(odds.valid, -modulator * odds.log_p)


def power_loss(log_p: jax.Array, q: ArrayLike) -> jax.Array:
  """``(1 - p ** q) / q``, its limit ``-log p`` at q = 0; elementwise."""
  q = jnp.asarray(q, log_p.dtype)
  positive = q > 0
  divisor = jnp.where(positive, q, 1)
  return jnp.where(positive, -jnp.expm1(divisor * log_p) / divisor, -log_p)
