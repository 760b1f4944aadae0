"""Sets as people have them on disk: read rightly, or refused in one line."""

import json
import logging

import numpy as np
from PIL import Image
import pytest

from rrl_jax import data
from rrl_jax.data import pipeline, source
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import measurement

pytestmark = pytest.mark.fast


def save(file, size=(8, 6), mode='L', value=100, **kw):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, value).save(file, **kw)


def folder(root, **kw):
  return data.load('folder', path=str(root), **kw)


def class_folders(root, names=('a', 'b'), num=5, **kw):
  for name in names:
    for i in range(num):
      save(root / name / f'{i}.png', **kw)


@pytest.mark.parametrize(
  ('train', 'test'),
  [
    ('TRAIN', 'Validation'),
    ('Training', 'Testing'),
    ('seg_train/seg_train', 'seg_test/seg_test'),
    ('train', 'VAL'),
  ],
)
def test_folders_of_splits_have_many_names(tmp_path, train, test):
  class_folders(tmp_path / train, num=3)
  class_folders(tmp_path / test, num=2)
  splits = folder(tmp_path)
  assert (len(splits.train), len(splits.test)) == (6, 4)
  assert splits.train.class_names == ('a', 'b')


def test_a_set_one_level_too_high_is_told_where_it_is(tmp_path):
  class_folders(tmp_path / 'my set')
  with pytest.raises(
    DataError, match=r'one folder, my set.*path .*my set meant'
  ):
    folder(tmp_path)


@pytest.mark.parametrize('hidden', ['.git', '@eaDir', '__MACOSX'])
def test_hidden_folders_are_no_classes_and_are_counted(
  tmp_path, hidden, caplog
):
  class_folders(tmp_path)
  save(tmp_path / hidden / '0.png')
  save(tmp_path / 'a' / hidden / '0.png')
  (tmp_path / 'b' / 'notes.txt').write_text('x')
  with caplog.at_level(logging.WARNING):
    splits = folder(tmp_path)
  assert splits.train.class_names == ('a', 'b')
  assert len(splits.train) + len(splits.test) == 10
  assert '2 files are passed over' in caplog.text


@pytest.mark.parametrize('image_size', [0, 4])
@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_images_are_turned_as_their_exif_data_say(
  tmp_path, orientation, image_size
):
  pixels = np.zeros((6, 8), np.uint8)
  pixels[:, 4:] = 255  # White on the right.
  exif = Image.Exif()
  exif[0x0112] = orientation
  for name in 'ab':
    for i in range(5):
      file = tmp_path / name / f'{i}.jpg'
      file.parent.mkdir(exist_ok=True)
      Image.fromarray(pixels).save(file, exif=exif, quality=95)
  image = folder(tmp_path, image_size=image_size).train.images[0][..., 0]
  white = {3: image[:, 0], 6: image[-1], 8: image[0]}[orientation]
  assert white.mean() > 200
  if not image_size:
    assert image.shape == ((6, 8) if orientation == 3 else (8, 6))


def test_what_is_transparent_lies_on_white_and_is_said(tmp_path, caplog):
  class_folders(tmp_path, mode='LA', value=(0, 0))
  with caplog.at_level(logging.WARNING):
    images = folder(tmp_path).train.images
  assert images.shape[-1] == 1  # Gray stays gray.
  assert (np.asarray(images) == 255).all()
  assert '10 of 10 images have transparent parts' in caplog.text


def table(root, lines, header='filename,label,split,place'):
  class_folders(root)
  (root / 't.csv').write_text('\n'.join([header, *lines]) + '\n')
  return folder(root, metadata='t.csv', attribute_key='place')


GOOD = [f'{c}/{i}.png,{c},{int(i > 2) * 2},x' for c in 'ab' for i in range(5)]


def test_a_good_table_is_read(tmp_path):
  assert len(table(tmp_path, GOOD).test) == 4


