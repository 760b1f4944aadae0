"""What an evaluation knows of the network that was trained."""

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from rrl_jax import typing
from rrl_jax.train import evaluation, experiment, sharding
from rrl_jax.train.state import AveragedState, TrainState
from tests.evals import toy
from tests.train.test_label_noise import tiny


@pytest.fixture
def cropped():
  changes = {
    'data.kw.image_shape': (6, 6, 1),
    'data.augment.resized_crop': 4,
  }
  built = experiment.build(tiny('erm', **changes))
  state = jax.jit(built.init)(jax.random.key(0))
  encoder = evaluation.Evaluator(built)._encoder
  return encoder.with_variables((state.eval_params, state.eval_model_state))


def test_bounds_of_features_are_those_of_the_middle_that_is_seen(cropped, rng):
  images = rng.random((20, 6, 6, 1), np.float32)
  lower, upper = np.maximum(images - 0.1, 0), np.minimum(images + 0.1, 1)
  bounds = jax.jit(cropped.feature_bounds)
  least, most = bounds(cropped.variables, lower, upper)
  assert least.shape == cropped.predict(images)[1].shape
  inside = lower + rng.random(images.shape, np.float32) * (upper - lower)
  for point in (images, lower, upper, np.clip(inside, lower, upper)):
    _, features = cropped.predict(point)
    assert np.all((least <= features) & (features <= most))
  # What lies outside of the crop moves nothing.
  border = np.ones((1, 6, 6, 1), bool)
  border[:, 1:5, 1:5] = False
  lower, upper = np.where(border, 0, images), np.where(border, 1, images)
  least, most = bounds(cropped.variables, lower, upper)
  np.testing.assert_allclose(most, least, atol=1e-3)


def test_a_network_without_bounds_has_none():
  config = tiny('erm')
  config.model.name, config.model.kw = 'resnet20', {}
  built = experiment.build(config)
  encoder = evaluation.Evaluator(built)._encoder
  assert built.feature_bounds is None
  assert encoder.feature_bounds is None


def state_of(params, model_state, kind=TrainState, **averages):
  """A state of which only what is evaluated matters."""
  return kind(
    step=jnp.int32(0),
    params=params,
    model_state=model_state,
    opt_state=(),
    aux_state={},
    **{'ema_params': None} | averages,
  )


@pytest.mark.fast
def test_averaged_weights_go_with_averaged_statistics():
  raw = {'w': jnp.zeros(2)}, {'mean': jnp.zeros(3)}
  averaged = {'w': jnp.ones(2)}, {'mean': jnp.ones(3)}
  both = state_of(
    *raw, AveragedState, ema_params=averaged[0], ema_model_state=averaged[1]
  )
  for state, expected in ((state_of(*raw), raw), (both, averaged)):
    found = made_of(None, state).variables
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def made_of(apply_fn, state, *, eval_adversarial=False, resized_crop=0):
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
  return evaluation.Evaluator(experiment).encoder(state)


def test_both_modes_take_the_norms_and_the_crop_of_the_evaluation():
  seen = []

  def apply_fn(params, model_state, images, *, train, adversarial=False):
    seen.append((train, adversarial, images.shape))
    features = jnp.mean(images, axis=(1, 2))
    return (features, {'features': features}), model_state

  for eval_adversarial in (False, True):
    found = made_of(
      apply_fn,
      state_of({}, {}),
      eval_adversarial=eval_adversarial,
      resized_crop=4,
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
