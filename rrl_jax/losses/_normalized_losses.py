"""Losses divided by their sum over all labels, and pairs of such."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import (
  _checks,
  _label_losses,
  _label_odds,
  _log_probs,
  _rows,
)

ACTIVE = ('nce', 'nfl', 'ngce')
PASSIVE = ('mae', 'rce')


def normalized_cross_entropy(
  logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
  r"""Cross entropy over its sum for all labels (NCE), per example.

  .. math:: \ell_i = \frac{\log p_{i y_i}}{\sum_k \log p_{ik}}

  Robust to symmetric noise, but slow to fit: its authors combine it, see
  ``active_passive``. The caller reduces; gradients flow to the logits.

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
    >>> print(losses.normalized_cross_entropy(
    ...   jnp.zeros((1, 4)), jnp.array([0])))
    [0.25]

  References:
    Ma et al., `Normalized Loss Functions for Deep Learning with Noisy Labels
    <https://arxiv.org/abs/2006.13554>`_, 2020.
  """
  log_p, member, valid = _inputs(logits, labels, where)
  return _rows.keep(valid, _share(-log_p, member))


def normalized_focal(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  gamma: ArrayLike = 0.5,
  stop_modulator: bool = False,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Focal loss over its sum for all labels (NFL), per example.

  .. math:: \ell_i = \frac{(1-p_{i y_i})^\gamma \log p_{i y_i}}
            {\sum_k (1-p_{ik})^\gamma \log p_{ik}}

  The caller reduces; gradients flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    gamma: Scalar, at least 0; 0 is ``normalized_cross_entropy``.
    stop_modulator: Whether the factors :math:`(1-p)^\gamma` are constants to
      the gradient.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, in [0, 1].

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, or a negative static
      gamma.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.normalized_focal(jnp.zeros((1, 4)), jnp.array([0])))
    [0.25]

  References:
    Ma et al., `Normalized Loss Functions for Deep Learning with Noisy Labels
    <https://arxiv.org/abs/2006.13554>`_, 2020.

  .. note::
    The released code detaches the factors in numerator and denominator:
    ``stop_modulator=True``. Its gamma is 0.5, the default here.
  """
  _checks.in_range('gamma', gamma, 0.0)
  log_p, member, valid = _inputs(logits, labels, where)
  modulator = jnp.exp(gamma * _log_rest(log_p))
  if stop_modulator:
    modulator = jax.lax.stop_gradient(modulator)
  return _rows.keep(valid, _share(-modulator * log_p, member))


def normalized_generalized_cross_entropy(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  q: ArrayLike = 0.7,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Generalized cross entropy over its sum for all labels (NGCE).

  .. math:: \ell_i = \frac{1-p_{i y_i}^q}{K - \sum_k p_{ik}^q}

  per example. q = 0 is ``normalized_cross_entropy``; q = 1 is the mean
  absolute error, and the reverse cross entropy, normalised: (1-p) / (K-1).
  The caller reduces; gradients flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    q: Scalar in [0, 1].
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, in [0, 1].

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, or a static q outside [0,
      1].

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.normalized_generalized_cross_entropy(
    ...   jnp.zeros((1, 4)), jnp.array([0])))
    [0.25]

  References:
    Ma et al., `Normalized Loss Functions for Deep Learning with Noisy Labels
    <https://arxiv.org/abs/2006.13554>`_, 2020.
  """
  _checks.in_range('q', q, 0.0, 1.0)
  log_p, member, valid = _inputs(logits, labels, where)
  loss = _label_losses.power_loss(log_p, q)
  return _rows.keep(valid, _share(loss, member))


def active_passive(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  active: str = 'nce',
  passive: str = 'rce',
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
  gamma: ArrayLike = 0.5,
  q: ArrayLike = 0.7,
  stop_modulator: bool = False,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""A normalised active loss and a passive one (APL), per example.

  .. math:: \ell_i = \alpha\, \ell^{\mathrm{active}}_i
            + \beta\, \ell^{\mathrm{passive}}_i

  An active loss only raises the label's probability, a passive one also
  lowers some other's; both are robust, together they fit as well. The caller
  reduces; gradients flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    active: One of nce (``normalized_cross_entropy``), nfl
      (``normalized_focal``), ngce (``normalized_generalized_cross_entropy``).
    passive: One of mae (``mean_absolute_error``), rce
      (``reverse_cross_entropy``).
    alpha: Weight of the active loss, non-negative. The authors have 1 on
      CIFAR-10, 10 on CIFAR-100, 50 on WebVision.
    beta: Weight of the passive loss, non-negative. The authors have 10 on MNIST
      and 1 on CIFAR-10, and elsewhere 1 with mae and 0.1 with rce.
    gamma: For nfl, as in ``normalized_focal``.
    q: For ngce, in [0, 1].
    stop_modulator: For nfl, as in ``normalized_focal``.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, non-negative.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, unknown words, or static
      scalars out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.active_passive(
    ...   jnp.zeros((1, 4)), jnp.array([0]), passive='mae'))
    [1.]

  References:
    Ma et al., `Normalized Loss Functions for Deep Learning with Noisy Labels
    <https://arxiv.org/abs/2006.13554>`_, 2020.
  """
  _checks.one_of('active', active, ACTIVE)
  _checks.one_of('passive', passive, PASSIVE)
  _checks.in_range('alpha', alpha, 0.0)
  _checks.in_range('beta', beta, 0.0)
  if active == 'nce':
    first = normalized_cross_entropy(logits, labels, where=where)
  elif active == 'nfl':
    first = normalized_focal(
      logits, labels, gamma=gamma, stop_modulator=stop_modulator, where=where
    )
  else:
    first = normalized_generalized_cross_entropy(
      logits, labels, q=q, where=where
    )
  if passive == 'mae':
    second = _label_losses.mean_absolute_error(logits, labels, where=where)
  else:
    second = _label_losses.reverse_cross_entropy(logits, labels, where=where)
  return alpha * first + beta * second


def _inputs(logits, labels, where):
  logits, member, _, valid = _label_odds.inputs(logits, labels, where)
  return _log_probs.log_probs(logits), member, valid


def _share(values, member):
  """The labelled entry's share in its row; the sum is never 0 for K >= 2."""
  return _log_probs.pick(values, member) / jnp.sum(values, axis=-1)


def _log_rest(log_p):
  """``log(1 - p_k)`` of every class, ``[B, K] -> [B, K]``, finite.

  Only the most probable class can come near 1; its rest is summed up.
  """
  num_classes = log_p.shape[-1]
  top = _log_probs.is_label(jnp.argmax(log_p, axis=-1), num_classes)
  others = jnp.where(top, -jnp.inf, log_p)
  highest = jax.lax.stop_gradient(jnp.max(others, axis=-1, keepdims=True))
  gap = jnp.where(top, 0, log_p - highest)
  rest = jnp.sum(jnp.where(top, 0, jnp.exp(gap)), axis=-1, keepdims=True)
  rest = highest + jnp.log(rest)
  own = jnp.log1p(-jnp.where(top, 0, jnp.exp(log_p)))
  return jnp.where(top, rest, own)
