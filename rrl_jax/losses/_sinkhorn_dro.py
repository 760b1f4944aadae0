"""Sinkhorn distributionally robust loss: a soft maximum over noise."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.losses import _checks, _concept_response, _rows, _simplex


def sinkhorn_dro_samples(
  key: jax.Array,
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  num_samples: int,
  example_ids: ArrayLike | None = None,
) -> jax.Array:
  r"""Draws :math:`z_{ij} = x_i + \sqrt\epsilon\, n_{ij}` around each example.

  The reference law of the entropic ball with cost :math:`\frac12\|z-x\|^2`.
  Sample j of row i depends on neither the batch nor the number of samples:
  twice as many repeat the first half.

  Args:
    key: Random key. Sample j of row i draws from
      ``fold_in(fold_in(key, i), j)``.
    inputs: Points x, shape ``[B, ...]``, float.
    epsilon: Variance of the noise, non-negative, in squared units of x.
    num_samples: Samples M of each example, at least 1; static.
    example_ids: Integers, shape ``[B]``, in the place of the row's number.

  Returns:
    Points, shape ``[B, M, ...]``, dtype of ``inputs``; not clipped to bounds.

  Raises:
    TypeError: ``inputs`` are not floating or ids not integer.
    ValueError: No batch axis, wrong shapes or values out of range.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> x, key = jnp.zeros((2, 3)), jax.random.key(0)
    >>> losses.sinkhorn_dro_samples(key, x, epsilon=0.1, num_samples=4).shape
    (2, 4, 3)
  """
  inputs = _rows.batched('inputs', inputs)
  _checks.in_range('epsilon', epsilon, 0.0)
  _checks.in_range('num_samples', num_samples, 1)
  if example_ids is None:
    example_ids = jnp.arange(inputs.shape[0])
  example_ids = _checks.integer('example_ids', example_ids, rank=1)
  if example_ids.shape != inputs.shape[:1]:
    raise ValueError(
      f'example_ids must have shape {inputs.shape[:1]}, got {example_ids.shape}'
    )
  dtype = _simplex.compute_dtype(inputs)

  def draw(i, j):
    row = jax.random.fold_in(key, i)
    return jax.random.normal(
      jax.random.fold_in(row, j), inputs.shape[1:], dtype
    )

  draws = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))
  noise = draws(example_ids, jnp.arange(num_samples))
  noise = jnp.sqrt(jnp.asarray(epsilon, dtype)) * noise
  return (inputs.astype(dtype)[:, None] + noise).astype(inputs.dtype)


def sinkhorn_dro(
  losses: ArrayLike,
  *,
  penalty: ArrayLike,
  epsilon: ArrayLike,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Soft maximum of the losses at samples around an example, per example.

  The worst case over laws near the data in entropic transport with price
  :math:`\lambda` has the dual :math:`\lambda\bar\rho + \mathbb{E}_x F(x)`
  with

  .. math:: F_i = \lambda\epsilon \log \mathbb{E}_{z\sim N(x_i,\epsilon I)}
            e^{\ell(z)/(\lambda\epsilon)} \approx \lambda\epsilon\Big(
            \log\sum_{j=1}^M e^{\ell_{ij}/(\lambda\epsilon)} - \log M\Big)

  over the samples of ``sinkhorn_dro_samples``. It lies between the mean and
  the largest of an example's losses; for :math:`\epsilon \to 0` it tends to
  the surrogate that ``attacks.wrm`` maximises, with gamma = lambda. The caller
  reduces. Gradients flow to the losses, each sample's by its softmax weight,
  and to ``penalty`` and ``epsilon``, so that the price can be learned.

  Args:
    losses: Loss of each sample, shape ``[B, M]``, float.
    penalty: Price lambda, positive, in loss per squared unit of x.
    epsilon: Variance of the samples, positive, in squared units of x.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Losses, shape ``[B]``, float32 at the least.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: Wrong shapes or static values out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.sinkhorn_dro(
    ...   jnp.array([[0.0, 1.0]]), penalty=10.0, epsilon=0.1).round(3))
    [0.62]

  References:
    Wang, Gao, Xie, `Sinkhorn Distributionally Robust Optimization
    <https://arxiv.org/abs/2109.11926>`_, 2021, the dual of Theorem 1.

  .. note::
    The logarithm of a mean of M samples is low by O(1/M): see
    ``sinkhorn_dro_multilevel``. The price for a given radius is learned by
    ``sinkhorn_dro_update``.
  """
  _checks.in_range('penalty', penalty, 0.0, open_low=True)
  _checks.in_range('epsilon', epsilon, 0.0, open_low=True)
  losses, rows = inputs(losses, where)
  return _rows.keep(rows, soft_max(losses, penalty, epsilon))


