"""What a shift of the features can do to a head on them, for any task."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax import numerics
from rrl_jax.losses import _checks, _log_probs, _rows, _simplex

_NEAREST = 1e-15  # Columns of a kernel that are nearer count as equal.


def adversarial_loss_bound(
  losses: ArrayLike,
  shift: ArrayLike,
  *,
  lipschitz: ArrayLike,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Upper bound of the loss under attack by a feature shift, per example.

  Let :math:`z \mapsto \ell(h(z), y)` be K-Lipschitz for every class y and
  :math:`r_i = \max_{x' \in B(x_i)} \|f(x') - f(x_i)\|`. Then

  .. math:: \max_{x' \in B(x_i)} \ell(h(f(x')), y_i) \le
            \ell(h(f(x_i)), y_i) + K r_i

  for every task and every such head: no label enters r. The mean over
  examples bounds the adversarial risk by the clean one. For a head on
  directions :math:`z/\|z\|`, take r in ``unit_l2``; that bound does not
  change when the encoder scales its features. The caller reduces; gradients
  flow to all arguments.

  Args:
    losses: Clean losses, shape ``[B]``, float.
    shift: Largest ``feature_shift`` r in the attack's ball, shape ``[B]``, by
      ``l2`` or ``unit_l2`` as the head reads. What an attack finds is a lower
      estimate of it: with that, this is no certificate.
    lipschitz: The constant K, non-negative scalar, in units of loss per unit
      of shift, as from ``head_lipschitz``.
    where: Optional mask, shape ``[B]``; masked rows give zero.

  Returns:
    Bounds, shape ``[B]``, dtype of ``losses``.

  Raises:
    TypeError: ``losses`` or ``shift`` are not floating.
    ValueError: Shapes differ or a negative static constant.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.adversarial_loss_bound(
    ...   jnp.array([0.5]), jnp.array([0.25]), lipschitz=2.0))
    [1.]

  References:
    Nguyen, Lim, Torr, `Task-Agnostic Robust Representation Learning
    <https://arxiv.org/abs/2203.07596>`_, 2022.

  .. note::
    Derived from the abstract of that paper: its own theorem and constant are
    not known to us. The bound holds on the inputs on which r is measured.
  """
  _checks.in_range('lipschitz', lipschitz, 0.0)
  losses, shift, rows = _pair(losses, shift, 'shift', where)
  bound = losses + jnp.asarray(lipschitz, losses.dtype) * shift
  return _rows.keep(rows, bound)


