import dataclasses

import numpy as np
from PIL import Image
import pytest
from scipy import stats

from rrl_jax.data import abnormal, folder, noise, source
from rrl_jax.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


class Lazy(source.LazyImages):
  """Images that remember which of them were read."""

  def __init__(self, images):
    self.images, self.seen = images, []
    self.shape, self.dtype = images.shape, images.dtype

  def read(self, indices):
    self.seen.extend(indices.tolist())
    return self.images[indices]


def pixels(shape, dtype):
  if dtype == np.uint8:
    return RNG.integers(0, 256, shape, np.uint8)
  return RNG.random(shape, np.float32)


def make(n=60, shape=(4, 5, 1), dtype=np.uint8, names='abc', **kw):
  return source.Source(
    pixels((n, *shape), dtype), np.arange(n) % len(names), tuple(names), **kw
  )


def lazily(train):
  return dataclasses.replace(train, images=Lazy(train.images))


OTHER = make(23, (7, 3, 3), names='xy')


def call(train, kind, rate=0.25, seed=0, other=None):
  if kind == 'source' and other is None:
    other = OTHER
  return abnormal.add(train, kind=kind, rate=rate, seed=seed, other=other)


ADDED = ('noise', 'blend', 'source')


@pytest.mark.fast
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('kind', ADDED)
@pytest.mark.parametrize('rate', [0.0, 0.25, 1.0])
def test_the_asked_share_of_the_images_is_replaced(kind, dtype, rate):
  train = make(dtype=dtype)
  before = train.images.copy()
  added = call(train, kind, rate)
  changed = (added.images != before).any(axis=(1, 2, 3))
  assert changed.sum() == round(rate * 60)
  np.testing.assert_array_equal(added.truth.abnormal, changed)
  np.testing.assert_array_equal(added.truth.labels, added.labels)
  assert not added.truth.flipped.any()
  np.testing.assert_array_equal(added.labels[~changed], train.labels[~changed])
  if kind != 'source':
    np.testing.assert_array_equal(added.labels, train.labels)
  np.testing.assert_array_equal(added.concepts, added.labels)
  assert added.images.dtype == dtype
  assert added.images.shape == before.shape
  assert 0 <= added.images.min() <= added.images.max() <= np.iinfo('u1').max
  np.testing.assert_array_equal(train.images, before)  # Not written to.


@pytest.mark.fast
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_noise_images_are_uniform(dtype):
  added = call(make(200, (8, 8, 3), dtype), 'noise', 0.5)
  values = added.images[added.truth.abnormal].ravel()
  if dtype == np.uint8:
    assert stats.chisquare(np.bincount(values, minlength=256)).pvalue > 1e-4
  else:
    assert stats.kstest(values[:10_000], 'uniform').pvalue > 1e-4
  images = added.images[added.truth.abnormal]
  assert len(np.unique(images.reshape(100, -1), axis=0)) == 100


@pytest.mark.fast
@pytest.mark.parametrize('names', ['ab', 'abc', 'abcde'])
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_a_blend_is_the_mean_of_two_images_of_two_other_classes(names, dtype):
  train = make(30, (6, 6, 1), dtype, names)
  added = call(train, 'blend', 0.5)
  exact = train.images.astype(np.float64)
  pairs = [(i, j) for i in range(30) for j in range(i)]
  means = np.stack([(exact[i] + exact[j]) / 2 for i, j in pairs])
  if dtype == np.uint8:
    means = np.floor(means + 0.5)
  groups = set()
  for k in np.flatnonzero(added.truth.abnormal):
    errors = abs(means - added.images[k]).max(axis=(1, 2, 3))
    assert errors.min() < 1e-6
    classes = {int(train.labels[i]) for i in pairs[errors.argmin()]}
    assert len(classes) == 2
    if len(names) > 2:
      assert int(train.labels[k]) not in classes
    groups.add(frozenset(classes))
  assert len(groups) == {2: 1, 3: 3}.get(len(names), len(groups))


