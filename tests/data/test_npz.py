import io
import zipfile

import numpy as np
import pytest

from rrl_jax import data
from rrl_jax.errors import ConfigError, DataError


@pytest.fixture
def file(tmp_path):
  return tmp_path / 'set.npz'


@pytest.fixture
def arrays(rng):
  return {
    'images': rng.integers(0, 256, (50, 4, 5, 3), np.uint8),
    'labels': np.arange(50) % 5,
    'test_images': rng.integers(0, 256, (10, 4, 5, 3), np.uint8),
    'test_labels': np.arange(10) % 5,
  }


def load(file, **kw):
  return data.load('npz', path=str(file), **kw)


@pytest.mark.fast
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_both_splits_are_read_as_written(file, arrays, save):
  save(file, **arrays)
  train, test = load(file)
  np.testing.assert_array_equal(train.images, arrays['images'])
  np.testing.assert_array_equal(train.labels, arrays['labels'])
  np.testing.assert_array_equal(test.images, arrays['test_images'])
  np.testing.assert_array_equal(test.labels, arrays['test_labels'])
  assert train.images.dtype == np.uint8


@pytest.mark.fast
def test_without_a_test_split_a_fifth_is_held_out_by_seed(file, arrays):
  np.savez(file, images=arrays['images'], labels=arrays['labels'])
  train, test = load(file, split_seed=3)
  np.testing.assert_array_equal(test.concept_counts, [2] * 5)
  np.testing.assert_array_equal(train.concept_counts, [8] * 5)
  together = np.concatenate([train.images, test.images]).reshape(50, -1)
  np.testing.assert_array_equal(
    np.unique(together, axis=0),
    np.unique(arrays['images'].reshape(50, -1), axis=0),
  )
  np.testing.assert_array_equal(
    load(file, split_seed=3).test.images, test.images
  )
  assert not np.array_equal(load(file, split_seed=4).test.images, test.images)


@pytest.mark.fast
@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_floats_and_gray_images_are_taken(file, arrays, dtype):
  images = (arrays['images'][..., 0] / 255).astype(dtype)
  np.savez(file, images=np.asfortranarray(images), labels=arrays['labels'])
  train, _ = load(file)
  assert train.images.dtype == np.float32
  assert train.image_shape == (4, 5, 1)
  assert 0 <= train.images.min() <= train.images.max() <= 1  # noqa: SIM300


@pytest.mark.parametrize(
  ('change', 'cause'),
  [
    ({'images': None}, "no array 'images'; it holds labels"),
    ({'labels': None}, "no array 'labels'"),
    ({'test_labels': None}, "has 'test_images' but no 'test_labels'"),
    ({'test_images': None}, "has 'test_labels' but no 'test_images'"),
    ({'labels': np.arange(49)}, '50 images but 49 labels'),
    ({'test_labels': np.arange(9)}, '10 test_images but 9 test_labels'),
    ({'images': np.zeros((50, 20), np.uint8)}, r'images has shape \(50, 20\)'),
    ({'images': np.zeros((50, 4, 4), np.int64)}, 'images is int64'),
    ({'images': np.zeros((50, 4, 4), bool)}, 'images is bool'),
    ({'images': np.full((50, 4, 4), 255.0)}, 'values from 255 to 255'),
    ({'images': np.full((50, 4, 4), -0.1)}, 'values from -0.1'),
    ({'images': np.full((50, 4, 4), np.nan)}, 'images holds NaN'),
    ({'images': np.full((50, 4, 4), np.inf)}, 'values from inf'),
    ({'images': np.zeros((0, 4, 4), np.uint8)}, 'images is empty'),
    ({'images': np.zeros((50, 0, 4), np.uint8)}, 'without a pixel'),
    ({'labels': np.arange(50) / 2}, 'labels is float64'),
    ({'labels': np.array(['a'] * 50)}, 'labels is <U1'),
    ({'labels': np.eye(50, dtype=int)}, r'labels has shape \(50, 50\)'),
    ({'labels': np.array([], int)}, 'labels is empty'),
    ({'labels': np.arange(50) - 1}, 'labels holds the negative label -1'),
    ({'labels': np.full(50, 2**64 - 1, np.uint64)}, 'label 18446744073709551'),
    ({'test_labels': np.arange(10) - 3}, 'test_labels holds the negative'),
    ({'test_labels': np.arange(10)}, 'test_labels holds label 5, which the'),
    (
      {'test_images': np.zeros((10, 4, 4, 3), np.uint8)},
      r'test images have shape \(4, 4, 3\), training images \(4, 5, 3\)',
    ),
    ({'images': np.array([None] * 50)}, 'images holds Python objects'),
    ({'extra': np.array([{}])}, 'extra holds Python objects'),
  ],
)
def test_arrays_that_lie_are_named(file, arrays, change, cause):
  arrays = {k: v for k, v in (arrays | change).items() if v is not None}
  np.savez(file, **arrays)
  with pytest.raises(DataError, match=cause) as error:
    load(file)
  assert str(file) in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize('key', ['labels', 'test_labels'])
def test_labels_outside_the_declared_classes_are_named(file, arrays, key):
  np.savez(file, **(arrays | {key: arrays[key] + 2}))
  with pytest.raises(DataError, match=f'{key} holds label 6, outside the 5'):
    load(file, num_classes=5)
  assert load(file, num_classes=7).train.num_classes == 7


@pytest.mark.fast
def test_a_strange_number_of_classes_is_told(file, arrays):
  np.savez(file, **arrays)
  with pytest.raises(ConfigError, match='num_classes=-1'):
    load(file, num_classes=-1)


@pytest.mark.fast
def test_what_is_no_archive_is_told(file, arrays):
  with pytest.raises(DataError, match='does not exist'):
    load(file)
  with pytest.raises(DataError, match='is a folder'):
    load(file.parent)
  for content in (b'', b'nonsense', b'PK\x03\x04 then nonsense'):
    file.write_bytes(content)
    with pytest.raises(DataError, match=r'set.npz is no .npz file'):
      load(file)
  with file.open('wb') as stream:
    np.save(stream, arrays['images'])
  with pytest.raises(DataError, match=r'set.npz is no .npz file'):
    load(file)


@pytest.mark.fast
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_an_archive_cut_or_altered_anywhere_is_told(file, arrays, save):
  save(file, **arrays)
  content = file.read_bytes()
  for length in range(0, len(content), len(content) // 7):
    file.write_bytes(content[:length])
    with pytest.raises(DataError, match=r'set.npz'):
      load(file)
  altered = bytearray(content)
  for i in range(300, 400):  # Inside the first array.
    altered[i] ^= 0xFF
  file.write_bytes(altered)
  with pytest.raises(DataError, match=r'set.npz: images'):
    load(file)


@pytest.mark.fast
def test_an_announced_size_is_not_believed(file, arrays):
  # A header of 2**50 bytes over a member of a few: no memory may be taken.
  member = io.BytesIO()
  np.save(member, arrays['images'][:0])
  lying = member.getvalue().replace(
    b"'shape': (0, 4, 5, 3), }" + b' ' * 14,
    b"'shape': (1125899906842624,), }" + b' ' * 7,
  )
  assert lying != member.getvalue()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('images.npy', lying)
  with pytest.raises(DataError, match=r'images announces shape .* holds 0'):
    load(file)


@pytest.mark.fast
def test_a_member_that_is_no_array_is_told(file):
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('images.npy', b'nonsense')
  with pytest.raises(DataError, match=r'images.npy cannot be read'):
    load(file)
