"""Online updates: where they go, and that they arrive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

RISKS = np.array([0.3, 1.1, 0.75, 0.6], 'f')
PRIOR = np.array([0.4, 0.1, 0.2, 0.3], 'f')
START = np.array([0.1, 0.2, 0.3, 0.4], 'f')

mirror = jax.jit(losses.concept_mirror_ascent)
projected = jax.jit(losses.concept_projected_ascent)


def test_a_mirror_step_equals_its_formula():
  eta, tau = 0.3, 0.7
  log_p = (1 - eta * tau) * np.log(START) + eta * (tau * np.log(PRIOR) + RISKS)
  expected = np.exp(log_p) / np.exp(log_p).sum()
  p = mirror(START, RISKS, PRIOR, step_size=eta, temperature=tau)
  np.testing.assert_allclose(p, expected, rtol=1e-5)


@pytest.mark.fast
def test_no_temperature_gives_the_update_of_group_dro():
  expected = START * np.exp(0.01 * RISKS)
  p = mirror(START, RISKS, PRIOR, step_size=0.01, temperature=0.0)
  np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize('tau', [0.05, 1.0, 20.0])
def test_a_full_mirror_step_is_the_best_response(tau):
  p = mirror(START, RISKS, PRIOR, step_size=1 / tau, temperature=tau)
  best = losses.concept_best_response(RISKS, PRIOR, temperature=tau)
  np.testing.assert_allclose(p, best, rtol=2e-5)


@pytest.mark.parametrize('tau', [0.2, 2.0])
def test_a_full_projected_step_is_the_best_response(tau):
  p = projected(START, RISKS, PRIOR, step_size=0.5 / tau, temperature=tau)
  best = losses.concept_best_response(
    RISKS, PRIOR, temperature=tau, divergence='l2'
  )
  np.testing.assert_allclose(p, best, atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('update', 'name'), [(mirror, 'kl'), (projected, 'l2')]
)
def test_small_steps_converge_to_the_best_response(update, name):
  step = functools.partial(update, step_size=0.1, temperature=0.8)
  p = jax.jit(
    lambda p: jax.lax.fori_loop(0, 200, lambda _, q: step(q, RISKS, PRIOR), p)
  )(jnp.asarray(START))
  best = losses.concept_best_response(
    RISKS, PRIOR, temperature=0.8, divergence=name
  )
  np.testing.assert_allclose(p, best, atol=1e-5)


@pytest.mark.fast
def test_decreasing_projected_steps_average_noisy_risks():
  # With eta_t = 1 / (2 tau t), p_t is the response to the mean risk so far
  # (where no projection cuts): noise averages out as 1 / sqrt(t).
  rng = np.random.default_rng(0)
  noisy = RISKS + rng.normal(size=(400, 4)).astype('f') * 0.1

  @jax.jit
  def run(p):
    def body(t, p):
      eta = 0.5 / (1.0 * (t + 1))
      return losses.concept_projected_ascent(
        p, jnp.asarray(noisy)[t], PRIOR, step_size=eta, temperature=1.0
      )

    return jax.lax.fori_loop(0, 400, body, p)

  best = losses.concept_best_response(
    noisy.mean(0), PRIOR, temperature=1.0, divergence='l2'
  )
  np.testing.assert_allclose(run(jnp.asarray(START)), best, atol=1e-5)


@pytest.mark.fast
def test_mirror_ascent_keeps_concepts_without_prior_at_zero():
  prior = np.array([0.5, 0.0, 0.5, 0.0], 'f')
  p = mirror(prior, RISKS, prior, step_size=0.5, temperature=0.5)
  np.testing.assert_array_equal(np.asarray(p) > 0, prior > 0)


def test_an_underflowed_weight_comes_back():
  p = jnp.array([1.0, 0.0, 0.0, 0.0])
  step = lambda _, p: mirror(p, RISKS, PRIOR, step_size=0.5, temperature=1.0)
  p = jax.lax.fori_loop(0, 40, step, p)
  best = losses.concept_best_response(RISKS, PRIOR, temperature=1.0)
  np.testing.assert_allclose(p, best, atol=1e-5)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
@pytest.mark.parametrize('update', [mirror, projected])
def test_extreme_risks_stay_on_the_simplex(update, dtype):
  for risks in ([3e38, -3e38, 0, 1], [1e4, 1e4, -1e4, 0], [0, 0, 0, 0]):
    for eta, tau in ((0.0, 0.0), (1.0, 0.0), (1e-3, 1.0), (0.5, 2.0)):
      p = update(
        jnp.asarray(START, dtype),
        jnp.asarray(risks, dtype),
        jnp.asarray(PRIOR, dtype),
        step_size=eta,
        temperature=tau,
      )
      assert p.dtype == dtype
      p = np.asarray(p, np.float32)
      assert (p >= 0).all()
      np.testing.assert_allclose(p.sum(), 1, atol=1e-2)


@pytest.mark.fast
def test_steps_beyond_the_best_response_are_refused():
  with pytest.raises(ValueError, match=r'step_size \* temperature'):
    losses.concept_mirror_ascent(
      START, RISKS, PRIOR, step_size=2.0, temperature=1.0
    )
  with pytest.raises(ValueError, match='step_size must lie'):
    losses.concept_projected_ascent(
      START, RISKS, PRIOR, step_size=-1.0, temperature=1.0
    )
  with pytest.raises(ValueError, match='shapes must be equal'):
    losses.concept_mirror_ascent(
      START, RISKS[:2], PRIOR, step_size=1.0, temperature=1.0
    )
