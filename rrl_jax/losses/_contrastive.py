"""Contrastive losses over a batch of unit rows, one value an anchor.

All products of rows, in the losses and in their gradients, are taken in
float32 at the least and at the highest precision of the device; gradients
have the dtype of the rows.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax import numerics
from rrl_jax.losses import _checks, _pairs, _tiles

DENOMINATORS = ('all', 'one_positive', 'negatives_only', 'in')


def l2_normalize(x: ArrayLike, axis: int = -1) -> jax.Array:
  r"""Scales vectors to unit length, :math:`x / \|x\|`.

  A vector of zeros stays at zero with zero gradient, instead of NaN. Norms
  are taken in at least float32 and do not overflow.

  Args:
    x: Vectors of any rank, floating, finite.
    axis: The axis of one vector.

  Returns:
    Unit vectors in the shape and dtype of ``x``.

  Raises:
    TypeError: ``x`` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
    [[0.6 0.8]
     [0.  0. ]]
  """
  x = _checks.floating('x', x)
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  wide = x.astype(dtype)
  # A power of two brings the ends of the range to where squares and inverses
  # are normal numbers; it cancels.
  top = jnp.max(jnp.abs(wide), axis=axis, keepdims=True)
  shift = jnp.where(top > 2.0**60, 2.0**-100, 1)
  shift = jnp.where(top < 2.0**-60, 2.0**120, shift)
  scaled = wide * jax.lax.stop_gradient(shift).astype(dtype)
  norm = numerics.safe_norm(scaled, axis=axis, keepdims=True)
  positive = norm > 0
  unit = jnp.where(positive, scaled / jnp.where(positive, norm, 1), 0)
  return unit.astype(x.dtype)


def infonce(
  embeddings: ArrayLike,
  instance_ids: ArrayLike,
  *,
  temperature: ArrayLike,
  tile_size: int | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""InfoNCE between the views of each instance (NT-Xent), one an anchor.

  With rows :math:`z_i`, :math:`s_{ij} = \langle z_i, z_j\rangle/\tau` and the
  other views :math:`V(i)` of the anchor's instance,

  .. math::
    \ell_i = \log \sum_{j \ne i} e^{s_{ij}}
      - \frac{1}{|V(i)|} \sum_{a \in V(i)} s_{ia}.

  The caller reduces. Gradients flow to the rows, as anchors and as contrasts,
  and to the temperature. Memory is O(N D + tile_size^2).

  Args:
    embeddings: Unit rows, shape ``[N, D]``, float; see ``l2_normalize``. Rows
      of 16 bits are multiplied as float32: they save memory, not time.
    instance_ids: Integers, shape ``[N]``; rows with one id are views of one
      image.
    temperature: Positive scalar :math:`\tau`.
    tile_size: Rows of a tile; None for a good number. The result does not
      depend on it but for rounding.
    where: Optional bool mask, shape ``[N]``; a masked row is neither anchor
      nor contrast, with zero loss and gradient.
    axis_name: Axis of ``shard_map`` or ``pmap`` over whose devices the rows
      are spread: each anchor then meets the rows of all of them, which travel
      around a ring. Ids hold across devices.

  Returns:
    Losses, shape ``[N]``, at least float32. Exactly zero, with zero gradient,
    for an anchor without another view.

  Raises:
    TypeError: A dtype is of the wrong kind.
    ValueError: Shapes do not fit or a static value is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> rows = jnp.ones((4, 1))
    >>> ids = jnp.array([0, 0, 1, 1])
    >>> print(losses.infonce(rows, ids, temperature=0.5))  # log 3
    [1.0986123 1.0986123 1.0986123 1.0986123]

  References:
    Chen, Kornblith, Norouzi, Hinton, `A Simple Framework for Contrastive
    Learning of Visual Representations <https://arxiv.org/abs/2002.05709>`_,
    2020, Eq. (1).

  .. note::
    For three or more views the mean over an anchor's views is taken and the
    denominator keeps all other rows.
  """
  ids = _checks.integer('instance_ids', instance_ids, rank=1)
  what = _tiles.Terms('all')
  args = (embeddings, ids, ids, temperature, tile_size, where, axis_name)
  return _compute(what, *args)[0]


