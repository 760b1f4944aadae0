"""Every network keeps the contract of `rrl_jax.models`."""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from rrl_jax import errors, models
from rrl_jax.models import _layers
from tests.tiers import first

SMALL = {
  'mlp': {'widths': (16, 12)},
  'cnn': {'widths': (4, 6), 'dense_width': 10},
  'resnet18': {'width': 4},
  'resnet20': {'width': 2},
  'resnet50': {'width': 4},
  'vit_lite': {'depth': 1},
  'vit_tiny': {'patch_size': 4, 'depth': 2},
  'vit_small': {'patch_size': 4, 'depth': 1, 'pool': 'mean'},
}
SHAPE = (8, 8, 3)


def make_small(name, **kw):
  return models.make(name, num_classes=5, **SMALL[name], **kw)


@functools.cache
def variables_of(name):
  """Plausible variables without the seconds that compiling `init` takes."""
  rng = np.random.default_rng(0)

  def draw(path, spec):
    kind = path[-1].key
    if kind in ('scale', 'var'):
      return jnp.asarray(rng.uniform(0.5, 1.5, spec.shape), spec.dtype)
    fan_in = max(np.prod(spec.shape[:-1]), 1) if kind == 'kernel' else 25
    return jnp.asarray(rng.normal(0, fan_in**-0.5, spec.shape), spec.dtype)

  specs = init_specs(name, embedding_dim=7)
  return jax.tree_util.tree_map_with_path(draw, specs)


def init_specs(name, **kw):
  model = make_small(name, **kw)
  return jax.eval_shape(
    lambda key: models.init(model, key, SHAPE), jax.random.key(0)
  )


def small(name, **kw):
  """A jitted network with variables that the tests share."""
  apply = models.apply_fn(make_small(name, **kw))
  return (
    jax.jit(apply, static_argnames='train'),
    *variables_of(name),
  )


def images_of(rng, size=6, shape=SHAPE):
  return jnp.asarray(rng.random((size, *shape), np.float32))


@pytest.mark.fast
def test_every_network_has_a_small_case():
  deep = {'resnet44', 'resnet56'}  # resnet20 with more blocks a stage.
  assert set(SMALL) | deep == set(models.names())


@pytest.mark.parametrize('name', first(SMALL))
def test_shapes_dtypes_and_rows_are_as_promised(name, rng):
  apply, params, state = small(name, embedding_dim=7)
  images = images_of(rng)
  (logits, out), new_state = apply(params, state, images, train=False)
  assert logits.shape == (6, 5)
  assert out['features'].ndim == 2
  assert out['embedding'].shape == (6, 7)
  chex.assert_tree_all_finite((logits, out))
  assert {x.dtype for x in jax.tree.leaves((params, logits, out))} == {
    jnp.dtype('float32')
  }
  chex.assert_trees_all_equal(new_state, state)
  # Row i of the result depends on row i of the input alone.
  (other, _), _ = apply(params, state, images.at[1:].set(0.3), train=False)
  np.testing.assert_allclose(other[0], logits[0], rtol=1e-4, atol=1e-5)
  assert not np.allclose(other[1], logits[1], atol=1e-5)


@pytest.mark.parametrize('name', first(SMALL))
def test_bfloat16_is_close_to_float32_and_keeps_float32_outside(name, rng):
  apply, params, state = small(name)
  half, _, _ = small(name, dtype='bfloat16')
  images = images_of(rng)
  specs = init_specs(name, dtype='bfloat16')
  assert {x.dtype for x in jax.tree.leaves(specs)} == {jnp.dtype('float32')}
  (logits, out), _ = apply(params, state, images, train=False)
  (half_logits, half_out), _ = half(params, state, images, train=False)
  assert half_logits.dtype == half_out['features'].dtype == jnp.float32
  scale = np.abs(out['features']).max()
  difference = np.abs(half_out['features'] - out['features']).max()
  assert 0 < difference < 0.05 * scale
  np.testing.assert_allclose(half_logits, logits, atol=0.1 * scale)


@pytest.mark.parametrize('name', first(['resnet18', 'mlp']))
def test_training_changes_batch_statistics_only(name, rng):
  apply, params, state = small(name)
  _, new_state = apply(params, state, images_of(rng), train=True)
  assert jax.tree.structure(new_state) == jax.tree.structure(state)
  if name == 'mlp':
    assert new_state == {}
  else:
    assert list(state) == ['batch_stats']
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), state, new_state)
    assert all(jax.tree.leaves(moved))


