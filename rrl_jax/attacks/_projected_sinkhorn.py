"""Gradient ascent in a Wasserstein ball around one image's pixel mass."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import _ascent, _checks, _pixel_transport, _projections

NORMS = ('linf', 'l2', 'l1', 'transport')


def projected_sinkhorn(
  loss_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array | None,
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  step_size: ArrayLike,
  num_steps: int,
  norm: str = 'linf',
  power: float = 2.0,
  window: int = 5,
  sharpness: ArrayLike = 1000.0,
  num_iterations: int = 50,
  bounds: tuple[float, float] | None = (0.0, 1.0),
  random_start: bool = False,
  num_restarts: int = 1,
  example_ids: ArrayLike | None = None,
  unroll: int | bool | None = None,
) -> jax.Array:
  r"""Images whose mass moves from pixel to pixel so as to raise their loss.

  With images divided by the mass of the clean one, :math:`m = \sum x`, the
  distance of two images of one mass is

  .. math:: W(X, Z) = \min_{P \ge 0} \sum_{ij} P_{ij}\,
     \|\mathrm{pos}_i - \mathrm{pos}_j\|_2^p
     \quad\text{s.t.}\quad P 1 = X,\; P^\top 1 = Z

  where mass stays in its channel and moves inside a square window of pixels.
  Each step adds the steepest direction of ``norm`` to the image and projects
  it on :math:`W(X, Z) \le \epsilon` and the bounds, up to an entropy of the
  plan:

  .. math:: \min_{Z, P} \frac{\lambda}{2}\|Y - Z\|^2 + \sum P \log P .

  The step of ``transport`` moves mass itself: from the current image Z, with
  the gradient g over its largest entry and the step :math:`\alpha`, to the
  image of

  .. math:: \max_{P \ge 0} \lambda \langle g, P^\top 1\rangle - \sum P \log P
     \quad\text{s.t.}\quad P 1 = Z,\; \langle P, C\rangle \le \alpha .

  Each projection starts from the scalings of the one before. Losses are summed
  inside and rows do not meet; the result is under stop_gradient, and what
  ``loss_fn`` closes over is held constant.

  Args:
    loss_fn: Maps images ``[B, H, W, C]`` of the dtype of ``inputs`` to one
      loss an example, ``[B]``.
    key: Typed PRNG key of the random start; may be None without one.
    inputs: Clean images within the bounds, shape ``[B, H, W, C]``, float,
      non-negative: the value of a pixel is its mass.
    epsilon: Radius, non-negative: a scalar or one an example, in pixels to the
      ``power`` times the share of the mass that moves.
    step_size: Length of a step in ``norm``, non-negative, a scalar or one an
      example: in input units, for ``transport`` in those of ``epsilon``.
    num_steps: Number of steps, static, may be 0.
    norm: Geometry of the step: linf (the sign of the gradient), l2 (its
      direction), l1 (the pixels of largest gradient alone) or transport.
    power: Exponent p of the distance between pixels, positive, static.
    window: Side of the window, odd, in pixels, static.
    sharpness: Lambda, positive, scalar or one an example: the higher, the
      nearer the exact projection and the slower it converges. Raise it with
      the number of pixels; the authors have 1000 for 28x28 and 3000 for
      32x32x3.
    num_iterations: Sweeps of each projection, static, at least 1.
    bounds: ``(0, greatest)``, or None for no upper end.
    random_start: Whether to start at the projection of the image plus a
      uniform draw from the ball of ``norm`` of radius ``step_size``; for
      ``transport``, one step along uniform noise.
    num_restarts: Number of independent runs, of which the one of highest loss
      is kept, example by example; more than one needs a random start.
    example_ids: Integers ``[B]`` that key the randomness of each row, by
      default its position.
    unroll: Steps to write out in the compiled loop; None for all on CPU and
      one elsewhere.

  Returns:
    Adversarial images, shape and dtype of ``inputs``. The bounds hold exactly,
    the radius and each channel's mass up to rounding, for any number of
    iterations: too few cost loss, not validity. Where pixels are at the upper
    bound, up to 1e-5 of the image's mass may be lost to it.

  Raises:
    TypeError: Inputs are not floating, or a count is not a static integer.
    ValueError: Inputs are not ``[B, H, W, C]``, unknown norm, even window,
      static values out of range, bounds that do not start at 0, no key for a
      random start, restarts without one, or a ``loss_fn`` that does not return
      ``[B]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> image = jnp.array([0.0, 0.8, 0.0, 0.0]).reshape(1, 1, 4, 1)
    >>> adv = attacks.projected_sinkhorn(
    ...   lambda x: x[:, 0, 2, 0] - x[:, 0, 0, 0], None, image, epsilon=0.25,
    ...   step_size=0.5, num_steps=5)
    >>> [round(float(value), 2) for value in adv.ravel()]
    [0.0, 0.6, 0.2, 0.0]

  References:
    Wong, Schmidt, Kolter, `Wasserstein Adversarial Examples via Projected
    Sinkhorn Iterations <https://arxiv.org/abs/1902.07906>`_, 2019; Wu, Wang,
    Yu, `Stronger and Faster Wasserstein Adversarial Attacks
    <https://arxiv.org/abs/2008.02883>`_, 2020.

  .. note::
    In the authors' code clipping to [0, 1] after the projection changes the
    mass; here the upper bound is a constraint of the projection. Their
    exponentials of :math:`\lambda Y` can overflow; here all is in the log
    domain. They grow epsilon in rounds and stop images once misclassified:
    see ``growing_projected_sinkhorn``. They stop on a tolerance over the
    batch; here the number of sweeps is fixed, so that an image's result does
    not depend on its batch. Their code has the steps linf, l2 and
    (``wasserstein``) transport, the last with the gradient as it is; its
    closed form and the division by the largest entry are as in the code of
    Wu, Wang, Yu (2020), where a step of length epsilon from the clean image
    is the linear oracle of Frank-Wolfe. The l1 step is derived here.
  """
  _checks.count('num_steps', num_steps, 0)
  _checks.count('num_restarts', num_restarts, 1)
  _checks.scalar('epsilon', epsilon, positive=False)
  if random_start and key is None:
    raise ValueError('random_start needs a key')
  if num_restarts > 1 and not random_start:
    raise ValueError('num_restarts > 1 needs random_start')
  ascent = prepare(
    loss_fn,
    inputs,
    step_size=step_size,
    norm=norm,
    power=power,
    window=window,
    sharpness=sharpness,
    num_iterations=num_iterations,
    bounds=bounds,
  )
  radius = _projections.per_example(_ascent.constant(epsilon), ascent.centre)

  def run(row_keys):
    state = ascent.start
    if row_keys is not None:
      state = ascent.jump(row_keys, radius)
    delta, _ = _ascent.repeat(
      lambda state: ascent.step(state, radius), state, num_steps, unroll
    )
    return ascent.points(delta)

  if not random_start:
    return jax.lax.stop_gradient(run(None))
  keys = _ascent.row_keys(key, example_ids, ascent.centre.shape[0])
  return jax.lax.stop_gradient(
    _ascent.best_of(run, ascent.loss_fn, keys, num_restarts)
  )


class TransportAscent(NamedTuple):
  """The parts of an ascent; a state is ``(delta, scalings)``.

  Attributes:
    loss_fn: The loss, with what it closes over held constant.
    centre: Clean images in float32 or wider.
    start: The state at the clean images.
    jump: Keys ``[B]`` and a radius to the state after a random step.
    step: A state and a radius to the state after an ascent step.
    points: Delta to images in the dtype of the inputs.
  """

  loss_fn: Callable[[jax.Array], jax.Array]
  centre: jax.Array
  start: Any
  jump: Callable[[jax.Array, jax.Array], Any]
  step: Callable[[Any, jax.Array], Any]
  points: Callable[[jax.Array], jax.Array]


def prepare(
  loss_fn: Callable[[jax.Array], jax.Array],
  inputs: ArrayLike,
  *,
  step_size: ArrayLike,
  norm: str,
  power: float,
  window: int,
  sharpness: ArrayLike,
  num_iterations: int,
  bounds: tuple[float, float] | None,
) -> TransportAscent:
  """Checks the arguments of ``projected_sinkhorn``; returns its parts."""
  inputs = jax.lax.stop_gradient(_checks.inputs(inputs))
  if inputs.ndim != 4:
    raise ValueError(f'inputs must have shape [B, H, W, C], got {inputs.shape}')
  if norm not in NORMS:
    raise ValueError(f'norm must be one of {", ".join(NORMS)}, got {norm!r}')
  _checks.scalar('step_size', step_size, positive=False)
  _checks.scalar('power', power, positive=True)
  _checks.scalar('sharpness', sharpness, positive=True)
  _checks.count('num_iterations', num_iterations, 1)
  _checks.count('window', window, 1)
  if window % 2 == 0:
    raise ValueError(f'window must be odd, got {window}')
  bounds = (0.0, float('inf')) if bounds is None else bounds
  box = _checks.bounds(bounds, inputs)
  if box[0] != 0:
    raise ValueError(
      f'bounds must start at 0, as a pixel is its mass, got {bounds}'
    )
  loss_fn = _ascent.freeze(loss_fn, inputs)

  centre = jnp.maximum(_projections.widen(inputs), 0)
  mass = jnp.sum(centre, axis=(1, 2, 3), keepdims=True)
  mass = jnp.where(mass > 0, mass, 1)
  source = centre / mass
  size, sharpness = (
    _projections.per_example(_ascent.constant(value), centre)
    for value in (step_size, sharpness)
  )
  space = _pixel_transport.window(window, power)

  def project(delta, scales, radius):
    log_scale, price = scales
    found = _pixel_transport.project(
      (centre + delta) / mass,
      source,
      radius=radius,
      sharpness=sharpness,
      high=jnp.maximum(box[1] / mass, source),
      window=space,
      num_iterations=num_iterations,
      log_scale=log_scale,
      price=price,
    )
    return mass * (found.image - source), (found.log_scale, found.price)

  def move(delta, grads):
    """The step, before the projection."""
    axes = (1, 2, 3)
    most = jnp.max(jnp.abs(grads), axis=axes, keepdims=True)
    if norm == 'transport':
      moved = _pixel_transport.ascend(
        jnp.maximum(source + delta / mass, 0),
        grads / jnp.where(most > 0, most, 1),
        radius=size,
        sharpness=sharpness,
        window=space,
      )
      return mass * (moved - source)
    if norm == 'l1':
      best = (jnp.abs(grads) == most) & (most > 0)
      share = size / jnp.maximum(jnp.sum(best, axis=axes, keepdims=True), 1)
      return delta + jnp.where(best, share * jnp.sign(grads), 0)
    return delta + _ascent.steepest(grads, size=size, norm=norm)

  def points(delta):
    return _projections.apply_delta(inputs, delta, box)

  def step(state, radius):
    delta, scales = state
    grads = _ascent.gradient(loss_fn, points(delta))
    return project(move(delta, grads), scales, radius)

  start = jnp.zeros_like(centre), (jnp.zeros_like(centre), jnp.ones_like(mass))

  def jump(row_keys, radius):
    if norm == 'transport':
      noise = move(start[0], _ascent.ball_noise(row_keys, centre, 'linf'))
    else:
      noise = size * _ascent.ball_noise(row_keys, centre, norm)
    return project(noise, start[1], radius)

  return TransportAscent(loss_fn, centre, start, jump, step, points)
