"""What the attacks of AutoAttack share: rows, their loop, the model's face.

Such an attack is a *program*: ``begin`` makes the state of a batch, ``step``
advances it once, and every leaf of the state has the batch axis first. The
jittable functions loop over ``step`` inside one computation; the driver calls
it from the host and drops finished rows in between.
"""

from collections.abc import Callable
import inspect
import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.attacks import _ascent, _checks, _projections


class Rows(NamedTuple):
  """The examples under attack.

  Attributes:
    inputs: Clean examples, ``[B, ...]``.
    labels: True classes, ``[B]``.
    targets: Class to move towards, ``[B]``; not read by untargeted losses.
    radius: Radius of the ball, rounded so as not to grow, ``[B, 1, ...]``.
    keys: One key a row, ``[B]``.
  """

  inputs: jax.Array
  labels: jax.Array
  targets: jax.Array
  radius: jax.Array
  keys: jax.Array


class Program(Protocol):
  """One attack as begin and step; ``phases`` counts the steps of each phase."""

  phases: tuple[int, ...]

  def begin(self, rows: Rows) -> Any:
    """State before the first step."""

  def resume(self, state: Any, phase: int) -> Any:
    """State at the start of a later phase."""

  def step(self, state: Any, phase: ArrayLike, index: ArrayLike) -> Any:
    """State after step ``index`` of a phase; both may be traced."""


def run(program: Program, rows: Rows, unroll: int | bool | None) -> Any:
  """Runs all phases in one computation; ``unroll=None`` keeps loops rolled."""
  unroll = 1 if unroll is None else unroll
  state = program.begin(rows)
  for phase, count in enumerate(program.phases):
    if phase:
      state = program.resume(state, phase)
    if count:
      steps = count if unroll is True else max(int(unroll), 1)
      with jax.named_scope('attack'):
        state = jax.lax.fori_loop(
          0,
          count,
          lambda i, s, phase=phase: program.step(s, phase, i),
          state,
          unroll=min(steps, count),
        )
  return state


def takes_keys(logits_fn: Callable) -> bool:
  """Whether a model wants one key an example as its second argument."""
  try:
    parameters = inspect.signature(logits_fn).parameters.values()
  except (TypeError, ValueError):  # A builtin without a signature.
    return False
  kinds = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
  )
  required = [p for p in parameters if p.kind in kinds and p.default is p.empty]
  return len(required) >= 2


