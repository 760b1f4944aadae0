import numpy as np
from PIL import Image
import pytest

from rrl_jax import data
from rrl_jax.errors import ConfigError, DataError


def save(file, array, **kw):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(file, **kw)


def colours(value, shape=(6, 4, 3)):
  return np.full(shape, value, np.uint8)


@pytest.fixture
def split_folders(tmp_path):
  """Two classes; an image is as bright as 40 class + number + 100 in test."""
  for split, offset, count in (('train', 0, 5), ('test', 100, 2)):
    for label, name in enumerate(('cat', 'dog')):
      for i in range(count):
        save(
          tmp_path / split / name / f'{i}.png',
          colours(40 * label + i + offset),
        )
  return tmp_path


def load(folder, **kw):
  return data.load('folder', path=str(folder), **kw)


@pytest.mark.fast
@pytest.mark.parametrize('in_memory', [None, True, False])
def test_folders_are_classes_and_splits(split_folders, in_memory):
  train, test = load(split_folders, in_memory=in_memory)
  assert train.class_names == test.class_names == ('cat', 'dog')
  assert train.image_shape == (6, 4, 3)
  assert isinstance(train.images, np.ndarray) == (in_memory is not False)
  for split, offset, count in ((train, 0, 5), (test, 100, 2)):
    np.testing.assert_array_equal(split.concept_counts, [count, count])
    images = split.images[np.arange(len(split))]
    expected = 40 * split.labels + np.tile(np.arange(count), 2) + offset
    np.testing.assert_array_equal(
      images, np.broadcast_to(expected[:, None, None, None], images.shape)
    )


@pytest.mark.fast
@pytest.mark.parametrize('name', ['val', 'validation'])
def test_the_test_split_has_other_usual_names(split_folders, name):
  (split_folders / 'test').rename(split_folders / name)
  assert len(load(split_folders).test) == 4


@pytest.mark.fast
def test_without_splits_a_fifth_is_held_out(tmp_path):
  for name in ('b', 'a'):
    for i in range(10):
      save(tmp_path / name / 'deeper' / f'{i}.jpg', colours(i), quality=100)
  train, test = load(tmp_path, split_seed=2)
  assert train.class_names == ('a', 'b')
  np.testing.assert_array_equal(train.concept_counts, [8, 8])
  np.testing.assert_array_equal(test.concept_counts, [2, 2])
  lazy = load(tmp_path, split_seed=2, in_memory=False)
  for eager, unread in zip((train, test), lazy, strict=True):
    np.testing.assert_array_equal(eager.labels, unread.labels)
    np.testing.assert_array_equal(
      eager.images, unread.images[np.arange(len(unread))]
    )


@pytest.mark.fast
def test_lazy_images_survive_selection(split_folders):
  train, _ = load(split_folders, in_memory=False, classes='dog')
  np.testing.assert_array_equal(
    train.images[np.array([3, 0])][:, 0, 0, 0], [43, 40]
  )


@pytest.mark.fast
def test_what_is_no_image_by_name_is_passed_over(split_folders):
  cats = split_folders / 'train' / 'cat'
  (cats / 'Thumbs.db').write_bytes(b'x')
  (cats / '.hidden.png').write_bytes(b'x')
  (split_folders / 'train' / '.git').mkdir()
  assert len(load(split_folders).train) == 10


@pytest.mark.fast
def test_gray_stays_gray_unless_mixed_with_colour(tmp_path):
  for i in range(6):
    save(tmp_path / 'a' / f'{i}.png', colours(7, (5, 5)))
    save(tmp_path / 'b' / f'{i}.png', colours(8, (5, 5)))
  assert load(tmp_path).train.image_shape == (5, 5, 1)
  save(tmp_path / 'a' / 'colour.png', colours(9, (5, 5, 4)))
  assert load(tmp_path).train.image_shape == (5, 5, 3)


