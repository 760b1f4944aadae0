"""The Wasserstein adversary over a whole batch, by entropic transport."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import _ascent, _checks, _projections

_HIGHEST = jax.lax.Precision.HIGHEST
_UNSOLVED = 0.05  # Of the mass that is not where the marginals have it.


def sinkhorn(
  loss_fn: Callable[[jax.Array], jax.Array],
  inputs: ArrayLike,
  *,
  gamma: ArrayLike,
  epsilon: ArrayLike,
  num_steps: int,
  labels: ArrayLike | None = None,
  tau: float = 1.0,
  step_size: ArrayLike | None = None,
  bounds: tuple[float, float] | None = (0.0, 1.0),
  threshold: float = 1e-3,
  max_iterations: int = 2_000,
  unroll: int | bool | None = None,
) -> jax.Array:
  r"""A batch moved to raise its mean loss at a price on its transport.

  Ascends, over all points of the batch together,

  .. math:: \max_Z\; \frac1n \sum_i \ell_i(z_i) -
     \frac{\gamma}{2}\, S_\epsilon(Z, X)

  from :math:`Z = X`, with S the debiased Sinkhorn divergence of the two clouds
  under the cost :math:`\|z - x\|^2`. It is zero in value and gradient at
  :math:`Z = X` and does not see which particle stands where. By Danskin's
  theorem its gradient needs only the two plans, so that a step is

  .. math:: z_i \leftarrow z_i + a\Big(\nabla\ell_i(z_i) - \gamma n
     \big[\textstyle\sum_j P^{zx}_{ij}(z_i - x_j) -
     \sum_j P^{zz}_{ij}(z_i - z_j)\big]\Big),

  :math:`a = 1/\gamma`, clipped to the bounds. ott-jax solves the transport
  problems, each from the potentials of the step before. At :math:`Z = X`
  there is nothing to solve: one step is that of ``wrm`` to the bit. Where
  the plans miss their marginals by a twentieth of the mass or more, as for an
  epsilon below some 1e-6 of the squared distances in float32, each point keeps
  its own clean point as its partner in that step, which is a step of ``wrm``:
  its plan is feasible, so that the transport is never taken for cheaper than it
  is.

  With exact transport and a loss that depends on the label only (``labels``
  given), this has the same maximum as ``wrm``; with images, where points are
  far apart against epsilon, the steps themselves agree, at a higher price. It
  differs where transport re-matches or blurs: large epsilon, low dimension,
  losses that differ between particles, ``tau < 1``.

  Args:
    loss_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to one loss
      an example, ``[B]``.
    inputs: Clean examples X within the bounds, shape ``[B, ...]``, float.
    gamma: Price of half the squared distance, positive scalar, may be traced.
    epsilon: Entropy weight, positive, absolute, in the unit of
      :math:`\|x - x'\|^2`.
    num_steps: Number of steps, static, may be 0.
    labels: Optional integers ``[B]``: mass stays inside a class, exactly.
    tau: In (0, 1]. Below one the marginals are relaxed by a KL penalty of
      weight :math:`\rho = \epsilon\tau/(1-\tau)`: mass further away than about
      rho is given up rather than moved, so that outliers go unpriced.
    step_size: Step a of every step, in place of 1/gamma.
    bounds: Least and greatest value of a coordinate, or None.
    threshold: When to stop a transport solve: the marginals' error in l1
      (``tau = 1``), or the potentials' change.
    max_iterations: Most Sinkhorn iterations of a solve, static.
    unroll: Steps to write out in the compiled loop; None for all on CPU and
      one elsewhere.

  Returns:
    Adversarial examples, shape and dtype of ``inputs``, within the bounds,
    under stop_gradient.

  Raises:
    TypeError: Inputs are not floating, labels not integer, or a count is not a
      static integer.
    ValueError: Bad rank or shape, static values out of range, bounds out of
      order, or a ``loss_fn`` that does not return ``[B]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> adv = attacks.sinkhorn(
    ...   lambda x: x @ jnp.array([1.0, -2.0]),
    ...   jnp.array([[0.5, 0.5], [0.25, 0.75]]),
    ...   gamma=8.0, epsilon=0.05, num_steps=1)
    >>> print(adv.round(4))
    [[0.625 0.25 ]
     [0.375 0.5  ]]

  References:
    Feydy et al., `Interpolating between Optimal Transport and MMD using
    Sinkhorn Divergences <https://arxiv.org/abs/1810.08278>`_, 2019; Sejourne
    et al., `Sinkhorn Divergences for Unbalanced Optimal Transport
    <https://arxiv.org/abs/1910.12958>`_, 2019.

  .. note::
    This adversary is this project's own. The result of an example depends on
    its batch by design: under ``shard_map`` and ``pmap`` that is the local
    one, under ``jit`` the global one. Time and memory grow with B squared.
    The loops of ott-jax 0.6 do not type-check as varying over a mesh axis:
    inside ``jax.shard_map`` more than one step needs ``check_vma=False``.
  """
  inputs = jax.lax.stop_gradient(_checks.inputs(inputs))
  _checks.scalar('gamma', gamma, positive=True)
  _checks.scalar('epsilon', epsilon, positive=True)
  _checks.scalar('step_size', step_size, positive=True)
  _checks.count('num_steps', num_steps, 0)
  _checks.count('max_iterations', max_iterations, 1)
  _checks.scalar('threshold', threshold, positive=True)
  if not 0 < tau <= 1:
    raise ValueError(f'tau must lie in (0, 1], got {tau}')
  box = _checks.bounds(bounds, inputs)
  batch_size = inputs.shape[0]
  if labels is not None:
    labels = jnp.asarray(labels)
    if labels.shape != (batch_size,):
      raise ValueError(
        f'labels must have shape ({batch_size},), got {labels.shape}'
      )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
      raise TypeError(f'labels must be integers, got {labels.dtype}')
  loss_fn = _ascent.freeze(loss_fn, inputs)
  centre = _projections.widen(inputs)
  price = jnp.asarray(jax.lax.stop_gradient(gamma), centre.dtype)
  if price.ndim:
    raise ValueError(f'gamma must be a scalar, got shape {price.shape}')
  epsilon = jnp.asarray(jax.lax.stop_gradient(epsilon), centre.dtype)
  size, pull = 1 / price, 1
  if step_size is not None:
    size = jnp.asarray(jax.lax.stop_gradient(step_size), centre.dtype)
    pull = size * price
  down = jnp.minimum(box[0] - centre, 0)
  up = jnp.maximum(box[1] - centre, 0)

  def ascend(delta, drift):
    points = _projections.apply_delta(inputs, delta, box)
    grads = _ascent.gradient(loss_fn, points)
    delta = delta + size * grads - pull * drift
    return jnp.clip(jnp.nan_to_num(delta), down, up)

  def step(state):
    delta, potentials = state
    drift, potentials = _ascent.with_auto_axes(
      functools.partial(
        _transport_drift,
        tau=tau,
        threshold=threshold,
        max_iterations=max_iterations,
      ),
      delta,
      centre,
      labels,
      epsilon,
      potentials,
      like=(delta, potentials),
    )
    return ascend(delta, drift), potentials

  delta = jnp.zeros_like(centre)
  if num_steps > 0:
    # At the clean batch the drift is zero: nothing to solve.
    delta = ascend(delta, delta)
    flat = jnp.sum(jnp.zeros_like(centre), axis=tuple(range(1, centre.ndim)))
    state = delta, (flat, flat, flat)
    delta, _ = _ascent.repeat(step, state, num_steps - 1, unroll)
  return jax.lax.stop_gradient(_projections.apply_delta(inputs, delta, box))


def _transport_drift(
  delta, centre, labels, epsilon, potentials, *, tau, threshold, max_iterations
):
  """Gradient of half the Sinkhorn divergence in z, times n.

  Args:
    delta: ``z - x``, shape ``[B, ...]``.
    centre: x, same shape.
    labels: Classes that keep their mass, ``[B]``, or None.
    epsilon: Entropy weight, scalar.
    potentials: ``(f_zx, g_zx, f_zz)`` to start from, each ``[B]``.
    tau: Relaxation of the marginals, static.
    threshold: Where a solve stops.
    max_iterations: Most iterations of a solve.

  Returns:
    ``(drift, potentials)``, the drift of the shape of ``delta``.
  """
  # ott-jax takes a second to import: only who calls this pays for it.
  from ott.geometry import geometry
  from ott.problems.linear import linear_problem
  from ott.solvers.linear import acceleration
  from ott.solvers.linear import sinkhorn as solver_lib

  shape, num = delta.shape, delta.shape[0]
  delta = delta.reshape(num, -1)
  x = centre.reshape(num, -1)
  x = x - jnp.mean(x, axis=0, keepdims=True)  # For the digits of the costs.
  cost_zx, cost_zz = _costs(delta, x)
  if labels is not None:
    same = labels[:, None] == labels[None, :]
    # So far that the weight underflows whatever the potentials are.
    wall = 8 * jnp.maximum(jnp.max(cost_zx), jnp.max(cost_zz)) + 400 * epsilon
    cost_zx = jnp.where(same, cost_zx, wall)
    cost_zz = jnp.where(same, cost_zz, wall)
  f_zx, g_zx, f_zz = potentials

  def solve(cost, start, **kwargs):
    solver = solver_lib.Sinkhorn(
      threshold=threshold, max_iterations=max_iterations, **kwargs
    )
    problem = linear_problem.LinearProblem(
      geometry.Geometry(cost_matrix=cost, epsilon=epsilon),
      tau_a=tau,
      tau_b=tau,
    )
    out = solver(problem, init=start)
    plan = num * out.matrix
    return (plan if labels is None else jnp.where(same, plan, 0)), out

  with jax.numpy_rank_promotion('allow'):
    # Adversarial points first; the term of the clean points with themselves
    # is constant and left out.
    plan_zx, out_zx = solve(cost_zx, (f_zx, g_zx))
    plan_zz, out_zz = solve(
      cost_zz,
      (f_zz, f_zz),
      parallel_dual_updates=True,
      momentum=acceleration.Momentum(start=0, value=0.5),
    )
  # sum_j P_zx (z_i - x_j) - P_zz (z_i - z_j), sorted so that the clean points
  # cancel before they are multiplied.
  gap = plan_zx - plan_zz
  mass = jnp.sum(gap, axis=1, keepdims=True)
  drift = (
    mass * (x + delta)
    - jnp.matmul(gap, x, precision=_HIGHEST)
    + jnp.matmul(plan_zz, delta, precision=_HIGHEST)
  )
  solved = jnp.all(jnp.isfinite(drift))
  if tau == 1:  # Every particle has its mass, in both plans.
    for plan in (plan_zx, plan_zz):
      for axis in (0, 1):
        missing = jnp.mean(jnp.abs(jnp.sum(plan, axis=axis) - 1))
        solved &= missing < max(10 * threshold, _UNSOLVED)
  drift = jnp.where(solved, drift, delta)
  found = (out_zx.f, out_zx.g, out_zz.f)
  found = jax.tree.map(lambda f: jnp.where(solved, f, 0), found)
  return drift.reshape(shape), found


def _costs(delta, x):
  """Squared distances of ``x + delta`` to ``x`` and to itself, ``[B, B]``.

  From the distances of the clean points and products with ``delta``: what is
  small stays accurate in float32, and the diagonals are exact.
  """
  dot = lambda a, b: jnp.matmul(a, b.T, precision=_HIGHEST)
  off = ~jnp.eye(x.shape[0], dtype=bool)
  gram = dot(x, x)
  norms = jnp.diagonal(gram)
  base = jnp.where(off, norms[:, None] + norms[None, :] - 2 * gram, 0)
  across = dot(delta, x)  # delta_i . x_j
  own = jnp.diagonal(across)[:, None]
  moved = dot(delta, delta)
  sizes = jnp.diagonal(moved)
  cost_zx = base + sizes[:, None] + 2 * (own - across)
  cost_zz = (
    base
    + (sizes[:, None] + sizes[None, :] - 2 * moved)
    + 2 * ((own - across) + (own - across).T)
  )
  return jnp.maximum(cost_zx, 0), jnp.where(off, jnp.maximum(cost_zz, 0), 0)
