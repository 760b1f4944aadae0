"""How far an attack moves the features of an example."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax import numerics
from rrl_jax.losses import _checks, _log_probs, _rows

DISTANCES = ('sq_l2', 'l2', 'cosine', 'unit_l2', 'kl')
_SHORTEST = 1e-12  # A shorter vector has no direction.


def feature_shift(
  features: ArrayLike,
  adv_features: ArrayLike,
  *,
  distance: str = 'sq_l2',
  temperature: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Distance of attacked from clean features, per example.

  With clean features :math:`z`, attacked ones :math:`z'`, their directions
  :math:`u = z/\|z\|`, :math:`u'`, and :math:`p =
  \mathrm{softmax}(z/\tau)`, :math:`p'`:

  ===========  =========================================================
  ``sq_l2``    :math:`\|z'-z\|^2`
  ``l2``       :math:`\|z'-z\|`
  ``cosine``   :math:`1-\cos(z,z') = \frac12\|u'-u\|^2`
  ``unit_l2``  :math:`\|u'-u\| = \sqrt{2-2\cos(z,z')}`
  ``kl``       :math:`\sum_k p_k (\log p_k - \log p'_k)`
  ===========  =========================================================

  The mean over examples of the largest such distance in an attack's ball is
  the task-independent term of ``adversarial_loss_bound`` (``l2`` for a head
  on features, ``unit_l2`` for a head on their directions) and of
  ``pinsker_loss_bound`` (``kl``). The caller reduces. Gradients flow to both
  arguments; stop the one that shall not move. The gradient is finite
  everywhere, and zero where both are equal: an attack that maximises it has
  to start elsewhere.

  Args:
    features: Clean features, shape ``[B, ...]``, float; axes past the first
      are flattened.
    adv_features: Attacked features, same shape.
    distance: One of sq_l2, l2, cosine, unit_l2, kl.
    temperature: For ``kl``: positive scalar tau, in the unit of the features.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Distances, shape ``[B]``, float32 at the least; non-negative (``kl`` up to
    rounding), at most 2 for ``cosine`` and ``unit_l2``.

  Raises:
    TypeError: An argument is not floating.
    ValueError: Unknown distance, shapes differ, no batch axis, or a static
      temperature that is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> clean, moved = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])
    >>> print(losses.feature_shift(clean, moved))
    [5.]
    >>> print(losses.feature_shift(clean, moved, distance='cosine'))
    [1.]

  References:
    Nguyen, Lim, Torr, `Task-Agnostic Robust Representation Learning
    <https://arxiv.org/abs/2203.07596>`_, 2022, for a task-independent
    robustness regulariser.

  .. note::
    Derived from the abstract of that paper, whose own distance is not known
    to us. A vector shorter than 1e-12 counts as zero and has no direction:
    ``cosine`` and ``unit_l2`` are 1/2 and 1 between it and another vector, 0
    between two such, without a gradient to it. ``sq_l2`` and ``l2``
    saturate at the largest finite number.
  """
  _checks.one_of('distance', distance, DISTANCES)
  _checks.in_range('temperature', temperature, 0.0, open_low=True)
  clean = _rows.batched('features', features)
  moved = _rows.batched('adv_features', adv_features)
  _checks.same_shape(features=clean, adv_features=moved)
  rows = _rows.mask(where, clean)
  dtype = jnp.promote_types(clean.dtype, moved.dtype)
  dtype = jnp.promote_types(dtype, jnp.float32)
  clean, moved = (
    _rows.keep(rows, _rows.flat(x).astype(dtype)) for x in (clean, moved)
  )
  if distance == 'kl':
    tau = jnp.asarray(temperature, dtype)
    out = _log_probs.kl(
      _log_probs.log_probs(clean / tau), _log_probs.log_probs(moved / tau)
    )
  elif distance == 'sq_l2':
    out = numerics.sum_of_squares(moved, clean)
  elif distance == 'l2':
    out = numerics.safe_norm(numerics.difference(moved, clean))
  elif distance == 'cosine':
    # 1 - cos directly would lose all digits where it is small.
    out = jnp.sum(jnp.square(_direction(moved) - _direction(clean)), -1) / 2
  else:
    out = numerics.safe_norm(_direction(moved) - _direction(clean))
  # Rounding may part what is equal, and l2 has a slope for the least parting.
  apart = jnp.any(moved != clean, axis=-1)
  return _rows.keep(rows & apart, out)


def _direction(x):
  """Unit rows; zero, with zero gradient, for a row without a direction."""
  x, factor = numerics.shrunk(x)
  norm = numerics.safe_norm(x, keepdims=True)
  has_one = norm > _SHORTEST * factor
  return jnp.where(has_one, x, 0) / jnp.where(has_one, norm, 1)