@pytest.mark.fast
@pytest.mark.parametrize('suffix', ['png', 'jpg'])
def test_resizing_keeps_the_middle_square(tmp_path, suffix):
  # Black, white in the middle third, whatever the size: after the cut of a
  # 3:1 image nothing but white is left.
  for i, size in enumerate([(30, 90), (60, 180), (48, 16), (300, 100)]):
    array = colours(0, size)
    if size[1] > size[0]:
      array[:, size[1] // 3 : 2 * size[1] // 3] = 255
    else:
      array[size[0] // 3 : 2 * size[0] // 3] = 255
    for j in range(3):
      save(tmp_path / f'c{i}' / f'{j}.{suffix}', array)
  train, _ = load(tmp_path, image_size=16)
  assert train.image_shape == (16, 16, 1)
  assert np.mean(train.images[:, 2:-2, 2:-2] > 250) > 0.99
  assert train.images[:, 2:-2, 2:-2].min() > 200


@pytest.mark.fast
def test_resizing_agrees_with_the_mean_of_blocks(tmp_path, rng):
  array = rng.integers(0, 256, (64, 64), np.uint8)
  smooth = np.repeat(np.repeat(array[:8, :8], 8, axis=0), 8, axis=1)
  for i in range(5):
    for name in 'ab':
      save(tmp_path / name / f'{i}.png', smooth)
  train, _ = load(tmp_path, image_size=8)
  # Bilinear with antialiasing weighs a little of the neighbours too.
  blocks = array[:8, :8].astype(float)
  correlation = np.corrcoef(train.images[0].ravel(), blocks.ravel())[0, 1]
  assert correlation > 0.95


@pytest.mark.fast
def test_images_that_vary_in_size_need_a_size(split_folders):
  save(split_folders / 'train' / 'dog' / '9.png', colours(0, (8, 8, 3)))
  with pytest.raises(ConfigError, match=r'6x4, .*dog/9.png 8x8; give the size'):
    load(split_folders)
  assert load(split_folders, image_size=4).train.image_shape == (4, 4, 3)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('break_it', 'cause'),
  [
    (lambda p: (p / 'train/cat/0.png').write_bytes(b''), r'0.png is no image'),
    (lambda p: (p / 'train/cat/0.png').write_bytes(b'no'), '0.png is no imag'),
    (lambda p: cut(p / 'test/dog/1.png'), r'dog/1.png cannot be decoded'),
    (lambda p: (p / 'train/bird').mkdir(), r'bird holds no .png'),
    (
      lambda p: save(p / 'test/bird/0.png', colours(0)),
      'bird is a class',
    ),
    (lambda p: (p / 'test').rename(p / 'other'), 'has train but none of test'),
    (
      lambda p: save(p / 'train/cat/0.png', np.zeros((6, 4), np.uint16)),
      '0.png has more than 8 bits a channel',
    ),
  ],
)
def test_folders_that_lie_are_named(split_folders, break_it, cause):
  break_it(split_folders)
  with pytest.raises(DataError, match=cause) as error:
    load(split_folders)
  assert str(split_folders) in str(error.value)
  assert '\n' not in str(error.value)


def cut(file):
  save(file, np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8))
  file.write_bytes(file.read_bytes()[:80])


@pytest.mark.fast
def test_empty_folders_are_named(tmp_path):
  with pytest.raises(DataError, match='has no folder, so no class'):
    load(tmp_path)
  with pytest.raises(DataError, match='does not exist'):
    load(tmp_path / 'nowhere')
  (tmp_path / 'a').mkdir()
  (tmp_path / 'b').mkdir()
  with pytest.raises(DataError, match='a holds no .png'):
    load(tmp_path)


@pytest.mark.fast
def test_a_negative_size_is_told(split_folders):
  with pytest.raises(ConfigError, match='image_size=-1'):
    load(split_folders, image_size=-1)


@pytest.fixture
def table(tmp_path):
  """As Waterbirds: 8 + 4 + 4 images as bright as their line; two without."""
  lines = ['id,img_filename,y,split,place']
  for i in range(16):
    split = 0 if i < 8 else 1 if i < 12 else 2
    save(tmp_path / 'birds' / f'{i}.png', colours(i))
    lines.append(f'{i},birds/{i}.png,{i % 2},{split},{i // 2 % 2}')
  (tmp_path / 'metadata.csv').write_text('\n'.join(lines) + '\n')
  return tmp_path


TABLE = {
  'metadata': 'metadata.csv', 'image_key': 'img_filename', 'label_key': 'y'
}  # fmt: skip


