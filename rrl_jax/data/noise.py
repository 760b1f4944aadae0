"""Wrong labels, made to measure: what they become, how often, of which images.

A kind of noise says which classes a label may turn into. ``symmetric`` takes
one of the others; ``symmetric_inclusive`` draws anew among all, the label
itself included, so that fewer turn out wrong than its rate says; ``pair`` takes
the next class; ``asymmetric`` follows a map of classes; ``instance`` follows
what a model mistakes each image for. `matrix` and `rates` tell what that comes
to, and the source keeps the `Truth` for evaluation:

>>> from rrl_jax.data import digits, noise
>>> train = noise.flip(digits.load().train, kind='pair', rate=0.5, seed=0)
>>> bool(train.truth.flipped[train.labels == train.truth.labels].any())
False
>>> noise.rates('symmetric_inclusive', 0.5, 10)[:2]
(0.5, 0.45)

Concepts and noise. A label that is given is all that training may know. So
where each class is a concept, the concept of an example is its *given* class,
flipped or not, and concept-balanced sampling balances given labels. Where
concepts are another grouping (``Source.has_hierarchy``), they stay those of the
true class: they stand for knowledge from elsewhere, such as where an image was
taken. Such concepts tell something of the true labels, and concept-balanced
sampling or a concept-wise objective then uses it.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rrl_jax.data import cifar100, concepts, npz
from rrl_jax.data.source import Source, Truth, check_damage, known_truth
from rrl_jax.errors import ConfigError, DataError

KINDS = (
  'none', 'symmetric', 'symmetric_inclusive', 'asymmetric', 'pair', 'instance'
)  # fmt: skip
_MAPS = {
  'cifar10': (
    'truck>automobile bird>airplane deer>horse cat<>dog'
  ),
  'mnist': '7>1 2>7 3>8 5<>6',
  'fashion_mnist': (
    'T-shirt/top<>Shirt Pullover<>Coat Sandal>Sneaker Sneaker>Ankle_boot'
  ),
}  # fmt: skip
_CHUNK = 8192  # Rows of logits worked on at once.
MAPPINGS = (*_MAPS, 'cifar100_superclass', 'cifar100_block')


class Rates(NamedTuple):
  """How much noise there is.

  Attributes:
    nominal: The rate that was asked for.
    expected: Expected share of the labels that come out wrong.
    protocol: Both in words.
  """

  nominal: float
  expected: float
  protocol: str


def flip(
  train: Source,
  *,
  kind: str,
  rate: float,
  seed: int,
  mapping: str = '',
  exact: bool = True,
  confusion: str | None = None,
) -> Source:
  r"""Gives some examples a wrong label, and remembers the right ones.

  Of the :math:`n_c` examples of a class c that the kind changes,
  :math:`\mathrm{round}(r n_c)` are chosen, or each by itself with probability
  r, and given one of the labels that c may turn into, all equally likely:

  * ``symmetric``: the C - 1 others;
  * ``symmetric_inclusive``: all C, so :math:`r (C-1)/C` come out wrong;
  * ``pair``: c + 1, and 0 for the last;
  * ``asymmetric``: the class that ``mapping`` names; classes it does not name
    stay as they are.

  ``instance``: example i is chosen with a probability in proportion to the mass
  :math:`1 - p_i[y_i]` that a model puts on classes other than its label, cut at
  1 and scaled so that the mean is r; the new label is drawn by those masses.

  Abnormal examples keep their labels and count for nothing. Which examples are
  chosen, and what they become, depends on labels and ``seed`` alone (and
  ``confusion``); apart from ``instance``, a smaller rate flips a subset of what
  a larger one flips, to the same labels.

  Args:
    train: Training examples, after classes are selected and thinned.
    kind: One of `KINDS`; ``'none'`` returns ``train`` as it is.
    rate: Share r of the labels to change, in [0, 1].
    seed: Which examples, and what they become. No other use of a seed in this
      folder draws the same numbers.
    mapping: For ``asymmetric``, one of `MAPPINGS` or a map such as
      ``'9>1 bird>airplane 3<>5'``, with ``<>`` for both ways and ``_`` for a
      blank in a name. A number that is no class's name is the label as
      ``train`` has it, after classes are selected, so names are safer.
    exact: Whether to choose as many as the rate says of each class (of all
      examples together for ``instance``), rather than each with probability r.
    confusion: For ``instance``, an ``.npz`` file with ``logits`` or ``probs``
      ``[N, C]``, a row for each example of ``train``, in its order.

  Returns:
    The same images with new labels, and the truth beside them.

  Raises:
    ConfigError: A value out of range, a class that does not exist.
    DataError: ``confusion`` does not fit, or leaves too little to flip.

  References:
    Wang et al., `Derivative Manipulation <https://arxiv.org/abs/1905.11233>`_,
    2019 (``symmetric``, ``cifar100_superclass``); Patrini et al., `Making Deep
    Neural Networks Robust to Label Noise <https://arxiv.org/abs/1609.03683>`_,
    2017 (``cifar10``, ``mnist``); Han et al., `Co-teaching
    <https://arxiv.org/abs/1804.06872>`_, 2018 (``pair``); Ma et al.,
    `Normalized Loss Functions <https://arxiv.org/abs/2006.13554>`_, 2020
    (``cifar100_block``).

  .. note::
    Published code for CIFAR-100 flips :math:`\lfloor r n_c \rfloor`. The map
    for Fashion-MNIST is ours, after the confusions of common classifiers.
  """
  check(
    kind=kind, rate=rate, seed=seed, mapping=mapping, exact=exact,
    confusion=confusion,
  )  # fmt: skip
  if kind == 'none':
    return train
  _check_classes(kind, train.num_classes)
  truth = known_truth(train)
  rng = np.random.default_rng((seed, 0x401E))  # Apart from other uses of seed.
  # One draw each for every example, so that none depends on another's label.
  chance, choice = rng.random(len(train)), rng.random(len(train))
  normal = np.flatnonzero(~truth.abnormal)
  given, chance, choice = train.labels[normal], chance[normal], choice[normal]
  if kind == 'instance':
    scores = _scores(confusion, train)
    mass = _mass(scores, normal, given)
    chosen = _choose_by_mass(mass, rate, chance, exact, rng.random(), confusion)
    new = _draw_by_mass(scores, normal, given, np.where(chosen, choice, -1))
  else:
    targets = _targets(kind, train.class_names, mapping, seed)
    size = np.array([len(members) for members in targets])
    chosen = _choose(given, rate, chance, exact) & (size[given] > 0)
    table = np.zeros((len(targets), max(size.max(), 1)), np.int64)
    for k, members in enumerate(targets):
      table[k, : size[k]] = members
    new = table[given, (choice * size[given]).astype(np.int64)]
  labels = train.labels.copy()
  labels[normal] = np.where(chosen, new, given)
  return dataclasses.replace(
    train,
    labels=labels,
    concepts=train.concepts if train.has_hierarchy else labels,
    truth=dataclasses.replace(truth, flipped=labels != truth.labels),
  )


def matrix(
  kind: str,
  rate: float,
  class_names: Sequence[str],
  *,
  mapping: str = '',
  seed: int = 0,
) -> np.ndarray:
  """Probability that a label of class c comes out as class k.

  Args:
    kind: One of `KINDS` but ``'instance'``, which has no such matrix.
    rate: As for `flip`.
    class_names: Name of each class.
    mapping: As for `flip`.
    seed: As for `flip`; matters for ``cifar100_superclass`` alone.

  Returns:
    float64 ``[C, C]``, rows c that sum to one.

  Raises:
    ConfigError: A value out of range, a class that does not exist.
  """
  check_damage('noise', KINDS, kind=kind, rate=rate, seed=seed)
  _check_mapping(kind, mapping, seed)
  result = np.eye(len(class_names))
  if kind == 'none':
    return result
  if kind == 'instance':
    raise ConfigError("data.noise.kind='instance': differs for each example")
  _check_classes(kind, len(class_names))
  targets = _targets(kind, class_names, mapping, seed)
  for k, members in enumerate(targets):
    if len(members):
      result[k] *= 1 - rate
      result[k, members] += rate / len(members)
  return result


def rates(
  kind: str,
  rate: float,
  num_classes: int,
  *,
  mapping: str = '',
  seed: int = 0,
  source: Source | None = None,
) -> Rates:
  """The rate that was asked for, and the share of wrong labels it leads to.

  Args:
    kind: One of `KINDS`.
    rate: As for `flip`.
    num_classes: Number of classes C.
    mapping: As for `flip`.
    seed: As for `flip`.
    source: The training examples, before or after `flip`, for how common the
      classes are that a map changes; all equally without.

  Returns:
    Both, and a sentence for the protocol. Abnormal examples do not count.

  Raises:
    ConfigError: A value out of range, a class that does not exist.
  """
  check_damage('noise', KINDS, kind=kind, rate=rate, seed=seed)
  _check_mapping(kind, mapping, seed)
  if kind == 'none':
    return Rates(0.0, 0.0, 'no label noise')
  _check_classes(kind, num_classes)
  rate = float(rate)
  expected = rate
  if kind == 'symmetric':
    becomes = f'one of the {num_classes - 1} other classes, uniformly'
  elif kind == 'symmetric_inclusive':
    becomes = f'any of the {num_classes} classes, itself included, uniformly'
    expected = rate * (num_classes - 1) / num_classes
  elif kind == 'pair':
    becomes = 'the next class'
  elif kind == 'instance':
    becomes = 'what a model mistakes its image for'
  else:
    becomes = f'the class that the map {mapping!r} gives'
    if source is None:
      expected = rate * min(len(_arrows(mapping, seed)) / num_classes, 1)
    else:
      labels = source.labels
      if source.truth is not None:
        labels = source.truth.labels[~source.truth.abnormal]
      targets = _targets(kind, source.class_names, mapping, seed)
      mapped = np.array([len(members) > 0 for members in targets])
      expected = rate * float(mapped[labels].mean()) if len(labels) else 0.0
  what = 'the mapped classes' if kind == 'asymmetric' else 'the labels'
  truth = source.truth if source is not None else None
  normal = truth is not None and truth.abnormal.any()
  which = 'labels of images that are not abnormal' if normal else 'labels'
  return Rates(
    rate,
    expected,
    f'{kind} label noise: {rate:.4g} of {what} become {becomes};'
    f' {expected:.4g} of all {which} are expected to be wrong',
  )


def save(path: str | os.PathLike, source: Source) -> None:
  """Writes given labels, true labels and flags as ``.npz``, by rename.

  The arrays are ``labels, true_labels`` (int32), ``flipped, abnormal`` (bool)
  and ``class_names``; of equal sources the files are equal.

  Args:
    path: The file; its folder exists.
    source: A source with a truth.

  Raises:
    ValueError: The source has none.
  """
  if source.truth is None:
    raise ValueError('the source has no truth to save')
  path = Path(path)
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  try:
    with part.open('wb') as file:
      np.savez(
        file,
        labels=source.labels,
        true_labels=source.truth.labels,
        flipped=source.truth.flipped,
        abnormal=source.truth.abnormal,
        class_names=np.array(source.class_names, np.str_),
      )
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> tuple[np.ndarray, Truth]:
  """Reads what `save` wrote.

  Args:
    path: The file.

  Returns:
    Given labels, int32 ``[N]``, and the truth.

  Raises:
    DataError: There is no such file, or it is not what `save` writes.
  """
  arrays = npz.read(path)
  kinds = {'labels': 'i', 'true_labels': 'i', 'flipped': 'b', 'abnormal': 'b'}
  shape = None
  for name, kind in kinds.items():
    if name not in arrays:
      raise DataError(f'{path} has no array {name!r}')
    array = arrays[name]
    if array.dtype.kind != kind or array.ndim != 1:
      raise DataError(f'{path}: {name} is {array.dtype} {array.shape}')
    shape = shape or array.shape
    if array.shape != shape:
      raise DataError(f'{path}: {name} has shape {array.shape}, not {shape}')
  labels, true_labels, flipped, abnormal = (arrays[name] for name in kinds)
  if ((labels != true_labels) != flipped).any():
    raise DataError(f'{path}: flipped does not say where labels are wrong')
  return labels.astype(np.int32), Truth(true_labels, flipped, abnormal)


def check(
  *,
  kind: str,
  rate: float,
  seed: int,
  mapping: str = '',
  exact: bool = True,
  confusion: str | None = None,
) -> None:
  """Checks what can be checked without the data.

  Args:
    kind: As for `flip`, as are the others.
    rate: A number.
    seed: An integer.
    mapping: A text.
    exact: A bool.
    confusion: The path of a file, which need not exist yet.

  Raises:
    ConfigError: A value out of range, or set for a kind that does not read it.
  """
  check_damage('noise', KINDS, kind=kind, rate=rate, seed=seed)
  _check_mapping(kind, mapping, seed)
  if not isinstance(exact, bool | np.bool_):
    raise ConfigError(f'data.noise.exact={exact!r}: True or False')
  if confusion is not None and not isinstance(confusion, str | os.PathLike):
    raise ConfigError(f'data.noise.confusion={confusion!r}: a path')
  if kind == 'instance' and not confusion:
    raise ConfigError(
      f"data.noise.confusion={confusion!r}: the kind 'instance' needs a .npz"
      ' file with logits or probs of the training examples'
    )
  if confusion and kind not in ('instance', 'none'):
    raise ConfigError(
      f"data.noise.confusion={str(confusion)!r}: the kind 'instance' reads it,"
      f' {kind!r} does not'
    )


def _check_mapping(kind: str, mapping: str, seed: int) -> None:
  if not isinstance(mapping, str):
    raise ConfigError(f'data.noise.mapping={mapping!r}: a text')
  if kind == 'asymmetric':
    _arrows(mapping, seed)
  elif mapping and kind != 'none':
    raise ConfigError(
      f"data.noise.mapping={mapping!r}: the kind 'asymmetric' reads it,"
      f' {kind!r} does not'
    )


def _check_classes(kind: str, num_classes: int) -> None:
  if num_classes < 2:
    raise ConfigError(
      f'data.noise.kind={kind!r}: there is no other class'
      f' (number of classes: {num_classes})'
    )


def _targets(
  kind: str, class_names: Sequence[str], mapping: str, seed: int
) -> list[np.ndarray]:
  """What each class may turn into, equally likely; nothing if it stays."""
  classes = np.arange(len(class_names))
  if kind == 'symmetric':
    return [np.delete(classes, k) for k in classes]
  if kind == 'symmetric_inclusive':
    return [classes for _ in classes]
  if kind == 'pair':
    return [(classes[k : k + 1] + 1) % len(classes) for k in classes]
  say = f'data.noise.mapping={mapping!r}'
  builtin = mapping in MAPPINGS
  find = concepts.finder(tuple(class_names), say, numbers=not builtin)
  targets = {}
  for token, (start, end) in _arrows(mapping, seed):
    first, second = find(start), find(end)
    if first == second:
      raise ConfigError(
        f'{say}: {token!r} maps class {class_names[first]!r} to itself'
      )
    if first in targets:
      raise ConfigError(f'{say}: class {class_names[first]!r} is mapped twice')
    targets[first] = second
  return [
    np.array([targets[k]] if k in targets else [], np.int64) for k in classes
  ]


def _arrows(mapping: str, seed: int) -> list[tuple[str, tuple[str, str]]]:
  """Texts of the classes at both ends of each arrow, and the text they are in.

  One for each class that changes, if the map is a good one.
  """
  if mapping == 'cifar100_block':
    pairs = [
      (name, cifar100.FINE[k - k % 5 + (k + 1) % 5])
      for k, name in enumerate(cifar100.FINE)
    ]
    return [(f'{start}>{end}', (start, end)) for start, end in pairs]
  if mapping == 'cifar100_superclass':
    rng = np.random.default_rng((seed, 0x5C1A))
    pairs = []
    for members in cifar100.SUPERCLASSES.values():
      first, second = rng.random(5).argsort(kind='stable')[:2]
      pairs.append((members[first], members[second]))
      pairs.append((members[second], members[first]))
    return [(f'{start}>{end}', (start, end)) for start, end in pairs]
  say = f'data.noise.mapping={mapping!r}'
  arrows = []
  for token in _MAPS.get(mapping, mapping).split():
    start, arrow, end = token.partition('<>' if '<>' in token else '>')
    if not (start and arrow and end) or '>' in end or '<' in start + end:
      raise ConfigError(
        f'{say}: {token!r} is no arrow; give one of {", ".join(MAPPINGS)},'
        " or arrows such as '9>1 bird>airplane 3<>5'"
      )
    arrows.append((token, (start, end)))
    if arrow == '<>':
      arrows.append((token, (end, start)))
  if not arrows:
    raise ConfigError(
      f"{say}: the kind 'asymmetric' needs one of {', '.join(MAPPINGS)},"
      " or arrows such as '9>1 bird>airplane 3<>5'"
    )
  return arrows


def _choose(
  given: np.ndarray, rate: float, chance: np.ndarray, exact: bool
) -> np.ndarray:
  """Whether each example [n] is chosen: those with the smallest chances."""
  if not exact:
    return chance < rate
  chosen = np.zeros(len(given), bool)
  for label in np.unique(given):
    members = np.flatnonzero(given == label)
    order = members[chance[members].argsort(kind='stable')]
    chosen[order[: round(rate * len(members))]] = True
  return chosen


def _choose_by_mass(
  mass: np.ndarray,
  rate: float,
  chance: np.ndarray,
  exact: bool,
  offset: float,
  path: str,
) -> np.ndarray:
  """Whether each example [n] is chosen, with probabilities like ``mass``.

  Exact: by systematic sampling in a random order, which keeps both the number
  of the chosen and the probability of each.
  """
  total = round(rate * len(mass)) if exact else rate * len(mass)
  if not total:
    return np.zeros(len(mass), bool)
  # The k largest are cut at 1; k is the first for which the rest need not be.
  ordered = np.sort(mass)[::-1]
  rest = np.cumsum(ordered[::-1])[::-1]
  fits = (total - np.arange(len(mass))) * ordered <= rest
  k = int(fits.argmax()) if fits.any() else len(mass)
  if k < len(mass) and total > k and not rest[k]:
    raise DataError(
      f'{path}: the model puts mass on wrong classes for {k} examples only,'
      f' of {len(mass)}; {total:g} were to be flipped'
    )
  scale = (total - k) / rest[k] if k < len(mass) and total > k else 0.0
  cut = mass >= (ordered[k - 1] if k else np.inf)
  probs = np.where(cut, 1.0, np.minimum(scale * mass, 1.0))
  if not exact:
    return chance < probs
  order = chance.argsort(kind='stable')
  marks = np.cumsum(probs[order])
  marks = np.floor(marks * (total / marks[-1]) + offset)
  chosen = np.zeros(len(mass), bool)
  chosen[order] = np.diff(marks, prepend=0.0) > 0
  return chosen


def _scores(path: str, train: Source) -> np.ndarray:
  """Logits [N, C] of a model: log-probabilities up to a constant a row."""
  arrays = npz.read(path)
  name = next((n for n in ('logits', 'probs') if n in arrays), None)
  if name is None:
    raise DataError(
      f'{path} has no array "logits" or "probs"; it holds'
      f' {", ".join(arrays) or "none"}'
    )
  say, array = f'{path}: {name}', arrays[name]
  expected = (len(train), train.num_classes)
  if array.shape != expected:
    raise DataError(
      f'{say} has shape {array.shape}, not {expected}: a row for each training'
      ' example, in order, and a column for each class'
    )
  if array.dtype.kind not in 'fiu':
    raise DataError(f'{say} is {array.dtype}, not numbers')
  finite = np.isfinite(array).all(axis=1)
  if not finite.all():
    raise DataError(f'{say} holds NaN or infinity in row {finite.argmin()}')
  if name == 'logits':
    return array
  sums = array.sum(axis=1, dtype=np.float64)
  bad = (array < 0).any(axis=1) | (abs(sums - 1) > 1e-2)
  if bad.any():
    row = bad.argmax()
    raise DataError(
      f'{say}: row {row} is no distribution (least {array[row].min():g},'
      f' sum {sums[row]:g})'
    )
  with np.errstate(divide='ignore'):
    return np.log(array)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
  """Positions in ``rows``, not too many at once."""
  for i in range(0, len(rows), _CHUNK):
    yield np.arange(i, min(i + _CHUNK, len(rows)))


def _mass(
  scores: np.ndarray, rows: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Mass on classes other than the labels [n] in rows [n], up to a factor."""
  log_mass = np.empty(len(rows))
  with np.errstate(divide='ignore'):  # log(0) of no mass at all.
    for now in _chunks(rows):
      logits = scores[rows[now]].astype(np.float64)
      logits -= logits.max(axis=1, keepdims=True)
      normalizer = np.log(np.exp(logits).sum(axis=1))
      logits[np.arange(len(now)), labels[now]] = -np.inf
      top = np.maximum(logits.max(axis=1), -1e300)
      # 1 - p by the others: exact where p is nearly 1.
      others = np.exp(logits - top[:, None]).sum(axis=1)
      log_mass[now] = top + np.log(others) - normalizer
  return np.exp(log_mass - max(log_mass.max(initial=-1e300), -1e300))


def _draw_by_mass(
  scores: np.ndarray,
  rows: np.ndarray,
  labels: np.ndarray,
  choice: np.ndarray,
) -> np.ndarray:
  """A class other than the label [n] by its mass, where choice [n] >= 0."""
  new = labels.astype(np.int64)
  drawn = np.flatnonzero(choice >= 0)
  for part in _chunks(drawn):
    now = drawn[part]
    logits = scores[rows[now]].astype(np.float64)
    logits[np.arange(len(now)), labels[now]] = -np.inf
    mass = np.exp(logits - logits.max(axis=1, keepdims=True))
    bounds = np.cumsum(mass, axis=1)
    # The first bound that lies above, which is that of a class with mass.
    point = choice[now, None] * bounds[:, -1:]
    new[now] = (bounds > point).argmax(axis=1)
  return new
