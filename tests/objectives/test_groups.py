"""Group DRO weighs groups as Algorithm 1 does; JTT trains twice in one run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import objectives
from rrl_jax.errors import ConfigError
from rrl_jax.typing import DataSpec
from tests.objectives import cases, smooth
from tests.objectives.smooth import ROWS

GROUPS = ('x', 'y', 'empty')
IS_Y = ROWS < 4
SPEC = DataSpec(
  class_names=tuple(str(k) for k in range(smooth.NUM_CLASSES)),
  concept_names=('a',),
  concept_counts=np.array([smooth.NUM_EXAMPLES]),
  sampling_probs=np.array([1.0]),
  num_examples=smooth.NUM_EXAMPLES,
  group_names=GROUPS,
  group_counts=np.array([20, 4, 0]),
)
SOME = np.array([5, 17, 2])  # A batch of three.


def make(name, spec=SPEC, **kw):
  return objectives.make(name, smooth.apply_fn, data=spec, kw=kw)


def draw():
  """``(params, batch, networks)``: two networks, the first has ``params``."""
  params, batch = smooth.draw()
  rng = np.random.default_rng(1)
  both = {
    name: np.stack([leaf, rng.normal(size=leaf.shape).astype(np.float32)])
    for name, leaf in params.items()
  }
  return params, batch | {'group': IS_Y.astype(np.int32)}, both


@pytest.fixture
def params():
  return draw()[0]


@pytest.fixture
def batch():
  return draw()[1]


@pytest.fixture
def both():
  return draw()[2]


def half(both, k):
  return jax.tree.map(lambda leaf: leaf[k], both)


def group_dro(params, batch, both):
  """Two steps."""
  del both
  objective = make('group_dro', step_size=0.5, adjustment=0.8)
  return smooth.take_several(objective, params, batch, [0, 1])


def unadjusted(params, batch, both):
  """The same without an adjustment."""
  del both
  objective = make('group_dro', step_size=0.5)
  return smooth.take_several(objective, params, batch, [0, 1])


def jtt(step, wrong=None, rows=ROWS, **kw):
  """A step of JTT on these rows, with these examples marked before."""

  def run(params, batch, both):
    del params
    batch = {name: leaf[rows] for name, leaf in batch.items()}
    aux_state = None if wrong is None else {'wrong': jnp.asarray(wrong)}
    return smooth.take(make('jtt', **kw), both, batch, step, aux_state)

  return run


CASES = {
  'group_dro': group_dro,
  'unadjusted': unadjusted,
  'first phase': jtt(2, warmup_steps=3, upweight=5.0),
  'second phase': jtt(3, ROWS % 3 == 0, warmup_steps=3, upweight=5.0),
  'some': jtt(0, ROWS % 2 == 0, SOME, warmup_steps=3),
  'no upweighting': jtt(7, warmup_steps=1, upweight=1.0),
}


@pytest.fixture(scope='module')
def found():
  return cases.together(CASES, *draw())


def test_group_dro_minimises_the_groups_by_the_updated_weights(
  found, params, batch
):
  grads, aux_state, metrics = jax.tree.map(
    lambda leaf: leaf[0], found['group_dro']
  )
  loss = smooth.cross_entropy(params, batch)
  means = np.array([loss[~IS_Y].mean(), loss[IS_Y].mean(), 0])
  risks = means + [0.8 / np.sqrt(20), 0.8 / np.sqrt(4), 0]
  weights = np.exp(0.5 * risks)
  weights /= weights.sum()
  cases.close(aux_state.probs, weights)
  for name, weight in zip(GROUPS, weights, strict=True):
    cases.close(metrics[f'group_weight/{name}'], weight)
  each = np.where(IS_Y, weights[1] / 4, weights[0] / 20)
  slopes = each[:, None] * smooth.residual(params, batch)
  cases.close(grads, smooth.pull_back(params, batch, slopes))


def test_group_dro_goes_on_from_its_weights(found):
  first, second = found['unadjusted'][1].probs
  ratio = second / first
  start = first * len(GROUPS)
  cases.close(ratio / ratio.sum(), start / start.sum())


def test_jtt_trains_the_other_network_first_and_marks_its_errors(
  found, batch, both
):
  assert make('jtt', warmup_steps=3).num_networks == 2
  grads, aux_state, metrics = found['first phase']
  assert all(not leaf.any() for leaf in jax.tree.leaves(half(grads, 0)))
  second = half(both, 1)
  slopes = smooth.residual(second, batch) / 24
  cases.close(half(grads, 1), smooth.pull_back(second, batch, slopes))
  predicted = smooth.forward(second, batch)[1].argmax(axis=1)
  wrong = predicted != batch['label']
  np.testing.assert_array_equal(aux_state['wrong'], wrong)
  assert 0 < wrong.sum() < 24
  assert metrics['error_set'] == pytest.approx(wrong.mean())


def test_jtt_then_weighs_the_marked_and_marks_no_more(found, batch, both):
  marked = ROWS % 3 == 0
  grads, aux_state, _ = found['second phase']
  np.testing.assert_array_equal(aux_state['wrong'], marked)
  # As if each marked example were there five times.
  weights = np.where(marked, 5.0, 1.0)
  first = half(both, 0)
  slopes = smooth.residual(first, batch) * (weights / weights.sum())[:, None]
  cases.close(half(grads, 0), smooth.pull_back(first, batch, slopes))
  assert all(not leaf.any() for leaf in jax.tree.leaves(half(grads, 1)))


def test_jtt_marks_examples_by_index_and_leaves_the_others(found, batch, both):
  _, aux_state, _ = found['some']
  predicted = smooth.forward(half(both, 1), batch)[1].argmax(axis=1)
  expected = ROWS % 2 == 0
  expected[SOME] = (predicted != batch['label'])[SOME]
  np.testing.assert_array_equal(aux_state['wrong'], expected)


def test_without_upweighting_the_second_phase_is_erm(found, batch, both):
  grads, _, _ = found['no upweighting']
  first = half(both, 0)
  slopes = smooth.residual(first, batch) / 24
  cases.close(half(grads, 0), smooth.pull_back(first, batch, slopes))


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
