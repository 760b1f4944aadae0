"""Which classes to keep, which concepts they form, how common each is.

The same three texts apply to every source. A class is given by its name
(blanks as ``_``, in any case) or its number; see `select` and `thin`.
"""

from collections.abc import Callable
import dataclasses
import re

import numpy as np

from rrl_jax.data.source import Source, Splits, Truth
from rrl_jax.errors import ConfigError, DataError


def select(splits: Splits, *, classes: str = '', concepts: str = 'class'):
  """Keeps some classes, renumbered from 0 in their order, and groups them.

  Args:
    splits: A set whose concepts are its classes or the hierarchy it brings.
    classes: Members as ``'0-5,8'`` or ``'cat,dog'``; ``''`` for all.
    concepts: ``'class'``, one a class, and so are ``'fine'`` and ``'group'``,
      which `coarse` and `groups` tell apart; ``'coarse'``, the hierarchy the
      set brings; or groups of members, each with a name or without, as in
      ``'clothes=0,1,3 shoes=5,7,9 8'``. Numbers are those of the set, before
      ``classes`` renumbers. Members that are not kept do not count, nor do
      groups that are left empty.

  Returns:
    The splits. An image of a kept label whose true class is not kept belongs
    to no class any more: its truth is abnormal.

  Raises:
    ConfigError: A class that does not exist or is given twice, a kept class
      in no group, a hierarchy that the set does not have.
    DataError: No example is left in a split.

  Example:
    >>> from rrl_jax.data import mock
    >>> splits = select(mock.load(), classes='2-4', concepts='low=2,3 4-9')
    >>> splits.train.class_names, splits.train.concept_names
    (('2', '3', '4'), ('low', '4-9'))
  """
  names = splits.train.class_names
  kept = range(len(names))
  if classes:
    kept = sorted(_members(classes, names, f'data.classes={classes!r}'))
  new_label = np.full(len(names), -1)
  new_label[list(kept)] = np.arange(len(kept))

  by_class = concepts in ('class', 'fine', 'group')
  if by_class:
    groups = {names[k]: [k] for k in kept}
  elif concepts == 'coarse':
    if not splits.train.has_hierarchy:
      raise ConfigError(
        "data.concepts='coarse': this set brings no hierarchy;"
        " use 'class' or groups by hand such as 'a=0-4 b=5-9'"
      )
    groups = None
  else:
    groups = _kept(concepts, names, kept)

  def apply(split: Source, what: str) -> Source:
    if len(kept) < len(names):
      split = split.take(np.flatnonzero(new_label[split.labels] >= 0))
    if not len(split):
      raise DataError(
        f'data.classes={classes!r} leaves no example in the {what} split'
      )
    labels = new_label[split.labels]
    truth = split.truth and _renumber(split.truth, labels, new_label)
    if groups is None:
      concept_ids, concept_names = split.concepts, split.concept_names
    else:
      concept_of = np.full(len(kept), -1)
      for k, members in enumerate(groups.values()):
        concept_of[new_label[members]] = k
      # A group goes with the true class, where it is known; see `noise`.
      by_truth = truth is not None and not by_class
      concept_ids = concept_of[truth.labels if by_truth else labels]
      concept_names = tuple(groups)
    return dataclasses.replace(
      split,
      labels=labels,
      class_names=tuple(names[k] for k in kept),
      concepts=concept_ids,
      concept_names=concept_names,
      truth=truth,
    )

  train, test = apply(splits.train, 'train'), apply(splits.test, 'test')
  if groups is None:
    used = np.union1d(train.concepts, test.concepts)
    concept_names = tuple(train.concept_names[k] for k in used)
    train, test = (
      dataclasses.replace(
        split,
        concepts=np.searchsorted(used, split.concepts),
        concept_names=concept_names,
      )
      for split in (train, test)
    )
  return Splits(train, test)


# Named profiles of `thin`: the imbalanced sets of Chen, Fu et al., 2022.
PROFILES = {'cifar100_u': 'within:1,0.5,0.2,0.1,0.1', 'mnist_u': '8=0.05'}


