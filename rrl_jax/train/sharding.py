"""The one place that makes a mesh and says where arrays lie on it."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from rrl_jax.errors import ConfigError


def make_mesh(num_devices: int = -1) -> Mesh:
  """Returns a mesh with one axis, ``'data'``, over devices of all processes.

  The axis is Auto: under Explicit axes, JAX's default, a Gram matrix or a
  gather by label would need a sharding written at each call.

  Args:
    num_devices: How many devices to use; -1 for all there are.

  Raises:
    ConfigError: There are fewer devices, or ``num_devices`` is no size.
  """
  devices = jax.devices()
  if num_devices == -1:
    num_devices = len(devices)
  if not 0 < num_devices <= len(devices):
    raise ConfigError(
      f'mesh.data={num_devices}: there are {len(devices)} devices'
      ' (-1 takes all)'
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


def put_rows(mesh: Mesh, rows: np.ndarray) -> jax.Array:
  """Puts this process's rows of a global batch on its devices.

  Args:
    mesh: The mesh.
    rows: This process's slice of the batch, shape ``[B / processes, ...]``.

  Returns:
    The global array ``[B, ...]``, split by rows.
  """
  return jax.make_array_from_process_local_data(by_rows(mesh), rows)


def put_copy(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """Puts the same host array on every device."""
  return jax.make_array_from_process_local_data(
    replicated(mesh), array, array.shape
  )
