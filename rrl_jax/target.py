"""What a program is traced for: the platform, and the mesh it is spread over.

Loops are written out for the CPU and rolled for accelerators; a program that
is compiled here to run elsewhere has to be traced as it will be there. And
rows that are spread over a mesh are best put together and compared where they
lie.
"""

from collections.abc import Iterator
import contextlib
import contextvars

import jax
from jax.sharding import Mesh

_PLATFORM = contextvars.ContextVar('platform', default=None)
_MESH = contextvars.ContextVar('mesh', default=None)


def platform() -> str:
  """``'cpu'``, ``'tpu'``, ``'gpu'``, ...: where traced code is to run."""
  return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def traced_for(name: str) -> Iterator[None]:
  """Whatever is traced inside is meant for that platform.

  JAX's traces and programs are dropped on the way in and out, since they do
  not know what they were meant for.

  Args:
    name: The platform.
  """
  jax.clear_caches()
  token = _PLATFORM.set(name)
  try:
    yield
  finally:
    _PLATFORM.reset(token)
    jax.clear_caches()


def mesh() -> Mesh | None:
  """The mesh whose axis ``'data'`` the batch is split over, if it is known."""
  return _MESH.get()


@contextlib.contextmanager
def spread_over(mesh: Mesh) -> Iterator[None]:
  """Batches of what is traced inside are split over this mesh.

  Args:
    mesh: A mesh with an axis ``'data'``.
  """
  token = _MESH.set(mesh)
  try:
    yield
  finally:
    _MESH.reset(token)
