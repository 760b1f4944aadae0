"""What a network made of wrong labels: fitted, resisted, detected.

Everything here needs the true labels, which only evaluation has; without them
only the probabilities of the given labels are drawn.
"""

from collections.abc import Iterator
import importlib.util

import jax
import numpy as np
import scipy.special

from rrl_jax.evals import measurement, prediction, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, choose

RULES = {
  'cleanlab': (
    lambda v: not v or importlib.util.find_spec('cleanlab') is not None,
    "false unless cleanlab is installed: pip install -e '.[cleanlab]'",
  ),
  'num_examples': rules.COUNT,
  'resamples': rules.COUNT,
  'suspicious': rules.COUNT,
}
GROUPS = ('clean', 'flipped', 'abnormal')


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  num_examples: int = 10_000,
  resamples: int = 200,
  suspicious: int = 24,
  cleanlab: bool = False,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Splits the training set into clean, flipped and abnormal examples.

  An example is *clean* if its given label is the true one, *flipped* if not,
  and *abnormal* if its image belongs to no class. A group without an example
  has no numbers.

  Args:
    encoder: What is evaluated.
    data: ``train``, with its ``truth``; ``gradient_norms`` and ``learned`` if
      there.
    key: Chooses the training examples.
    num_examples: How many; 0 takes all.
    resamples: Of the bootstrap that gives the intervals of ``average
      precision`` and ``mass``; 0 leaves these intervals out.
    suspicious: Images of largest loss to keep for the report.
    cleanlab: Whether to ask cleanlab too how many labels are wrong, by the
      network's own predictions; it would rather have those of networks that
      did not train on the example.

  Yields:
    ``fit/<group>_accuracy``, the share predicted as the given label, and
    ``fit/flipped_true_accuracy``, as the true one;
    ``detect/<group>_<score>_auroc`` and ``..._average_precision`` of telling
    a flipped or abnormal example from a clean one by its ``loss`` (large) or
    its ``weight`` (small), the weight being the L1 norm of the training loss's
    gradient at its logits; ``mass/<group>``, the group's share of the sum of
    those weights; ``noise/flipped_rate``, ``noise/abnormal_rate`` of the
    whole training set, ``noise/estimated_rate`` and ``noise/estimate_error``
    if the rate was estimated, ``noise/cleanlab_rate``; and figures.
  """
  rules.check(
    'label_noise',
    RULES,
    {
      'num_examples': num_examples,
      'resamples': resamples,
      'suspicious': suspicious,
      'cleanlab': cleanlab,
    },
  )
  chosen = choose(key, len(data.train), num_examples)
  sample = data.train.take(chosen)
  logits, _ = encoder.predict(sample.images)
  log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
  loss = -log_p[np.arange(len(sample)), sample.labels]
  predicted = prediction.predicted(logits)
  if cleanlab:
    yield _ask_cleanlab(sample.labels, np.exp(log_p))
  weight = None
  if data.gradient_norms is not None:
    weight = data.gradient_norms(logits, sample.labels, chosen.astype(np.int32))

  truth = sample.truth
  group = np.zeros(len(sample), np.int64)
  if truth is not None:
    group[truth.flipped] = 1
    group[truth.abnormal] = 2
    yield from _rates(data)
    yield from _fit(group, predicted, sample.labels, truth.labels)
    scores = {'loss': loss} | ({} if weight is None else {'weight': -weight})
    for name, score in scores.items():
      yield from _detection(group, name, score, resamples)
    if weight is not None:
      yield from _mass(group, weight, resamples)

  yield 'figure/label_probability', np.exp(-loss).astype(np.float32)
  yield 'figure/label_group', group
  if weight is not None:
    yield 'figure/label_weight', weight.astype(np.float32)
  worst = np.argsort(-loss, kind='stable')[:suspicious]
  if len(worst):
    known = sample.labels if truth is None else truth.labels
    yield 'figure/suspicious_images', np.asarray(sample.images[worst])
    yield 'figure/suspicious_given', sample.labels[worst]
    yield 'figure/suspicious_predicted', predicted[worst]
    yield 'figure/suspicious_true', np.where(group == 2, -1, known)[worst]
    yield 'figure/suspicious_probability', np.exp(-loss[worst])
    yield 'figure/class_names', np.array(sample.class_names)


def _rates(data):
  """How many labels are wrong, and how many the run believed to be."""
  truth, total = data.train.truth, len(data.train)
  rates = {
    'flipped': truth.flipped.sum() / total,
    'abnormal': truth.abnormal.sum() / total,
  }
  for name, rate in rates.items():
    yield (
      f'noise/{name}_rate',
      measurement.exact(rate, f'{name} training examples over all, counted'),
    )
  if 'noise_rate' in data.learned:
    estimate = data.learned['noise_rate']
    error = estimate - sum(rates.values())
    yield (
      'noise/estimated_rate',
      Measurement(
        estimate,
        np.nan,
        np.nan,
        'Estimated by the run without true labels; no interval.',
      ),
    )
    yield (
      'noise/estimate_error',
      Measurement(
        error,
        np.nan,
        np.nan,
        'Estimated minus counted rate of flipped and abnormal examples.',
      ),
    )


def _ask_cleanlab(labels, probs):
  """Share of the labels that cleanlab holds for wrong."""
  from cleanlab.filter import find_label_issues

  issues = find_label_issues(labels, probs, n_jobs=1)
  return (
    'noise/cleanlab_rate',
    measurement.proportion(
      issues.sum(),
      len(issues),
      'training labels that cleanlab holds for wrong, by predictions of the'
      ' network that trained on them',
    ),
  )


def _fit(group, predicted, given, true):
  """Accuracies of the groups by the given label, and by the true one."""
  for i, name in enumerate(GROUPS):
    members = group == i
    if members.any():
      right = (predicted == given)[members]
      yield (
        f'fit/{name}_accuracy',
        measurement.proportion(
          right.sum(),
          right.size,
          f'{name} training images, top-1 against the given label',
        ),
      )
  flipped = group == 1
  if flipped.any():
    right = (predicted == true)[flipped]
    yield (
      'fit/flipped_true_accuracy',
      measurement.proportion(
        right.sum(),
        right.size,
        'flipped training images, top-1 against the true label',
      ),
    )


def _detection(group, name, score, resamples):
  """How well a score tells flipped and abnormal examples from clean ones."""
  from sklearn import metrics

  for i in (1, 2):
    either = (group == 0) | (group == i)
    positive = group[either] == i
    if not positive.any() or positive.all():
      continue
    words = (
      f'{GROUPS[i]} against clean training examples by'
      f' {"large loss" if name == "loss" else "small weight"}'
    )
    yield (
      f'detect/{GROUPS[i]}_{name}_auroc',
      measurement.area_under_roc(score[either], positive, words),
    )
    yield (
      f'detect/{GROUPS[i]}_{name}_average_precision',
      measurement.bootstrap(
        metrics.average_precision_score,
        (positive, score[either]),
        f'average precision of {words}',
        strata=positive,
        resamples=resamples,
      ),
    )


def _mass(group, weight, resamples):
  """Each group's share of the gradient."""
  total = weight.sum()
  if not total > 0:
    return
  for i, name in enumerate(GROUPS):
    if (group == i).any():
      yield (
        f'mass/{name}',
        measurement.bootstrap(
          lambda member, weight: (
            (member * weight).sum() / max(weight.sum(), 1e-300)
          ),
          (group == i, weight.astype(np.float64)),
          f'share of the L1 norms of the logit gradients, {name} examples',
          strata=group,
          resamples=resamples,
        ),
      )