def thin(source: Source, imbalance: str, *, seed: int) -> Source:
  r"""Makes some concepts rare; which examples stay depends on ``seed`` alone.

  ``'1.0,0.25,0.08'`` keeps that fraction of each concept, ``'8=0.05,cat=0.5'``
  of some, by name or number. ``'exp:R'`` keeps
  :math:`n_k = n_0 R^{-k/(K-1)}` examples of concept k, so that the first has R
  times as many as the last (fewer, where a concept has not so many to start
  with). Rounded, at least one example of a concept stays. ``'within:...'``
  does this among the concepts of each class, in their order, where a concept
  lies in one class: subclasses of a coarse class, with the concepts ``'fine'``.
  `PROFILES` have names: ``'cifar100_u'`` and ``'mnist_u'``. A smaller fraction
  keeps a subset of what a larger one keeps.

  Args:
    source: Training examples.
    imbalance: The text, ``''`` for none.
    seed: Which examples stay.

  Returns:
    The source, in its order.

  Raises:
    ConfigError: The text says none of these, or not one fraction a concept.

  References:
    Cui et al., `Class-Balanced Loss <https://arxiv.org/abs/1901.05555>`_,
    2019, section 5.1 (the exponential profile); Chen, Fu et al., `Perfectly
    Balanced <https://arxiv.org/abs/2204.07596>`_, 2022, whose released code has
    the fractions of CIFAR-100-U, and a co-author's the rare digit.

  .. note::
    The released CIFAR-100-U draws with replacement, without a seed, and thins
    the test split too; here the test split stays as it is.
  """
  if not imbalance:
    return source
  say = f'data.imbalance={imbalance!r}'
  profile = PROFILES.get(imbalance, imbalance)
  counts, names = source.concept_counts, source.concept_names
  if profile.startswith('within:'):
    targets = np.zeros(len(counts))
    for label, members in _by_class(source, say).items():
      targets[members] = _targets(
        profile.removeprefix('within:'),
        counts[members],
        tuple(names[k] for k in members),
        f'{say}: class {source.class_names[label]!r}',
      )
  else:
    targets = _targets(profile, counts, names, say)
  rng = np.random.default_rng((seed, 0x7417))  # Apart from other uses of seed.
  kept = []
  for k, target in enumerate(targets):
    members = rng.permutation(np.flatnonzero(source.concepts == k))
    kept.append(members[: max(round(float(target)), 1)])
  return source.take(np.sort(np.concatenate(kept)))


def _targets(
  profile: str, counts: np.ndarray, names: tuple[str, ...], say: str
) -> np.ndarray:
  """How many examples of each concept stay, before rounding."""
  if profile.startswith('exp:'):
    ratio = _number(profile[4:], say)
    if not 1 <= ratio < np.inf:
      raise ConfigError(f'{say}: the ratio of head to tail is at least 1')
    powers = np.arange(len(counts)) / max(len(counts) - 1, 1)
    return np.minimum(counts, counts[0] * ratio**-powers)
  if '=' in profile:
    find = finder(names, say)
    fractions = [1.0] * len(counts)
    for part in profile.split(','):
      name, _, number = part.rpartition('=')
      fractions[find(name.strip())] = _number(number, say)
  else:
    fractions = [_number(part, say) for part in profile.split(',')]
  if len(fractions) != len(counts):
    raise ConfigError(
      f'{say}: {len(fractions)} fractions for {len(counts)} concepts'
      f' ({", ".join(names)})'
    )
  if not all(0 < f <= 1 for f in fractions):
    raise ConfigError(f'{say}: fractions lie in (0, 1]')
  return counts * np.asarray(fractions)


def _by_class(source: Source, say: str) -> dict[int, list[int]]:
  """Concepts of each class; those without an example are in none."""
  members = {}
  for k, name in enumerate(source.concept_names):
    labels = np.unique(source.labels[source.concepts == k])
    if len(labels) > 1:
      raise ConfigError(
        f'{say}: the concept {name!r} lies in more than one class'
      )
    if len(labels):
      members.setdefault(int(labels[0]), []).append(k)
  return members


