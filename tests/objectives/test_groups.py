"""Group DRO weighs groups as Algorithm 1 does; JTT trains twice in one run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrl_jax import objectives
from rrl_jax.errors import ConfigError
from rrl_jax.typing import DataSpec
from tests.objectives.test_gr import (
  NUM_CLASSES,
  NUM_EXAMPLES,
  apply_fn,
  assert_close,
  batch,
  gradient,
  logits_of,
  params,
)

__all__ = ['batch', 'params']  # Fixtures.
GROUPS = ('x', 'y', 'empty')
COUNTS = np.array([20, 4, 0])
SPEC = DataSpec(
  class_names=tuple(str(k) for k in range(NUM_CLASSES)),
  concept_names=('a',),
  concept_counts=np.array([NUM_EXAMPLES]),
  sampling_probs=np.array([1.0]),
  num_examples=NUM_EXAMPLES,
  group_names=GROUPS,
  group_counts=COUNTS,
)


def make(name, spec=SPEC, **kw):
  return objectives.make(name, apply_fn, data=spec, kw=kw)


@pytest.fixture
def grouped(batch):
  return batch | {'group': jnp.asarray(np.arange(24) < 4, jnp.int32)}


def losses_of(params, batch):
  return optax.softmax_cross_entropy_with_integer_labels(
    logits_of(params, batch), batch['label']
  )


def test_group_dro_minimises_the_groups_by_the_updated_weights(params, grouped):
  objective = make('group_dro', step_size=0.5, adjustment=0.8)
  grads, aux, metrics = gradient(objective, params, grouped)
  is_y = np.arange(24) < 4
  loss = np.asarray(losses_of(params, grouped), np.float64)
  means = np.array([loss[~is_y].mean(), loss[is_y].mean(), 0])
  risks = means + [0.8 / np.sqrt(20), 0.8 / np.sqrt(4), 0]
  weights = np.exp(0.5 * risks)
  weights /= weights.sum()
  assert_close(aux.probs, weights)
  for name, weight in zip(GROUPS, weights, strict=True):
    assert_close(metrics[f'group_weight/{name}'], weight)

  def expected(q):
    loss = losses_of(q, grouped)
    return weights[0] * loss[4:].mean() + weights[1] * loss[:4].mean()

  assert_close(grads, jax.grad(expected)(params))


def test_group_dro_goes_on_from_its_weights(params, grouped):
  objective = make('group_dro', step_size=0.5)
  _, first, _ = gradient(objective, params, grouped)
  _, second, _ = gradient(objective, params, grouped, aux=first)
  ratio = second.probs / first.probs
  start = first.probs * len(GROUPS)
  assert_close(ratio / ratio.sum(), start / start.sum())


@pytest.fixture
def both(rng, params):
  """Two networks, the second with other weights."""
  other = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params
  )
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), params, other)


def half(both, k):
  return jax.tree.map(lambda leaf: leaf[k], both)


def test_jtt_trains_the_other_network_first_and_marks_its_errors(both, batch):
  objective = make('jtt', warmup_steps=3, upweight=5.0)
  assert objective.num_networks == 2
  grads, aux, metrics = gradient(objective, both, batch, step=2)
  waiting = jax.tree.leaves(half(grads, 0))
  assert all(float(jnp.abs(leaf).max()) == 0 for leaf in waiting)
  mean = lambda q: losses_of(q, batch).mean()
  assert_close(half(grads, 1), jax.grad(mean)(half(both, 1)))
  predicted = jnp.argmax(logits_of(half(both, 1), batch), axis=-1)
  wrong = np.asarray(predicted != batch['label'])
  np.testing.assert_array_equal(aux['wrong'], wrong)
  assert 0 < wrong.sum() < 24
  assert metrics['error_set'] == pytest.approx(wrong.mean())


def test_jtt_then_weighs_the_marked_and_marks_no_more(both, batch):
  objective = make('jtt', warmup_steps=3, upweight=5.0)
  marked = jnp.arange(24) % 3 == 0
  grads, aux, _ = gradient(
    objective, both, batch, aux={'wrong': marked}, step=3
  )
  np.testing.assert_array_equal(aux['wrong'], marked)
  weights = jnp.where(marked, 5.0, 1.0)

  def expected(q):  # As if each marked example were there five times.
    return jnp.sum(weights * losses_of(q, batch)) / weights.sum()

  assert_close(half(grads, 0), jax.grad(expected)(half(both, 0)))
  still = jax.tree.leaves(half(grads, 1))
  assert all(float(jnp.abs(leaf).max()) == 0 for leaf in still)


def test_jtt_marks_examples_by_index_and_leaves_the_others(both, batch):
  objective = make('jtt', warmup_steps=3)
  rows = np.array([5, 17, 2])
  some = {name: values[rows] for name, values in batch.items()}
  marked = jnp.arange(24) % 2 == 0
  _, aux, _ = gradient(objective, both, some, aux={'wrong': marked})
  predicted = jnp.argmax(logits_of(half(both, 1), some), axis=-1)
  expected = np.array(marked)
  expected[rows] = predicted != some['label']
  np.testing.assert_array_equal(aux['wrong'], expected)


def test_without_upweighting_the_second_phase_is_erm(both, batch):
  objective = make('jtt', warmup_steps=1, upweight=1.0)
  grads, _, _ = gradient(objective, both, batch, step=7)
  expected, _, _ = gradient(make('erm'), half(both, 0), batch)
  assert_close(half(grads, 0), expected)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'kw', 'message'),
  [
    ('group_dro', {'step_size': 0.0}, 'step_size=0.0 is not in'),
    ('group_dro', {'adjustment': -1.0}, 'adjustment=-1.0 is not in'),
    ('jtt', {'warmup_steps': 0}, 'warmup_steps=0 is below 1'),
    ('jtt', {'warmup_steps': 1.5}, 'warmup_steps=1.5 is no whole'),
    ('jtt', {'upweight': 0.5}, 'upweight=0.5 is not in'),
  ],
)
def test_values_out_of_range_are_told(name, kw, message):
  with pytest.raises(ConfigError, match=message):
    make(name, **kw)


def test_group_dro_without_groups_says_what_to_set():
  spec = dataclasses.replace(SPEC, group_names=())
  with pytest.raises(ConfigError, match='needs groups: set data.groups.kind'):
    make('group_dro', spec)
