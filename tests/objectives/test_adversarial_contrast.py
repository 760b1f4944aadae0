"""ACL, DynACL, RoCL and DeACL are the sums their papers' codes minimise."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from rrl_jax import losses
from rrl_jax.errors import ConfigError
from rrl_jax.train import sharding
from tests.objectives import linear

TINY = 1e-7  # A ball in which nothing changes.


@pytest.fixture
def params(rng):
  return linear.draw_params(rng)


@pytest.fixture
def batch(rng):
  return linear.draw_batch(rng)


def unit_embeddings(params, images):
  flat = np.asarray(images, np.float64).reshape(len(images), -1)
  rows = np.tanh(flat @ np.asarray(params['in'], np.float64))
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nt_xent(embeddings, num_views, temperature):
  """Each pair of views, all other rows in the denominator: [V N, V - 1]."""
  total = len(embeddings)
  logits = embeddings @ embeddings.T / temperature
  np.fill_diagonal(logits, -np.inf)
  log_sum = np.log(np.sum(np.exp(logits), axis=1))
  size = total // num_views
  return np.array(
    [
      [
        log_sum[i] - logits[i, j]
        for j in range(i % size, total, size)
        if j != i
      ]
      for i in range(total)
    ]
  )


def test_acl_is_half_of_the_clean_and_half_of_the_attacked_pair(params, batch):
  objective = linear.make('acl', epsilon=0.2, temperature=0.3, inner_steps=2)
  loss, _, state, _, metrics = linear.run(objective, params, batch)
  views = jnp.concatenate([batch['views'][:, 0], batch['views'][:, 1]])
  clean = nt_xent(unit_embeddings(params, views), 2, 0.3).mean()
  linear.close(metrics['clean_loss'], clean)
  linear.close(loss, (metrics['clean_loss'] + metrics['adversarial_loss']) / 2)
  assert metrics['adversarial_loss'] > 1.05 * clean
  assert (state['clean'], state['adversarial']) == (1, 1)


@pytest.mark.full
def test_acl_in_a_ball_of_no_size_is_simclr(params, batch):
  ours = linear.run(
    linear.make('acl', epsilon=TINY, inner_steps=1), params, batch
  )
  theirs = linear.run(linear.make('simclr'), params, batch)
  linear.close(ours[:2], theirs[:2], rtol=1e-4, atol=1e-5)


def test_the_weight_of_dynacl_rises_in_stages(params, batch):
  objective = linear.make(
    'acl', weight=5 / 3, ramp_steps=100, ramp_stages=4, inner_steps=1
  )
  for step, done in ((0, 0), (24, 0), (25, 1), (60, 2), (99, 3), (500, 4)):
    loss, _, _, _, metrics = linear.run(objective, params, batch, step)
    weight = 1 + (2 / 3) * done / 4
    np.testing.assert_allclose(metrics['adversarial_weight'], weight, rtol=1e-6)
    linear.close(
      loss,
      (2 - weight) / 2 * metrics['clean_loss']
      + weight / 2 * metrics['adversarial_loss'],
    )


@pytest.mark.full
def test_the_average_of_the_weights_embeds_the_second_view(params, batch):
  kw = {'epsilon': TINY, 'inner_steps': 1}
  plain = linear.run(linear.make('acl', **kw), params, batch)
  objective = linear.make('acl', momentum=0.9, **kw)
  averaged = linear.run(objective, params, batch)
  linear.close(averaged[0], plain[0], rtol=1e-4)  # They begin alike.
  assert np.abs(averaged[1]['in'] - plain[1]['in']).max() > 1e-3
  teacher = averaged[3]['teacher']
  other = jax.tree.map(lambda leaf: leaf + 1, params)
  _, _, _, aux_state, _ = linear.run(
    objective, other, batch, aux_state={'teacher': teacher}
  )
  linear.close(
    aux_state['teacher']['params'],
    jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, params, other),
  )

  def one_sided(weights):  # No gradient reaches the second view's encoder.
    def embed(view):
      flat = batch['views'][:, view].reshape(8, -1)
      return losses.l2_normalize(jnp.tanh(flat @ weights['in']))

    both = jnp.concatenate([embed(0), jax.lax.stop_gradient(embed(1))])
    ids = jnp.tile(jnp.arange(8), 2)
    return jnp.mean(losses.infonce(both, ids, temperature=0.5))

  linear.close(averaged[1], jax.jit(jax.grad(one_sided))(params), 1e-4, 1e-5)


@pytest.mark.full
def test_rocl_is_the_loss_of_three_views_and_a_little_of_two(params, batch):
  objective = linear.make(
    'rocl', epsilon=TINY, temperature=0.3, beta=0.25, inner_steps=1
  )
  loss, _, state, _, metrics = linear.run(objective, params, batch)
  first, second = batch['views'][:, 0], batch['views'][:, 1]
  three = unit_embeddings(params, jnp.concatenate([first, second, first]))
  expected = nt_xent(three, 3, 0.3).sum() / len(three)
  pair = unit_embeddings(params, jnp.concatenate([first, second]))
  expected += 0.25 * nt_xent(pair, 2, 0.3).mean()
  linear.close(loss, expected, rtol=1e-4)
  assert (state['clean'], state['adversarial']) == (1, 1)
  stronger, weaker = (
    linear.run(
      linear.make('rocl', epsilon=epsilon, inner_steps=2), params, batch
    )
    for epsilon in (0.2, 0.02)
  )
  assert stronger[4]['adversarial_loss'] > weaker[4]['adversarial_loss']


def test_deacl_first_teaches_then_distils(params, batch, rng):
  objective = linear.make(
    'deacl', teacher_steps=3, beta=2.0, epsilon=0.1, inner_steps=2
  )
  aux_state = linear.init(objective, params, batch)
  simclr = linear.run(linear.make('simclr'), params, batch)
  teaching = linear.run(objective, params, batch, 2, aux_state)
  linear.close(teaching[:2], simclr[:2])
  # At the third step the network itself becomes the teacher.
  student = linear.draw_params(rng)
  begun = linear.run(objective, student, batch, 3, teaching[3])
  linear.close(begun[3]['teacher']['params'], student)
  linear.close(begun[4]['teacher_distance'], 0.0, atol=1e-5)
  later = linear.run(objective, params, batch, 4, begun[3])
  linear.close(later[3]['teacher']['params'], student)
  features = lambda weights: (
    np.asarray(batch['views'][:, 0], np.float64).reshape(8, -1)
    @ np.asarray(weights['in'], np.float64)
  )
  s, t = features(params), features(student)
  cosine = np.sum(s * t, 1) / np.linalg.norm(s, axis=1)
  cosine /= np.linalg.norm(t, axis=1)
  linear.close(later[4]['teacher_distance'], np.mean(1 - cosine), rtol=1e-4)
  linear.close(
    later[0],
    later[4]['teacher_distance'] + 2 * later[4]['feature_shift'],
  )
  assert float(later[4]['feature_shift']) > 1e-4
  assert np.isnan(later[4]['view_cosine'])  # Known in the first stage only.


@pytest.mark.full
@pytest.mark.parametrize(
  ('name', 'kw'),
  [
    ('acl', {'momentum': 0.9}),
    ('rocl', {}),
    ('deacl', {'teacher_steps': 0}),
    ('tarrl', {'base': 'byol', 'attack': 'base_gradient', 'stop': 'clean'}),
    ('tarrl', {}),
  ],
)
def test_one_device_equals_eight(params, batch, name, kw):
  if name != 'tarrl' or not kw:
    kw = kw | {'inner_steps': 1}
  objective = linear.make(name, epsilon=0.1, **kw)
  one = linear.run(objective, params, batch)
  rows = NamedSharding(sharding.make_mesh(8), PartitionSpec('data'))
  eight = linear.run(objective, params, jax.device_put(batch, rows))
  linear.close(one, jax.device_get(eight), rtol=1e-4, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'kw', 'words'),
  [
    ('acl', {'epsilon': 1.5}, 'epsilon=1.5 is not in'),
    ('acl', {'weight': 2.5}, 'weight=2.5 is not in'),
    ('acl', {'momentum': 1.0}, 'momentum=1.0 is not in'),
    ('acl', {'ramp_stages': 0}, 'ramp_stages=0 is not positive'),
    ('acl', {'ramp_steps': -1}, 'ramp_steps=-1 is negative'),
    ('acl', {'eval_norm': 'both'}, "eval_norm='both'"),
    ('acl', {'temperature': -1.0}, 'temperature=-1.0'),
    ('rocl', {'beta': -1.0}, 'beta=-1.0 is not in'),
    ('rocl', {'temperature': 0.0}, 'temperature=0.0'),
    ('rocl', {'inner_steps': 0}, 'inner_steps=0'),
    ('deacl', {'teacher_steps': -1}, 'teacher_steps=-1 is negative'),
    ('deacl', {'teacher_steps': 1, 'beta': -1.0}, 'beta=-1.0'),
    ('deacl', {'teacher_steps': 1, 'base': 'moco'}, "base='moco'; known"),
    ('deacl', {'teacher_steps': 1, 'norm': 'l0'}, "norm='l0'"),
  ],
)
def test_a_wrong_value_is_one_line(name, kw, words):
  with pytest.raises(ConfigError, match=words) as caught:
    linear.make(name, **kw)
  assert '\n' not in str(caught.value)
