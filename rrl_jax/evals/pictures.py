"""Pairs of a clean and an attacked image for the report."""

from collections.abc import Iterator

import numpy as np

from rrl_jax.data import augment
from rrl_jax.data.source import Source


def choose(
  source: Source, clean_right: np.ndarray, right: np.ndarray, count: int
) -> np.ndarray:
  """Images that an attack fooled, if it did, of one concept after the other.

  Args:
    source: N attacked images.
    clean_right: Whether the prediction was right before the attack, ``[N]``.
    right: Whether it was so before and after, ``[N]``.
    count: Images to choose.

  Returns:
    Their positions, at most ``count``.
  """
  fooled = clean_right & ~right
  order = np.lexsort((_turns(source.concepts, fooled), ~fooled))
  return order[:count]


def figures(
  prefix: str,
  source: Source,
  shown: np.ndarray,
  adv: np.ndarray,
  clean_predicted: np.ndarray,
  adv_predicted: np.ndarray,
) -> Iterator[tuple[str, np.ndarray]]:
  """What the report needs to show them.

  Args:
    prefix: Of the names, as in ``figure/examples``.
    source: N attacked images.
    shown: Positions of those to show.
    adv: All N after the attack, ``[N, H, W, C]``.
    clean_predicted: Classes before, ``[N]``.
    adv_predicted: Classes after, ``[N]``.

  Yields:
    ``<prefix>_clean``, ``_adv``, ``_labels``, ``_clean_preds``,
    ``_adv_preds``, ``_class_names``.
  """
  pictured = source.take(shown).images[np.arange(len(shown))]
  yield f'{prefix}_clean', np.asarray(augment.to_float(pictured))
  yield f'{prefix}_adv', np.asarray(adv[shown], np.float32)
  yield f'{prefix}_labels', source.labels[shown]
  yield f'{prefix}_clean_preds', clean_predicted[shown].astype(np.int32)
  yield f'{prefix}_adv_preds', adv_predicted[shown].astype(np.int32)
  yield f'{prefix}_class_names', np.array(source.class_names)


def _turns(groups, chosen):
  """How many chosen members of its group come before each row, ``[N]``."""
  turns = np.zeros(len(groups), np.int64)
  for group in np.unique(groups):
    for mask in (chosen, ~chosen):
      members = np.flatnonzero((groups == group) & mask)
      turns[members] = np.arange(len(members))
  return turns
