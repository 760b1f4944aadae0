"""Supervised losses of clean and attacked logits: TRADES, MART, ALP."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax import numerics
from rrl_jax.losses import _checks, _log_probs, _rows, _simplex

_SIDES = ('none', 'clean', 'adv')


def trades(
  logits: ArrayLike,
  adv_logits: ArrayLike,
  labels: ArrayLike,
  *,
  beta: ArrayLike = 6.0,
  stop: str = 'none',
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""TRADES: clean cross entropy plus a price on the attack's effect.

  With :math:`p` and :math:`p'` the softmax of the clean and of the attacked
  logits,

  .. math:: \ell_i = -\log p_{i y_i} + \beta \sum_k p_{ik}
            (\log p_{ik} - \log p'_{ik})

  Per example; the caller reduces. The attack is the caller's and maximises
  the second term; under stop_gradient it starts beside the clean input,
  where that term has no gradient. Gradients of the second term flow to both
  sides unless ``stop`` names one.

  Args:
    logits: Logits of clean inputs, shape ``[B, K]``, float.
    adv_logits: Logits of attacked inputs, same shape.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    beta: Weight of the divergence, non-negative.
    stop: Side of the divergence that is a constant: none, clean or adv. The
      cross entropy keeps its gradient in any case.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, non-negative up to rounding.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, an unknown side or a negative static beta.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> logits, labels = jnp.array([[0.0, 0.0]]), jnp.array([1])
    >>> print(losses.trades(logits, logits, labels).round(4))
    [0.6931]

  References:
    Zhang et al., `Theoretically Principled Trade-off between Robustness and
    Accuracy <https://arxiv.org/abs/1901.08573>`_, 2019, the objective for
    many classes, with the divergence of the authors' code.

  .. note::
    Equal to the authors' code where that averages both terms over the batch.
  """
  _checks.in_range('beta', beta, 0.0)
  log_p, log_q, member, rows = _inputs(logits, adv_logits, labels, where)
  clean, moved = _stop(stop, log_p, log_q)
  loss = -_log_probs.pick(log_p, member) + beta * _log_probs.kl(clean, moved)
  return _rows.keep(rows, loss)


