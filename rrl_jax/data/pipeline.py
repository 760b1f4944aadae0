"""Which examples each training step sees, and how they are read."""

from collections.abc import Iterator
import functools
import math
import sys
from typing import TYPE_CHECKING

import numpy as np

from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError, DataError

if TYPE_CHECKING:
  import grain

SAMPLING = ('uniform', 'concept_balanced', 'class_balanced')


def sampling_probs(source: Source, sampling: str) -> np.ndarray:
  """Probability that an example of a batch is of concept k.

  Args:
    source: Training examples.
    sampling: ``'uniform'`` over examples, ``'concept_balanced'`` or
      ``'class_balanced'``.

  Returns:
    float64 ``[K]`` that sums to one; zero for a concept without an example.

  Raises:
    ConfigError: Unknown ``sampling``.
  """
  _check_sampling(sampling)
  probs = _example_probs(source, sampling)
  return np.bincount(source.concepts, probs, minlength=source.num_concepts)


def class_probs(source: Source, sampling: str) -> np.ndarray:
  """Probability that an example of a batch has given label c.

  Args:
    source: Training examples.
    sampling: As for `sampling_probs`.

  Returns:
    float64, one a class, that sums to one; zero for a class without an example.

  Raises:
    ConfigError: Unknown ``sampling``.
  """
  _check_sampling(sampling)
  probs = _example_probs(source, sampling)
  return np.bincount(source.labels, probs, minlength=source.num_classes)


def index_batches(
  source: Source, *, batch_size: int, seed: int, sampling: str = 'uniform'
) -> 'grain.MapDataset':
  """The examples of every step, without end, by random access.

  Element s is an int64 array ``[batch_size]`` of positions in ``source``: the
  global batch of step s, the same however many processes share it. So the
  position in the data is the step, and nothing else need be saved to resume.

  ``'uniform'`` goes through the set in a new order each epoch; a batch may
  span two epochs. ``'concept_balanced'`` goes round the concepts, and through
  each concept in a new order each time it is used up: within a batch the
  numbers of examples of any two concepts differ by at most one.
  ``'class_balanced'`` does the same with the classes of the given labels. A
  batch smaller than their number has at most one example of each, so that a
  contrastive loss meets no positive but an image's own other view.

  Args:
    source: Training examples.
    batch_size: Examples a step, over all processes; may exceed the set.
    seed: Seeds every order; any non-negative integer.
    sampling: One of `SAMPLING`.

  Returns:
    A Grain dataset as long as an integer goes.

  Raises:
    ConfigError: A value out of range.
    DataError: The source is empty.
  """
  import grain  # Slow to import.

  _check_sampling(sampling)
  if batch_size < 1:
    raise ConfigError(f'batch_size={batch_size}: at least 1')
  if seed < 0:
    raise ConfigError(f'seed={seed}: at least 0')
  if not len(source):
    raise DataError('the training set is empty')
  if sampling == 'uniform':
    indices = _uniform(len(source), seed)
  else:
    indices = _balanced(_groups(source, sampling), batch_size, seed)
  rows = np.arange(batch_size, dtype=np.int64)
  steps = grain.MapDataset.range(sys.maxsize // batch_size)
  return steps.map(lambda step: indices(int(step) * batch_size + rows))


def stream(
  source: Source,
  batches: 'grain.MapDataset',
  *,
  start: int,
  stop: int,
  rows: np.ndarray | None = None,
  num_threads: int = 4,
  prefetch: int = 4,
  images: bool = True,
) -> Iterator[dict[str, np.ndarray]]:
  """Reads the batches of steps ``start`` to ``stop`` ahead of their use.

  Args:
    source: Training examples.
    batches: What `index_batches` gave for that source.
    start: First step.
    stop: The step after the last.
    rows: Which rows of each batch to read, rising; None for all. Several
      processes read a share each.
    num_threads: Steps read at once; 0 reads in the caller's thread.
    prefetch: Steps read ahead.
    images: Whether to read the images; without, the set is where the step
      runs and looks them up there.

  Yields:
    ``image`` ``[n, H, W, C]`` as the source has it, and int32 ``label``,
    ``concept`` and ``index`` (position in ``source``) ``[n]``, and ``group`` if
    the source has groups; n is the number of ``rows``.
  """
  import grain

  if stop <= start:
    return iter(())

  def read(batch: np.ndarray) -> dict[str, np.ndarray]:
    batch = batch if rows is None else batch[rows]
    found = {
      'label': source.labels[batch],
      'concept': source.concepts[batch],
      'index': batch.astype(np.int32),
    }
    if source.batch_groups is not None:
      found['group'] = source.batch_groups[batch]
    return found | {'image': source.images[batch]} if images else found

  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=prefetch if num_threads else 0
  )
  return iter(batches[start:stop].map(read).to_iter_dataset(options))


def _check_sampling(sampling: str) -> None:
  if sampling not in SAMPLING:
    raise ConfigError(
      f'data.sampling={sampling!r}: known are {", ".join(SAMPLING)}'
    )


def _groups(source: Source, sampling: str) -> list[np.ndarray]:
  """Examples of each group of which a batch is to hold as many."""
  by_class = sampling == 'class_balanced'
  groups = source.labels if by_class else source.concepts
  count = source.num_classes if by_class else source.num_concepts
  members = [np.flatnonzero(groups == k) for k in range(count)]
  return [examples for examples in members if len(examples)]


def _example_probs(source: Source, sampling: str) -> np.ndarray:
  """Probability that an example of a batch is the i-th one, ``[N]``."""
  if sampling == 'uniform':
    return np.full(len(source), 1 / len(source))
  ids = source.labels if sampling == 'class_balanced' else source.concepts
  counts = np.bincount(ids)
  return 1 / (np.count_nonzero(counts) * counts[ids])


def _uniform(n: int, seed: int):
  """Positions [B] in an endless walk over n examples -> examples [B]."""

  @functools.lru_cache(maxsize=4)  # Threads may be an epoch apart.
  def order(epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)

  def indices(positions: np.ndarray) -> np.ndarray:
    epochs, offsets = np.divmod(positions, n)
    examples = np.empty_like(positions)
    for epoch in np.unique(epochs):
      now = epochs == epoch
      examples[now] = order(int(epoch))[offsets[now]]
    return examples

  return indices


def _balanced(members: list[np.ndarray], batch_size: int, seed: int):
  """Positions [B] in an endless round of the groups -> examples [B].

  Round r gives one example of each group. The order of groups in a round
  changes where a round and a batch begin together; in between it repeats, so
  that any batch has equal counts within one. Were it never to change, and a
  batch smaller than the number of groups, the same groups would always share
  a batch.
  """
  num = len(members)
  period = math.lcm(batch_size, num)

  @functools.lru_cache(maxsize=4)
  def group_order(time: int) -> np.ndarray:
    return np.random.default_rng((seed, num, time)).permutation(num)

  @functools.lru_cache(maxsize=4 * num)
  def order(group: int, epoch: int) -> np.ndarray:
    rng = np.random.default_rng((seed, group, epoch))
    return rng.permutation(members[group])

  def indices(positions: np.ndarray) -> np.ndarray:
    # A batch lies within one period.
    groups = group_order(int(positions[0]) // period)[positions % num]
    rounds = positions // num
    examples = np.empty_like(positions)
    for group in np.unique(groups):
      now = np.flatnonzero(groups == group)
      epochs, offsets = np.divmod(rounds[now], len(members[group]))
      for epoch in np.unique(epochs):
        here = epochs == epoch
        examples[now[here]] = order(int(group), int(epoch))[offsets[here]]
    return examples

  return indices