def pinsker_loss_bound(
  losses: ArrayLike,
  divergence: ArrayLike,
  *,
  max_loss: ArrayLike,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Upper bound of a bounded loss under attack by a divergence, per example.

  Let the representation of an input be a distribution, :math:`z \sim p(z|x)`,
  the loss lie in :math:`[0, M]`, and :math:`D_i = \max_{x' \in B(x_i)}
  \mathrm{KL}` between the distributions of :math:`x_i` and :math:`x'`, in
  either direction. The total variation is at most
  :math:`\min(1, \sqrt{D/2})` (Pinsker), so that

  .. math:: \max_{x' \in B(x_i)} \mathbb{E}\,\ell(x') \le
            \mathbb{E}\,\ell(x_i) + M \min\big(1, \sqrt{D_i/2}\big)

  for every task and head. The caller reduces; gradients flow to all
  arguments, and none to a divergence of zero.

  Args:
    losses: Clean losses, shape ``[B]``, float, in [0, M].
    divergence: Largest KL divergence D in the attack's ball, shape ``[B]``,
      non-negative, in nats: ``feature_shift`` with ``kl`` for categorical
      representations, :math:`\|\mu-\mu'\|^2/(2s^2)` for Gaussian ones of
      variance :math:`s^2`.
    max_loss: Greatest loss M, non-negative scalar. Cross entropy has one only
      if probabilities are kept above :math:`e^{-M}`.
    where: Optional mask, shape ``[B]``; masked rows give zero.

  Returns:
    Bounds, shape ``[B]``, dtype of ``losses``.

  Raises:
    TypeError: ``losses`` or ``divergence`` are not floating.
    ValueError: Shapes differ or a negative static bound.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.pinsker_loss_bound(
    ...   jnp.array([0.5]), jnp.array([0.02]), max_loss=1.0))
    [0.6]

  References:
    Nguyen, Lim, Torr, `Task-Agnostic Robust Representation Learning
    <https://arxiv.org/abs/2203.07596>`_, 2022.

  .. note::
    Derived from the abstract of that paper: its own divergence is not known
    to us. That the total variation is at most 1 is used as well.
  """
  _checks.in_range('max_loss', max_loss, 0.0)
  losses, kl, rows = _pair(losses, divergence, 'divergence', where)
  positive = kl > 0  # Rounding may leave a divergence just below zero.
  root = jnp.where(positive, jnp.sqrt(jnp.where(positive, kl, 1) / 2), 0)
  bound = losses + jnp.asarray(max_loss, losses.dtype) * jnp.minimum(root, 1)
  return _rows.keep(rows, bound)


def head_lipschitz(kernel: ArrayLike, *, method: str = 'pairs') -> jax.Array:
  r"""Lipschitz constant of cross entropy in the features of a linear head.

  For logits :math:`W^\top z + b` with columns :math:`w_k`, the gradient in z
  is :math:`W(p - e_y)`, so that for all z and y its norm is below

  .. math:: \max_{y,j} \|w_y - w_j\| \;\le\; \sqrt2\, \|W\|_2

  ``pairs`` gives the left side, which is the least constant that serves all
  features, ``spectral`` the right. In front of the head, layers multiply the
  constant by their own, as the spectral norms of an MLP with 1-Lipschitz
  activations do. Gradients flow.

  Args:
    kernel: Weights W of the head, shape ``[D, K]``, float.
    method: One of pairs, spectral.

  Returns:
    A scalar, float32 at the least, in units of loss per unit of feature.

  Raises:
    TypeError: ``kernel`` is not floating.
    ValueError: Wrong rank, no class, or an unknown method.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.head_lipschitz(jnp.array([[1.0, -2.0, 0.5]])))
    3.0
  """
  _checks.one_of('method', method, ('pairs', 'spectral'))
  kernel = _kernel(kernel)
  if method == 'spectral':
    return jnp.sqrt(2.0).astype(kernel.dtype) * jnp.linalg.norm(kernel, ord=2)
  return jnp.max(_distances(kernel))


def linear_loss_gap(
  features: ArrayLike,
  adv_features: ArrayLike,
  labels: ArrayLike,
  kernel: ArrayLike,
  bias: ArrayLike,
  *,
  form: str = 'convex',
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Upper bound of the rise of a linear head's cross entropy, per example.

  With :math:`p' = \mathrm{softmax}(W^\top z' + b)`, convexity of the cross
  entropy in the features gives

  .. math:: \ell(z') - \ell(z) \le \langle W p' - w_y,\, z' - z \rangle
            \le \|W p' - w_y\|\, \|z' - z\|

  ``convex`` is the middle, ``norm`` the right side, which is at most
  ``head_lipschitz(kernel)`` times the shift. Both are equalities to first
  order in the shift. The caller reduces; gradients flow to all arguments.

  Args:
    features: Clean features z, shape ``[B, D]``, float.
    adv_features: Attacked features z', same shape.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    kernel: Weights W, shape ``[D, K]``.
    bias: Biases b, shape ``[K]``.
    form: One of convex, norm.
    where: Optional mask, shape ``[B]``; masked rows give zero.

  Returns:
    Bounds, shape ``[B]``, float32 at the least, in units of loss.

  Raises:
    TypeError: Features or weights are not floating or labels not integer.
    ValueError: Wrong shapes or an unknown form.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.linear_loss_gap(
    ...   jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.array([1]),
    ...   jnp.array([[100.0, 0.0]]), jnp.zeros(2)))
    [100.]

  References:
    Nern et al., `On Transfer of Adversarial Robustness from Pretraining to
    Downstream Tasks <https://arxiv.org/abs/2208.03835>`_, 2023, whose code
    measures the right side.
  """
  _checks.one_of('form', form, ('convex', 'norm'))
  clean = _checks.floating('features', features, rank=2)
  moved = _checks.floating('adv_features', adv_features, rank=2)
  labels = _checks.integer('labels', labels, rank=1)
  bias = _checks.floating('bias', bias, rank=1)
  kernel = _kernel(kernel)
  _checks.same_shape(features=clean, adv_features=moved)
  want = {
    'kernel': (clean.shape[1], bias.size),
    'labels': clean.shape[:1],
  }
  for name, x in (('kernel', kernel), ('labels', labels)):
    if x.shape != want[name]:
      raise ValueError(f'{name} must have shape {want[name]}, got {x.shape}')
  dtype = jnp.promote_types(kernel.dtype, _simplex.compute_dtype(clean))
  member = _log_probs.is_label(labels, bias.size)
  rows = _rows.mask(where, clean) & jnp.any(member, axis=-1)
  clean, moved = (_rows.keep(rows, x.astype(dtype)) for x in (clean, moved))
  kernel, bias = kernel.astype(dtype), bias.astype(dtype)
  dot = lambda a, b: jnp.matmul(a, b, precision='highest')
  log_p = _log_probs.log_probs(dot(moved, kernel) + bias[None, :])
  slope = dot(jnp.exp(log_p) - member.astype(dtype), kernel.T)  # [B, D]
  delta, factor = numerics.shrunk(numerics.difference(moved, clean))
  if form == 'convex':
    out = jnp.sum(slope * delta, axis=-1)
  else:
    out = numerics.safe_norm(slope) * numerics.safe_norm(delta)
  largest = jnp.finfo(dtype).max
  factor = factor[:, 0]
  out = jnp.clip(out, -largest * factor, largest * factor) / factor
  return _rows.keep(rows, out)


