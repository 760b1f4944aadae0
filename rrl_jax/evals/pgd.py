"""Accuracy under projected gradient descent through the whole network."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import attacks
from rrl_jax.data import augment
from rrl_jax.evals import measurement, pictures, prediction, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, choose

RULES = {
  'epsilon': rules.AT_LEAST_ZERO,
  'step_size': (lambda v: v is None or v >= 0, 'None or at least 0'),
  'norm': (lambda v: v in ('linf', 'l2', 'l1'), 'one of linf, l2, l1'),
  'num_steps': rules.POSITIVE_COUNT,
  'num_examples': rules.COUNT,
  'num_pictures': rules.COUNT,
}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  epsilon: float = 8 / 255,
  step_size: float | None = None,
  norm: str = 'linf',
  num_steps: int = 20,
  num_examples: int = 1000,
  num_pictures: int = 6,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Attacks test images end to end, once by cross-entropy, once by margin.

  An example counts as right if the network is right on the clean image and on
  both attacked ones, so the number is never above clean accuracy. Attack and
  network are those of evaluation mode, and the radius is in units of images
  in [0, 1].

  Both losses are of logits divided by their spread on the clean image
  (`attacks.logit_scale`), so that the number does not depend on a factor of
  the logits: published PGD, on plain cross-entropy, finds next to nothing
  where logits are so large that its gradient underflows.

  Args:
    encoder: What is evaluated.
    data: ``test`` is attacked.
    key: Of the random starts, which belong to an example and not to its
      batch, and of the choice of examples.
    epsilon: Radius of the ball.
    step_size: Of each step; None takes 2.5 epsilon / num_steps (Madry et al.,
      2018).
    norm: linf, l2 or l1.
    num_steps: Gradient steps; names the measurement.
    num_examples: Test examples attacked; 0 for all.
    num_pictures: Pairs of a clean and an attacked image for the report.

  Yields:
    ``test/pgd<num_steps>_accuracy``,
    ``test/pgd<num_steps>_zero_gradient``: the share of the images whose margin
    has no gradient in any pixel, which a gradient attack cannot move;
    ``test/pgd<num_steps>_zero_epsilon_agreement``: the share of one batch on
    which the same code with radius zero predicts as on clean images, which is
    1 unless the evaluation itself is broken or logits are NaN; and the
    pictures as figures.

  Raises:
    ConfigError: A value is out of range.
  """
  values = {
    'epsilon': epsilon,
    'step_size': step_size,
    'norm': norm,
    'num_steps': num_steps,
    'num_examples': num_examples,
    'num_pictures': num_pictures,
  }
  rules.check('pgd', RULES, values)
  if step_size is None:
    step_size = 2.5 * epsilon / num_steps
  choice_key, attack_key = jax.random.split(key)
  chosen = choose(choice_key, len(data.test), num_examples)
  source = data.test.take(chosen)
  batch_size = min(encoder.batch_size, len(chosen))

  attacked = program(
    encoder, attack_key, step_size=step_size, num_steps=num_steps, norm=norm
  )
  # Radius and loss are rows of the batch: one program serves all.
  radius = np.full(len(chosen), epsilon, np.float32)
  by_entropy, by_margin = (
    encoder.map_batches(
      attacked,
      source.images,
      source.labels,
      chosen,
      radius,
      np.full(len(chosen), margin),
      batch_size=batch_size,
    )
    for margin in (False, True)
  )
  adv, clean_predicted, adv_predicted, flat = by_entropy
  clean_right = clean_predicted == source.labels
  missed = adv_predicted == source.labels
  adv = np.where(missed[:, None, None, None], by_margin.images, adv)
  adv_predicted = np.where(missed, by_margin.predicted, adv_predicted)
  right = clean_right & (adv_predicted == source.labels)
  name = f'test/pgd{num_steps}'
  yield (
    f'{name}_accuracy',
    measurement.proportion(
      right.sum(),
      right.size,
      f'test images attacked end to end by PGD, {norm} radius {epsilon:.6g} '
      f'on images in [0, 1], {num_steps} steps of {step_size:.6g}, one random '
      'start, once on cross-entropy and once on margin of logits divided by '
      'their spread, right before and after both attacks '
      f'(clean accuracy of the same images {clean_right.mean():.4f}; '
      f'{_without_gradient(flat)})',
    ),
  )
  yield (
    f'{name}_zero_gradient',
    measurement.proportion(
      flat.sum(),
      flat.size,
      'test images whose margin has a gradient of zero in every pixel, so that '
      'no attack by gradients can move them',
    ),
  )
  first = np.arange(batch_size)
  same = encoder.map_batches(
    attacked,
    source.take(first).images,
    source.labels[first],
    chosen[first],
    np.zeros(batch_size, np.float32),
    np.zeros(batch_size, bool),
    batch_size=batch_size,
  )
  agree = prediction.agree(same.clean, same.predicted)
  yield (
    f'{name}_zero_epsilon_agreement',
    measurement.proportion(
      agree.sum(),
      agree.size,
      'sanity check: predictions after an attack of radius 0 that equal those '
      'on clean images',
    ),
  )
  shown = pictures.choose(source, clean_right, right, num_pictures)
  yield from pictures.figures(
    'figure/examples', source, shown, adv, clean_predicted, adv_predicted
  )


