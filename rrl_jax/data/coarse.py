"""Coarse labels: classes merged into few, the fine ones kept to evaluate with.

A network that learns from coarse labels may forget the classes inside them
(class collapse); what it still knows is measured with the fine labels, which
training never sees. The map is one that a set is known for, the hierarchy that
it brings, or a text:

>>> from rrl_jax import data
>>> train, _ = data.load('digits', coarse='source', concepts='fine')
>>> train.class_names, train.fine_names[:4], train.num_concepts
(('0-4', '5-9'), ('0', '1', '2', '3'), 10)

A coarse class may have a single fine class: nothing can collapse in it, it
counts like any other, and a class-conditional loss sees one cluster there.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from rrl_jax.data import cifar100
from rrl_jax.data import concepts as concepts_lib
from rrl_jax.data.source import Source, Splits, Truth
from rrl_jax.errors import ConfigError, DataError

# Coarse class -> its fine classes. Those of MNIST and CIFAR-10 are the ones of
# the released code of Chen, Fu et al., 2022; that of CIFAR-100 was published
# with the set; that of Fashion-MNIST is ours: what is worn on the body against
# shoes and bags.
MAPS: dict[str, dict[str, tuple[str, ...]]] = {
  'mnist': {
    '0-4': ('0', '1', '2', '3', '4'),
    '5-9': ('5', '6', '7', '8', '9'),
  },
  'fashion_mnist': {
    'clothes': (
      'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Shirt',
    ),
    'accessories': ('Sandal', 'Sneaker', 'Bag', 'Ankle boot'),
  },
  'cifar10': {
    'animals': ('bird', 'cat', 'deer', 'dog', 'frog', 'horse'),
    'vehicles': ('airplane', 'automobile', 'ship', 'truck'),
  },
  'cifar100': cifar100.SUPERCLASSES,
}  # fmt: skip
# The same classes by number, where they do not follow the alphabet.
_FASHION_MNIST = (
  'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat',
  'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip
_OF_SOURCE = {'digits': 'mnist', 'fashion_mnist': 'fashion_mnist'}


def of_source(splits: Splits, name: str, kw: Mapping) -> Splits:
  """The splits with the hierarchy that their source is known for as concepts.

  Args:
    splits: What the source gave.
    name: The source.
    kw: Its settings; of tfds, ``data_set`` says what it is.

  Returns:
    The splits as they are, if they bring a hierarchy or none is known.
  """
  if splits.train.has_hierarchy:
    return splits
  if name == 'tfds':
    data_set = str(kw.get('data_set', '')).partition(':')[0].partition('/')[0]
    known = data_set.removesuffix('_corrupted')
  else:
    known = _OF_SOURCE.get(name, '')
  if known not in MAPS:
    return splits
  names = splits.train.class_names
  groups = _standard(known, names, f'the map of {known}')
  group_of = _inverse(groups, len(names))
  if (group_of < 0).any():
    return splits
  return Splits(
    *(
      dataclasses.replace(
        split,
        concepts=group_of[split.labels],
        concept_names=tuple(groups),
      )
      for split in splits
    )
  )


def apply(
  splits: Splits, coarse: str, *, whole: Splits, concepts: str
) -> Splits:
  """Gives both splits coarse labels; the fine ones stay beside them.

  Args:
    splits: What `concepts.select` made of a set.
    coarse: ``'source'``, the hierarchy that the set brings; one of `MAPS`, by
      the names of the classes or, where these are numbers, by number; or
      groups of classes as in ``'clothes=0,1,3 shoes=5,7,9'``, of which the
      numbers are those of the whole set; ``''`` for none.
    whole: The set before classes were selected.
    concepts: What concepts were asked for: with ``'class'`` each coarse class
      is one, with ``'fine'`` each fine class, any other grouping stays.

  Returns:
    The splits. Their ``truth``, if any, is that of the coarse labels; fine
    labels are the true ones, as far as it knows them. A group without a kept
    class is left out.

  Raises:
    ConfigError: A class that does not exist, is in two groups or in none; a
      map or hierarchy that the set does not fit; fine concepts without coarse
      labels.
    DataError: A hierarchy that has one class in two places.
  """
  if not coarse:
    if concepts == 'fine':
      raise ConfigError(
        "data.concepts='fine': there are no coarse labels, so classes are"
        " fine ('class'); data.coarse asks for them"
      )
    return splits
  fine_names = splits.train.class_names
  groups = _groups(coarse, whole)
  number = {name: k for k, name in enumerate(fine_names)}
  by_name = {
    name: [number[c] for c in members if c in number]
    for name, members in groups.items()
  }
  groups = {name: members for name, members in by_name.items() if members}
  coarse_of = _inverse(groups, len(fine_names))
  if (coarse_of < 0).any():
    missing = [fine_names[k] for k in np.flatnonzero(coarse_of < 0)]
    raise ConfigError(
      f'data.coarse={coarse!r}: in no group: {", ".join(missing[:10])}'
    )

  def merge(split: Source) -> Source:
    labels, truth, fine = coarse_of[split.labels], split.truth, split.labels
    if truth is not None:
      fine = truth.labels
      true_labels = coarse_of[fine]
      truth = Truth(true_labels, true_labels != labels, truth.abnormal)
    changes = {}
    if concepts == 'class':
      changes = {'concepts': labels, 'concept_names': tuple(groups)}
    elif concepts == 'fine':
      changes = {'concepts': fine, 'concept_names': fine_names}
    return dataclasses.replace(
      split,
      labels=labels,
      class_names=tuple(groups),
      fine_labels=fine,
      fine_names=fine_names,
      truth=truth,
      **changes,
    )

  return Splits(merge(splits.train), merge(splits.test))


def _groups(coarse: str, whole: Splits) -> dict[str, list[str]]:
  """Names of the classes of each group of the whole set."""
  names = whole.train.class_names
  say = f'data.coarse={coarse!r}'
  if coarse == 'source':
    if not whole.train.has_hierarchy:
      raise ConfigError(
        f'{say}: this set brings no hierarchy; known maps are'
        f" {', '.join(MAPS)}, or give one such as 'a=0-4 b=5-9'"
      )
    groups = _hierarchy(whole)
  elif coarse in MAPS:
    groups = _standard(coarse, names, say)
  else:
    groups = concepts_lib.groups(coarse, names, say)
  return {name: [names[k] for k in group] for name, group in groups.items()}


def _hierarchy(whole: Splits) -> dict[str, list[int]]:
  """Classes of each concept of a set, where a class has only one."""
  names = whole.train.class_names
  group_of = np.full(len(names), -1)
  for split in whole:
    group_of[split.labels] = split.concepts
  for split in whole:
    torn = group_of[split.labels] != split.concepts
    if torn.any():
      raise DataError(
        f'class {names[split.labels[torn.argmax()]]!r} lies in two places of'
        " the set's hierarchy"
      )
  return {
    name: np.flatnonzero(group_of == k).tolist()
    for k, name in enumerate(whole.train.concept_names)
  }


def _standard(
  known: str, names: tuple[str, ...], say: str
) -> dict[str, list[int]]:
  """Classes of each group of a known map, by name or else by number."""
  if all(name.isdecimal() for name in names):
    ordered = (
      _FASHION_MNIST
      if known == 'fashion_mnist'
      else sorted(c for members in MAPS[known].values() for c in members)
    )
    number = {c: str(k) for k, c in enumerate(ordered)}
    there = {name: k for k, name in enumerate(names)}
    return {
      name: [there[number[c]] for c in members if number[c] in there]
      for name, members in MAPS[known].items()
    }
  find = concepts_lib.finder(names, say, numbers=False)

  def found(members):
    for name in members:
      try:
        yield find(name)
      except ConfigError:  # Sets with some of the classes have the map too.
        continue

  return {name: list(found(members)) for name, members in MAPS[known].items()}


def _inverse(groups: Mapping[str, list[int]], num: int) -> np.ndarray:
  """Group of each class, -1 for none, ``[num]``."""
  group_of = np.full(num, -1)
  for k, members in enumerate(groups.values()):
    group_of[members] = k
  return group_of
