"""HRO is the sum of its two levels, and each does what its formula says."""

import itertools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from rrl_jax import objectives
from rrl_jax.errors import ConfigError
from rrl_jax.typing import DataSpec
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


@pytest.fixture
def params(rng):
  return {
    'in': jnp.asarray(rng.normal(size=(16, 8)) / 4, jnp.float32),
    'out': jnp.asarray(rng.normal(size=(8, NUM_CLASSES)), jnp.float32),
  }


@pytest.fixture
def batch(rng):
  return {
    'image': jnp.asarray(rng.uniform(size=(24, 4, 4, 1)), jnp.float32),
    'label': jnp.asarray(rng.integers(NUM_CLASSES, size=24), jnp.int32),
    'concept': jnp.asarray(rng.integers(3, size=24), jnp.int32),
    'index': jnp.arange(24, dtype=jnp.int32),
  }


def run(objective, params, batch, steps=1):
  """Loss, gradient, aux state and metrics after some steps, under jit."""
  state = {'calls': jnp.zeros(())}
  aux = objective.init(params, state, batch, jax.random.key(0))
  step_fn = jax.jit(jax.value_and_grad(objective, has_aux=True))
  for step in range(steps):
    (loss, (state, aux, metrics)), grads = step_fn(
      params, state, aux, batch, jax.random.key(1), step
    )
  return loss, grads, aux, metrics


def cross_entropies(params, images, labels):
  (logits, _), _ = apply_fn(params, {'calls': 0.0}, images, train=False)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def assert_close(a, b, rtol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b
  )


def test_with_both_levels_off_it_is_erm(params, batch):
  off = run(make(inner='none', divergence='none'), params, batch)
  erm = run(make(name='erm'), params, batch)
  assert_close(off[:2], erm[:2])


def test_cl_weighs_examples_by_the_mix_over_their_frequency(params, batch):
  kw = {'inner': 'none', 'divergence': 'kl', 'temperature': 0.5}
  _, _, aux, _ = run(make(**kw), params, batch, steps=1)
  _, grads, _, _ = run(make(**kw), params, batch, steps=2)
  weights = (aux['concept_probs'] / (COUNTS / 100))[batch['concept']]
  expected = jax.grad(
    lambda p: jnp.mean(
      weights * cross_entropies(p, batch['image'], batch['label'])
    )
  )(params)
  assert_close(grads, expected)


def test_first_answer_is_the_closed_form_of_kl(params, batch):
  _, _, aux, metrics = run(
    make(inner='none', divergence='kl', temperature=0.5), params, batch
  )
  losses = cross_entropies(params, batch['image'], batch['label'])
  means = np.array(
    [np.mean(losses[batch['concept'] == k]) for k in range(3)], np.float64
  )
  expected = np.exp(means / 0.5) / np.sum(np.exp(means / 0.5))
  np.testing.assert_allclose(metrics['concept_risk'], means, rtol=1e-5)
  np.testing.assert_allclose(aux['concept_probs'], expected, rtol=1e-5)


def test_el_takes_its_gradient_at_the_moved_images(params, batch):
  gamma = 5.0
  _, grads, _, metrics = run(
    make(inner='wrm', divergence='none', gamma=gamma), params, batch
  )
  slope = jax.grad(
    lambda x: jnp.sum(cross_entropies(params, x, batch['label']))
  )(batch['image'])
  moved = jnp.clip(batch['image'] + slope / gamma, 0, 1)
  expected = jax.grad(
    lambda p: jnp.mean(cross_entropies(p, moved, batch['label']))
  )(params)
  assert_close(grads, expected, rtol=1e-4)
  cost = jnp.mean(
    jnp.sum(jnp.square(moved - batch['image']), axis=(1, 2, 3)) / 2
  )
  np.testing.assert_allclose(metrics['transport_cost'], cost, rtol=1e-4)


def test_a_high_price_turns_hro_into_cl(params, batch):
  hro = run(make(inner='wrm', gamma=1e8), params, batch, steps=3)
  cl = run(make(inner='none'), params, batch, steps=3)
  assert_close(hro[:2], cl[:2], rtol=1e-4)


def test_a_high_temperature_leaves_the_mix_at_the_prior(params, batch):
  for prior, expected in (('uniform', 1 / 3), ('empirical', COUNTS / 100)):
    _, _, aux, _ = run(
      make(temperature=1e6, prior=prior), params, batch, steps=3
    )
    np.testing.assert_allclose(aux['concept_probs'], expected, rtol=1e-4)


def test_penalised_risk_is_the_loss_less_the_price_of_transport(params, batch):
  kw = {'inner': 'wrm', 'gamma': 2.0}
  _, _, _, loss = run(make(**kw, risk='loss'), params, batch)
  _, _, _, penalised = run(make(**kw, risk='penalised'), params, batch)
  paid = np.asarray(loss['concept_risk'] - penalised['concept_risk'])
  counts = np.bincount(batch['concept'], minlength=3)
  np.testing.assert_allclose(
    paid @ counts / 24, 2.0 * loss['transport_cost'], rtol=1e-4
  )


