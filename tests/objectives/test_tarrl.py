"""TARRL is its base loss plus the largest shift of features in a ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import simclr, tarrl
from rrl_jax import losses
from rrl_jax.errors import ConfigError
from rrl_jax.objectives import tarrl as tarrl_objective
from rrl_jax.train import experiment
from tests.objectives import linear
from tests.tiers import first


def make(name='tarrl', **kw):
  return linear.make(name, **kw)


@pytest.fixture
def params(rng):
  return linear.draw_params(rng)


@pytest.fixture
def batch(rng):
  return linear.draw_batch(rng)


def run(objective, params, batch, step=0):
  loss, grads, state, _, metrics = linear.run(objective, params, batch, step)
  return loss, grads, state, metrics


def test_strength_zero_is_the_base_loss_and_attacks_nothing(params, batch):
  for base in ('simclr', 'byol', 'supcon', 'cross_entropy'):
    ours = run(make(strength=0.0, base=base), params, batch)
    theirs = run(make('simclr', base=base), params, batch)
    linear.close(ours[:2], theirs[:2])
    assert (ours[2]['clean'], ours[2]['adversarial']) == (1, 0)
    assert 'feature_shift' not in ours[3]


def test_simclr_is_infonce_of_the_embeddings_of_two_views(params, batch):
  loss, _, _, metrics = run(make('simclr', temperature=0.3), params, batch)
  embed = lambda x: jnp.tanh(x.reshape(8, -1) @ params['in'])
  both = jnp.concatenate([embed(batch['views'][:, v]) for v in (0, 1)])
  both = losses.l2_normalize(both)
  expected = losses.infonce(both, jnp.tile(jnp.arange(8), 2), temperature=0.3)
  linear.close(loss, jnp.mean(expected))
  linear.close(
    metrics['view_cosine'], jnp.mean(jnp.sum(both[:8] * both[8:], axis=1))
  )
  linear.close(metrics['mean_cosine'], jnp.mean(both @ both.T), rtol=1e-4)


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
      standardise='none',
    ),
    one,
    batch,
  )
  # Pixels lie in [0.3, 0.7]: no bound is met.
  expected = 0.05 * jnp.sum(jnp.abs(one['in'][:, 0]))
  linear.close(metrics['feature_shift'], expected, rtol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize('distance', ['sq_l2', 'unit_l2'])
def test_standardised_features_cannot_be_shrunk_or_moved_to_look_robust(
  params, batch, distance
):
  def disguised(params, model_state, images, **kw):
    (logits, out), model_state = linear.apply_fn(
      params, model_state, images, **kw
    )
    out = out | {'features': 0.01 * out['features'] + 3.0}
    return (logits, out), model_state

  shifts = {}
  for standardise in ('each', 'whole', 'none'):
    for network in (linear.apply_fn, disguised):
      objective = tarrl_objective.make(
        network, distance=distance, standardise=standardise, inner_steps=1
      )
      shifts[standardise, network] = run(objective, params, batch)[3][
        'feature_shift'
      ]
  for standardise in ('each', 'whole'):
    linear.close(
      shifts[standardise, disguised],
      shifts[standardise, linear.apply_fn],
      rtol=1e-2,
    )
  assert shifts['none', disguised] < 0.1 * shifts['none', linear.apply_fn]


@pytest.mark.full
def test_each_feature_counts_alike_when_each_is_standardised(params, batch):
  def stretched(params, model_state, images, **kw):
    (logits, out), model_state = linear.apply_fn(
      params, model_state, images, **kw
    )
    factors = jnp.array([[0.2, 8.0, 0.2, 0.2, 0.2]])
    return (logits, out | {'features': factors * out['features']}), model_state

  found = {}
  for standardise in ('each', 'whole'):
    for network in (linear.apply_fn, stretched):
      objective = tarrl_objective.make(
        network, standardise=standardise, inner_steps=1
      )
      found[standardise, network] = run(objective, params, batch)[3][
        'feature_shift'
      ]
  linear.close(
    found['each', stretched], found['each', linear.apply_fn], rtol=0.05
  )
  whole = found['whole', stretched] / found['whole', linear.apply_fn]
  assert abs(whole - 1) > 0.1


def test_the_penalty_is_added_with_its_strength(params, batch):
  loss, _, state, metrics = run(make(strength=3.0), params, batch)
  linear.close(loss, metrics['base_loss'] + 3.0 * metrics['feature_shift'])
  assert (state['clean'], state['adversarial']) == (1, 1)
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
  linear.close(both, clean + adversarial, rtol=1e-3)
  assert np.abs(clean).max() > 1e-3
  assert np.abs(adversarial).max() > 1e-3


@pytest.mark.parametrize('layer', first(['features', 'embedding', 'logits']))
@pytest.mark.parametrize(
  'distance', first(['sq_l2', 'l2', 'cosine', 'unit_l2', 'kl'])
)
def test_every_layer_and_distance_has_a_finite_gradient(
  params, batch, layer, distance
):
  objective = make(layer=layer, distance=distance, inner_steps=2)
  loss, grads, _, metrics = run(objective, params, batch)
  assert np.isfinite(loss)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  assert float(metrics['feature_shift']) > 0


@pytest.mark.full
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


@pytest.mark.full
def test_the_free_attack_climbs_the_base_loss_to_the_edge(params, batch):
  objective = make(attack='base_gradient', epsilon=0.05, standardise='whole')
  _, _, state, metrics = run(objective, params, batch)
  assert (state['clean'], state['adversarial']) == (1, 1)

  def base_loss(views):
    rows = jnp.concatenate([views[:, 0], views[:, 1]]).reshape(16, -1)
    embeddings = losses.l2_normalize(jnp.tanh(rows @ params['in']))
    ids = jnp.tile(jnp.arange(8), 2)
    return jnp.mean(losses.infonce(embeddings, ids, temperature=0.5))

  slope = jax.jit(jax.grad(base_loss))(batch['views'])[:, 0]
  moved = batch['image'] + 0.05 * jnp.sign(slope)
  features = lambda images: images.reshape(8, -1) @ params['in']
  clean, adversarial = features(batch['image']), features(moved)
  mean = jnp.mean(clean, axis=0, keepdims=True)
  expected = losses.feature_shift(
    clean - mean, adversarial - mean, distance='unit_l2'
  )  # All divided by one number, which unit_l2 does not see.
  linear.close(metrics['feature_shift'], jnp.mean(expected), rtol=1e-4)
  linear.close(metrics['pixel_shift'], 0.05, rtol=1e-4)


def test_byol_predicts_the_other_view_of_its_teacher(params, batch, rng):
  objective = make('simclr', base='byol', momentum=0.75)
  teacher = linear.draw_params(rng)
  aux_state = {'teacher': {'params': teacher, 'model_state': linear.passes()}}
  loss, grads, state, aux_state, _ = linear.run(
    objective, params, batch, aux_state=aux_state
  )
  embed = lambda weights, view: np.tanh(
    np.asarray(batch['views'][:, view], np.float64).reshape(8, -1)
    @ np.asarray(weights['in'], np.float64)
  )
  unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
  predict = np.asarray(params['predict'], np.float64)
  expected = [
    2
    - 2 * np.sum(unit(embed(params, a) @ predict) * unit(embed(teacher, b)), 1)
    for a, b in ((0, 1), (1, 0))
  ]
  linear.close(loss, np.mean(expected), rtol=1e-4)
  linear.close(
    aux_state['teacher']['params'],
    jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, teacher, params),
  )
  assert float(aux_state['teacher']['model_state']['clean']) == 1
  assert np.abs(grads['predict']).max() > 0


def test_byol_without_a_predictor_is_refused_before_work():
  config = tarrl.get_config('byol')
  config.model.kw.predictor = False
  with pytest.raises(ConfigError, match=r"base='byol' needs model\.kw"):
    experiment.build(config)


@pytest.mark.fast
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
    ({'attack': 'free'}, "attack='free'; known: shift, base_gradient"),
    ({'eval_norm': 'both'}, "eval_norm='both'"),
    ({'standardise': 'all'}, "standardise='all'; known: each, whole, none"),
    ({'momentum': 1.0}, 'momentum=1.0'),
  ],
)
def test_a_wrong_value_is_one_line(kw, words):
  with pytest.raises(ConfigError, match=words) as caught:
    make(**kw)
  assert '\n' not in str(caught.value)


def test_a_task_with_one_class_is_refused_before_work():
  config = tarrl.get_config()
  config.transfer.unseen_classes.classes = '7'
  with pytest.raises(ConfigError, match='task unseen_classes are all of class'):
    experiment.build(config)
  config.evals = {'auto_attack': {'head': 'own'}}
  experiment.build(config)  # No head is fitted.


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
