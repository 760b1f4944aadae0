import dataclasses

import numpy as np
import pytest

from rrl_jax.data import source
from rrl_jax.errors import DataError


class Lazy(source.LazyImages):
  """Images that count how often they are read."""

  def __init__(self, images):
    self.images, self.reads = images, 0
    self.shape, self.dtype = images.shape, images.dtype

  def read(self, indices):
    self.reads += 1
    return self.images[indices]


def make(images, labels=(0, 1, 2, 0, 1, 2)):
  return source.Source(images, labels, ('a', 'b', 'c'))


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (6, 2, 3, 1), np.uint8)


@pytest.mark.fast
def test_properties_tell_what_is_in_it(images):
  made = source.Source(images, [0, 1, 1, 0, 1, 1], 'abc', [1] * 6, ('x', 'y'))
  assert len(made) == 6
  assert made.image_shape == (2, 3, 1)
  assert (made.num_classes, made.num_concepts) == (3, 2)
  np.testing.assert_array_equal(made.concept_counts, [0, 6])
  assert made.labels.dtype == made.concepts.dtype == np.int32


@pytest.mark.fast
def test_concepts_are_the_classes_unless_given(images):
  made = make(images)
  np.testing.assert_array_equal(made.concepts, made.labels)
  assert made.concept_names == made.class_names
  assert not made.has_hierarchy


@pytest.mark.fast
def test_lazy_images_behave_as_an_array_does(images):
  lazy = Lazy(images)
  indices = np.array([4, 4, 0])
  for taken in (
    make(lazy).take(indices),
    make(lazy).take(np.array([0, 4, 5])).take(np.array([1, 1, 0])),
  ):
    eager = make(images).take(indices)
    assert lazy.reads == 0
    assert taken.images.shape == eager.images.shape
    assert taken.images.dtype == eager.images.dtype
    assert len(taken) == len(taken.images) == 3
    np.testing.assert_array_equal(taken.labels, eager.labels)
    rows = np.array([2, 0])
    np.testing.assert_array_equal(taken.images[rows], eager.images[rows])
    lazy.reads = 0


@pytest.mark.fast
@pytest.mark.parametrize(
  'indices',
  [slice(1, 5, 2), slice(-2, None), np.array([-1, 0]), [], np.array([3], 'u1')],
)
def test_lazy_images_are_indexed_as_an_array_is(images, indices):
  expected = images[np.array([], int) if isinstance(indices, list) else indices]
  for lazy in (Lazy(images), make(Lazy(images)).take(np.arange(6)).images):
    result = lazy[indices]
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.fast
@pytest.mark.parametrize('indices', [3, [6], [-7], [0.0], [[0]], [True] * 6])
def test_lazy_images_refuse_what_is_no_index(images, indices):
  with pytest.raises(IndexError, match='integers|out of range'):
    Lazy(images)[indices]


@pytest.mark.fast
def test_taking_nothing_leaves_an_empty_source(images):
  assert len(make(images).take(np.array([], int))) == 0


@pytest.mark.fast
def test_a_mask_is_refused_instead_of_read_as_indices(images):
  with pytest.raises(TypeError, match='mask'):
    make(images).take(np.ones(6, bool))


@pytest.mark.fast
@pytest.mark.parametrize(
  ('change', 'cause'),
  [
    ({'labels': [0, 1]}, r'6 images but labels of shape \(2,\)'),
    ({'labels': [0, 1, 2, 3, 0, 0]}, 'labels run from 0 to 3'),
    ({'labels': [0, 1, 2, -1, 0, 0]}, 'labels run from -1 to 2'),
    ({'concepts': [9] * 6, 'concept_names': 'x'}, 'concepts run from 9'),
    ({'class_names': ('a', 'b', 'a')}, 'two classes have one name'),
    ({'images': np.zeros((6, 2, 3), np.uint8)}, 'not \\[N,H,W,C\\]'),
  ],
)
def test_parts_that_do_not_fit_are_refused(images, change, cause):
  parts = {'images': images, 'labels': [0] * 6, 'class_names': 'abc'} | change
  with pytest.raises(DataError, match=cause):
    source.Source(**parts)


@pytest.mark.fast
def test_settling_reads_what_fits_and_leaves_the_rest(images):
  lazy = Lazy(images)
  np.testing.assert_array_equal(source.settle(lazy, None), images)
  np.testing.assert_array_equal(source.settle(lazy, True), images)
  assert source.settle(lazy, False) is lazy
  lazy.shape = (10**9, 224, 224, 3)
  assert source.settle(lazy, None) is lazy
  assert source.settle(images, False) is images


@pytest.mark.fast
@pytest.mark.parametrize('seed', [0, 1])
def test_a_fifth_of_each_class_is_held_out(rng, seed):
  labels = rng.permutation(np.repeat([0, 1, 2], [100, 50, 2]))
  train, test = source.holdout(labels, seed=seed, where='x')
  np.testing.assert_array_equal(
    np.sort(np.concatenate([train, test])), np.arange(152)
  )
  np.testing.assert_array_equal(np.bincount(labels[test]), [20, 10])
  again = source.holdout(labels, seed=seed, where='x')[1]
  np.testing.assert_array_equal(test, again)
  other = source.holdout(labels, seed=seed + 7, where='x')[1]
  assert not np.array_equal(test, other)


@pytest.mark.fast
def test_too_few_examples_to_hold_out_are_told():
  with pytest.raises(DataError, match='x: no test split'):
    source.holdout(np.arange(5), seed=0, where='x')


