import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from rrl_jax import data
from rrl_jax.data import fashion_mnist, idx, tfds
from rrl_jax.errors import ConfigError, DataError

CODES = {'u1': 0x08, 'i1': 0x09, 'i2': 0x0B, 'i4': 0x0C, 'f4': 0x0D, 'f8': 0x0E}


def encode(array):
  array = np.asarray(array)
  code = CODES[array.dtype.str[1:]]
  header = struct.pack(
    f'>BBBB{array.ndim}I', 0, 0, code, array.ndim, *array.shape
  )
  return header + array.astype(array.dtype.newbyteorder('>')).tobytes()


def write(file, array):
  content = array if isinstance(array, bytes) else encode(array)
  file.write_bytes(gzip.compress(content) if file.suffix == '.gz' else content)


@pytest.fixture
def arrays(rng):
  return {
    'train-images-idx3-ubyte': rng.integers(0, 256, (30, 4, 3), np.uint8),
    'train-labels-idx1-ubyte': (np.arange(30) % 3).astype(np.uint8),
    't10k-images-idx3-ubyte': rng.integers(0, 256, (6, 4, 3), np.uint8),
    't10k-labels-idx1-ubyte': (np.arange(6) % 3).astype(np.uint8),
  }


def write_all(folder, arrays, suffix=''):
  for name, array in arrays.items():
    write(folder / f'{name}{suffix}', array)


def load(folder, **kw):
  return data.load('idx', path=str(folder), **kw)


@pytest.mark.fast
@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_files_are_read_as_written(tmp_path, arrays, suffix):
  write_all(tmp_path, arrays, suffix)
  train, test = load(tmp_path)
  for split, name in ((train, 'train'), (test, 't10k')):
    np.testing.assert_array_equal(
      split.images[..., 0], arrays[f'{name}-images-idx3-ubyte']
    )
    np.testing.assert_array_equal(
      split.labels, arrays[f'{name}-labels-idx1-ubyte']
    )
  assert train.images.dtype == np.uint8
  assert train.class_names == ('0', '1', '2')


@pytest.mark.fast
@pytest.mark.parametrize('dtype', ['u1', 'i1', 'i2', 'i4', 'f4', 'f8'])
@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_every_type_of_the_format_is_read(tmp_path, dtype, suffix):
  array = np.arange(24).reshape(2, 3, 4).astype(dtype)
  write(tmp_path / f'a{suffix}', array)
  result = idx.read(tmp_path / f'a{suffix}')
  np.testing.assert_array_equal(result, array)
  assert result.dtype == array.dtype


@pytest.mark.fast
def test_dots_in_names_are_read_too(tmp_path, arrays):
  write_all(
    tmp_path, {name.replace('-idx', '.idx'): a for name, a in arrays.items()}
  )
  assert len(load(tmp_path).train) == 30


def emnist(folder, arrays, subset, first):
  for name, array in arrays.items():
    name = name.replace('t10k', 'test')
    if 'labels' in name:
      array = (array + first).astype(np.uint8)
    write(folder / f'emnist-{subset}-{name}.gz', array)


@pytest.mark.fast
def test_emnist_is_transposed_back_and_named_by_its_mapping(tmp_path, arrays):
  emnist(tmp_path, arrays, 'letters', first=1)
  mapping = tmp_path / 'emnist-letters-mapping.txt'
  mapping.write_text('1 65 97\n2 66 98\n3 67 99\n')
  train, test = load(tmp_path)
  assert train.class_names == ('A', 'B', 'C')
  assert train.image_shape == (3, 4, 1)
  np.testing.assert_array_equal(
    train.images[..., 0],
    arrays['train-images-idx3-ubyte'].transpose(0, 2, 1),
  )
  np.testing.assert_array_equal(test.labels, np.arange(6) % 3)
  mapping.write_text('1 65\n2 66\n')
  with pytest.raises(DataError, match='mapping.txt does not name label 3'):
    load(tmp_path)
  mapping.write_text('one A\n')
  with pytest.raises(DataError, match='mapping.txt is no mapping'):
    load(tmp_path)
  mapping.unlink()
  assert load(tmp_path).train.class_names == ('1', '2', '3')


