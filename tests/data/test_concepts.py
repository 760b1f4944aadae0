import numpy as np
import pytest

from rrl_jax.data import concepts, mock, noise, source
from rrl_jax.errors import ConfigError, DataError

NAMES = ('T-shirt/top', 'Trouser', 'Ankle boot', 'Bag', '5-6')


@pytest.fixture
def splits():
  """Five classes, 100 and 20 examples of each, pixel value = class."""

  def split(each):
    labels = np.tile(np.arange(5), each)
    images = np.broadcast_to(
      labels[:, None, None, None], (5 * each, 2, 2, 1)
    ).astype(np.uint8)
    return source.Source(images, labels, NAMES)

  return source.Splits(split(100), split(20))


@pytest.fixture
def coarse(splits):
  """The same with a hierarchy: the first two classes, the next, the rest."""
  groups = np.array([0, 0, 1, 2, 2])
  return source.Splits(
    *(
      source.Source(
        s.images, s.labels, s.class_names, groups[s.labels], ('x', 'y', 'z')
      )
      for s in splits
    )
  )


@pytest.mark.fast
def test_all_classes_and_one_concept_a_class_by_default(splits):
  train, test = concepts.select(splits)
  assert train.images is splits.train.images
  assert train.concept_names == test.concept_names == NAMES
  np.testing.assert_array_equal(train.concepts, train.labels)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('text', 'kept'),
  [
    ('0-2', [0, 1, 2]),
    ('3,0', [0, 3]),
    ('Bag,ankle_boot', [2, 3]),
    ('T-shirt/top', [0]),
    ('Ankle boot, 0', [0, 2]),
    ('5-6,1', [1, 4]),  # A name comes before a range.
    ('0-4', [0, 1, 2, 3, 4]),
  ],
)
def test_kept_classes_are_renumbered_in_their_order(splits, text, kept):
  selected = concepts.select(splits, classes=text)
  for split, each in zip(selected, (100, 20), strict=True):
    assert len(split) == len(kept) * each
    assert split.class_names == tuple(NAMES[k] for k in kept)
    # The pixels say which class it was.
    np.testing.assert_array_equal(
      np.asarray(kept)[split.labels], split.images[:, 0, 0, 0]
    )
    assert split.concept_names == split.class_names


@pytest.mark.fast
def test_groups_by_hand_use_the_numbers_of_the_set(splits):
  train, test = concepts.select(
    splits, classes='1-4', concepts='clothes=0,1 Bag,5-6 shoes=2'
  )
  assert train.concept_names == ('clothes', 'Bag,5-6', 'shoes')
  was = np.array([0, 0, 2, 1, 1])  # Class of the set -> concept.
  for split in (train, test):
    np.testing.assert_array_equal(split.concepts, was[split.images[:, 0, 0, 0]])
  np.testing.assert_array_equal(train.concept_counts, [100, 200, 100])


@pytest.mark.fast
def test_groups_without_a_kept_class_are_left_out(splits):
  train, _ = concepts.select(splits, classes='0', concepts='a=0 b=1-4')
  assert train.concept_names == ('a',)


@pytest.mark.fast
def test_the_hierarchy_of_a_set_is_kept_on_demand(coarse):
  train, _ = concepts.select(coarse, concepts='coarse')
  np.testing.assert_array_equal(train.concept_counts, [200, 100, 200])
  assert concepts.select(coarse)[0].concept_names == NAMES
  train, test = concepts.select(coarse, classes='0,4', concepts='coarse')
  assert train.concept_names == test.concept_names == ('x', 'z')
  np.testing.assert_array_equal(test.concepts, test.labels)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'classes': '7'}, r"data.classes='7': no class '7'; .*1 Trouser"),
    ({'classes': 'Hat'}, "no class 'Hat'"),
    ({'classes': '2-0'}, 'runs backwards'),
    ({'classes': '0-99999999999'}, "no class '99999999999'"),
    ({'classes': '1,Trouser'}, "'Trouser' is given twice"),
    ({'classes': '1,,2'}, "no class ''"),
    ({'concepts': 'coarse'}, 'brings no hierarchy'),
    ({'concepts': 'a=0-2'}, 'in no group: Bag, 5-6'),
    ({'concepts': 'a=0-2 b=2-4'}, "'Ankle boot' is in 'a' and in 'b'"),
    ({'concepts': 'a=0-2 a=3,4'}, "two groups are called 'a'"),
    ({'concepts': '=0-4'}, 'empty name'),
    ({'concepts': 'a=0-9'}, "no class '9'"),
    ({'concepts': 'nonsense'}, "no class 'nonsense'"),
    ({'concepts': ''}, 'in no group'),
  ],
)
def test_an_unusable_text_is_named_in_one_line(splits, kw, message):
  with pytest.raises(ConfigError, match=message) as error:
    concepts.select(splits, **kw)
  assert '\n' not in str(error.value)


@pytest.mark.fast
def test_a_selection_without_an_example_is_told(splits):
  test = splits.test.take(np.flatnonzero(splits.test.labels != 2))
  with pytest.raises(DataError, match='no example in the test split'):
    concepts.select(splits._replace(test=test), classes='2')