def sinkhorn_dro_multilevel(
  losses: ArrayLike,
  *,
  penalty: ArrayLike,
  epsilon: ArrayLike,
  level_prob: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""One level of the multilevel estimate of ``sinkhorn_dro``, per example.

  With :math:`F_k` the soft maximum of :math:`2^k` samples,

  .. math:: \Delta_0 = F_0, \qquad \Delta_k = F_k - \tfrac12\big(
            F_{k-1}^{\text{first half}} + F_{k-1}^{\text{second half}}\big)

  each normalised by its own number of samples. :math:`\mathbb{E}\,\Delta_k =
  \mathbb{E}\,F_k - \mathbb{E}\,F_{k-1}`, so that the levels 0 to K add up to
  the expectation of K's. The level is :math:`\log_2` of the number of
  samples. To draw one level at random, take k by ``multilevel_probs`` on the
  host (its shape is static) and give its probability: :math:`\Delta_k / q_k`
  has the expectation of :math:`F_K` at a mean cost of (K + 1)/2 to K + 1
  samples. To sum levels, leave the probability at 1. The caller reduces;
  gradients as in ``sinkhorn_dro``.

  Args:
    losses: Loss of each sample, shape ``[B, 2**k]``, float.
    penalty: As in ``sinkhorn_dro``.
    epsilon: As there.
    level_prob: Probability q of this level, in (0, 1].
    where: As there.

  Returns:
    Estimates, shape ``[B]``, float32 at the least; those of single levels may
    be negative.

  Raises:
    TypeError: ``losses`` are not floating.
    ValueError: As ``sinkhorn_dro``, or a number of samples that is not a power
      of two.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.sinkhorn_dro_multilevel(
    ...   jnp.array([[0.0, 1.0]]), penalty=10.0, epsilon=0.1).round(3))
    [0.12]

  References:
    Wang, Gao, Xie, `Sinkhorn Distributionally Robust Optimization
    <https://arxiv.org/abs/2109.11926>`_, 2021, the (randomised) multilevel
    estimators.

  .. note::
    The estimate's logarithms are shifted by their maximum, which the authors'
    code leaves out; level 0 is in the sum.
  """
  _checks.in_range('penalty', penalty, 0.0, open_low=True)
  _checks.in_range('epsilon', epsilon, 0.0, open_low=True)
  _checks.in_range('level_prob', level_prob, 0.0, 1.0, open_low=True)
  losses, rows = inputs(losses, where)
  samples = losses.shape[1]
  if samples & (samples - 1):
    raise ValueError(f'losses must hold 2**k samples a row, got {samples}')
  if samples == 1:
    out = losses[:, 0]
  else:
    half = samples // 2
    first = soft_max(losses[:, :half], penalty, epsilon)
    second = soft_max(losses[:, half:], penalty, epsilon)
    out = soft_max(losses, penalty, epsilon) - (first + second) / 2
  return _rows.keep(rows, out / jnp.asarray(level_prob, losses.dtype))


def multilevel_probs(max_level: int) -> np.ndarray:
  r"""Probabilities :math:`q_k \propto 2^{-k}` of the levels 0 to K.

  In proportion to one over the cost of a level, so that each costs the same
  in expectation.

  Args:
    max_level: Highest level K, at least 0; its samples are ``2**K``.

  Returns:
    Float64 array, shape ``[K + 1]``, of sum one.

  Raises:
    ValueError: A negative level.

  Example:
    >>> from rrl_jax import losses
    >>> print(losses.multilevel_probs(1).round(3))
    [0.667 0.333]
  """
  _checks.in_range('max_level', max_level, 0)
  weights = 0.5 ** np.arange(max_level + 1)
  return weights / weights.sum()


def soft_max(losses, penalty, epsilon):
  """Rows of ``T log mean exp(losses / T)``, ``[B, M] -> [B]``."""
  dtype = losses.dtype
  temperature = jnp.asarray(penalty, dtype) * jnp.asarray(epsilon, dtype)
  prior = jnp.full((losses.shape[1],), 1 / losses.shape[1], dtype)
  # The best response over an example's samples, in place of concepts.
  return jax.vmap(
    lambda row: _concept_response.concept_robust_risk(
      row, prior, temperature=temperature
    )
  )(losses)


def inputs(losses, where):
  """Checked losses ``[B, M]``, zero where masked, and the rows that count."""
  losses = _checks.floating('losses', losses, rank=2)
  if losses.shape[1] == 0:
    raise ValueError('losses must hold at least one sample a row')
  rows = _rows.mask(where, losses)
  losses = losses.astype(_simplex.compute_dtype(losses))
  return _rows.keep(rows, losses), rows