def margin_certificate(
  logits: ArrayLike,
  kernel: ArrayLike,
  *,
  labels: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Feature shift below which a linear head's decision stands, per example.

  With logits :math:`g = W^\top z + b` and the predicted class (or the label)
  y,

  .. math:: r_i = \min_{j \ne y} \frac{g_y - g_j}{\|w_y - w_j\|}

  As long as :math:`\|z' - z\| < r_i`, the head decides for y at z' too. The
  radius is exact: some z' at that distance ties with the nearest rival. For a
  head on directions the shift is that of ``unit_l2``. Gradients flow to
  logits and kernel.

  Args:
    logits: Logits at the clean features, bias included, shape ``[B, K]``.
    kernel: Weights W of the head, shape ``[D, K]``.
    labels: Classes, integers, shape ``[B]``, or None for the predicted ones.
      A row with a label outside ``[0, K)`` counts as masked.
    where: Optional mask, shape ``[B]``; masked rows give zero, no certificate.

  Returns:
    Radii in units of the features, shape ``[B]``, float32 at the least.
    Negative where a label is not the prediction, zero at a tie. A rival of
    equal weights, up to 1e-15, gives the largest finite number, with the
    margin's sign.

  Raises:
    TypeError: Logits or kernel are not floating or labels not integer.
    ValueError: Wrong shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> kernel = jnp.array([[1.0, -1.0]])
    >>> features = jnp.array([[0.3]])
    >>> print(losses.margin_certificate(features @ kernel, kernel))
    [0.3]

  References:
    Nern et al., `On Transfer of Adversarial Robustness from Pretraining to
    Downstream Tasks <https://arxiv.org/abs/2208.03835>`_, 2023, for a
    criterion of robust classification.

  .. note::
    The form is derived here. A shift that an attack found is a lower estimate
    of the largest one: a certificate needs an upper one.
  """
  logits = _checks.floating('logits', logits, rank=2)
  kernel = _kernel(kernel)
  if kernel.shape[1] != logits.shape[1]:
    raise ValueError(
      f'kernel must have {logits.shape[1]} columns, got {kernel.shape}'
    )
  dtype = jnp.promote_types(kernel.dtype, _simplex.compute_dtype(logits))
  rows = _rows.mask(where, logits)
  g = _rows.keep(rows, logits.astype(dtype))
  if labels is None:
    labels = jnp.argmax(g, axis=-1)
  labels = _checks.integer('labels', labels, rank=1)
  if labels.shape != rows.shape:
    raise ValueError(f'labels must have shape {rows.shape}, got {labels.shape}')
  member = _log_probs.is_label(labels, g.shape[1])
  rows = rows & jnp.any(member, axis=-1)
  largest = jnp.finfo(dtype).max
  margin = _log_probs.pick(g, member)[:, None] - g
  apart = jnp.matmul(
    member.astype(dtype), _distances(kernel.astype(dtype)), precision='highest'
  )
  has_one = apart > _NEAREST  # Nearer, the gradient would overflow.
  radius = margin / jnp.where(has_one, apart, 1)
  radius = jnp.where(has_one, radius, jnp.sign(margin) * largest)
  radius = jnp.clip(radius, -largest, largest)
  out = jnp.min(radius, axis=-1, initial=largest, where=~member)
  return _rows.keep(rows, out)


def _distances(kernel):
  """``|w_y - w_j|`` of all columns, ``[D, K] -> [K, K]``, column by column.

  From differences, since a Gram matrix would cancel where columns are near.
  """
  columns = kernel.T
  return jax.lax.map(
    lambda w: numerics.safe_norm(columns - w[None, :]), columns
  )


def _kernel(kernel):
  kernel = _checks.floating('kernel', kernel, rank=2)
  if kernel.shape[1] == 0:
    raise ValueError(f'kernel must have a class, got shape {kernel.shape}')
  return kernel.astype(_simplex.compute_dtype(kernel))


def _pair(losses, shift, name, where):
  losses = _checks.floating('losses', losses, rank=1)
  shift = _checks.floating(name, shift, rank=1)
  _checks.same_shape(**{'losses': losses, name: shift})
  rows = _rows.mask(where, losses)
  shift = shift.astype(losses.dtype)
  return _rows.keep(rows, losses), _rows.keep(rows, shift), rows
