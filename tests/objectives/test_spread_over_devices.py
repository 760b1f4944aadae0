"""Two views compare across devices as on one, and no image changes device."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from rrl_jax import target
from rrl_jax.objectives import _contrast
from rrl_jax.train import hlo, sharding
from tests.objectives import cases, linear
from tests.tiers import first

OBJECTIVES = {
  'simclr': {},
  'simclr, supcon': {'base': 'supcon'},
  'tarrl': {'strength': 1.0, 'inner_steps': 1, 'attack': 'base_gradient'},
}


def gradient(name):
  """Loss and gradient as a function of parameters and batch."""
  objective = linear.make(name.partition(',')[0], **OBJECTIVES[name])
  return lambda params, batch: linear.take(objective, params, batch)[:2]


@pytest.mark.parametrize('name', first(OBJECTIVES))
def test_eight_devices_find_what_one_finds(name, mesh):
  params, batch = linear.draw()
  expected = jax.jit(gradient(name))(params, batch)
  spread = jax.device_put(batch, sharding.by_rows(mesh))
  with target.spread_over(mesh):
    compiled = jax.jit(gradient(name)).lower(params, spread).compile()
  cases.close(compiled(params, spread), expected, rtol=1e-4)
  image = batch['views'][0, 0].nbytes
  moved = [
    c
    for c in hlo.Program(compiled.as_text()).collectives()
    if c.kind != 'all-reduce' and c.num_bytes >= 2 * image
  ]
  assert not moved


def test_joined_views_come_apart_again(mesh, rng):
  views = [rng.normal(size=(16, 3)) for _ in range(3)]
  for where in (None, mesh):
    apart = lambda *views: _contrast.split(_contrast.join(*views), 3)
    if where is not None:
      apart = functools.partial(_within, where, apart)
    found = apart(*map(jnp.asarray, views))
    for got, view in zip(found, views, strict=True):
      np.testing.assert_array_equal(got, view.astype(np.float32))


@pytest.mark.fast
def test_on_a_mesh_each_device_has_both_views_of_its_images(mesh):
  rows = jnp.arange(16)
  with target.spread_over(mesh):
    joined = _contrast.join(rows, rows + 100)
    ids = _contrast.instance_ids(joined)
  np.testing.assert_array_equal(joined % 100, ids)
  blocks = np.asarray(joined).reshape(8, 4)
  np.testing.assert_array_equal(blocks[:, :2] + 100, blocks[:, 2:])
  on_one = _contrast.join(rows, rows + 100)
  np.testing.assert_array_equal(on_one, np.r_[:16, 100:116])


def test_a_ring_hop_moves_one_device_s_rows(mesh, rng):
  rows = jnp.asarray(rng.normal(size=(256, 32)), jnp.float32)
  spread = jax.device_put(rows, NamedSharding(mesh, PartitionSpec('data')))
  with target.spread_over(mesh):
    loss = lambda rows: _contrast.infonce(rows, 0.5)
    compiled = jax.jit(jax.grad(loss)).lower(spread).compile()
  found = hlo.Program(compiled.as_text()).collectives()
  hops = [c for c in found if c.kind == 'collective-permute']
  assert sum(c.times for c in hops) >= 7
  block = rows.nbytes / 8
  assert max(c.num_bytes for c in hops) <= 2 * block + 1024
  assert all(c.num_bytes <= 64 for c in found if c not in hops)


def _within(mesh, fn, *args):
  with target.spread_over(mesh):
    return fn(*args)
