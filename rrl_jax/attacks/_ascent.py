"""What all gradient attacks share: the gradient, the loop, the noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from rrl_jax import target
from rrl_jax.attacks import _checks
from rrl_jax.numerics import safe_norm


def freeze(
  loss_fn: Callable[[jax.Array], jax.Array], inputs: jax.Array
) -> Callable[[jax.Array], jax.Array]:
  """The same function with everything it closes over held constant.

  An attack inside a differentiated training loss then costs no second
  derivatives, and no gradient reaches the parameters through it.

  Args:
    loss_fn: Points ``[B, ...]`` to losses ``[B]``.
    inputs: A batch that fixes shape and dtype.

  Returns:
    The frozen function; it checks that there is one loss an example.
  """
  closed, constants = jax.closure_convert(loss_fn, inputs)
  constants = jax.lax.stop_gradient(constants)

  def frozen(points):
    return _checks.losses(closed(points, *constants), points.shape[0])

  return frozen


def gradient(
  loss_fn: Callable[[jax.Array], jax.Array], points: jax.Array
) -> jax.Array:
  """Each example's gradient of its own loss, float32 or wider, finite.

  The losses are summed: an example's gradient does not depend on how many
  others there are. NaN counts as zero and infinity as the largest number.
  """
  grads = jax.grad(lambda z: jnp.sum(loss_fn(z)))(points)
  grads = grads.astype(jnp.promote_types(grads.dtype, jnp.float32))
  return jnp.nan_to_num(grads)


def repeat(
  body: Callable[[Any], Any],
  state: Any,
  num_steps: int,
  unroll: int | bool | None,
) -> Any:
  """Applies ``body`` a fixed number of times.

  Args:
    body: Maps the state to the next one.
    state: A pytree of arrays.
    num_steps: How often, static.
    unroll: How many iterations to write out; True for all. None writes out
      all on CPU, where convolutions inside a loop are 3 to 10 times slower,
      and none elsewhere.

  Returns:
    The last state.
  """
  if num_steps == 0:
    return state
  if unroll is None:
    unroll = target.platform() == 'cpu'
  if isinstance(unroll, bool):
    unroll = num_steps if unroll else 1
  _checks.count('unroll', unroll, 1)
  with jax.named_scope('attack'):  # By this name profiles and HLO know it.
    return jax.lax.fori_loop(
      0, num_steps, lambda _, s: body(s), state, unroll=min(unroll, num_steps)
    )


def best_of(
  run: Callable[[jax.Array], jax.Array],
  loss_fn: Callable[[jax.Array], jax.Array],
  keys: jax.Array,
  num_restarts: int,
) -> jax.Array:
  """Of several runs the points of highest loss, example by example.

  Args:
    run: One key a row, ``[B]``, to points ``[B, ...]``.
    loss_fn: Points to losses ``[B]``; a NaN never wins and loses to anything.
    keys: Keys of the first run; the later ones fold in their number.
    num_restarts: Number of runs, static.

  Returns:
    The points.
  """
  best = run(keys)
  if num_restarts == 1:
    return best
  highest = loss_fn(best)
  for restart in range(1, num_restarts):
    again = jax.vmap(lambda k, r=restart: jax.random.fold_in(k, r))(keys)
    rival = run(again)
    value = loss_fn(rival)
    better = (value > highest) | (jnp.isnan(highest) & ~jnp.isnan(value))
    highest = jnp.where(better, value, highest)
    better = jnp.reshape(better, (-1,) + (1,) * (rival.ndim - 1))
    best = jnp.where(better, rival, best)
  return best


def with_auto_axes(fun: Callable[..., Any], *args: Any, like: Any) -> Any:
  """Calls ``fun``, with all axes of an Explicit mesh made Auto for it.

  Args:
    fun: Arrays to a pytree of arrays; its matrix products and sorts need
      collectives that Explicit axes would ask to be named.
    *args: Its arguments.
    like: Arrays sharded as the results are to be, in their structure.

  Returns:
    What ``fun`` returns.
  """
  mesh = jax.typeof(jax.tree.leaves(like)[0]).sharding.mesh
  if mesh.empty or AxisType.Explicit not in mesh.axis_types:
    return fun(*args)
  kept = jax.tree.map(lambda x: jax.typeof(x).sharding, like)
  return jax.sharding.auto_axes(fun, out_sharding=kept)(*args)


def row_keys(
  key: jax.Array, example_ids: jax.Array | None, batch_size: int
) -> jax.Array:
  """One key a row, from its id (its position when there are no ids)."""
  if example_ids is None:
    example_ids = jnp.arange(batch_size)
  example_ids = jnp.asarray(example_ids)
  if example_ids.shape != (batch_size,):
    raise ValueError(
      f'example_ids must have shape ({batch_size},), got {example_ids.shape}'
    )
  if not jnp.issubdtype(example_ids.dtype, jnp.integer):
    raise TypeError(
      f'example_ids must have an integer dtype, got {example_ids.dtype}'
    )
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(example_ids)


def ball_noise(keys: jax.Array, like: jax.Array, norm: str) -> jax.Array:
  """Points drawn uniformly from the unit ball of a norm, one a key.

  Args:
    keys: Keys, ``[B]``.
    like: Array whose shape ``[B, ...]`` and dtype the result takes.
    norm: One of linf, l2, l1.

  Returns:
    Shape ``[B, ...]``.
  """
  shape, dtype = like.shape[1:], like.dtype

  def draw(key):
    if norm == 'linf':
      return jax.random.uniform(key, shape, dtype, -1, 1)
    size_key, direction_key = jax.random.split(key)
    if norm == 'l2':
      direction = jax.random.normal(direction_key, shape, dtype)
      length = safe_norm(direction, axis=None)
      dimension = max(direction.size, 1)
      radius = jax.random.uniform(size_key, (), dtype) ** (1 / dimension)
      return direction * (radius / jnp.where(length > 0, length, 1))
    direction = jax.random.laplace(direction_key, shape, dtype)
    length = jnp.sum(jnp.abs(direction))
    # The slack of the simplex gets an exponential share of its own.
    return direction / (length + jax.random.exponential(size_key, (), dtype))

  return jax.vmap(draw)(keys)


def constant(value: Any) -> Any:
  """Stops the gradient of a JAX array; a plain number stays one."""
  return jax.lax.stop_gradient(value) if isinstance(value, jax.Array) else value


def unit_l1(grads: jax.Array) -> jax.Array:
  """Gradients over their l1 norms, example by example; zero stays zero."""
  axes = tuple(range(1, grads.ndim))
  most = jnp.max(jnp.abs(grads), axis=axes, keepdims=True)
  scaled = grads / jnp.where(most > 0, most, 1)  # No overflow in the sum.
  total = jnp.sum(jnp.abs(scaled), axis=axes, keepdims=True)
  return scaled / jnp.where(total > 0, total, 1)


def steepest(grads: jax.Array, *, size: jax.Array, norm: str) -> jax.Array:
  """The linf or l2 step of a length that raises the linearised loss most.

  Args:
    grads: Gradients, ``[B, ...]``.
    size: Length of the step in the norm, broadcastable.
    norm: linf (the sign) or l2 (the unit gradient).

  Returns:
    The step, shape of ``grads``; zero where the gradient is.
  """
  if norm == 'linf':
    return size * jnp.sign(grads)
  axes = tuple(range(1, grads.ndim))
  length = safe_norm(grads, axis=axes, keepdims=True)
  return size * (grads / jnp.where(length > 0, length, 1))


def steepest_l1(
  delta: jax.Array,
  grads: jax.Array,
  *,
  size: jax.Array,
  radius: jax.Array,
  down: jax.Array,
  up: jax.Array,
) -> jax.Array:
  """The perturbation after a steepest l1 step inside ball and box.

  Spends ``size`` on the coordinates of largest gradient, each as far as the
  box lets it, then gives back what exceeds the ball where it is worth least
  to the linearised loss. Both are linear programs solved by order, so that
  the optimum of a linear loss is a fixed point. (A Euclidean projection would
  take from all coordinates alike, and a dense step along the gradient spends
  the budget on coordinates that the projection sets back.)

  Args:
    delta: Perturbation inside ball and box, ``[B, ...]``.
    grads: Gradients, same shape.
    size: Length of the step, broadcastable.
    radius: Radius of the ball, broadcastable.
    down: Least perturbation of each coordinate, not positive.
    up: Greatest, not negative.

  Returns:
    The next perturbation.
  """
  axes = tuple(range(1, grads.ndim))
  reach = jnp.where(grads > 0, up - delta, delta - down)
  reach = jnp.where(grads == 0, 0, jnp.clip(reach, 0, size))
  move = _fill(jnp.abs(grads), reach, size, axes)
  delta = delta + jnp.sign(grads) * move
  sign, mass = jnp.sign(delta), jnp.abs(delta)
  return jnp.clip(sign * _fill(grads * sign, mass, radius, axes), down, up)


def _fill(values, capacities, total, axes):
  """Takes a total from capacities in descending order of their values.

  By bisection of the value at which the total is reached: far cheaper than a
  sort. Near-equal values at that level share what is left.
  """
  spread = jnp.max(jnp.abs(values), axis=axes, keepdims=True)

  def halve(_, bracket):  # All above the high end fits.
    low, high = bracket
    middle = (low + high) / 2
    above = jnp.where(values > middle, capacities, 0)
    fits = jnp.sum(above, axis=axes, keepdims=True) <= total
    return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

  info = jnp.finfo(values.dtype)
  low, high = jax.lax.fori_loop(
    0, info.nmant + 4, halve, (-2 * spread - info.tiny, spread)
  )
  first = jnp.where(values > high, capacities, 0)
  last = jnp.where((values > low) & (values <= high), capacities, 0)
  left = total - jnp.sum(first, axis=axes, keepdims=True)
  width = jnp.sum(last, axis=axes, keepdims=True)
  share = jnp.clip(left / jnp.where(width > 0, width, 1), 0, 1)
  return first + share * last
