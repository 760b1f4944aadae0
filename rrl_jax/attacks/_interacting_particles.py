"""Adversarial points as interacting particles of one distribution."""

from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import _ascent, _checks, _projections

# Weights of the authors' code for cross-entropy.
INTERACTIONS = {'blob': 1.1, 'dgf': -1e-3}
_HIGHEST = jax.lax.Precision.HIGHEST


def interacting_particles(
  loss_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array | None,
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  step_size: ArrayLike,
  num_steps: int,
  method: str = 'blob',
  interaction: ArrayLike | None = None,
  bandwidth: ArrayLike | None = None,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
  random_start: bool = True,
  init: ArrayLike | None = None,
  num_restarts: int = 1,
  example_ids: ArrayLike | None = None,
  unroll: int | bool | None = None,
) -> jax.Array:
  r"""A batch moved within balls as particles of one distribution.

  The distributional adversarial attack: the ascent of ``pgd`` with a direction
  that also depends on the other particles. With gradients :math:`g_i`, squared
  distances :math:`d_{ij}^2 = \|z_i - z_j\|^2` between the current adversarial
  points, M particles and :math:`K_{ij} = \exp(-d_{ij}^2 / 2h^2)`:

  .. math::
     \text{blob:}\quad & g_i + \frac{c}{M} \sum_j \Big[K_{ij}\, g_j -
       K_{ij} \frac{z_i - z_j}{h^2}\Big], & h^2 = \frac{\mathrm{median}\,
       d^2}{2 \log M} \\
     \text{dgf:}\quad & g_i + c \sum_j \Big(\frac{d_{ij}^2}{2h^2} - 1\Big)
       K_{ij}\, (z_i - z_j), & h^2 = \frac{\mathrm{median}\, d^2}{2\log(M+1)}

  A step of length a in the steepest direction of the norm follows, then the
  exact projection on ball and bounds. The last iterate is returned. For
  ``c = 0`` this is ``pgd``. The result is under stop_gradient, and what
  ``loss_fn`` closes over is held constant.

  Args:
    loss_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to one loss
      an example, ``[B]``.
    key: Typed PRNG key of the random start; may be None without one.
    inputs: Clean examples within the bounds, shape ``[B, ...]``, float.
    epsilon: Radius of the ball, non-negative: a scalar or one an example. A
      Python number is rounded down to the dtype, a traced one taken as it is.
    step_size: Length of a step in the same norm, non-negative: the same.
    num_steps: Number of steps, static, may be 0.
    method: blob or dgf.
    interaction: Weight c, any sign, scalar; None for 1.1 (blob) or -0.001
      (dgf), which suit the gradients of a cross-entropy.
    bandwidth: :math:`h^2`, positive scalar, in squared input units; None for
      the median rule above, over all M x M pairs.
    norm: One of linf, l2, l1.
    bounds: Least and greatest value of a coordinate, or None.
    random_start: Whether to start at a random point of the ball.
    init: Points to start from instead, shape of ``inputs``; projected first.
      With it rounds over re-shuffled batches can go on where they were.
    num_restarts: Number of independent runs, of which the one of highest loss
      is kept, example by example; more than one needs a random start.
    example_ids: Integers ``[B]`` that key the random start of each row, by
      default its position.
    unroll: Steps to write out in the compiled loop; None for all on CPU and
      one elsewhere.

  Returns:
    Adversarial examples, shape and dtype of ``inputs``; within the ball and
    the bounds in exact arithmetic, in every dtype.

  Raises:
    TypeError: Inputs are not floating, or a count is not a static integer.
    ValueError: Unknown norm or method, bad rank or shape, static values out of
      range, bounds out of order, no key for a random start, restarts without
      one, or a ``loss_fn`` that does not return ``[B]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> adv = attacks.interacting_particles(
    ...   lambda x: x @ jnp.array([1.0, -2.0]), None,
    ...   jnp.array([[0.5, 0.5], [0.25, 0.5]]), epsilon=0.25, step_size=0.125,
    ...   num_steps=2, random_start=False)
    >>> print(adv)
    [[0.75 0.25]
     [0.5  0.25]]

  References:
    Zheng, Chen, Ren, `Distributionally Adversarial Attack
    <https://arxiv.org/abs/1808.05537>`_, 2019.

  .. note::
    The result of an example depends on its batch by design: under
    ``shard_map`` and ``pmap`` that is the local one, under ``jit`` the global
    one. Memory grows with B squared. The signs are those of the authors'
    code: the second blob term pulls near particles together; the dgf term
    with negative c pushes those apart that are nearer than :math:`\sqrt2 h`
    and pulls the others together. The code re-shuffles batches every 10 steps
    and keeps any success of 50 restarts; the first is the caller's, see
    ``init``, and here restarts keep the highest loss. Where the median is 0
    the bandwidth is 1.
  """
  inputs = jax.lax.stop_gradient(_checks.inputs(inputs))
  _checks.norm(norm)
  if method not in INTERACTIONS:
    raise ValueError(
      f'method must be one of {", ".join(INTERACTIONS)}, got {method!r}'
    )
  _checks.scalar('step_size', step_size, positive=False)
  _checks.scalar('bandwidth', bandwidth, positive=True)
  _checks.count('num_steps', num_steps, 0)
  _checks.count('num_restarts', num_restarts, 1)
  box = _checks.bounds(bounds, inputs)
  _checks.radius(epsilon, inputs, box, norm)
  if init is not None:
    init = jax.lax.stop_gradient(_checks.inputs(init, 'init'))
    if init.shape != inputs.shape:
      raise ValueError(
        f'init {init.shape} and inputs {inputs.shape} differ in shape'
      )
    random_start = False
  if random_start and key is None:
    raise ValueError('random_start needs a key')
  if num_restarts > 1 and not random_start:
    raise ValueError('num_restarts > 1 needs random_start')
  loss_fn = _ascent.freeze(loss_fn, inputs)

  centre = _projections.widen(inputs)
  radius = _projections.radius_within(_ascent.constant(epsilon), inputs, norm)
  size = _projections.per_example(_ascent.constant(step_size), centre)
  weight = INTERACTIONS[method] if interaction is None else interaction
  weight = _scalar('interaction', weight, centre.dtype)
  if bandwidth is not None:
    bandwidth = _scalar('bandwidth', bandwidth, centre.dtype)
  down = jnp.minimum(box[0] - centre, 0)
  up = jnp.maximum(box[1] - centre, 0)

  def project(delta):
    return _projections.project_delta(
      delta, centre, radius=radius, norm=norm, box=box
    )

  def step(delta):
    points = _projections.apply_delta(inputs, delta, box)
    grads = _ascent.gradient(loss_fn, points)
    pull = _ascent.with_auto_axes(
      functools.partial(_interaction, method=method),
      centre + delta,
      grads,
      bandwidth,
      like=delta,
    )
    grads = jnp.nan_to_num(grads + weight * pull)
    if norm == 'l1':
      return _ascent.steepest_l1(
        delta, grads, size=size, radius=radius, down=down, up=up
      )
    return project(delta + _ascent.steepest(grads, size=size, norm=norm))

  def run(row_keys):
    delta = jnp.zeros_like(centre)
    if init is not None:
      delta = project(init.astype(centre.dtype) - centre)
    if row_keys is not None:
      noise = _ascent.ball_noise(row_keys, centre, norm)
      delta = project(delta + radius * noise)
    delta = _ascent.repeat(step, delta, num_steps, unroll)
    if norm == 'l1':  # For sums that rounding carried over the radius.
      delta = project(delta)
    return _projections.apply_delta(inputs, delta, box)

  if not random_start:
    return jax.lax.stop_gradient(run(None))
  keys = _ascent.row_keys(key, example_ids, inputs.shape[0])
  return jax.lax.stop_gradient(
    _ascent.best_of(run, loss_fn, keys, num_restarts)
  )


