"""Adversarial training: cross entropy of images that PGD has moved.

References:
  Madry et al., `Towards Deep Learning Models Resistant to Adversarial Attacks
  <https://arxiv.org/abs/1706.06083>`_, 2018; with one step from a random
  start, Wong, Rice, Kolter, `Fast is better than free
  <https://arxiv.org/abs/2001.03994>`_, 2020.
"""

import jax
import jax.numpy as jnp

from rrl_jax import typing
from rrl_jax.objectives import _classification, _inner_attack


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  clean_weight: float = 0.0,
  epsilon: float = 8 / 255,
  norm: str = 'linf',
  inner_steps: int = 7,
  inner_step_size: float | None = None,
  attack_train_mode: bool = False,
  eval_norm: str = 'adversarial',
) -> typing.Objective:
  """Returns the objective of adversarial training, with labels.

  Args:
    apply_fn: The network.
    data: Not used; every objective takes it.
    clean_weight: Share of the clean images' cross entropy, in [0, 1]; 0 does
      without their pass.
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
  """
  del data
  if not 0 <= clean_weight <= 1:
    raise ValueError(f'clean_weight={clean_weight} is not in [0, 1]')
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

    def attack_fn(points):
      (logits, _), _ = apply_fn(
        *frozen, points, train=attack_train_mode, adversarial=True
      )
      return _classification.cross_entropy(logits, labels)

    moved = ascend(attack_fn, key, images)
    (logits, _), model_state = apply_fn(
      params, model_state, moved, train=True, adversarial=True
    )
    loss = jnp.mean(_classification.cross_entropy(logits, labels))
    metrics = {
      'adversarial_loss': loss,
      'adversarial_accuracy': _classification.metrics(logits, labels)[
        'accuracy'
      ],
      'pixel_shift': jnp.mean(jnp.abs(moved - images)),
    }
    if clean_weight:
      (logits, _), model_state = apply_fn(
        params, model_state, images, train=True
      )
      clean_loss = jnp.mean(_classification.cross_entropy(logits, labels))
      loss = (1 - clean_weight) * loss + clean_weight * clean_loss
      metrics |= {'clean_loss': clean_loss}
      metrics |= _classification.metrics(logits, labels)
    return loss, (model_state, aux_state, metrics)

  return typing.Objective(loss_fn, eval_adversarial=eval_norm == 'adversarial')
