"""Accuracy under projected gradient descent through the whole network."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
import optax

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
  """Attacks the cross-entropy of test images, end to end.

  An example counts as right if the network is right on the clean image and on
  the attacked one, so the number is never above clean accuracy. Attack and
  network are those of evaluation mode, and the radius is in units of images
  in [0, 1].

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
  rows = (source.images, source.labels, chosen)
  adv, clean_predicted, adv_predicted = encoder.map_batches(
    attacked,
    *rows,
    np.full(len(chosen), epsilon, np.float32),
    batch_size=batch_size,
  )
  clean_right = clean_predicted == source.labels
  right = clean_right & (adv_predicted == source.labels)
  name = f'test/pgd{num_steps}'
  yield (
    f'{name}_accuracy',
    measurement.proportion(
      right.sum(),
      right.size,
      f'test images attacked end to end by PGD, {norm} radius {epsilon:.6g} '
      f'on images in [0, 1], {num_steps} steps of {step_size:.6g}, one random '
      'start, cross-entropy, right before and after the attack '
      f'(clean accuracy of the same images {clean_right.mean():.4f})',
    ),
  )
  # The radius is a row of the batch, so this runs the program compiled above.
  first = np.arange(batch_size)
  _, clean, same = encoder.map_batches(
    attacked,
    source.take(first).images,
    source.labels[first],
    chosen[first],
    np.zeros(batch_size, np.float32),
    batch_size=batch_size,
  )
  agree = prediction.agree(clean, same)
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


def program(
  encoder: Encoder,
  key: jax.Array,
  *,
  step_size: float,
  num_steps: int,
  norm: str = 'linf',
) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
  """What `evaluate` maps over batches.

  Args:
    encoder: The network; its variables are not read.
    key: Of the random starts.
    step_size: Of each step.
    num_steps: Gradient steps.
    norm: linf, l2 or l1.

  Returns:
    ``(variables, images [B, H, W, C], labels [B], ids [B], radius [B]) ->
    (attacked images, predictions before, predictions after)``.
  """

  def attacked(variables, images, labels, ids, radius):
    images = augment.to_float(images)

    def loss_fn(x):
      logits, _ = encoder.apply(variables, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

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
    predict = lambda x: prediction.predicted(encoder.apply(variables, x)[0])
    return adv, predict(images), predict(adv)

  return attacked