def test_blends_take_all_classes_and_examples_equally_often():
  train = source.Source(  # The image says which example it is.
    (2 ** np.arange(12, dtype=np.float32) / 2**12).reshape(-1, 1, 1, 1),
    np.repeat([0, 1, 3], [2, 4, 6]),
    tuple('abcd'),  # Class c has no example.
  )
  counts = np.zeros(12)
  for seed in range(2000):
    added = call(train, 'blend', 1.0, seed)
    bits = np.round(added.images.ravel() * 2**13).astype(int)
    counts += ((bits[:, None] >> np.arange(12)) & 1).sum(axis=0)
  # An example of class a (2 of 12) blends one of b and one of d, and so on.
  per_example = 2000 * np.repeat([10 / 2, 8 / 4, 6 / 6], [2, 4, 6])
  np.testing.assert_allclose(counts, per_example, rtol=0.08)


# Another source.


@pytest.mark.fast
def test_images_of_another_source_come_each_before_one_comes_twice():
  train = make(60, (2, 2, 1))
  other = source.Source(
    np.broadcast_to(
      np.arange(25, dtype=np.uint8)[:, None, None, None], (25, 2, 2, 1)
    ),
    np.zeros(25, int),
    ('x',),
  )
  for rate, least in ((1 / 3, 0), (1, 2)):
    added = call(train, 'source', rate, other=other)
    values = added.images[added.truth.abnormal]
    assert (values == values[:, :1, :1]).all()
    counts = np.bincount(values[:, 0, 0, 0], minlength=25)
    assert set(counts) == {least, least + 1}


