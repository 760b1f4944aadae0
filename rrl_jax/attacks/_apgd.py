"""Auto-PGD: ascent that sets its own step size, and its l1 form."""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from rrl_jax import target
from rrl_jax.attacks import (
  _checks,
  _logit_losses,
  _program,
  _projections,
)


class ApgdResult(NamedTuple):
  """What Auto-PGD found.

  Attributes:
    adv_inputs: Misclassified points; the clean input where none was found or
      where it is misclassified itself, ``[B, ...]``.
    robust: Whether the clean input and all iterates are classified
      correctly, ``[B]``.
    best_inputs: Points of highest loss, ``[B, ...]``.
    best_losses: Their losses, float32 or wider, ``[B]``.
  """

  adv_inputs: jax.Array
  robust: jax.Array
  best_inputs: jax.Array
  best_losses: jax.Array


def apgd(
  logits_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array | None,
  inputs: ArrayLike,
  labels: ArrayLike,
  *,
  epsilon: ArrayLike,
  norm: str = 'linf',
  loss: str = 'ce',
  num_steps: int = 100,
  init: ArrayLike | None = None,
  targets: ArrayLike | None = None,
  bounds: tuple[float, float] | None = (0.0, 1.0),
  num_restarts: int = 1,
  epsilon_schedule: bool = False,
  num_samples: int = 1,
  rho: float = 0.75,
  example_ids: ArrayLike | None = None,
  unroll: int | bool | None = None,
) -> ApgdResult:
  r"""Auto-PGD: projected ascent without a step size to choose.

  With :math:`\Pi` the map into ball and bounds, :math:`d(g)` the sign (linf)
  or the unit gradient (l2), and a = 3/4 (1 at first),

  .. math::
     z = \Pi(x_k + \eta\, d(g_k)), \quad
     x_{k+1} = \Pi(x_k + a(z - x_k) + (1 - a)(x_k - x_{k-1})).

  :math:`\eta` starts at 2 epsilon. At checkpoints (22, 41, 57, 70, 80, 87,
  93, 99 of 100 steps) it is halved, and the ascent goes back to the best
  point, for an example whose loss rose in at most ``rho`` of the steps since
  the last checkpoint, or whose highest loss did not rise although the step
  was not halved then.

  The l1 form steps by epsilon along the signs of the largest gradients,
  whose number follows the support of the best point, and projects exactly;
  each 4% of the steps a support that shrank by 5% sets the step back to
  epsilon and the point to the best, else the step falls by 1.5 down to
  epsilon / 10.

  Losses are summed over examples, so that none depends on its batch. The
  result is under stop_gradient and the model is held constant.

  Args:
    logits_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to logits
      ``[B, K]``. If it has a second required argument it gets fresh keys, one
      an example, ``[B]``.
    key: Typed PRNG key of the random start; None for key 0.
    inputs: Clean examples within the bounds, shape ``[B, ...]``, float.
    labels: True classes, integers, ``[B]``.
    epsilon: Radius of the ball, non-negative: a scalar or one an example.
    norm: One of linf, l2, l1.
    loss: ce (cross-entropy), dlr (difference of logits ratio, three classes;
      four with targets) or margin (difference of logits).
    num_steps: Number of steps, static, may be 0.
    init: Where to start, ``[B, ...]``, instead of a random point; it is moved
      into ball and bounds.
    targets: Classes ``[B]`` to move towards; None for an untargeted loss.
      Success is any misclassification all the same.
    bounds: Least and greatest value of a coordinate, or None.
    num_restarts: Number of independent runs, of which the first success and
      the highest loss are kept.
    epsilon_schedule: Whether to spend 30% of the steps at 3 epsilon, 30% at
      2 epsilon and the rest at epsilon, each from the best point before.
    num_samples: Gradients to average at each point of a randomised model.
    rho: Share of rising steps below which the step is halved.
    example_ids: Integers ``[B]`` that key the randomness of each row, by
      default its position.
    unroll: Steps to write out in the compiled loop; None for none.

  Returns:
    An :class:`ApgdResult`; its points lie within ball and bounds in exact
    arithmetic, in every dtype.

  Raises:
    TypeError: Inputs are not floating, classes not integer, or a count is not
      a static integer.
    ValueError: Unknown norm or loss, bad shapes, classes out of range, too
      few classes for dlr, negative static radius, bounds out of order, or a
      ``logits_fn`` that does not return ``[B, K]``.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> result = attacks.apgd(
    ...   lambda x: x @ jnp.array([[1.0, -1.0], [-2.0, 2.0]]),
    ...   jax.random.key(0), jnp.array([[0.9, 0.3]]), jnp.array([0]),
    ...   epsilon=0.25, num_steps=10)
    >>> print(result.robust, result.best_inputs)
    [False] [[0.65 0.55]]

  References:
    Croce and Hein, `Reliable evaluation of adversarial robustness with an
    ensemble of diverse parameter-free attacks
    <https://arxiv.org/abs/2003.01690>`_, 2020. The l1 form: Croce and Hein,
    `Mind the box: l1-APGD for sparse adversarial attacks on image classifiers
    <https://arxiv.org/abs/2103.01208>`_, 2021.

  .. note::
    As in the authors' code where it differs from the paper: "at most" instead
    of "fewer than" in the first condition, the rounding of the checkpoints, a
    first comparison of the loss against 0, momentum kept over a return to the
    best point, and an l2 map that scales and then clips. Ours: ``margin``; an
    ``init`` outside is moved inside; radii shrink by a few ulps; and l1
    support counts exact zeros, which the authors' sums blur.
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
  _checks.count('num_samples', num_samples, 1)
  box = _checks.bounds(bounds)
  if init is not None:
    init = jax.lax.stop_gradient(_checks.inputs(init, 'init'))
    if init.shape != inputs.shape:
      raise ValueError(
        f'init {init.shape} and inputs {inputs.shape} differ in shape'
      )
    if num_restarts > 1:
      raise ValueError('num_restarts > 1 needs a random start, not init')
  logits = frozen(inputs, rows.keys)
  _logit_losses.check(loss, logits.shape[1], targets is not None)
  _program.check_classes(labels, logits.shape[1], 'labels')
  if targets is not None:
    _program.check_classes(targets, logits.shape[1], 'targets')

  program = Program(
    frozen,
    norm=norm,
    loss=loss,
    targeted=targets is not None,
    num_steps=num_steps,
    schedule=epsilon_schedule,
    num_samples=num_samples,
    keyed=_program.takes_keys(logits_fn),
    rho=rho,
    box=box,
    init=init,
  )
  broken = ~_program.correct(logits, rows.labels)
  adv_inputs = inputs
  highest = best_inputs = None
  for restart in range(num_restarts):
    again = rows._replace(keys=restart_keys(rows.keys, restart))
    state = _program.run(program, again, unroll)
    adv_inputs = _program.rows_where(
      state.broken & ~broken, state.adv, adv_inputs
    )
    broken = broken | state.broken
    points = _projections.apply_delta(inputs, state.best_delta, box)
    if highest is None:
      highest, best_inputs = state.highest, points
    else:
      better = state.highest > highest
      highest = jnp.where(better, state.highest, highest)
      best_inputs = _program.rows_where(better, points, best_inputs)
  return jax.lax.stop_gradient(
    ApgdResult(adv_inputs, ~broken, best_inputs, highest)
  )


def restart_keys(keys: jax.Array, restart: int) -> jax.Array:
  """Keys of a restart; the first has the rows' own."""
  return _program.fold(keys, restart) if restart else keys


