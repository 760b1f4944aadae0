"""Pairs of examples blended in the input and in the loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _rows


def mixup_pairs(
  key: jax.Array,
  num_examples: int,
  *,
  alpha: ArrayLike = 1.0,
  shared: bool = True,
) -> tuple[jax.Array, jax.Array]:
  r"""Draws who is blended with whom, and how much of each.

  A random permutation gives each row its partner, and :math:`\mu \sim
  \mathrm{Beta}(\alpha, \alpha)` the weight of the row itself.

  Args:
    key: Random key.
    num_examples: Rows B of the batch; on one device of several, of its part.
    alpha: Positive scalar; small keeps most rows nearly pure.
    shared: Whether the batch has one weight, else one an example.

  Returns:
    ``(partners [B] int32, weights [B] float32 in [0, 1])``.

  Raises:
    ValueError: A static alpha is not positive.

  Example:
    >>> import jax
    >>> from rrl_jax import losses
    >>> partners, weights = losses.mixup_pairs(jax.random.key(0), 4)
    >>> print(sorted(partners.tolist()), bool((weights == weights[0]).all()))
    [0, 1, 2, 3] True

  References:
    Zhang et al., `mixup: Beyond Empirical Risk Minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018; one weight a batch as in the
    authors' code.
  """
  _checks.in_range('alpha', alpha, 0.0, open_low=True)
  pair_key, weight_key = jax.random.split(key)
  partners = jax.random.permutation(pair_key, num_examples)
  alpha = jnp.asarray(alpha, jnp.float32)
  shape = (1,) if shared else (num_examples,)
  weights = jax.random.beta(weight_key, alpha, alpha, shape)
  return partners.astype(jnp.int32), jnp.broadcast_to(weights, (num_examples,))


def mixup_inputs(
  inputs: ArrayLike, partners: ArrayLike, weights: ArrayLike
) -> jax.Array:
  r"""Blends each row with its partner: :math:`\mu x_i + (1-\mu) x_{j(i)}`.

  Args:
    inputs: Shape ``[B, ...]``, float.
    partners: Row to blend with, integers in ``[0, B)``, shape ``[B]``.
    weights: Weight mu of the row itself, shape ``[B]``, float, in [0, 1].

  Returns:
    Blends, shape and dtype of ``inputs``.

  Raises:
    TypeError: Inputs or weights are not floating or partners not integer.
    ValueError: Wrong shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.mixup_inputs(jnp.array([[0.0], [1.0]]),
    ...                           jnp.array([1, 0]), jnp.array([0.75, 0.75])))
    [[0.25]
     [0.75]]

  References:
    Zhang et al., `mixup: Beyond Empirical Risk Minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018.
  """
  inputs = _rows.batched('inputs', inputs)
  partners, weights = _checked_pairs(inputs, partners, weights)
  weights = weights.astype(inputs.dtype)
  weights = weights.reshape(weights.shape + (1,) * (inputs.ndim - 1))
  return weights * inputs + (1 - weights) * _take(inputs, partners)


def mixup_targets(
  labels: ArrayLike,
  partners: ArrayLike,
  weights: ArrayLike,
  *,
  num_classes: int,
) -> jax.Array:
  r"""Soft labels of blends: :math:`\mu e_{y_i} + (1-\mu) e_{y_{j(i)}}`.

  For losses that take soft labels, such as ``optax.softmax_cross_entropy``.

  Args:
    labels: Classes, integers, shape ``[B]``; one outside ``[0, K)`` adds
      nothing.
    partners: Row to blend with, integers in ``[0, B)``, shape ``[B]``.
    weights: Weight mu of the row itself, shape ``[B]``, float, in [0, 1].
    num_classes: Number of classes K.

  Returns:
    Targets, shape ``[B, K]``, dtype of ``weights``.

  Raises:
    TypeError: Labels or partners are not integer or weights not floating.
    ValueError: Wrong shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.mixup_targets(jnp.array([2, 0]), jnp.array([1, 0]),
    ...                            jnp.array([0.75, 1.0]), num_classes=3))
    [[0.25 0.   0.75]
     [1.   0.   0.  ]]

  References:
    Zhang et al., `mixup: Beyond Empirical Risk Minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018.
  """
  labels = _checks.integer('labels', labels, rank=1)
  partners, weights = _checked_pairs(labels, partners, weights)
  own, other = (
    (y[:, None] == jnp.arange(num_classes)[None, :]).astype(weights.dtype)
    for y in (labels, _take(labels, partners))
  )
  return weights[:, None] * own + (1 - weights[:, None]) * other


def mixup_loss(
  loss_fn: Callable[..., jax.Array],
  logits: ArrayLike,
  labels: ArrayLike,
  partners: ArrayLike,
  weights: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Any loss of hard labels on blends, per example.

  .. math:: \mu\, \ell(z_i, y_i) + (1-\mu)\, \ell(z_i, y_{j(i)})

  with z the logits of the blended inputs. The caller reduces; gradients flow
  as the loss lets them. Of ``gradient_rescaling``, each of the two terms is
  normalised by its own sum of weights.

  Args:
    loss_fn: ``(logits, labels) -> [B]``; has to take ``where`` if that is
      given here.
    logits: Logits of blends, shape ``[B, K]``, float.
    labels: Classes before blending, integers, shape ``[B]``.
    partners: Row blended with, integers in ``[0, B)``, shape ``[B]``.
    weights: Weight mu of the row itself, shape ``[B]``, float, in [0, 1].
    where: Optional mask, shape ``[B]``. A row counts if itself and its
      partner are unmasked.

  Returns:
    Losses, shape ``[B]``.

  Raises:
    TypeError: Labels or partners are not integer or weights not floating.
    ValueError: Wrong shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.mixup_loss(
    ...   losses.mean_absolute_error, jnp.zeros((2, 2)), jnp.array([0, 1]),
    ...   jnp.array([1, 0]), jnp.array([0.5, 0.5])))
    [0.5 0.5]

  References:
    Zhang et al., `mixup: Beyond Empirical Risk Minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018, in the authors' code's form.
  """
  labels = _checks.integer('labels', labels, rank=1)
  partners, weights = _checked_pairs(labels, partners, weights)
  kw = {}
  if where is not None:
    where = _rows.mask(where, labels)
    kw['where'] = where & _take(where, partners)
  own = loss_fn(logits, labels, **kw)
  other = loss_fn(logits, _take(labels, partners), **kw)
  weights = weights.astype(own.dtype)
  return weights * own + (1 - weights) * other


def _checked_pairs(rows, partners, weights):
  partners = _checks.integer('partners', partners, rank=1)
  weights = _checks.floating('weights', weights, rank=1)
  if not partners.shape == weights.shape == rows.shape[:1]:
    raise ValueError(
      f'partners {partners.shape} and weights {weights.shape} must have shape '
      f'{rows.shape[:1]}'
    )
  return partners, weights


def _take(x, partners):
  """Rows by number, sharded as they were on a mesh with Explicit axes."""
  whole = _rows.whole(x, None), _rows.whole(partners, None)
  return _rows.own(whole[0][whole[1]], x, None)
