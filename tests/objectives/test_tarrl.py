"""TARRL is its base loss plus the largest shift of features in a ball."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import simclr, tarrl
from rrl_jax import losses
from rrl_jax.errors import ConfigError
from rrl_jax.objectives import tarrl as tarrl_objective
from rrl_jax.train import experiment
from tests.objectives import cases, linear
from tests.tiers import first

BASES = ('simclr', 'byol', 'supcon', 'cross_entropy')
STANDARDS = ('each', 'whole', 'none')
RADII = (0.01, 0.1, 0.3)
LAYERS_AND_DISTANCES = [
  ('features', 'sq_l2'),
  ('features', 'l2'),
  ('embedding', 'cosine'),
  ('logits', 'kl'),
]
LAYERS_AND_DISTANCES += [
  pair
  for pair in itertools.product(
    tarrl_objective.LAYERS, tarrl_objective.DISTANCES
  )
  if pair not in LAYERS_AND_DISTANCES
]


def make(name='tarrl', **kw):
  if name == 'tarrl':
    kw = {'inner_steps': 1} | kw  # More would take longer to compile.
  return linear.make(name, **kw)


def take(objective, *args):
  """``(loss, gradient, model_state, metrics)`` of a step."""
  loss, grads, state, _, metrics = linear.take(objective, *args)
  return loss, grads, state, metrics


def shift(objective, *args):
  return take(objective, *args)[3]['feature_shift']


def disguised(params, model_state, images, **kw):
  """Smaller features, far from the origin."""
  (logits, out), state = linear.apply_fn(params, model_state, images, **kw)
  out = out | {'features': 0.01 * out['features'] + 3.0}
  return (logits, out), state


def stretched(params, model_state, images, **kw):
  """One feature is larger than the others."""
  (logits, out), state = linear.apply_fn(params, model_state, images, **kw)
  factors = np.float32([[0.2, 8.0, 0.2, 0.2, 0.2]])
  return (logits, out | {'features': factors * out['features']}), state


NETWORKS = {
  'plain': linear.apply_fn,
  'disguised': disguised,
  'stretched': stretched,
}


def one_feature(params, batch):
  objective = make(
    distance='l2', epsilon=0.05, inner_steps=3, standardise='none'
  )
  params = params | {'in': params['in'] * (np.arange(5)[None] == 0)}
  return shift(objective, params, batch)


def ramp(params, batch):
  objective = make(strength=2.0, ramp_steps=10)
  return jax.lax.map(
    lambda step: take(objective, params, batch, step)[3]['strength'],
    jnp.array([0, 5, 10, 99]),
  )


def free_by_hand(params, batch):
  """The shift along the sign of the base loss's slope."""

  def base_loss(views):
    rows = jnp.concatenate([views[:, 0], views[:, 1]]).reshape(16, -1)
    embeddings = losses.l2_normalize(jnp.tanh(rows @ params['in']))
    ids = jnp.tile(jnp.arange(8), 2)
    return jnp.mean(losses.infonce(embeddings, ids, temperature=0.5))

  slope = jax.grad(base_loss)(batch['views'])[:, 0]
  moved = batch['image'] + 0.05 * jnp.sign(slope)
  features = lambda images: images.reshape(8, -1) @ params['in']
  clean, adversarial = features(batch['image']), features(moved)
  mean = jnp.mean(clean, axis=0, keepdims=True)
  shift = losses.feature_shift(
    clean - mean, adversarial - mean, distance='unit_l2'
  )  # All divided by one number, which unit_l2 does not see.
  # Rows have a mean square of 1 in the end, whatever their length.
  square = jnp.mean(jnp.sum(jnp.square(clean - mean), axis=1))
  moved = jnp.mean(jnp.sum(jnp.square(adversarial - clean), axis=1))
  return jnp.mean(shift), moved / square


def draw_teacher():
  return linear.draw_params(np.random.default_rng(1))


def byol(params, batch):
  teacher = {'params': draw_teacher(), 'model_state': linear.passes()}
  objective = make('simclr', base='byol', momentum=0.75)
  return linear.take(objective, params, batch, aux_state={'teacher': teacher})


def of(objective, measure=take):
  return functools.partial(measure, objective)


CASES = {
  'ramp': ramp,
  'one feature': one_feature,
  'byol': byol,
  'free by hand': free_by_hand,
  'cool': of(make('simclr', temperature=0.3)),
  'strength 3': of(make(strength=3.0)),
  'free': of(make(attack='base_gradient', epsilon=0.05, standardise='whole')),
  'free, sq_l2': of(
    make(
      attack='base_gradient',
      epsilon=0.05,
      standardise='whole',
      distance='sq_l2',
    )
  ),
}
CASES |= {f'simclr, {base}': of(make('simclr', base=base)) for base in BASES}
CASES |= {f'no, {base}': of(make(strength=0.0, base=base)) for base in BASES}
CASES |= {side: of(make(stop=side)) for side in tarrl_objective.STOPS}
CASES |= {
  f'{layer}, {distance}': of(make(layer=layer, distance=distance))
  for layer, distance in LAYERS_AND_DISTANCES
}
CASES |= {
  f'{norm}, {epsilon}': of(
    make(norm=norm, epsilon=epsilon, distance='l2'), shift
  )
  for norm in ('linf', 'l2', 'l1')
  for epsilon in RADII
}
CASES |= {
  f'{network}, {standardise}, {distance}': of(
    tarrl_objective.make(
      apply_fn, distance=distance, standardise=standardise, inner_steps=1
    ),
    shift,
  )
  for network, apply_fn in NETWORKS.items()
  for standardise in STANDARDS
  for distance in ('unit_l2', 'sq_l2')
}