def freeze(
  logits_fn: Callable, inputs: jax.Array, keys: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The model as ``(points, keys) -> logits``, float32 or wider, held constant.

  Args:
    logits_fn: Points ``[B, ...]`` to logits ``[B, K]``; a second required
      argument takes one key an example, ``[B]``.
    inputs: A batch that fixes shape and dtype.
    keys: Keys, ``[B]``.

  Returns:
    The function; it checks the shape of the logits.
  """
  if takes_keys(logits_fn):
    closed, constants = jax.closure_convert(logits_fn, inputs, keys)
  else:
    inner, constants = jax.closure_convert(logits_fn, inputs)
    closed = lambda points, keys, *constants: inner(points, *constants)
  constants = jax.lax.stop_gradient(constants)

  def frozen(points, keys):
    logits = closed(points, keys, *constants)
    check_logits(logits, points.shape[0])
    return _projections.widen(logits)

  return frozen


def check_logits(logits: Any, batch_size: int) -> None:
  """Raises unless the model gave ``[B, K]`` with at least two classes."""
  shape = getattr(logits, 'shape', None)
  if shape is None or len(shape) != 2 or shape[0] != batch_size or shape[1] < 2:
    raise ValueError(
      f'logits_fn must return logits of shape ({batch_size}, K), K >= 2, '
      f'got {shape if shape is not None else type(logits).__name__}'
    )


def classes(values: ArrayLike, batch_size: int, name: str) -> jax.Array:
  """Returns integer classes ``[B]``, else raises."""
  values = jnp.asarray(values)
  if not jnp.issubdtype(values.dtype, jnp.integer):
    raise TypeError(f'{name} must have an integer dtype, got {values.dtype}')
  if values.shape != (batch_size,):
    raise ValueError(
      f'{name} must have shape ({batch_size},), got {values.shape}'
    )
  return values


def prepare(
  logits_fn: Callable,
  key: jax.Array | None,
  inputs: ArrayLike,
  labels: ArrayLike,
  targets: ArrayLike | None,
  *,
  epsilon: ArrayLike,
  norm: str,
  bounds: tuple[float, float] | None,
  example_ids: ArrayLike | None,
) -> tuple[Callable, Rows]:
  """Checks what all these attacks take; returns frozen model and rows."""
  inputs = jax.lax.stop_gradient(_checks.inputs(inputs))
  _checks.norm(norm)
  _checks.radius(epsilon, inputs, _checks.bounds(bounds, inputs), norm)
  batch_size = inputs.shape[0]
  labels = classes(labels, batch_size, 'labels')
  if targets is not None:
    targets = classes(targets, batch_size, 'targets')
  if key is None:
    key = jax.random.key(0)
  keys = _ascent.row_keys(key, example_ids, batch_size)
  if isinstance(epsilon, jax.Array):
    epsilon = jax.lax.stop_gradient(epsilon)
  radius = _projections.radius_within(epsilon, inputs, norm)
  rows = Rows(
    inputs=inputs,
    labels=labels,
    targets=labels if targets is None else targets,
    radius=radius + zero_of(inputs),
    keys=keys,
  )
  return freeze(logits_fn, inputs, keys), rows


def zero_of(x: jax.Array) -> jax.Array:
  """Zero of each row, ``[B, 1, ...]``, wide, laid out over devices as ``x``."""
  axes = tuple(range(1, x.ndim))
  known = jnp.any(x == x, axis=axes, keepdims=True)
  return 0 * known.astype(_projections.widen(x).dtype)


def size_of(x: jax.Array) -> int:
  """Numbers in a row."""
  return math.prod(x.shape[1:])


def fold(keys: jax.Array, data: ArrayLike) -> jax.Array:
  """Folds one number into every row's key."""
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Whether the label has the first highest logit; never where any is NaN."""
  known = ~jnp.any(jnp.isnan(logits), axis=1)
  return known & (jnp.argmax(logits, axis=1).astype(labels.dtype) == labels)


def rows_where(
  condition: jax.Array, new: jax.Array, old: jax.Array
) -> jax.Array:
  """``where`` with one condition a row, ``[B]``."""
  shape = condition.shape + (1,) * (new.ndim - condition.ndim)
  return jnp.where(jnp.reshape(condition, shape), new, old)


def room(
  inputs: jax.Array, box: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
  """How far each coordinate may go down (<= 0) and up (>= 0)."""
  centre = _projections.widen(inputs)
  low, high = _projections.bounds_within(box, centre.dtype)
  return jnp.minimum(low - centre, 0), jnp.maximum(high - centre, 0)


def length(x: jax.Array, norm: str) -> jax.Array:
  """Norm of each row, ``[B, 1, ...]``."""
  axes = tuple(range(1, x.ndim))
  if norm == 'linf':
    return jnp.max(jnp.abs(x), axis=axes, keepdims=True)
  if norm == 'l1':
    return jnp.sum(jnp.abs(x), axis=axes, keepdims=True)
  scale = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
  safe = jnp.where(scale > 0, scale, 1)
  return scale * jnp.sqrt(jnp.sum((x / safe) ** 2, axis=axes, keepdims=True))


def flat(x: jax.Array) -> jax.Array:
  """``[B, ...]`` without its axes of size one: a value a row, ``[B]``."""
  return jnp.reshape(x, (x.shape[0],))


def is_traced(*values: Any) -> bool:
  """Whether any value has no concrete number yet."""
  return any(isinstance(v, jax.core.Tracer) for v in values)


def check_classes(values: Any, num_classes: int, name: str) -> None:
  """Raises if a concrete class lies outside the model's."""
  if is_traced(values):
    return
  values = np.asarray(values)
  if values.size and not (values.min() >= 0 and values.max() < num_classes):
    raise ValueError(
      f'{name} must lie in 0..{num_classes - 1}, '
      f'got {values.min()}..{values.max()}'
    )
