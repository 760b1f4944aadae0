"""Rows of a batch: masks, and quantities over the batch of all devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rrl_jax.losses import _checks


def mask(where: Any, like: jax.Array) -> jax.Array:
  """``where`` as booleans of shape ``[B]``; all True for None.

  Args:
    where: Boolean mask or None.
    like: Array whose first axis are the rows.

  Raises:
    ValueError: The mask has another shape than ``[B]``.
  """
  rows = like.shape[:1]
  if where is None:
    return jnp.ones_like(like, shape=rows, dtype=bool)
  where = jnp.asarray(where, bool)
  if where.shape != rows:
    raise ValueError(f'where must have shape {rows}, got {where.shape}')
  return where


def keep(rows: jax.Array, x: jax.Array) -> jax.Array:
  """Zeroes masked rows, so that whatever stood there does no harm."""
  return jnp.where(rows.reshape(rows.shape + (1,) * (x.ndim - 1)), x, 0)


def flat(x: jax.Array) -> jax.Array:
  """``[B, ...] -> [B, D]``."""
  return x.reshape(x.shape[0], -1)


def batched(name: str, x: Any) -> jax.Array:
  """Returns ``x`` as a floating array with a batch axis, else raises."""
  x = _checks.floating(name, x)
  if x.ndim == 0:
    raise ValueError(f'{name} must have a batch axis, got a scalar')
  return x


def whole(x: jax.Array, axis_name: Any) -> jax.Array:
  """Rows of all devices on each of them.

  Args:
    x: Rows of this device, ``[B]``.
    axis_name: Mapped axis over which the batch is spread, or None; then
      ``x`` is the whole batch, which Explicit axes may hold in parts.

  Returns:
    ``[devices * B]`` in the order of the axis, or ``[B]``.
  """
  if axis_name is not None:
    return jax.lax.all_gather(x, axis_name, tiled=True)
  if any(part is not None for part in _spec(x)):
    return jax.sharding.reshard(x, PartitionSpec(None))
  return x


def own(x: jax.Array, like: jax.Array, axis_name: Any) -> jax.Array:
  """Undoes ``whole`` for an array of the whole batch's shape.

  Args:
    x: ``[devices * B]`` or ``[B]``.
    like: Rows of this device, ``[B]``.
    axis_name: As for ``whole``.

  Returns:
    ``[B]``, sharded as ``like``.
  """
  if axis_name is not None:
    start = jax.lax.axis_index(axis_name) * like.size
    return jax.lax.dynamic_slice_in_dim(x, start, like.size)
  if any(part is not None for part in _spec(like)):
    return jax.sharding.reshard(x, PartitionSpec(*_spec(like)))
  return x


def mean_scale(rows: jax.Array, axis_name: Any) -> jax.Array:
  """What turns terms of a sum over the whole batch into terms of a mean.

  The mean over this device's unmasked rows of ``scale * term``, averaged over
  devices, is the sum of all unmasked terms.
  """
  scale = jnp.sum(rows).astype(jnp.float32)
  return scale if axis_name is None else scale * jax.lax.axis_size(axis_name)


def risk(
  losses: jax.Array,
  weights: jax.Array,
  rows: jax.Array,
  penalty: jax.Array,
  axis_name: Any,
) -> jax.Array:
  """Weighted risk less a constant, the same value on each device.

  Its gradient is that of the mean of ``weights * losses`` over this device's
  unmasked rows, so that its pmean has the gradient of the global risk.
  """
  # Divided before they are added: sums of the largest losses overflow.
  shares = weights / jnp.maximum(jnp.sum(rows), 1).astype(weights.dtype)
  local = jnp.sum(jnp.where(rows, shares * losses, 0))
  shared = jax.lax.stop_gradient(local)
  if axis_name is not None:
    shared = jax.lax.psum(shared / jax.lax.axis_size(axis_name), axis_name)
  return shared - penalty + (local - jax.lax.stop_gradient(local))


def _spec(x):
  spec = jax.typeof(x).sharding.spec
  return tuple(spec) + (None,) * (x.ndim - len(spec))
