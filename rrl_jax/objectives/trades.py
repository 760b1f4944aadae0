"""TRADES: clean cross entropy and the largest change of the prediction.

References:
  Zhang et al., `Theoretically Principled Trade-off between Robustness and
  Accuracy <https://arxiv.org/abs/1901.08573>`_, 2019.
"""

import jax
import jax.numpy as jnp

from rrl_jax import attacks, losses, typing
from rrl_jax.objectives import _classification, _inner_attack


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  beta: float = 6.0,
  epsilon: float = 8 / 255,
  norm: str = 'linf',
  inner_steps: int = 10,
  inner_step_size: float | None = None,
  attack_train_mode: bool = False,
  eval_norm: str = 'clean',
) -> typing.Objective:
  """Returns the TRADES objective, with labels.

  Args:
    apply_fn: The network.
    data: Not used; every objective takes it.
    beta: Price of the divergence, at least 0.
    epsilon: Radius of the ball in units of images in [0, 1], at most 1 for
      'linf'.
    norm: 'linf', 'l2' or 'l1'.
    inner_steps: Gradient steps of the attack.
    inner_step_size: Of each; None takes 2.5 epsilon / inner_steps, and epsilon
      for one step.
    attack_train_mode: Whether BatchNorm normalises by the batch while
      attacking, or by its averages.
    eval_norm: 'clean' or 'adversarial', the BatchNorms that evaluations take
      where there are two sets (``model.kw.dual_norm``).

  Raises:
    ValueError: A value does not exist or is out of range.

  .. note::
    The attack starts at a uniform draw from the ball, as those of the other
    objectives do; the authors' starts 0.001 times a Gaussian away.
  """
  del data
  if not 0 <= beta < float('inf'):
    raise ValueError(f'beta={beta} is not in [0, inf)')
  if eval_norm not in ('clean', 'adversarial'):
    raise ValueError(f'eval_norm={eval_norm!r}; known: clean, adversarial')
  ascend = _inner_attack.make(
    epsilon=epsilon,
    norm=norm,
    inner_steps=inner_steps,
    inner_step_size=inner_step_size,
  )

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del step
    images, labels = batch['image'], batch['label']
    frozen = jax.lax.stop_gradient((params, model_state))

    def logits_fn(points, adversarial=True):
      (logits, _), _ = apply_fn(
        *frozen, points, train=attack_train_mode, adversarial=adversarial
      )
      return logits

    moved = ascend(
      attacks.kl_objective(logits_fn, logits_fn(images, adversarial=False)),
      key,
      images,
    )
    (logits, _), model_state = apply_fn(params, model_state, images, train=True)
    (adv_logits, _), model_state = apply_fn(
      params, model_state, moved, train=True, adversarial=True
    )
    loss = jnp.mean(losses.trades(logits, adv_logits, labels, beta=beta))
    metrics = _classification.metrics(logits, labels) | {
      'clean_loss': jnp.mean(_classification.cross_entropy(logits, labels)),
      'adversarial_accuracy': _classification.metrics(adv_logits, labels)[
        'accuracy'
      ],
      'pixel_shift': jnp.mean(jnp.abs(moved - images)),
    }
    return loss, (model_state, aux_state, metrics)

  return typing.Objective(loss_fn, eval_adversarial=eval_norm == 'adversarial')
