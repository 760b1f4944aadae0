"""Labels mixed with what the model believes."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _label_odds, _log_probs, _rows

KINDS = ('soft', 'hard')


def bootstrapping(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  kind: str = 'soft',
  beta: ArrayLike | None = None,
  stop_target: bool = False,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Cross entropy with a target between label and prediction, per example.

  With :math:`p_i` the softmax and :math:`t_i` either :math:`p_i` (soft) or
  the one-hot vector of its largest entry (hard),

  .. math:: \ell_i = -\sum_k
            \bigl(\beta e_{y_i k} + (1-\beta) t_{ik}\bigr) \log p_{ik}

  The caller reduces. Gradients flow to the logits; through the soft target
  too, unless ``stop_target``.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    kind: soft or hard.
    beta: Weight of the label, in [0, 1]; None for the paper's 0.95 (soft) and
      0.8 (hard). 1 is cross entropy.
    stop_target: Whether the soft target is a constant to the gradient.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, non-negative.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes, fewer than two classes, an unknown kind, or a
      static beta outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.bootstrapping(
    ...   jnp.array([[0.0, 2.0]]), jnp.array([0]), kind='hard', beta=0.5
    ... ).round(4))
    [1.1269]

  References:
    Reed et al., `Training Deep Neural Networks on Noisy Labels with
    Bootstrapping <https://arxiv.org/abs/1412.6596>`_, 2014.

  .. note::
    The paper's soft form has the gradient of the entropy, as here; much
    released code detaches the target, ``stop_target=True``. Of equally
    probable classes the hard target is the one of lowest index.
  """
  _checks.one_of('kind', kind, KINDS)
  if beta is None:
    beta = 0.95 if kind == 'soft' else 0.8
  _checks.in_range('beta', beta, 0.0, 1.0)
  logits, member, _, valid = _label_odds.inputs(logits, labels, where)
  log_p = _log_probs.log_probs(logits)
  if kind == 'hard':
    best = jnp.argmax(log_p, axis=-1)
    target = _log_probs.is_label(best, log_p.shape[-1]).astype(log_p.dtype)
  else:
    target = jnp.exp(log_p)
    if stop_target:
      target = jax.lax.stop_gradient(target)
  believed = -jnp.sum(target * log_p, axis=-1)
  labelled = -_log_probs.pick(log_p, member)
  return _rows.keep(valid, beta * labelled + (1 - beta) * believed)
