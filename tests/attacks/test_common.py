"""What holds for every attack: transforms, meshes, precision, no leaks."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rrl_jax import attacks
from tests.contracts import Results, mesh_of

B = 16
W = np.random.default_rng(1).normal(size=(12, 4)).astype('f')
X = np.random.default_rng(2).uniform(size=(B, 2, 6)).astype('f')
IDS = np.arange(B)


def loss_fn(w, z):
  flat = z.reshape(z.shape[0], -1).astype(jnp.float32)
  return jnp.sum(jnp.sin(2 * flat @ w), axis=1)


def pgd(norm, w, x, ids):
  return attacks.pgd(
    functools.partial(loss_fn, w),
    jax.random.key(0),
    x,
    epsilon=0.3,
    step_size=0.1,
    num_steps=2,
    norm=norm,
    example_ids=ids,
    unroll=1,
  )


def logits_fn(w, z):
  return jnp.sin(2 * z.reshape(z.shape[0], -1).astype(jnp.float32) @ w)


def with_logits(attack, w, x, ids, **kw):
  labels = jnp.zeros_like(ids)
  return attack(
    functools.partial(logits_fn, w),
    jax.random.key(0),
    x,
    labels,
    epsilon=0.3,
    example_ids=ids,
    **kw,
  ).best_inputs


def apgd(norm, w, x, ids):
  return with_logits(attacks.apgd, w, x, ids, norm=norm, num_steps=2)


def fab(norm, w, x, ids):
  return with_logits(attacks.fab, w, x, ids, norm=norm, num_steps=2)


def square(norm, w, x, ids):
  return with_logits(attacks.square, w, x, ids, norm=norm, num_queries=2)


def noisy(w, z, keys):
  draw = lambda key: 0.1 * jax.random.normal(key, z.shape[1:])
  return loss_fn(w, z + jax.vmap(draw)(keys).astype(z.dtype))


def surrogates(w, x, ids):
  """PGD on the sum of all surrogate losses, in one compilation."""
  logits, labels = functools.partial(logits_fn, w), jnp.zeros_like(ids)
  parts = (
    attacks.expectation_over_transformation(
      functools.partial(noisy, w), jax.random.key(3), 2, example_ids=ids
    ),
    attacks.feature_shift_objective(logits, logits(x)),
    attacks.kl_objective(logits, logits(x)),
    attacks.targeted_objective(logits, labels),
    attacks.untargeted_objective(logits, labels + 1, loss='margin'),
  )
  return attacks.pgd(
    lambda z: sum(part(z) for part in parts),
    jax.random.key(0),
    x,
    epsilon=0.3,
    step_size=0.1,
    num_steps=1,
    norm='l2',
    example_ids=ids,
  )


CALLS = {
  'apgd l2': functools.partial(apgd, 'l2'),
  'eot_pgd': lambda w, x, ids: attacks.eot_pgd(
    functools.partial(noisy, w),
    jax.random.key(0),
    x,
    epsilon=0.3,
    step_size=0.1,
    num_steps=2,
    num_samples=2,
    random_start=False,
    example_ids=ids,
    unroll=1,
  ),
  'fab linf': functools.partial(fab, 'linf'),
  'fgsm l2': lambda w, x, ids: attacks.fgsm(
    functools.partial(loss_fn, w), x, epsilon=0.3, norm='l2'
  ),
  'growing_projected_sinkhorn': lambda w, x, ids: (
    attacks.growing_projected_sinkhorn(
      lambda z: loss_fn(w, z[..., 0]),
      lambda z: loss_fn(w, z[..., 0]) > 5,
      x[..., None],
      epsilon=0.1,
      step_size=0.02,
      num_steps=2,
      growth_steps=1,
      norm='transport',
      window=3,
      num_iterations=5,
    ).adv_inputs[..., 0]
  ),
  'interacting_particles': lambda w, x, ids: attacks.interacting_particles(
    functools.partial(loss_fn, w),
    jax.random.key(0),
    x,
    epsilon=0.3,
    step_size=0.1,
    num_steps=2,
    norm='l2',
    example_ids=ids,
    unroll=1,
  ),
  'pgd linf': functools.partial(pgd, 'linf'),
  'pgd l2': functools.partial(pgd, 'l2'),
  'pgd l1': functools.partial(pgd, 'l1'),
  'project': lambda w, x, ids: attacks.project(
    jnp.sin(9 * x), x, epsilon=0.5, norm='l2'
  ),
  'projected_sinkhorn': lambda w, x, ids: attacks.projected_sinkhorn(
    lambda z: loss_fn(w, z[..., 0]),
    None,
    x[..., None],
    epsilon=0.1,
    step_size=0.1,
    num_steps=1,
    norm='l2',
    window=3,
    num_iterations=5,
    unroll=1,
  )[..., 0],
  'sinkhorn': lambda w, x, ids: attacks.sinkhorn(
    functools.partial(loss_fn, w),
    x,
    gamma=40.0,
    epsilon=0.1,
    num_steps=2,
    unroll=1,
  ),
  'square l2': functools.partial(square, 'l2'),
  'surrogates': surrogates,
  'udr l2': lambda w, x, ids: attacks.udr(
    functools.partial(loss_fn, w),
    jax.random.key(0),
    x,
    epsilon=0.1,
    multiplier=0.5,
    step_size=0.1,
    num_steps=2,
    norm='l2',
    example_ids=ids,
    unroll=1,
  ),
  'wrm': lambda w, x, ids: attacks.wrm(
    functools.partial(loss_fn, w), x, gamma=40.0, num_steps=2, unroll=1
  ),
}
ON_HOST = {'auto_attack'}  # Calls compiled steps; not to be transformed.
# The result depends on the batch by design.
OVER_BATCH = {'interacting_particles', 'sinkhorn'}
# What an attack learns, and what it finds.
STATE = {
  'ApgdResult',
  'AutoAttackResult',
  'GrowingSinkhornResult',
  'Progress',
  'UDRState',
  'udr_init',
  'udr_update',
}
SURROGATES = {
  'expectation_over_transformation',
  'feature_shift_objective',
  'kl_objective',
  'logit_scale',
  'targeted_objective',
  'untargeted_objective',
}
NO_STOP = {'project'}  # A projection, not an attack.
ATTACKS = tuple(n for n in CALLS if n not in NO_STOP)


def jitted(names, change, *args):
  """``change(CALLS[name])(*args)`` of each name, compiled together."""
  return jax.jit(lambda *args: {n: change(CALLS[n])(*args) for n in names})(
    *args
  )


@pytest.fixture(scope='module')
def reference():
  """Of one device in one call."""
  return Results(CALLS, lambda names: jitted(names, lambda f: f, W, X, IDS))


@pytest.fixture(scope='module')
def low():
  """In bfloat16."""
  x = jnp.asarray(X, jnp.bfloat16)
  return Results(CALLS, lambda names: jitted(names, lambda f: f, W, x, IDS))


@pytest.fixture(scope='module')
def stacked():
  """Of two batches, by vmap."""
  change = lambda call: jax.vmap(call, in_axes=(None, 0, None))
  both = np.stack([1 - X, X])
  return Results(CALLS, lambda names: jitted(names, change, W, both, IDS))


@pytest.fixture(scope='module')
def gradients():
  """Of the sum of what is found, in the model and in the images."""

  def change(call):
    return jax.grad(lambda *args: jnp.sum(call(*args)), argnums=(0, 1))

  return Results(ATTACKS, lambda names: jitted(names, change, W, X, IDS))


@pytest.fixture(scope='module')
def on_each_device():
  """By shard_map on two devices, each of which has all examples."""

  def run(names):
    out = {}
    for over_batch in (False, True):
      some = [n for n in names if (n in OVER_BATCH) == over_batch]
      mapped = jax.shard_map(
        lambda *args, some=some: {n: CALLS[n](*args) for n in some},
        mesh=mesh_of(2),
        in_specs=(P(), P('data'), P('data')),
        out_specs=P('data'),
        check_vma=not over_batch,
      )
      args = W, np.concatenate([X, X]), np.concatenate([IDS, IDS])
      out |= jax.jit(mapped)(*args)
    return out

  return Results(CALLS, run)


def placed(mesh):
  """The arguments, images and ids over the mesh."""
  rows, whole = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
  return jax.device_put((W, X, IDS), (whole, rows, rows))


def close(a, b):
  np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-6)


def assert_no_collectives(compiled):
  text = compiled.as_text()
  for word in ('all-reduce', 'all-gather', 'all-to-all', 'permute('):
    assert word not in text


@pytest.mark.fast
def test_every_public_name_is_covered():
  names = {name.split()[0] for name in CALLS}
  names = names - {'surrogates'} | SURROGATES
  assert names | ON_HOST | STATE == set(attacks.__all__)
  assert list(attacks.__all__) == sorted(attacks.__all__)


@pytest.mark.parametrize('name', CALLS)
def test_shape_dtype_and_bounds_in_low_precision(name, low):
  x, z = jnp.asarray(X, jnp.bfloat16), low[name]
  assert z.shape == x.shape
  assert z.dtype == x.dtype
  assert float(z.min()) >= 0
  assert float(z.max()) <= 1
  assert np.abs(np.asarray(z, 'f') - np.asarray(x, 'f')).max() > 0.01


@pytest.mark.parametrize('name', CALLS)
def test_vmap_equals_one_at_a_time(name, stacked, reference):
  close(stacked[name][1], reference[name])


@pytest.mark.parametrize('name', ATTACKS)
def test_no_gradient_leaves_the_attack(name, gradients):
  for grad in gradients[name]:
    np.testing.assert_array_equal(grad, 0)


def test_two_devices_equal_one_without_any_communication(reference):
  names = [name for name in CALLS if name not in OVER_BATCH]
  mesh = mesh_of(2)
  with jax.set_mesh(mesh):
    args = placed(mesh)
    all_of_them = jax.jit(lambda *args: {n: CALLS[n](*args) for n in names})
    compiled = all_of_them.lower(*args).compile()
    found = jax.device_get(compiled(*args))
  assert_no_collectives(compiled)
  for name in names:
    np.testing.assert_allclose(
      found[name], reference[name], atol=2e-6, err_msg=name
    )


@pytest.mark.parametrize('name', CALLS)
def test_it_is_traced_under_a_mesh_with_explicit_axes(name):
  """Which operations those refuse is known before anything is compiled."""
  mesh = mesh_of(2, AxisType.Explicit)
  with jax.set_mesh(mesh):
    out = jax.eval_shape(CALLS[name], *placed(mesh))
  assert (out.shape, out.dtype) == (X.shape, X.dtype)


@pytest.mark.parametrize('name', CALLS)
def test_it_runs_per_device(name, on_each_device, reference):
  one, other = np.split(on_each_device[name], 2)
  close(one, reference[name])
  close(other, reference[name])


@pytest.mark.full
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('name', CALLS)
def test_eight_devices_equal_one(name, kind, reference):
  mesh = mesh_of(8, kind)
  with jax.set_mesh(mesh):
    args = placed(mesh)
    compiled = jax.jit(CALLS[name]).lower(*args).compile()
    close(compiled(*args), reference[name])
  if name not in OVER_BATCH:
    assert_no_collectives(compiled)


@pytest.mark.full
@pytest.mark.parametrize('name', CALLS)
def test_shard_map_and_pmap_agree_on_eight_devices(name, mesh, reference):
  mapped = jax.jit(
    jax.shard_map(
      CALLS[name],
      mesh=mesh,
      in_specs=(P(), P('data'), P('data')),
      out_specs=P('data'),
      check_vma=name not in OVER_BATCH,
    )
  )
  per_device = jax.pmap(CALLS[name], in_axes=(None, 0, 0))(
    W, X.reshape(8, 2, 2, 6), IDS.reshape(8, 2)
  ).reshape(X.shape)
  close(mapped(W, X, IDS), per_device)
  if name in OVER_BATCH:
    close(per_device[:2], jax.jit(CALLS[name])(W, X[:2], IDS[:2]))
  else:
    close(per_device, reference[name])
