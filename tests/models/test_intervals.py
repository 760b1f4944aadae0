"""Whatever the image in the box, the features lie within the bounds."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import models
from rrl_jax.models import _intervals, _layers
from tests.models.test_models import SHAPE, SMALL, images_of
from tests.tiers import first

DEEP = {
  'mlp': {'widths': (16, 12, 8)},
  'cnn': {'widths': (4, 6, 5), 'dense_width': 10},
}
NETWORKS = [
  (name, {**kw, 'activation': activation})
  for name, kw in DEEP.items()
  for activation in sorted(_layers.ACTIVATIONS)
]
IDS = [f'{name}-{kw["activation"]}' for name, kw in NETWORKS]


@functools.cache
def jitted(name, kw):
  """Draw, features and bounds of one network."""
  model = models.make(name, num_classes=3, **dict(kw))
  apply, bounds = models.apply_fn(model), models.feature_bounds(model)

  @jax.jit
  def draw(key):
    params, _ = models.init(model, key, SHAPE)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
    noise = [
      0.1 * jax.random.normal(k, x.shape)
      for k, x in zip(keys, leaves, strict=True)
    ]  # Biases start at zero.
    return jax.tree.unflatten(tree, jax.tree.map(jnp.add, leaves, noise))

  def features(params, images):
    (_, out), _ = apply(params, {}, images, train=False)
    return out['features']

  return draw, jax.jit(features), jax.jit(bounds)


def parts(name, kw):
  return jitted(name, tuple(kw.items()))


def ball(images, radius):
  return jnp.clip(images - radius, 0, 1), jnp.clip(images + radius, 0, 1)


@pytest.mark.full
@pytest.mark.parametrize(('name', 'kw'), first(NETWORKS), ids=IDS)
def test_features_of_every_point_of_the_box_are_inside(name, kw):
  draw, features, bounds = parts(name, kw)
  for seed, radius in enumerate((0.0, 1e-4, 0.01, 0.1, 1.0, 0.1)):
    rng = np.random.default_rng(seed)
    params = draw(jax.random.key(seed))
    images = images_of(rng, 32)
    lower, upper = ball(images, radius)
    least, most = bounds(params, lower, upper)
    assert least.shape == most.shape == features(params, images).shape
    assert least.dtype == most.dtype == jnp.float32
    for trial in range(6):  # Inside points first, corners after.
      share = rng.random(images.shape, np.float32)
      share = share if trial < 3 else np.round(share)
      point = jnp.clip(lower + share * (upper - lower), lower, upper)
      found = features(params, point)
      assert np.all((least <= found) & (found <= most))


@pytest.mark.fast
@pytest.mark.parametrize(('name', 'kw'), first(NETWORKS), ids=IDS)
def test_a_box_without_radius_gives_the_features(name, kw, rng, key):
  draw, features, bounds = parts(name, kw)
  params, images = draw(key), images_of(rng, 32)
  want = features(params, images)
  least, most = bounds(params, images, images)
  assert np.all((least <= want) & (want <= most))
  # What rounding could do at the worst.
  assert np.max(most - least) < 5e-3 * np.ptp(want)


@pytest.mark.parametrize(('name', 'kw'), NETWORKS, ids=IDS)
def test_a_box_within_a_box_has_bounds_within_its_bounds(name, kw, rng, key):
  draw, _, bounds = parts(name, kw)
  params, images = draw(key), images_of(rng, 32)
  narrow, wide = (bounds(params, *ball(images, r)) for r in (2e-3, 0.01))
  tiny = 1e-5  # Sums of the one and of the other round on their own.
  assert np.all(wide[0] <= narrow[0] + tiny)
  assert np.all(narrow[1] <= wide[1] + tiny)
  assert np.mean(wide[1] - wide[0]) > 1.2 * np.mean(narrow[1] - narrow[0])


@pytest.mark.parametrize(
  'activation', first(['elu', 'relu', 'softplus', 'tanh'])
)
def test_one_layer_attains_its_bounds_at_corners(activation, rng, key):
  # Each feature at a corner of its own: where the signs of its weights lead.
  kw = {'widths': (5,), 'activation': activation}
  draw, features, bounds = parts('mlp', kw)
  params, images = draw(key), images_of(rng, 4)
  lower, upper = ball(images, 0.1)
  least, most = bounds(params, lower, upper)
  for unit in range(5):
    sign = params['dense0']['kernel'][:, unit].reshape(1, *SHAPE)
    for found, up, down in ((most, upper, lower), (least, lower, upper)):
      corner = features(params, jnp.where(sign > 0, up, down))
      np.testing.assert_allclose(
        found[:, unit], corner[:, unit], rtol=1e-3, atol=1e-3
      )


@pytest.mark.full
@pytest.mark.parametrize('stride', [1, 2])
def test_a_convolution_attains_its_bounds_at_corners(stride, rng):
  params = {
    'kernel': jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32),
    'bias': jnp.asarray(rng.normal(size=4), jnp.float32),
  }
  x = jnp.asarray(rng.normal(size=(1, 5, 6, 2)), jnp.float32)
  box = _intervals.Box(x - 0.1, x + 0.2)
  layer = nn.Conv(4, (3, 3), stride)
  value = lambda x: layer.apply({'params': params}, x)[0, :, :, 1]
  slopes = jax.jacobian(value)(x)  # Its signs are each entry's corner.
  found = _intervals.convolution(box, params, stride, jnp.float32)
  assert found.upper.shape[1:3] == slopes.shape[:2]
  for i, j in np.ndindex(slopes.shape[:2]):
    for end, one, other in ((found.upper, *box[::-1]), (found.lower, *box)):
      corner = jnp.where(slopes[i, j] > 0, one, other)
      np.testing.assert_allclose(
        end[0, i, j, 1], value(corner)[i, j], rtol=1e-4, atol=1e-4
      )


def test_sums_in_any_order_and_exact_ones_are_inside(rng):
  x = rng.normal(size=(8, 512)).astype(np.float32)
  kernel = rng.normal(size=(512, 20)).astype(np.float32)
  params = {'kernel': kernel, 'bias': np.zeros(20, np.float32)}
  params = jax.tree.map(jnp.asarray, params)
  found = _intervals.dense(
    _intervals.Box(jnp.asarray(x), jnp.asarray(x)), params, jnp.float32
  )
  terms = x[:, :, None] * kernel
  for value in (
    np.cumsum(terms, axis=1)[:, -1],  # One after the other, in float32.
    np.cumsum(terms[:, ::-1], axis=1)[:, -1],
    np.float64(x) @ np.float64(kernel),
  ):
    assert np.all((found.lower <= value) & (value <= found.upper))
  assert np.any(np.cumsum(terms, axis=1)[:, -1] != value)


@pytest.mark.parametrize('name', sorted(_layers.ACTIVATIONS))
def test_an_activation_takes_the_range_of_its_values(name, rng):
  x = np.linspace(-12, 12, 20_001, dtype=np.float32)
  values = np.asarray(_layers.activation_fn(name)(x))
  ends = np.sort(rng.integers(0, len(x), (300, 2)), axis=1)
  ends[:20] = [[9000 + 5 * k, 10_000] for k in range(20)]  # About the minimum.
  box = _intervals.Box(*jnp.asarray(x[ends]).T)
  found = _intervals.activation(box, name, jnp.float32)
  for k, (i, j) in enumerate(ends):
    inside = values[i : j + 1]
    assert found.lower[k] <= inside.min()
    assert found.upper[k] >= inside.max()
    np.testing.assert_allclose(found.lower[k], inside.min(), atol=2e-5)
    np.testing.assert_allclose(found.upper[k], inside.max(), atol=2e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', sorted(_layers.ACTIVATIONS))
def test_activations_round_no_more_than_the_bounds_suppose(name, dtype):
  x = jnp.linspace(-40, 40, 100_001).astype(dtype)
  exact = {
    'elu': lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    'gelu': lambda x: (
      x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    ),
    'relu': lambda x: np.maximum(x, 0),
    'silu': lambda x: x / (1 + np.exp(-x)),
    'softplus': lambda x: np.logaddexp(x, 0),
    'tanh': np.tanh,
  }[name](np.asarray(x, np.float64))
  error = np.abs(np.asarray(_layers.activation_fn(name)(x), np.float64) - exact)
  unit = _intervals._unit(jnp.dtype(dtype))
  allowed = _intervals._ULPS * unit * (np.abs(np.asarray(x, np.float64)) + 1)
  assert np.all(error <= allowed)


@pytest.mark.full
@pytest.mark.parametrize('name', DEEP)
def test_bfloat16_is_allowed_for(name, rng, key):
  kw = {**DEEP[name], 'dtype': 'bfloat16', 'activation': 'silu'}
  draw, features, bounds = parts(name, kw)
  params, images = draw(key), images_of(rng, 32)
  found = features(params, images)
  for radius in (0.0, 0.02):
    least, most = bounds(params, *ball(images, radius))
    assert np.all((least <= found) & (found <= most))


def test_moments_of_channels_lie_inside_the_bounds(rng, key):
  kw = {'widths': (6,), 'mean': (0.1, 0.5, 0.7), 'std': (0.2, 0.5, 3.0)}
  draw, features, bounds = parts('mlp', kw)
  params, images = draw(key), images_of(rng)
  least, most = bounds(params, images, images)
  np.testing.assert_allclose(
    (least + most) / 2, features(params, images), rtol=1e-4, atol=1e-4
  )


@pytest.mark.fast
def test_networks_without_rules_have_no_bounds():
  for name, kw in SMALL.items():
    model = models.make(name, num_classes=3, **kw)
    has = models.feature_bounds(model) is not None
    assert has == (name in ('mlp', 'cnn'))


def test_boxes_of_two_shapes_and_integers_are_refused():
  draw, _, _ = parts('mlp', DEEP['mlp'])
  model = models.make('mlp', num_classes=3, **DEEP['mlp'])
  bounds, params = models.feature_bounds(model), draw(jax.random.key(0))
  images = jnp.zeros((2, *SHAPE))
  with pytest.raises(ValueError, match=r'lower has shape \(2, 8, 8, 3\)'):
    bounds(params, images, images[:1])
  with pytest.raises(TypeError, match='float dtype'):
    bounds(params, images.astype(jnp.uint8), images.astype(jnp.uint8))
