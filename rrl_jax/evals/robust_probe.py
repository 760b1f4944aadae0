"""What a linear probe on frozen features withstands, end to end."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rrl_jax import attacks, losses
from rrl_jax.data import augment
from rrl_jax.evals import linear_head, measurement, pgd, rules, transfer
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, choose_test, choose_training

_OF_PGD = ('epsilon', 'step_size', 'norm', 'num_steps', 'num_examples')
_OF_TRANSFER = ('l2', 'tol', 'num_train')
RULES = {
  **{name: pgd.RULES[name] for name in _OF_PGD},
  **{name: transfer.RULES[name] for name in _OF_TRANSFER},
}
_ROUNDING = 1e-5  # Of a loss in float32, relative to losses above one.


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  epsilon: float = 8 / 255,
  step_size: float | None = None,
  norm: str = 'linf',
  num_steps: int = 20,
  l2: float = 1e-4,
  tol: float = 1e-5,
  num_train: int = 10_000,
  num_examples: int = 1000,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  r"""Attacks the linear probe of each target task through the encoder.

  The probe is that of `transfer`, fitted on clean features of the same
  examples. Its standardisation is folded into its weights, so that it is a
  linear head W on the encoder's own features f and the bound of a
  task-agnostic representation speaks about it,

  .. math:: L_\mathrm{adv} \le L_\mathrm{clean} + K R, \quad
            K = \max_{y,j} \|w_y - w_j\|, \quad
            R = \frac1n \sum_i \max_{x' \in B(x_i)} \|f(x') - f(x_i)\|

  Two attacks measure its sides: one raises the cross-entropy, and one, which
  sees neither probe nor label, the distance of the features. Both find less
  than the maximum. What the second misses makes R too small, and an image on
  which the inequality then fails counts as a violation; without violations R
  is still no certificate.

  Args:
    encoder: What is evaluated; it stays frozen.
    data: ``tasks`` are attacked one after the other.
    key: Of the random starts, which belong to an example and not to its batch.
    epsilon: Radius of the ball, in units of images in [0, 1].
    step_size: Of each step of both attacks; None takes 2.5 epsilon /
      num_steps (Madry et al., 2018).
    norm: linf, l2 or l1.
    num_steps: Gradient steps of both attacks; names the measurement.
    l2: Penalty of the linear probe, see `linear_probe.fit`.
    tol: Gradient tolerance of the linear probe.
    num_train: Training examples used of each task, see `choose_training`; 0
      for all.
    num_examples: Test examples attacked of each task, see `choose_test`; 0 for
      all.

  Yields:
    ``transfer/<task>/linear_probe_pgd<num_steps>_accuracy`` and
    ``transfer/linear_probe_pgd<num_steps>_accuracy``, its mean over tasks;
    ``transfer/<task>/linear_probe_zero_epsilon_agreement``, as of `pgd`; of
    ``bound/<task>/`` the ``clean_loss``, ``adversarial_loss``,
    ``feature_shift`` R, ``lipschitz`` K, ``bound``, ``slack`` (the bound minus
    the adversarial loss), ``certified_accuracy`` and ``violations``; and
    ``figure/bound_shift/<task>`` and ``figure/bound_loss_gap/<task>``, of each
    image the shift and the rise of the loss. Nothing without a task.

  Raises:
    ConfigError: A value is out of range, or a task has one class only.

  References:
    Nguyen, Lim, Torr, `Task-Agnostic Robust Representation Learning
    <https://arxiv.org/abs/2203.07596>`_, 2022; the bound is derived from its
    abstract, see `losses.adversarial_loss_bound`.
  """
  values = {
    'epsilon': epsilon,
    'step_size': step_size,
    'norm': norm,
    'num_steps': num_steps,
    'l2': l2,
    'tol': tol,
    'num_train': num_train,
    'num_examples': num_examples,
  }
  rules.check('robust_probe', RULES, values)
  if step_size is None:
    step_size = 2.5 * epsilon / num_steps
  fitted = [choose_training(task, num_train) for task in data.tasks]
  for task, chosen in zip(data.tasks, fitted, strict=True):
    linear_head.refuse_one_class('robust_probe', task, chosen)
  loss_key, shift_key = jax.random.split(key)

  def ascend(loss_fn, own_key, images, ids, radius):
    return attacks.pgd(
      loss_fn,
      own_key,
      images,
      epsilon=radius,
      step_size=step_size,
      num_steps=num_steps,
      norm=norm,
      example_ids=ids,
    )

  # The probe is a variable: tasks of one shape share a compiled program.
  def attacked(variables, images, labels, ids, radius):
    images = augment.to_float(images)
    network, w, b = variables

    def predict(x):
      features = encoder.apply(network, x)[1].astype(w.dtype)
      return jnp.matmul(features, w, precision='highest') + b[None]

    def loss_of(logits):
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    adv = ascend(lambda x: loss_of(predict(x)), loss_key, images, ids, radius)
    clean_logits, adv_logits = predict(images), predict(adv)
    return clean_logits, adv_logits, loss_of(clean_logits), loss_of(adv_logits)

  def shifted(variables, images, ids, radius):
    images = augment.to_float(images)
    features_fn = lambda x: encoder.apply(variables[0], x)[1]
    clean = features_fn(images)
    objective = attacks.feature_shift_objective(features_fn, clean)
    adv = ascend(objective, shift_key, images, ids, radius)
    return losses.feature_shift(clean, features_fn(adv), distance='l2')

  attack = (
    f'PGD, {norm} radius {epsilon:.6g} on images in [0, 1], {num_steps} steps '
    f'of {step_size:.6g}, one random start'
  )
  said = f'attacked end to end by {attack}, cross-entropy'
  accuracies = []
  for task, chosen in zip(data.tasks, fitted, strict=True):
    w, b, how, *_ = linear_head.fit(
      encoder.predict(task.train.images)[1][chosen],
      task.train.labels[chosen],
      task.train.num_classes,
      l2,
      tol,
    )
    # Shares what is compiled with the encoder.
    head = encoder.with_variables((encoder.variables, w, b))
    ids = choose_test(task, num_examples)
    source = task.test.take(ids)
    images, labels = source.images, source.labels
    batch_size = min(encoder.batch_size, len(ids))
    radii = np.full(len(ids), epsilon, np.float32)
    logits, adv_logits, clean_loss, adv_loss = head.map_batches(
      attacked, images, labels, ids, radii, batch_size=batch_size
    )
    clean_right = np.argmax(logits, axis=-1) == labels
    right = clean_right & (np.argmax(adv_logits, axis=-1) == labels)
    on = f'task {task.name}: {how} on {len(chosen)} frozen features'
    accuracies.append(
      measurement.proportion(
        right.sum(),
        right.size,
        f'{on}, test images {said}, right before and after the attack (clean '
        f'accuracy of the same images {clean_right.mean():.4f})',
      )
    )
    name = f'transfer/{task.name}/linear_probe'
    yield f'{name}_pgd{num_steps}_accuracy', accuracies[-1]
    # The radius is a row of the batch, so this runs the program compiled above.
    first = np.arange(batch_size)
    logits_again, same, *_ = head.map_batches(
      attacked,
      source.take(first).images,
      labels[first],
      ids[first],
      np.zeros(batch_size, np.float32),
      batch_size=batch_size,
    )
    agree = np.argmax(logits_again, axis=-1) == np.argmax(same, axis=-1)
    yield (
      f'{name}_zero_epsilon_agreement',
      measurement.proportion(
        agree.sum(),
        agree.size,
        f'sanity check of task {task.name}: predictions of the linear probe '
        'after an attack of radius 0 that equal those on clean images',
      ),
    )
    shift = head.map_batches(shifted, images, ids, radii, batch_size=batch_size)
    yield from _bound(
      task.name, w, logits, labels, clean_loss, adv_loss, shift, on, attack
    )
  if accuracies:
    yield (
      f'transfer/linear_probe_pgd{num_steps}_accuracy',
      measurement.mean(
        accuracies,
        f'linear probes on frozen features, test images {said}, right before '
        'and after the attack',
      ),
    )


def _bound(task, w, logits, labels, clean, adv, shift, on, attack):
  """Measures both sides of the bound, image by image."""
  lipschitz = losses.head_lipschitz(w)
  radius = losses.margin_certificate(logits, w, labels=labels)
  bound = losses.adversarial_loss_bound(clean, shift, lipschitz=lipschitz)
  clean, adv, shift, radius, bound = (
    np.asarray(x, np.float64) for x in (clean, adv, shift, radius, bound)
  )
  violated = adv - bound > _ROUNDING * np.maximum(adv, 1)
  largest = f'largest l2 shift of the features found by {attack}'
  no_certificate = 'an attack finds less than the largest shift'

  def mean(column, what, least=0.0):
    return measurement.bootstrap(
      np.mean, [column], f'{on}; {what}', bounds=(least, np.inf)
    )

  columns = {
    'clean_loss': mean(clean, 'mean cross-entropy of clean test images, nats'),
    'adversarial_loss': mean(
      adv, f'mean cross-entropy of test images after {attack}, nats'
    ),
    'feature_shift': mean(
      shift, f'mean over test images of the {largest}; {no_certificate}'
    ),
    'lipschitz': measurement.exact(
      lipschitz,
      f'{on}; Lipschitz constant of its cross-entropy in the features: the '
      'largest distance of the weights of two classes, standardisation folded '
      'in, nats per unit of feature',
    ),
    'bound': mean(
      bound,
      'mean clean loss + Lipschitz constant x feature shift over test images, '
      f'nats, with the {largest}; {no_certificate}, so this estimates the '
      'bound from below',
    ),
    'slack': mean(
      bound - adv,
      'bound minus adversarial loss, mean over test images, nats, both from '
      'attacks of their own',
      -np.inf,
    ),
    'certified_accuracy': measurement.proportion(
      np.sum(radius > shift),
      shift.size,
      f'{on}; test images that are right with a margin that no feature shift '
      f'as large as the one found can close, with the {largest}; '
      f'{no_certificate}, so this is an upper estimate and no certificate',
    ),
    'violations': measurement.proportion(
      violated.sum(),
      violated.size,
      f'{on}; test images whose loss the attack on it raises by more than the '
      'Lipschitz constant x their own feature shift, beyond rounding: none '
      'unless the attack on the features is too weak there',
    ),
  }
  for name, measured in columns.items():
    yield f'bound/{task}/{name}', measured
  yield f'figure/bound_shift/{task}', shift.astype(np.float32)
  yield f'figure/bound_loss_gap/{task}', (adv - clean).astype(np.float32)
