"""What an evaluation knows of the network that was trained."""

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from rrl_jax import typing
from rrl_jax.train import evaluation, experiment, sharding
from tests.evals import toy
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


def made_of(apply_fn, variables, *, eval_adversarial=False, resized_crop=0):
  """The encoder that an experiment's evaluations get."""
  config = ml_collections.ConfigDict(
    {
      'data': {'augment': {'resized_crop': resized_crop}},
      'eval_batch_size': 64,
      'mesh': {'fsdp': 0},
    }
  )
  objective = typing.Objective(loss_fn=None, eval_adversarial=eval_adversarial)
  experiment = types.SimpleNamespace(
    config=config,
    objective=objective,
    apply_fn=apply_fn,
    mesh=sharding.make_mesh(1),
    feature_bounds=None,
  )
  params, model_state = variables
  state = types.SimpleNamespace(eval_params=params, model_state=model_state)
  return evaluation.Evaluator(experiment).encoder(state)


def test_both_modes_take_the_norms_and_the_crop_of_the_evaluation():
  seen = []

  def apply_fn(params, model_state, images, *, train, adversarial=False):
    seen.append((train, adversarial, images.shape))
    features = jnp.mean(images, axis=(1, 2))
    return (features, {'features': features}), model_state

  for eval_adversarial in (False, True):
    found = made_of(
      apply_fn, ({}, {}), eval_adversarial=eval_adversarial, resized_crop=4
    )
    images = toy.source().images[:3]
    found.apply(found.variables, images)
    found.network(*found.variables, images, train=True)
    (_, out), _ = found.network(*found.variables, images, train=False)
    _, features = found.apply(found.variables, images)
    np.testing.assert_array_equal(out['features'], features)
    want = [(t, eval_adversarial, (3, 4, 4, 1)) for t in (0, 1, 0, 0)]
    assert seen == want
    seen.clear()
