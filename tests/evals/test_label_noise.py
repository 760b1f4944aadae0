"""Fitting, detection, gradient mass and calibration are what they count."""

import dataclasses
import importlib.util
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import evals
from rrl_jax.data.source import Source, Truth
from rrl_jax.errors import ConfigError
from rrl_jax.evals import calibration, label_noise
from tests.evals import toy


def apply(variables, images):
  """The logits are the first pixels themselves: nothing to learn."""
  logits = images.reshape(images.shape[0], -1)[:, :3] * variables['scale']
  return logits, logits


ENCODER = evals.Encoder(apply=apply, variables={'scale': jnp.asarray(4.0)})


def noisy_data(**kw):
  """Eight images whose predictions are 0 0 0 1 1 1 2 2, two labels wrong."""
  predicted = np.array([0, 0, 0, 1, 1, 1, 2, 2])
  images = np.zeros((8, 2, 2, 1), np.float32)
  images.reshape(8, 4)[np.arange(8), predicted] = 1
  given = np.array([0, 0, 1, 1, 2, 1, 2, 0], np.int32)
  truth = Truth(
    labels=np.array([0, 0, 0, 1, 2, 0, 2, 0], np.int32),
    flipped=np.array([0, 0, 1, 0, 0, 1, 0, 0], bool),
    abnormal=np.array([0, 0, 0, 0, 0, 0, 0, 1], bool),
  )
  train = Source(images, given, ('a', 'b', 'c'), truth=truth)
  return evals.EvalData(
    train=train, test=dataclasses.replace(train, truth=None), **kw
  )


def run(data, **kw):
  found = dict(label_noise.evaluate(ENCODER, data, key=jax.random.key(0), **kw))
  return {
    name: value.value if isinstance(value, evals.Measurement) else value
    for name, value in found.items()
  }


def test_groups_are_counted_by_hand():
  found = run(noisy_data())
  # Clean are 0, 1, 3, 4, 6; of them 4 is predicted otherwise.
  assert found['fit/clean_accuracy'] == 4 / 5
  # Flipped are 2 (predicted its true class) and 5 (its given one).
  assert found['fit/flipped_accuracy'] == 1 / 2
  assert found['fit/flipped_true_accuracy'] == 1 / 2
  assert found['fit/abnormal_accuracy'] == 0
  assert found['noise/flipped_rate'] == 2 / 8
  assert found['noise/abnormal_rate'] == 1 / 8


def test_detection_ranks_by_loss_and_by_weight():
  pull = np.array([1.0, 1.0, 0.1, 1.0, 1.0, 0.2, 1.0, 2.0])
  seen = []

  def pull_of(logits, labels, index):
    seen.append((logits.shape, labels.tolist(), index.tolist()))
    return pull[index]

  found = run(noisy_data(gradient_norms=pull_of))
  assert seen == [((8, 3), [0, 0, 1, 1, 2, 1, 2, 0], list(range(8)))]
  # Losses: high for 2, 4, 7, low for the rest. Flipped 2 and 5 against five
  # clean: 2 beats four and ties 4, 5 ties four and loses to 4.
  np.testing.assert_allclose(
    found['detect/flipped_loss_auroc'], (4 + 0.5 + 4 * 0.5) / 10
  )
  assert found['detect/flipped_weight_auroc'] == 1.0
  assert found['detect/flipped_weight_average_precision'] == 1.0
  assert found['detect/abnormal_weight_auroc'] == 0.0
  np.testing.assert_allclose(found['mass/flipped'], 0.3 / pull.sum())
  np.testing.assert_allclose(found['mass/abnormal'], 2 / pull.sum())
  total = sum(found[f'mass/{group}'] for group in label_noise.GROUPS)
  np.testing.assert_allclose(total, 1.0)


