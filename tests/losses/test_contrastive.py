"""Tiled contrastive losses against a dense reference in float64."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

DENOMINATORS = ('all', 'one_positive', 'negatives_only', 'in')
FUNCTIONS = {
  'infonce': lambda z, y, i, tau, **kw: losses.infonce(
    z, i, temperature=tau, **kw
  ),
  'conditional': lambda z, y, i, tau, **kw: losses.class_conditional_infonce(
    z, y, i, temperature=tau, **kw
  ),
  'spread': lambda z, y, i, tau, **kw: losses.spread(
    z, y, i, alpha=0.3, temperature=tau, **kw
  ),
} | {
  name: functools.partial(
    lambda z, y, i, tau, name, **kw: losses.supervised_contrastive(
      z, y, i, temperature=tau, denominator=name, **kw
    ),
    name=name,
  )
  for name in DENOMINATORS
}


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def dense(z, y, i, tau, alpha, denominator, where, clip=None):
  """The equations, a row at a time over a whole matrix."""
  index = jnp.arange(len(y))
  s = z @ z.T / tau

  def anchor(row, n):
    others = where & where[n] & (index != n)
    same = (y == y[n]) & ((y[n] != -1) | (i == i[n]))
    pos, neg = others & same, others & ~same
    view = pos & (i == i[n])
    lse = lambda mask: jax.scipy.special.logsumexp(row, where=mask)
    mean = lambda x, mask: (
      jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)
    )
    top = row if clip is None else jnp.minimum(row, clip)
    some = jnp.any(pos)
    if denominator == 'one_positive':
      log_neg = jnp.where(jnp.any(neg), lse(neg | ~jnp.any(neg)), -1e30)
      value = mean(jnp.logaddexp(row, log_neg) - top, pos)
    elif denominator == 'all':
      value = lse(others | ~some) - mean(top, pos)
    elif denominator == 'negatives_only':
      value = lse(neg | ~jnp.any(neg)) - mean(top, pos)
      some = some & jnp.any(neg)
    else:
      inside = lse(pos | ~some) - jnp.log(jnp.maximum(jnp.sum(pos), 1))
      value = lse(others | ~some) - inside
    sup = jnp.where(some, value, 0)
    conditional = lse(pos | ~jnp.any(pos)) - mean(row, view)
    conditional = jnp.where(jnp.any(view), conditional, 0)
    return (1 - alpha) * sup + alpha * conditional

  return jax.vmap(anchor)(s, index)


def rows(rng, num, dim=5, classes=4):
  """Unit rows of instances with one, two or more views; some unlabelled."""
  z = rng.normal(size=(num, dim))
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  ids = rng.integers(0, num // 2, size=num)
  labels = rng.integers(-1, classes, size=num)[ids]
  return tuple(map(jnp.asarray, (z, labels, ids)))


def total(fun, weights):
  """A weighted sum with its value and gradients, compiled."""
  return jax.jit(
    jax.value_and_grad(
      lambda z, tau, alpha: jnp.sum(weights * fun(z, tau, alpha)), (0, 1, 2)
    )
  )


def close(a, b, tol):
  for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    scale = max(1.0, float(jnp.max(jnp.abs(right))))
    np.testing.assert_allclose(left, right, atol=tol * scale, rtol=0)


CASES = [(name, None) for name in DENOMINATORS]
CASES += [(name, 0.5) for name in DENOMINATORS[:3]]


@pytest.mark.parametrize(('denominator', 'clip'), first(CASES))
def test_tiled_equals_dense(x64, rng, denominator, clip):
  z, y, i = rows(rng, 43)
  where, weights = jnp.asarray(rng.random(43) < 0.9), rng.normal(size=43)
  tiled = lambda z, tau, alpha: losses.spread(
    z,
    y,
    i,
    alpha=alpha,
    temperature=tau,
    denominator=denominator,
    where=where,
    numerator_clip=clip,
    tile_size=6,
  )
  plain = lambda z, tau, alpha: dense(
    z, y, i, tau, alpha, denominator, where, clip
  )
  ours, reference = total(tiled, weights), total(plain, weights)
  # The second temperature is too low for one exponential to serve two rows.
  for tau in (0.3, 0.01):
    close(ours(z, tau, 0.4), reference(z, tau, 0.4), 1e-12)


@pytest.mark.parametrize('tile_size', first([16, None, 1], 1))
def test_the_tile_does_not_matter(x64, rng, tile_size):
  z, y, i = rows(rng, 32)
  weights, every = rng.normal(size=32), jnp.ones(32, bool)
  tiled = lambda z, tau, alpha: losses.spread(
    z, y, i, alpha=alpha, temperature=tau, tile_size=tile_size
  )
  plain = lambda z, tau, a: dense(z, y, i, tau, a, 'one_positive', every)
  close(
    total(tiled, weights)(z, 0.2, 0.7),
    total(plain, weights)(z, 0.2, 0.7),
    1e-12,
  )


def test_the_parts_are_limits_of_spread(x64, rng):
  z, y, i = rows(rng, 24)
  every = jnp.ones(24, bool)
  want = dense(z, y, i, 0.3, 1.0, 'all', every)
  conditional = losses.class_conditional_infonce(z, y, i, temperature=0.3)
  close(conditional, want, 1e-12)
  for name in DENOMINATORS:
    want = dense(z, y, i, 0.3, 0.0, name, every)
    got = losses.supervised_contrastive(
      z, y, i, temperature=0.3, denominator=name
    )
    close(got, want, 1e-12)
  want = dense(z, i, i, 0.3, 0.0, 'all', every)
  close(losses.infonce(z, i, temperature=0.3), want, 1e-12)
  unlabelled = losses.supervised_contrastive(
    z, jnp.full(24, -1), i, temperature=0.3
  )
  close(unlabelled, want, 1e-12)


@pytest.mark.full
def test_numerical_gradients_of_both_orders(x64, rng):
  z, y, i = rows(rng, 9, dim=3, classes=2)
  fun = lambda z, tau, alpha: losses.spread(
    z, y, i, alpha=alpha, temperature=tau, tile_size=4
  )
  check_grads(fun, (z, 0.5, 0.4), order=1, modes=['rev'])
  # The gradient is itself differentiable.
  grad = jax.jit(jax.grad(lambda z: fun(z, 0.5, 0.4).sum()))
  check_grads(grad, (z,), order=1, modes=['rev'])


def test_order_and_names_of_classes_and_instances_do_not_matter(rng):
  z, y, i = rows(rng, 32)
  fun = jax.jit(
    lambda z, y, i: losses.spread(
      z, y, i, alpha=0.4, temperature=0.2, tile_size=8
    )
  )
  z, want = z.astype('f'), fun(z, y, i)
  order = rng.permutation(32)
  close(fun(z[order], y[order], i[order]), want[order], 1e-5)
  renamed = jnp.where(y == -1, -1, 1000 - 7 * y)
  close(fun(z, renamed, 5 - 3 * i), want, 1e-5)


def test_permutation_within_classes_leaves_the_mean(rng):
  z = rng.normal(size=(24, 5)).astype('f')
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  y = np.repeat([0, 1, 2], 4)
  order = np.concatenate(
    [rng.permutation(np.flatnonzero(y == c)) for c in range(3)]
  )
  fun = lambda z: losses.spread(
    z,
    jnp.tile(y, 2),
    jnp.tile(jnp.arange(12), 2),
    alpha=0.5,
    temperature=0.5,
  ).mean()
  views = lambda order: jnp.concatenate([z[:12][order], z[12:][order]])
  np.testing.assert_allclose(
    fun(views(order)), fun(views(np.arange(12))), rtol=1e-5
  )


def simplex(classes, per_class, dim=8):
  """Collapsed classes at the vertices of a regular simplex; two views."""
  vertices = np.eye(dim)[:classes] - np.eye(dim)[:classes].mean(0)
  vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
  y = np.tile(np.repeat(np.arange(classes), per_class), 2)
  ids = np.tile(np.arange(classes * per_class), 2)
  return jnp.asarray(vertices[y], 'f'), jnp.asarray(y), jnp.asarray(ids)


@pytest.mark.parametrize(('classes', 'per_class'), first([(2, 8), (3, 4)]))
def test_values_at_collapse(classes, per_class):
  z, y, i = simplex(classes, per_class)
  num, tau = z.shape[0], 0.5
  negatives = (classes - 1) * 2 * per_class
  apart = np.exp(-classes / ((classes - 1) * tau))
  fun = functools.partial(
    losses.supervised_contrastive, z, y, i, temperature=tau
  )
  close(
    fun(denominator='one_positive'),
    np.full(num, np.log1p(negatives * apart), 'f'),
    1e-5,
  )
  others = 2 * per_class - 1
  close(fun(), np.full(num, np.log(others + negatives * apart), 'f'), 1e-5)
  conditional = losses.class_conditional_infonce(z, y, i, temperature=tau)
  close(conditional, np.full(num, np.log(others), 'f'), 1e-5)
  same = jnp.ones_like(z) / np.sqrt(z.shape[1])
  value = losses.infonce(same, i, temperature=tau)
  close(value, np.full(num, np.log(num - 1), 'f'), 1e-5)
  value = losses.supervised_contrastive(
    same, y, i, temperature=tau, denominator='one_positive'
  )
  close(value, np.full(num, np.log(1 + negatives), 'f'), 1e-5)


@pytest.mark.parametrize('name', first(FUNCTIONS))
def test_an_anchor_without_a_positive_is_exactly_zero(name):
  z = jnp.eye(6)[:5] + 0.3
  y, i = jnp.array([0, 0, 1, 2, 0]), jnp.array([0, 0, 1, 2, 0])
  fun = jax.jit(FUNCTIONS[name])
  value = fun(z, y, i, 0.2)
  assert value.shape == (5,)
  assert value.dtype == jnp.float32
  np.testing.assert_array_equal(value[2:4], 0)
  assert (value[:2] > 0).all()
  grad = jax.grad(lambda z: fun(z, y, i, 0.2)[2:4].sum())(z)
  np.testing.assert_array_equal(grad, 0)


@pytest.mark.full
def test_one_class_has_no_supervised_loss():
  z = jnp.eye(4) + 0.5
  y, i = jnp.zeros(4, int), jnp.arange(4) // 2
  for name in ('one_positive', 'negatives_only'):
    fun = lambda z, name=name: losses.supervised_contrastive(
      z, y, i, temperature=0.5, denominator=name
    )
    np.testing.assert_array_equal(fun(z), 0)
    np.testing.assert_array_equal(jax.grad(lambda z: fun(z).sum())(z), 0)  # noqa: B023


LABELS = {
  'one class': np.zeros(12, int),
  'singletons': np.arange(12),
  'classes': np.arange(12) // 4,
  'unlabelled': np.full(12, -1),
}
IDS = {
  'pairs': np.arange(12) // 2,
  'alone': np.arange(12),
  'one': np.zeros(12, int),
}


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
@pytest.mark.parametrize('name', first(FUNCTIONS))
def test_finite_for_any_finite_input(rng, name, dtype):
  fun = jax.jit(
    jax.value_and_grad(
      lambda z, y, i, tau, where: FUNCTIONS[name](
        z, y, i, tau, where=where, tile_size=5
      ).sum(),
      (0, 3),
    )
  )
  unit = rng.normal(size=(12, 4))
  mixed = unit * 10.0 ** rng.integers(-38, 38, size=(12, 4))
  for z in (unit, unit * 1e4, unit * 1e30, unit * 0, mixed, unit * 1e-40):
    for y in LABELS.values():
      for i in IDS.values():
        for tau in (0.1, 1e-3):
          for where in (np.ones(12, bool), np.zeros(12, bool), y != 1):
            out = fun(jnp.asarray(z, dtype), y, i, tau, where)
            for leaf in jax.tree.leaves(out):
              assert np.isfinite(np.asarray(leaf, 'f')).all()


@pytest.mark.full
def test_bfloat16_is_near_float32(rng):
  z, y, i = rows(rng, 32)
  low = z.astype(jnp.bfloat16)
  fun = lambda z: losses.spread(
    z, y, i, alpha=0.5, temperature=0.2, tile_size=8
  ).mean()
  value, grad = jax.value_and_grad(fun)(low)
  want, want_grad = jax.value_and_grad(fun)(low.astype(jnp.float32))
  assert grad.dtype == jnp.bfloat16
  np.testing.assert_allclose(value, want, rtol=1e-4)
  np.testing.assert_allclose(grad.astype('f'), want_grad, atol=1e-3)


def test_bfloat16_rows_are_multiplied_in_float32():
  struct = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)
  total = lambda z: losses.infonce(
    z, jnp.arange(8) // 2, temperature=0.1, tile_size=4
  ).sum()
  text = jax.jit(jax.grad(total)).lower(struct).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line]
  assert products
  for line in products:
    assert 'bf16' not in line
    assert 'HIGHEST' in line


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_any_labels_ids_and_masks(data):
  num = data.draw(st.sampled_from([1, 10]))
  ints = lambda low, high: np.array(
    data.draw(st.lists(st.integers(low, high), min_size=num, max_size=num))
  )
  y, i, where = ints(-1, 3), ints(0, 3), ints(0, 3) > 0
  tau = data.draw(st.floats(0.01, 2.0))
  alpha = data.draw(st.floats(0.0, 1.0))
  z = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(num, 3))
  z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype('f')
  got, want = _both(num)(z, y, i, tau, alpha, where)
  close(got, want, 2e-4)
  for leaf in jax.tree.leaves(got):
    assert np.isfinite(leaf).all()


@functools.cache
def _both(num):
  def tiled(z, y, i, tau, alpha, where):
    return losses.spread(
      z, y, i, alpha=alpha, temperature=tau, where=where, tile_size=4
    ).sum()

  def plain(z, y, i, tau, alpha, where):
    return dense(z, y, i, tau, alpha, 'one_positive', where).sum()

  wrt = (0, 3, 4)
  return jax.jit(
    lambda *args: (
      jax.value_and_grad(tiled, wrt)(*args),
      jax.value_and_grad(plain, wrt)(*args),
    )
  )


@pytest.mark.parametrize('denominator', first(['one_positive', 'all']))
def test_the_ring_equals_one_device(x64, rng, mesh, denominator):
  z, y, i = rows(rng, 80)
  weights = jnp.asarray(rng.normal(size=80))
  fun = functools.partial(losses.spread, denominator=denominator, tile_size=4)

  def local(z, y, i, tau, alpha):
    return fun(z, y, i, temperature=tau, alpha=alpha, axis_name='data')

  rows_, whole = P('data'), P()
  ring = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(rows_, rows_, rows_, whole, whole),
    out_specs=rows_,
  )
  want = total(
    lambda z, tau, alpha: fun(z, y, i, temperature=tau, alpha=alpha), weights
  )(z, 0.3, 0.4)
  got = total(lambda z, *args: ring(z, y, i, *args), weights)(z, 0.3, 0.4)
  close(got, want, 1e-12)

  def device(z, y, i, weights):
    return jax.value_and_grad(
      lambda *args: jnp.sum(weights * local(args[0], y, i, *args[1:])),
      (0, 1, 2),
    )(z, 0.3, 0.4)

  split = lambda x: x.reshape(8, -1, *x.shape[1:])
  value, grads = jax.pmap(device, axis_name='data')(
    *map(split, (z, y, i, weights))
  )
  grads = grads[0].reshape(z.shape), grads[1].sum(), grads[2].sum()
  close((value.sum(), grads), want, 1e-12)


@pytest.mark.full
def test_the_ring_holds_no_row_of_another_device_for_long(mesh):
  num, dim = 8 * 1024, 64
  fun = jax.shard_map(
    lambda z, y: losses.supervised_contrastive(
      z, y, y, temperature=0.1, axis_name='data', tile_size=128
    ),
    mesh=mesh,
    in_specs=P('data'),
    out_specs=P('data'),
  )
  struct = jax.ShapeDtypeStruct
  sharding = NamedSharding(mesh, P('data'))
  compiled = (
    jax.jit(jax.grad(lambda z, y: fun(z, y).sum()))
    .lower(
      struct((num, dim), jnp.float32, sharding=sharding),
      struct((num,), jnp.int32, sharding=sharding),
    )
    .compile()
  )
  assert 'all-gather' not in compiled.as_text()
  local = num // 8 * dim * 4
  assert compiled.memory_analysis().temp_size_in_bytes < 16 * local


@pytest.mark.full
@pytest.mark.parametrize('kind', first([AxisType.Auto, AxisType.Explicit]))
def test_gradients_on_a_mesh(rng, kind):
  z, y, i = rows(rng, 32)
  z = z.astype('f')
  fun = lambda z, y, i: losses.spread(
    z, y, i, alpha=0.4, temperature=0.2, tile_size=8
  )
  grad = jax.grad(lambda *args: fun(*args).sum())
  want = grad(z, y, i)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  with jax.set_mesh(mesh):
    sharding = NamedSharding(mesh, P('data'))
    args = jax.device_put((z, y, i), sharding)
    close(jax.device_get(jax.jit(grad)(*args)), want, 1e-5)
    if kind == AxisType.Explicit:
      assert jax.typeof(jax.jit(fun)(*args)).sharding.spec == P('data')


@pytest.mark.full
@pytest.mark.parametrize('name', first(['spread', 'all']))
def test_memory_is_that_of_the_rows(name):
  num, dim = 8192, 128
  fun = FUNCTIONS[name]
  struct = jax.ShapeDtypeStruct
  compiled = (
    jax.jit(jax.value_and_grad(lambda z, y, i: fun(z, y, i, 0.1).mean()))
    .lower(
      struct((num, dim), jnp.float32),
      struct((num,), jnp.int32),
      struct((num,), jnp.int32),
    )
    .compile()
  )
  assert compiled.memory_analysis().temp_size_in_bytes <= 10 * 2**20


@pytest.mark.fast
def test_an_empty_batch_has_no_losses():
  z, none = jnp.zeros((0, 3)), jnp.zeros(0, int)
  value = losses.spread(z, none, none, alpha=0.5, temperature=0.1)
  assert value.shape == (0,)


def test_wrong_arguments_are_named():
  z, y = jnp.ones((4, 2)), jnp.arange(4)
  fun = losses.supervised_contrastive
  with pytest.raises(ValueError, match='denominator'):
    fun(z, y, y, temperature=0.1, denominator='out')
  with pytest.raises(ValueError, match='temperature'):
    fun(z, y, y, temperature=0.0)
  with pytest.raises(ValueError, match='labels must have shape'):
    fun(z, y[:3], y, temperature=0.1)
  with pytest.raises(TypeError, match='instance_ids'):
    fun(z, y, y / 2, temperature=0.1)
  with pytest.raises(TypeError, match='where'):
    fun(z, y, y, temperature=0.1, where=y)
  with pytest.raises(ValueError, match='numerator_clip'):
    fun(z, y, y, temperature=0.1, denominator='in', numerator_clip=1.0)
  with pytest.raises(ValueError, match='alpha'):
    losses.spread(z, y, y, alpha=1.5, temperature=0.1)
  with pytest.raises(ValueError, match='temperature must be a scalar'):
    fun(z, y, y, temperature=jnp.ones(4))
  with pytest.raises(ValueError, match='tile_size'):
    fun(z, y, y, temperature=0.1, tile_size=0)


@pytest.mark.full
def test_unit_rows_are_safe_at_zero_and_at_the_ends_of_the_range():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0], [3e38, 3e38], [2e-38, 0.0]])
  unit = losses.l2_normalize(x)
  half = np.sqrt(0.5)
  np.testing.assert_allclose(
    unit, [[0.6, 0.8], [0, 0], [half, half], [1, 0]], rtol=1e-6
  )
  grad = jax.grad(lambda x: losses.l2_normalize(x)[:, 0].sum())(x)
  assert np.isfinite(grad).all()
  np.testing.assert_array_equal(grad[1], 0)
  check_grads(losses.l2_normalize, (x[:1],), order=2, atol=1e-2, rtol=1e-2)
