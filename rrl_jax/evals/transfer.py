"""Target tasks on frozen features: linear probe, linear SVM, kNN."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.evals import (
  knn,
  linear_head,
  linear_probe,
  measurement,
  prediction,
  rules,
)
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, choose_training

PROBES = ('linear_probe', 'svm', 'knn')
RULES = {
  'probes': (lambda v: set(v) <= set(PROBES), 'some of ' + ', '.join(PROBES)),
  'l2': rules.AT_LEAST_ZERO,
  'tol': rules.POSITIVE,
  'svm_c': rules.POSITIVE,
  'k': rules.POSITIVE_COUNT,
  'num_train': rules.COUNT,
}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  probes: Sequence[str] = PROBES,
  l2: float = 1e-4,
  tol: float = 1e-5,
  svm_c: float = 1.0,
  k: int = 20,
  num_train: int = 10_000,
) -> Iterator[tuple[str, Measurement]]:
  """Fits simple classifiers on each target task's features.

  Features come from the encoder once, are standardised by the moments of the
  task's training split, and serve all classifiers.

  Args:
    encoder: What is evaluated; it stays frozen.
    data: ``tasks`` are solved one after the other.
    key: Not used: nothing here is random.
    probes: Some of linear_probe, svm and knn.
    l2: Penalty of the linear probe, see `linear_probe.fit`.
    tol: Gradient tolerance of the linear probe.
    svm_c: scikit-learn's C of the linear SVM.
    k: Neighbours of kNN.
    num_train: Training examples used of each task, see `choose_training`; 0
      for all. The SVM takes minutes on many more than the default.

  Yields:
    ``transfer/<probe>_accuracy``, the mean over tasks, and
    ``transfer/<task>/<probe>_accuracy``; nothing without a task.

  Raises:
    ConfigError: An unknown probe, or a value out of range.
    DataError: Training features that are not finite.
  """
  values = {
    'probes': probes,
    'l2': l2,
    'tol': tol,
    'svm_c': svm_c,
    'k': k,
    'num_train': num_train,
  }
  rules.check('transfer', RULES, values)
  found: dict[str, list[Measurement]] = {probe: [] for probe in probes}
  said = {}
  for task in data.tasks:
    chosen = choose_training(task, num_train)
    _, train = encoder.predict(task.train.images)
    _, test = encoder.predict(task.test.images)
    train, test = linear_probe.standardise(train[chosen], test)
    labels = task.train.labels[chosen]
    num_classes = task.train.num_classes
    for probe in probes:
      if probe == 'linear_probe':
        w, b, how = linear_head.logistic_regression(
          train, labels, num_classes, l2, tol
        )
        logits = jnp.asarray(test) @ w + b[None]
        predicted = prediction.predicted(np.asarray(logits))
      elif probe == 'svm':
        predicted, how = _svm(train, labels, test, svm_c)
      else:
        predicted = knn.predict(
          train, labels, test, num_classes=num_classes, k=k
        )
        used = min(k, len(labels))
        how = f'{used} nearest neighbours by cosine similarity, one vote each'
        if used < k:
          how += f' (all that there are, fewer than k={k})'
      said[probe] = f'{how}, on frozen standardised features'
      right = predicted == task.test.labels
      measured = measurement.proportion(
        right.sum(),
        right.size,
        f'task {task.name}: {said[probe]}, {len(labels)} training and '
        f'{right.size} test images',
      )
      found[probe].append(measured)
      yield f'transfer/{task.name}/{probe}_accuracy', measured
  for probe, parts in found.items():
    if parts:
      yield (
        f'transfer/{probe}_accuracy',
        measurement.mean(parts, said[probe]),
      )


def _svm(train, labels, test, c):
  """Predictions of scikit-learn's linear SVM, and how it was fitted."""
  import warnings

  from sklearn import exceptions, svm  # Slow to import.

  how = f'linear SVM (squared hinge, one against the rest), C={c:g}'
  if np.unique(labels).size == 1:  # Nothing to separate.
    return np.full(len(test), labels[0]), how
  model = svm.LinearSVC(C=c, dual='auto', random_state=0)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', exceptions.ConvergenceWarning)
    model.fit(train, labels)
  if any(issubclass(w.category, exceptions.ConvergenceWarning) for w in caught):
    how += ' (not converged in 1000 iterations)'
  predicted = np.full(len(test), prediction.NONE)
  known = np.isfinite(test).all(axis=1)
  if known.any():
    predicted[known] = model.predict(test[known])
  return predicted, how
