"""Group DRO: the published step, its weights, many devices."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

update = jax.jit(losses.group_dro_update, static_argnames='normalize')
VALUES = np.array([1.0, 3.0, 0.5, 2.5, 4.0, 0.0], 'f')
GROUPS = np.array([0, 0, 1, 1, 1, 3])
START = np.array([0.1, 0.2, 0.3, 0.4], 'f')


def means():
  return np.array([2.0, 7 / 3, 0.0, 0.0])  # Group 2 is absent.


def test_the_update_equals_its_formula():
  counts = np.array([100, 25, 4, 0])
  state = update(
    losses.GroupDROState(START),
    VALUES,
    GROUPS,
    step_size=0.3,
    adjustment=2.0,
    group_counts=counts,
  )
  risks = means() + np.array([0.2, 0.4, 1.0, 0.0])
  q = START * np.exp(0.3 * risks)
  np.testing.assert_allclose(state.probs, q / q.sum(), rtol=1e-5)
  whole = update(
    losses.GroupDROState(START),
    VALUES,
    GROUPS,
    step_size=0.3,
    adjustment=jnp.full(4, 2.0),
    group_counts=counts,
    normalize=True,
  )
  q = START * np.exp(0.3 * risks / risks.sum())
  np.testing.assert_allclose(whole.probs, q / q.sum(), rtol=1e-5)


def test_the_mean_is_the_weighted_risk_and_its_gradient():
  state = losses.GroupDROState(START)
  mean = lambda v: losses.group_dro(v, GROUPS, state).mean()
  value, grad = jax.value_and_grad(mean)(VALUES)
  np.testing.assert_allclose(value, START @ means(), rtol=1e-6)
  counts = np.array([2, 3, 1, 1])
  np.testing.assert_allclose(grad, (START / counts)[GROUPS], rtol=1e-6)
  through_state = jax.grad(
    lambda q: losses.group_dro(VALUES, GROUPS, losses.GroupDROState(q)).mean()
  )(START)
  np.testing.assert_array_equal(through_state, np.zeros(4))


def test_it_finds_the_worst_group():
  state = losses.group_dro_init(3)
  step = jax.jit(
    lambda s: losses.group_dro_update(
      s, jnp.array([0.2, 0.9, 0.5]), jnp.arange(3), step_size=0.5
    )
  )
  for _ in range(60):
    state = step(state)
  np.testing.assert_allclose(state.probs, [0, 1, 0], atol=1e-3)


def test_masked_rows_and_ids_outside_count_for_nothing():
  state = losses.GroupDROState(START)
  bad = np.append(VALUES, [np.nan, 9.0]).astype('f')
  ids = np.append(GROUPS, [2, 7])
  where = np.array([True] * 6 + [False, True])
  new = update(state, bad, ids, where=where)
  plain = update(state, VALUES, GROUPS)
  np.testing.assert_allclose(new.probs, plain.probs, rtol=1e-6)
  out, grad = jax.value_and_grad(
    lambda v: losses.group_dro(v, ids, state, where=where).sum() / 7
  )(bad)
  np.testing.assert_allclose(out, START @ means(), rtol=1e-6)
  assert (np.asarray(grad)[6:] == 0).all()


def test_eight_devices_agree_with_one(mesh, rng):
  values = jnp.asarray(rng.uniform(size=32), 'f')
  ids = jnp.asarray(rng.integers(0, 4, size=32))

  def local(v, i):
    state = losses.group_dro_update(
      losses.GroupDROState(jnp.asarray(START)), v, i, axis_name='data'
    )
    weighted = losses.group_dro(v, i, state, axis_name='data')
    return state.probs, jax.lax.pmean(weighted.mean(), 'data')

  q, mean = jax.jit(
    jax.shard_map(local, mesh=mesh, in_specs=P('data'), out_specs=P())
  )(values, ids)
  state = update(losses.GroupDROState(START), values, ids)
  np.testing.assert_allclose(q, state.probs, rtol=1e-5)
  whole = losses.group_dro(values, ids, state).mean()
  np.testing.assert_allclose(mean, whole, rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extreme_losses_stay_finite(dtype):
  values = jnp.array([1e4, -1e4, 0, 3e38], dtype)
  state = update(losses.group_dro_init(4), values, jnp.arange(4), step_size=1.0)
  assert np.isfinite(state.probs).all()
  np.testing.assert_allclose(state.probs.sum(), 1, rtol=1e-5)


def test_wrong_arguments_are_named():
  state = losses.group_dro_init(2)
  row, ids = jnp.ones(3), jnp.zeros(3, int)
  with pytest.raises(ValueError, match='num_groups must lie in'):
    losses.group_dro_init(0)
  with pytest.raises(ValueError, match='an adjustment needs group_counts'):
    losses.group_dro_update(state, row, ids, adjustment=1.0)
  with pytest.raises(ValueError, match=r'group_counts must have shape \(2,\)'):
    losses.group_dro_update(state, row, ids, group_counts=jnp.ones(3))
  with pytest.raises(ValueError, match='step_size must lie in'):
    losses.group_dro_update(state, row, ids, step_size=-1.0)
  with pytest.raises(TypeError, match='group_ids must have an integer'):
    losses.group_dro(row, row, state)
