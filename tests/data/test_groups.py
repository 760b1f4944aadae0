import numpy as np
import pytest

from rrl_jax import data
from rrl_jax.data import coarse, concepts, groups, mock, noise, pipeline, source
from rrl_jax.errors import ConfigError

PLANTED = ('patch', 'colour', 'background')
NUM = 3  # Classes of the set below.
SIZE = 16


class Lazy(source.LazyImages):
  """Images that are read when they are indexed."""

  def __init__(self, images):
    self.images = images
    self.shape, self.dtype = images.shape, images.dtype

  def read(self, indices):
    return self.images[indices]


def split_of(sizes, seed, *, channels=1, dtype=np.uint8):
  rng = np.random.default_rng(seed)
  labels = np.repeat(np.arange(NUM), sizes)
  images = rng.integers(0, 256, (len(labels), SIZE, SIZE, channels), np.uint8)
  images[:, 4:12] = 0  # Some background.
  if dtype != np.uint8:
    images = (images / 255).astype(dtype)
  return source.Source(images, labels, ('a', 'b', 'c'))


def splits_of(**kw):
  return source.Splits(
    split_of((101, 40, 23), 0, **kw), split_of((30, 31, 32), 1, **kw)
  )


def attributes_of(split, num=NUM):
  return split.groups % num


def own_attributes(split, num=NUM):
  """The attribute that most of each class have."""
  attributes = attributes_of(split, num)
  return np.array(
    [np.bincount(attributes[split.labels == k]).argmax() for k in range(NUM)]
  )


@pytest.mark.fast
@pytest.mark.parametrize('kind', PLANTED)
@pytest.mark.parametrize('strength', [1.0, 0.9, 0.6])
def test_exactly_the_asked_share_of_each_class_has_its_attribute(
  kind, strength
):
  made = groups.apply(splits_of(), kind=kind, strength=strength, seed=3).train
  own = own_attributes(made)
  assert sorted(own) == [0, 1, 2]  # One of its own for each class.
  for label, size in enumerate((101, 40, 23)):
    counts = np.bincount(
      attributes_of(made)[made.labels == label], minlength=NUM
    )
    assert counts[own[label]] == round(strength * size)
    others = np.delete(counts, own[label])
    assert others.max() - others.min() <= 1


@pytest.mark.fast
def test_of_strength_zero_no_image_has_the_attribute_of_its_class():
  full = groups.apply(splits_of(), kind='patch', strength=1.0, seed=3).train
  none = groups.apply(splits_of(), kind='patch', strength=0.0, seed=3).train
  assert (attributes_of(none) != attributes_of(full)).all()


@pytest.mark.fast
@pytest.mark.parametrize('kind', PLANTED)
def test_the_test_split_is_balanced_and_the_same_for_any_seed(kind):
  first, other = (
    groups.apply(splits_of(), kind=kind, strength=s, seed=k).test
    for s, k in ((0.9, 0), (1.0, 1))
  )
  for label in range(NUM):
    counts = np.bincount(
      attributes_of(first)[first.labels == label], minlength=NUM
    )
    assert counts.max() - counts.min() <= 1
  np.testing.assert_array_equal(first.groups, other.groups)
  np.testing.assert_array_equal(first.images, other.images)


@pytest.mark.fast
def test_a_strength_of_the_test_split_holds_for_the_same_attributes():
  made = groups.apply(
    splits_of(), kind='patch', strength=0.9, test_strength=0.7, seed=3
  )
  own = own_attributes(made.train)
  agrees = attributes_of(made.test) == own[made.test.labels]
  np.testing.assert_array_equal(
    np.bincount(made.test.labels[agrees]), [21, 22, 22]
  )


@pytest.mark.fast
def test_the_same_seed_gives_the_same_groups_and_another_one_others():
  first, again, other = (
    groups.apply(splits_of(), kind='colour', seed=k).train for k in (0, 0, 1)
  )
  np.testing.assert_array_equal(first.groups, again.groups)
  np.testing.assert_array_equal(first.images, again.images)
  assert (first.groups != other.groups).any()


@pytest.mark.fast
def test_a_smaller_strength_takes_the_attribute_from_more_images():
  weak, strong = (
    groups.apply(splits_of(), kind='patch', strength=s, seed=0).train
    for s in (0.6, 0.9)
  )
  own = own_attributes(strong)
  agrees = [attributes_of(made) == own[made.labels] for made in (weak, strong)]
  assert (agrees[0] <= agrees[1]).all()