@pytest.mark.parametrize(
  ('line', 'words'),
  [
    ('a/0.png, ,0,x', 'line 2: label is empty'),
    ('a/0.png,a,0,', 'line 2: place is empty'),
    ('a/4.png,a,0,x', 'a/4.png is in the training and in the test split'),
  ],
)
def test_a_line_that_says_too_little_or_too_much_is_told(tmp_path, line, words):
  with pytest.raises(DataError, match=words):
    table(tmp_path, [line, *GOOD[1:]])


def test_a_column_with_the_name_of_another_is_told(tmp_path):
  with pytest.raises(ConfigError, match="2 columns 'label'"):
    table(tmp_path, GOOD, header='filename,label,split,label')


def npz(path, images, labels=None, **kw):
  labels = np.arange(len(images)) % 4 if labels is None else labels
  np.savez(path / 'd.npz', images=images, labels=labels, **kw)
  return data.load('npz', path=str(path / 'd.npz'))


def test_floats_a_hair_outside_are_cut_and_told_in_full(tmp_path, caplog, rng):
  images = rng.random((40, 4, 4))
  images[3, 2, 1], images[5] = 1 + 3e-7, -2e-7
  with caplog.at_level(logging.WARNING):
    splits = npz(tmp_path, images)
  assert splits.train.images.max() <= 1
  assert splits.train.images.min() >= 0
  assert '1.0000003' in caplog.text
  images[0, 0, 0] = 1.00001
  with pytest.raises(DataError, match=r'to 1\.00001;'):
    npz(tmp_path, images)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_channels_first_are_refused_with_what_to_do(tmp_path, channels, rng):
  images = rng.integers(0, 256, (40, channels, 8, 8), dtype=np.uint8)
  with pytest.raises(DataError, match=r'channels first.*moveaxis'):
    npz(tmp_path, images)
  assert npz(tmp_path, np.moveaxis(images, 1, -1)).train.image_shape[-1] in (
    1, 3, 4,
  )  # fmt: skip


def test_bytes_of_zero_and_one_are_refused(tmp_path, rng):
  with pytest.raises(DataError, match='white is 255'):
    npz(tmp_path, rng.integers(0, 2, (40, 4, 4, 1), dtype=np.uint8))


def test_one_class_is_refused(tmp_path, rng):
  images = rng.integers(0, 256, (40, 4, 4), dtype=np.uint8)
  with pytest.raises(DataError, match='one class'):
    npz(tmp_path, images, np.zeros(40, int))


def test_test_images_that_are_training_images_are_counted(
  tmp_path, caplog, rng
):
  images = rng.integers(0, 256, (40, 4, 4), dtype=np.uint8)
  more = np.concatenate([images[:3], 255 - images[3:12]])
  with caplog.at_level(logging.WARNING):
    npz(tmp_path, images, test_images=more, test_labels=np.arange(12) % 4)
  assert '3 of 12 test images' in caplog.text


@pytest.mark.parametrize('sampling', pipeline.SAMPLING)
def test_probabilities_of_concepts_are_those_of_the_table(sampling, rng):
  labels, concepts = rng.integers(0, 5, 60), rng.integers(0, 4, 60)
  made = source.Source(
    source.blank(60, (2, 2, 1)),
    labels,
    tuple('abcdef'),
    concepts,
    tuple('wxyz'),
  )
  joint = np.zeros((6, 4))
  np.add.at(joint, (labels, concepts), 1)
  if sampling != 'uniform':
    axis = 1 if sampling == 'class_balanced' else 0
    joint /= np.maximum(joint.sum(axis, keepdims=True), 1)
  joint /= joint.sum()
  np.testing.assert_allclose(
    pipeline.sampling_probs(made, sampling), joint.sum(axis=0)
  )
  np.testing.assert_allclose(
    pipeline.class_probs(made, sampling), joint.sum(axis=1)
  )


def test_no_two_names_have_one_key():
  names = ['x', 'x.low', 'x.high', 'x%2Elow', 'a/b', 'a%2Fb', 'x.low.high']
  keys = {f'k/{measurement.key_part(name)}' for name in names}
  every = keys | {f'{key}.{end}' for key in keys for end in ('low', 'high')}
  assert len(every) == 3 * len(names)
  assert json.dumps(sorted(every))
