"""Accuracy under corruptions is a count, over the same images in each cell."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import corruptions, evals, indicators, train
from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import corruption
from tests.evals import toy

CENTRES = np.array([0.2, 0.5, 0.8], np.float32)
CHEAP = {'names': ('brightness',), 'severities': (1, 4), 'estimates': False}


def apply(variables, images):
  """The class whose grey is nearest to the mean of the image."""
  mean = images.mean(axis=(1, 2, 3))
  gaps = mean[:, None] - variables[None]
  return -100 * gaps**2, jnp.stack([mean, mean**2], axis=1)


ENCODER = evals.Encoder(apply=apply, variables=CENTRES, batch_size=16)


def greys(size=40, *, shape=(16, 16, 1), seed=0):
  """Images of one grey each; the label is the nearest centre, mostly."""
  rng = np.random.default_rng(seed)
  grey = rng.integers(20, 230, size).astype(np.uint8)
  images = np.broadcast_to(grey[:, None, None, None], (size, *shape)).copy()
  labels = np.abs(grey[:, None] / 255 - CENTRES).argmin(axis=1)
  wrong = rng.random(size) < 0.1
  return Source(images, np.where(wrong, (labels + 1) % 3, labels), 'abc')


def data(**kw):
  return evals.EvalData(train=greys(seed=1), test=greys(**kw))


def found_by(data, encoder=ENCODER, *, key=0, **kw):
  return dict(corruption.evaluate(encoder, data, key=jax.random.key(key), **kw))


@pytest.fixture
def untouched(monkeypatch):
  """Corruptions that leave the images as they are."""

  def sets(images, *, names, severities, **kw):
    for name in names:
      for severity in severities:
        yield name, severity, images

  monkeypatch.setattr(corruptions, 'corrupted_sets', sets)


def nearest(grey):
  return np.abs(grey[:, None] / 255 - CENTRES).argmin(axis=1)


def test_accuracies_are_those_of_predictions_by_hand():
  test = greys()
  grey = test.images[:, 0, 0, 0].astype(float)
  found = found_by(data(), **CHEAP)
  right = []
  for severity, added in ((1, 0.05), (4, 0.2)):  # To the V of HSV.
    brighter = np.floor(np.minimum(grey / 255 + added, 1) * 255 + 1e-3)
    right.append(nearest(brighter) == test.labels)
    cell = found[f'corruption/brightness/accuracy/{severity}']
    assert cell.value == right[-1].mean()
    assert f'severity {severity}' in cell.protocol
  right, clean = np.array(right), nearest(grey) == test.labels
  assert not (right == clean).all()
  close = lambda name, value: np.testing.assert_allclose(
    found[f'corruption/{name}'].value, value, atol=1e-12
  )
  close('clean_accuracy', clean.mean())
  close('mean_accuracy', right.mean())
  close('brightness/accuracy', right.mean())
  close('relative_accuracy', right.mean() / clean.mean())
  close('accuracy_drop', clean.mean() - right.mean())
  close('mean_error', 1 - right.mean())
  close('mean_corruption_error', 1 - right.mean())
  close('relative_mean_corruption_error', clean.mean() - right.mean())
  np.testing.assert_array_equal(
    found['figure/corruption_accuracy'], right.mean(axis=1)[None]
  )
  predicted = found['figure/corruption_predictions']
  assert predicted.shape == (1, 2, 40)
  assert predicted.dtype == np.int16
  np.testing.assert_array_equal(predicted[0] == test.labels, right)
  np.testing.assert_array_equal(
    found['figure/clean_predictions'] == test.labels, clean
  )
  assert found['figure/corruption_names'].tolist() == ['brightness']
  assert found['figure/corruption_severities'].tolist() == [1, 4]


def test_without_a_change_nothing_is_lost(untouched):
  found = found_by(data(), names=('fog', 'snow'), severities=(2, 5))
  clean = found['corruption/clean_accuracy'].value
  value = lambda name: found[name].value
  assert value('corruption/mean_accuracy') == clean
  assert value('corruption/snow/accuracy/5') == clean
  assert value('corruption/relative_accuracy') == 1
  assert value('corruption/accuracy_drop') == 0
  # Of 40 images none differed: that is no proof that none ever would.
  for name in ('relative_accuracy', 'accuracy_drop'):
    measured = found[f'corruption/{name}']
    assert measured.low < measured.value < measured.high
    np.testing.assert_allclose(measured.high - measured.value, 0.1, atol=0.05)
  # All images are used, so that they are the source of the estimates too.
  np.testing.assert_allclose(value('shifted/frechet_distance'), 0, atol=1e-10)
  np.testing.assert_allclose(
    value('shifted/difference_of_confidences'), clean, atol=1e-12
  )
  for name in (
    'average_thresholded_confidence',
    'difference_of_confidences',
  ):
    error = value(f'shifted/{name}_mean_absolute_error')
    np.testing.assert_allclose(error, abs(value(f'shifted/{name}') - clean))


def test_an_interval_of_a_mean_knows_that_cells_share_their_images(untouched):
  kw = {'estimates': False}
  one = found_by(data(size=200), names=('fog',), severities=(1,), **kw)
  many = found_by(data(size=200), **kw)
  key = 'corruption/mean_accuracy'
  np.testing.assert_allclose(many[key][:3], one[key][:3], atol=1e-12)
  p = many[key].value
  width = 2 * 1.96 * np.sqrt(p * (1 - p) / 200)
  np.testing.assert_allclose(many[key].high - many[key].low, width, rtol=0.15)


def test_all_right_is_no_proof_of_being_always_right(untouched):
  test = dataclasses.replace(
    greys(10), labels=nearest(greys(10).images[:, 0, 0, 0])
  )
  right = evals.EvalData(train=greys(seed=1), test=test)
  found = found_by(right, estimates=False)
  clean = found['corruption/clean_accuracy']
  for name in ('mean_accuracy', 'fog/accuracy', 'fog/accuracy/3'):
    np.testing.assert_allclose(found[f'corruption/{name}'][:3], clean[:3])
  error = found['corruption/mean_error']
  np.testing.assert_allclose(error[:3], [0, 0, 1 - clean.low], atol=1e-12)
  none = found_by(right, estimates=False, resamples=0)
  assert np.isnan(none['corruption/mean_accuracy'][1:3]).all()
  assert none['corruption/clean_accuracy'] == clean


def test_logits_that_are_nan_predict_no_class():
  images = greys().images
  diverged = evals.Encoder(
    apply=lambda v, x: (jnp.full((len(x), 3), jnp.nan), apply(v, x)[1]),
    variables=CENTRES,
    batch_size=16,
  )
  zero = evals.EvalData(
    train=greys(seed=1), test=Source(images, np.zeros(40, int), 'abc')
  )
  found = found_by(zero, diverged, **(CHEAP | {'estimates': True}))
  assert found['corruption/mean_accuracy'].value == 0
  assert found['corruption/clean_accuracy'].value == 0
  assert (found['figure/corruption_predictions'] == -1).all()
  assert 'corruption/relative_accuracy' not in found
  assert 'shifted/dispersion' not in found


def test_all_runs_meet_the_same_corrupted_images():
  kw = CHEAP | {'num_examples': 12}
  first, again = (found_by(data(), key=k, **kw) for k in (0, 1))
  assert first.keys() == again.keys()
  for name, value in first.items():
    np.testing.assert_array_equal(value, again[name])
  other = found_by(data(), **(kw | {'seed': 1}))
  chosen = first['figure/corruption_index']
  assert (other['figure/corruption_index'] != chosen).any()
  whole = found_by(data(), **CHEAP)  # A part of it is a part of the whole.
  np.testing.assert_array_equal(
    first['figure/corruption_predictions'],
    whole['figure/corruption_predictions'][..., chosen],
  )


def test_a_lazy_set_and_other_batches_make_no_difference():
  plain = found_by(data(), **CHEAP)
  test = dataclasses.replace(greys(), images=toy.Lazy(greys().images))
  lazy = evals.EvalData(train=greys(seed=1), test=test)
  encoder = evals.Encoder(apply=apply, variables=CENTRES, batch_size=7)
  found = found_by(lazy, encoder, **CHEAP)
  for name, value in plain.items():
    np.testing.assert_array_equal(value, found[name])


def test_estimates_are_means_of_direct_calls(monkeypatch):
  def sets(images, *, names, severities, **kw):
    for name in names:
      for severity in severities:
        yield name, severity, (images // (1 + severity)).astype(np.uint8)

  monkeypatch.setattr(corruptions, 'corrupted_sets', sets)
  found = found_by(data(), names=('fog',), severities=(1, 2))
  logits, features = ENCODER.predict(greys().images)
  softmax = lambda x: np.array(jax.nn.softmax(x.astype(np.float64), axis=-1))
  expected = {name: [] for name in found['figure/shifted_names'].tolist()}
  for severity in (1, 2):
    after, moved = ENCODER.predict(greys().images // (1 + severity))
    both = softmax(logits), greys().labels, softmax(after)
    for name, args in {
      'average_thresholded_confidence': both,
      'difference_of_confidences': both,
      'nuclear_norm': both[2:],
      'mano': (after,),
      'dispersion': (moved, after.argmax(axis=1)),
      'frechet_distance': (features, moved),
    }.items():
      try:
        score = getattr(indicators, name)(*args)
      except DataError:  # All are dark: one predicted class.
        assert name == 'dispersion'
        score = np.nan
      expected[name].append(score)
  assert len(expected) == 6
  for e, (name, values) in enumerate(expected.items()):
    np.testing.assert_allclose(
      found['figure/shifted'][e, 0], values, rtol=1e-5, equal_nan=True
    )
    np.testing.assert_allclose(
      found[f'shifted/{name}'].value, np.nanmean(values), rtol=1e-5
    )


@pytest.mark.fast
def test_other_test_images_calibrate_the_estimates_where_there_are_enough():
  rows, words = corruption._source(np.arange(4), 10, jax.random.key(0))
  assert len(rows) == 4
  assert not set(rows) & set(range(4))
  assert 'other test images' in words
  rows, words = corruption._source(np.arange(6), 10, jax.random.key(0))
  assert rows.tolist() == list(range(6))
  assert 'the same 6 test images' in words


def test_errors_are_over_alexnets_with_the_table_of_imagenet_c(untouched):
  found = found_by(data(), table='imagenet_c', estimates=False)
  error = 1 - found['corruption/clean_accuracy'].value
  errors = dict.fromkeys(corruptions.NAMES, error)
  mce = found['corruption/mean_corruption_error']
  expected = corruptions.mean_corruption_error(
    errors, corruptions.ALEXNET_ERRORS
  )
  np.testing.assert_allclose(mce.value, expected)
  assert mce.low < expected < mce.high
  assert 'AlexNet' in mce.protocol
  relative = found['corruption/relative_mean_corruption_error']
  np.testing.assert_allclose(relative.value, 0, atol=1e-12)
  assert relative.low < 0 < relative.high
  np.testing.assert_allclose(relative.low, -relative.high)
  part = found_by(
    data(), table='imagenet_c', severities=(1, 2), estimates=False
  )
  plain = part['corruption/mean_corruption_error']
  np.testing.assert_allclose(plain.value, error)
  assert 'not over that of another network' in plain.protocol


def publish(folder, test, names=('fog',)):
  """Files as the published ones: at severity s the images less 10 s."""
  folder.mkdir()
  np.save(folder / 'labels.npy', np.tile(test.labels, 5))
  images = test.images.astype(int)
  for name in names:
    sets = [np.maximum(images - 10 * s, 0) for s in range(1, 6)]
    np.save(folder / f'{name}.npy', np.concatenate(sets).astype(np.uint8))
  return str(folder)


def test_published_files_are_read_in_place_of_corrupting(tmp_path):
  test = greys()
  folder = publish(tmp_path / 'c', test)
  kw = {'names': ('fog',), 'severities': (3,), 'estimates': False}
  found = found_by(data(), published=folder, num_examples=15, **kw)
  chosen = found['figure/corruption_index']
  expected = nearest(test.images[chosen, 0, 0, 0].astype(float) - 30)
  np.testing.assert_array_equal(
    found['figure/corruption_predictions'][0, 0], expected
  )
  assert 'published files' in found['corruption/fog/accuracy/3'].protocol


@pytest.mark.fast
@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    ('folder', 'labels.npy does not exist|fog.npy does not exist'),
    ('labels', 'labels.npy differs from the test split in 1 of 40 labels'),
    ('length', r'images of shape \(39, 16, 16, 1\) a severity'),
    ('name', 'snow.npy does not exist'),
  ],
)
def test_published_files_of_another_set_are_refused(tmp_path, damage, message):
  test = greys()
  folder = tmp_path / 'c'
  if damage == 'length':
    publish(folder, test.take(np.arange(39)))
  elif damage != 'folder':
    publish(folder, test)
  if damage == 'labels':
    labels = np.tile(test.labels, 5)
    labels[::40] = (labels[::40] + 1) % 3
    np.save(folder / 'labels.npy', labels)
  names = ('fog', 'snow') if damage == 'name' else ('fog',)
  config = {'corruption': {'published': str(folder), 'names': names}}
  with pytest.raises(DataError, match=message) as error:
    evals.check_test(config, test)
  assert '\n' not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'names': ('fogg',)}, 'names=.* must be None or different ones of'),
    ({'names': ()}, 'names'),
    ({'names': 'fog'}, 'names'),
    ({'names': ('fog', 'fog')}, 'names'),
    ({'severities': (0, 1)}, 'severities=.* must be different ones of 1, 2'),
    ({'severities': ()}, 'severities'),
    ({'severities': (True,)}, 'severities'),
    ({'table': 'cifar100_c'}, 'table=.* must be one of cifar10_c'),
    ({'num_examples': -1}, 'num_examples'),
    ({'seed': 0.5}, 'seed'),
    ({'resamples': -1}, 'resamples'),
    ({'published': 3}, 'published'),
    ({'estimates': 'yes'}, 'estimates'),
    ({'name': 'fog'}, 'name is unknown'),
  ],
)
def test_a_wrong_argument_is_one_line_before_any_work(kw, message):
  with pytest.raises(ConfigError, match=f'evals.corruption.{message}') as error:
    evals.check({'corruption': kw})
  assert '\n' not in str(error.value)


@pytest.mark.fast
def test_images_without_corruptions_are_refused_and_nothing_is_written(
  tmp_path,
):
  from configs import erm

  config = erm.get_config()
  config.data.name = 'mock'
  config.data.kw.image_shape = (16, 16, 2)
  config.transfer = {}
  config.evals = {'corruption': {}}
  with pytest.raises(ConfigError, match='images of 2 channels') as error:
    train.train_and_evaluate(config, tmp_path / 'run', {}, quiet=True)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()