def finder(
  names: tuple[str, ...], say: str, *, numbers: bool = True
) -> Callable[[str], int]:
  """What turns the text of a class into its number.

  Args:
    names: Name of each class. Blanks may be written as ``_``, in any case.
    say: The setting and its value, for the error.
    numbers: Whether a number that is no name means a position in ``names``;
      never so where all names are numbers.

  Returns:
    A function of the text, which raises ConfigError if there is no such class.
  """
  plain = lambda name: re.sub(r'\s', '_', name.strip()).lower()
  by_name = {plain(name): k for k, name in reversed(list(enumerate(names)))}
  by_name |= {name: k for k, name in enumerate(names)}
  numbers = numbers and not all(name.isdecimal() for name in names)

  def find(token: str) -> int:
    for spelling in (token, plain(token)):
      if spelling in by_name:
        return by_name[spelling]
    if numbers and token.isdecimal() and int(token) < len(names):
      return int(token)
    raise ConfigError(
      f'{say}: no class {token!r}; classes are {_listing(names)}'
    )

  return find


def _renumber(truth: Truth, labels: np.ndarray, new_label: np.ndarray) -> Truth:
  """The truth of examples by the new numbers of their classes."""
  true_labels = new_label[truth.labels]
  gone = true_labels < 0
  return Truth(
    np.where(gone, labels, true_labels),
    truth.flipped & ~gone,
    truth.abnormal | gone,
  )


def _number(text: str, say: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise ConfigError(
      f'{say}: {text!r} is no number; give one fraction a concept, as in'
      " '1,0.5,0.1', or 'exp:100'"
    ) from None


def groups(text: str, names: tuple[str, ...], say: str) -> dict[str, list[int]]:
  """Members of each group that a text such as ``'clothes=0,1 8'`` lists.

  Args:
    text: Groups between blanks; each has a name or is called as it is written.
    names: Name of each class.
    say: The setting and its value, for the error.

  Raises:
    ConfigError: A class that does not exist or is given twice, a name that is
      empty or given twice.
  """
  found, seen = {}, {}
  for group in text.split():
    name, equals, members = group.rpartition('=')
    if equals and not name:
      raise ConfigError(f'{say}: {group!r} has an empty name')
    name = name or members
    if name in found:
      raise ConfigError(f'{say}: two groups are called {name!r}')
    found[name] = _members(members, names, say)
    for k in found[name]:
      if k in seen:
        raise ConfigError(
          f'{say}: class {names[k]!r} is in {seen[k]!r} and in {name!r}'
        )
      seen[k] = name
  return found


def _kept(
  text: str, names: tuple[str, ...], kept: range | list[int]
) -> dict[str, list[int]]:
  """Kept members of each group that has one, by name."""
  say = f'data.concepts={text!r}'
  found = groups(text, names, say)
  seen = {k for members in found.values() for k in members}
  missing = [names[k] for k in kept if k not in seen]
  if missing:
    raise ConfigError(
      f'{say}: in no group: {", ".join(missing)}; classes are'
      f' {_listing(names)} (or say class, fine, coarse, group)'
    )
  found = {
    name: [k for k in members if k in kept] for name, members in found.items()
  }
  return {name: members for name, members in found.items() if members}


def _members(text: str, names: tuple[str, ...], say: str) -> list[int]:
  """Numbers of the classes that a text such as ``'0-5,8,ship'`` lists."""
  find = finder(names, say)
  members = []
  for token in (part.strip() for part in text.split(',')):
    span = re.fullmatch(r'(\d+)-(\d+)', token)
    if span and token not in names:
      first, last = int(span[1]), int(span[2])
      if first > last:
        raise ConfigError(f'{say}: the range {token!r} runs backwards')
      find(span[1]), find(span[2])  # Before a range of billions is walked.
      found = [find(str(k)) for k in range(first, last + 1)]
    else:
      found = [find(token)]
    members.extend(found)
  for k in members:
    if members.count(k) > 1:
      raise ConfigError(f'{say}: class {names[k]!r} is given twice')
  return members


def _listing(names: tuple[str, ...]) -> str:
  shown = [
    name if name == str(k) else f'{k} {name}' for k, name in enumerate(names)
  ]
  if len(shown) > 12:
    shown = [*shown[:10], '...', shown[-1]]
  return ', '.join(shown)
