"""What an evaluation knows of the network that was trained."""

import jax
import numpy as np
import pytest

from rrl_jax.train import evaluation, experiment
from tests.train.test_label_noise import tiny


@pytest.fixture
def cropped():
  changes = {
    'data.kw.image_shape': (6, 6, 1),
    'data.augment.resized_crop': 4,
  }
  built = experiment.build(tiny('erm', **changes))
  state = built.init(jax.random.key(0))
  encoder = evaluation.Evaluator(built)._encoder
  return encoder.with_variables((state.eval_params, state.model_state))


def test_bounds_of_features_are_those_of_the_middle_that_is_seen(cropped, rng):
  images = rng.random((20, 6, 6, 1), np.float32)
  lower, upper = np.maximum(images - 0.1, 0), np.minimum(images + 0.1, 1)
  least, most = cropped.feature_bounds(cropped.variables, lower, upper)
  assert least.shape == cropped.predict(images)[1].shape
  inside = lower + rng.random(images.shape, np.float32) * (upper - lower)
  for point in (images, lower, upper, np.clip(inside, lower, upper)):
    _, features = cropped.predict(point)
    assert np.all((least <= features) & (features <= most))
  # What lies outside of the crop moves nothing.
  border = np.ones((1, 6, 6, 1), bool)
  border[:, 1:5, 1:5] = False
  lower, upper = np.where(border, 0, images), np.where(border, 1, images)
  least, most = cropped.feature_bounds(cropped.variables, lower, upper)
  np.testing.assert_allclose(most, least, atol=1e-3)


def test_a_network_without_bounds_has_none():
  config = tiny('erm')
  config.model.name, config.model.kw = 'resnet20', {}
  built = experiment.build(config)
  encoder = evaluation.Evaluator(built)._encoder
  assert built.feature_bounds is None
  assert encoder.feature_bounds is None