@pytest.mark.fast
def test_a_table_says_classes_splits_and_attributes(table):
  by_place = {**TABLE, 'attribute_key': 'place'}
  train, test = load(table, **by_place, groups={'kind': 'attribute'})
  assert train.class_names == ('0', '1')
  assert train.group_names == (
    '0:place_0', '0:place_1', '1:place_0', '1:place_1'
  )  # fmt: skip
  for split, first, count in ((train, 0, 8), (test, 12, 4)):
    line = split.images[:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(line, np.arange(first, first + count))
    np.testing.assert_array_equal(split.labels, line % 2)
    np.testing.assert_array_equal(split.groups, line % 2 * 2 + line // 2 % 2)
  _, validation = load(table, **by_place, test_split='validation')
  assert validation.images[:, 0, 0, 0].tolist() == [8, 9, 10, 11]
  assert validation.groups is None  # Unless data.groups asks for them.


@pytest.mark.fast
def test_values_of_a_table_may_be_any_text_and_negative_numbers(table):
  text = (table / 'metadata.csv').read_text().splitlines()
  rows = [line.split(',') for line in text[1:]]
  for row in rows:
    row[2] = '1' if row[2] == '1' else '-1'
    row[3] = {'0': 'train', '1': 'val', '2': 'Test'}[row[3]]
  (table / 'metadata.csv').write_text(
    '\n'.join([text[0], *(','.join(row) for row in rows)])
  )
  train, test = load(table, **TABLE)
  assert train.class_names == ('-1', '1')
  np.testing.assert_array_equal(test.labels, [0, 1, 0, 1])


@pytest.mark.fast
def test_folders_below_a_class_are_attributes(tmp_path):
  for split, count in (('train', 3), ('test', 2)):
    for place, name in enumerate(('forest', 'lake')):
      for i in range(count):
        file = tmp_path / split / 'bird' / name / f'{i}.png'
        save(file, colours(100 * place + i))
    save(tmp_path / split / 'cat' / 'lake' / '0.png', colours(100))
  train, test = load(
    tmp_path, attribute_key='folder', groups={'kind': 'attribute'}
  )
  assert train.group_names == (
    'bird:forest', 'bird:lake', 'cat:forest', 'cat:lake'
  )  # fmt: skip
  np.testing.assert_array_equal(train.group_counts, [3, 3, 0, 1])
  for split in (train, test):
    lake = split.images[:, 0, 0, 0] >= 100
    np.testing.assert_array_equal(split.groups % 2, lake)
  save(tmp_path / 'train' / 'cat' / '1.png', colours(1))
  with pytest.raises(DataError, match='lies in no folder of an attribute'):
    load(tmp_path, attribute_key='folder')


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'error', 'message'),
  [
    ({'metadata': 'none.csv'}, DataError, 'none.csv cannot be read'),
    ({'image_key': 'file'}, ConfigError, "no column 'file'.*it has id, img"),
    ({'attribute_key': 'sky'}, ConfigError, "no column 'sky'"),
    ({'test_split': '2'}, ConfigError, "test_split='2': known are test"),
    ({'metadata': '', 'label_key': ''}, ConfigError, 'names no table'),
    ({'metadata': 3}, ConfigError, 'data.kw.metadata=3: a text'),
  ],
)
def test_a_table_that_does_not_fit_is_told_in_one_line(
  table, kw, error, message
):
  with pytest.raises(error, match=message) as caught:
    load(table, **{**TABLE, **kw})
  assert '\n' not in str(caught.value)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('9,birds/0.png,0,7,0', "line 18: split '7'; known are 0"),
    ('9,birds/0.png', 'line 18: a column is missing'),
    ('9,birds/0.png,2,2,0', "class '2' of the test split is not in"),
    ('9,birds/x.png,0,0,0', 'birds/x.png is no image'),
  ],
)
def test_a_bad_line_of_a_table_is_told(table, line, message):
  with (table / 'metadata.csv').open('a') as file:
    file.write(line + '\n')
  with pytest.raises(DataError, match=message):
    load(table, **TABLE)


NAMED = {
  **TABLE,
  'attribute_key': 'place',
  'class_names': ('land', 'water'),
  'attribute_names': ('wood', 'sea', 'sky'),
}


@pytest.mark.fast
def test_numbers_of_a_table_may_have_names(table):
  train, test = load(table, **NAMED, groups={'kind': 'attribute'})
  assert train.class_names == ('land', 'water')
  assert train.group_names[2:] == (
    'land:sky', 'water:wood', 'water:sea', 'water:sky'
  )  # fmt: skip
  line = test.images[:, 0, 0, 0].astype(int)
  np.testing.assert_array_equal(test.labels, line % 2)
  np.testing.assert_array_equal(test.groups, line % 2 * 3 + line // 2 % 2)
  assert train.group_counts[2] == 0  # A name that no line has.


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'error', 'message'),
  [
    ({'class_names': ('land',)}, DataError, "line 3: y='1'; the names land"),
    ({'attribute_names': ('a',)}, DataError, "place='1'; .* numbers 0 to 0"),
    ({'class_names': ('a', 'a')}, ConfigError, "class_names=.'a', 'a'.: texts"),
    ({'class_names': 'ab'}, DataError, "line 3: y='1'"),
    ({'class_names': 3}, ConfigError, r'class_names=\(3,\): texts'),
    ({'attribute_key': ''}, ConfigError, 'attribute_names=.*no column'),
    (
      {'metadata': '', 'image_key': '', 'label_key': '', 'attribute_key': ''},
      ConfigError,
      'class_names=.*no column',
    ),
  ],
)
def test_names_that_do_not_fit_a_table_are_told(table, kw, error, message):
  with pytest.raises(error, match=message) as caught:
    load(table, **{**NAMED, **kw})
  assert '\n' not in str(caught.value)
