"""What a linear probe on frozen features withstands, end to end."""

from collections.abc import Iterator, Sequence
import functools
import math
from typing import NamedTuple, Self

import jax
import numpy as np
import optax

from rrl_jax import attacks, losses
from rrl_jax.data import augment
from rrl_jax.evals import (
  downstream_bound,
  linear_head,
  measurement,
  pgd,
  pictures,
  prediction,
  rules,
  transfer,
)
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, choose_test

_OF_PGD = (
  'epsilon',
  'step_size',
  'norm',
  'num_steps',
  'num_examples',
  'num_pictures',
)
_OF_TRANSFER = ('l2', 'tol', 'num_train')
RULES = {
  **{name: pgd.RULES[name] for name in _OF_PGD},
  **{name: transfer.RULES[name] for name in _OF_TRANSFER},
  'epsilons': (
    lambda v: (
      all(0 <= e < math.inf for e in v) and len({f'{e:g}' for e in v}) == len(v)
    ),
    'different numbers, at least 0',
  ),
  'num_restarts': rules.POSITIVE_COUNT,
}
FITS_HEADS = lambda kw: True  # On each target task.


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  epsilon: float = 8 / 255,
  epsilons: Sequence[float] = (),
  step_size: float | None = None,
  norm: str = 'linf',
  num_steps: int = 20,
  num_restarts: int = 1,
  l2: float = 1e-4,
  tol: float = 1e-5,
  num_train: int = 10_000,
  num_examples: int = 1000,
  num_pictures: int = 6,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  r"""Attacks the linear probe of each target task through the encoder.

  The probe is that of `transfer`, fitted on clean features of the same
  examples. Its standardisation is folded into its weights, so that it is a
  linear head W on the encoder's own features f and the bound of a
  task-agnostic representation speaks about it,

  .. math:: L_\mathrm{adv} \le L_\mathrm{clean} + K R, \quad
            K = \max_{y,j} \|w_y - w_j\|, \quad
            R = \frac1n \sum_i \max_{x' \in B(x_i)} \|f(x') - f(x_i)\|

  Two attacks measure its sides: one raises the cross-entropy of logits divided
  by their spread, which does not depend on a factor of the probe, and one,
  which sees neither probe nor label, the distance of the features. Both find
  less than the maximum. What the second misses makes R too small, and an image
  on which the inequality then fails counts as a violation; without violations R
  is still no certificate. Where the encoder has bounds of its features, a
  certified R stands beside the one found: nothing exceeds it, and it is loose.

  Args:
    encoder: What is evaluated; it stays frozen.
    data: ``tasks`` are attacked one after the other.
    key: Of the random starts, which belong to an example and not to its batch.
    epsilon: Radius of the ball, in units of images in [0, 1].
    epsilons: Further radii, at which the accuracy is measured too.
    step_size: Of each step of both attacks at ``epsilon``, and in proportion at
      other radii; None takes 2.5 epsilon / num_steps (Madry et al., 2018).
    norm: linf, l2 or l1.
    num_steps: Gradient steps of both attacks; names the measurement.
    num_restarts: Random starts of both attacks. One that makes an image wrong
      is enough; of losses and shifts the largest counts.
    l2: Penalty of the linear probe, see `linear_probe.fit`.
    tol: Gradient tolerance of the linear probe.
    num_train: Training examples used of each task, see `choose_training`; 0
      for all.
    num_examples: Test examples attacked of each task, see `choose_test`; 0 for
      all.
    num_pictures: Pairs of a clean and an attacked image of the first task for
      the report.

  Yields:
    ``transfer/<task>/linear_probe_pgd<num_steps>_accuracy`` and
    ``transfer/linear_probe_pgd<num_steps>_accuracy``, its mean over tasks, and
    both with ``/epsilon=<radius>`` for further radii;
    ``transfer/<task>/linear_probe_zero_epsilon_agreement``, as of `pgd`; of
    ``bound/<task>/`` the ``clean_loss``, ``adversarial_loss``,
    ``feature_shift`` R, ``lipschitz`` K, ``bound``, ``slack`` (the bound minus
    the adversarial loss), ``margin_certificate_rate`` and ``violations``, and
    from an encoder with bounds ``certified_feature_shift``,
    ``certified_bound`` and ``certified_accuracy``;
    ``figure/bound_shift/<task>`` and ``figure/bound_loss_gap/<task>``, of each
    image the shift and the rise of the loss; ``figure/probe_epsilon``; and the
    pictures as ``figure/probe_examples_...``. Nothing without a task.

  Raises:
    ConfigError: A value is out of range, or a task has one class only.

  References:
    Nguyen, Lim, Torr, `Task-Agnostic Robust Representation Learning
    <https://arxiv.org/abs/2203.07596>`_, 2022; the bound is derived from its
    abstract, see `losses.adversarial_loss_bound`.
  """
  values = {
    'epsilon': epsilon,
    'epsilons': epsilons,
    'step_size': step_size,
    'norm': norm,
    'num_steps': num_steps,
    'num_restarts': num_restarts,
    'l2': l2,
    'tol': tol,
    'num_train': num_train,
    'num_examples': num_examples,
    'num_pictures': num_pictures,
  }
  rules.check('robust_probe', RULES, values)
  fitted = linear_head.training_examples('robust_probe', data.tasks, num_train)
  loss_key, shift_key = jax.random.split(key)

  def step_of(radius):
    if step_size is None or not epsilon:
      return 2.5 * radius / num_steps
    return step_size * (radius / epsilon)

  def ascend(loss_fn, own_key, images, ids, ball):
    return attacks.pgd(
      loss_fn,
      own_key,
      images,
      epsilon=ball[:, 0],
      step_size=ball[:, 1],
      num_steps=num_steps,
      norm=norm,
      example_ids=ids,
    )

  apply = encoder.apply

  # The probe is a variable: tasks of one shape share a compiled program.
  def attacked(variables, images, ids, ball, labels):
    images = augment.to_float(images)
    network, w, b = variables
    predict = lambda x: linear_head.linear(apply(network, x)[1], w, b)
    loss_of = lambda logits: optax.softmax_cross_entropy_with_integer_labels(
      logits, labels
    )
    logits = predict(images)
    loss_fn = pgd.scale_free_loss(predict, labels, logits, False)
    adv = ascend(loss_fn, loss_key, images, ids, ball)
    adv_logits = predict(adv)
    adv_predicted = prediction.predicted(adv_logits)
    return _Attacked(
      logits,
      loss_of(logits),
      adv,
      adv_predicted,
      loss_of(adv_logits),
      adv_predicted != labels,
    )

  def shifted(variables, images, ids, ball):
    images = augment.to_float(images)
    features_fn = lambda x: apply(variables[0], x)[1]
    clean = features_fn(images)
    objective = attacks.feature_shift_objective(features_fn, clean)
    adv = ascend(objective, shift_key, images, ids, ball)
    return losses.feature_shift(clean, features_fn(adv), distance='l2')

  of_attack = {'norm': norm, 'num_steps': num_steps}
  attacked = encoder.remembered('robust_probe', attacked, of_attack, loss_key)
  shifted = encoder.remembered(
    'robust_probe shift', shifted, of_attack, shift_key
  )

  def restarts(fn, head, task, ids, radius, *rows):
    """Yields what a function of a batch gives from each random start."""
    # Radius and step are rows of the batch: one program serves all.
    ball = np.tile(
      np.array([radius, step_of(radius)], np.float32), (len(ids), 1)
    )
    images = task.test.take(ids).images
    for restart in range(num_restarts):
      yield head.map_batches(
        fn,
        images,
        ids + restart * len(task.test),  # Each draws its own start.
        ball,
        *rows,
        batch_size=min(encoder.batch_size, len(ids)),
      )

  def under_attack(head, task, ids, labels, radius):
    first, *others = restarts(attacked, head, task, ids, radius, labels)
    return functools.reduce(_Attacked.or_worse, others, first)

  def describe(radius):
    starts = f'{num_restarts} random starts, the worst of them counting'
    return (
      f'PGD, {norm} radius {radius:.6g} on images in [0, 1], {num_steps} steps '
      f'of {step_of(radius):.6g}, '
      + (starts if num_restarts > 1 else 'one random start')
    )

  reach = downstream_bound.certifier(encoder)
  if reach is not None:
    reach = encoder.remembered('downstream_bound', reach, {})
  radii = {'': epsilon} | {f'/epsilon={e:g}': e for e in epsilons}
  said = {
    which: f'test images attacked end to end by {describe(radius)}, '
    'cross-entropy of logits divided by their spread, right before and after'
    ' the attack'
    for which, radius in radii.items()
  }
  accuracies = {which: [] for which in radii}
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
    labels = source.labels
    on = f'task {task.name}: {how} on {len(chosen)} frozen features'
    name = f'transfer/{task.name}/linear_probe'
    main = under_attack(head, task, ids, labels, epsilon)
    predicted = prediction.predicted(main.logits)
    clean_right = predicted == labels
    for which, radius in radii.items():
      found = main
      if which:
        found = under_attack(head, task, ids, labels, radius)
      right = clean_right & ~found.wrong
      accuracies[which].append(
        measurement.proportion(
          right.sum(),
          right.size,
          f'{on}, {said[which]} (clean accuracy of the same images '
          f'{clean_right.mean():.4f})',
        )
      )
      yield f'{name}_pgd{num_steps}_accuracy{which}', accuracies[which][-1]
    first = slice(min(encoder.batch_size, len(ids)))
    still = under_attack(head, task, ids[first], labels[first], 0.0)
    agree = prediction.agree(
      prediction.predicted(still.logits), still.adv_predicted
    )
    yield (
      f'{name}_zero_epsilon_agreement',
      measurement.proportion(
        agree.sum(),
        agree.size,
        f'sanity check of task {task.name}: predictions of the linear probe '
        'after an attack of radius 0 that equal those on clean images',
      ),
    )
    shift = np.max(list(restarts(shifted, head, task, ids, epsilon)), axis=0)
    certified = None
    if reach is not None:
      certified = downstream_bound.length(
        encoder.map_batches(
          reach,
          source.images,
          np.full(len(ids), epsilon, np.float32),
          batch_size=min(encoder.batch_size, len(ids)),
        )
      )
    yield from downstream_bound.measure(
      task.name,
      downstream_bound.Attacked(
        w, main.logits, labels, main.clean_loss, main.adv_loss, shift, certified
      ),
      on,
      describe(epsilon),
      norm,
    )
    if task is data.tasks[0]:
      yield 'figure/probe_epsilon', np.array(epsilon, np.float64)
      right = clean_right & ~main.wrong
      yield from pictures.figures(
        'figure/probe_examples',
        source,
        pictures.choose(source, clean_right, right, num_pictures),
        main.adv,
        predicted,
        main.adv_predicted,
      )
  if data.tasks:
    for which, parts in accuracies.items():
      yield (
        f'transfer/linear_probe_pgd{num_steps}_accuracy{which}',
        measurement.mean(
          parts, f'linear probes on frozen features, {said[which]}'
        ),
      )


class _Attacked(NamedTuple):
  """What one or more random starts of the attack did, a row an image."""

  logits: jax.Array
  clean_loss: jax.Array
  adv: jax.Array
  adv_predicted: jax.Array
  adv_loss: jax.Array
  wrong: jax.Array

  def or_worse(self, other: Self) -> Self:
    """The worse of two attacks, image by image."""
    worse = np.where(
      other.wrong == self.wrong, other.adv_loss > self.adv_loss, other.wrong
    )
    return self._replace(
      adv=np.where(worse[:, None, None, None], other.adv, self.adv),
      adv_predicted=np.where(worse, other.adv_predicted, self.adv_predicted),
      adv_loss=np.maximum(self.adv_loss, other.adv_loss),
      wrong=self.wrong | other.wrong,
    )
