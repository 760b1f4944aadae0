"""What features could do for the worst group: the last layer fitted anew."""

from collections.abc import Iterator

import jax
import numpy as np

from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError
from rrl_jax.evals import groups, linear_head, linear_probe, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.prediction import predicted
from rrl_jax.evals.task import EvalData

SETS = ('test_half', 'train')
REQUIRES = groups.REQUIRES
RULES = {
  'fit_on': (lambda v: v in SETS, 'one of ' + ', '.join(SETS)),
  'num_fits': rules.POSITIVE_COUNT,
  'l2': rules.AT_LEAST_ZERO,
  'tol': rules.POSITIVE,
}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  fit_on: str = 'test_half',
  num_fits: int = 10,
  l2: float = 1e-2,
  tol: float = 1e-5,
) -> Iterator[tuple[str, Measurement]]:
  """Deep feature reweighting: logistic regression on group-balanced features.

  As many examples of each group as the smallest has are drawn, ``num_fits``
  times; the solutions are averaged. It needs group labels, so it tells what
  the features hold, not what training without group labels reaches.

  Args:
    encoder: What is evaluated; it stays frozen.
    data: ``train`` and ``test``, with groups.
    key: Draws the half and the examples.
    fit_on: ``'test_half'``: half of each group of the test split, which is held
      out data, the other half being what is measured; ``'train'``: the
      training split, and all of the test split is measured.
    num_fits: Balanced draws.
    l2: Penalty, see `linear_probe.fit`.
    tol: Gradient tolerance.

  Yields:
    ``groups/dfr_worst_accuracy``, ``groups/dfr_accuracy/<group>``,
    ``groups/dfr_average_accuracy``, ``groups/dfr_reweighted_accuracy``; see
    `groups.evaluate`. A group without an example to fit on counts in no draw.

  Raises:
    ConfigError: There are no groups, a value is out of range, or the half of
      a test split leaves nothing.

  References:
    Kirichenko, Izmailov, Wilson, `Last Layer Re-Training is Sufficient for
    Robustness to Spurious Correlations <https://arxiv.org/abs/2204.02937>`_,
    2023; ``'test_half'`` is like their DFR on validation data, ``'train'`` on
    training data. They penalise by the L1 norm and tune its weight by the worst
    group; here it is the squared L2 norm with a weight that stays.
  """
  values = {'fit_on': fit_on, 'num_fits': num_fits, 'l2': l2, 'tol': tol}
  rules.check('last_layer', RULES, values)
  groups.check('last_layer', data)
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  _, test_features = encoder.predict(data.test.images)
  if fit_on == 'train':
    _, features = encoder.predict(data.train.images)
    fitted, measured = data.train, data.test
  else:
    half = _half(data.test, rng)
    if not half.any() or half.all():
      raise ConfigError(
        "evals.last_layer.fit_on='test_half': no group has two test examples"
      )
    rows, others = np.flatnonzero(half), np.flatnonzero(~half)
    fitted, measured = data.test.take(rows), data.test.take(others)
    features, test_features = test_features[rows], test_features[others]
  features, test_features = linear_probe.standardise(features, test_features)
  counts = fitted.group_counts
  size = int(counts[counts > 0].min())
  w = b = 0.0
  for _ in range(num_fits):
    drawn = np.concatenate(
      [
        rng.permutation(np.flatnonzero(fitted.groups == k))[:size]
        for k in np.flatnonzero(counts)
      ]
    )
    found = linear_head.logistic_regression(
      features[drawn], fitted.labels[drawn], fitted.num_classes, l2, tol
    )
    w, b = w + np.asarray(found[0]), b + np.asarray(found[1])
  right = predicted(test_features @ w + b) == measured.labels
  where = 'half of the test images' if fit_on == 'test_half' else 'training set'
  yield from groups.measure(
    right,
    measured,
    data.train,
    f'last layer fitted anew on frozen features of the {where} by {found[2]},'
    f' mean of {num_fits} draws of {size} from each group',
    prefix='dfr_',
    selected='the last layer read group labels, nothing else was selected by'
    ' them',
  )


def _half(split: Source, rng: np.random.Generator) -> np.ndarray:
  """Half of each group, rounded down, bool ``[N]``."""
  half = np.zeros(len(split), bool)
  for k in range(split.num_groups):
    members = rng.permutation(np.flatnonzero(split.groups == k))
    half[members[: len(members) // 2]] = True
  return half
