"""Square: random search over square patches, without gradients."""

from collections.abc import Callable
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.attacks import (
  _apgd,
  _checks,
  _logit_losses,
  _program,
  _projections,
)

# Queries up to which the share of pixels stays at init_share / 2**position.
_SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_FULL = 10000  # Queries the schedule was made for.
_GUARD = 1e-12


class SquareResult(NamedTuple):
  """What the random search found.

  Attributes:
    adv_inputs: Misclassified points; the clean input where none was found or
      where it is misclassified itself, ``[B, ...]``.
    robust: Whether clean input and search end in the right class, ``[B]``.
    best_inputs: Points of smallest margin, ``[B, ...]``.
    num_queries: Evaluations spent on the example until it was misclassified,
      int32, ``[B]``.
  """

  adv_inputs: jax.Array
  robust: jax.Array
  best_inputs: jax.Array
  num_queries: jax.Array


def square(
  logits_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array | None,
  inputs: ArrayLike,
  labels: ArrayLike,
  *,
  epsilon: ArrayLike,
  norm: str = 'linf',
  num_queries: int = 5000,
  init_share: float = 0.8,
  rescale_schedule: bool = False,
  bounds: tuple[float, float] | None = (0.0, 1.0),
  num_restarts: int = 1,
  example_ids: ArrayLike | None = None,
  unroll: int | bool | None = None,
) -> SquareResult:
  r"""Square attack: random patches that lower the margin are kept.

  The margin is :math:`z_y - \max_{i \ne y} z_i`. Each query changes one
  square window at a random place, of a side that covers a share p of the
  pixels, and is kept if the margin falls or is not positive. p is
  ``init_share`` up to query 10, then a half, a quarter, ... of it up to 50,
  200, 500, 1000, 2000, 4000, 6000, 8000. An example stops once its margin is
  not positive.

  * linf: starts at vertical stripes of ±epsilon; a window moves by ±2 epsilon,
    one sign a channel, within ball and bounds.
  * l2, l1: starts at a grid of opposite bumps; a window takes, in each
    channel, the mass of two windows and what is left of the budget, as a new
    bump added to the old shape.

  The result is under stop_gradient.

  Args:
    logits_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to logits
      ``[B, K]``.
    key: Typed PRNG key; None for key 0.
    inputs: Clean examples within the bounds, images ``[B, H, W, C]``, float.
      Three axes are images without channels; any other number is taken as one
      row of pixels, whose windows are intervals.
    labels: True classes, integers, ``[B]``.
    epsilon: Radius of the ball, non-negative: a scalar or one an example.
    norm: One of linf, l2, l1.
    num_queries: Number of queries after the start, static, may be 0.
    init_share: Share of pixels in the first windows, in (0, 1].
    rescale_schedule: Whether to stretch or shrink the schedule, made for
      10,000 queries, to ``num_queries``; AutoAttack does not.
    bounds: Least and greatest value of a coordinate, or None.
    num_restarts: Number of runs, of which the first success and the smallest
      margin are kept.
    example_ids: Integers ``[B]`` that key the randomness of each row, by
      default its position.
    unroll: Queries to write out in the compiled loop; None for none.

  Returns:
    A :class:`SquareResult`; its points lie within ball and bounds in exact
    arithmetic, in every dtype.

  Raises:
    TypeError: Inputs are not floating, classes not integer, or a count is not
      a static integer.
    ValueError: Unknown norm, bad shapes, classes out of range, a share out of
      range, negative static radius, bounds out of order, or a ``logits_fn``
      that does not return ``[B, K]``.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> def logits_fn(x):
    ...   return jnp.stack([0 * x[:, 0, 0, 0], x.mean((1, 2, 3)) - 0.6], axis=1)
    >>> result = attacks.square(
    ...   logits_fn, jax.random.key(0), jnp.full((1, 4, 4, 1), 0.5),
    ...   jnp.array([0]), epsilon=0.125, num_queries=200)
    >>> print(result.robust)
    [False]

  References:
    Andriushchenko et al., `Square Attack: a query-efficient black-box
    adversarial attack via random search <https://arxiv.org/abs/1912.00049>`_,
    2020; the l1 form in Croce and Hein, `Mind the box
    <https://arxiv.org/abs/2103.01208>`_, 2021.

  .. note::
    The authors' code draws place and colours of a window once for the whole
    batch; here each example has its own, so that its result does not depend
    on its batch. As there, a window never touches the last row and column
    unless it fills the image. Ours: images with a side below 5 in l2 and l1,
    inputs that are not images, and radii smaller by a few ulps.
  """
  frozen, rows = _program.prepare(
    logits_fn,
    key,
    inputs,
    labels,
    None,
    epsilon=epsilon,
    norm=norm,
    bounds=bounds,
    example_ids=example_ids,
  )
  inputs = rows.inputs
  _checks.count('num_queries', num_queries, 0)
  _checks.count('num_restarts', num_restarts, 1)
  if not 0 < init_share <= 1:
    raise ValueError(f'init_share must lie in (0, 1], got {init_share}')
  box = _checks.bounds(bounds)
  logits = frozen(inputs, rows.keys)
  _program.check_classes(labels, logits.shape[1], 'labels')

  program = Program(
    frozen,
    norm=norm,
    num_queries=num_queries,
    init_share=init_share,
    rescale=rescale_schedule,
    box=box,
  )
  broken = ~_program.correct(logits, rows.labels)
  adv_inputs, lowest = inputs, None
  for restart in range(num_restarts):
    keys = _apgd.restart_keys(rows.keys, restart)
    state = _program.run(program, rows._replace(keys=keys), unroll)
    points = state.adv
    adv_inputs = _program.rows_where(state.broken & ~broken, points, adv_inputs)
    if lowest is None:
      lowest, best_inputs, queries = state.margin, points, state.queries
    else:
      queries = queries + jnp.where(broken, 0, state.queries)
      lower = state.margin < lowest
      lowest = jnp.where(lower, state.margin, lowest)
      best_inputs = _program.rows_where(lower, points, best_inputs)
    broken = broken | state.broken
  return jax.lax.stop_gradient(
    SquareResult(adv_inputs, ~broken, best_inputs, queries)
  )


