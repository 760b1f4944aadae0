"""The cost of moving examples and the multiplier that prices it."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax import numerics
from rrl_jax.losses import _checks

_STEEPEST = 10.0  # A batch counts as at most this far off the radius.


def transport_cost(inputs: ArrayLike, adv_inputs: ArrayLike) -> jax.Array:
  r"""Cost :math:`c(x, z) = \frac12 \|z - x\|^2` of each example.

  Args:
    inputs: Clean examples x, shape ``[B, ...]``, float.
    adv_inputs: Moved examples z, same shape.

  Returns:
    Costs, shape ``[B]``, at least float32 (squares are summed there).

  Raises:
    TypeError: An argument is not floating.
    ValueError: Shapes differ or there is no batch axis.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.transport_cost(jnp.zeros((1, 2)), jnp.ones((1, 2))))
    [1.]

  .. note::
    ott-jax's SqEuclidean has no 1/2: a multiplier of it is gamma / 2.
  """
  inputs = _checks.floating('inputs', inputs)
  adv_inputs = _checks.floating('adv_inputs', adv_inputs)
  _checks.same_shape(inputs=inputs, adv_inputs=adv_inputs)
  if inputs.ndim == 0:
    raise ValueError('inputs must have a batch axis, got a scalar')
  dtype = jnp.promote_types(
    jnp.promote_types(inputs.dtype, adv_inputs.dtype), jnp.float32
  )
  moved, still = adv_inputs.astype(dtype), inputs.astype(dtype)
  axes = tuple(range(1, inputs.ndim))
  return numerics.sum_of_squares(moved, still, axis=axes) / 2


def adapt_gamma(
  gamma: ArrayLike,
  mean_cost: ArrayLike,
  *,
  radius: ArrayLike,
  rate: ArrayLike = 0.1,
  bounds: tuple[float, float] = (1e-6, 1e6),
) -> jax.Array:
  r"""One step of the multiplier towards a transport radius, a scalar.

  Strong duality turns a Wasserstein ball of radius :math:`\rho` into the
  price :math:`\gamma` with :math:`\gamma\rho + \mathbb{E}\,\phi_\gamma` least,
  where the mean cost equals the radius. The price rises while the adversary
  spends more than that and falls while it spends less:

  .. math:: \gamma \leftarrow \gamma\, (\bar c / \rho)^{\eta}

  As the cost of one adversarial step is
  :math:`\|\nabla\ell\|^2 / (2\gamma^2)`, the error of
  :math:`\log\gamma` shrinks by :math:`1 - 2\eta` a step: ``rate=0.5`` jumps to
  the solution, smaller rates average over batches. The ratio counts as at
  most 10 and at least 1/10, so that no single batch decides.

  Args:
    gamma: The multiplier so far, positive scalar, float.
    mean_cost: Mean ``transport_cost`` of the batch, non-negative scalar.
    radius: Wanted mean cost rho, positive, in the unit of the cost.
    rate: Exponent eta, in (0, 0.5] for a monotone approach.
    bounds: Least and greatest multiplier.

  Returns:
    The new multiplier, positive, dtype of ``gamma``, under stop_gradient.

  Raises:
    TypeError: ``gamma`` or ``mean_cost`` are not floating.
    ValueError: A static radius or rate is not positive, or the bounds are not
      positive and in order.

  Example:
    >>> from rrl_jax import losses
    >>> print(losses.adapt_gamma(1.0, 0.04, radius=0.01, rate=0.5))
    2.0

  .. note::
    UDR (Bui et al., 2022) and plain dual descent subtract
    ``rate * (radius - cost)``, which can leave the positive numbers and whose
    rate carries a unit. The sign and the fixed point are the same here.
  """
  _checks.in_range('radius', radius, 0.0, open_low=True)
  _checks.in_range('rate', rate, 0.0, open_low=True)
  low, high = bounds
  if not 0 < low < high:
    raise ValueError(f'bounds must be positive and in order, got {bounds}')
  gamma = _checks.floating('gamma', gamma, rank=0)
  mean_cost = _checks.floating('mean_cost', mean_cost, rank=0)
  dtype = jnp.promote_types(gamma.dtype, jnp.float32)
  ratio = mean_cost.astype(dtype) / jnp.asarray(radius, dtype)
  ratio = jnp.clip(ratio, 1 / _STEEPEST, _STEEPEST)
  moved = gamma.astype(dtype) * ratio ** jnp.asarray(rate, dtype)
  return jax.lax.stop_gradient(jnp.clip(moved, low, high)).astype(gamma.dtype)