def test_labels_of_other_images_are_uniform_with_concepts_that_go_with_them():
  labels = np.repeat([0, 1, 2], [5900, 3000, 100])
  images = np.zeros((9000, 1, 1, 1), np.uint8)
  train = source.Source(images, labels, 'abcd', labels // 2, ('p', 'q'))
  added = call(train, 'source', 0.5)
  new = added.labels[added.truth.abnormal]
  assert stats.chisquare(np.bincount(new)).pvalue > 1e-4  # No d: it has none.
  np.testing.assert_array_equal(added.concepts, added.labels // 2)
  np.testing.assert_array_equal(added.truth.labels, added.labels)


@pytest.mark.fast
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('other_dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('other_channels', [1, 3, 4])
def test_other_images_take_the_form_of_the_set(
  dtype, other_dtype, channels, other_channels
):
  # One colour each, so that no size changes it.
  colours = np.array(
    [[10, 20, 250, 255], [200, 100, 0, 255], [255, 255, 255, 255]], np.uint8
  )
  if other_channels == 1:
    colours[:, :3] = colours[:, :1]
  images = np.broadcast_to(
    colours[:, None, None, :other_channels], (3, 9, 6, other_channels)
  )
  if other_dtype == np.float32:
    images = images.astype(np.float32) / 255
  other = source.Source(np.ascontiguousarray(images), [0] * 3, ('x',))
  added = call(
    make(3, (4, 5, channels), dtype), 'source', 1, other=other
  ).images
  assert (added == added[:, :1, :1]).all() or dtype == np.float32
  found = added[:, 0, 0].astype(float)
  if dtype == np.float32:
    found *= 255
  red, green, blue = colours[:, :3].T.astype(float)
  gray = 0.299 * red + 0.587 * green + 0.114 * blue
  expected = gray[:, None] if channels == 1 else colours[:, :channels]
  order = expected[:, 0].argsort()
  np.testing.assert_allclose(
    found[found[:, 0].argsort()], expected[order], atol=0.51
  )


@pytest.mark.fast
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_resizing_is_bilinear(dtype):
  ramp = np.linspace(0, 1, 8, dtype=np.float32)
  image = np.broadcast_to(ramp[:, None, None], (1, 8, 8, 1)).swapaxes(1, 2)
  image = np.ascontiguousarray(image)
  if dtype == np.uint8:
    image = np.round(image * 255).astype(np.uint8)
  other = source.Source(image, [0], ('x',))
  added = call(make(1, (3, 15, 1), dtype), 'source', 1, other=other)
  found = added.images[0, 1, :, 0] / (255 if dtype == np.uint8 else 1)
  # Pixel centres: (i + 0.5) * 8 / 15 - 0.5, held at the ends.
  where = np.clip((np.arange(15) + 0.5) * 8 / 15 - 0.5, 0, 7) / 7
  column = added.images[0, :, 7, 0]
  assert (column == column[0]).all()  # Rows of one colour stay so.
  np.testing.assert_allclose(found, where, atol=2 / 255)


# Lazy sets.


@pytest.mark.fast
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('kind', ADDED)
def test_lazy_images_stay_so_and_give_what_those_in_memory_do(kind, dtype):
  train = make(dtype=dtype)
  lazy, lazy_other = lazily(train), lazily(OTHER)
  eager = call(train, kind)
  added = call(lazy, kind, other=lazy_other)
  assert lazy.images.seen == lazy_other.images.seen == []  # Nothing is read.
  assert not isinstance(added.images, np.ndarray)
  assert added.images.shape == train.images.shape
  assert added.images.dtype == dtype
  rows = np.array([59, 3, 3, -1, 0])
  for indices in (rows, slice(None), np.array([], int)):
    np.testing.assert_array_equal(added.images[indices], eager.images[indices])
  np.testing.assert_array_equal(added.labels, eager.labels)
  taken = added.take(np.arange(10, 30)).take(np.arange(5))
  np.testing.assert_array_equal(taken.images[np.arange(5)], eager.images[10:15])
  np.testing.assert_array_equal(
    taken.truth.abnormal, eager.truth.abnormal[10:15]
  )
  np.testing.assert_array_equal(source.settle(added.images, True), eager.images)


@pytest.mark.fast
def test_only_what_is_asked_for_is_read():
  lazy, other = lazily(make()), lazily(make(60, names='xy'))
  added = call(lazy, 'source', 0.5, other=other)
  kept = np.flatnonzero(~added.truth.abnormal)
  replaced = np.flatnonzero(added.truth.abnormal)
  added.images[kept[:3]]
  assert (lazy.images.seen, other.images.seen) == (kept[:3].tolist(), [])
  lazy.images.seen.clear()
  added.images[replaced[:4]]
  assert lazy.images.seen == []
  assert len(other.images.seen) == 4


@pytest.mark.fast
def test_a_folder_of_files_is_replaced_without_reading_it(tmp_path):
  for name in ('a', 'b'):
    for i in range(10):
      file = tmp_path / name / f'{i}.png'
      file.parent.mkdir(exist_ok=True)
      Image.fromarray(pixels((6, 6), np.uint8)).save(file)
  lazy, eager = (
    folder.load(path=str(tmp_path), in_memory=in_memory).train
    for in_memory in (False, True)
  )
  for kind in ADDED:
    np.testing.assert_array_equal(
      call(lazy, kind, 0.5).images[np.arange(16)], call(eager, kind, 0.5).images
    )


# Seeds.


@pytest.mark.fast
@pytest.mark.parametrize('kind', ADDED)
def test_the_seed_alone_says_which_and_by_what(kind):
  train = make()
  first, again, other = (call(train, kind, seed=seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first.images, again.images)
  np.testing.assert_array_equal(first.labels, again.labels)
  assert (first.truth.abnormal != other.truth.abnormal).any()
  swapped = dataclasses.replace(train, labels=2 - train.labels)
  np.testing.assert_array_equal(
    call(swapped, kind).truth.abnormal, first.truth.abnormal
  )


@pytest.mark.fast
@pytest.mark.parametrize('kind', ADDED)
def test_a_smaller_rate_replaces_a_subset_by_the_same_images(kind):
  train = make()
  low, high = call(train, kind, 0.2), call(train, kind, 0.7)
  both = low.truth.abnormal
  assert (high.truth.abnormal | ~both).all()
  np.testing.assert_array_equal(low.images[both], high.images[both])
  np.testing.assert_array_equal(low.labels[both], high.labels[both])


# With and without other damage.


@pytest.mark.fast
def test_no_abnormal_images_return_the_source_itself():
  train = make()
  assert call(train, 'none') is train
  assert abnormal.describe(train, 'none') == 'no abnormal images'


@pytest.mark.fast
def test_label_noise_comes_on_top_of_the_others_only():
  added = call(make(300), 'blend', 0.2)
  noisy = noise.flip(added, kind='symmetric', rate=1, seed=0)
  np.testing.assert_array_equal(noisy.truth.flipped, ~noisy.truth.abnormal)
  assert noisy.images is added.images


@pytest.mark.fast
def test_an_abnormal_image_of_a_flipped_label_is_not_flipped():
  noisy = noise.flip(make(), kind='pair', rate=1, seed=0)
  added = call(noisy, 'noise', 0.5)
  np.testing.assert_array_equal(added.labels, noisy.labels)
  np.testing.assert_array_equal(added.truth.flipped, ~added.truth.abnormal)
  where = added.truth.abnormal
  np.testing.assert_array_equal(added.truth.labels[where], added.labels[where])
  more = call(added, 'blend', 0.25, seed=1)  # Others than those before.
  assert more.truth.abnormal.sum() == 45


@pytest.mark.fast
def test_a_protocol_counts_them():
  assert abnormal.describe(call(make(), 'noise'), 'noise') == (
    '15 of 60 training images replaced by uniform noise under the label that'
    ' was there'
  )
  for kind in ADDED:
    assert abnormal.describe(call(make(), kind), kind).startswith('15 of 60')


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'rate': 1.2}, r'^data.abnormal.rate=1.2: a number in \[0, 1\]'),
    ({'rate': None}, '^data.abnormal.rate=None'),
    ({'kind': 'svhn'}, "^data.abnormal.kind='svhn': known are none, noise, bl"),
    ({'seed': -1}, '^data.abnormal.seed=-1'),
    ({'kind': 'source'}, "^data.abnormal.kind='source': there is no other"),
    ({'kind': 'source', 'other': make(3).take([])}, 'there is no other'),
    (
      {'kind': 'source', 'other': make(3, (4, 5, 2))},
      'images of 2 channels do not turn into images of 1',
    ),
  ],
)
def test_a_wrong_value_is_told_with_its_field(kw, message):
  with pytest.raises(ConfigError, match=message) as error:
    abnormal.add(make(), **({'kind': 'noise', 'rate': 0.1, 'seed': 0} | kw))
  assert '\n' not in str(error.value)


@pytest.mark.fast
def test_one_class_does_not_blend():
  train = source.Source(make().images, [1] * 60, tuple('abc'))
  with pytest.raises(ConfigError, match="kind='blend': fewer than two classes"):
    call(train, 'blend')


@pytest.mark.fast
def test_truth_must_fit_its_source():
  train = make(3)
  no, yes = np.zeros(3, bool), np.ones(3, bool)
  for labels, flipped, is_abnormal, message in (
    (train.labels[:2], no, no, r'truth.labels of shape \(2,\)'),
    (train.labels, no[:2], no, r'truth.flipped of shape \(2,\)'),
    ([0, 1, 1], no, no, 'truth.flipped must say where'),
    ([1, 2, 0], yes, yes, 'no abnormal image'),
    ([9, 9, 9], yes, no, 'run from 9 to 9'),
  ):
    truth = source.Truth(labels, flipped, is_abnormal)
    with pytest.raises(DataError, match=message):
      dataclasses.replace(train, truth=truth)
