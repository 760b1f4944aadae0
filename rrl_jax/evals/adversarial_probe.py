"""A linear probe trained on attacked images, the encoder frozen."""

import collections
from collections.abc import Iterator, Sequence
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.data import augment
from rrl_jax.evals import (
  attacked,
  linear_head,
  measurement,
  rules,
  sgd,
  transfer,
)
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData

RULES = {
  **attacked.RULES,
  **sgd.RULES,
  **{name: transfer.RULES[name] for name in ('l2', 'tol', 'num_train')},
}
FITS_HEADS = lambda kw: True  # On each target task.


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  epsilon: float = 8 / 255,
  norm: str = 'linf',
  step_size: float | None = None,
  num_steps: int = 20,
  num_examples: int = 1000,
  auto_attack_examples: int = 0,
  train_steps: int = 10,
  train_step_size: float | None = None,
  epochs: int = 25,
  batch_size: int = 512,
  lr: float = 0.01,
  momentum: float = 0.9,
  weight_decay: float = 2e-4,
  decays: Sequence[float] = (0.4, 0.8),
  l2: float = 1e-4,
  tol: float = 1e-5,
  num_train: int = 10_000,
) -> Iterator[tuple[str, Measurement]]:
  r"""Trains a linear head against attacks, and attacks it.

  Adversarial linear evaluation ("ALF"): with f the frozen encoder, z its
  features standardised by the task's clean training images, and B the ball,
  SGD on batches minimises

  .. math:: \frac1n \sum_i \mathrm{CE}(z(x'_i) W + b, y_i), \quad
            x'_i \approx \arg\max_{x' \in B(x_i)} \mathrm{CE}(z(x') W + b, y_i)

  where each step attacks the head as it is then, end to end, by PGD. It starts
  from the standard probe, that of `transfer`. The last head is taken, never
  the best one on test images. Images are not augmented. The defaults suit tens
  of thousands of images; with few there are few steps, and a larger ``lr`` and
  a smaller ``batch_size`` come nearer to the minimum.

  Args:
    encoder: What is evaluated; it stays frozen.
    data: ``tasks`` are solved one after the other.
    key: Of the order of the batches and of the random starts, which belong to
      an example and not to its batch.
    epsilon: Radius of the ball, in training and after it, in units of images
      in [0, 1].
    norm: linf, l2 or l1.
    step_size: Of each step of the attack on test images; None takes
      2.5 epsilon / num_steps.
    num_steps: Its steps; names the measurement.
    num_examples: Test examples attacked of each task, see `choose_test`; 0 for
      all.
    auto_attack_examples: Test examples of each task attacked by AutoAttack
      besides; 0 for no AutoAttack.
    train_steps: Steps of the attack in training.
    train_step_size: Their size; None takes 2.5 epsilon / train_steps.
    epochs: Passes over the training examples.
    batch_size: Examples in a training batch.
    lr: Learning rate.
    momentum: Of SGD.
    weight_decay: Of the weights, not of the biases.
    decays: Parts of the run after which the learning rate is a tenth.
    l2: Penalty of the standard probe, see `linear_probe.fit`.
    tol: Gradient tolerance of the standard probe.
    num_train: Training examples of each task, see `choose_training`; 0 for
      all.

  Yields:
    ``transfer/<task>/adversarial_probe_accuracy`` of all clean test images,
    ``transfer/<task>/adversarial_probe_pgd<num_steps>_accuracy``, with
    AutoAttack ``transfer/<task>/adversarial_probe_auto_attack_accuracy``, and
    without ``<task>/`` their means. Nothing without a task.

  Raises:
    ConfigError: A value is out of range, or a task has one class only.

  References:
    Luo, Wang, Wang, `Rethinking the Effect of Data Augmentation in
    Adversarial Contrastive Learning <https://arxiv.org/abs/2303.01289>`_,
    2023 (DynACL), whose recipe the defaults are.

  .. note::
    The standardisation and the start from the standard probe are ours.
  """
  values = {
    'epsilon': epsilon,
    'norm': norm,
    'step_size': step_size,
    'num_steps': num_steps,
    'num_examples': num_examples,
    'auto_attack_examples': auto_attack_examples,
    'train_steps': train_steps,
    'train_step_size': train_step_size,
    'epochs': epochs,
    'batch_size': batch_size,
    'lr': lr,
    'momentum': momentum,
    'weight_decay': weight_decay,
    'decays': decays,
    'l2': l2,
    'tol': tol,
    'num_train': num_train,
  }
  rules.check('adversarial_probe', RULES, values)
  fitted = linear_head.training_examples(
    'adversarial_probe', data.tasks, num_train
  )
  train_key, test_key = jax.random.split(key)
  schedule = {
    'epochs': epochs,
    'batch_size': batch_size,
    'lr': lr,
    'decays': decays,
  }
  inner = attacked.PGD(test_key, epsilon, train_step_size, train_steps, norm)
  attack = attacked.PGD(test_key, epsilon, step_size, num_steps, norm)
  tx = sgd.optimizer(momentum, weight_decay)

  encode = encoder.apply

  # The encoder is part of the state, so that tasks share the program.
  def step(state, images, labels, ids, rate, step_key):
    network, moments, head, opt_state = state
    images = augment.to_float(images)

    def logits_fn(head, x):
      mean, scale = moments
      features = encode(network, x)[1].astype(mean.dtype)
      return linear_head.linear((features - mean[None]) * scale[None], *head)

    def loss_fn(head, x):
      return attacked.cross_entropy(logits_fn(head, x), labels)

    adv = inner.ascend(lambda x: loss_fn(head, x), step_key, images, ids)
    grads = jax.grad(lambda head: jnp.mean(loss_fn(head, adv)))(head)
    direction, opt_state = tx.update(grads, opt_state, head)
    return network, moments, sgd.descend(head, direction, rate), opt_state

  step = encoder.remembered('adversarial_probe', step, values, test_key)
  classifier = linear_head.classifier(encoder)
  found = collections.defaultdict(list)
  for task, chosen in zip(data.tasks, fitted, strict=True):
    start = linear_head.fit(
      encoder.predict(task.train.images)[1][chosen],
      task.train.labels[chosen],
      task.train.num_classes,
      l2,
      tol,
    )
    moments = start.mean, start.scale
    head = linear_head.unfold(start.w, start.b, *moments)
    moments = tuple(x.astype(np.float32) for x in moments)
    *_, head, _ = sgd.train(
      encoder,
      step,
      (encoder.variables, moments, head, tx.init(head)),
      task.train,
      chosen,
      key=jax.random.fold_in(train_key, zlib.crc32(task.name.encode())),
      **schedule,
    )
    head = jax.device_get(head)
    how = sgd.words(
      len(chosen), momentum=momentum, weight_decay=weight_decay, **schedule
    )
    on = (
      f'test images of task {task.name}: linear probe on frozen features, '
      f'trained on images attacked end to end by {inner}, starting from '
      f'{start.how}, {how}' + sgd.divergence(head)
    )
    w, b = linear_head.fold(*head, start.mean, start.scale)
    for suffix, images, measured in attacked.accuracies(
      classifier.with_variables((encoder.variables, w, b)),
      task,
      on,
      attack,
      num_examples=num_examples,
      auto_attack_examples=auto_attack_examples,
    ):
      found[suffix, images].append(measured)
      yield f'transfer/{task.name}/adversarial_probe{suffix}', measured
  for (suffix, images), parts in found.items():
    yield (
      f'transfer/adversarial_probe{suffix}',
      measurement.mean(
        parts,
        f'linear probes on frozen features, trained on images attacked by '
        f'{inner}; {images}',
      ),
    )
