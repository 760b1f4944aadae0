"""Contrastive terms of each row against all others, with their own gradient.

The rows are sorted by class, so that ``_tiles`` meets few tiles with
positives. Between the passes only numbers of each row are kept; the backward
pass computes the similarities again. Beside the rows themselves that takes a
sorted copy, a gradient and a few tiles: O(N D + T^2) memory.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from rrl_jax import target
from rrl_jax.losses import _ring, _tiles


class _Order(NamedTuple):
  """How rows were sorted: padded position -> row, and row -> position."""

  source: jax.Array  # [n * T]
  place: jax.Array  # [N]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def terms(
  what: _tiles.Terms,
  tile_size: int | None,
  axis_name: str | None,
  z: jax.Array,
  labels: jax.Array,
  idents: jax.Array,
  valid: jax.Array,
  temperature: jax.Array,
) -> tuple[jax.Array | None, jax.Array | None]:
  """Supervised and class-conditional term of each row.

  Args:
    what: Which terms; static.
    tile_size: Rows of a tile, None for a good number.
    axis_name: Mapped axis whose devices hold more rows, or None.
    z: Rows, shape ``[N, D]``, floating.
    labels: Class of each row, integers ``[N]``; -1 is a class of the row's
      own views.
    idents: Instance of each row, integers ``[N]``.
    valid: Which rows exist, bool ``[N]``.
    temperature: Positive scalar.

  Returns:
    Two arrays ``[N]`` of at least float32, None for a term not wanted.
  """
  dtype = jnp.promote_types(z.dtype, jnp.float32)
  if not z.shape[0]:
    empty = jnp.zeros((0,), dtype) + 0 * jnp.sum(z.astype(dtype))
    return (
      empty if what.denominator else None,
      empty if what.conditional else None,
    )
  rows = _spec_of_rows(z)
  tau = jnp.asarray(temperature, dtype)
  args = [replicated(x) for x in (z, labels, idents, valid, tau)]
  args = _equally_varying(args)
  tile = tile_size or default_tile_size(z.shape[0])
  out = _terms(what, min(tile, z.shape[0]), axis_name, *args)
  if rows is None:
    return out
  return jax.tree.map(lambda x: jax.sharding.reshard(x, rows), out)


def default_tile_size(num_rows: int) -> int:
  """Rows of a tile, a compromise of speed and memory for this backend."""
  largest = 256 if target.platform() == 'cpu' else 1024
  if num_rows <= largest:
    return num_rows
  # The last tile is to be nearly full.
  count = -(-num_rows // largest)
  return min(largest, -(-num_rows // count // 8) * 8)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _terms(what, tile, axis_name, z, labels, idents, valid, tau):
  out, _ = _forward(what, tile, axis_name, z, labels, idents, valid, tau)
  return out


def _forward(what, tile, axis_name, z, labels, idents, valid, tau):
  order = _sort(tile, labels, idents, valid)
  block = _arrange(tile, order, z, labels, idents, valid, tau)
  scale = _tiles.make_scale(block, tau, axis_name)
  like = functools.partial(_like, z)
  shape = block.valid.shape

  step = _tiles.sums_step(what, scale)
  sums = like(_tiles.empty_sums(what, scale, shape))
  sums = _tiles.sweep_within(block, step, sums)
  if axis_name is not None:
    meet = lambda other, sums: _tiles.sweep_across(
      block, other, step, sums, {}
    )[0]
    sums = _ring.visit(block, meet, sums, axis_name)

  margins = like(_tiles.empty_margins(what, shape, tau.dtype))
  if margins:
    step = _tiles.margins_step(scale)
    state = margins, _tiles.log_of_negatives(sums)
    state = _tiles.sweep_within(block, step, state)
    if axis_name is not None:
      meet = lambda other, state: _tiles.sweep_across(
        block, other, step, state, {}
      )[0]
      state = _ring.visit(block, meet, state, axis_name)
    margins = state[0]

  out = _tiles.losses_of(what, sums, margins)
  out = jax.tree.map(lambda x: _pick(x.reshape(-1), order.place), out)
  # A masked row has sums of its own, of no pairs: its losses are zero.
  return out, (order, block, sums, margins, scale, tau, z)


def _backward(what, tile, axis_name, residuals, cotangents):
  order, block, sums, margins, scale, tau, z = residuals
  place = lambda g: _tiles.cut(_pick(g.astype(tau.dtype), order.source), tile)
  # A masked row has no pairs; padding must not repeat the row it copies.
  cotangents = [
    None if g is None else jnp.where(block.valid, place(g), 0)
    for g in cotangents
  ]
  slopes = _tiles.slopes(what, sums, margins, *cotangents)
  grad = _like(block.z, jnp.zeros(block.z.shape, tau.dtype))
  step = _tiles.slopes_step(what, scale, across=False)
  grad, _ = _tiles.sweep_within(block, step, (grad, slopes))
  # <z, grad> is the sum of G s, twice where both rows are anchors here.
  power = _inner(block.z, grad) / 2
  if axis_name is not None:
    step = _tiles.slopes_step(what, scale, across=True)

    def meet(other, luggage, grad):
      rows, luggage = _tiles.sweep_across(
        block, other, step, (grad, slopes), luggage
      )
      return luggage, rows[0]

    nothing = jnp.zeros_like(grad)
    luggage, more = _ring.visit_and_return(
      block, nothing, meet, nothing, axis_name
    )
    power = power + _inner(block.z, more)
    grad = grad + luggage + more
  # Similarity is z z / tau: its derivatives are z / tau and - z z / tau^2.
  d_tau = -power * scale.inverse * scale.inverse
  d_z = _pick(grad.reshape(-1, z.shape[-1]), order.place) * scale.inverse
  inside = jnp.abs(z.astype(tau.dtype)) < _bound(tau, z.shape[-1])
  d_z = jnp.where(inside, d_z, 0).astype(z.dtype)
  return d_z, None, None, None, d_tau


_terms.defvjp(_forward, _backward)


def _pick(x, rows):
  # Without a promise the gather is copied once more for rows out of bounds.
  return x.at[rows].get(mode='promise_in_bounds')


def _inner(z, grad):
  return jnp.sum(z.astype(grad.dtype) * grad)


def _bound(tau, dim):
  """Entries beyond it count as it, so that no similarity overflows."""
  return jnp.sqrt(_tiles.LARGEST * jnp.minimum(tau, 1) / max(dim, 1))


def _sort(tile, labels, idents, valid) -> _Order:
  """Masked rows last, then by class and instance."""
  num = labels.shape[0]
  index = lax.iota(jnp.int32, num)
  keys = (~valid, labels, idents, index)
  *_, source = lax.sort(keys, num_keys=3)
  _, place = lax.sort((source, index), num_keys=1)
  return _Order(jnp.pad(source, (0, -num % tile)), place)


def _arrange(tile, order, z, labels, idents, valid, tau):
  """The sorted, padded block."""
  num = labels.shape[0]
  dtype = tau.dtype
  bound = _bound(tau, z.shape[-1])
  exists = lax.iota(jnp.int32, order.source.shape[0]) < num
  pick = lambda x: _pick(x, order.source)
  clipped = jnp.clip(z.astype(dtype), -bound, bound).astype(z.dtype)
  return _tiles.make_block(
    pick(clipped), pick(labels), pick(idents), pick(valid) & exists, tile
  )


# How arrays are laid out over devices.


def _spec_of_rows(z):
  """The explicit sharding of the rows, or None if there is none."""
  sharding = jax.typeof(z).sharding
  if all(part is None for part in sharding.spec):
    return None
  return jax.sharding.NamedSharding(sharding.mesh, P(sharding.spec[0]))


def replicated(x):
  """Lets every device of an explicit mesh have all rows."""
  sharding = jax.typeof(x).sharding
  if all(part is None for part in sharding.spec):
    return x
  whole = jax.sharding.NamedSharding(sharding.mesh, P(*(None,) * x.ndim))
  return jax.sharding.reshard(x, whole)


def _varying(x):
  return jax.typeof(x).manual_axis_type.varying


def _vary(x, axes):
  missing = tuple(sorted(axes - _varying(x)))
  return lax.pcast(x, missing, to='varying') if missing else x


def _equally_varying(xs):
  """Marks all as varying over the axes that any of them varies over."""
  axes = frozenset().union(*map(_varying, xs))
  return [_vary(x, axes) for x in xs]


def _like(z, tree):
  """Marks constants as varying over the mapped axes of ``z``."""
  return jax.tree.map(lambda x: _vary(x, _varying(z)), tree)