def test_gamma_settles_where_the_transport_cost_is_the_radius(params, batch):
  radius = 0.01
  _, _, aux, metrics = run(
    make(inner='wrm', divergence='none', radius=radius, gamma=1.0),
    params,
    batch,
    steps=400,
  )
  np.testing.assert_allclose(metrics['transport_cost'], radius, rtol=0.05)
  assert aux['gamma'] > 0


def test_the_sampling_does_not_change_the_expected_gradient(params, rng):
  """Each concept's examples, weighted by how often a sampler draws them."""
  kw = {'inner': 'none', 'divergence': 'kl', 'temperature': 0.5}
  images = jnp.asarray(rng.uniform(size=(3, 4, 4, 1)), jnp.float32)
  labels = jnp.arange(3, dtype=jnp.int32)
  expected = []
  for probs in (COUNTS / 100, np.full(3, 1 / 3)):
    objective = make(sampling=probs, **kw)
    total = 0.0
    for k in range(3):
      one = {
        'image': images[k : k + 1],
        'label': labels[k : k + 1],
        'concept': jnp.array([k]),
      }
      _, grads, _, _ = run(objective, params, one)
      total = jax.tree.map(
        lambda old, new, p=probs[k]: old + p * new,
        total if k else jax.tree.map(jnp.zeros_like, grads),
        grads,
      )
    expected.append(total)
  assert_close(*expected)


SETTINGS = [
  {'inner': inner, 'divergence': divergence, 'mix_update': update}
  for inner, divergence, update in itertools.product(
    ('none', 'wrm', 'sinkhorn'),
    ('none', 'kl', 'l2', 'ot', 'cvar', 'chi2'),
    ('best_response', 'ascent'),
  )
  if (update == 'best_response' or divergence in ('kl', 'l2'))
  and (inner != 'sinkhorn' or (divergence, update) == ('kl', 'best_response'))
] + [
  {'inner': 'sinkhorn', 'divergence': 'none'},
  {'divergence': 'ot', 'cost_epsilon': 0.5},
  {
    'divergence': 'ot',
    'cost': 'given',
    'cost_matrix': ((0.0, 1.0, 2.0), (1.0, 0.0, 1.0), (2.0, 1.0, 0.0)),
  },
  {'inner': 'sinkhorn', 'sinkhorn_tau': 0.9, 'sinkhorn_labels': False},
  {'inner': 'wrm', 'inner_steps': 3, 'attack_train_mode': False},
  {'inner': 'wrm', 'radius': 0.1, 'step_scale': 'max'},
  {'divergence': 'kl', 'prior': 'empirical', 'step_scale': 'rms'},
]


@pytest.mark.parametrize('kw', first(SETTINGS), ids=str)
def test_every_setting_steps_twice_to_finite_values(params, batch, kw):
  objective = make(**kw)
  state = {'calls': jnp.zeros(())}
  aux = objective.init(params, state, batch, jax.random.key(0))
  loss, grads, new_aux, metrics = run(objective, params, batch, steps=2)
  for leaf in jax.tree.leaves((loss, grads, new_aux, metrics)):
    assert np.all(np.isfinite(leaf))
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(aux) == shapes(new_aux)  # A state must keep its type.
  if 'concept_probs' in new_aux:
    np.testing.assert_allclose(np.sum(new_aux['concept_probs']), 1, rtol=1e-5)


def test_bounded_step_scale_is_one_over_the_largest_weight(params, batch):
  objective = make(inner='none', temperature=1e6, step_scale='max')
  _, _, _, metrics = run(objective, params, batch)
  np.testing.assert_allclose(
    objective.step_scale(metrics), 1 / ((1 / 3) / 0.1), rtol=1e-4
  )


def test_network_counts_one_training_pass_a_step(params, batch):
  """The inner maximisation leaves BatchNorm statistics alone."""
  objective = make(inner='wrm', inner_steps=2, attack_train_mode=True)
  aux = objective.init(params, {'calls': 0.0}, batch, jax.random.key(0))
  _, (state, _, _) = objective(
    params, {'calls': jnp.zeros(())}, aux, batch, jax.random.key(0), 0
  )
  assert state['calls'] == 1


@pytest.mark.full
def test_eight_devices_equal_one(params, batch, mesh):
  objective = make(inner='wrm', divergence='ot')
  alone = run(objective, params, batch, steps=2)
  rows = NamedSharding(mesh, PartitionSpec('data'))
  spread = run(objective, params, jax.device_put(batch, rows), steps=2)
  assert_close(alone, spread, rtol=1e-4)


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
