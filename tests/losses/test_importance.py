"""Weights, the step size that answers to them, and running risks."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

COUNTS = np.array([50, 20, 5])
CONCEPTS = np.repeat(np.arange(3), COUNTS)
PROBS = np.array([0.2, 0.3, 0.5], 'f')


def test_weighted_losses_are_unbiased_under_uniform_sampling():
  values = np.random.default_rng(0).normal(size=CONCEPTS.size).astype('f')
  weights = losses.importance_weights(
    PROBS, (COUNTS / COUNTS.sum()).astype('f'), CONCEPTS
  )
  # The expectation over one uniform draw is the mean over the whole set.
  means = [values[k == CONCEPTS].mean() for k in range(3)]
  np.testing.assert_allclose(
    np.mean(weights * values), PROBS @ means, rtol=1e-5
  )
  n_over = CONCEPTS.size / COUNTS[CONCEPTS]
  np.testing.assert_allclose(weights, PROBS[CONCEPTS] * n_over, rtol=1e-6)


def test_weighted_gradients_are_unbiased_under_balanced_sampling():
  x = np.random.default_rng(1).normal(size=(CONCEPTS.size, 2)).astype('f')
  loss = lambda theta, x: jnp.sin(x @ theta)
  theta = jnp.array([0.3, -0.7])
  balanced = np.full(3, 1 / 3, 'f')
  weights = losses.importance_weights(PROBS, balanced, CONCEPTS)
  np.testing.assert_allclose(weights, 3 * PROBS[CONCEPTS], rtol=1e-6)
  # Probability of each example: a uniform concept, then a uniform example.
  draw = 1 / (3 * COUNTS[CONCEPTS])
  expected = jax.grad(lambda t: jnp.sum(draw * weights * loss(t, x)))(theta)
  wanted = jax.grad(
    lambda t: sum(
      PROBS[k] * jnp.mean(loss(t, x[k == CONCEPTS])) for k in range(3)
    )
  )(theta)
  np.testing.assert_allclose(expected, wanted, rtol=1e-5)


@pytest.mark.fast
def test_sampling_by_the_wanted_mix_needs_no_weights():
  weights = losses.importance_weights(PROBS, PROBS, CONCEPTS)
  np.testing.assert_array_equal(weights, 1)


def test_what_is_never_sampled_or_unknown_weighs_nothing():
  fun = lambda p: losses.importance_weights(
    p, jnp.array([0.5, 0.5, 0.0]), jnp.array([0, 2, 3, -1])
  )
  np.testing.assert_allclose(fun(jnp.asarray(PROBS)), [0.4, 0, 0, 0], 1e-6)
  assert np.isfinite(jax.jacrev(fun)(jnp.asarray(PROBS))).all()


@pytest.mark.parametrize(
  ('rule', 'scale'),
  [('none', 1.0), ('rms', 1 / np.sqrt(17 / 2)), ('max', 0.25)],
)
def test_step_scale_follows_its_rule(rule, scale):
  weights = jnp.array([1.0, 4.0])
  np.testing.assert_allclose(losses.step_scale(weights, rule=rule), scale, 1e-6)


@pytest.mark.parametrize('rule', ['none', 'rms', 'max'])
def test_step_scale_never_lengthens_a_step_or_overflows(rule):
  assert losses.step_scale(jnp.array([0.1, 0.2]), rule=rule) == 1
  small = losses.step_scale(jnp.array([1e37, 1.0]), rule=rule)
  assert 0 < small <= 1
  half = losses.step_scale(jnp.array([4.0], jnp.bfloat16), rule=rule)
  assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize('rule', first(['rms', 'max']))
def test_step_scale_over_a_mapped_axis_is_that_of_the_whole_batch(mesh, rule):
  weights = jnp.arange(16.0)
  fun = jax.shard_map(
    lambda w: losses.step_scale(w, rule=rule, axis_name='data'),
    mesh=mesh,
    in_specs=P('data'),
    out_specs=P(),
  )
  np.testing.assert_allclose(
    fun(weights), losses.step_scale(weights, rule=rule), rtol=1e-6
  )


def test_the_first_visit_of_a_concept_is_its_batch_mean():
  state = losses.concept_risk_init(3)
  np.testing.assert_array_equal(losses.concept_risk_estimate(state), 0)
  state = losses.concept_risk_update(
    state, jnp.array([1.0, 3.0, 8.0]), jnp.array([0, 0, 2]), rate=0.1
  )
  # The concept not seen yet has the mean of those that were.
  np.testing.assert_allclose(
    losses.concept_risk_estimate(state), [2, 5, 8], rtol=1e-6
  )


def test_an_absent_concept_keeps_its_risk():
  state = losses.concept_risk_init(2)
  update = jax.jit(losses.concept_risk_update)
  state = update(state, jnp.array([4.0, 2.0]), jnp.array([0, 1]), rate=0.3)
  for _ in range(5):
    state = update(state, jnp.array([7.0]), jnp.array([1]), rate=0.3)
  np.testing.assert_allclose(
    losses.concept_risk_estimate(state)[0], 4, rtol=1e-6
  )


def test_running_risks_equal_the_weighted_mean_of_the_visits():
  values, rate = np.array([1.0, 5.0, 2.0, 4.0]), 0.25
  state = losses.concept_risk_init(1)
  for value in values:
    state = losses.concept_risk_update(
      state, jnp.array([value]), jnp.array([0]), rate=rate
    )
  weights = rate * (1 - rate) ** np.arange(4)[::-1]
  np.testing.assert_allclose(
    losses.concept_risk_estimate(state)[0],
    weights @ values / weights.sum(),
    rtol=1e-6,
  )


def test_masked_rows_count_for_nothing_even_as_nan():
  state = losses.concept_risk_update(
    losses.concept_risk_init(2),
    jnp.array([2.0, jnp.nan, jnp.inf]),
    jnp.array([0, 0, 1]),
    rate=0.5,
    where=jnp.array([True, False, False]),
  )
  np.testing.assert_allclose(losses.concept_risk_estimate(state), [2, 2])


def test_running_risks_over_a_mapped_axis_are_those_of_the_batch(mesh):
  values, ids = jnp.arange(16.0), jnp.arange(16) % 3
  start = losses.concept_risk_init(3)
  fun = jax.shard_map(
    lambda v, i: losses.concept_risk_update(
      start, v, i, rate=0.2, axis_name='data'
    ),
    mesh=mesh,
    in_specs=(P('data'), P('data')),
    out_specs=P(),
  )
  whole = losses.concept_risk_update(start, values, ids, rate=0.2)
  for a, b in zip(fun(values, ids), whole, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_wrong_arguments_are_named():
  ids = jnp.array([0, 1])
  with pytest.raises(TypeError, match='concept_ids must have an integer'):
    losses.importance_weights(PROBS, PROBS, jnp.ones(2))
  with pytest.raises(ValueError, match='rule must be one of none, rms, max'):
    losses.step_scale(jnp.ones(2), rule='mean')
  with pytest.raises(ValueError, match='rate must lie'):
    losses.concept_risk_update(
      losses.concept_risk_init(2), jnp.ones(2), ids, rate=0.0
    )
  with pytest.raises(ValueError, match='shapes must be equal'):
    losses.concept_risk_update(
      losses.concept_risk_init(2), jnp.ones(3), ids, rate=0.1
    )
