"""Whether features learned from coarse labels still tell fine classes apart."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError
from rrl_jax.evals import (
  knn,
  linear_head,
  linear_probe,
  measurement,
  rules,
  transfer,
)
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.prediction import predicted
from rrl_jax.evals.task import EvalData, choose

RULES = {name: transfer.RULES[name] for name in ('l2', 'tol', 'k', 'num_train')}
REQUIRES = ('fine_labels', 'coarse labels: set data.coarse')


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  l2: float = 1e-4,
  tol: float = 1e-5,
  k: int = 20,
  num_train: int = 10_000,
) -> Iterator[tuple[str, Measurement]]:
  """Fits simple classifiers of the fine classes on frozen features.

  Features are standardised by the moments of the training split. Training
  images of no class are left out; fine labels are the true ones, whatever
  noise did to the coarse. A fine class without a training example is never
  predicted and one without a test example never asked for. A coarse class with
  one fine class counts like the others.

  Args:
    encoder: What is evaluated; it stays frozen.
    data: ``train`` and ``test``, with fine labels.
    key: Chooses training examples where ``num_train`` limits them.
    l2: Penalty of the linear probe, see `linear_probe.fit`.
    tol: Gradient tolerance of the linear probe.
    k: Neighbours of kNN.
    num_train: Training examples used, chosen at random; 0 for all.

  Yields:
    ``coarse_to_fine/linear_probe_accuracy`` and
    ``coarse_to_fine/knn_accuracy`` among all fine classes;
    ``coarse_to_fine/linear_probe_within_accuracy`` among those of the true
    coarse class; ``coarse_to_fine/linear_probe_worst_accuracy`` of the worst
    fine class; and ``coarse_to_fine/collapsed_accuracy``, the best that
    features can do which know the coarse class and nothing else.

  Raises:
    ConfigError: No coarse labels, or a value out of range.
    DataError: Training features that are not finite.

  References:
    Chen, Fu et al., `Perfectly Balanced: Improving Transfer and Robustness of
    Supervised Contrastive Learning <https://arxiv.org/abs/2204.07596>`_, 2022
    (coarse-to-fine transfer). Their probe is a linear layer, trained for 100
    epochs on augmented images; this one is solved to tolerance.
  """
  values = {'l2': l2, 'tol': tol, 'k': k, 'num_train': num_train}
  rules.check('coarse_to_fine', RULES, values)
  train, test = data.train, data.test
  if train.fine_labels is None or test.fine_labels is None:
    raise ConfigError(f'evals.coarse_to_fine needs {REQUIRES[1]}')
  usable = np.arange(len(train))
  if train.truth is not None:
    usable = np.flatnonzero(~train.truth.abnormal)
  chosen = usable[choose(key, len(usable), num_train)]
  _, fitted = encoder.predict(train.images)
  _, asked = encoder.predict(test.images)
  fitted, asked = linear_probe.standardise(fitted[chosen], asked)
  labels, fine = train.fine_labels[chosen], test.fine_labels
  num_fine = len(train.fine_names)
  on = (
    f'fine labels ({num_fine} classes in {train.num_classes}) on frozen'
    f' standardised features, {len(chosen)} training images'
  )
  w, b, how = linear_head.logistic_regression(fitted, labels, num_fine, l2, tol)
  logits = np.asarray(jnp.asarray(asked) @ w + b[None])
  right = predicted(logits) == fine
  yield (
    'coarse_to_fine/linear_probe_accuracy',
    measurement.proportion(right.sum(), right.size, f'{on}, {how}'),
  )
  inside = np.where(_siblings(train, test, fine), logits, -np.inf)
  within = predicted(inside) == fine
  yield (
    'coarse_to_fine/linear_probe_within_accuracy',
    measurement.proportion(
      within.sum(),
      within.size,
      f'{on}, {how}, the true coarse class being told',
    ),
  )
  total = np.bincount(fine, minlength=num_fine)
  correct = np.bincount(fine[right], minlength=num_fine)
  there = total > 0
  worst = np.argmin(correct[there] / total[there])
  worst = train.fine_names[np.flatnonzero(there)[worst]]
  yield (
    'coarse_to_fine/linear_probe_worst_accuracy',
    measurement.minimum(
      correct[there], total[there], f'{on}, {how}, fine class {worst}'
    ),
  )
  voted = knn.predict(fitted, labels, asked, num_classes=num_fine, k=k)
  right = voted == fine
  yield (
    'coarse_to_fine/knn_accuracy',
    measurement.proportion(
      right.sum(),
      right.size,
      f'{on}, {k} nearest neighbours by cosine similarity, one vote each',
    ),
  )
  parents = _parents(train, test)[fine]
  counts = np.zeros((train.num_classes, num_fine), np.int64)
  np.add.at(counts, (parents, fine), 1)
  yield (
    'coarse_to_fine/collapsed_accuracy',
    measurement.exact(
      counts.max(axis=1).sum() / len(test),
      'share of test images that are of the commonest fine class of their'
      ' coarse class: what class collapse leaves, at best',
    ),
  )


def _parents(*splits: Source) -> np.ndarray:
  """Coarse class of each fine class, -1 of one without an example."""
  parents = np.full(len(splits[0].fine_names), -1)
  for split in splits:
    labels = split.labels if split.truth is None else split.truth.labels
    known = slice(None)
    if split.truth is not None:
      known = ~split.truth.abnormal
    parents[split.fine_labels[known]] = labels[known]
  return parents


def _siblings(train: Source, test: Source, fine: np.ndarray) -> np.ndarray:
  """Whether a fine class shares the coarse class of a row, ``[N, F]``."""
  parents = _parents(train, test)
  return parents[fine][:, None] == parents[None, :]