@pytest.mark.fast
def test_one_of_several_subsets_is_chosen_by_name(tmp_path, arrays):
  emnist(tmp_path, arrays, 'letters', first=1)
  emnist(tmp_path, arrays, 'digits', first=0)
  assert load(tmp_path, subset='digits').train.class_names == ('0', '1', '2')
  assert load(tmp_path, subset='emnist-letters').train.num_classes == 3
  for subset in ('', 'balanced'):
    with pytest.raises(ConfigError, match='holds emnist-digits, emnist-letter'):
      load(tmp_path, subset=subset)


@pytest.mark.fast
def test_class_names_may_be_given(tmp_path, arrays):
  write_all(tmp_path, arrays)
  train, _ = load(tmp_path, class_names=('a', 'b', 'c', 'd'))
  assert train.class_names == ('a', 'b', 'c', 'd')
  with pytest.raises(DataError, match='label 2, outside the 2 classes'):
    load(tmp_path, class_names=('a', 'b'))
  with pytest.raises(ConfigError, match='there are 2 class names'):
    load(tmp_path, class_names=('a', 'b'), num_classes=3)


IMAGES, LABELS = 'train-images-idx3-ubyte', 'train-labels-idx1-ubyte'


@pytest.mark.fast
@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize(
  ('name', 'alter', 'cause'),
  [
    (IMAGES, lambda c: b'', 'is no IDX file: it begins with nothing'),
    (IMAGES, lambda c: b'\x89PNG' + c, 'begins with 89504e47'),
    (IMAGES, lambda c: b'\0\0\x07' + c[3:], 'begins with 00000703'),
    (IMAGES, lambda c: b'\0\0\x08\0', 'rank 0'),
    (IMAGES, lambda c: c[:9], 'ends within its header'),
    (IMAGES, lambda c: c[:-1], '360 bytes of uint8, but holds 359'),
    (IMAGES, lambda c: c[:16], '360 bytes of uint8, but holds 0'),
    (IMAGES, lambda c: c + b'\0', '360 bytes of uint8, but holds'),
    (IMAGES, lambda c: encode(np.zeros((31, 4, 3), 'u1')), '31 images but'),
    (IMAGES, lambda c: encode(np.zeros((30, 12), 'u1')), r'shape \(30, 12\)'),
    (IMAGES, lambda c: encode(np.zeros((30, 0, 3), 'u1')), 'without a pixel'),
    (IMAGES, lambda c: encode(np.zeros((30, 4, 3), 'i4')), 'is int32'),
    (IMAGES, lambda c: encode(np.full((30, 4, 3), 9.0)), 'values from 9 to 9'),
    (LABELS, lambda c: c[:-4], '30 bytes of uint8, but holds 26'),
    (LABELS, lambda c: encode(np.zeros((30, 1), 'u1')), r'shape \(30, 1\)'),
    (LABELS, lambda c: encode(np.zeros(30, 'f4')), 'is float32'),
    (LABELS, lambda c: encode(np.full(30, -1, 'i1')), 'negative label -1'),
    (LABELS, lambda c: encode(np.zeros(0, 'u1')), 'is empty'),
    (LABELS, lambda c: encode(np.zeros(29, 'u1')), '30 images but'),
    (LABELS, lambda c: encode(np.zeros(30, 'u1')), 'which the training split'),
  ],
)
def test_files_that_lie_are_named(tmp_path, arrays, suffix, name, alter, cause):
  write_all(tmp_path, arrays, suffix)
  write(tmp_path / f'{name}{suffix}', alter(encode(arrays[name])))
  with pytest.raises(DataError, match=cause) as error:
    load(tmp_path)
  assert str(tmp_path) in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.fast
