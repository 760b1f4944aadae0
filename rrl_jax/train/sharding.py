"""The one place that makes a mesh and says where arrays lie on it."""

from collections.abc import Sequence
import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from rrl_jax.errors import ConfigError
from rrl_jax.train.state import TrainState


def make_mesh(
  num_devices: int = -1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns a mesh with one axis, ``'data'``, over devices of all processes.

  The axis is Auto: under Explicit axes, JAX's default, a Gram matrix or a
  gather by label would need a sharding written at each call.

  Args:
    num_devices: How many devices to use; -1 for all there are.
    devices: Those there are; None for the ones of this job.

  Raises:
    ConfigError: There are fewer devices, or ``num_devices`` is no size, or it
      leaves a process without any.
  """
  processes = 1 if devices is not None else jax.process_count()
  devices = jax.devices() if devices is None else devices
  if num_devices == -1:
    num_devices = len(devices)
  if not 0 < num_devices <= len(devices):
    raise ConfigError(
      f'mesh.data={num_devices}: there are {len(devices)} devices'
      ' (-1 takes all)'
    )
  used = {device.process_index for device in devices[:num_devices]}
  if len(used) < processes:
    raise ConfigError(
      f'mesh.data={num_devices}: only {len(used)} of {processes} processes'
      ' have one of these devices (-1 takes all)'
    )
  return jax.make_mesh(
    (num_devices,),
    ('data',),
    axis_types=(AxisType.Auto,),
    devices=devices[:num_devices],
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
  """The leading axis split over the devices."""
  return NamedSharding(mesh, PartitionSpec('data'))


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Which rows of a batch this process's devices hold, in rising order.

  Devices of one process need not be neighbours on the mesh.
  """
  rows = np.arange(batch_size)
  parts = by_rows(mesh).addressable_devices_indices_map(rows.shape).values()
  return np.unique(np.concatenate([rows[part] for part in parts]))


def of_state(mesh: Mesh, state: TrainState, least: int) -> TrainState:
  """Where the parts of a state lie between two steps.

  Weights, their average and the optimizer's state are split over the devices,
  each array along its longest axis that divides among them. What the network
  and the adversary remember is copied.

  Args:
    mesh: The mesh.
    state: Arrays or shapes.
    least: Numbers in an array from which on it is split; 0 splits none.

  Returns:
    The state with a sharding for each array.
  """
  copied = jax.tree.map(lambda leaf: replicated(mesh), state)
  if not least:
    return copied
  split = lambda tree: jax.tree.map(
    lambda leaf: _split_evenly(mesh, leaf.shape, least), tree
  )
  return copied.replace(
    params=split(state.params),
    opt_state=split(state.opt_state),
    ema_params=split(state.ema_params),
  )


def _split_evenly(mesh, shape, least):
  """Splits an array along one axis, or copies it."""
  size = mesh.shape['data']
  even = [axis for axis, length in enumerate(shape) if length % size == 0]
  if not even or math.prod(shape) < least:
    return replicated(mesh)
  longest = max(even, key=lambda axis: shape[axis])
  return NamedSharding(mesh, PartitionSpec(*[None] * longest, 'data'))


def put_rows(mesh: Mesh, rows: np.ndarray, batch_size: int) -> jax.Array:
  """Puts this process's rows of a global batch on its devices.

  Args:
    mesh: The mesh.
    rows: The `local_rows` of the batch, shape ``[n, ...]``.
    batch_size: Rows of the batch over all processes, B.

  Returns:
    The global array ``[B, ...]``, split by rows.
  """
  here = local_rows(mesh, batch_size)

  def read(index):
    first, last, _ = index[0].indices(batch_size)
    at = np.searchsorted(here, first)
    return rows[at : at + last - first]

  return jax.make_array_from_callback(
    (batch_size, *rows.shape[1:]), by_rows(mesh), read
  )


def put_copy(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """Puts the same host array on every device."""
  return jax.make_array_from_process_local_data(
    replicated(mesh), array, array.shape
  )
