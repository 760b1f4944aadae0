"""FAB: the nearest misclassified point, by steps onto linearised borders."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import (
  _apgd,
  _checks,
  _hyperplane,
  _logit_losses,
  _program,
  _projections,
)

_GUARD = 1e-12  # Of the dual norm of a gradient.
_LEAST = 1e-8  # Of the length of a move, in the share of the two moves.
_DUAL = {'linf': 'l1', 'l2': 'l2', 'l1': 'linf'}


class FabResult(NamedTuple):
  """What FAB found.

  Attributes:
    adv_inputs: Misclassified points within epsilon; the clean input where
      none was found or where it is misclassified itself, ``[B, ...]``.
    robust: Whether the clean input is classified correctly and nothing
      within epsilon was found, ``[B]``.
    best_inputs: Nearest misclassified points found, at any distance; the
      clean input where there is none, ``[B, ...]``.
    distances: Their distance in the norm, inf where there is none, 0 where
      the clean input is misclassified, float32 or wider, ``[B]``.
  """

  adv_inputs: jax.Array
  robust: jax.Array
  best_inputs: jax.Array
  distances: jax.Array


def fab(
  logits_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array | None,
  inputs: ArrayLike,
  labels: ArrayLike,
  *,
  epsilon: ArrayLike,
  norm: str = 'linf',
  num_steps: int = 100,
  targets: ArrayLike | None = None,
  bounds: tuple[float, float] | None = (0.0, 1.0),
  num_restarts: int = 1,
  alpha_max: float = 0.1,
  eta: float = 1.05,
  beta: float = 0.9,
  example_ids: ArrayLike | None = None,
  unroll: int | bool | None = None,
) -> FabResult:
  r"""Fast adaptive boundary attack: misclassified points of smallest norm.

  Each step linearises the difference :math:`f_s = z_s - z_y` of the class
  whose border is nearest, :math:`\arg\min_s |f_s| / \|\nabla f_s\|_q` with q
  dual to p (or of the target), moves the current and the clean point onto
  :math:`f_s = 0` within the bounds by the shortest moves :math:`d_1, d_2`, and
  mixes

  .. math::
     x_{k+1} = (1 - \alpha)(x_k + \eta d_1) + \alpha (x + \eta d_2), \quad
     \alpha = \min(\|d_1\| / (\|d_1\| + \|d_2\|), \alpha_{max}),

  clipped to the bounds. A misclassified iterate is kept if it is the nearest
  so far and then drawn back to :math:`x + \beta (x_{k+1} - x)`. Only a point
  within epsilon counts as success. The first run starts at the clean point;
  a restart at a random point epsilon / 2 away. The result is under
  stop_gradient and the model is held constant.

  Args:
    logits_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to logits
      ``[B, K]``.
    key: Typed PRNG key of the restarts; None for key 0.
    inputs: Clean examples within the bounds, shape ``[B, ...]``, float.
    labels: True classes, integers, ``[B]``.
    epsilon: Radius within which a point counts, a scalar or one an example.
    norm: One of linf, l2, l1.
    num_steps: Number of steps, static, may be 0.
    targets: Classes ``[B]`` whose border to move to (targeted FAB, one
      gradient a step instead of one a class); None for the nearest border.
      Success is any misclassification all the same.
    bounds: Least and greatest value of a coordinate, or None.
    num_restarts: Number of runs.
    alpha_max: Greatest share of the clean point's move.
    eta: Overshoot beyond the border.
    beta: Share of the perturbation kept after a success.
    example_ids: Integers ``[B]`` that key the randomness of each row, by
      default its position.
    unroll: Steps to write out in the compiled loop; None for none.

  Returns:
    A :class:`FabResult`. Its points lie within the bounds, ``adv_inputs`` also
    within the ball, in exact arithmetic, in every dtype.

  Raises:
    TypeError: Inputs are not floating, classes not integer, or a count is not
      a static integer.
    ValueError: Unknown norm, bad shapes, classes out of range, negative static
      radius, bounds out of order, or a ``logits_fn`` that does not return
      ``[B, K]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> result = attacks.fab(
    ...   lambda x: x @ jnp.array([[1.0, -1.0], [-2.0, 2.0]]), None,
    ...   jnp.array([[0.9, 0.3]]), jnp.array([0]), epsilon=0.25)
    >>> print(result.robust, f'{result.distances[0]:.2f}')  # 0.3 / 3
    [False] 0.10

  References:
    Croce and Hein, `Minimally distorted Adversarial Examples with a Fast
    Adaptive Boundary Attack <https://arxiv.org/abs/1907.02044>`_, 2020;
    targeted form and restarts as in `AutoAttack
    <https://arxiv.org/abs/2003.01690>`_.

  .. note::
    As in the authors' code there is no final search along the last segment.
    Ours: the shortest moves come from Newton's method instead of sorting, and
    distances are compared with a radius a few ulps smaller.
  """
  frozen, rows = _program.prepare(
    logits_fn,
    key,
    inputs,
    labels,
    targets,
    epsilon=epsilon,
    norm=norm,
    bounds=bounds,
    example_ids=example_ids,
  )
  inputs = rows.inputs
  _checks.count('num_steps', num_steps, 0)
  _checks.count('num_restarts', num_restarts, 1)
  _checks.scalar('alpha_max', alpha_max, positive=False)
  _checks.scalar('eta', eta, positive=True)
  _checks.scalar('beta', beta, positive=False)
  box = _checks.bounds(bounds)
  logits = frozen(inputs, rows.keys)
  _program.check_classes(labels, logits.shape[1], 'labels')
  if targets is not None:
    _program.check_classes(targets, logits.shape[1], 'targets')

  wrong = ~_program.correct(logits, rows.labels)
  best_inputs, distances = inputs, None
  adv_inputs, broken = inputs, wrong
  for restart in range(num_restarts):
    program = Program(
      frozen,
      norm=norm,
      targeted=targets is not None,
      num_steps=num_steps,
      alpha_max=alpha_max,
      eta=eta,
      beta=beta,
      box=box,
      random_start=restart > 0,
    )
    keys = _apgd.restart_keys(rows.keys, restart)
    state = _program.run(program, rows._replace(keys=keys), unroll)
    if distances is None:
      best_inputs, distances = state.adv, state.distance
    else:
      nearer = state.distance < distances
      best_inputs = _program.rows_where(nearer, state.adv, best_inputs)
      distances = jnp.minimum(state.distance, distances)
    news = state.broken & ~broken
    adv_inputs = _program.rows_where(news, state.adv, adv_inputs)
    broken = broken | state.broken
  best_inputs = _program.rows_where(wrong, inputs, best_inputs)
  distances = jnp.where(wrong, 0, distances)
  return jax.lax.stop_gradient(
    FabResult(adv_inputs, ~broken, best_inputs, distances)
  )


class State(NamedTuple):
  """FAB between two steps; every leaf has the batch axis first."""

  rows: _program.Rows
  delta: jax.Array
  adv: jax.Array
  distance: jax.Array  # Of adv; inf before there is one.
  broken: jax.Array  # Whether adv lies within the radius.

  @property
  def done(self) -> jax.Array:
    """Whether a row may be dropped once any success is enough."""
    return self.broken


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """FAB as begin and step.

  Attributes:
    model: ``(points, keys) -> logits``, frozen.
    first: Keep the first point within the radius instead of the nearest.
    rest: The arguments of ``fab``.
  """

  model: Callable = dataclasses.field(kw_only=False)
  norm: str
  targeted: bool
  num_steps: int
  box: tuple[float, float]
  alpha_max: float = 0.1
  eta: float = 1.05
  beta: float = 0.9
  random_start: bool = False
  first: bool = False

  @property
  def phases(self) -> tuple[int, ...]:
    """Steps of each phase."""
    return (self.num_steps,)

  def begin(self, rows: _program.Rows) -> State:
    """The state at the start point."""
    delta = 0 * _projections.widen(rows.inputs)
    if self.random_start:
      delta = self._start(rows, delta)
    zero = 0 * _program.flat(rows.radius)
    return State(
      rows=rows,
      delta=delta,
      adv=rows.inputs,
      distance=zero + jnp.inf,
      broken=zero > 0,
    )

  def resume(self, state: State, phase: int) -> State:
    """There is one phase."""
    raise NotImplementedError

  def step(self, state: State, phase: ArrayLike, index: ArrayLike) -> State:
    """One step onto the nearest border."""
    del phase, index
    rows, delta = state.rows, state.delta
    down, up = _program.room(rows.inputs, self.box)
    points = _projections.apply_delta(rows.inputs, delta, self.box)
    value, normal = self._border(rows, points)
    value = jnp.reshape(value, rows.radius.shape)
    # The linear model at the current point and, by it, at the clean one.
    axes = tuple(range(1, delta.ndim))
    along = jnp.sum(normal * delta, axis=axes, keepdims=True)
    here = _hyperplane.displacement(
      normal, value, down - delta, up - delta, self.norm
    )
    there = _hyperplane.displacement(normal, value - along, down, up, self.norm)
    near = jnp.maximum(_program.length(here, self.norm), _LEAST)
    far = jnp.maximum(_program.length(there, self.norm), _LEAST)
    alpha = jnp.minimum(near / (near + far), self.alpha_max)
    delta = (delta + self.eta * here) * (1 - alpha) + self.eta * there * alpha
    delta = jnp.clip(delta, down, up)

    points = _projections.apply_delta(rows.inputs, delta, self.box)
    wrong = ~_program.correct(self.model(points, rows.keys), rows.labels)
    moved = _projections.widen(points) - _projections.widen(rows.inputs)
    size = _program.length(moved, self.norm)
    # Four ulps for the rounding of the difference itself.
    limit = rows.radius * (1 - 4 * float(jnp.finfo(size.dtype).eps))
    within = _program.flat(size <= limit)
    size = _program.flat(size)
    better = wrong & (size < state.distance)
    if self.first:
      better = better & ~state.broken
    return state._replace(
      delta=_program.rows_where(wrong, self.beta * delta, delta),
      adv=_program.rows_where(better, points, state.adv),
      distance=jnp.where(better, size, state.distance),
      broken=state.broken | (better & within),
    )

  def _border(self, rows, points):
    """Difference of logits to the border to step to, and its gradient."""
    keys = rows.keys
    wide = rows.radius.dtype
    if self.targeted:

      def difference(points):
        logits = self.model(points, keys)
        value = _logit_losses.pick(logits, rows.targets)
        value = value - _logit_losses.pick(logits, rows.labels)
        return jnp.sum(value), value

      normal, value = jax.grad(difference, has_aux=True)(points)
      return value.astype(wide), jnp.nan_to_num(normal.astype(wide))

    def differences(points):
      logits = self.model(points, keys)
      own = _logit_losses.pick(logits, rows.labels)
      return logits - own[:, None]

    values, pull = jax.vjp(differences, points)
    classes = jnp.arange(values.shape[1])
    always = (values == values) | True  # Laid out over devices as values.

    def normal_of(index):
      one = always & (classes == index)[None, :]
      (normal,) = pull(one.astype(values.dtype))
      return jnp.nan_to_num(normal.astype(wide))

    normals = jax.vmap(normal_of)(classes)  # [K, B, ...]
    sizes = jax.vmap(lambda n: _program.length(n, _DUAL[self.norm]))(normals)
    sizes = jnp.reshape(sizes, sizes.shape[:2]).T
    distances = jnp.abs(values) / (_GUARD + sizes)
    own = classes[None, :] == rows.labels[:, None].astype(classes.dtype)
    nearest = jnp.argmin(jnp.where(own, jnp.inf, distances), axis=1)
    value = _logit_losses.pick(values, nearest)
    chosen = classes[:, None] == nearest[None, :]
    chosen = jnp.reshape(chosen, chosen.shape + (1,) * (points.ndim - 1))
    normal = jnp.sum(jnp.where(chosen, normals, 0), axis=0)
    return value.astype(wide), normal

  def _start(self, rows, delta):
    """A point half a radius away."""

    def draw(key):
      if self.norm == 'linf':
        return jax.random.uniform(key, delta.shape[1:], delta.dtype, -1, 1)
      return jax.random.normal(key, delta.shape[1:], delta.dtype)

    noise = jax.vmap(draw)(rows.keys)
    size = _program.length(noise, self.norm)
    noise = rows.radius / 2 * (noise / jnp.where(size > 0, size, 1))
    return jnp.clip(noise, *_program.room(rows.inputs, self.box))