class State(NamedTuple):
  """The search between two queries; every leaf has the batch axis first."""

  rows: _program.Rows
  delta: jax.Array  # Shape [B, H, W, C].
  margin: jax.Array
  adv: jax.Array  # The point of delta.
  broken: jax.Array
  queries: jax.Array

  @property
  def done(self) -> jax.Array:
    """Whether the search of a row is over."""
    return self.broken | (self.margin <= 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """Square as begin and step.

  Attributes:
    model: ``(points, keys) -> logits``, frozen.
    draw: ``(keys [B], query, count) -> uniforms [B, count]``; query -1 is the
      start.
    rest: The arguments of ``square``.
  """

  model: Callable = dataclasses.field(kw_only=False)
  norm: str
  num_queries: int
  box: tuple[float, float]
  init_share: float = 0.8
  rescale: bool = False
  draw: Callable | None = None

  @property
  def phases(self) -> tuple[int, ...]:
    """Steps of each phase."""
    return (self.num_queries,)

  def begin(self, rows: _program.Rows) -> State:
    """The state at the stripes or bumps."""
    down, up = self._room(rows)
    radius = _as_images(rows.radius)
    batch, height, width, channels = down.shape
    if self.norm == 'linf':
      uniforms = self._uniforms(rows, -1, width * channels, down.dtype)
      # One sign an image, channel and column; drawn channel by channel.
      signs = jnp.reshape(_signs(uniforms), (batch, channels, width))
      signs = jnp.swapaxes(signs, 1, 2)[:, None]
      delta = jnp.clip(radius * signs, down, up) + 0 * down
    else:
      delta = self._into(rows, self._bumps(rows, down), radius)
    points, wrong, margin = self._look(rows, delta)
    return State(
      rows=rows,
      delta=delta,
      margin=margin,
      adv=points,
      broken=wrong,
      queries=1 + 0 * wrong.astype(jnp.int32),
    )

  def resume(self, state: State, phase: int) -> State:
    """There is one phase."""
    raise NotImplementedError

  def step(self, state: State, phase: ArrayLike, index: ArrayLike) -> State:
    """One query."""
    del phase
    rows = state.rows
    down, up = self._room(rows)
    radius = _as_images(rows.radius)
    shape = down.shape
    level = jnp.sum(
      jnp.asarray(self._limits(self.num_queries)) < jnp.asarray(index)
    )
    if self.norm == 'linf':
      uniforms = self._uniforms(rows, index, 2 + shape[3], down.dtype)
      window = self._window(uniforms[:, :2], level, shape)
      signs = _signs(uniforms[:, None, None, 2:])
      change = jnp.where(window[..., None], 2 * radius * signs, 0)
      delta = jnp.clip(
        jnp.clip(state.delta + change, -radius, radius), down, up
      )
    else:
      uniforms = self._uniforms(rows, index, 5 + shape[3], down.dtype)
      delta = self._moved(state.delta, uniforms, level, radius)
      delta = self._into(rows, delta, radius)
    points, wrong, margin = self._look(rows, delta)
    keep = ~state.done & ((margin < state.margin) | (margin <= 0) | wrong)
    return state._replace(
      delta=_program.rows_where(keep, delta, state.delta),
      margin=jnp.where(keep, margin, state.margin),
      adv=_program.rows_where(keep, points, state.adv),
      broken=jnp.where(keep, wrong, state.broken),
      queries=state.queries + ~state.done,
    )

  def _look(self, rows, delta):
    """Points, whether they are misclassified, and their margins."""
    delta = jnp.reshape(delta, rows.inputs.shape)
    points = _projections.apply_delta(rows.inputs, delta, self.box)
    logits = self.model(points, rows.keys)
    margin = -_logit_losses.evaluate('margin', logits, rows.labels, None)
    return points, ~_program.correct(logits, rows.labels), margin

  def _room(self, rows):
    down, up = _program.room(rows.inputs, self.box)
    return _as_images(down), _as_images(up)

  def _into(self, rows, delta, radius):
    """The perturbation of full length (l2) or projected (l1), in the box."""
    if self.norm == 'l2':
      size = _program.length(delta, 'l2')
      return jnp.clip(radius * delta / (size + _GUARD), *self._room(rows))
    centre = _as_images(_projections.widen(rows.inputs))
    radius = radius * (1 - 1e-6)  # As the authors have it.
    return _projections.project_delta(
      delta, centre, radius=radius, norm='l1', box=self.box
    )

  def _uniforms(self, rows, query, count, dtype):
    if self.draw is not None:
      return self.draw(rows.keys, query, count).astype(dtype)
    keys = _program.fold(rows.keys, jnp.asarray(query) + 1)
    draw = lambda key: jax.random.uniform(key, (count,), jnp.float32)
    return jax.vmap(draw)(keys).astype(dtype)

  def _limits(self, num_queries):
    """Queries beyond which the share of pixels halves."""
    if not self.rescale:
      return np.asarray(_SCHEDULE, np.int32)
    queries = np.arange(num_queries)
    scaled = (queries / max(num_queries, 1) * _FULL).astype(int)
    return np.asarray([np.sum(scaled <= t) - 1 for t in _SCHEDULE], np.int32)

  def _sides(self, shape) -> np.ndarray:
    """Height and width of the window at each level, ``[10, 2]``."""
    _, height, width, _ = shape
    found = []
    for level in range(len(_SCHEDULE) + 1):
      share = self.init_share / 2**level
      side = round((share * height * width) ** 0.5)
      if height == 1:
        side = round(share * width)
      if self.norm == 'linf':
        side = max(side, 1)
      else:
        side = max(side, 3)
        side += side % 2 == 0
      if height == 1:
        found.append((1, min(side, width)))
      else:
        found.append((min(side, height, width),) * 2)
    return np.asarray(found, np.int32)

  def _corner(self, uniforms, level, shape):
    """Top left corner of each window, ``[B, 2]``."""
    sides = jnp.asarray(self._sides(shape))[level]
    free = jnp.asarray(shape[1:3], jnp.int32) - sides
    return jnp.floor(uniforms * free[None]).astype(jnp.int32), sides

  def _window(self, uniforms, level, shape):
    """Which pixels lie in the window, ``[B, H, W]``."""
    corner, sides = self._corner(uniforms, level, shape)

    def inside(axis):
      place = jnp.arange(shape[1 + axis], dtype=jnp.int32)[None]
      start = corner[:, axis, None]
      return (place >= start) & (place < start + sides[axis])

    return inside(0)[:, :, None] & inside(1)[:, None, :]

  def _moved(self, delta, uniforms, level, radius):
    """The perturbation with the mass of two windows in a new bump."""
    shape = delta.shape
    norm = self.norm
    first = self._window(uniforms[:, :2], level, shape)[..., None]
    second = self._window(uniforms[:, 2:4], level, shape)[..., None]

    def mass(x):  # A channel, [B, 1, 1, C].
      if norm == 'l1':
        return jnp.sum(jnp.abs(x), axis=(1, 2), keepdims=True)
      return jnp.sqrt(jnp.sum(x**2, axis=(1, 2), keepdims=True))

    bump = self._placed(uniforms, level, shape)[..., None]
    signs = _signs(uniforms[:, None, None, 5:])
    old = jnp.where(first, delta, 0)
    new = jnp.where(first, bump * signs + old / (_GUARD + mass(old)), 0)
    both = mass(jnp.where(first | second, delta, 0))
    whole = _program.length(delta, norm)
    if norm == 'l1':
      budget = jnp.maximum(radius - whole, 0) / shape[3] + both
      budget = budget * shape[3]
    else:
      left = jnp.maximum(radius**2 - whole**2, 0) / shape[3]
      budget = jnp.sqrt(left + both**2)
    new = new / (_GUARD + mass(new)) * budget
    return jnp.where(first, new, jnp.where(second, 0, delta))

  def _placed(self, uniforms, level, shape):
    """The bump at the first window's place, ``[B, H, W]``."""
    corner, _ = self._corner(uniforms[:, :2], level, shape)
    shapes = jnp.asarray(self._shapes(shape), uniforms.dtype)[level]  # [S, T]
    turned = uniforms[:, 4, None, None] > 0.5
    if shape[1] == 1:
      shapes = jnp.broadcast_to(shapes, (shape[0],) + shapes.shape)
    else:
      shapes = jnp.where(turned, shapes.T[None], shapes[None])

    def places(axis):  # One-hot rows: a product for any sharding.
      place = jnp.arange(shape[1 + axis], dtype=jnp.int32)[None, :, None]
      cell = jnp.arange(shapes.shape[1 + axis], dtype=jnp.int32)[None, None]
      start = corner[:, axis, None, None]
      return (place == start + cell).astype(uniforms.dtype)

    return jnp.einsum(
      'bhs,bst,bwt->bhw',
      places(0),
      shapes,
      places(1),
      precision=jax.lax.Precision.HIGHEST,
    )

  def _shapes(self, shape) -> np.ndarray:
    """The bump of each level, padded with zeros, ``[10, S, T]``."""
    sides = self._sides(shape)
    out = np.zeros((len(sides), *sides.max(axis=0)))
    for level, (height, width) in enumerate(sides):
      out[level, :height, :width] = _bump(height, width, self.norm)
    return out

  def _bumps(self, rows, like):
    """A grid of bumps, turned and signed at random, ``[B, H, W, C]``."""
    batch, height, width, channels = like.shape
    across = height == 1
    side = max((width if across else height) // 5, 1)
    edge = ((width if across else height) - side * 5) // 2
    edge = max(edge, 0)
    tall = 1 if across else side
    tops = [0] if across else [edge + side * i for i in range(height // side)]
    lefts = [edge + side * i for i in range(width // side)]
    bump = jnp.asarray(_bump(tall, side, self.norm), like.dtype)
    tiles = len(tops) * len(lefts)
    uniforms = self._uniforms(rows, -1, tiles * (1 + channels), like.dtype)
    uniforms = jnp.reshape(uniforms, (batch, tiles, 1 + channels))
    turned = uniforms[:, :, :1, None] > 0.5
    if across:
      shapes = jnp.broadcast_to(bump, (batch, tiles, *bump.shape))
    else:
      shapes = jnp.where(turned, bump.T[None, None], bump[None, None])
    signs = _signs(uniforms[:, :, 1:])
    cells = shapes[..., None] * signs[:, :, None, None, :]
    cells = jnp.reshape(
      cells, (batch, len(tops), len(lefts), tall, side, channels)
    )
    grid = jnp.transpose(cells, (0, 1, 3, 2, 4, 5))
    grid = jnp.reshape(
      grid, (batch, len(tops) * tall, len(lefts) * side, channels)
    )
    top = tops[0]
    grid = grid[:, : height - top, : width - edge]  # Drops what sticks out.
    below = height - top - grid.shape[1]
    right = width - edge - grid.shape[2]
    return jnp.pad(grid, ((0, 0), (top, below), (edge, right), (0, 0)))


def _as_images(x):
  """``[B, ...]`` as ``[B, H, W, C]``."""
  if x.ndim == 4:
    return x
  if x.ndim == 3:
    return x[..., None]
  return jnp.reshape(x, (x.shape[0], 1, -1, 1))


def _signs(uniforms):
  return jnp.where(uniforms > 0.5, 1, -1).astype(uniforms.dtype)


@functools.cache
def _bump(height: int, width: int, norm: str) -> np.ndarray:
  """Two opposite pyramids, one over the other (side by side in one row)."""
  if height == 1 and width > 1:
    left = _pyramid(1, width // 2, norm)
    right = _pyramid(1, width - width // 2, norm)
    whole = np.concatenate([left, -right], axis=1)
  else:
    upper = _pyramid(height // 2, width, norm)
    lower = _pyramid(height - height // 2, width, norm)
    whole = np.concatenate([upper, -lower], axis=0)
  return whole / _size(whole, norm)


def _pyramid(height: int, width: int, norm: str) -> np.ndarray:
  """Concentric squares summed with falling weights, of unit norm."""
  if height * width == 0:
    return np.zeros((height, width))
  rows = np.abs(np.arange(height) - height // 2)[:, None]
  columns = np.abs(np.arange(width) - width // 2)[None]
  ring = np.maximum(rows, columns)  # A cell lies in square number >= ring.
  power = 2 if norm == 'l2' else 4
  count = max(height, width) // 2 + 1
  weights = 1 / np.arange(1, count + 1.0) ** power
  above = np.append(np.cumsum(weights[::-1])[::-1], 0)
  whole = above[np.minimum(ring, count)]
  return whole / _size(whole, norm)


def _size(x, norm):
  return np.sqrt((x**2).sum()) if norm == 'l2' else np.abs(x).sum()