def test_damaged_gzip_is_told(tmp_path, arrays):
  write_all(tmp_path, arrays, '.gz')
  file = tmp_path / f'{IMAGES}.gz'
  content = file.read_bytes()
  for length in range(11, len(content), 40):
    file.write_bytes(content[:length])
    with pytest.raises(DataError, match=r'images-idx3-ubyte.gz is truncated'):
      load(tmp_path)
  file.write_bytes(encode(arrays[IMAGES]))
  with pytest.raises(DataError, match='is damaged: Not a gzipped file'):
    load(tmp_path)
  altered = bytearray(content)
  altered[100:140] = bytes(40)
  file.write_bytes(altered)
  with pytest.raises(DataError, match='is (damaged|truncated)'):
    load(tmp_path)
  file.write_bytes(content[:-8] + bytes(8))  # The checksum at the end.
  with pytest.raises(DataError, match='is damaged: CRC'):
    load(tmp_path)


@pytest.mark.fast
@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_an_announced_size_is_not_believed(tmp_path, suffix):
  file = tmp_path / f'a{suffix}'
  write(file, struct.pack('>BBBB3I', 0, 0, 8, 3, 2**31, 2**15, 2**15))
  tracemalloc.start()
  try:
    with pytest.raises(DataError, match='2305843009213693952 bytes .* holds 0'):
      idx.read(file)
    assert tracemalloc.get_traced_memory()[1] < 2**24
  finally:
    tracemalloc.stop()


@pytest.mark.fast
@pytest.mark.parametrize('name', [IMAGES, LABELS, 't10k-labels-idx1-ubyte'])
def test_a_missing_file_is_named(tmp_path, arrays, name):
  write_all(tmp_path, arrays)
  (tmp_path / name).unlink()
  with pytest.raises(DataError, match=f'{tmp_path} has no {name}'):
    load(tmp_path)


@pytest.mark.fast
def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(DataError, match='nowhere does not exist'):
    load(tmp_path / 'nowhere')
  (tmp_path / 'file').touch()
  with pytest.raises(DataError, match='file is not a folder'):
    load(tmp_path / 'file')


@pytest.mark.fast
def test_fashion_mnist_is_found_by_path_and_named(tmp_path, arrays):
  write_all(tmp_path, arrays, '.gz')
  train, _ = data.load('fashion_mnist', path=str(tmp_path))
  assert train.class_names[:3] == ('T-shirt/top', 'Trouser', 'Pullover')
  assert train.num_classes == 10


def test_fashion_mnist_that_is_nowhere_says_how_to_get_it(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(fashion_mnist, '_DEBIAN', str(tmp_path / 'none'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(DataError, match='apt-get install dataset-fashion') as e:
    data.load('fashion_mnist')
  assert str(tmp_path / 'none') in str(e.value)
  assert f'prepared in {tmp_path};' in str(e.value)


@pytest.mark.fast
def test_fashion_mnist_falls_back_on_a_prepared_set(tmp_path, monkeypatch):
  mock = data.load('mock')
  monkeypatch.setattr(fashion_mnist, '_DEBIAN', str(tmp_path / 'none'))
  monkeypatch.setattr(tfds, 'find', lambda name: name == 'fashion_mnist')
  monkeypatch.setattr(
    tfds, 'load', lambda data_set, seed: (data_set == 'fashion_mnist') and mock
  )
  assert len(data.load('fashion_mnist').train) == len(mock.train)


def test_the_debian_package_holds_the_published_set(debian_fashion_mnist):
  train, test = data.load('fashion_mnist', concepts='shoes=5,7,9 rest=0-4,6,8')
  assert (len(train), len(test)) == (60000, 10000)
  assert train.image_shape == (28, 28, 1)
  np.testing.assert_array_equal(train.concept_counts, [18000, 42000])
  np.testing.assert_array_equal(np.bincount(test.labels), [1000] * 10)
  # The mean and deviation that everybody normalises by.
  assert train.images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
  assert train.images.std() / 255 == pytest.approx(0.3530, abs=1e-4)
  assert train.class_names[train.labels[0]] == 'Ankle boot'
