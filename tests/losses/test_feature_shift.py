"""Feature distances against their definitions, at and near equality."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

DISTANCES = ('sq_l2', 'l2', 'cosine', 'unit_l2', 'kl')


shift = jax.jit(losses.feature_shift, static_argnames='distance')


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def reference(a, b, distance, tau=1.0):
  """One example, from the definition, in float64."""
  if distance == 'sq_l2':
    return np.sum((b - a) ** 2)
  if distance == 'l2':
    return np.sqrt(np.sum((b - a) ** 2))
  if distance == 'kl':
    p, q = (np.exp(x / tau) / np.exp(x / tau).sum() for x in (a, b))
    return np.sum(p * np.log(p / q))
  cos = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  return 1 - cos if distance == 'cosine' else np.sqrt(2 - 2 * cos)


def pair(rng, n=5, d=7):
  return rng.normal(size=(n, d)), rng.normal(size=(n, d)) * 3


@pytest.mark.parametrize('distance', DISTANCES)
def test_it_equals_its_definition(x64, rng, distance):
  a, b = pair(rng)
  out = shift(a, b, distance=distance, temperature=0.7)
  expected = [reference(x, y, distance, 0.7) for x, y in zip(a, b, strict=True)]
  np.testing.assert_allclose(out, expected, rtol=1e-12)
  check_grads(
    lambda x, y: shift(x, y, distance=distance),
    (a, b),
    order=1,
    modes=['rev'],
  )


def test_axes_past_the_first_are_flattened(rng):
  a, b = (x.reshape(5, 7, 1).astype('f') for x in pair(rng))
  np.testing.assert_array_equal(
    losses.feature_shift(a, b), losses.feature_shift(a[..., 0], b[..., 0])
  )


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
@pytest.mark.parametrize('distance', DISTANCES)
def test_equality_and_extremes_are_finite(distance, dtype):
  a = jnp.array(
    [[0, 0, 0], [1, 1, 1], [1e4, -1e4, 0], [1e20, 0, 0], [0, 0, 0], [1, 2, 3]],
    dtype,
  )
  b = jnp.array(
    [[0, 0, 0], [1, 1, 1], [-1e4, 1e4, 0], [0, 0, 0], [1, 2, 3], [1, 2, 3]],
    dtype,
  )

  @jax.jit
  def value_and_grads(a, b):
    out, pull = jax.vjp(
      lambda *x: losses.feature_shift(*x, distance=distance), a, b
    )
    return out, pull(jnp.ones_like(out))

  out, grads = value_and_grads(a, b)
  assert out.dtype == jnp.float32
  for leaf in (out, *grads):
    assert np.isfinite(np.asarray(leaf, 'f')).all()
  for row in (0, 1, 5):
    assert out[row] == 0
    assert (np.asarray(grads[0], 'f')[row] == 0).all()
    assert (np.asarray(grads[1], 'f')[row] == 0).all()


def test_directions_keep_their_digits_where_they_are_close():
  angle = 1e-4
  a = jnp.array([[3.0, 0.0]])
  b = jnp.array([[5 * np.cos(angle), 5 * np.sin(angle)]])
  np.testing.assert_allclose(
    losses.feature_shift(a, b, distance='cosine'), angle**2 / 2, rtol=1e-4
  )
  np.testing.assert_allclose(
    losses.feature_shift(a, b, distance='unit_l2'), angle, rtol=1e-4
  )


@pytest.mark.parametrize('distance', DISTANCES)
def test_a_mask_stops_value_and_gradient(rng, distance):
  a, b = (x.astype('f') for x in pair(rng))
  bad = a.copy()
  bad[1] = np.nan
  where = jnp.array([True, False, True, True, True])
  call = lambda x: shift(x, b, distance=distance, where=where)
  out, grad = jax.value_and_grad(lambda x: call(x).sum())(jnp.asarray(bad))
  whole = shift(a, b, distance=distance)
  np.testing.assert_allclose(out, whole.sum() - whole[1], rtol=1e-5)
  assert (np.asarray(grad)[1] == 0).all()
  assert np.isfinite(grad).all()


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kwargs', 'error', 'words'),
  [
    ({'distance': 'l1'}, ValueError, 'distance must be one of sq_l2'),
    ({'temperature': 0.0}, ValueError, 'temperature must lie in'),
    (
      {'adv_features': np.ones((2, 3), 'f')},
      ValueError,
      'shapes must be equal',
    ),
    (
      {'features': np.ones((2, 2), int)},
      TypeError,
      'features must have a float',
    ),
    ({'where': np.ones(3, bool)}, ValueError, r'where must have shape \(2,\)'),
  ],
)
def test_wrong_arguments_are_named(kwargs, error, words):
  args = {
    'features': np.ones((2, 2), 'f'),
    'adv_features': np.ones((2, 2), 'f'),
  }
  with pytest.raises(error, match=words) as caught:
    losses.feature_shift(**(args | kwargs))
  assert '\n' not in str(caught.value)