@pytest.mark.fast
def test_floats_are_checked_in_every_piece_of_a_long_array():
  images = np.zeros((5000, 1, 1), np.float64)
  assert source.check_images(images, 'x').dtype == np.float32
  images[4999] = 1.5
  with pytest.raises(DataError, match=r'x holds values from 0 to 1.5'):
    source.check_images(images, 'x')


@pytest.mark.fast
def test_labels_that_occur_in_training_define_the_classes(images):
  made = source.make_splits(
    (images, np.array([3, 10, 7, 3, 10, 7])),
    (images, np.array([7] * 6)),
    where=('train', 'test'),
  )
  assert made.train.class_names == ('3', '7', '10')
  np.testing.assert_array_equal(made.train.labels, [0, 2, 1, 0, 2, 1])
  np.testing.assert_array_equal(made.test.labels, [1] * 6)


@pytest.mark.fast
def test_declared_classes_need_no_example(images):
  made = source.make_splits(
    (images, np.array([3] * 6)),
    (images, np.array([1] * 6)),
    where=('train', 'test'),
    num_classes=5,
  )
  assert made.train.num_classes == 5
  np.testing.assert_array_equal(made.train.concept_counts, [0, 0, 0, 6, 0])


@pytest.mark.fast
def test_splits_of_different_images_are_refused(images):
  labels = np.arange(6)
  for test, cause in (
    (images[:, :1], r'shape \(1, 3, 1\)'),
    (images.astype(np.float32), 'float32'),
  ):
    with pytest.raises(DataError, match=f'held: test images .*{cause}'):
      source.make_splits(
        (images, labels), (test, labels), where=('file', 'held')
      )


@pytest.mark.fast
def test_taking_examples_takes_their_truth(images):
  truth = source.Truth(
    [0, 1, 2, 0, 2, 1], [False] * 4 + [True, True], [True] + [False] * 5
  )
  made = dataclasses.replace(make(images), truth=truth)
  taken = made.take(np.array([4, 0])).take(np.array([1, 0, 0]))
  np.testing.assert_array_equal(taken.truth.labels, [0, 2, 2])
  np.testing.assert_array_equal(taken.truth.flipped, [False, True, True])
  np.testing.assert_array_equal(taken.truth.abnormal, [True, False, False])
  assert make(images).take(np.array([0])).truth is None


@pytest.mark.fast
def test_a_source_without_truth_has_right_labels(images):
  made = make(images)
  truth = source.known_truth(made)
  np.testing.assert_array_equal(truth.labels, made.labels)
  assert not (truth.flipped | truth.abnormal).any()
  with_truth = dataclasses.replace(made, truth=truth)
  assert source.known_truth(with_truth) is truth


@pytest.mark.fast
def test_groups_and_fine_labels_go_where_their_images_go(images):
  made = dataclasses.replace(
    make(images),
    fine_labels=[0, 1, 2, 3, 3, 2],
    fine_names='pqrs',
    groups=[0, 1, 0, 1, 0, 1],
    group_names=('x', 'y', 'empty'),
  )
  assert made.fine_names == ('p', 'q', 'r', 's')
  np.testing.assert_array_equal(made.group_counts, [3, 3, 0])
  taken = made.take(np.array([5, 0]))
  np.testing.assert_array_equal(taken.fine_labels, [2, 0])
  np.testing.assert_array_equal(taken.groups, [1, 0])
  assert taken.groups.dtype == taken.fine_labels.dtype == np.int32
  assert make(images).num_groups == 0
  with pytest.raises(ValueError, match='no groups'):
    _ = make(images).group_counts


@pytest.mark.fast
@pytest.mark.parametrize(
  ('field', 'ids', 'message'),
  [
    ('groups', [0, 1, 2, 0, 1, 2], 'groups run from 0 to 2 but there are 2'),
    ('groups', [0, 1, -1, 0, 1, 0], 'groups run from -1 to 1'),
    ('fine_labels', [0, 1], r'6 images but fine_labels of shape \(2,\)'),
  ],
)
def test_groups_and_fine_labels_have_to_fit(images, field, ids, message):
  names = {'groups': 'group_names', 'fine_labels': 'fine_names'}[field]
  with pytest.raises(DataError, match=message):
    dataclasses.replace(make(images), **{field: ids, names: ('x', 'y')})


@pytest.mark.fast
def test_attributes_of_a_source_are_numbers_from_zero(images):
  splits = source.Splits(make(images), make(images))
  ids = np.array([0, 1, 0, 1, 0, 1])
  say = {'where': ('train', 'test')}
  made = source.with_attributes(splits, (ids, 1 - ids), ('x', 'y'), **say)
  np.testing.assert_array_equal(made.test.groups, 1 - ids)
  with pytest.raises(DataError, match='test holds the negative label -1'):
    source.with_attributes(splits, (ids, ids - 1), ('x', 'y'), **say)


@pytest.mark.fast
def test_batches_hold_inferred_groups_before_true_ones(images):
  made = dataclasses.replace(make(images), groups=[0] * 6, group_names='x')
  np.testing.assert_array_equal(made.batch_groups, made.groups)
  assert made.batch_group_names == ('x',)
  both = dataclasses.replace(made, inferred_groups=[1] * 6, inferred_names='pq')
  np.testing.assert_array_equal(both.batch_groups, [1] * 6)
  assert both.batch_group_names == ('p', 'q')
  assert make(images).batch_groups is None
  assert make(images).batch_group_names == ()
