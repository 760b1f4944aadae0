"""TARRL is its base loss plus the largest shift of features in a ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import simclr, tarrl
from rrl_jax import losses, objectives
from rrl_jax.errors import ConfigError
from rrl_jax.objectives import tarrl as tarrl_objective
from rrl_jax.train import experiment
from rrl_jax.typing import DataSpec

NUM_CLASSES = 3


def apply_fn(params, model_state, images, *, train, adversarial=False):
  """Linear features, so that every attack has a closed form."""
  flat = images.reshape(images.shape[0], -1)
  features = flat @ params['in']
  out = {'features': features, 'embedding': jnp.tanh(features)}
  if train:
    model_state = {'calls': model_state['calls'] + 1}
  return (features @ params['out'], out), model_state


def make(name='tarrl', **kw):
  spec = DataSpec(
    class_names=tuple('012'),
    concept_names=('a',),
    concept_counts=np.array([8]),
    sampling_probs=np.array([1.0]),
    num_examples=8,
  )
  return objectives.make(name, apply_fn, data=spec, kw=kw)


@pytest.fixture
def params(rng):
  return {
    'in': jnp.asarray(rng.normal(size=(16, 5)), jnp.float32),
    'out': jnp.asarray(rng.normal(size=(5, NUM_CLASSES)), jnp.float32),
  }


@pytest.fixture
def batch(rng):
  views = jnp.asarray(rng.uniform(0.3, 0.7, size=(8, 2, 4, 4, 1)), jnp.float32)
  return {
    'image': views[:, 0],
    'views': views,
    'label': jnp.asarray([0, 1, 2, 0, 1, 2, 0, 1]),
    'index': jnp.arange(8),
  }


def run(objective, params, batch, step=0):
  fun = jax.jit(jax.value_and_grad(objective, has_aux=True))
  (loss, (state, _, metrics)), grads = fun(
    params, {'calls': jnp.zeros(())}, {}, batch, jax.random.key(0), step
  )
  return loss, grads, state, metrics


def close(a, b, rtol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b
  )


def test_strength_zero_is_the_base_loss_and_attacks_nothing(params, batch):
  for base in ('simclr', 'supcon', 'cross_entropy'):
    ours = run(make(strength=0.0, base=base), params, batch)
    theirs = run(make('simclr', base=base), params, batch)
    close(ours[:2], theirs[:2])
    assert float(ours[2]['calls']) == 1
    assert 'feature_shift' not in ours[3]


def test_simclr_is_infonce_of_the_embeddings_of_two_views(params, batch):
  loss, _, _, metrics = run(make('simclr', temperature=0.3), params, batch)
  embed = lambda x: jnp.tanh(x.reshape(8, -1) @ params['in'])
  both = jnp.concatenate([embed(batch['views'][:, v]) for v in (0, 1)])
  both = losses.l2_normalize(both)
  expected = losses.infonce(both, jnp.tile(jnp.arange(8), 2), temperature=0.3)
  close(loss, jnp.mean(expected))
  close(metrics['view_cosine'], jnp.mean(jnp.sum(both[:8] * both[8:], axis=1)))
  close(metrics['mean_cosine'], jnp.mean(both @ both.T), rtol=1e-4)


def test_the_shift_of_one_linear_feature_is_epsilon_times_its_l1_norm(
  params, batch
):
  one = params | {'in': params['in'].at[:, 1:].set(0)}
  _, _, _, metrics = run(
    make(
      distance='l2',
      epsilon=0.05,
      inner_steps=10,
      strength=0.5,
      standardise=False,
    ),
    one,
    batch,
  )
  # Pixels lie in [0.3, 0.7]: no bound is met.
  expected = 0.05 * jnp.sum(jnp.abs(one['in'][:, 0]))
  close(metrics['feature_shift'], expected, rtol=1e-4)


@pytest.mark.parametrize('distance', ['sq_l2', 'l2', 'cosine', 'unit_l2'])
def test_standardised_features_cannot_be_shrunk_or_moved_to_look_robust(
  params, batch, distance
):
  def disguised(params, model_state, images, **kw):
    (logits, out), model_state = apply_fn(params, model_state, images, **kw)
    out = out | {'features': 0.01 * out['features'] + 3.0}
    return (logits, out), model_state

  shifts = {}
  for standardise in (True, False):
    for network in (apply_fn, disguised):
      objective = tarrl_objective.make(
        network, distance=distance, standardise=standardise
      )
      shifts[standardise, network] = run(objective, params, batch)[3][
        'feature_shift'
      ]
  close(shifts[True, disguised], shifts[True, apply_fn], rtol=1e-2)
  assert shifts[False, disguised] < 0.1 * shifts[False, apply_fn]


def test_the_penalty_is_added_with_its_strength(params, batch):
  loss, _, state, metrics = run(make(strength=3.0), params, batch)
  close(loss, metrics['base_loss'] + 3.0 * metrics['feature_shift'])
  assert float(state['calls']) == 2  # Clean and attacked, each once.
  assert float(metrics['pixel_shift']) > 0


def test_the_strength_rises_along_its_ramp(params, batch):
  objective = make(strength=2.0, ramp_steps=10)
  for step, strength in ((0, 0.0), (5, 1.0), (10, 2.0), (99, 2.0)):
    _, _, _, metrics = run(objective, params, batch, step)
    np.testing.assert_allclose(metrics['strength'], strength)


def test_a_stopped_side_has_no_gradient(params, batch):
  base = run(make('simclr'), params, batch)[1]
  both, clean, adversarial = (
    jax.tree.map(jnp.subtract, run(make(stop=stop), params, batch)[1], base)[
      'in'
    ]
    for stop in ('none', 'clean', 'adversarial')
  )
  close(both, clean + adversarial, rtol=1e-3)
  assert np.abs(clean).max() > 1e-3
  assert np.abs(adversarial).max() > 1e-3


@pytest.mark.parametrize('layer', ['features', 'embedding', 'logits'])
@pytest.mark.parametrize('distance', ['sq_l2', 'l2', 'cosine', 'unit_l2', 'kl'])
def test_every_layer_and_distance_has_a_finite_gradient(
  params, batch, layer, distance
):
  objective = make(layer=layer, distance=distance, inner_steps=2)
  loss, grads, _, metrics = run(objective, params, batch)
  assert np.isfinite(loss)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  assert float(metrics['feature_shift']) > 0


@pytest.mark.parametrize('norm', ['linf', 'l2', 'l1'])
def test_more_radius_is_more_shift(params, batch, norm):
  shifts = [
    float(
      run(make(norm=norm, epsilon=epsilon, distance='l2'), params, batch)[3][
        'feature_shift'
      ]
    )
    for epsilon in (0.01, 0.1, 0.3)
  ]
  assert shifts == sorted(shifts)
  assert shifts[0] > 0


@pytest.mark.parametrize(
  ('kw', 'words'),
  [
    ({'strength': -1.0}, 'strength=-1.0 is not in'),
    ({'epsilon': 1.5}, 'epsilon=1.5 is not in'),
    ({'epsilon': 0.0}, 'epsilon=0.0'),
    ({'layer': 'stem'}, "layer='stem'; known: features, embedding, logits"),
    ({'distance': 'l7'}, "distance='l7'; known: sq_l2"),
    ({'base': 'moco'}, "base='moco'; known: simclr"),
    ({'temperature': 0.0}, 'temperature=0.0'),
    ({'stop': 'both'}, "stop='both'"),
    ({'norm': 'l0'}, "norm='l0'"),
    ({'inner_steps': 0}, 'inner_steps=0'),
    ({'inner_step_size': -0.1}, 'inner_step_size=-0.1'),
    ({'ramp_steps': -1}, 'ramp_steps=-1'),
  ],
)
def test_a_wrong_value_is_one_line(kw, words):
  with pytest.raises(ConfigError, match=words) as caught:
    make(**kw)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('module', [simclr, tarrl])
def test_a_config_without_two_views_is_refused_before_work(module):
  config = module.get_config()
  config.data.augment.views = 0
  with pytest.raises(ConfigError, match='data.augment.views=0: the objective'):
    experiment.check(config)
  config.data.augment.views = 2
  config.micro_batches = 2
  with pytest.raises(ConfigError, match='micro_batches=2: the objective'):
    experiment.check(config)
