"""The growing ball: its radii, what stays still, where images break."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks

RNG = np.random.default_rng(3)
X = RNG.uniform(0.2, 0.9, size=(4, 4, 5, 1)).astype('f')
W = RNG.normal(size=(4, 5, 1)).astype('f')
KW = {'step_size': 0.1, 'window': 3, 'num_iterations': 20, 'norm': 'linf'}


def loss_fn(z):
  return jnp.sum(z.astype(jnp.float32) * W[None], axis=(1, 2, 3))


def grow(x=X, above=np.inf, **kw):
  kw = {'epsilon': 0.01, 'growth': 2.0, 'growth_steps': 2, 'num_steps': 12} | kw
  run = jax.jit(
    lambda x, above: attacks.growing_projected_sinkhorn(
      loss_fn, lambda z: loss_fn(z) > above, x, **KW, **kw
    )
  )
  return jax.device_get(run(x, np.broadcast_to(above, len(x)).astype('f')))


def test_the_radius_grows_by_a_factor_each_so_many_steps():
  # What never breaks has the radius of its last step.
  for num_steps, expected in ((0, 0), (2, 1), (3, 2), (7, 8)):
    result = grow(num_steps=num_steps)
    np.testing.assert_allclose(result.radius, 0.01 * expected, rtol=1e-6)
    assert not result.broken.any()
  starts = np.array([0.01, 0.02, 0.03, 0.04], 'f')
  result = grow(epsilon=starts, growth=1.5, growth_steps=1, num_steps=3)
  np.testing.assert_allclose(result.radius, starts * 1.5**2, rtol=1e-6)


def test_without_growth_it_is_the_attack_in_one_ball():
  result = grow(growth=1.0, num_steps=5)
  plain = jax.jit(
    lambda x: attacks.projected_sinkhorn(
      loss_fn, None, x, epsilon=0.01, num_steps=5, unroll=1, **KW
    )
  )(X)
  np.testing.assert_allclose(result.adv_inputs, plain, atol=1e-6)


@pytest.mark.full
def test_broken_images_stay_and_others_go_on():
  start = np.asarray(loss_fn(X))
  # The first is broken when clean, the last never; between, sooner or later.
  above = start + np.array([-1.0, 0.1, 0.4, 1e3], 'f')
  result = grow(above=above)
  np.testing.assert_array_equal(result.broken, [True, True, True, False])
  np.testing.assert_array_equal(result.adv_inputs[0], X[0])
  assert result.radius[0] == 0
  assert 0 < result.radius[1] < result.radius[2] <= result.radius[3]
  np.testing.assert_allclose(result.radius[3], 0.01 * 2**5, rtol=1e-6)
  assert (loss_fn(result.adv_inputs)[:3] > above[:3]).all()
  # More steps change nothing for what is broken.
  longer = grow(above=above, num_steps=16)
  np.testing.assert_array_equal(longer.adv_inputs[:3], result.adv_inputs[:3])
  np.testing.assert_array_equal(longer.radius[:3], result.radius[:3])
  assert longer.radius[3] > result.radius[3]


def test_it_breaks_in_the_first_ball_that_is_large_enough():
  above = np.asarray(loss_fn(X)) + np.float32(0.3)
  result = grow(above=above, growth_steps=6, num_steps=48, growth=1.5)
  assert result.broken.all()

  reached = jax.jit(
    lambda radius: loss_fn(
      attacks.projected_sinkhorn(
        loss_fn, None, X, epsilon=radius, num_steps=30, unroll=1, **KW
      )
    )
  )
  assert (reached(result.radius * 1.05) > above).all()
  assert (reached(result.radius / 1.5**2) < above).all()


@pytest.mark.full
def test_rows_do_not_meet_and_dtype_and_bounds_hold():
  above = np.asarray(loss_fn(X)) + np.float32(0.3)
  whole = grow(above=above)
  part = grow(X[[2, 0]], above[[2, 0]])
  np.testing.assert_allclose(
    part.adv_inputs, whole.adv_inputs[[2, 0]], atol=2e-6
  )
  np.testing.assert_array_equal(part.radius, whole.radius[[2, 0]])
  low = grow(jnp.asarray(X, jnp.bfloat16))
  assert low.adv_inputs.dtype == jnp.bfloat16
  assert float(low.adv_inputs.min()) >= 0
  assert float(low.adv_inputs.max()) <= 1


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'words'),
  [
    ({'growth': 0.5}, 'growth must be at least 1'),
    ({'growth_steps': 0}, 'growth_steps must be at least 1'),
    ({'epsilon': -1.0}, 'epsilon must'),
    ({'broken_fn': loss_fn}, r'broken_fn must return bool \[4\]'),
  ],
)
def test_wrong_arguments_are_named(kw, words):
  kw = {'broken_fn': lambda z: loss_fn(z) > 0, 'num_steps': 1} | kw
  with pytest.raises(ValueError, match=words) as caught:
    attacks.growing_projected_sinkhorn(loss_fn, inputs=X, **KW, **kw)
  assert '\n' not in str(caught.value)
