"""A pull towards what the model predicted before it memorised labels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _label_odds, _log_probs, _rows, _simplex


class EarlyLearningState(NamedTuple):
  """What the regulariser remembers of every training example.

  Attributes:
    targets: Running mean of its predicted probabilities, shape ``[N, K]``;
      zeros before its first visit.
  """

  targets: jax.Array


def early_learning_init(
  num_examples: int, num_classes: int, dtype: Any = jnp.float32
) -> EarlyLearningState:
  """The memory before any batch.

  Args:
    num_examples: Size N of the training set, at least 1.
    num_classes: Number of classes K, at least 1.
    dtype: Floating dtype of the memory, which takes N * K numbers.

  Returns:
    The state, all zeros.

  Raises:
    ValueError: A size is not positive.

  Example:
    >>> from rrl_jax import losses
    >>> print(losses.early_learning_init(1, 3).targets)
    [[0. 0. 0.]]
  """
  _checks.in_range('num_examples', num_examples, 1)
  _checks.in_range('num_classes', num_classes, 1)
  return EarlyLearningState(jnp.zeros((num_examples, num_classes), dtype))


def early_learning_update(
  state: EarlyLearningState,
  logits: ArrayLike,
  example_ids: ArrayLike,
  *,
  momentum: ArrayLike = 0.7,
  eps: float = 1e-4,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> tuple[EarlyLearningState, jax.Array]:
  r"""Moves the memory of the batch's examples towards their predictions.

  With :math:`p_i` the softmax, clipped to ``[eps, 1 - eps]`` and scaled back
  to sum 1, :math:`t_i \leftarrow \beta t_i + (1-\beta) p_i`. No gradient
  flows. The updated rows are what ``early_learning_regularization`` takes in
  the same step.

  Args:
    state: The memory so far.
    logits: Predictions, shape ``[B, K]``, float.
    example_ids: Position of each row in the training set, integers in
      ``[0, N)``, shape ``[B]``; a row with an id outside is not remembered.
      Of two rows with one id, either may be.
    momentum: Scalar beta in [0, 1].
    eps: Least probability, in [0, 0.5).
    where: Optional mask, shape ``[B]``; masked rows are not remembered and
      may hold inf or NaN.
    axis_name: Name of a mapped axis over which the batch is spread; the
      memory is the same, and whole, on each device, before and after.
      ``shard_map`` cannot see that of a gather: give it
      ``check_vma=False`` to return the state unmapped.

  Returns:
    ``(state, targets)``: the new memory and its rows of this batch,
    ``[B, K]``, zeros for a row that is not remembered.

  Raises:
    TypeError: Logits are not floating or ids not integer.
    ValueError: Wrong shapes or static scalars out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> state = losses.early_learning_init(5, 2)
    >>> state, targets = losses.early_learning_update(
    ...   state, jnp.zeros((1, 2)), jnp.array([3]), momentum=0.5)
    >>> print(targets)
    [[0.25 0.25]]

  References:
    Liu et al., `Early-Learning Regularization Prevents Memorization of Noisy
    Labels <https://arxiv.org/abs/2007.00151>`_, 2020; clipping as in the
    authors' code.
  """
  _checks.in_range('momentum', momentum, 0.0, 1.0)
  _checks.in_range('eps', eps, 0.0, 0.5)
  logits = _checks.floating('logits', logits, rank=2)
  example_ids = _checks.integer('example_ids', example_ids, rank=1)
  rows = _rows.mask(where, logits)
  if example_ids.shape != rows.shape or (
    logits.shape[1] != state.targets.shape[1]
  ):
    raise ValueError(
      f'example_ids {example_ids.shape} and targets {state.targets.shape} '
      f'do not fit logits of shape {logits.shape}'
    )
  size = state.targets.shape[0]
  rows = rows & (example_ids >= 0) & (example_ids < size)
  dtype = _simplex.compute_dtype(logits)
  logits = _rows.keep(rows, jax.lax.stop_gradient(logits).astype(dtype))
  probs = jnp.clip(jnp.exp(_log_probs.log_probs(logits)), eps, 1 - eps)
  probs = probs / jnp.sum(probs, axis=-1, keepdims=True)
  # Every device has the whole memory, so it sees the rows of all.
  ids = _rows.whole(jnp.where(rows, example_ids, size), axis_name)
  probs = _rows.whole(probs, axis_name)
  old = state.targets.at[ids].get(mode='fill', fill_value=0).astype(dtype)
  momentum = jnp.asarray(momentum, dtype)
  new = momentum * old + (1 - momentum) * probs
  targets = state.targets.at[ids].set(
    new.astype(state.targets.dtype), mode='drop'
  )
  return EarlyLearningState(targets), _rows.keep(
    rows, _rows.own(new, rows, axis_name)
  )


def early_learning_regularization(
  logits: ArrayLike,
  labels: ArrayLike,
  targets: ArrayLike,
  *,
  strength: ArrayLike = 3.0,
  eps: float = 1e-4,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross entropy that is held to early predictions (ELR), per example.

  With p the softmax, clipped to ``[eps, 1 - eps]`` in the second term, and
  :math:`t_i` the remembered prediction of example i,

  .. math:: \ell_i = -\log p_{i y_i} + \lambda \log(1 - \langle t_i, p_i
            \rangle)

  The caller reduces. Gradients flow to the logits; targets are constants.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    targets: Remembered predictions, shape ``[B, K]``, non-negative, of sum
      at most 1, from ``early_learning_update``.
    strength: Scalar lambda, non-negative. The authors have 3 on CIFAR-10
      (momentum 0.7) and 7 on CIFAR-100 (momentum 0.9).
    eps: Least probability in the second term, in (0, 0.5).
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least; may be negative.

  Raises:
    TypeError: Logits or targets are not floating, or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, or static scalars out of
      range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.early_learning_regularization(
    ...   jnp.zeros((1, 2)), jnp.array([0]), jnp.array([[0.5, 0.5]]),
    ...   strength=1.0).round(4))
    [0.]

  References:
    Liu et al., `Early-Learning Regularization Prevents Memorization of Noisy
    Labels <https://arxiv.org/abs/2007.00151>`_, 2020; clipping as in the
    authors' code.

  .. note::
    As in the authors' code, a class clipped in the second term has no
    gradient from it. The inner product counts as at most 1 - eps, also for
    targets that sum to more than 1.
  """
  _checks.in_range('strength', strength, 0.0)
  _checks.in_range('eps', eps, 0.0, 0.5, open_low=True)
  logits, member, _, valid = _label_odds.inputs(logits, labels, where)
  targets = _checks.floating('targets', targets, rank=2)
  _checks.same_shape(logits=logits, targets=targets)
  targets = jax.lax.stop_gradient(targets).astype(logits.dtype)
  targets = _rows.keep(valid, targets)
  log_p = _log_probs.log_probs(logits)
  probs = jnp.clip(jnp.exp(log_p), eps, 1 - eps)
  agreement = jnp.minimum(jnp.sum(targets * probs, axis=-1), 1 - eps)
  loss = -_log_probs.pick(log_p, member) + strength * jnp.log1p(-agreement)
  return _rows.keep(valid, loss)
