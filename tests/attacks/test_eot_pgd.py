"""Expectation over transformation with draws that are new at each step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks
from tests.tiers import first

RNG = np.random.default_rng(5)
W = RNG.normal(size=(12,)).astype('f')
X = RNG.uniform(0.3, 0.7, size=(6, 12)).astype('f')
SPREAD = 2.0
IDS = np.array([7, 3, 9, 1, 4, 2])


def randomised(points, keys):
  """A linear model with random weights around W."""
  noise = jax.vmap(lambda k: jax.random.normal(k, (12,)))(keys)
  weights = W[None] + SPREAD * noise
  return jnp.sum(points.astype(jnp.float32) * weights, axis=1)


def draws(key, num_samples, **kw):
  """Gradients at a point as a function of the step."""
  loss_fn = attacks.expectation_over_transformation(
    randomised, key, num_samples, **kw
  )
  slope = lambda step: jax.grad(lambda z: loss_fn(z, step).sum())(X)
  return loss_fn, jax.jit(slope)


def test_draws_differ_by_step_and_repeat(key):
  _, slope = draws(key, 2, example_ids=IDS)
  first, second, far = (np.asarray(slope(t)) for t in (0, 1, 1000))
  for a, b in ((first, second), (first, far), (second, far)):
    assert (np.abs(a - b).max(axis=1) > 0.1).all()
  np.testing.assert_array_equal(slope(1), second)
  # Without a step they are the same at each call, and those of no step.
  fixed = np.asarray(slope(None))
  np.testing.assert_array_equal(slope(None), fixed)
  assert (np.abs(fixed - first).max(axis=1) > 0.1).all()
  # Rows have their own.
  assert np.abs(np.diff(first - W, axis=0)).max(axis=1).min() > 0.1


def test_a_step_draws_what_its_keys_say(key):
  loss_fn, _ = draws(key, 3, example_ids=IDS)
  for step in (0, 5):
    expected = np.zeros(6)
    for row in range(6):
      own = jax.random.fold_in(key, int(IDS[row]))
      own = jax.random.fold_in(jax.random.fold_in(own, 0x5EED), step)
      for s in range(3):
        draw = jax.random.fold_in(own, s)[None]
        expected[row] += float(randomised(X[row : row + 1], draw)[0]) / 3
    np.testing.assert_allclose(loss_fn(X, step), expected, rtol=1e-4)


@pytest.mark.parametrize('num_samples', first([1, 4]))
def test_the_average_gradient_over_steps_is_unbiased(key, num_samples):
  _, slope = draws(key, num_samples)
  steps = 2000
  grads = np.asarray(jax.jit(jax.vmap(slope))(jnp.arange(steps)))
  error = grads.mean(axis=0) - W
  deviation = SPREAD / np.sqrt(steps * num_samples)
  assert np.abs(error).max() < 4.5 * deviation
  np.testing.assert_allclose(error.std(), deviation, rtol=0.3)
  np.testing.assert_allclose(
    (grads - W).std(), SPREAD / np.sqrt(num_samples), rtol=0.05
  )
  # The fixed draws keep the error of one step, however many there are.
  fixed = np.asarray(slope(None)) - W
  np.testing.assert_allclose(
    fixed.std(), SPREAD / np.sqrt(num_samples), rtol=0.4
  )


def attack(x=X, **kw):
  kw = {'epsilon': 0.2, 'step_size': 0.02, 'num_steps': 40} | kw
  run = jax.jit(
    lambda x: attacks.eot_pgd(randomised, jax.random.key(1), x, unroll=1, **kw)
  )
  return np.asarray(run(x), 'f')


def test_it_is_projected_ascent_along_fresh_gradients():
  kw = {'num_steps': 3, 'num_samples': 2, 'norm': 'l2', 'random_start': False}
  _, draw_key = jax.random.split(jax.random.key(1))
  _, slope = draws(draw_key, 2)
  z = X
  for t in range(3):
    grads = np.asarray(slope(t))
    z = z + 0.1 * grads / np.linalg.norm(grads, axis=1, keepdims=True)
    z = np.asarray(attacks.project(z, X, epsilon=0.2, norm='l2'))
  np.testing.assert_allclose(attack(step_size=0.1, **kw), z, atol=1e-5)


def test_fresh_draws_come_nearer_to_the_best_of_the_expected_loss():
  fixed = attacks.expectation_over_transformation(
    randomised, jax.random.key(1), 1
  )
  kw = {'epsilon': 0.2, 'step_size': 0.02, 'num_steps': 40}
  worse = jax.jit(
    lambda x: attacks.pgd(fixed, jax.random.key(1), x, unroll=1, **kw)
  )(X)
  best = 0.2 * np.abs(W).sum()
  gain = lambda z: np.mean((np.asarray(z) - X) @ W) / best
  assert gain(attack()) > gain(worse) + 0.15
  assert gain(attack(num_samples=32)) > 0.9


@pytest.mark.parametrize('norm', first(['linf', 'l2', 'l1']))
def test_it_stays_in_ball_and_bounds_in_bfloat16(norm):
  x = jnp.asarray(X, jnp.bfloat16)
  z = attack(x, norm=norm, num_steps=4, step_size=0.2, epsilon=0.4)
  order = {'linf': np.inf, 'l2': 2, 'l1': 1}[norm]
  delta = np.asarray(z, float) - np.asarray(x, float)
  assert np.linalg.norm(delta, ord=order, axis=1).max() <= 0.4
  assert z.min() >= 0
  assert z.max() <= 1
  assert np.abs(delta).max() > 0.01


def test_an_example_is_the_same_alone_and_in_any_batch():
  whole = attack(example_ids=IDS)
  rows = [4, 1]
  part = attack(X[rows], example_ids=IDS[rows])
  np.testing.assert_allclose(part, whole[rows], atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'words'),
  [
    ({'norm': 'inf'}, 'norm must be one of'),
    ({'num_samples': 0}, 'num_samples must be at least 1'),
    ({'epsilon': -0.1}, 'epsilon must'),
  ],
)
def test_wrong_arguments_are_named(kw, words):
  kw = {
    'loss_fn': randomised,
    'epsilon': 0.1,
    'step_size': 0.1,
    'num_steps': 1,
  } | kw
  with pytest.raises(ValueError, match=words) as caught:
    attacks.eot_pgd(key=jax.random.key(0), inputs=X, **kw)
  assert '\n' not in str(caught.value)


def test_one_loss_a_point_is_asked_for(key):
  with pytest.raises(ValueError, match=r'one loss an example, shape \(6,\)'):
    attacks.eot_pgd(
      lambda z, keys: z, key, X, epsilon=0.1, step_size=0.1, num_steps=1
    )
