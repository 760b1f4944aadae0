"""The noise rate is that of the mixture that made the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from rrl_jax import losses


def drawn(rng, rate, size=4000):
  wrong = rng.random(size) < rate
  values = np.where(
    wrong, rng.normal(4.0, 0.6, size), rng.normal(0.8, 0.4, size)
  )
  return np.maximum(values, 0).astype(np.float32), wrong


estimate = jax.jit(losses.estimate_noise_rate)


@pytest.mark.parametrize('rate', [0.05, 0.2, 0.4, 0.6, 0.8])
def test_the_rate_of_a_mixture_is_found(rng, rate):
  values, wrong = drawn(rng, rate)
  found = estimate(values)
  np.testing.assert_allclose(found.rate, wrong.mean(), atol=0.01)
  agree = (np.asarray(found.wrong_probs) > 0.5) == wrong
  assert agree.mean() > 0.99
  assert float(found.separation) > 2


@pytest.mark.fast
def test_it_is_the_mixture_of_scikit_learn(rng):
  values, _ = drawn(rng, 0.3)
  scaled = (values - values.min()) / (values.max() - values.min())
  mixture = GaussianMixture(2, tol=1e-9, max_iter=1000, random_state=0)
  mixture.fit(scaled[:, None])
  high = np.argmax(mixture.means_[:, 0])
  found = estimate(values)
  np.testing.assert_allclose(found.rate, mixture.weights_[high], atol=1e-3)
  probs = mixture.predict_proba(scaled[:, None])[:, high]
  np.testing.assert_allclose(found.wrong_probs, probs, atol=0.01)


@pytest.mark.fast
@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e4])
def test_units_do_not_matter(rng, scale):
  values, _ = drawn(rng, 0.3)
  found = estimate(scale * values + 7)
  np.testing.assert_allclose(found.rate, estimate(values).rate, atol=2e-3)


@pytest.mark.parametrize(
  'values',
  [
    np.random.default_rng(0).exponential(size=3000),
    np.random.default_rng(0).normal(size=3000) ** 2,
    np.full(50, 1.3),
    np.zeros(3),
    np.ones(1),
  ],
  ids=['exponential', 'chi-square', 'equal', 'zeros', 'one'],
)
def test_what_has_one_mode_has_no_noise(values):
  found = estimate(values.astype(np.float32))
  assert float(found.rate) == 0
  assert np.all(np.isfinite(found.wrong_probs))


def test_masked_examples_are_not_there(rng):
  values, _ = drawn(rng, 0.3, 500)
  more = np.concatenate([values, [np.nan, np.inf, -1.0, 1e9]])
  where = np.arange(504) < 500
  found = jax.jit(lambda x, w: losses.estimate_noise_rate(x, where=w))(
    more.astype(np.float32), where
  )
  np.testing.assert_allclose(found.rate, estimate(values).rate, atol=1e-4)
  np.testing.assert_array_equal(found.wrong_probs[500:], 0)
  nothing = losses.estimate_noise_rate(more, where=np.zeros(504, bool))
  assert float(nothing.rate) == 0


def test_half_precision_is_computed_in_float32(rng):
  values, _ = drawn(rng, 0.4, 500)
  found = losses.estimate_noise_rate(jnp.asarray(values, jnp.bfloat16))
  assert found.rate.dtype == jnp.float32
  np.testing.assert_allclose(found.rate, estimate(values).rate, atol=0.01)


def test_wrong_arguments_are_refused():
  with pytest.raises(ValueError, match='num_steps'):
    losses.estimate_noise_rate(jnp.ones(3), num_steps=0)
  with pytest.raises(TypeError, match='float'):
    losses.estimate_noise_rate(jnp.ones(3, int))