@pytest.mark.fast
def test_names_that_are_numbers_are_not_taken_for_positions():
  images = np.zeros((6, 1, 1, 1), np.uint8)
  splits = source.make_splits(
    (images, np.array([1, 2, 5] * 2)),
    (images, np.array([1, 2, 5] * 2)),
    where=('', ''),
  )
  train, _ = concepts.select(splits, classes='1,5')
  assert train.class_names == ('1', '5')
  with pytest.raises(ConfigError, match="no class '0'"):
    concepts.select(splits, classes='0')


@pytest.mark.fast
@pytest.mark.parametrize(
  ('text', 'counts'),
  [
    ('', [100] * 5),
    ('1.0,0.25,0.08,1,0.001', [100, 25, 8, 100, 1]),
    ('exp:1', [100] * 5),
    ('exp:16', [100, 50, 25, 12, 6]),
    ('exp:1e9', [100, 1, 1, 1, 1]),
  ],
)
def test_thinning_leaves_the_asked_share_of_each_concept(splits, text, counts):
  thinned = concepts.thin(splits.train, text, seed=0)
  np.testing.assert_array_equal(thinned.concept_counts, counts)
  np.testing.assert_array_equal(thinned.labels, thinned.images[:, 0, 0, 0])


@pytest.mark.fast
def test_exponential_ratio_is_of_counts_not_of_shares(coarse):
  train, _ = concepts.select(coarse, concepts='coarse')  # 200, 100, 200
  thinned = concepts.thin(train, 'exp:100', seed=0)
  np.testing.assert_array_equal(thinned.concept_counts, [200, 20, 2])


@pytest.mark.fast
def test_thinning_depends_on_its_seed_alone_and_is_nested():
  train = mock.load(num_examples=1000, num_classes=2).train
  train = source.Source(
    np.arange(1000, dtype=np.float32).reshape(-1, 1, 1, 1) / 1000,
    train.labels,
    train.class_names,
  )
  kept = lambda text, seed: set(
    concepts.thin(train, text, seed=seed).images.ravel()
  )
  assert kept('0.5,0.5', 0) == kept('0.5,0.5', 0)
  assert kept('0.5,0.5', 0) != kept('0.5,0.5', 1)
  assert kept('0.1,0.2', 0) < kept('0.5,0.5', 0)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('1,1', '2 fractions for 5 concepts'),
    ('1,1,1,1,0', r'lie in \(0, 1\]'),
    ('1,1,1,1,nan', r'lie in \(0, 1\]'),
    ('1,1,1,1,2', r'lie in \(0, 1\]'),
    ('exp:0.5', 'at least 1'),
    ('exp:inf', 'at least 1'),
    ('exp:x', "'x' is no number"),
    ('linear:3', "'linear:3' is no number"),
  ],
)
def test_an_unusable_imbalance_is_named(splits, text, message):
  with pytest.raises(ConfigError, match=message) as error:
    concepts.thin(splits.train, text, seed=0)
  assert repr(text) in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize('ratio', [1, 10, 100])
def test_an_exponential_tail_over_classes(ratio):
  splits = mock.load(num_examples=5000, num_classes=10, image_shape=(1, 1, 1))
  train, _ = concepts.select(splits, concepts='class')
  thinned = concepts.thin(train, f'exp:{ratio}', seed=0)
  expected = [round(500 * ratio ** (-k / 9)) for k in range(10)]
  np.testing.assert_array_equal(np.bincount(thinned.labels), expected)
  assert expected[0] / expected[-1] == ratio


@pytest.fixture
def noisy(splits):
  """The set with half of each class under the label of the next."""
  return splits._replace(
    train=noise.flip(splits.train, kind='pair', rate=0.5, seed=0)
  )


@pytest.mark.fast
def test_groups_go_with_true_classes_and_classes_with_given_ones(noisy):
  train, test = concepts.select(noisy, concepts='a=0,1 b=2-4')
  was = train.images[:, 0, 0, 0]  # The pixels say which class it was.
  np.testing.assert_array_equal(train.truth.labels, was)
  np.testing.assert_array_equal(train.concepts, (was > 1).astype(int))
  assert test.truth is None
  train, _ = concepts.select(noisy)
  np.testing.assert_array_equal(train.concepts, train.labels)
  np.testing.assert_array_equal(train.labels, noisy.train.labels)


@pytest.mark.fast
@pytest.mark.parametrize('grouping', ['class', 'a=1,4 b=3'])
def test_an_image_whose_true_class_is_gone_is_of_no_class(noisy, grouping):
  train, _ = concepts.select(noisy, classes='1,3,4', concepts=grouping)
  kept = np.array([1, 3, 4])
  was = train.images[:, 0, 0, 0]
  np.testing.assert_array_equal(train.truth.abnormal, ~np.isin(was, kept))
  assert np.bincount(was).tolist() == [50, 50, 50, 100, 50]
  normal = ~train.truth.abnormal
  np.testing.assert_array_equal(kept[train.truth.labels[normal]], was[normal])
  np.testing.assert_array_equal(
    train.truth.labels[~normal], train.labels[~normal]
  )
  if grouping != 'class':
    np.testing.assert_array_equal(
      train.concepts, np.array([0, 1, 0])[train.truth.labels]
    )
