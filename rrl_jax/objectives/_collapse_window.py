r"""Between which alphas the ideal spread loss neither collapses nor merges.

Classes lie about the vertices of a regular simplex, the views of an image
coincide, and P_c contrasts are of class c, N_c of others. Let s be the squared
distance of embeddings from their class mean, orthogonal to the simplex. At
s = 0 classes are points; at s = 1 their means vanish and classes have merged.
The loss is (1 - alpha) L_sup + alpha L_cNCE; its slope in s, at either end,
changes sign at an alpha:

* at s = 0, of class c alone, the slopes are :math:`A_c / \tau` and
  :math:`-1 / \tau` with :math:`q_c = P'_c / (P'_c + N_c e^{-K / ((K-1)\tau)})`,
  P' the positives in the denominator, and

  .. math:: A_c = (1 - q_c) \Big(1 + \frac{1}{2 (K - 1)}\Big) +
            \frac{1}{2 (K - 1)} \sum_{c' \neq c} \frac{P_{c'}}{N_{c'}}
            (1 - q_{c'}),

  so collapse is a minimum for :math:`\alpha < A_c / (1 + A_c)`, which is
  `losses.collapse_threshold` for balanced classes;
* at s = 1 they are taken of the balanced loss with all cosines within a class
  equal, -1 / (P - 1).

Views of an image never coincide in practice, so these are guides.
"""

from collections.abc import Sequence

import numpy as np

_STEP = 1e-4


def collapse_thresholds(
  contrasts: Sequence[float],
  temperature: float,
  *,
  denominator: str = 'one_positive',
  clipped: bool = False,
) -> np.ndarray:
  """The alpha of each class below which it is a point at a minimum.

  Args:
    contrasts: P_c of each class, ``[K]``, K at least 2, positive.
    temperature: Positive.
    denominator: As in `losses.supervised_contrastive`.
    clipped: Whether the numerator is clipped below its value at collapse:
      nothing attracts positives there, which takes 1 from A_c.

  Returns:
    Thresholds in [0, 1), ``[K]``.
  """
  contrasts = np.asarray(contrasts, np.float64)
  others = contrasts.sum() - contrasts
  rest = 1 / (len(contrasts) - 1)
  repulsion = others * np.exp(-(1 + rest) / temperature)
  repelled = repulsion / (_scored(denominator, contrasts) + repulsion)  # 1 - q
  by_others = contrasts / others * repelled
  slope = repelled * (1 + rest / 2)
  slope += rest / 2 * (by_others.sum() - by_others)
  slope = np.maximum(slope - clipped, 0)
  return slope / (1 + slope)


def merging_threshold(
  num_classes: int,
  contrasts: float,
  temperature: float,
  *,
  denominator: str = 'one_positive',
) -> float:
  """The alpha above which classes have merged at a minimum.

  Args:
    num_classes: K, at least 2.
    contrasts: P, of each class, more than 1.
    temperature: Positive.
    denominator: As in `losses.supervised_contrastive`.

  Returns:
    The threshold, in (0, 1].
  """
  high, low = (
    np.array(ideal_terms(1 + change, num_classes, contrasts, temperature,
                         denominator))
    for change in (_STEP, -_STEP)
  )  # fmt: skip
  supervised, conditional = high - low
  return float(supervised / (supervised - conditional))


def remarks(
  alphas: np.ndarray,
  contrasts: np.ndarray,
  temperature: float,
  *,
  class_names: Sequence[str],
  denominator: str = 'one_positive',
  clipped: bool = False,
) -> list[str]:
  """One line if some alpha is too small, one if some is too large.

  Args:
    alphas: Of each class, ``[K]``.
    contrasts: P_c of each class, ``[K]``, positive.
    temperature: Positive.
    class_names: Name of each class.
    denominator: As in `losses.supervised_contrastive`.
    clipped: As in `collapse_thresholds`.
  """
  low = collapse_thresholds(
    contrasts, temperature, denominator=denominator, clipped=clipped
  )
  high = merging_threshold(
    len(alphas),
    max(np.mean(contrasts), 2),
    temperature,
    denominator=denominator,
  )
  setting = (
    f'temperature {temperature:g}, {len(alphas)} classes,'
    f' {np.mean(contrasts):.4g} contrasts each'
  )
  room = ''
  if low.max() < high:
    room = f'; the room is from {low.max():.3f} to {high:.3f}'
  said = []
  for short, bound, what in (
    (low - alphas, low, 'below {:.3f} ({}): classes collapsed to points are a'
     ' minimum of the ideal loss'),
    (alphas - high, high + 0 * low, 'above {:.3f} ({}): the ideal loss is least'
     ' where classes have merged'),
  ):  # fmt: skip
    if short.max() > 0:
      c = int(np.argmax(short))
      name = f'objective.kw.alpha={alphas[c]:.3g}'
      if np.ptp(alphas) > 0 or np.ptp(bound) > 1e-9:
        name = f'alpha={alphas[c]:.3g} of class {class_names[c]!r}'
      said.append(f'{name} lies {what.format(bound[c], setting)}{room}')
  return said


def ideal_terms(
  spread: float,
  num_classes: int,
  contrasts: float,
  temperature: float,
  denominator: str,
) -> tuple[float, float]:
  """L_sup and L_cNCE as a function of the spread s, balanced classes."""
  within = (1 - spread * contrasts / (contrasts - 1)) / temperature
  between = -(1 - spread) / (num_classes - 1) / temperature
  own = 1 / temperature
  log_negatives = np.log((num_classes - 1) * contrasts) + between
  log_positives = np.logaddexp(own, np.log(contrasts - 1) + within)
  logits, shares = np.array([own, within]), np.array([1, contrasts - 1])
  shares = shares / contrasts
  if denominator == 'one_positive':
    log_sums = np.logaddexp(log_negatives, logits)
  elif denominator == 'negatives_only':
    log_sums = log_negatives
  else:
    log_sums = np.logaddexp(log_negatives, log_positives)
  if denominator == 'in':
    supervised = log_sums - log_positives + np.log(contrasts)
  else:
    supervised = np.sum(shares * (log_sums - logits))
  return float(supervised), float(log_positives - own)


def _scored(denominator, contrasts):
  """How many positives the denominator holds."""
  if denominator == 'negatives_only':
    return 0.0
  return 1.0 if denominator == 'one_positive' else contrasts