def mart(
  logits: ArrayLike,
  adv_logits: ArrayLike,
  labels: ArrayLike,
  *,
  beta: ArrayLike = 6.0,
  stop: str = 'none',
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""MART: the attack's effect counts most where the model is wrong.

  With :math:`p` and :math:`p'` the softmax of the clean and of the attacked
  logits,

  .. math:: \ell_i = -\log p'_{i y_i} - \log(1 - \max_{k\ne y_i} p'_{ik})
            + \beta\, (1 - p_{i y_i}) \sum_k p_{ik}
            (\log p_{ik} - \log p'_{ik})

  Per example; the caller reduces. The attack is the caller's and maximises
  the cross entropy. Gradients of the third term flow to both sides, and
  through :math:`1 - p_{iy}`, unless ``stop`` names one.

  Args:
    logits: Logits of clean inputs, shape ``[B, K]``, float.
    adv_logits: Logits of attacked inputs, same shape.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    beta: Weight of the third term, non-negative.
    stop: Side of the third term that is a constant: none, clean (with the
      factor) or adv.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, non-negative up to rounding.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, an unknown side or a negative static beta.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> logits, labels = jnp.array([[0.0, 0.0]]), jnp.array([1])
    >>> print(losses.mart(logits, logits, labels).round(4))
    [1.3863]

  References:
    Wang et al., `Improving Adversarial Robustness Requires Revisiting
    Misclassified Examples <https://openreview.net/forum?id=rklOg6EFwS>`_,
    2020, the boosted cross entropy and the weighted divergence.

  .. note::
    Logarithms are taken of logits: the constants 1e-12 and 1e-4 that the
    authors' code adds inside its logarithms are not needed. A class of
    equal probability is the strongest rival by its lower index. With one
    class the second term is zero.
  """
  _checks.in_range('beta', beta, 0.0)
  log_p, log_q, member, rows = _inputs(logits, adv_logits, labels, where)
  num_classes = log_p.shape[-1]
  clean, moved = _stop(stop, log_p, log_q)
  loss = -_log_probs.pick(log_q, member)
  if num_classes > 1:
    rival = jnp.argmax(jnp.where(member, -jnp.inf, log_q), axis=-1)
    rival = _log_probs.is_label(rival, num_classes)
    # log(1 - p_rival), as the mass of all other classes.
    others = jax.scipy.special.logsumexp(log_q, axis=-1, where=~rival)
    loss = loss - others
  rest = jnp.sum(jnp.where(member, 0, jnp.exp(clean)), axis=-1)
  loss = loss + beta * rest * _log_probs.kl(clean, moved)
  return _rows.keep(rows, loss)


def alp(
  logits: ArrayLike,
  adv_logits: ArrayLike,
  labels: ArrayLike,
  *,
  beta: ArrayLike = 0.5,
  adv_weight: ArrayLike = 0.5,
  stop: str = 'none',
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""ALP: both cross entropies, and the logits of a pair drawn together.

  With clean logits :math:`f`, attacked ones :math:`f'` over K classes and
  their softmax :math:`p, p'`,

  .. math:: \ell_i = -(1-a) \log p_{i y_i} - a \log p'_{i y_i}
            + \frac{\beta}{K} \|f_i - f'_i\|^2

  Per example; the caller reduces. The attack is the caller's and maximises
  the cross entropy. Gradients of the pairing flow to both sides unless
  ``stop`` names one.

  Args:
    logits: Logits f of clean inputs, shape ``[B, K]``, float.
    adv_logits: Logits f' of attacked inputs, same shape.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    beta: Weight of the pairing, non-negative.
    adv_weight: Weight a of the attacked inputs' cross entropy, in [0, 1].
    stop: Side of the pairing that is a constant: none, clean or adv.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, non-negative.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, an unknown side or static weights out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> logits, labels = jnp.array([[0.0, 0.0]]), jnp.array([1])
    >>> print(losses.alp(
    ...   logits, logits + 2.0, labels).round(4))
    [2.6931]

  References:
    Kannan, Kurakin, Goodfellow, `Adversarial Logit Pairing
    <https://arxiv.org/abs/1803.06373>`_, 2018, mixed-minibatch
    training with pairing.

  .. note::
    The paper writes an L2 loss without saying whether it is summed or
    averaged over classes; averaging makes ``beta`` independent of K.
    Logits are compared as they are, so that a common offset counts; the
    square saturates at the largest finite number.
  """
  _checks.in_range('beta', beta, 0.0)
  _checks.in_range('adv_weight', adv_weight, 0.0, 1.0)
  log_p, log_q, member, rows = _inputs(logits, adv_logits, labels, where)
  clean, moved = (
    _rows.keep(rows, jnp.asarray(x).astype(log_p.dtype))
    for x in (logits, adv_logits)
  )
  clean, moved = _stop(stop, clean, moved)
  pairing = numerics.sum_of_squares(clean, moved) / clean.shape[-1]
  clean_ce = -_log_probs.pick(log_p, member)
  adv_ce = -_log_probs.pick(log_q, member)
  loss = (1 - adv_weight) * clean_ce + adv_weight * adv_ce + beta * pairing
  return _rows.keep(rows, jnp.minimum(loss, jnp.finfo(loss.dtype).max))


def _inputs(logits, adv_logits, labels, where):
  """Checked log-probabilities, label rows and the mask of counting rows."""
  logits = _checks.floating('logits', logits, rank=2)
  adv_logits = _checks.floating('adv_logits', adv_logits, rank=2)
  labels = _checks.integer('labels', labels, rank=1)
  _checks.same_shape(logits=logits, adv_logits=adv_logits)
  if labels.shape != logits.shape[:1]:
    raise ValueError(
      f'labels must have shape {logits.shape[:1]}, got {labels.shape}'
    )
  if logits.shape[1] == 0:
    raise ValueError('logits must hold at least one class')
  member = _log_probs.is_label(labels, logits.shape[1])
  rows = _rows.mask(where, logits) & jnp.any(member, axis=-1)
  dtype = jnp.promote_types(logits.dtype, adv_logits.dtype)
  dtype = jnp.promote_types(dtype, _simplex.compute_dtype(logits))
  log_p, log_q = (
    _log_probs.log_probs(_rows.keep(rows, x.astype(dtype)))
    for x in (logits, adv_logits)
  )
  return log_p, log_q, member, rows


def _stop(side, clean, moved):
  _checks.one_of('stop', side, _SIDES)
  if side == 'clean':
    clean = jax.lax.stop_gradient(clean)
  elif side == 'adv':
    moved = jax.lax.stop_gradient(moved)
  return clean, moved
