"""ACL, DynACL, RoCL and DeACL are the sums their papers' codes minimise."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from rrl_jax import losses
from rrl_jax.errors import ConfigError
from rrl_jax.train import sharding
from tests.objectives import cases, linear
from tests.tiers import first

TINY = 1e-7  # A ball in which nothing changes.


def of(name, **kw):
  return functools.partial(linear.take, linear.make(name, **kw))


def dynacl(params, batch):
  """``(loss, metrics)`` at several steps."""
  objective = linear.make(
    'acl', weight=5 / 3, ramp_steps=100, ramp_stages=4, inner_steps=1
  )

  def at(step):
    loss, _, _, _, metrics = linear.take(objective, params, batch, step)
    return loss, metrics

  return jax.lax.map(at, jnp.array([0, 24, 25, 60, 99, 500]))


def averaged(params, batch):
  """A first step, and the teacher after one of other weights."""
  objective = linear.make('acl', momentum=0.9, epsilon=TINY, inner_steps=1)
  begun = linear.take(objective, params, batch)
  other = jax.tree.map(lambda leaf: leaf + 1, params)
  _, _, _, aux_state, _ = linear.take(objective, other, batch, 0, begun[3])
  return begun, aux_state['teacher']['params']


def one_sided(params, batch):
  """The slope of SimCLR that does not reach the second view's encoder."""

  def loss(weights):
    def embed(view):
      flat = batch['views'][:, view].reshape(8, -1)
      return losses.l2_normalize(jnp.tanh(flat @ weights['in']))

    both = jnp.concatenate([embed(0), jax.lax.stop_gradient(embed(1))])
    ids = jnp.tile(jnp.arange(8), 2)
    return jnp.mean(losses.infonce(both, ids, temperature=0.5))

  return jax.grad(loss)(params)


def draw_student():
  return linear.draw_params(np.random.default_rng(1))


def deacl(params, batch):
  """Steps 2, 3 and 4, of which the student takes the third."""
  objective = linear.make(
    'deacl', teacher_steps=3, beta=2.0, epsilon=0.1, inner_steps=2
  )

  def step(aux_state, now):
    found = linear.take(objective, now['params'], batch, now['step'], aux_state)
    return found[3], found

  weights = [params, draw_student(), params]
  _, found = jax.lax.scan(
    step,
    linear.init(objective, params, batch),
    {
      'params': jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights),
      'step': jnp.array([2, 3, 4]),
    },
  )
  return found


CASES = {
  'simclr': of('simclr'),
  'acl': of('acl', epsilon=0.2, temperature=0.3, inner_steps=2),
  'acl, tiny': of('acl', epsilon=TINY, inner_steps=1),
  'dynacl': dynacl,
  'averaged': averaged,
  'one-sided': one_sided,
  'rocl': of('rocl', epsilon=TINY, temperature=0.3, beta=0.25, inner_steps=1),
  'rocl, stronger': of(
    'rocl', epsilon=0.2, temperature=0.3, beta=0.25, inner_steps=2
  ),
  'deacl': deacl,
}
# What is compared with itself on eight devices, in the full tier.
ALIKE = {
  'acl, average': of('acl', epsilon=0.1, momentum=0.9, inner_steps=1),
  'rocl, default': of('rocl', epsilon=0.1, inner_steps=1),
  'deacl, distils': of('deacl', epsilon=0.1, teacher_steps=0, inner_steps=1),
  'tarrl': of('tarrl', epsilon=0.1, inner_steps=1),
  'tarrl, free': of(
    'tarrl', epsilon=0.1, base='byol', attack='base_gradient', stop='clean'
  ),
}


@pytest.fixture(scope='module')
def found():
  return cases.together(CASES | ALIKE, *linear.draw(), alone=ALIKE)


@pytest.fixture
def params():
  return linear.draw()[0]


@pytest.fixture
def batch():
  return linear.draw()[1]


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


