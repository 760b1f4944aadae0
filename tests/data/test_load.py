import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
from sklearn import datasets

from rrl_jax import data
from rrl_jax.errors import ConfigError


@pytest.mark.fast
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


@pytest.mark.fast
def test_the_seed_says_which_digits_are_held_out():
  first, again = (
    data.load('digits', split_seed=1),
    data.load('digits', split_seed=1),
  )
  other = data.load('digits', split_seed=2)
  np.testing.assert_array_equal(first.test.images, again.test.images)
  assert not np.array_equal(first.test.images, other.test.images)


@pytest.mark.fast
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


@pytest.mark.fast
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


SYMMETRIC = {'kind': 'symmetric', 'rate': 0.5}


@pytest.mark.fast
def test_abnormal_images_come_before_label_noise_and_only_in_training():
  kw = {'classes': '2-7', 'concepts': 'low=0-4 high=5-9', 'imbalance': '1,0.5'}
  clean = data.load('digits', **kw)
  train, test = data.load(
    'digits', **kw, noise=SYMMETRIC, abnormal={'kind': 'blend', 'rate': 0.2}
  )
  truth = train.truth
  assert test.truth is None
  np.testing.assert_array_equal(test.images, clean.test.images)
  np.testing.assert_array_equal(test.labels, clean.test.labels)
  np.testing.assert_array_equal(truth.labels, clean.train.labels)
  np.testing.assert_array_equal(train.concepts, clean.train.concepts)
  changed = (train.images != clean.train.images).any(axis=(1, 2, 3))
  np.testing.assert_array_equal(truth.abnormal, changed)
  assert changed.sum() == round(0.2 * len(train))
  assert not (truth.flipped & truth.abnormal).any()
  normal = np.bincount(truth.labels[~changed])
  assert np.bincount(truth.labels[truth.flipped]).tolist() == [
    round(n / 2) for n in normal
  ]


@pytest.mark.fast
def test_noise_does_not_depend_on_the_seed_of_thinning():
  kw = {'num_examples': 400, 'num_classes': 4, 'noise': SYMMETRIC}
  kw['imbalance'] = '1,1,1,1'  # All stay, whichever the seed.
  first, other = (data.load('mock', seed=seed, **kw).train for seed in (0, 1))
  np.testing.assert_array_equal(first.labels, other.labels)
  kw['noise'] = SYMMETRIC | {'seed': 1}
  assert (data.load('mock', **kw).train.labels != first.labels).any()


@pytest.mark.fast
def test_no_noise_leaves_no_truth():
  for given in (None, {}, {'kind': 'none', 'rate': 0.4}, {'kind': None}):
    train, test = data.load('mock', noise=given, abnormal={'kind': 'none'})
    assert train.truth is None
    assert test.truth is None


@pytest.mark.fast
@pytest.mark.parametrize('in_memory', [True, False])
def test_images_of_another_source_are_loaded_by_name(tmp_path, in_memory, rng):
  for name in ('a', 'b'):
    for i in range(20):
      file = tmp_path / name / f'{i}.png'
      file.parent.mkdir(exist_ok=True)
      noise = rng.integers(0, 256, (9, 9, 3), np.uint8)
      Image.fromarray(noise).save(file)
  train = data.load(
    'folder',
    path=str(tmp_path),
    in_memory=in_memory,
    abnormal={
      'kind': 'source', 'rate': 0.5, 'seed': 3,
      'name': 'mock', 'classes': '1,2',
      'kw': {'image_shape': (4, 4, 1), 'num_classes': 3, 'num_test': None},
    },
  ).train  # fmt: skip
  assert isinstance(train.images, np.ndarray) == in_memory
  images = train.images[np.flatnonzero(train.truth.abnormal)]
  assert images.shape == (16, 9, 9, 3)
  assert (images == images[..., :1]).all()  # Gray ones.


@pytest.mark.fast
@pytest.mark.parametrize(
  ('abnormal', 'message'),
  [
    ({'name': 'x'}, r"data.abnormal.name='x': known are digits, f"),
    ({'name': ''}, r"data.abnormal.name='': known are digits, f"),
    ({'name': 3}, r'data.abnormal.name=3: a text'),
    ({'classes': 3}, r'data.abnormal.classes=3: a text'),
    ({'classes': '12'}, r"data.abnormal.classes='12': no class '12'"),
    ({'kw': 3}, r'data.abnormal.kw=3: settings'),
    ({'kw': {'seed': 3}}, r"data.abnormal.kw.seed: the source 'mock' knows"),
    ({'kw': {'num_test': 0}}, r'data.abnormal.kw.num_test=0'),
    ({'name': 'npz'}, r"data.abnormal.kw.path: the source 'npz' needs it"),
    ({'kind': 'noise'}, r"abnormal.name='mock': the kind 'source' reads it"),
    ({'from': 'x'}, r'data.abnormal.from: known are kind, rate, seed, name'),
  ],
)
def test_another_source_that_cannot_be_is_told(abnormal, message):
  given = {'kind': 'source', 'rate': 0.1, 'name': 'mock'} | abnormal
  with pytest.raises(ConfigError, match=message) as error:
    data.load('mock', abnormal=given)
  assert '\n' not in str(error.value)
  assert not str(error.value).startswith('data.abnormal.abnormal')


@pytest.mark.fast
def test_noise_is_checked_before_any_data_are_read():
  fields = {'noise': {'rate': 2}}, {'abnormal': {'kind': 'svhn'}}
  for given in fields:
    with pytest.raises(ConfigError, match=r'^data\.(noise|abnormal)\.'):
      data.load('npz', path='/there/is/none.npz', **given)
    with pytest.raises(ConfigError, match=r'^data\.(noise|abnormal)\.'):
      data.check_noise(**({'noise': None, 'abnormal': None} | given))
  data.check_noise({'kind': 'pair', 'rate': 0.1}, {'kind': 'none'})


@pytest.mark.fast
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
    ('mock', {'concepts': 'coarse'}, 'no hierarchy'),
    ('digits', {'noise': {'kind': 'x'}}, "data.noise.kind='x': known are none"),
    ('digits', {'noise': {'rat': 1}}, 'data.noise.rat: known are kind, rate,'),
    ('digits', {'noise': 0.4}, 'data.noise=0.4: fields kind, rate'),
    ('digits', {'abnormal': {'rate': 7}}, 'data.abnormal.rate=7'),
    ('digits', {'imbalance': '1,2'}, '2 fractions for 10 concepts'),
  ],
)
def test_a_wrong_name_key_or_value_is_told_in_one_line(name, kw, message):
  with pytest.raises(ConfigError, match=message) as error:
    data.load(name, **kw)
  assert '\n' not in str(error.value)


@pytest.mark.fast
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
