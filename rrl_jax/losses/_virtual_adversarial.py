"""The divergence in a model's most sensitive direction, without labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _log_probs, _rows, _simplex
from rrl_jax.numerics import safe_norm


def virtual_adversarial(
  logits_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array,
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  num_steps: int = 1,
  example_ids: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Local distributional smoothness, per example and without labels.

  With :math:`p(x)` the softmax of the logits,

  .. math:: \ell_i = \mathrm{KL}\big(p(x_i) \,\|\, p(x_i + \epsilon d_i)\big)

  where the unit vector :math:`d_i` is the leading eigenvector of the
  divergence's Hessian at :math:`x_i`, :math:`H = J^\top(\mathrm{diag}(p) -
  pp^\top)J` with J the Jacobian of the logits, by ``num_steps`` rounds of
  :math:`d \leftarrow Hd / \|Hd\|` from a random direction. The caller
  reduces. :math:`d` and :math:`p(x_i)` are constants: the gradient flows to
  what ``logits_fn`` closes over through :math:`p(x_i + \epsilon d_i)` alone.

  Args:
    logits_fn: Maps inputs ``[B, ...]`` to logits ``[B, K]``, row by row.
    key: Random key. Row i draws from ``fold_in(key, i)``.
    inputs: Points x, shape ``[B, ...]``, float.
    epsilon: Euclidean length of the perturbation, non-negative, in the unit
      of the inputs.
    num_steps: Rounds of power iteration, at least 0; static.
    example_ids: Integers, shape ``[B]``, in the place of the row's number, so
      that an example's draw does not depend on its place or device.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least, non-negative up to rounding.

  Raises:
    TypeError: ``inputs`` are not floating or ids not integer.
    ValueError: No batch axis, wrong shapes, a negative number of steps or a
      negative static epsilon.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> logits_fn = lambda x: x @ jnp.array([[3.0, 0.0], [0.0, 0.0]])
    >>> loss = losses.virtual_adversarial(
    ...   logits_fn, jax.random.key(0), jnp.zeros((1, 2)), epsilon=1.0)
    >>> print(f'{loss[0]:.2f}')
    0.86

  References:
    Miyato et al., `Virtual Adversarial Training
    <https://arxiv.org/abs/1704.03976>`_, 2018, Eqs. (5), (6) and Algorithm 1.

  .. note::
    The paper takes Hd from a finite difference of the gradient at distance
    xi, which rounds to noise for a small xi. Here Hd is exact (the limit of
    xi to 0) and one forward pass serves all rounds. Where Hd is zero, d stays
    as it was. The sign of d is that of the random start; points are not
    clipped to bounds.
  """
  inputs = _rows.batched('inputs', inputs)
  _checks.in_range('epsilon', epsilon, 0.0)
  _checks.in_range('num_steps', num_steps, 0)
  rows = _rows.mask(where, inputs)
  inputs = jax.lax.stop_gradient(_rows.keep(rows, inputs))
  dtype = _simplex.compute_dtype(inputs)
  if example_ids is None:
    example_ids = jnp.arange(inputs.shape[0])
  example_ids = _checks.integer('example_ids', example_ids, rank=1)
  if example_ids.shape != rows.shape:
    raise ValueError(
      f'example_ids must have shape {rows.shape}, got {example_ids.shape}'
    )
  logits, pull = jax.vjp(logits_fn, inputs)
  if logits.ndim != 2 or logits.shape[0] != inputs.shape[0]:
    raise ValueError(
      f'logits_fn must return [{inputs.shape[0]}, K], got {logits.shape}'
    )
  log_p = jax.lax.stop_gradient(_log_probs.log_probs(logits))
  probs = jnp.exp(log_p)
  # J d as the transpose of u -> J^T u: that needs no forward-mode rule, which
  # a function with a custom gradient lacks.
  _, push = jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(logits))

  def curve(d):
    moved = push(d.astype(inputs.dtype))[0].astype(dtype)
    mean = jnp.sum(probs * moved, axis=-1, keepdims=True)
    force = (probs * (moved - mean)).astype(logits.dtype)
    return pull(force)[0].astype(dtype)

  def draw(i):
    return jax.random.normal(
      jax.random.fold_in(key, i), inputs.shape[1:], dtype
    )

  direction = _unit(jax.vmap(draw)(example_ids))
  for _ in range(num_steps):
    direction = _unit(curve(direction), otherwise=direction)
  step = jnp.asarray(epsilon, dtype) * direction
  moved = inputs + jax.lax.stop_gradient(step).astype(inputs.dtype)
  out = _log_probs.kl(log_p, _log_probs.log_probs(logits_fn(moved)))
  return _rows.keep(rows, out)


def _unit(x, otherwise=None):
  """Rows of length one; where a row is zero, that of ``otherwise``."""
  norm = safe_norm(_rows.flat(x), keepdims=True)
  norm = norm.reshape(norm.shape[:1] + (1,) * (x.ndim - 1))
  has_one = norm > 0
  unit = x / jnp.where(has_one, norm, 1)
  return unit if otherwise is None else jnp.where(has_one, unit, otherwise)