class State(NamedTuple):
  """Auto-PGD between two steps; every leaf has the batch axis first."""

  rows: _program.Rows
  delta: jax.Array
  last_delta: jax.Array
  grads: jax.Array
  best_delta: jax.Array
  best_grads: jax.Array
  highest: jax.Array
  loss: jax.Array  # Of the last point; 0 before there is one.
  rises: jax.Array  # Steps with a rising loss since the checkpoint.
  size: jax.Array
  halved: jax.Array
  highest_then: jax.Array  # At the checkpoint.
  share: jax.Array  # l1: share of coordinates to step along.
  support: jax.Array  # l1: support at the checkpoint.
  adv: jax.Array
  broken: jax.Array

  @property
  def done(self) -> jax.Array:
    """Whether a row may be dropped once any success is enough."""
    return self.broken


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """Auto-PGD as begin and step.

  Attributes:
    model: ``(points, keys) -> logits``, frozen.
    keyed: Whether the model reads its keys.
    first: Keep the first misclassified point instead of the last.
    rest: The arguments of ``apgd``.
  """

  model: Callable = dataclasses.field(kw_only=False)
  norm: str
  loss: str
  targeted: bool
  num_steps: int
  schedule: bool
  num_samples: int
  box: tuple[float, float]
  keyed: bool = False
  rho: float = 0.75
  init: jax.Array | None = None
  first: bool = False

  @property
  def phases(self) -> tuple[int, ...]:
    """Steps of each phase."""
    if not self.schedule:
      return (self.num_steps,)
    part = math.ceil(0.3 * self.num_steps)
    part = min(part, self.num_steps // 2)
    return (part, part, self.num_steps - 2 * part)

  @property
  def scales(self) -> tuple[float, ...]:
    """Multiple of epsilon of each phase."""
    return (3.0, 2.0, 1.0) if self.schedule else (1.0,)

  def begin(self, rows: _program.Rows) -> State:
    """The state at the start point."""
    inputs = rows.inputs
    centre = _projections.widen(inputs)
    radius = rows.radius * self.scales[0]
    if self.init is None:
      delta = self._start(rows, centre, radius)
      fresh = not self.schedule
    else:
      delta = self.init.astype(centre.dtype) - centre
      fresh = False
    delta = self._into(rows, delta, radius)
    return self._begin(rows, delta, 0, fresh)

  def resume(self, state: State, phase: int) -> State:
    """The state at the start of a smaller ball, from the best point."""
    radius = state.rows.radius * self.scales[phase]
    delta = self._into(state.rows, state.best_delta, radius)
    return self._begin(state.rows, delta, phase, False)

  def step(self, state: State, phase: ArrayLike, index: ArrayLike) -> State:
    """One step and, where due, a checkpoint."""
    rows, delta = state.rows, state.delta
    radius = rows.radius * self._table(self.scales, delta.dtype)[phase]
    if self.norm == 'l1':
      grads = self._sparse(state)
      count = _program.length(jnp.sign(grads), 'l1') + 1e-10
      moved = self._into(
        rows, delta + state.size * (jnp.sign(grads) / count), radius
      )
    else:
      momentum = delta - state.last_delta
      keep = jnp.where(jnp.equal(index, 0), 1.0, 0.75).astype(delta.dtype)
      ahead = self._into(
        rows, delta + state.size * self._direction(state.grads), radius
      )
      moved = self._into(
        rows, delta + (ahead - delta) * keep + momentum * (1 - keep), radius
      )
    points, wrong, losses, grads = self._look(rows, moved, phase, index + 1)
    news = wrong & ~state.broken if self.first else wrong
    better = losses > state.highest
    state = state._replace(
      delta=moved,
      last_delta=delta,
      grads=grads,
      best_delta=_program.rows_where(better, moved, state.best_delta),
      best_grads=_program.rows_where(better, grads, state.best_grads),
      highest=jnp.where(better, losses, state.highest),
      loss=losses,
      rises=state.rises + (losses > state.loss),
      adv=_program.rows_where(news, points, state.adv),
      broken=state.broken | wrong,
    )
    due = jnp.asarray(self._checkpoints > 0)[phase, index]
    if self.norm == 'l1':
      return self._check_support(state, radius, due)
    since = jnp.asarray(self._checkpoints)[phase, index]
    return self._check_rises(state, due, since)

  def _begin(self, rows, delta, phase, fresh):
    radius = rows.radius * self.scales[phase]
    points, wrong, losses, grads = self._look(rows, delta, phase, 0)
    total = _program.size_of(delta)
    dtype = delta.dtype
    # Zero of each row, derived from it so as to be sharded like it.
    zero = 0 * _program.flat(radius)
    support = _support(delta)
    return State(
      rows=rows,
      delta=delta,
      last_delta=delta,
      grads=grads,
      best_delta=delta,
      best_grads=grads,
      highest=losses,
      loss=zero.astype(losses.dtype),
      rises=zero.astype(jnp.int32),
      size=radius if self.norm == 'l1' else 2 * radius,
      halved=zero == 0,
      highest_then=losses,
      share=zero + 0.2 if fresh else support / total / dtype.type(1.5),
      support=zero + total if fresh else support,
      adv=_program.rows_where(wrong, points, rows.inputs),
      broken=wrong,
    )

  def _start(self, rows, centre, radius):
    """A random start, one key a row."""

    def draw(key):
      shape, dtype = centre.shape[1:], centre.dtype
      if self.norm == 'linf':
        return jax.random.uniform(key, shape, dtype, -1, 1)
      return jax.random.normal(key, shape, dtype)

    noise = jax.vmap(draw)(rows.keys)
    if self.norm == 'l1':
      return noise
    size = _program.length(noise, self.norm)
    return radius * (noise / jnp.where(size > 0, size, 1))

  def _into(self, rows, delta, radius):
    """The map into ball and bounds."""
    centre = _projections.widen(rows.inputs)
    if self.norm == 'l2':  # Scaled, then clipped.
      size = _program.length(delta, 'l2')
      scale = jnp.where(size > radius, radius / jnp.where(size > 0, size, 1), 1)
      return jnp.clip(delta * scale, *_program.room(rows.inputs, self.box))
    return _projections.project_delta(
      delta, centre, radius=radius, norm=self.norm, box=self.box
    )

  def _direction(self, grads):
    if self.norm == 'linf':
      return jnp.sign(grads)
    return grads / (_program.length(grads, 'l2') + 1e-12)

  def _sparse(self, state):
    """The gradient where it is among the largest, zero elsewhere."""
    total = _program.size_of(state.grads)
    index = ((1 - state.share) * total).astype(jnp.int32)
    count = total - jnp.clip(index, 0, total - 1)
    size = jnp.abs(state.grads)
    return jnp.where(size >= _kth_largest(size, count), state.grads, 0)

  def _look(self, rows, delta, phase, index):
    """Points, whether they are misclassified, their losses and gradients."""
    points = _projections.apply_delta(rows.inputs, delta, self.box)
    targets = rows.targets if self.targeted else None

    def total(points, keys):
      logits = self.model(points, keys)
      losses = _logit_losses.evaluate(self.loss, logits, rows.labels, targets)
      finite = jnp.where(jnp.isfinite(losses), losses, 0)
      return jnp.sum(finite), (logits, losses)

    look = jax.grad(total, has_aux=True)
    keys = rows.keys
    if self.keyed:
      number = phase * (self.num_steps + 1) + index
      keys = _program.fold(_program.fold(keys, 0x5EED), number)
    if self.num_samples == 1:
      grads, (logits, losses) = look(points, keys)
    else:

      def again(sample, carry):
        grads, (logits, losses) = look(points, _program.fold(keys, sample))
        return (carry[0] + grads.astype(delta.dtype), logits, losses)

      grads, (logits, losses) = look(points, _program.fold(keys, 0))
      carry = (grads.astype(delta.dtype), logits, losses)
      on_cpu = target.platform() == 'cpu'
      unroll = self.num_samples - 1 if on_cpu else 1
      grads, logits, losses = jax.lax.fori_loop(
        1, self.num_samples, again, carry, unroll=unroll
      )
      grads = grads / self.num_samples
    grads = jnp.nan_to_num(grads.astype(delta.dtype))
    return points, ~_program.correct(logits, rows.labels), losses, grads

  def _check_rises(self, state, due, since):
    stalled = ~state.halved & (state.highest_then >= state.highest)
    wavers = state.rises <= since * self.rho
    back = due & (wavers | stalled)
    return state._replace(
      delta=_program.rows_where(back, state.best_delta, state.delta),
      grads=_program.rows_where(back, state.best_grads, state.grads),
      size=_program.rows_where(back, state.size / 2, state.size),
      rises=jnp.where(due, 0, state.rises),
      halved=jnp.where(due, wavers | stalled, state.halved),
      highest_then=jnp.where(due, state.highest, state.highest_then),
    )

  def _check_support(self, state, radius, due):
    total = _program.size_of(state.delta)
    support = _support(state.best_delta)
    shrank = support / jnp.maximum(state.support, 1e-30) < 0.95
    shrank = shrank & (state.support > 0)
    size = _program.rows_where(shrank, radius, state.size / 1.5)
    size = jnp.clip(size, radius / 10, radius)
    back = due & shrank
    return state._replace(
      delta=_program.rows_where(back, state.best_delta, state.delta),
      grads=_program.rows_where(back, state.best_grads, state.grads),
      size=jnp.where(due, size, state.size),
      share=jnp.where(due, support / total / 1.5, state.share),
      support=jnp.where(due, support, state.support),
    )

  @functools.cached_property
  def _checkpoints(self) -> np.ndarray:
    """At each step of each phase the steps since the last checkpoint, or 0."""
    table = np.zeros((len(self.phases), max(*self.phases, 1)), np.int32)
    for row, count in zip(table, self.phases, strict=True):
      for index, since in checkpoints(count, self.norm):
        row[index] = since
    return table

  @staticmethod
  def _table(values, dtype):
    return jnp.asarray(np.asarray(values, dtype))


def checkpoints(num_steps: int, norm: str) -> list[tuple[int, int]]:
  """Steps after which a checkpoint is due, from 0, and the steps it covers."""
  if norm == 'l1':
    period, shrink, least = max(int(0.04 * num_steps), 1), 0, 1
  else:
    period = max(int(0.22 * num_steps), 1)
    shrink = max(int(0.03 * num_steps), 1)
    least = max(int(0.06 * num_steps), 1)
  found, step = [], period
  while step <= num_steps:
    found.append((step - 1, period))
    period = max(period - shrink, least)
    step += period
  return found


def _support(delta):
  axes = tuple(range(1, delta.ndim))
  return jnp.sum(delta != 0, axis=axes).astype(delta.dtype)


def _kth_largest(values, count):
  """The largest v with at least ``count`` of the values >= v, exactly.

  Non-negative floats are ordered as their bits are, so that as many halvings
  as there are bits find it: cheaper than a sort.
  """
  axes = tuple(range(1, values.ndim))
  wide = values.dtype.itemsize == 8
  integer = jnp.int64 if wide else jnp.int32
  bits = jax.lax.bitcast_convert_type(values, integer)
  count = jnp.reshape(count, (-1,) + (1,) * (values.ndim - 1))

  def halve(step, low):
    probe = low + (jnp.ones((), integer) << (30 + 32 * wide - step))
    enough = jnp.sum(bits >= probe, axis=axes, keepdims=True) >= count
    return jnp.where(enough, probe, low)

  low = 0 * count.astype(integer)
  low = jax.lax.fori_loop(0, 31 + 32 * wide, halve, low)
  return jax.lax.bitcast_convert_type(low, values.dtype)
