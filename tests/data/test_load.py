import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from rrl_jax import data
from rrl_jax.errors import ConfigError


def test_digits_are_those_of_scikit_learn():
  train, test = data.load('digits')
  digits = datasets.load_digits()
  assert train.images.dtype == np.uint8
  assert train.image_shape == (8, 8, 1)
  assert train.class_names == tuple('0123456789')
  assert len(train) + len(test) == 1797
  as_rows = lambda images, labels: sorted(
    zip(images.reshape(-1, 64).tolist(), labels.tolist(), strict=True)
  )
  ours = as_rows(
    np.concatenate([train.images, test.images]),
    np.concatenate([train.labels, test.labels]),
  )
  theirs = as_rows(np.round(digits.data * 255 / 16), digits.target)
  assert ours == theirs
  assert (train.images.min(), train.images.max()) == (0, 255)
  counts = np.bincount(digits.target)
  np.testing.assert_allclose(test.concept_counts, counts / 5, atol=0.5)


def test_the_seed_says_which_digits_are_held_out():
  first, again = (
    data.load('digits', split_seed=1),
    data.load('digits', split_seed=1),
  )
  other = data.load('digits', split_seed=2)
  np.testing.assert_array_equal(first.test.images, again.test.images)
  assert not np.array_equal(first.test.images, other.test.images)


def test_mock_images_have_the_asked_shape_and_can_be_learnt():
  train, test = data.load(
    'mock',
    num_examples=400,
    num_test=100,
    image_shape=[6, 5, 3],
    num_classes=4,
  )
  assert (train.image_shape, train.num_classes) == ((6, 5, 3), 4)
  np.testing.assert_array_equal(train.concept_counts, [100] * 4)
  means = np.stack(
    [train.images[train.labels == k].mean(axis=0) for k in range(4)]
  )
  distances = np.square(test.images[:, None] - means).sum(axis=(2, 3, 4))
  assert np.mean(distances.argmin(axis=1) == test.labels) > 0.95


def test_selection_grouping_and_thinning_apply_in_that_order():
  kw = {'classes': '2-7', 'concepts': 'low=0-4 high=5-9', 'imbalance': '1,0.5'}
  train, test = data.load('digits', **kw)
  plain, _ = data.load('digits')
  assert train.class_names == test.class_names == tuple('234567')
  assert train.concept_names == test.concept_names == ('low', 'high')
  counts = plain.concept_counts
  np.testing.assert_array_equal(
    train.concept_counts, [counts[2:5].sum(), round(counts[5:8].sum() / 2)]
  )
  assert len(test) > 0.19 * counts[2:8].sum()  # Only training is thinned.


@pytest.mark.parametrize(
  ('name', 'kw', 'message'),
  [
    ('mnist', {}, "data.name='mnist': known are digits, fashion_mnist,"),
    ('pipeline', {}, 'known are digits'),
    ('../digits', {}, 'known are digits'),
    (None, {}, 'known are digits'),
    ('digits', {'path': 'x'}, "data.kw.path: the source 'digits' knows no"),
    ('mock', {'size': 3}, 'data.kw.size: .*knows num_examples, num_test'),
    ('mock', {'num_examples': 0}, 'num_examples=0: an integer of at least 1'),
    ('mock', {'num_classes': 2.5}, 'num_classes=2.5'),
    ('mock', {'num_test': True}, 'num_test=True'),
    ('mock', {'image_shape': (8, 8)}, 'image_shape'),
    ('mock', {'image_shape': 8}, 'image_shape'),
    ('mock', {'image_shape': (8, 8, 0)}, 'image_shape=0'),
    ('npz', {}, "data.kw.path: the source 'npz' needs it"),
    ('npz', {'path': 3}, 'data.kw.path=3'),
    ('idx', {'path': ''}, "data.kw.path=''"),
    ('tfds', {'data_set': ''}, "data.kw.data_set=''"),
    ('tfds', {'data_set': 3}, 'data.kw.data_set=3'),
    ('digits', {'seed': -1}, 'seed=-1'),
    ('digits', {'classes': 3}, 'data.classes=3'),
    ('digits', {'classes': '10'}, "no class '10'"),
    ('digits', {'concepts': 'coarse'}, 'no hierarchy'),
    ('digits', {'imbalance': '1,2'}, '2 fractions for 10 concepts'),
  ],
)
def test_a_wrong_name_key_or_value_is_told_in_one_line(name, kw, message):
  with pytest.raises(ConfigError, match=message) as error:
    data.load(name, **kw)
  assert '\n' not in str(error.value)


def test_the_known_names_are_the_sources():
  assert data.names() == (
    'digits', 'fashion_mnist', 'folder', 'idx', 'mock', 'npz', 'tfds'
  )  # fmt: skip


def test_importing_the_room_loads_nothing_heavy():
  heavy = ('sklearn', 'grain', 'tensorflow_datasets', 'PIL', 'jax')
  code = (
    f'import sys, rrl_jax.data;print([m for m in {heavy} if m in sys.modules])'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == '[]'