def test_attacked_images_have_batch_statistics_of_their_own(rng):
  model = models.make('resnet20', num_classes=5, width=2, dual_norm=True)
  apply = jax.jit(
    models.apply_fn(model), static_argnames=('train', 'adversarial')
  )
  params, state = models.init(model, jax.random.key(0), SHAPE)
  images = images_of(rng)
  before, _ = apply(params, state, images, train=False)
  _, new = apply(params, state, images, train=True, adversarial=True)
  assert jax.tree.structure(new) == jax.tree.structure(state)
  for path, moved in jax.tree_util.tree_leaves_with_path(
    jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state, new)
  ):
    assert moved == ('adversarial' in jax.tree_util.keystr(path))
  chex.assert_trees_all_equal(
    apply(params, new, images, train=False)[0], before
  )
  (after, _), _ = apply(params, new, images, train=False, adversarial=True)
  assert np.any(after != before[0])


@pytest.mark.full
def test_the_predictor_is_a_head_on_the_embedding(rng):
  model = models.make(
    'mlp', num_classes=5, widths=(8,), embedding_dim=3, predictor=True
  )
  params, _ = models.init(model, jax.random.key(0), SHAPE)
  (_, out), _ = models.apply_fn(model)(params, {}, images_of(rng), train=True)
  hidden, last, embedding = jax.device_get(
    (params['prediction_hidden'], params['prediction'], out['embedding'])
  )
  expected = embedding @ hidden['kernel'] + hidden['bias']
  expected = np.maximum(expected, 0) @ last['kernel'] + last['bias']
  np.testing.assert_allclose(out['prediction'], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', first(SMALL, 2))
def test_without_embedding_dim_the_embedding_is_the_features(name, rng):
  params, _ = init_specs(name)
  assert not [k for k in params if k.startswith('projection')]
  apply, params, state = small(name)
  (_, out), _ = apply(params, state, images_of(rng), train=False)
  np.testing.assert_array_equal(out['embedding'], out['features'])


@pytest.mark.parametrize('name', first(['mlp', 'vit_tiny']))
def test_shifted_and_scaled_input_with_matching_moments_is_the_same(name, rng):
  mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
  apply, params, state = small(name, mean=mean, std=std)
  scaled, _, _ = small(
    name,
    mean=[5 * m + 1 for m in mean],
    std=[5 * s for s in std],
  )
  images = images_of(rng)
  (logits, _), _ = apply(params, state, images, train=False)
  (same, _), _ = scaled(params, state, 5 * images + 1, train=False)
  np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('name', 'kw', 'count'),
  [
    # torchvision and timm, 1000 classes, 224 x 224 x 3.
    ('resnet18', {'stem': 'imagenet'}, 11_689_512),
    ('resnet50', {'stem': 'imagenet'}, 25_557_032),
    ('vit_tiny', {}, 5_717_416),
    ('vit_small', {}, 22_050_664),
  ],
)
def test_parameter_counts_are_the_published_ones(name, kw, count):
  model = models.make(name, num_classes=1000, **kw)
  params, _ = jax.eval_shape(
    lambda key: models.init(model, key, (224, 224, 3)), jax.random.key(0)
  )
  assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
  ('name', 'count'),
  [('resnet20', 272_474), ('resnet44', 661_338), ('resnet56', 855_770)],
)
def test_cifar_resnets_have_as_many_parameters_as_with_projections(name, count):
  # He et al. count 0.27M, 0.66M, 0.85M; 2,752 of these are the projections.
  model = models.make(name, num_classes=10)
  params, _ = jax.eval_shape(
    lambda key: models.init(model, key, (32, 32, 3)), jax.random.key(0)
  )
  assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(('stem', 'side'), [('cifar', 32), ('imagenet', 8)])
def test_stems_differ_in_resolution(stem, side):
  model = models.make('resnet18', num_classes=2, stem=stem, width=2)
  _, captured = jax.eval_shape(
    lambda key: model.init_with_output(
      key,
      jnp.zeros((2, 32, 32, 3)),
      train=False,
      capture_intermediates=True,
      mutable=True,
    ),
    jax.random.key(0),
  )
  block = captured['intermediates']['stage0_block0']['__call__'][0]
  assert block.shape == (2, side, side, 2)


@pytest.mark.parametrize(('zero', 'want'), [(True, 0), (False, 1)])
def test_zero_init_last_makes_blocks_start_as_identity(zero, want):
  model = make_small('resnet18', zero_init_last=zero)

  @jax.jit  # Compiles the two leaves that it returns and no more.
  def scales(key):
    params, _ = models.init(model, key, SHAPE)
    block = params['stage0_block0']
    return block['norm0']['scale'], block['norm1']['scale']

  first, last = scales(jax.random.key(0))
  np.testing.assert_array_equal(first, np.ones(4))
  np.testing.assert_array_equal(last, np.full(4, want))


