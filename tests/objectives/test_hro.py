"""HRO is the sum of its two levels, and each does what its formula says."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from rrl_jax import objectives
from rrl_jax.errors import ConfigError
from rrl_jax.train import sharding
from rrl_jax.typing import DataSpec
from tests.objectives import cases
from tests.tiers import first

COUNTS = np.array([60, 30, 10])
CONCEPTS = ('a', 'b', 'c')
NUM_CLASSES = 4


def apply_fn(params, model_state, images, *, train):
  """A smooth two-layer network that counts how often it was trained."""
  flat = images.reshape(images.shape[0], -1)
  features = jnp.tanh(flat @ params['in'])
  if train:
    model_state = {'calls': model_state['calls'] + 1}
  return (features @ params['out'], {'features': features}), model_state


def make(sampling=COUNTS / 100, name='hro', **kw):
  spec = DataSpec(
    class_names=tuple('0123'),
    concept_names=CONCEPTS,
    concept_counts=COUNTS,
    sampling_probs=np.asarray(sampling),
    num_examples=24,
  )
  return objectives.make(name, apply_fn, data=spec, kw=kw)


def draw():
  """``(params, batch)``, the same ones each time."""
  rng = np.random.default_rng(0)
  params = {
    'in': (rng.normal(size=(16, 8)) / 4).astype(np.float32),
    'out': rng.normal(size=(8, NUM_CLASSES)).astype(np.float32),
  }
  return params, {
    'image': rng.uniform(size=(24, 4, 4, 1)).astype(np.float32),
    'label': rng.integers(NUM_CLASSES, size=24).astype(np.int32),
    'concept': rng.integers(3, size=24).astype(np.int32),
    'index': np.arange(24, dtype=np.int32),
  }


@pytest.fixture
def batch():
  return draw()[1]


def take(objective, params, batch, steps=1):
  """``(loss, gradient, aux_state, metrics, calls)`` of the last step."""

  def step(carry, number):
    state, aux_state = carry
    (loss, (state, aux_state, metrics)), grads = jax.value_and_grad(
      objective, has_aux=True
    )(params, state, aux_state, batch, jax.random.key(1), number)
    found = loss, grads, aux_state, metrics, state['calls']
    return (state, aux_state), found

  state = {'calls': jnp.zeros(())}
  aux_state = objective.init(params, state, batch, jax.random.key(0))
  _, found = jax.lax.scan(step, (state, aux_state), jnp.arange(steps))
  return jax.tree.map(lambda leaf: leaf[-1], found)


def of(steps=1, **kw):
  return functools.partial(take, make(**kw), steps=steps)


def cross_entropies(params, images, labels):
  (logits, _), _ = apply_fn(params, {}, images, train=False)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def by_hand(params, batch):
  """Losses of the examples, and the gradient of each."""
  fn = lambda params: cross_entropies(params, batch['image'], batch['label'])
  return fn(params), jax.jacrev(fn)(params)


def moved(gamma, params, batch):
  """``(gradient at the images moved by a step, their mean cost)``."""
  slope = jax.grad(
    lambda x: jnp.sum(cross_entropies(params, x, batch['label']))
  )(batch['image'])
  points = jnp.clip(batch['image'] + slope / gamma, 0, 1)
  cost = jnp.sum(jnp.square(points - batch['image']), axis=(1, 2, 3)) / 2
  loss = lambda params: jnp.mean(
    cross_entropies(params, points, batch['label'])
  )
  return jax.grad(loss)(params), jnp.mean(cost)


def expected_gradient(probs):
  """Over single examples of each concept, as often as a sampler draws them."""
  objective = make(probs, inner='none', divergence='kl', temperature=0.5)

  def run(params, batch):
    def of_concept(k):
      one = {'image': batch['image'][k][None], 'label': k[None]}
      _, grads, *_ = take(objective, params, one | {'concept': k[None]})
      return grads

    grads = jax.lax.map(of_concept, jnp.arange(3))
    return jax.tree.map(
      lambda leaf: jnp.tensordot(jnp.float32(probs), leaf, 1), grads
    )

  return run


KL = {'inner': 'none', 'divergence': 'kl', 'temperature': 0.5}
# One of each value in the default tier, all pairs in the full one.
SETTINGS = [
  {'inner': 'none', 'divergence': 'l2', 'mix_update': 'best_response'},
  {'inner': 'none', 'divergence': 'cvar', 'mix_update': 'best_response'},
  {'inner': 'none', 'divergence': 'chi2', 'mix_update': 'best_response'},
  {'inner': 'none', 'divergence': 'kl', 'mix_update': 'ascent'},
  {
    'inner': 'none',
    'divergence': 'ot',
    'cost': 'given',
    'cost_matrix': ((0.0, 1.0, 2.0), (1.0, 0.0, 1.0), (2.0, 1.0, 0.0)),
  },
  {'inner': 'sinkhorn', 'sinkhorn_tau': 0.9, 'sinkhorn_labels': False},
  {'inner': 'wrm', 'inner_steps': 3, 'attack_train_mode': False},
  {'inner': 'wrm', 'radius': 0.1, 'step_scale': 'max'},
  {'divergence': 'kl', 'prior': 'empirical', 'step_scale': 'rms'},
]
NUM_DEFAULT = len(SETTINGS)
SETTINGS += [
  {'inner': 'sinkhorn', 'divergence': 'none'},
  {'divergence': 'ot', 'cost_epsilon': 0.5},
]
OTHERS = [
  {'inner': inner, 'divergence': divergence, 'mix_update': update}
  for inner, divergence, update in itertools.product(
    ('none', 'wrm', 'sinkhorn'),
    ('none', 'kl', 'l2', 'ot', 'cvar', 'chi2'),
    ('best_response', 'ascent'),
  )
  if (update == 'best_response' or divergence in ('kl', 'l2'))
  and (inner != 'sinkhorn' or (divergence, update) == ('kl', 'best_response'))
]
SETTINGS += [kw for kw in OTHERS if kw not in SETTINGS]

CASES = {
  'erm': of(name='erm'),
  'off': of(inner='none', divergence='none'),
  'by hand': by_hand,
  'kl, 1': of(**KL),
  'kl, 2': of(2, **KL),
  'el': of(inner='wrm', divergence='none', gamma=5.0),
  'el, by hand': functools.partial(moved, 5.0),
  'dear': of(3, inner='wrm', gamma=1e8),
  'cl': of(3, inner='none'),
  'uniform': of(3, inner='none', temperature=1e6, prior='uniform'),
  'empirical': of(3, inner='none', temperature=1e6, prior='empirical'),
  'loss': of(inner='wrm', gamma=2.0, risk='loss'),
  'penalised': of(inner='wrm', gamma=2.0, risk='penalised'),
  'settling': of(400, inner='wrm', divergence='none', radius=0.01, gamma=1.0),
  'sampled as they are': expected_gradient(COUNTS / 100),
  'sampled alike': expected_gradient(np.full(3, 1 / 3)),
  'bounded': of(inner='none', temperature=1e6, step_scale='max'),
  'two inner steps': of(inner='wrm', inner_steps=2, attack_train_mode=True),
  'spread': of(2, inner='wrm', divergence='ot'),
}
CASES |= {str(kw): of(2, **kw) for kw in SETTINGS}
REST = [str(kw) for kw in SETTINGS[NUM_DEFAULT:]]


@pytest.fixture(scope='module')
def found():
  return cases.together(CASES, *draw(), alone=REST)


def test_with_both_levels_off_it_is_erm(found):
  cases.close(found['off'][:2], found['erm'][:2])


def test_cl_weighs_examples_by_the_mix_over_their_frequency(found, batch):
  mix = found['kl, 1'][2]['concept_probs']
  weights = (mix / (COUNTS / 100))[batch['concept']]
  _, slopes = found['by hand']
  expected = jax.tree.map(
    lambda leaf: np.tensordot(weights, leaf, 1) / 24, slopes
  )
  cases.close(found['kl, 2'][1], expected)


def test_first_answer_is_the_closed_form_of_kl(found, batch):
  _, _, aux_state, metrics, _ = found['kl, 1']
  losses, _ = found['by hand']
  means = np.array(
    [np.mean(losses[batch['concept'] == k]) for k in range(3)], np.float64
  )
  expected = np.exp(means / 0.5) / np.sum(np.exp(means / 0.5))
  np.testing.assert_allclose(metrics['concept_risk'], means, rtol=1e-5)
  np.testing.assert_allclose(aux_state['concept_probs'], expected, rtol=1e-5)


def test_el_takes_its_gradient_at_the_moved_images(found):
  _, grads, _, metrics, _ = found['el']
  expected, cost = found['el, by hand']
  cases.close(grads, expected, rtol=1e-4)
  np.testing.assert_allclose(metrics['transport_cost'], cost, rtol=1e-4)


def test_a_high_price_turns_hro_into_cl(found):
  cases.close(found['dear'][:2], found['cl'][:2], rtol=1e-4)


def test_a_high_temperature_leaves_the_mix_at_the_prior(found):
  for prior, expected in (('uniform', 1 / 3), ('empirical', COUNTS / 100)):
    mix = found[prior][2]['concept_probs']
    np.testing.assert_allclose(mix, expected, rtol=1e-4)


def test_penalised_risk_is_the_loss_less_the_price_of_transport(found, batch):
  loss, penalised = found['loss'][3], found['penalised'][3]
  paid = loss['concept_risk'] - penalised['concept_risk']
  counts = np.bincount(batch['concept'], minlength=3)
  np.testing.assert_allclose(
    paid @ counts / 24, 2.0 * loss['transport_cost'], rtol=1e-4
  )


def test_gamma_settles_where_the_transport_cost_is_the_radius(found):
  _, _, aux_state, metrics, _ = found['settling']
  np.testing.assert_allclose(metrics['transport_cost'], 0.01, rtol=0.05)
  assert aux_state['gamma'] > 0


def test_the_sampling_does_not_change_the_expected_gradient(found):
  cases.close(found['sampled as they are'], found['sampled alike'])


@pytest.mark.parametrize('kw', first(SETTINGS, NUM_DEFAULT), ids=str)
def test_every_setting_steps_twice_to_finite_values(found, kw):
  params, batch = draw()
  aux_state = jax.eval_shape(
    lambda: make(**kw).init(
      params, {'calls': jnp.zeros(())}, batch, jax.random.key(0)
    )
  )
  loss, grads, new, metrics, _ = found[str(kw)]
  for leaf in jax.tree.leaves((loss, grads, new, metrics)):
    assert np.all(np.isfinite(leaf))
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(aux_state) == shapes(new)  # A state must keep its type.
  if 'concept_probs' in new:
    np.testing.assert_allclose(np.sum(new['concept_probs']), 1, rtol=1e-5)


def test_bounded_step_scale_is_one_over_the_largest_weight(found):
  objective = make(inner='none', temperature=1e6, step_scale='max')
  np.testing.assert_allclose(
    objective.step_scale(found['bounded'][3]), 1 / ((1 / 3) / 0.1), rtol=1e-4
  )


def test_network_counts_one_training_pass_a_step(found):
  """The inner maximisation leaves BatchNorm statistics alone."""
  assert found['two inner steps'][4] == 1
  assert found['dear'][4] == 3


@pytest.mark.parametrize('number', first([2, 8]))
def test_several_devices_equal_one(found, number):
  params, batch = draw()
  rows = NamedSharding(sharding.make_mesh(number), PartitionSpec('data'))
  spread = jax.jit(CASES['spread'])(params, jax.device_put(batch, rows))
  cases.close(jax.device_get(spread), found['spread'], rtol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'word'),
  [
    ({'inner': 'wmr'}, 'sinkhorn'),
    ({'divergence': 'tv'}, 'chi2'),
    ({'gamma': -1.0}, 'gamma=-1.0'),
    ({'gamma': float('nan')}, 'gamma'),
    ({'temperature': 0.0}, 'temperature'),
    ({'divergence': 'cvar', 'temperature': 2.0}, 'cvar'),
    ({'mix_update': 'ascent', 'divergence': 'ot'}, 'ascent'),
    ({'mix_update': 'ascent', 'mix_rate': 9.0}, 'exceeds 1'),
    (
      {
        'mix_update': 'ascent',
        'mix_rate': 0.6,
        'temperature': 1.0,
        'divergence': 'l2',
      },
      'exceeds 0.5',
    ),
    ({'sinkhorn_tau': 1.5}, 'sinkhorn_tau'),
    ({'risk_rate': 0.0}, 'risk_rate'),
    ({'divergence': 'ot', 'cost': 'given'}, 'cost_matrix'),
    (
      {'divergence': 'ot', 'cost': 'given', 'cost_matrix': ((0.0,),)},
      'shape',
    ),
    ({'step_scale': 'mean'}, 'rms'),
    ({'no_such': 1}, 'no_such'),
  ],
)
def test_a_wrong_value_is_named_in_one_line(kw, word):
  with pytest.raises(ConfigError, match=word) as error:
    make(**kw)
  assert '\n' not in str(error.value)


def test_an_unknown_objective_lists_the_known():
  with pytest.raises(ConfigError, match='erm, gr, group_dro, hro'):
    make(name='hor')
