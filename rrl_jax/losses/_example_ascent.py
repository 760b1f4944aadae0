"""The adversary's weights over all training examples, as an online game."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _example_response, _rows, _simplex


class ExampleWeightsState(NamedTuple):
  """What the adversary remembers of every training example.

  Attributes:
    probs: Its distribution over them, shape ``[N]``.
  """

  probs: jax.Array


def example_weights_init(
  num_examples: int, dtype: Any = jnp.float32
) -> ExampleWeightsState:
  """The state before any batch: uniform.

  Args:
    num_examples: Size N of the training set, at least 1.
    dtype: Floating dtype of the state; steps are lost in one of 16 bits.

  Returns:
    The state.

  Raises:
    ValueError: ``num_examples`` is not positive.

  Example:
    >>> from rrl_jax import losses
    >>> print(losses.example_weights_init(4).probs)
    [0.25 0.25 0.25 0.25]
  """
  _checks.in_range('num_examples', num_examples, 1)
  return ExampleWeightsState(jnp.full((num_examples,), 1 / num_examples, dtype))


def example_weights_update(
  state: ExampleWeightsState,
  losses: ArrayLike,
  example_ids: ArrayLike,
  *,
  step_size: ArrayLike,
  level: ArrayLike | None = None,
  radius: ArrayLike | None = None,
  clip: ArrayLike = 1.0,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> ExampleWeightsState:
  r"""One ascent step of the primal-dual game over examples.

  With the weights :math:`w = N p` of mean one and b uniformly drawn examples
  in the batch, :math:`g_i = (N/b)\,\ell_i` for those (0 for the others) has
  the expectation :math:`\ell_i`. The step is

  .. math:: w \leftarrow \Pi_\alpha\big(w\, e^{\min(\eta g, c)}\big)
            \qquad\text{or}\qquad
            w \leftarrow \Pi_\rho\big(w + \min(\eta g, c)\big)

  with a level :math:`\alpha` the projection by Kullback-Leibler divergence on
  :math:`w_i \le 1/\alpha` (CVaR), with a radius :math:`\rho` the Euclidean one
  on :math:`\frac{1}{2N}\sum_i (w_i-1)^2 \le \rho` (chi-square), both within
  the simplex. The model minimises the mean of ``N * state.probs[example_ids] *
  losses``. No gradient flows. A step costs O(N).

  Args:
    state: The state so far.
    losses: Loss of each example, shape ``[B]``, float. As absent examples
      count as 0, losses are to be non-negative.
    example_ids: Position of each row in the training set, integers in
      ``[0, N)``, shape ``[B]``; a row with an id outside counts for nothing.
      Repeated ids add up.
    step_size: Step eta, non-negative, in units of one over loss.
    level: Fraction alpha, in (0, 1]; either this or ``radius``.
    radius: Radius rho, non-negative, as in ``chi2_risk``.
    clip: Greatest move c of a weight (its logarithm, with a level) in a step,
      positive: a single example may have a large N/b.
    where: Optional mask, shape ``[B]``; masked rows count for nothing and may
      hold inf or NaN.
    axis_name: Name of a mapped axis over which the batch is spread; the state
      is the same, and whole, on each device. ``shard_map`` cannot see that of
      a gather: give it ``check_vma=False`` to return the state unmapped.

  Returns:
    The new state, in the dtype of the old.

  Raises:
    TypeError: ``losses`` are not floating or ids not integer.
    ValueError: Wrong shapes, static values out of range, or not exactly one
      of level and radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> state = losses.example_weights_update(
    ...   losses.example_weights_init(4), jnp.array([1.0, 0.0]),
    ...   jnp.array([2, 0]), step_size=0.2, radius=1.0)
    >>> print(*(f'{p:.3f}' for p in state.probs))
    0.225 0.225 0.325 0.225

  References:
    Namkoong, Duchi, Stochastic Gradient Methods for Distributionally Robust
    Optimization with f-divergences, NIPS
    2016; Levy et al., `Large-Scale Methods for Distributionally Robust
    Optimization <https://arxiv.org/abs/2010.05893>`_, 2020, whose code
    compares with it.

  .. note::
    Steps and the clip are in units of the weights, so that neither depends
    on N; the code of Levy et al. has both in those of p and draws the
    examples by p, here they are drawn uniformly.
  """
  if (level is None) == (radius is None):
    raise ValueError('exactly one of level and radius must be given')
  _checks.in_range('level', level, 0.0, 1.0, open_low=True)
  _checks.in_range('radius', radius, 0.0)
  _checks.in_range('step_size', step_size, 0.0)
  _checks.in_range('clip', clip, 0.0, open_low=True)
  probs = _checks.floating('state.probs', state.probs, rank=1)
  losses = _checks.floating('losses', losses, rank=1)
  example_ids = _checks.integer('example_ids', example_ids, rank=1)
  _checks.same_shape(losses=losses, example_ids=example_ids)
  rows = _rows.mask(where, losses)
  rows = rows & (example_ids >= 0) & (example_ids < probs.size)
  dtype = _simplex.compute_dtype(probs)
  losses = _rows.keep(rows, jax.lax.stop_gradient(losses).astype(dtype))
  losses, example_ids, rows = (
    _rows.whole(x, axis_name) for x in (losses, example_ids, rows)
  )
  size = probs.size
  count = jnp.maximum(jnp.sum(rows), 1).astype(dtype)
  step_size, clip = jnp.asarray(step_size, dtype), jnp.asarray(clip, dtype)
  # Repeated rows add up before the clip; those that do not count go nowhere.
  places = jnp.where(rows, example_ids, size)
  slope = jnp.zeros((size,), dtype).at[places].add(losses / count, mode='drop')
  move = jnp.clip(step_size * slope * size, -clip, clip)
  weights = jax.lax.stop_gradient(probs).astype(dtype) * size
  everyone = jnp.ones((size,), bool)
  if level is not None:
    powers = jnp.log(jnp.maximum(weights, jnp.finfo(dtype).tiny)) + move
    # The projection by KL divergence caps what is in proportion to exp(power).
    new = _example_response.soft_tail(
      powers, everyone, jnp.asarray(level, dtype), jnp.ones((), dtype)
    )
  else:
    radius = jnp.asarray(radius, dtype)
    moved = weights + move
    near = _example_response.positive_part(moved, everyone, jnp.ones((), dtype))
    used = jnp.sum(jnp.square(size * near - 1)) / (2 * size)
    # On the sphere: both multipliers leave the family (moved - level)_+.
    far = _example_response.positive_part_in_ball(moved, everyone, radius)
    new = jnp.where(used <= radius, near, far)
  return ExampleWeightsState(jax.lax.stop_gradient(new).astype(probs.dtype))
