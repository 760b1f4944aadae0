"""Projection on a ball of images whose mass has moved from pixel to pixel.

The distance between two images is the least cost of turning one into the
other by moving mass inside a small window, each channel by itself. Plans are
kept as ``[S, B, H, W, C]``: the mass that each pixel sends to each of the S
offsets of the window. All rows are independent, and all loops have a fixed
length, so that nothing of one row reaches another.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NOTHING = -1e30  # Logarithm of no mass; finite, so that no NaN arises.
_NEWTON_STEPS = 7
_HALVINGS = 40
_REFITS = 16
_LOSS = 1e-5  # Most of an image's mass that may stick out of the bound.


class Window(NamedTuple):
  """Where mass may move.

  Attributes:
    reach: Most rows or columns moved.
    costs: Cost of each offset, row by row, ``[(2 * reach + 1)**2]``, zero in
      the middle.
  """

  reach: int
  costs: np.ndarray


class Projection(NamedTuple):
  """The projected image and what warms the next projection.

  Attributes:
    image: Normalised image, ``[B, H, W, C]``.
    plan: What each pixel sends to each offset, ``[S, B, H, W, C]``.
    log_scale: Log scaling of the target pixels, ``[B, H, W, C]``.
    price: Multiplier of the cost, at least 0, ``[B, 1, 1, 1]``.
  """

  image: jax.Array
  plan: jax.Array
  log_scale: jax.Array
  price: jax.Array


def window(size: int, power: float) -> Window:
  """Offsets in a square of odd ``size``, cost their length to a power."""
  reach = size // 2
  steps = np.arange(-reach, reach + 1)
  squares = steps[:, None] ** 2 + steps[None, :] ** 2
  return Window(reach, np.ravel(squares.astype(float) ** (power / 2)))


def project(
  target: jax.Array,
  source: jax.Array,
  *,
  radius: jax.Array,
  sharpness: jax.Array,
  high: jax.Array,
  window: Window,
  num_iterations: int,
  log_scale: jax.Array,
  price: jax.Array,
) -> Projection:
  r"""Nearest image whose mass came from ``source`` at a bounded cost.

  .. math:: \min_{Z, P}\; \frac{\lambda}{2}\|Y - Z\|^2 + \sum P \log P
     \quad\text{s.t.}\quad P1 = X,\; P^\top 1 = Z,\; \langle P, C\rangle \le
     \epsilon,\; Z \le u

  Block ascent of the dual: given the scalings of the target pixels, rows and
  the price of the cost are solved together (rows in closed form, the price by
  Newton steps on the logarithm of the cost); given those, the target pixels in
  closed form by a Lambert W function in the log domain. The plan returned has
  its rows solved last, and mass that breaks a constraint by what is left of
  convergence stays where it was: rows, columns and cost hold for any number of
  iterations, and at most 1e-5 of the mass lies above the bound.

  Args:
    target: Y, any real image, ``[B, H, W, C]``.
    source: X, non-negative, same shape; its mass may be 0.
    radius: Epsilon, broadcastable.
    sharpness: Lambda, broadcastable.
    high: Greatest value of a pixel, at least ``source``, broadcastable.
    window: Where mass may move and at what cost.
    num_iterations: Sweeps over both blocks, static.
    log_scale: Where to start, ``[B, H, W, C]``.
    price: Where to start, ``[B, 1, 1, 1]``.

  Returns:
    The projection.
  """
  costs = jnp.asarray(window.costs, source.dtype).reshape(-1, 1, 1, 1, 1)
  tiny = jnp.finfo(source.dtype).tiny
  log_source = _log(source)

  near = functools.partial(_near, reach=window.reach)
  arrived = functools.partial(_arrived, reach=window.reach)
  itself = _itself(window)

  def reprice(beside, price):
    """A Newton step on log cost(price) = log epsilon; rows sum to X."""
    share = jax.nn.softmax(beside - price[None] * costs, axis=0)
    mean = jnp.sum(share * costs, axis=0)
    spread = jnp.sum(share * jnp.square(costs - mean[None]), axis=0)
    cost, slope = _total(source * mean), _total(source * spread)
    log_gap = jnp.log(jnp.maximum(cost, tiny) / jnp.maximum(radius, tiny))
    move = log_gap * cost / jnp.where(slope > 0, slope, 1)
    move = jnp.where(slope > 0, jnp.clip(move, -4, 4), -4)
    return jnp.maximum(price + move, 0)

  def rows(beside, price):
    """Log scaling of the source pixels that makes rows sum to X."""
    scores = beside - price[None] * costs
    return jnp.maximum(log_source - _logsumexp(scores), NOTHING)

  def columns(log_rows, price):
    """Log scaling of the target pixels, from what would arrive unscaled."""
    arriving = _logsumexp(near(log_rows) - price[None] * costs)
    arriving = jnp.maximum(arriving, NOTHING)
    goal = jnp.log(sharpness) + sharpness * target + arriving
    wish = lambert_w_exp(goal) / sharpness
    image = jnp.minimum(wish, high)
    scale = sharpness * (target - wish)
    # Where the bound holds, the scaling is what makes the pixel sum to it.
    return jnp.where(image == wish, scale, _log(image) - arriving)

  def sweep(_, state):
    log_scale, price = state
    beside = near(log_scale)
    price = reprice(beside, reprice(beside, price))
    return columns(rows(beside, price), price), price

  log_scale, price = jax.lax.fori_loop(
    0, num_iterations, sweep, (log_scale, price)
  )
  beside = near(log_scale)
  final = jax.lax.fori_loop(0, 4, lambda _, p: reprice(beside, p), price)
  plan = source[None] * jax.nn.softmax(beside - final[None] * costs, axis=0)

  # What is over the radius stays where it was: the cost is linear in it.
  cost = _total(jnp.sum(plan * costs, axis=0))
  keep = jnp.minimum(radius / jnp.maximum(cost, tiny), 1)

  def restrain(plan, keep):
    return _restrain(plan, keep, source, itself)

  def refit(_, plan):
    image = arrived(plan)
    inflow = image - jnp.sum(jnp.where(itself, plan, 0), axis=0)
    excess = jnp.clip(image - high, 0, inflow)
    share = 1 - excess / jnp.where(inflow > 0, inflow, 1)
    return restrain(plan, near(share, 1))

  plan = restrain(plan, keep[None])
  plan = jax.lax.fori_loop(0, _REFITS, refit, plan)
  # What still sticks out would be lost: move less rather than lose more.
  over = _total(jnp.maximum(arrived(plan) - high, 0))
  plan = restrain(plan, jnp.minimum(_LOSS / jnp.maximum(over, tiny), 1)[None])
  return Projection(arrived(plan), plan, log_scale, price)


def ascend(
  source: jax.Array,
  grads: jax.Array,
  *,
  radius: jax.Array,
  sharpness: jax.Array,
  window: Window,
) -> jax.Array:
  r"""The image that a bounded transport of mass makes best for a linear loss.

  .. math:: \max_P\; \lambda \langle g, P^\top 1\rangle - \sum P \log P
     \quad\text{s.t.}\quad P1 = X,\; \langle P, C\rangle \le \epsilon

  Each pixel sends its mass by a softmax of :math:`\lambda g - \psi C`; the
  price :math:`\psi \ge 0` is found by bisection, and what is still over the
  radius stays where it was. There is no upper bound of a pixel.

  Args:
    source: X, non-negative, ``[B, H, W, C]``, of mass 1 or 0.
    grads: g, finite, of absolute value at most 1, same shape.
    radius: Epsilon, broadcastable.
    sharpness: Lambda, broadcastable.
    window: Where mass may move and at what cost.

  Returns:
    The image, ``[B, H, W, C]``.
  """
  costs = jnp.asarray(window.costs, source.dtype).reshape(-1, 1, 1, 1, 1)
  tiny = jnp.finfo(source.dtype).tiny
  scores = sharpness[None] * _near(grads, reach=window.reach)

  def send(price):
    plan = jax.nn.softmax(scores - price[None] * costs, axis=0)
    plan = source[None] * plan
    return plan, _total(jnp.sum(plan * costs, axis=0))

  def halve(_, bracket):
    low, high = bracket
    middle = (low + high) / 2
    _, cost = send(middle)
    over = cost > radius
    return jnp.where(over, middle, low), jnp.where(over, high, middle)

  # At the high end a move of cost c is e^(2 lambda - psi c) at most.
  least = float(np.min(window.costs[window.costs > 0], initial=1.0))
  most = jnp.log(float(np.sum(window.costs)) + 1) - jnp.log(
    jnp.maximum(radius, tiny)
  )
  high = (2 * sharpness + jnp.maximum(most, 0)) / least
  high = high + 0 * _total(source)  # Of the shape of the prices.
  start = halve(0, (0 * high, high))
  _, price = jax.lax.fori_loop(1, _HALVINGS, halve, start)
  plan, cost = send(price)
  keep = jnp.minimum(radius / jnp.maximum(cost, tiny), 1)
  plan = _restrain(plan, keep[None], source, _itself(window))
  return _arrived(plan, reach=window.reach)


def lambert_w_exp(x: jax.Array) -> jax.Array:
  """The w > 0 of ``w + log(w) = x``: Lambert's W at ``exp(x)``, no overflow.

  Newton steps for log(w) from above, where they fall monotonically.
  """
  log_w = jnp.where(x > 1, jnp.log(jnp.maximum(x, 1)), x)
  for _ in range(_NEWTON_STEPS):
    w = jnp.exp(log_w)
    log_w = log_w - (w + log_w - x) / (w + 1)
  return jnp.exp(log_w)


def _offsets(reach):
  side = range(2 * reach + 1)
  return [(i, j) for i in side for j in side]


def _near(x, fill=NOTHING, *, reach):
  """For each offset the pixel that lies there, ``[S, B, H, W, C]``."""
  height, width = x.shape[1:3]
  pad = ((0, 0), (reach, reach), (reach, reach), (0, 0))
  x = jnp.pad(x, pad, constant_values=fill)
  return jnp.stack(
    [x[:, i : i + height, j : j + width] for i, j in _offsets(reach)]
  )


def _arrived(plan, *, reach):
  """What each pixel gets: from the pixel at minus the offset."""
  height, width = plan.shape[2:4]
  pad = ((0, 0), (0, 0), (reach, reach), (reach, reach), (0, 0))
  plan = jnp.pad(plan, pad)
  parts = [
    plan[s, :, 2 * reach - i :, 2 * reach - j :][:, :height, :width]
    for s, (i, j) in enumerate(_offsets(reach))
  ]
  return sum(parts[1:], parts[0])


def _itself(window):
  """The offset of no move, ``[S, 1, 1, 1, 1]``."""
  places = np.arange(window.costs.size)
  return jnp.asarray(places == places.size // 2).reshape(-1, 1, 1, 1, 1)


def _restrain(plan, keep, source, itself):
  """Moves a share of the mass only; ``keep`` broadcasts to the plan."""
  moved = jnp.where(itself, 0, plan * keep)
  rest = jnp.maximum(source - jnp.sum(moved, axis=0), 0)
  return jnp.where(itself, rest[None], moved)


def _total(x):
  return jnp.sum(x, axis=(1, 2, 3), keepdims=True)


def _log(x):
  return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), NOTHING)


def _logsumexp(x):
  """Over the first axis; entries are finite."""
  most = jnp.max(x, axis=0)
  return most + jnp.log(jnp.sum(jnp.exp(x - most[None]), axis=0))