def supervised_contrastive(
  embeddings: ArrayLike,
  labels: ArrayLike,
  instance_ids: ArrayLike,
  *,
  temperature: ArrayLike,
  denominator: str = 'all',
  tile_size: int | None = None,
  where: ArrayLike | None = None,
  numerator_clip: float | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Supervised contrastive loss of each anchor.

  With rows :math:`z_i`, :math:`s_{ij} = \langle z_i, z_j\rangle/\tau`, the
  other rows :math:`P(i)` of the anchor's class and the rows :math:`N(i)` of
  other classes, the mean over :math:`p \in P(i)` of

  ==================  ====================================================
  ``denominator``     term of a positive
  ==================  ====================================================
  ``all``             :math:`-s_{ip} + \log\sum_{j \in P(i)\cup N(i)}
                      e^{s_{ij}}`
  ``one_positive``    :math:`-s_{ip} + \log(e^{s_{ip}} + \sum_{n \in N(i)}
                      e^{s_{in}})`
  ``negatives_only``  :math:`-s_{ip} + \log\sum_{n \in N(i)} e^{s_{in}}`
  ==================  ====================================================

  or, for ``in``, the mean inside the logarithm, :math:`-\log
  \frac{1}{|P(i)|} \sum_p e^{s_{ip}} / \sum_{j \ne i} e^{s_{ij}}`. The caller
  reduces; a mean over anchors divides by those with a positive if others are
  not to count. Gradients flow to the rows, as anchors and as contrasts, and
  to the temperature. Memory is O(N D + tile_size^2).

  Args:
    embeddings: Unit rows, shape ``[N, D]``, float; see ``l2_normalize``. Rows
      of 16 bits are multiplied as float32: they save memory, not time.
    labels: Classes, integers, shape ``[N]``. -1 marks an unlabelled row: its
      positives are its own other views, all others its negatives.
    instance_ids: Integers, shape ``[N]``; rows with one id are views of one
      image. They matter for unlabelled rows; rows never meet themselves,
      whatever the ids.
    temperature: Positive scalar :math:`\tau`.
    denominator: One of all, one_positive, negatives_only, in.
    tile_size: Rows of a tile; None for a good number. The result does not
      depend on it but for rounding.
    where: Optional bool mask, shape ``[N]``; a masked row is neither anchor
      nor contrast, with zero loss and gradient.
    numerator_clip: If given, :math:`s_{ip}` outside the logarithm counts as
      at most this; 1.0 is what the released code of [2] does. Not for ``in``.
    axis_name: Axis of ``shard_map`` or ``pmap`` over whose devices the rows
      are spread: each anchor then meets the rows of all of them, which travel
      around a ring. Labels and ids hold across devices.

  Returns:
    Losses, shape ``[N]``, at least float32. Exactly zero, with zero gradient,
    for an anchor without a positive, for ``one_positive`` and
    ``negatives_only`` also for one without a negative (unless its numerator
    is clipped).

  Raises:
    TypeError: A dtype is of the wrong kind.
    ValueError: Shapes do not fit, the denominator is unknown, or a static
      value is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = losses.supervised_contrastive(
    ...     rows, jnp.array([0, 0, 1]), jnp.arange(3), temperature=1.0)
    >>> print([f'{x:.3f}' for x in loss])  # log(1 + 1/e), or no positive
    ['0.313', '0.313', '0.000']

  References:
    [1] Khosla et al., `Supervised Contrastive Learning
    <https://arxiv.org/abs/2004.11362>`_, 2020, Eq. (2), (3).
    [2] Chen, Fu et al., `Perfectly Balanced: Improving Transfer and
    Robustness of Supervised Contrastive Learning
    <https://arxiv.org/abs/2204.07596>`_, 2022, whose supervised term is
    ``one_positive``.

  .. note::
    No factor :math:`\tau/\tau_0`, which the released code of [1] has. The
    released code of [2] compares one view with the other only; here every row
    is an anchor and meets every other row.
  """
  what = _supervised(denominator, numerator_clip)
  args = (embeddings, labels, instance_ids, temperature, tile_size, where)
  return _compute(what, *args, axis_name)[0]


def class_conditional_infonce(
  embeddings: ArrayLike,
  labels: ArrayLike,
  instance_ids: ArrayLike,
  *,
  temperature: ArrayLike,
  tile_size: int | None = None,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""InfoNCE within the anchor's class: what spreads a class, one an anchor.

  With rows :math:`z_i`, :math:`s_{ij} = \langle z_i, z_j\rangle/\tau`, the
  other rows :math:`P(i)` of the anchor's class and those of them that are
  views of its instance, :math:`V(i)`,

  .. math::
    \ell_i = \log \sum_{p \in P(i)} e^{s_{ip}}
      - \frac{1}{|V(i)|} \sum_{a \in V(i)} s_{ia}.

  Other classes do not appear. The caller reduces. Gradients flow to the rows,
  as anchors and as contrasts, and to the temperature. Memory is
  O(N D + tile_size^2).

  Args:
    embeddings: Unit rows, shape ``[N, D]``, float; see ``l2_normalize``. Rows
      of 16 bits are multiplied as float32: they save memory, not time.
    labels: Classes, integers, shape ``[N]``; -1 marks an unlabelled row, a
      class of its own views.
    instance_ids: Integers, shape ``[N]``; rows of one class with one id are
      views of one image.
    temperature: Positive scalar :math:`\tau`.
    tile_size: Rows of a tile; None for a good number.
    where: Optional bool mask, shape ``[N]``; a masked row is neither anchor
      nor contrast, with zero loss and gradient.
    axis_name: As in ``supervised_contrastive``.

  Returns:
    Losses, shape ``[N]``, at least float32, at least zero for two views.
    Exactly zero, with zero gradient, for an anchor without another view.

  Raises:
    TypeError: A dtype is of the wrong kind.
    ValueError: Shapes do not fit or a static value is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> rows, ids = jnp.ones((4, 1)), jnp.array([0, 0, 1, 1])
    >>> labels = jnp.zeros(4, int)
    >>> loss = losses.class_conditional_infonce(
    ...     rows, labels, ids, temperature=0.5)
    >>> print(loss)  # a collapsed class: log 3
    [1.0986123 1.0986123 1.0986123 1.0986123]

  References:
    Chen, Fu et al., `Perfectly Balanced: Improving Transfer and Robustness of
    Supervised Contrastive Learning <https://arxiv.org/abs/2204.07596>`_, 2022.
  """
  what = _tiles.Terms(None, conditional=True)
  args = (embeddings, labels, instance_ids, temperature, tile_size, where)
  return _compute(what, *args, axis_name)[1]


def spread(
  embeddings: ArrayLike,
  labels: ArrayLike,
  instance_ids: ArrayLike,
  *,
  alpha: ArrayLike,
  temperature: ArrayLike,
  denominator: str = 'one_positive',
  tile_size: int | None = None,
  where: ArrayLike | None = None,
  numerator_clip: float | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""The spread loss of Thanos, one value an anchor.

  .. math::
    \ell_i = (1 - \alpha)\, \ell^{\mathrm{sup}}_i
      + \alpha\, \ell^{\mathrm{cond}}_i

  with ``supervised_contrastive`` and ``class_conditional_infonce``. Both come
  from one pass over the pairs. Classes collapse to points for alpha below
  ``collapse_threshold``; above it they spread, and for a large alpha they
  merge: the window between is narrow for a temperature of 0.5 and more.
  The caller reduces. Gradients flow to the rows, the temperature and alpha.

  Args:
    embeddings: Unit rows, shape ``[N, D]``, float; see ``l2_normalize``. Rows
      of 16 bits are multiplied as float32: they save memory, not time.
    labels: Classes, integers, shape ``[N]``; -1 marks an unlabelled row, a
      class of its own views.
    instance_ids: Integers, shape ``[N]``; rows of one class with one id are
      views of one image.
    alpha: Weight of the class-conditional term, scalar in [0, 1].
    temperature: Positive scalar :math:`\tau` of both terms.
    denominator: That of the supervised term: all, one_positive,
      negatives_only, in.
    tile_size: Rows of a tile; None for a good number.
    where: Optional bool mask, shape ``[N]``; a masked row is neither anchor
      nor contrast, with zero loss and gradient.
    numerator_clip: As in ``supervised_contrastive``; the class-conditional
      term is never clipped.
    axis_name: As in ``supervised_contrastive``.

  Returns:
    Losses, shape ``[N]``, at least float32. The supervised term is zero for
    an anchor without a positive, the class-conditional one for an anchor
    without another view.

  Raises:
    TypeError: A dtype is of the wrong kind.
    ValueError: Shapes do not fit, the denominator is unknown, or a static
      value is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> rows, ids = jnp.ones((4, 1)), jnp.array([0, 0, 1, 1])
    >>> loss = losses.spread(
    ...     rows, ids, ids, alpha=0.5, temperature=0.5)
    >>> print(f'{loss.mean():.3f}')  # half of log 3
    0.549

  References:
    Chen, Fu et al., `Perfectly Balanced: Improving Transfer and Robustness of
    Supervised Contrastive Learning <https://arxiv.org/abs/2204.07596>`_, 2022.

  .. note::
    The released code has weights a_lc = a_spread = 1, which is alpha 0.5, and
    a temperature of 0.5. It clips the numerator by default
    (``numerator_clip=1.0``): beyond a cosine of 0.5 positives no longer
    attract each other, so that classes spread at an alpha at which the loss
    as written collapses them. It compares one view with the other only.
  """
  _checks.in_range('alpha', alpha, 0.0, 1.0)
  what = _supervised(denominator, numerator_clip, conditional=True)
  args = (embeddings, labels, instance_ids, temperature, tile_size, where)
  supervised, conditional = _compute(what, *args, axis_name)
  alpha = _scalar('alpha', alpha, supervised.dtype)
  return (1 - alpha) * supervised + alpha * conditional


def _supervised(denominator, numerator_clip, conditional=False):
  _checks.one_of('denominator', denominator, DENOMINATORS)
  if numerator_clip is not None:
    if denominator == 'in':
      raise ValueError("numerator_clip is not for denominator 'in'")
    numerator_clip = float(numerator_clip)
  return _tiles.Terms(denominator, conditional, numerator_clip)


def _scalar(name, value, dtype):
  value = jnp.asarray(value)
  if value.ndim:
    raise ValueError(f'{name} must be a scalar, got shape {value.shape}')
  return value.astype(dtype)


def _compute(
  what, embeddings, labels, ids, temperature, tile_size, where, axis_name
):
  """Checks what all contrastive losses share and computes both terms."""
  embeddings = _checks.floating('embeddings', embeddings, rank=2)
  labels = _checks.integer('labels', labels, rank=1)
  ids = _checks.integer('instance_ids', ids, rank=1)
  rows = embeddings.shape[:1]
  per_row = {'labels': labels, 'instance_ids': ids}
  if where is None:
    where = jnp.ones_like(labels, dtype=bool)
  else:
    where = jnp.asarray(where)
    if where.dtype != bool:
      raise TypeError(f'where must be bool, got {where.dtype}')
    per_row['where'] = where
  for name, x in per_row.items():
    if x.shape != rows:
      raise ValueError(
        f'{name} must have shape {rows}, one a row of embeddings, got {x.shape}'
      )
  _checks.in_range('temperature', temperature, 0.0, open_low=True)
  _checks.in_range('tile_size', tile_size, 1)
  dtype = jnp.promote_types(embeddings.dtype, jnp.float32)
  temperature = _scalar('temperature', temperature, dtype)
  args = (embeddings, labels, ids, where, temperature)
  return _pairs.terms(what, tile_size, axis_name, *args)