@pytest.mark.fast
def test_a_group_is_a_pair_of_class_and_attribute_and_may_be_empty():
  made = groups.apply(
    splits_of(), kind='patch', strength=1.0, num_attributes=2, seed=0
  ).train
  assert made.group_names == (
    'a:patch_0', 'a:patch_1', 'b:patch_0', 'b:patch_1', 'c:patch_0', 'c:patch_1'
  )  # fmt: skip
  np.testing.assert_array_equal(made.groups // 2, made.labels)
  assert sorted(made.group_counts.reshape(3, 2).min(axis=1)) == [0, 0, 0]
  some = made.take(np.array([150, 3, 77]))
  np.testing.assert_array_equal(some.groups, made.groups[[150, 3, 77]])
  assert some.group_names == made.group_names


@pytest.mark.fast
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('kind', PLANTED)
def test_images_keep_dtype_and_range_and_lazy_ones_stay_lazy(
  kind, channels, dtype
):
  splits = splits_of(channels=channels, dtype=dtype)
  made = groups.apply(splits, kind=kind, seed=0).train
  assert made.images.dtype == dtype
  assert made.image_shape[-1] == (3 if kind == 'colour' else channels)
  if dtype == np.float32:
    assert 0 <= made.images.min() <= made.images.max() <= 1
  assert not np.array_equal(made.images, splits.train.images)
  lazily = groups.apply(
    splits._replace(
      train=source.Source(
        Lazy(splits.train.images), splits.train.labels, ('a', 'b', 'c')
      )
    ),
    kind=kind,
    seed=0,
  ).train
  assert isinstance(lazily.images, source.LazyImages)
  rows = np.array([160, 0, 42])
  assert lazily.images.shape == made.images.shape
  np.testing.assert_array_equal(lazily.images[rows], made.images[rows])


@pytest.mark.fast
def test_the_place_of_a_patch_tells_the_attribute():
  plain = splits_of().train
  made = groups.apply(splits_of(), kind='patch', seed=0).train
  white = {0: (0, 0), 1: (0, 14), 2: (14, 0)}
  for attribute, (top, left) in white.items():
    rows = attributes_of(made) == attribute
    changed = made.images[rows].copy()
    assert (changed[:, top : top + 2, left : left + 2] == 255).all()
    changed[:, top : top + 2, left : left + 2] = 0
    before = plain.images[rows].copy()
    before[:, top : top + 2, left : left + 2] = 0
    np.testing.assert_array_equal(changed, before)


@pytest.mark.fast
def test_a_tint_scales_the_channels_and_nothing_else():
  plain = splits_of().train
  made = groups.apply(splits_of(), kind='colour', seed=0).train
  factors = np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]])
  want = plain.images * factors[attributes_of(made)][:, None, None]
  assert np.abs(made.images - want).max() <= 0.5


@pytest.mark.fast
def test_a_background_replaces_dark_pixels_by_the_level():
  plain = splits_of(dtype=np.float32).train
  made = groups.apply(
    splits_of(dtype=np.float32), kind='background', seed=0
  ).train
  dark = plain.images < 0.1
  levels = np.array([0, 0.25, 0.5])[attributes_of(made)]
  want = np.where(dark, levels[:, None, None, None], plain.images)
  np.testing.assert_allclose(made.images, want, atol=1e-7)


@pytest.mark.fast
def test_attributes_of_the_source_are_crossed_with_the_class():
  """What a source brings are its attributes, as its groups."""

  def brings(split):
    return source.Source(
      split.images,
      split.labels,
      split.class_names,
      groups=np.arange(len(split)) % 2,
      group_names=('land', 'water'),
    )

  whole = source.Splits(*(brings(split) for split in splits_of()))
  chosen = concepts.select(whole, classes='a,c')
  made = groups.apply(chosen, kind='attribute').train
  assert made.group_names == ('a:land', 'a:water', 'c:land', 'c:water')
  place = np.arange(164)[whole.train.labels != 1] % 2
  np.testing.assert_array_equal(made.groups, made.labels * 2 + place)
  np.testing.assert_array_equal(made.images, chosen.train.images)
  assert groups.apply(chosen, kind='none').train.groups is None


@pytest.mark.fast
def test_fine_classes_can_be_the_groups():
  kw = {'coarse': 'source', 'groups': {'kind': 'fine'}}
  train, test = data.load('digits', **kw, concepts='group', imbalance='mnist_u')
  for split in (train, test):
    assert split.group_names == split.concept_names == tuple('0123456789')
    np.testing.assert_array_equal(split.groups, split.fine_labels)
  plain, _ = data.load('digits')
  assert train.group_counts[8] == round(0.05 * plain.concept_counts[8])


@pytest.mark.fast
def test_the_strength_is_that_of_the_thinned_set():
  train, _ = data.load(
    'digits',
    coarse='source',
    concepts='fine',
    imbalance='within:1,0.5,0.2,0.1,0.1',
    groups={'kind': 'patch', 'strength': 0.9},
  )
  for label in range(2):
    counts = train.group_counts.reshape(2, 2)[label]
    assert counts.max() == round(0.9 * counts.sum())