def _without_gradient(flat):
  """Of how many images a gradient attack could not move, in words."""
  if not flat.any():
    return 'all have a gradient'
  return f'{flat.sum()} of {flat.size} have no gradient: an upper bound'


class Attacked(NamedTuple):
  """What an attack did to images.

  Attributes:
    images: Attacked images, ``[B, H, W, C]``.
    clean: Predictions before, ``[B]``.
    predicted: Predictions after, ``[B]``.
    flat: Whether no pixel of the clean image has a gradient, ``[B]``.
  """

  images: jax.Array
  clean: jax.Array
  predicted: jax.Array
  flat: jax.Array


def program(
  encoder: Encoder,
  key: jax.Array,
  *,
  step_size: float,
  num_steps: int,
  norm: str = 'linf',
) -> Callable[..., Attacked]:
  """What `evaluate` maps over batches.

  Args:
    encoder: The network; its variables are not read.
    key: Of the random starts.
    step_size: Of each step.
    num_steps: Gradient steps.
    norm: linf, l2 or l1.

  Returns:
    ``(variables, images [B, H, W, C], labels [B], ids [B], radius [B],
    margin [B]) -> Attacked``; margin says whether an image is attacked by it.
  """
  apply = encoder.apply  # Not the encoder, whose variables would stay too.

  def attacked(variables, images, labels, ids, radius, margin):
    images = augment.to_float(images)
    logits_fn = lambda x: apply(variables, x)[0]
    logits = logits_fn(images)
    loss_fn = scale_free_loss(logits_fn, labels, logits, margin)
    gap = scale_free_loss(logits_fn, labels, logits, True)
    slope = jax.grad(lambda x: jnp.sum(gap(x)))(images)
    adv = attacks.pgd(
      loss_fn,
      key,
      images,
      epsilon=radius,
      step_size=step_size,
      num_steps=num_steps,
      norm=norm,
      example_ids=ids,
    )
    return Attacked(
      adv,
      prediction.predicted(logits),
      prediction.predicted(logits_fn(adv)),
      jnp.all(slope == 0, axis=(1, 2, 3)),
    )

  settings = {'step_size': step_size, 'num_steps': num_steps, 'norm': norm}
  return encoder.remembered('pgd', attacked, settings, key)


def scale_free_loss(
  logits_fn: Callable[[jax.Array], jax.Array],
  labels: jax.Array,
  clean_logits: jax.Array,
  margin: jax.Array | bool,
) -> Callable[[jax.Array], jax.Array]:
  """Loss to raise that a factor of the logits does not change.

  Args:
    logits_fn: Maps images ``[B, H, W, C]`` to logits ``[B, K]``.
    labels: Classes to leave, ``[B]``.
    clean_logits: Logits of the clean images, whose spread is the unit.
    margin: Of which images it is the margin, ``[B]`` or one for all;
      cross-entropy of the others.

  Returns:
    Images -> loss of each, ``[B]``.
  """
  scale = attacks.logit_scale(clean_logits)
  of_logits = {
    loss: attacks.untargeted_objective(
      lambda logits: logits, labels, loss=loss, scale=scale
    )
    for loss in ('ce', 'margin')
  }

  def loss_fn(x):
    logits = logits_fn(x)
    return jnp.where(
      margin, of_logits['margin'](logits), of_logits['ce'](logits)
    )

  return loss_fn