def test_acl_is_half_of_the_clean_and_half_of_the_attacked_pair(
  found, params, batch
):
  loss, _, state, _, metrics = found['acl']
  views = np.concatenate([batch['views'][:, 0], batch['views'][:, 1]])
  clean = nt_xent(unit_embeddings(params, views), 2, 0.3).mean()
  cases.close(metrics['clean_loss'], clean)
  cases.close(loss, (metrics['clean_loss'] + metrics['adversarial_loss']) / 2)
  assert metrics['adversarial_loss'] > 1.05 * clean
  assert (state['clean'], state['adversarial']) == (1, 1)


def test_acl_in_a_ball_of_no_size_is_simclr(found):
  cases.close(found['acl, tiny'][:2], found['simclr'][:2], rtol=1e-4, atol=1e-5)


def test_the_weight_of_dynacl_rises_in_stages(found):
  loss, metrics = found['dynacl']
  weight = 1 + (2 / 3) * np.array([0, 0, 1, 2, 3, 4]) / 4
  np.testing.assert_allclose(metrics['adversarial_weight'], weight, rtol=1e-6)
  cases.close(
    loss,
    (2 - weight) / 2 * metrics['clean_loss']
    + weight / 2 * metrics['adversarial_loss'],
  )


def test_the_average_of_the_weights_embeds_the_second_view(found, params):
  plain = found['acl, tiny']
  averaged, teacher = found['averaged']
  cases.close(averaged[0], plain[0], rtol=1e-4)  # They begin alike.
  assert np.abs(averaged[1]['in'] - plain[1]['in']).max() > 1e-3
  cases.close(
    teacher,
    jax.tree.map(
      lambda old, new: 0.9 * old + 0.1 * (new + 1),
      averaged[3]['teacher']['params'],
      params,
    ),
  )
  # No gradient reaches the second view's encoder.
  cases.close(averaged[1], found['one-sided'], 1e-4, 1e-5)


def test_rocl_is_the_loss_of_three_views_and_a_little_of_two(
  found, params, batch
):
  loss, _, state, _, _ = found['rocl']
  first, second = batch['views'][:, 0], batch['views'][:, 1]
  three = unit_embeddings(params, np.concatenate([first, second, first]))
  expected = nt_xent(three, 3, 0.3).sum() / len(three)
  pair = unit_embeddings(params, np.concatenate([first, second]))
  expected += 0.25 * nt_xent(pair, 2, 0.3).mean()
  cases.close(loss, expected, rtol=1e-4)
  assert (state['clean'], state['adversarial']) == (1, 1)
  stronger, weaker = found['rocl, stronger'][4], found['rocl'][4]
  assert stronger['adversarial_loss'] > weaker['adversarial_loss']


def test_deacl_first_teaches_then_distils(found, params, batch):
  teaching, begun, later = (
    jax.tree.map(lambda leaf, step=step: leaf[step], found['deacl'])
    for step in range(3)
  )
  cases.close(teaching[:2], found['simclr'][:2])
  # At the third step the network itself becomes the teacher.
  student = draw_student()
  cases.close(begun[3]['teacher']['params'], student)
  cases.close(begun[4]['teacher_distance'], 0.0, atol=1e-5)
  cases.close(later[3]['teacher']['params'], student)
  features = lambda weights: (
    np.asarray(batch['views'][:, 0], np.float64).reshape(8, -1)
    @ np.asarray(weights['in'], np.float64)
  )
  s, t = features(params), features(student)
  cosine = np.sum(s * t, 1) / np.linalg.norm(s, axis=1)
  cosine /= np.linalg.norm(t, axis=1)
  cases.close(later[4]['teacher_distance'], np.mean(1 - cosine), rtol=1e-4)
  cases.close(
    later[0],
    later[4]['teacher_distance'] + 2 * later[4]['feature_shift'],
  )
  assert float(later[4]['feature_shift']) > 1e-4
  assert np.isnan(later[4]['view_cosine'])  # Known in the first stage only.


@pytest.mark.parametrize(
  ('name', 'number'),
  first([('rocl, stronger', 2), *((name, 8) for name in ALIKE)]),
)
def test_one_device_equals_several(found, params, batch, name, number):
  rows = NamedSharding(sharding.make_mesh(number), PartitionSpec('data'))
  step = jax.jit((CASES | ALIKE)[name])
  several = step(params, jax.device_put(batch, rows))
  cases.close(found[name], jax.device_get(several), rtol=1e-4, atol=1e-5)


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
