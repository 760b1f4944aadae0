"""An encoder over a whole set: batches of one shape, padding, many devices."""

import collections
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Self

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from rrl_jax import typing
from rrl_jax.data import augment
from rrl_jax.data.source import Images


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """Any network, in evaluation mode, as a function of its variables.

  Attributes:
    apply: Pure function ``(variables, images [B, H, W, C]) ->
      (logits [B, K], features [B, D])``; row i depends on image i alone;
      images are float32 in [0, 1].
    variables: A pytree of arrays; with a mesh of several processes, global.
    batch_size: Examples in a batch; rounded up to a multiple of the devices.
    mesh: Shards batches over its 'data' axis; None uses the default device.
      All processes of the mesh call alike and with the same rows.
    network: The same network in either mode, for evaluations that train it on,
      or None. ``variables`` is ``(params, model_state)`` then, and
      ``network(*variables, images, train=False)`` has the results of ``apply``.
    feature_bounds: Certified bounds of the features over boxes of images:
      ``(variables, lower [B, H, W, C], upper [B, H, W, C]) ->
      (lower [B, D], upper [B, D])``, so that for every image with ``lower <=
      image <= upper`` in each pixel the features of ``apply`` lie between.
  """

  apply: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
  variables: Any
  batch_size: int = 256
  mesh: Mesh | None = None
  network: typing.ApplyFn | None = None
  feature_bounds: (
    Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None
  ) = None
  _jitted: dict = dataclasses.field(default_factory=dict, repr=False)
  _encoding: dict = dataclasses.field(default_factory=dict, repr=False)
  _predicted: dict = dataclasses.field(default_factory=dict, repr=False)

  def with_variables(self, variables: Any) -> Self:
    """The same network with other variables; nothing is compiled anew."""
    return dataclasses.replace(self, variables=variables, _predicted={})

  def remembered(
    self,
    name: str,
    made: Any,
    settings: Mapping[str, Any],
    key: jax.Array | None = None,
  ) -> Any:
    """What was made first under a name, with such settings and such a key.

    An evaluator that is called again makes its functions again. They would be
    compiled again too, and each program stays, if the first one were not used.

    Args:
      name: Of the evaluator and the function.
      made: A function to map, or an encoder, that depends on ``apply``, the
        settings and the key alone.
      settings: All that it closes over.
      key: Key that it closes over, or None.

    Returns:
      ``made``, or what was given before in its place.
    """
    words = None
    if key is not None:
      words = tuple(np.asarray(jax.random.key_data(key)).tolist())
    return self._jitted.setdefault(
      ('made', name, self.apply, repr(dict(settings)), words), made
    )

  def predict(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features of a set, computed once and then remembered.

    Args:
      images: ``[N, H, W, C]``, in memory or lazy.

    Returns:
      ``(logits [N, K], features [N, D])``, float32; not to be written to.
    """
    # The entry holds the images too, so that their id stays theirs.
    if id(images) not in self._predicted:
      self._predicted[id(images)] = (images, self.encode(images))
    return self._predicted[id(images)][1]

  def encode(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """As `predict`, for a set that is asked for once: nothing is remembered."""
    return self.map_batches(self._encode(), images)

  def _encode(self):
    """``apply`` on images of any dtype; one function for all variables."""
    apply = self.apply

    def encode(variables, images):
      return _outputs(apply(variables, augment.to_float(images)), len(images))

    return self._encoding.setdefault(apply, encode)

  def map_batches(
    self,
    fn: Callable[..., Any],
    *rows: Images | np.ndarray,
    batch_size: int | None = None,
  ) -> Any:
    """Maps a function of a batch over rows.

    The last batch is padded with copies of its first row and the results of
    those are dropped, so one shape compiles and no row counts twice. A
    function is compiled once, however often it is mapped.

    Args:
      fn: Pure function ``(variables, *batch) -> pytree``, every leaf with one
        row for each row of the batch; row i depends on row i alone.
      *rows: Arrays or lazy images with N rows each, N at least 1.
      batch_size: Instead of the encoder's.

    Returns:
      The pytree with NumPy leaves of N rows.

    Raises:
      ValueError: No rows, or arrays that differ in their number.
    """
    total = len(rows[0])
    if total == 0 or any(len(r) != total for r in rows):
      raise ValueError(f'rows of lengths {[len(r) for r in rows]}')
    size = batch_size or self.batch_size
    devices = 1 if self.mesh is None else self.mesh.shape['data']
    size = -(-size // devices) * devices
    run = self.mapped(fn)
    pending, done = collections.deque(), []
    for start in range(0, total, size):
      indices = np.arange(start, min(start + size, total))
      padding = np.full(size - len(indices), start)
      padded = np.concatenate([indices, padding])
      batch = [self.take(r, padded) for r in rows]
      pending.append(run(self.variables, *batch))
      if len(pending) > 2:  # The host prepares while the devices compute.
        done.append(jax.device_get(pending.popleft()))
    done.extend(jax.device_get(p) for p in pending)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:total], *done)

  def mapped(self, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Jits what `map_batches` maps, once.

    The results stay where their rows are, and so does all that leads to them;
    with several processes they are put together at the end.
    """
    if self.mesh is None:
      return self.compiled(fn)
    if ('mapped', fn) not in self._jitted:
      rows = NamedSharding(self.mesh, PartitionSpec('data'))

      def by_rows(*args):
        return jax.tree.map(
          lambda leaf: jax.lax.with_sharding_constraint(leaf, rows), fn(*args)
        )

      whole = NamedSharding(self.mesh, PartitionSpec())
      self._jitted['mapped', fn] = jax.jit(
        by_rows, out_shardings=whole if self.mesh.is_multi_process else rows
      )
    return self._jitted['mapped', fn]

  def compiled(self, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Jits ``fn`` once; its results come back whole on every process."""
    if fn not in self._jitted:
      whole = None
      if self.mesh is not None:
        whole = NamedSharding(self.mesh, PartitionSpec())
      self._jitted[fn] = jax.jit(fn, out_shardings=whole)
    return self._jitted[fn]

  def take(
    self, rows: Images | np.ndarray, indices: np.ndarray
  ) -> np.ndarray | jax.Array:
    """Puts ``rows[indices]`` on the devices, split over the 'data' axis.

    Each process reads what its devices hold. What does not divide among the
    devices goes whole to each.
    """
    if self.mesh is None:
      return np.asarray(rows[indices])
    total = len(indices)
    even = total % self.mesh.shape['data'] == 0
    where = NamedSharding(
      self.mesh, PartitionSpec('data') if even else PartitionSpec()
    )
    parts = where.addressable_devices_indices_map((total,)).values()
    here = np.unique(np.concatenate([np.arange(total)[part] for part in parts]))
    block = np.asarray(rows[indices[here]])

    def read(index):
      first, last, _ = index[0].indices(total)
      at = np.searchsorted(here, first)
      return block[at : at + last - first]

    return jax.make_array_from_callback((total, *block.shape[1:]), where, read)


def _outputs(found, num_images):
  """Logits and features of a batch, or ValueError that says what came."""
  what = type(found).__name__
  if isinstance(found, dict):
    what = f'a dict of {", ".join(map(str, found))}'
  elif isinstance(found, tuple | list):
    shapes = [str(getattr(x, 'shape', type(x).__name__)) for x in found]
    what = f'{len(shapes)} values of shapes {", ".join(shapes)}'
    right = all(
      len(getattr(x, 'shape', ())) == 2 and len(x) == num_images for x in found
    )
    if len(found) == 2 and right:
      return tuple(found)
  elif hasattr(found, 'shape'):
    what = f'one array of shape {found.shape}'
  raise ValueError(
    f'apply must return (logits [{num_images}, K], features [{num_images}, D]),'
    f' got {what}'
  )