def test_the_estimate_is_reported_with_its_error():
  found = run(noisy_data(learned={'noise_rate': 0.5}))
  assert found['noise/estimated_rate'] == 0.5
  np.testing.assert_allclose(found['noise/estimate_error'], 0.5 - 3 / 8)


def test_the_most_suspicious_come_first():
  found = run(noisy_data(), suspicious=3)
  assert found['figure/suspicious_images'].shape == (3, 2, 2, 1)
  assert found['figure/suspicious_given'].tolist() == [1, 2, 0]
  assert found['figure/suspicious_predicted'].tolist() == [0, 1, 2]
  assert found['figure/suspicious_true'].tolist() == [0, 2, -1]


def test_without_a_truth_there_is_nothing_to_score():
  data = noisy_data()
  data = dataclasses.replace(
    data, train=dataclasses.replace(data.train, truth=None)
  )
  found = run(data)
  assert all(name.startswith('figure/') for name in found)
  np.testing.assert_array_equal(found['figure/label_group'], np.zeros(8))


def test_interim_numbers_need_no_resamples():
  pull = lambda logits, labels, index: np.ones(len(index))
  measured = dict(
    label_noise.evaluate(
      ENCODER,
      noisy_data(gradient_norms=pull),
      key=jax.random.key(0),
      resamples=0,
      suspicious=0,
    )
  )
  assert np.isnan(measured['mass/clean'].low)
  np.testing.assert_allclose(measured['mass/clean'].value, 5 / 8)
  assert 'figure/suspicious_images' not in measured


@pytest.mark.fast
def test_cleanlab_is_asked_where_it_is_installed():
  if importlib.util.find_spec('cleanlab') is None:
    with pytest.raises(ConfigError, match=r"pip install -e '.\[cleanlab\]'"):
      run(noisy_data(), cleanlab=True)
    return
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    found = run(noisy_data(), cleanlab=True)
  assert 0 <= found['noise/cleanlab_rate'] <= 1


def test_calibration_of_known_bins():
  # Confidence of all: e^4 / (e^4 + 2); accuracy 5/8.
  data = noisy_data()
  found = dict(calibration.evaluate(ENCODER, data, key=jax.random.key(0)))
  confidence = np.exp(4) / (np.exp(4) + 2)
  error = found['test/calibration_error']
  np.testing.assert_allclose(error.value, confidence - 5 / 8, rtol=1e-6)
  assert error.low <= error.value <= error.high
  loss = (5 * -np.log(confidence) + 3 * -np.log(1 / (np.exp(4) + 2))) / 8
  np.testing.assert_allclose(found['test/log_loss'].value, loss, rtol=1e-6)
  assert found['figure/calibration_count'].sum() == 8
  assert found['figure/calibration_right'].sum() == 5


def test_a_perfectly_calibrated_guess_has_no_error():
  labels = np.array([0, 1, 2] * 40, np.int32)
  images = np.zeros((120, 2, 2, 1), np.float32)  # All classes as likely.
  source = Source(images, labels, ('a', 'b', 'c'))
  data = evals.EvalData(train=source, test=source)
  found = dict(calibration.evaluate(ENCODER, data, key=jax.random.key(0)))
  np.testing.assert_allclose(
    found['test/calibration_error'].value, 0, atol=1e-7
  )
  np.testing.assert_allclose(found['test/log_loss'].value, np.log(3), rtol=1e-6)


@pytest.mark.parametrize('lazy', [False, True])
def test_other_variables_predict_anew_and_compile_nothing(lazy):
  encoder = toy.encoder()
  images = toy.source(2, 40, lazy=lazy).images
  first, _ = encoder.predict(images)
  halved = jax.tree.map(lambda x: x / 2, toy.variables())
  other = encoder.with_variables(halved)
  second, _ = other.predict(images)
  assert not np.allclose(first, second)
  fresh = evals.Encoder(apply=toy.apply, variables=halved)
  np.testing.assert_array_equal(second, fresh.predict(images)[0])
  assert other._jitted is encoder._jitted