def _scalar(name, value, dtype):
  value = jnp.asarray(jax.lax.stop_gradient(value), dtype)
  if value.ndim:
    raise ValueError(f'{name} must be a scalar, got shape {value.shape}')
  return value


def _interaction(points, grads, bandwidth, *, method):
  """What the other particles add to each gradient, before its weight c.

  Args:
    points: Current points, ``[B, ...]``, float32 or wider.
    grads: Their gradients, same shape.
    bandwidth: Squared bandwidth, scalar, or None for the median rule.
    method: blob or dgf.

  Returns:
    Shape of ``points``.
  """
  shape, num = points.shape, points.shape[0]
  z, g = points.reshape(num, -1), grads.reshape(num, -1)
  z = z - jnp.mean(z, axis=0, keepdims=True)  # For the digits of distances.
  gram = jnp.matmul(z, z.T, precision=_HIGHEST)
  norms = jnp.diagonal(gram)
  distances = jnp.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0)
  distances = jnp.where(jnp.eye(num, dtype=bool), 0, distances)
  if bandwidth is None:
    count = num if method == 'blob' else num + 1
    bandwidth = jnp.median(distances) / (2 * math.log(max(count, 2)))
    bandwidth = jnp.where(bandwidth > 0, bandwidth, 1)
  ratio = distances / (2 * bandwidth)
  kernel = jnp.exp(-ratio)
  if method == 'dgf':
    kernel = (ratio - 1) * kernel
  # sum_j K_ij (z_i - z_j)
  apart = jnp.sum(kernel, axis=1, keepdims=True) * z
  apart = apart - jnp.matmul(kernel, z, precision=_HIGHEST)
  if method == 'dgf':
    return apart.reshape(shape)
  shared = jnp.matmul(kernel, g, precision=_HIGHEST)
  return ((shared - apart / bandwidth) / num).reshape(shape)
