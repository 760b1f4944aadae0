"""The evaluator says what the indicators say, of the same examples."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.special

from rrl_jax import evals, indicators
from rrl_jax.data.source import Truth
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import feature_file, measurement
from rrl_jax.evals import indicators as evaluator
from tests.evals import toy

QUICK = {'num_restarts': 2, 'sweep': (0.2, 0.6)}


def found_by(data=None, encoder=None, *, key=0, **kw):
  return dict(
    evaluator.evaluate(
      encoder or toy.encoder(),
      data or toy.data(),
      key=jax.random.key(key),
      **(QUICK | kw),
    )
  )


@pytest.fixture(scope='module')
def found():
  return found_by()


@pytest.fixture(scope='module')
def direct():
  """The same by the library alone."""
  encoder, data = toy.encoder(), toy.data()
  logits, features = encoder.predict(data.test.images)
  _, train_features = encoder.predict(data.train.images)
  return indicators.robustness_indicators(
    features,
    data.test.labels,
    logits.argmax(axis=1),
    probabilities=scipy.special.softmax(logits.astype(np.float64), axis=1),
    weights=encoder.variables['w'],
    train_features=train_features,
    train_labels=data.train.labels,
    **QUICK,
  )


def test_every_number_is_that_of_a_direct_call(found, direct):
  names = {name for name in direct if 'sweep/' not in name}
  assert {'nc3', 'leep', 'multicut_accuracy', 'label_free/purity'} <= names
  measured = {
    name.removeprefix('indicators/'): value.value
    for name, value in found.items()
    if isinstance(value, evals.Measurement)
  }
  assert measured.keys() == names
  for name in names:
    np.testing.assert_allclose(measured[name], direct[name], rtol=1e-6)


def test_the_sweep_is_always_there_and_is_the_multicut_at_each(found):
  encoder, data = toy.encoder(), toy.data()
  logits, features = encoder.predict(data.test.images)
  thresholds = found['figure/indicator_thresholds']
  assert thresholds.tolist() == [0.2, 0.6]
  for end, against in (
    ('', data.test.labels),
    ('_label_free', logits.argmax(axis=1)),
  ):
    expected = [
      [
        indicators.clustering_accuracy(a, against),
        indicators.purity(a, against),
        indicators.adjusted_rand_index(a, against),
        a.max() + 1,
      ]
      for _, a in indicators.threshold_sweep(features, thresholds)
    ]
    np.testing.assert_allclose(found[f'figure/indicator_sweep{end}'], expected)
  assert found['figure/indicator_threshold'].tolist() == [
    found['indicators/multicut_threshold'].value
  ]


def test_shares_have_an_interval_and_other_numbers_say_that_they_have_none(
  found,
):
  share = found['indicators/kmeans_accuracy']
  correct = round(share.value * 203)
  np.testing.assert_allclose(share.value, correct / 203)
  low, high = measurement.wilson_interval(correct, 203)
  np.testing.assert_allclose(share[1:3], (low, high))
  assert 'held fixed; n=203, 95% Wilson interval.' in share.protocol
  for name in ('multicut_accuracy', 'purity', 'label_free/purity'):
    assert found[f'indicators/{name}'].low < found[f'indicators/{name}'].high
  for name in ('overlap', 'nc1', 'kmeans_accuracy_ratio'):
    assert np.isnan(found[f'indicators/{name}'].low)
    assert found[f'indicators/{name}'].protocol.endswith('no interval.')
  count = found['indicators/multicut_num_clusters']
  assert count.low == count.high == count.value
  threshold = found['indicators/multicut_threshold'].protocol
  assert 'calibrated on 400 training images' in threshold


def test_every_number_of_the_library_has_a_meaning(direct):
  for name in direct:
    if 'sweep/' not in name:
      assert name.removeprefix('label_free/') in evaluator._MEANINGS


def test_examples_follow_from_the_seed_and_not_from_the_run():
  kw = {'num_examples': 60, 'num_train': 80, 'max_examples': 40}
  first, again = found_by(key=0, **kw), found_by(key=1, **kw)
  assert first.keys() == again.keys()
  for name, value in first.items():
    np.testing.assert_array_equal(value, again[name])
  other = found_by(seed=1, **kw)
  name = 'indicators/clean_accuracy'
  assert 'n=60' in first[name].protocol
  assert 'n=40' in first['indicators/multicut_accuracy'].protocol
  assert other['indicators/overlap'].value != first['indicators/overlap'].value


def test_images_of_no_class_do_not_calibrate(found):
  data = toy.data()
  more = data.train.take(np.r_[0:400, 0:50])
  bad = np.arange(450) >= 400
  train = dataclasses.replace(
    more, truth=Truth(more.labels, np.zeros(450, bool), bad)
  )
  name = 'indicators/multicut_threshold'
  alone = found_by(evals.EvalData(train, data.test))
  assert alone[name].value == found[name].value


@pytest.mark.fast
def test_the_last_layer_is_found_by_what_it_does(rng):
  features = rng.normal(size=(20, 6)).astype(np.float32)
  w, other = rng.normal(size=(2, 6, 3)).astype(np.float32)
  bias = np.array([1, 2, 3], np.float32)
  logits = features @ w + bias
  params = {'a': other, 'b': {'head': w, 'bias': bias}}
  np.testing.assert_array_equal(
    evaluator.last_layer(params, features, logits), w
  )
  assert evaluator.last_layer({'a': other}, features, logits) is None
  assert evaluator.last_layer(params, features, logits**2) is None


def test_collapsed_features_lose_what_is_not_defined_and_nothing_else():
  data = toy.data()
  encoder = evals.Encoder(
    apply=lambda variables, images: (
      images.reshape(len(images), -1)[:, :5],
      images.reshape(len(images), -1)[:, :3] * 0 + 1,
    ),
    variables={},
  )
  found = found_by(data, encoder)
  assert 'indicators/multicut_threshold' not in found
  assert found['indicators/multicut_num_examples'].value == 203
  assert found['figure/indicator_sweep'][:, 3].tolist() == [1, 1]
  values = [v.value for v in found.values() if isinstance(v, evals.Measurement)]
  assert np.isfinite(values).all()


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'sweep': ()}, 'sweep=.* must be at least one cosine'),
    ({'sweep': (0.5, 2)}, 'sweep'),
    ({'sweep': (0.5, 0.5)}, 'sweep'),
    ({'sweep': 0.5}, 'sweep'),
    ({'num_examples': -1}, 'num_examples'),
    ({'num_train': 0}, 'num_train'),
    ({'max_examples': 1}, 'max_examples'),
    ({'num_restarts': 0}, 'num_restarts'),
    ({'num_clusters': 1.5}, 'num_clusters'),
    ({'threshold': 0.5}, 'threshold is unknown'),
  ],
)
def test_a_wrong_argument_is_one_line_before_any_work(kw, message):
  with pytest.raises(ConfigError, match=f'evals.indicators.{message}') as error:
    evals.check({'indicators': kw})
  assert '\n' not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'num_examples': 4}, '4 test images for 5 clusters'),
    ({'num_clusters': 204}, '203 test images for 204 clusters'),
  ],
)
def test_too_few_test_images_are_refused_before_training(kw, message):
  test = toy.data().test
  with pytest.raises(ConfigError, match=message):
    evals.check_test({'indicators': kw}, test)
  one = test.take(np.flatnonzero(test.labels == 0))
  with pytest.raises(ConfigError, match='of 1 class; two are needed'):
    evals.check_test({'indicators': {}}, one)


@pytest.fixture(scope='module')
def file():
  encoder, data = toy.encoder(), toy.data()
  logits, features = encoder.predict(data.test.images)
  _, train_features = encoder.predict(data.train.images)
  return feature_file.FeatureFile(
    'x.npz',
    features,
    data.test.labels.astype(np.int64),
    logits,
    train_features,
    data.train.labels.astype(np.int64),
  )


def test_a_file_gives_what_the_encoder_gives(found, file):
  scored = dict(evaluator.evaluate_file(file, **QUICK))
  assert found.keys() - scored.keys() == {'indicators/nc3'}  # No last layer.
  for name, value in scored.items():
    value, expected = np.asarray(value)[..., :], found[name]
    if isinstance(expected, evals.Measurement):
      value, expected = value[:3].astype(float), expected[:3]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
  protocol = scored['indicators/multicut_threshold'].protocol
  assert '400 training examples of x.npz; examples of x.npz' in protocol


def test_without_logits_nothing_is_said_of_predictions(file):
  alone = file._replace(logits=None)
  scored = dict(evaluator.evaluate_file(alone, **QUICK))
  gone = ('clean_accuracy', 'label_free', 'ratio', 'nc4', 'leep', 'confidence')
  assert not [name for name in scored for word in gone if word in name]
  whole = dict(evaluator.evaluate_file(file, **QUICK))
  for name in ('kmeans_accuracy', 'multicut_accuracy', 'overlap', 'nc1'):
    name = f'indicators/{name}'
    assert scored[name].value == whole[name].value


def test_labels_that_are_measured_calibrate_no_threshold(file):
  bare = file._replace(logits=None, train_features=None, train_labels=None)
  scored = dict(evaluator.evaluate_file(bare, **QUICK))
  protocol = scored['indicators/multicut_threshold'].protocol
  size = len(bare.labels)
  held = sum(round(n / 5) for n in np.bincount(bare.labels))
  assert f'calibrated on {held} other examples of x.npz' in protocol
  assert f'n={size - held}' in scored['indicators/purity'].protocol
  few = np.concatenate([np.flatnonzero(bare.labels == k)[:4] for k in range(5)])
  tiny = bare._replace(features=bare.features[few], labels=bare.labels[few])
  scored = dict(evaluator.evaluate_file(tiny, **QUICK))
  assert 'indicators/kmeans_accuracy' in scored
  assert not [name for name in scored if name.endswith('/multicut_accuracy')]
  assert 'figure/indicator_threshold' not in scored
  assert 'figure/indicator_sweep' in scored


def test_predictions_calibrate_where_there_is_nothing_else(file):
  alone = file._replace(train_features=None, train_labels=None)
  scored = dict(evaluator.evaluate_file(alone, **QUICK))
  protocol = scored['indicators/multicut_threshold'].protocol
  assert 'calibrated on predictions on the examples themselves' in protocol
  expected = indicators.calibrate_threshold(
    file.features, file.logits.argmax(axis=1)
  )
  value = scored['indicators/multicut_threshold'].value
  np.testing.assert_allclose(value, expected.threshold)


def test_a_file_with_fewer_examples_than_clusters_is_one_line(file):
  with pytest.raises(DataError, match='x.npz: 203 examples .* 300 clusters'):
    dict(evaluator.evaluate_file(file, num_clusters=300))
  with pytest.raises(ConfigError, match='evals.indicators.k is unknown'):
    dict(evaluator.evaluate_file(file, k=3))