# Products of settings, of which the default tier has the first.
REST = [f'{layer}, {distance}' for layer, distance in LAYERS_AND_DISTANCES[4:]]
REST += [f'{norm}, {epsilon}' for norm in ('l2', 'l1') for epsilon in RADII]
REST += [case for case in CASES if case.endswith(', sq_l2')][1:]
REST += ['stretched, none, unit_l2']


def unit(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embed(params, view):
  """Embeddings in float64."""
  images = np.asarray(linear.draw()[1]['views'][:, view], np.float64)
  return np.tanh(images.reshape(8, -1) @ np.asarray(params['in'], np.float64))


def infonce(rows, temperature):
  """One value per row, of two views of eight images."""
  logits = rows @ rows.T / temperature
  np.fill_diagonal(logits, -np.inf)
  own = logits[np.arange(16), np.roll(np.arange(16), 8)]
  return np.log(np.sum(np.exp(logits), axis=1)) - own


@pytest.fixture(scope='module')
def found():
  return cases.together(CASES, *linear.draw(), alone=REST)


@pytest.fixture
def params():
  return linear.draw()[0]


def test_strength_zero_is_the_base_loss_and_attacks_nothing(found):
  for base in BASES:
    ours, theirs = found[f'no, {base}'], found[f'simclr, {base}']
    cases.close(ours[:2], theirs[:2])
    assert (ours[2]['clean'], ours[2]['adversarial']) == (1, 0)
    assert 'feature_shift' not in ours[3]


def test_simclr_is_infonce_of_the_embeddings_of_two_views(found, params):
  loss, _, _, metrics = found['cool']
  both = unit(np.concatenate([embed(params, view) for view in (0, 1)]))
  cases.close(loss, np.mean(infonce(both, 0.3)))
  cases.close(
    metrics['view_cosine'], np.mean(np.sum(both[:8] * both[8:], axis=1))
  )
  cases.close(metrics['mean_cosine'], np.mean(both @ both.T), rtol=1e-4)


def test_the_shift_of_one_linear_feature_is_epsilon_times_its_l1_norm(
  found, params
):
  # Pixels lie in [0.3, 0.7]: no bound is met.
  expected = 0.05 * np.sum(np.abs(params['in'][:, 0]))
  cases.close(found['one feature'], expected, rtol=1e-4)


@pytest.mark.parametrize('distance', first(['unit_l2', 'sq_l2']))
def test_standardised_features_cannot_be_shrunk_or_moved_to_look_robust(
  found, distance
):
  for standardise in ('each', 'whole'):
    cases.close(
      found[f'disguised, {standardise}, {distance}'],
      found[f'plain, {standardise}, {distance}'],
      rtol=1e-2,
    )
  shrunk = found[f'disguised, none, {distance}']
  assert shrunk < 0.1 * found[f'plain, none, {distance}']


def test_each_feature_counts_alike_when_each_is_standardised(found):
  ratio = lambda standardise: (
    found[f'stretched, {standardise}, unit_l2']
    / found[f'plain, {standardise}, unit_l2']
  )
  cases.close(ratio('each'), 1, rtol=0.05)
  assert abs(ratio('whole') - 1) > 0.1


def test_the_penalty_is_added_with_its_strength(found):
  loss, _, state, metrics = found['strength 3']
  cases.close(loss, metrics['base_loss'] + 3.0 * metrics['feature_shift'])
  assert (state['clean'], state['adversarial']) == (1, 1)
  assert float(metrics['pixel_shift']) > 0


def test_the_strength_rises_along_its_ramp(found):
  np.testing.assert_allclose(found['ramp'], [0.0, 1.0, 2.0, 2.0])


def test_a_stopped_side_has_no_gradient(found):
  base = found['simclr, simclr'][1]['in']
  both, clean, adversarial = (
    found[stop][1]['in'] - base for stop in ('none', 'clean', 'adversarial')
  )
  cases.close(both, clean + adversarial, rtol=1e-3)
  assert np.abs(clean).max() > 1e-3
  assert np.abs(adversarial).max() > 1e-3


@pytest.mark.parametrize(('layer', 'distance'), first(LAYERS_AND_DISTANCES, 4))
def test_every_layer_and_distance_has_a_finite_gradient(found, layer, distance):
  loss, grads, _, metrics = found[f'{layer}, {distance}']
  assert np.isfinite(loss)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  assert float(metrics['feature_shift']) > 0


@pytest.mark.parametrize('norm', first(['linf', 'l2', 'l1']))
def test_more_radius_is_more_shift(found, norm):
  shifts = [float(found[f'{norm}, {epsilon}']) for epsilon in RADII]
  assert shifts == sorted(shifts)
  assert shifts[0] > 0


def test_the_free_attack_climbs_the_base_loss_to_the_edge(found):
  _, _, state, metrics = found['free']
  assert (state['clean'], state['adversarial']) == (1, 1)
  by_direction, by_square = found['free by hand']
  cases.close(metrics['feature_shift'], by_direction, rtol=1e-4)
  cases.close(metrics['pixel_shift'], 0.05, rtol=1e-4)
  _, _, _, metrics = found['free, sq_l2']
  cases.close(metrics['feature_shift'], by_square, rtol=1e-4)


def test_byol_predicts_the_other_view_of_its_teacher(found, params):
  loss, grads, _, aux_state, _ = found['byol']
  teacher = draw_teacher()
  predict = np.asarray(params['predict'], np.float64)
  expected = [
    2
    - 2 * np.sum(unit(embed(params, a) @ predict) * unit(embed(teacher, b)), 1)
    for a, b in ((0, 1), (1, 0))
  ]
  cases.close(loss, np.mean(expected), rtol=1e-4)
  cases.close(
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
