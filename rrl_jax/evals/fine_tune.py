"""The whole network fine-tuned on a target task against attacks."""

import collections
from collections.abc import Iterator, Sequence
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import attacks, losses
from rrl_jax.data import augment
from rrl_jax.errors import ConfigError
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

LOSSES = ('trades', 'pgd')
RULES = {
  **attacked.RULES,
  **sgd.RULES,
  'loss': (lambda v: v in LOSSES, 'trades or pgd'),
  'beta': rules.AT_LEAST_ZERO,
  'num_train': transfer.RULES['num_train'],
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
  loss: str = 'trades',
  beta: float = 6.0,
  train_steps: int = 10,
  train_step_size: float | None = None,
  epochs: int = 25,
  batch_size: int = 128,
  lr: float = 0.1,
  momentum: float = 0.9,
  weight_decay: float = 2e-4,
  decays: Sequence[float] = (0.6, 0.8),
  num_train: int = 10_000,
) -> Iterator[tuple[str, Measurement]]:
  r"""Trains encoder and linear head against attacks, and attacks them.

  Adversarial full fine-tuning ("AFF"): from the encoder's weights and a head
  of zeros, SGD on batches minimises with the logits g

  .. math:: \mathrm{CE}(g(x), y) + \beta\,\mathrm{KL}(g(x) \,\|\, g(x'))
            \quad \text{(trades)} \qquad \text{or} \qquad
            \mathrm{CE}(g(x'), y) \quad \text{(pgd)}

  where x' is found by PGD on the divergence, or on the cross-entropy, in
  evaluation mode. The losses are taken in training mode, of clean and attacked
  images one after the other, and BatchNorm's statistics follow both; a network
  with two sets of them uses the one it is evaluated with. The last network is
  taken, never the best one on test images. Images are not augmented. The
  encoder itself stays as it is.

  Args:
    encoder: Where training starts; it needs a `network`.
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
    loss: trades, or pgd for adversarial training.
    beta: Weight of the divergence in trades.
    train_steps: Steps of the attack in training.
    train_step_size: Their size; None takes 2.5 epsilon / train_steps.
    epochs: Passes over the training examples.
    batch_size: Examples in a training batch.
    lr: Learning rate.
    momentum: Of SGD.
    weight_decay: Of kernels, not of biases and scales.
    decays: Parts of the run after which the learning rate is a tenth.
    num_train: Training examples of each task, see `choose_training`; 0 for
      all.

  Yields:
    ``transfer/<task>/fine_tuning_accuracy`` of all clean test images,
    ``transfer/<task>/fine_tuning_pgd<num_steps>_accuracy``, with AutoAttack
    ``transfer/<task>/fine_tuning_auto_attack_accuracy``, and without
    ``<task>/`` their means. Nothing without a task.

  Raises:
    ConfigError: A value is out of range, a task has one class only, or the
      encoder has no network to train.

  References:
    Zhang et al., `Theoretically Principled Trade-off between Robustness and
    Accuracy <https://arxiv.org/abs/1901.08573>`_, 2019. Jiang et al., `Robust
    Pre-Training by Adversarial Contrastive Learning
    <https://arxiv.org/abs/2010.13337>`_, 2020 (ACL), whose recipe the defaults
    are.

  .. note::
    Attacks in training start anywhere in the ball; the code of TRADES starts
    0.001 beside the image.
  """
  values = {
    'epsilon': epsilon,
    'norm': norm,
    'step_size': step_size,
    'num_steps': num_steps,
    'num_examples': num_examples,
    'auto_attack_examples': auto_attack_examples,
    'loss': loss,
    'beta': beta,
    'train_steps': train_steps,
    'train_step_size': train_step_size,
    'epochs': epochs,
    'batch_size': batch_size,
    'lr': lr,
    'momentum': momentum,
    'weight_decay': weight_decay,
    'decays': decays,
    'num_train': num_train,
  }
  rules.check('fine_tune', RULES, values)
  network = encoder.network
  if network is None:
    raise ConfigError('evals.fine_tune: this encoder has no network to train')
  fitted = linear_head.training_examples('fine_tune', data.tasks, num_train)
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

  def forward(params, model_state, images, *, train):
    backbone, head = params
    (_, out), model_state = network(backbone, model_state, images, train=train)
    return linear_head.linear(out['features'], *head), model_state

  def step(state, images, labels, ids, rate, step_key):
    params, model_state, opt_state = state
    images = augment.to_float(images)
    fixed = lambda x: forward(params, model_state, x, train=False)[0]
    if loss == 'trades':
      raised = attacks.kl_objective(fixed, fixed(images))
    else:
      raised = lambda x: attacked.cross_entropy(fixed(x), labels)
    adv = inner.ascend(raised, step_key, images, ids)

    def mean_loss(params):
      state = model_state
      if loss == 'trades':
        logits, state = forward(params, state, images, train=True)
        adv_logits, state = forward(params, state, adv, train=True)
        each = losses.trades(logits, adv_logits, labels, beta=beta)
      else:
        adv_logits, state = forward(params, state, adv, train=True)
        each = attacked.cross_entropy(adv_logits, labels)
      return jnp.mean(each), state

    grads, model_state = jax.grad(mean_loss, has_aux=True)(params)
    direction, opt_state = tx.update(grads, opt_state, params)
    return sgd.descend(params, direction, rate), model_state, opt_state

  def apply(variables, images):
    (backbone, head), model_state = variables
    (_, out), _ = network(backbone, model_state, images, train=False)
    features = out['features']
    return linear_head.linear(features, *head), features

  classifier = Encoder(
    apply, None, batch_size=encoder.batch_size, mesh=encoder.mesh
  )
  classifier = encoder.remembered('fine_tune head', classifier, {})
  step = encoder.remembered('fine_tune', step, values, test_key)
  objective = f'TRADES (beta {beta:g})' if loss == 'trades' else 'cross-entropy'
  said = f'fine-tuned by {objective} on images attacked by {inner}'
  found = collections.defaultdict(list)
  backbone, model_state = encoder.variables
  for task, chosen in zip(data.tasks, fitted, strict=True):
    _, features = jax.eval_shape(
      encoder.apply, encoder.variables, _one(task.train)
    )
    head = (
      np.zeros((features.shape[-1], task.train.num_classes), np.float32),
      np.zeros(task.train.num_classes, np.float32),
    )
    params = backbone, head
    params, tuned_state, _ = sgd.train(
      encoder,
      step,
      (params, model_state, tx.init(jax.device_get(params))),
      task.train,
      chosen,
      key=jax.random.fold_in(train_key, zlib.crc32(task.name.encode())),
      **schedule,
    )
    how = sgd.words(
      len(chosen), momentum=momentum, weight_decay=weight_decay, **schedule
    )
    on = (
      f'test images of task {task.name}: all weights and a linear head {said}, '
      f'{how}{sgd.divergence(params)}'
    )
    for suffix, images, measured in attacked.accuracies(
      classifier.with_variables((params, tuned_state)),
      task,
      on,
      attack,
      num_examples=num_examples,
      auto_attack_examples=auto_attack_examples,
    ):
      found[suffix, images].append(measured)
      yield f'transfer/{task.name}/fine_tuning{suffix}', measured
  for (suffix, images), parts in found.items():
    yield (
      f'transfer/fine_tuning{suffix}',
      measurement.mean(
        parts, f'all weights and a linear head {said}; {images}'
      ),
    )


def _one(source):
  """Shape and dtype of a batch of one image, as networks take it."""
  return jax.ShapeDtypeStruct((1, *source.image_shape), jnp.float32)