@pytest.mark.full
@pytest.mark.parametrize('name', ['mlp', 'cnn'])
def test_init_draws_from_the_key(name, rng):
  model = make_small(name)
  params, state = models.init(model, jax.random.key(0), SHAPE)
  again, _ = models.init(model, jax.random.key(0), SHAPE)
  other, _ = models.init(model, jax.random.key(1), SHAPE)
  assert state == {}
  chex.assert_trees_all_equal(params, again)
  kernel = lambda tree: tree['head']['kernel']
  assert not np.allclose(kernel(params), kernel(other))
  (logits, _), _ = models.apply_fn(model)(
    params, state, images_of(rng), train=False
  )
  chex.assert_tree_all_finite(logits)


@pytest.mark.full
def test_batch_norm_of_a_sharded_batch_is_global(rng, mesh):
  apply, params, state = small('resnet18')
  # Rows of very different scale: statistics of a shard would differ.
  images = images_of(rng, 16) * jnp.linspace(0.1, 1, 16)[:, None, None, None]
  (logits, _), new_state = apply(params, state, images, train=True)
  sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec('data')))
  (same, _), same_state = apply(params, state, sharded, train=True)
  np.testing.assert_allclose(same, logits, rtol=2e-3, atol=2e-3)
  chex.assert_trees_all_close(same_state, new_state, rtol=1e-3, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize(
  ('size', 'stride', 'padding'), [(3, 2, 1), (2, 2, 0), (3, 1, 1)]
)
def test_max_pool_and_its_gradient_equal_reduce_window(
  rng, size, stride, padding
):
  x = jnp.asarray(rng.normal(size=(2, 7, 8, 3)), jnp.float32)

  def reference(x):
    return jax.lax.reduce_window(
      x,
      -jnp.inf,
      jax.lax.max,
      (1, size, size, 1),
      (1, stride, stride, 1),
      ((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )

  y, vjp = jax.vjp(lambda x: _layers.max_pool(x, size, stride, padding), x)
  want, want_vjp = jax.vjp(reference, x)
  np.testing.assert_array_equal(y, want)
  g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
  np.testing.assert_allclose(vjp(g)[0], want_vjp(g)[0], rtol=1e-6, atol=1e-6)


def test_max_pool_sends_the_gradient_of_a_tie_to_the_first():
  grad = jax.grad(lambda x: _layers.max_pool(x, 2, 2).sum())(
    jnp.ones((1, 2, 2, 1))
  )
  np.testing.assert_array_equal(grad[0, :, :, 0], [[1, 0], [0, 0]])


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'kw', 'message'),
  [
    ('resnet1', {}, "model.name='resnet1' is unknown; models: cnn, mlp"),
    ('_layers', {}, 'is unknown'),
    ('mlp', {'width': 3}, r'model.kw.width is unknown to model .* widths'),
    ('mlp', {'parent': 3}, r'model.kw.parent is unknown'),
    ('mlp', {'dtype': 'float16'}, 'must be one of float32, bfloat16'),
    ('mlp', {'widths': ()}, 'must be at least one positive number'),
    ('cnn', {'activation': 'swash'}, 'must be one of elu'),
    ('resnet18', {'stem': 'tiny'}, 'must be one of cifar, imagenet'),
    ('vit_tiny', {'pool': 'max'}, 'must be one of cls, mean'),
    ('mlp', {'std': 0.0}, 'must be positive'),
  ],
)
def test_what_does_not_exist_is_refused_in_one_line(name, kw, message):
  with pytest.raises(errors.ConfigError, match=message) as error:
    models.make(name, num_classes=3, **kw)
  assert '\n' not in str(error.value)


@pytest.mark.fast
def test_an_image_that_does_not_fit_is_refused():
  model = models.make('vit_tiny', num_classes=3, patch_size=16)
  with pytest.raises(errors.ConfigError, match='a divisor of the image size'):
    models.init(model, jax.random.key(0), (28, 28, 1))
  model = models.make('mlp', num_classes=3, mean=(0.1, 0.2))
  with pytest.raises(errors.ConfigError, match='one number, or 3'):
    models.init(model, jax.random.key(0), (8, 8, 3))


@pytest.mark.fast
def test_integer_images_are_refused(rng):
  apply, params, state = small('mlp')
  with pytest.raises(TypeError, match='float dtype'):
    apply(params, state, jnp.zeros((2, *SHAPE), jnp.uint8), train=False)


def test_lists_of_a_config_make_a_hashable_model():
  model = models.make('mlp', num_classes=3, widths=[4, 4], mean=[0.1] * 3)
  assert hash(model) == hash(
    models.make('mlp', num_classes=3, widths=(4, 4), mean=(0.1,) * 3)
  )
