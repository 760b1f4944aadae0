import collections

import pytest

from rrl_jax.data import cifar100

# The published coarse label of each fine label, fine labels in their order.
COARSE = (
  4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5,
  10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15,
  13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
  12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5,
  8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip


@pytest.mark.fast
def test_twenty_superclasses_hold_five_of_a_hundred_classes_each():
  sizes = [len(names) for names in cifar100.SUPERCLASSES.values()]
  assert sizes == [5] * 20
  assert len(set(cifar100.FINE)) == 100


@pytest.mark.fast
def test_superclasses_are_those_of_the_published_labels():
  expected = collections.defaultdict(list)
  for fine, coarse in zip(cifar100.FINE, COARSE, strict=True):
    expected[coarse].append(fine)
  for coarse, (name, members) in enumerate(cifar100.SUPERCLASSES.items()):
    assert sorted(members) == expected[coarse], name
  assert list(cifar100.SUPERCLASSES) == sorted(cifar100.SUPERCLASSES)


@pytest.mark.fast
def test_some_labels_are_the_known_ones():
  for label, name in (
    (0, 'apple'), (1, 'aquarium_fish'), (41, 'lawn_mower'), (99, 'worm')
  ):  # fmt: skip
    assert cifar100.FINE[label] == name
