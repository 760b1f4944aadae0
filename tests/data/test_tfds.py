import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from rrl_jax import data
from rrl_jax.data import pipeline
from rrl_jax.errors import ConfigError, DataError

CLASSES, COARSE = ('ant', 'bee', 'cow', 'dog'), ('insect', 'mammal')


def encoded(array):
  stream = io.BytesIO()
  Image.fromarray(array).save(stream, 'PNG')
  stream.seek(0)
  return stream


class _Base(tfds.core.GeneratorBasedBuilder):
  """40 + 12 images; pixel = number of the image, class = number mod 4."""

  VERSION = tfds.core.Version('1.0.0')
  skip_registration = True
  features = {}

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(self.features)
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      'train': self._generate_examples(40),
      'validation': self._generate_examples(12),
    }

  def _generate_examples(self, count):
    for i in range(count):
      yield i, self.example(i)


LABEL = tfds.features.ClassLabel(names=CLASSES)


class TinyFixed(_Base):
  features = {
    'image': tfds.features.Image(shape=(6, 4, 3)),
    'label': LABEL,
    'coarse_label': tfds.features.ClassLabel(names=COARSE),
  }

  def example(self, i):
    image = encoded(np.full((6, 4, 3), i, np.uint8))
    return {'image': image, 'label': i % 4, 'coarse_label': i % 4 // 2}


class TinyVarying(_Base):
  features = {
    'picture': tfds.features.Image(shape=(None, None, 1)),
    'kind': LABEL,
    'text': tfds.features.Text(),
  }

  def example(self, i):
    image = encoded(np.full((5 + i, 9), i, np.uint8))
    return {'picture': image, 'kind': i % 4, 'text': 'x'}


class TinyPlain(_Base):
  features = {
    'image': tfds.features.Tensor(shape=(5, 5, 1), dtype=np.uint8),
    'label': LABEL,
    'other_label': LABEL,
  }

  def example(self, i):
    return {
      'image': np.full((5, 5, 1), i, np.uint8),
      'label': -1 if i == 11 else i % 4,
      'other_label': i % 4,
    }


class TinyFaces(_Base):
  """As celeb_a: truth values inside a feature."""

  features = {
    'image': tfds.features.Image(shape=(5, 5, 3)),
    'attributes': {'Blond_Hair': np.bool_, 'Male': np.bool_},
    'place': LABEL,
  }

  def example(self, i):
    return {
      'image': encoded(np.full((5, 5, 3), i, np.uint8)),
      'attributes': {'Blond_Hair': i % 2 == 0, 'Male': i % 3 == 0},
      'place': i % 4,
    }


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  for builder in (TinyFixed, TinyVarying, TinyPlain, TinyFaces):
    builder(data_dir=folder, file_format='array_record').download_and_prepare()
  return str(folder)


@pytest.fixture
def offline(monkeypatch):
  """Lets no name be resolved; returns the names that were asked for."""
  asked = []

  def refuse(host, *args, **kwargs):
    asked.append(host)
    raise socket.gaierror(-2, 'Name or service not known')

  monkeypatch.setattr(socket, 'getaddrinfo', refuse)
  for name in ('http_proxy', 'https_proxy', 'all_proxy'):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  return asked


def load(data_set, data_dir, **kw):
  return data.load('tfds', data_set=data_set, data_dir=data_dir, **kw)


def pixels(split):
  return split.images[np.arange(len(split))][:, 0, 0, 0]


@pytest.mark.parametrize('in_memory', [None, False])
@pytest.mark.parametrize('name', ['tiny_fixed', 'tiny_fixed:1.0.0'])
def test_a_prepared_set_is_read(data_dir, name, in_memory):
  train, test = load(name, data_dir, in_memory=in_memory)
  assert train.image_shape == (6, 4, 3)
  assert train.images.dtype == np.uint8
  assert train.class_names == CLASSES
  assert isinstance(train.images, np.ndarray) == (in_memory is None)
  for split, count in ((train, 40), (test, 12)):
    np.testing.assert_array_equal(np.sort(pixels(split)), np.arange(count))
    np.testing.assert_array_equal(split.labels, pixels(split) % 4)
  # In any order, with repetitions.
  rows = np.array([7, 7, 0, 39])
  np.testing.assert_array_equal(
    train.images[rows], train.images[np.arange(40)][rows]
  )


@pytest.mark.fast
def test_the_folder_may_come_from_the_environment(data_dir, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', data_dir)
  assert len(data.load('tfds', data_set='tiny_fixed').train) == 40


@pytest.mark.fast
def test_the_coarse_labels_are_its_hierarchy(data_dir):
  train, _ = load('tiny_fixed', data_dir, concepts='coarse')
  assert train.concept_names == COARSE
  np.testing.assert_array_equal(train.concepts, train.labels // 2)
  assert load('tiny_fixed', data_dir).train.concept_names == CLASSES


@pytest.mark.fast
@pytest.mark.parametrize('in_memory', [None, False])
def test_truth_values_are_classes_and_attributes(data_dir, in_memory):
  train, test = load(
    'tiny_faces',
    data_dir,
    label_key='attributes/Blond_Hair',
    attribute_key='attributes/Male',
    groups={'kind': 'attribute'},
    in_memory=in_memory,
  )
  assert train.class_names == ('not_Blond_Hair', 'Blond_Hair')
  assert train.group_names == (
    'not_Blond_Hair:not_Male', 'not_Blond_Hair:Male',
    'Blond_Hair:not_Male', 'Blond_Hair:Male',
  )  # fmt: skip
  for split in (train, test):
    number = pixels(split)
    np.testing.assert_array_equal(split.labels, number % 2 == 0)
    np.testing.assert_array_equal(split.groups % 2, number % 3 == 0)


@pytest.mark.fast
def test_a_named_feature_may_be_the_attribute(data_dir):
  train, _ = load(
    'tiny_fixed',
    data_dir,
    attribute_key='coarse_label',
    groups={'kind': 'attribute'},
    concepts='coarse',
  )
  np.testing.assert_array_equal(train.groups % 2, train.labels // 2)
  assert train.concept_names == COARSE
  with pytest.raises(ConfigError, match="'x': .*do are coarse_label, label"):
    load('tiny_fixed', data_dir, attribute_key='x')


@pytest.mark.fast
def test_the_hierarchy_of_a_set_gives_coarse_labels(data_dir):
  train, test = load('tiny_fixed', data_dir, coarse='source', concepts='fine')
  for split in (train, test):
    assert split.class_names == COARSE
    assert split.fine_names == split.concept_names == CLASSES
    np.testing.assert_array_equal(split.labels, split.fine_labels // 2)
    np.testing.assert_array_equal(split.fine_labels, pixels(split) % 4)


@pytest.mark.fast
def test_lazy_images_survive_selection_and_thinning(data_dir):
  kw = {'classes': 'bee,dog', 'imbalance': '1,0.5'}
  eager = load('tiny_fixed', data_dir, **kw).train
  lazy = load('tiny_fixed', data_dir, in_memory=False, **kw).train
  np.testing.assert_array_equal(lazy.concept_counts, [10, 5])
  np.testing.assert_array_equal(pixels(lazy), pixels(eager))
  np.testing.assert_array_equal(pixels(lazy) % 4, 2 * lazy.labels + 1)


def test_threads_read_what_is_in_memory(data_dir):
  batches = {}
  for in_memory in (True, False):
    train = load('tiny_fixed', data_dir, in_memory=in_memory).train
    indices = pipeline.index_batches(train, batch_size=16, seed=0)
    batches[in_memory] = list(
      pipeline.stream(train, indices, start=0, stop=40, num_threads=4)
    )
  for eager, lazy in zip(batches[True], batches[False], strict=True):
    for key in eager:
      np.testing.assert_array_equal(eager[key], lazy[key])


@pytest.mark.fast
def test_images_that_vary_in_size_need_a_size(data_dir):
  with pytest.raises(ConfigError, match='image_size=0: .* vary in size'):
    load('tiny_varying', data_dir)
  train, test = load('tiny_varying', data_dir, image_size=5)
  assert train.image_shape == test.image_shape == (5, 5, 1)
  np.testing.assert_array_equal(train.labels, pixels(train) % 4)


@pytest.mark.fast
def test_splits_and_features_are_chosen_by_name(data_dir):
  train, test = load(
    'tiny_plain',
    data_dir,
    train_split='train[10:20]',
    test_split='train[:10]',
    label_key='other_label',
  )
  assert (len(train), len(test)) == (10, 10)
  assert not set(pixels(train)) & set(pixels(test))
  np.testing.assert_array_equal(train.labels, pixels(train) % 4)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'kw', 'message'),
  [
    ('tiny_fixed', {'train_split': 'half'}, "train_split='half': .*train, val"),
    ('tiny_fixed', {'test_split': 'test'}, "test_split='test'"),
    ('tiny_fixed', {'image_key': 'x'}, "image_key='x': .*do are image "),
    ('tiny_fixed', {'label_key': 'image'}, "label_key='image'"),
    ('tiny_plain', {'image_size': 9}, 'plain array of 5x5'),
    ('tiny_fixed', {'data_dir': 5}, 'data_dir=5'),
    ('tiny fixed!', {}, 'data_set='),
  ],
)
def test_what_a_set_does_not_have_is_told(data_dir, offline, name, kw, message):
  with pytest.raises(ConfigError, match=message) as error:
    load(name, **({'data_dir': data_dir} | kw))
  assert '\n' not in str(error.value)


def test_examples_without_a_label_are_told(data_dir):
  with pytest.raises(DataError, match='tiny_plain in .*: train .*label -1'):
    load('tiny_plain', data_dir)


def broken(data_dir, tmp_path, name='tiny_fixed'):
  shutil.copytree(f'{data_dir}/{name}', tmp_path / name)
  return tmp_path / name / '1.0.0'


@pytest.mark.fast
def test_a_missing_shard_is_told(data_dir, tmp_path):
  (shard,) = broken(data_dir, tmp_path).glob('*-train.array_record*')
  shard.unlink()
  with pytest.raises(DataError, match='tiny_fixed in .* cannot be read'):
    load('tiny_fixed', str(tmp_path))


@pytest.mark.fast
def test_a_damaged_shard_is_told(data_dir, tmp_path):
  (shard,) = broken(data_dir, tmp_path).glob('*-train.array_record*')
  content = bytearray(shard.read_bytes())
  content[100:3000] = bytes(2900)
  shard.write_bytes(content)
  with pytest.raises(DataError, match='tiny_fixed in .*: '):
    load('tiny_fixed', str(tmp_path))


@pytest.mark.fast
def test_a_damaged_description_is_told(data_dir, tmp_path):
  (broken(data_dir, tmp_path) / 'features.json').write_text('{')
  with pytest.raises(DataError, match='tiny_fixed in .* cannot be read'):
    load('tiny_fixed', str(tmp_path))


@pytest.mark.fast
def test_another_file_format_is_told(data_dir, tmp_path):
  file = broken(data_dir, tmp_path) / 'dataset_info.json'
  info = json.loads(file.read_text())
  info['fileFormat'] = 'tfrecord'
  file.write_text(json.dumps(info).replace('array_record', 'tfrecord'))
  with pytest.raises(DataError, match='is prepared as tfrecord; .*array_rec'):
    load('tiny_fixed', str(tmp_path))


@pytest.mark.fast
def test_a_set_that_is_out_of_reach_is_told_at_once(tmp_path, offline):
  start = time.monotonic()
  with pytest.raises(DataError) as error:
    load('cifar10', str(tmp_path))
  assert time.monotonic() - start < 5
  message = str(error.value)
  assert offline == ['www.cs.toronto.edu']  # Once.
  for part in (
    'cifar10',
    f'in {tmp_path}',
    'www.cs.toronto.edu cannot be reached',
    'python -c "import tensorflow_datasets as tfds;',
    "tfds.data_source('cifar10', data_dir=",
  ):
    assert part in message
  assert '\n' not in message
  assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_a_resolver_that_hangs_costs_less_than_ten_seconds(
  tmp_path, monkeypatch, offline
):
  given_up = threading.Event()

  def hang(*args, **kw):
    given_up.wait(30)
    raise socket.gaierror(-2, 'Name or service not known')

  monkeypatch.setattr(socket, 'getaddrinfo', hang)
  start = time.monotonic()
  with pytest.raises(DataError, match='cannot be reached'):
    load('cifar10', str(tmp_path))
  assert time.monotonic() - start < 8
  given_up.set()


@pytest.mark.fast
def test_a_proxy_is_asked_instead_of_the_server(tmp_path, monkeypatch, offline):
  monkeypatch.setenv('https_proxy', 'http://proxy.example:3128')
  with pytest.raises(DataError, match=r'proxy.example cannot be reached'):
    load('cifar10', str(tmp_path))
  assert offline == ['proxy.example']


@pytest.mark.fast
def test_a_set_fetched_by_hand_says_what_to_fetch(tmp_path, offline):
  with pytest.raises(DataError, match=r'by hand into .*ILSVRC2012_img_train'):
    load('imagenet2012', str(tmp_path))
  assert offline == []


@pytest.mark.fast
def test_an_unknown_set_is_a_wrong_setting(tmp_path, offline):
  with pytest.raises(ConfigError, match='close names: .*cifar10'):
    load('cifar_10', str(tmp_path))
  assert offline == []


@pytest.mark.fast
def test_a_set_within_reach_is_prepared(tmp_path, monkeypatch):
  # A builder that has nothing to download, found by name as others are.
  monkeypatch.setattr(tfds, 'builder_cls', lambda name: TinyFixed)
  monkeypatch.setattr(tfds, 'builder', lambda name, **kw: TinyFixed(**kw))
  monkeypatch.setattr('rrl_jax.data.tfds._reachable', lambda host, port: True)
  train, _ = load('tiny_fixed', str(tmp_path))
  assert len(train) == 40
  assert len(load('tiny_fixed', str(tmp_path)).train) == 40


@pytest.mark.fast
def test_a_failed_preparation_is_told_in_one_line(tmp_path, monkeypatch):
  def fail(name, **kw):
    raise OSError('disk\nfull')

  monkeypatch.setattr(tfds, 'builder', fail)
  monkeypatch.setattr('rrl_jax.data.tfds._reachable', lambda host, port: True)
  with pytest.raises(DataError, match='preparing it failed: disk full'):
    load('cifar10', str(tmp_path))


def test_tensorflow_is_never_imported(data_dir):
  code = f"""
import sys
from rrl_jax import data
train, _ = data.load('tfds', data_set='tiny_fixed', data_dir={data_dir!r})
print(len(train), 'tensorflow' in sys.modules)
"""
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == '40 False'