@pytest.mark.fast
def test_noise_moves_no_example_to_another_group():
  kw = {'coarse': 'source', 'groups': {'kind': 'patch', 'strength': 0.9}}
  clean, _ = data.load('digits', **kw)
  noisy, _ = data.load('digits', **kw, noise={'kind': 'pair', 'rate': 0.3})
  assert noisy.truth.flipped.any()
  np.testing.assert_array_equal(noisy.groups, clean.groups)
  np.testing.assert_array_equal(noisy.images, clean.images)
  np.testing.assert_array_equal(noisy.groups // 2, noisy.truth.labels)


@pytest.mark.fast
def test_noise_before_groups_leaves_the_true_class_in_them():
  splits = splits_of()
  noisy = noise.flip(splits.train, kind='symmetric', rate=0.5, seed=0)
  made = groups.apply(
    splits._replace(train=noisy), kind='patch', strength=1.0
  ).train
  np.testing.assert_array_equal(made.groups // NUM, splits.train.labels)


def test_batches_hold_the_group_only_where_there_are_groups():
  plain = splits_of().train
  made = groups.apply(splits_of(), kind='patch').train
  for split in (plain, made):
    order = pipeline.index_batches(split, batch_size=32, seed=0)
    batch = next(pipeline.stream(split, order, start=0, stop=1, num_threads=0))
    assert ('group' in batch) == (split is made)
  np.testing.assert_array_equal(batch['group'], made.groups[batch['index']])
  assert batch['group'].dtype == np.int32


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'kind': 'smell'}, "data.groups.kind='smell': known are none, patch"),
    ({'kind': 'patch', 'strength': 1.5}, r'groups.strength=1.5: .*\[0, 1\]'),
    ({'kind': 'patch', 'strength': None}, 'groups.strength=None'),
    ({'kind': 'patch', 'test_strength': -1}, 'groups.test_strength=-1'),
    ({'kind': 'patch', 'num_attributes': 1}, 'num_attributes=1: .*at least 2'),
    ({'kind': 'patch', 'num_attributes': 81}, 'no room for 81 places of 2x2'),
    ({'kind': 'patch', 'seed': -1}, 'groups.seed=-1'),
    ({'kind': 'attribute'}, "kind='attribute': the source brings none"),
    ({'kind': 'fine'}, "kind='fine': there are no coarse labels"),
  ],
)
def test_unusable_groups_are_told_in_one_line(kw, message):
  with pytest.raises(ConfigError, match=message) as error:
    groups.apply(splits_of(), **kw)
  assert '\n' not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'concepts': 'group'}, "data.concepts='group': there are no groups"),
    ({'groups': {'kid': 'patch'}}, 'data.groups.kid: known are kind, strength'),
    ({'groups': 0.9}, 'data.groups=0.9: fields kind'),
    (
      {'groups': {'kind': 'colour'}, 'image_shape': (8, 8, 4)},
      'images of 4 channels',
    ),
  ],
)
def test_load_tells_what_is_wrong_with_groups(kw, message):
  with pytest.raises(ConfigError, match=message):
    data.load('mock', **kw)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('text', 'counts'),
  [
    ('within:1,0.5', [60, 30, 60, 30]),
    ('within:exp:10', [60, 6, 60, 6]),
    ('d=0.25', [60, 60, 60, 15]),
    ('0=0.5,d=0.1', [30, 60, 60, 6]),
  ],
)
def test_fine_classes_are_thinned_within_their_coarse_class(text, counts):
  labels = np.tile(np.arange(4), 60)
  images = np.zeros((240, 1, 1, 1), np.uint8)
  whole = source.Splits(*(source.Source(images, labels, 'abcd'),) * 2)
  fine = coarse.apply(
    concepts.select(whole, concepts='fine'),
    'x=0,1 y=2,3',
    whole=whole,
    concepts='fine',
  )
  thinned = concepts.thin(fine.train, text, seed=0)
  np.testing.assert_array_equal(thinned.concept_counts, counts)


@pytest.mark.fast
def test_the_named_profile_of_cifar100_is_by_place_in_the_superclass():
  splits = mock.load(num_examples=2000, num_classes=100)
  fine = coarse.apply(
    concepts.select(splits, concepts='fine'),
    'cifar100',
    whole=splits,
    concepts='fine',
  )
  thinned = concepts.thin(fine.train, 'cifar100_u', seed=0)
  for label in range(20):
    mine = np.unique(fine.train.fine_labels[fine.train.labels == label])
    np.testing.assert_array_equal(
      thinned.concept_counts[mine], [20, 10, 4, 2, 2]
    )


@pytest.mark.fast
@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('within:1,0.5,0.2', "class '0': 3 fractions for 1 concepts"),
    ('11=0.5', "no class '11'"),
    ('1=2', r'fractions lie in \(0, 1\]'),
    ('1=x', "'x' is no number"),
  ],
)
def test_an_unusable_profile_is_told_in_one_line(text, message):
  with pytest.raises(ConfigError, match=message):
    concepts.thin(mock.load().train, text, seed=0)


@pytest.mark.fast
def test_concepts_across_classes_have_no_profile_within_them():
  train, _ = concepts.select(mock.load(), concepts='low=0-4 high=5-9')
  with pytest.raises(ConfigError, match="'low' lies in more than one class"):
    concepts.thin(train, 'within:1', seed=0)
