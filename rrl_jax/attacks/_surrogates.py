"""What to raise: losses of points alone, made from a model and a reference.

Each function returns a ``loss_fn`` for ``pgd`` and its kin. Logits and
features are only seen through the given functions; the reference is constant.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.attacks import (
  _ascent,
  _checks,
  _logit_losses,
  _program,
  _projections,
)
from rrl_jax.typing import LossFn


def untargeted_objective(
  logits_fn: Callable[[jax.Array], jax.Array],
  labels: ArrayLike,
  *,
  loss: str = 'ce',
  scale: ArrayLike | None = None,
) -> LossFn:
  r"""Loss that is high where an example is not given its label.

  With logits z, label y and :math:`z_{(1)} \ge z_{(2)} \ge \dots` in order:

  ==========  ============================================================
  ``ce``      :math:`\log \sum_k e^{z_k} - z_y`
  ``margin``  :math:`\max_{k \ne y} z_k - z_y`
  ``dlr``     :math:`(\max_{k \ne y} z_k - z_y) / (z_{(1)} - z_{(3)})`
  ==========  ============================================================

  Args:
    logits_fn: Maps points ``[B, ...]`` to logits ``[B, K]``.
    labels: Classes to leave, integers in ``[0, K)``, ``[B]``.
    loss: ce, margin or dlr (three classes at least).
    scale: Positive numbers ``[B]`` by which logits are divided first, such as
      ``logit_scale`` of the clean ones; None for 1. Cross-entropy has no
      gradient in float32 where the logits are so large that the label has all
      of the probability, and an attack on it finds nothing.

  Returns:
    ``loss_fn(points) -> [B]``, float32 or wider, in nats for ce; -inf where a
    logit is NaN.

  Raises:
    TypeError: Labels are not integers.
    ValueError: Unknown loss; when called: shapes that do not match, a label
      outside the classes, or too few classes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> loss_fn = attacks.untargeted_objective(
    ...   lambda x: x, jnp.array([0]), loss='margin')
    >>> print(loss_fn(jnp.array([[3.0, 1.0, 0.0]])))
    [-2.]

  References:
    Carlini, Wagner, `Towards Evaluating the Robustness of Neural Networks
    <https://arxiv.org/abs/1608.04644>`_, 2017; Croce, Hein, `Reliable
    Evaluation of Adversarial Robustness with an Ensemble of Diverse
    Parameter-free Attacks <https://arxiv.org/abs/2003.01690>`_, 2020.
  """
  labels = _classes(labels, 'labels')
  _check_loss(loss)

  def loss_fn(points):
    logits = _logits(logits_fn, points, loss)
    _match('labels', labels, logits)
    if scale is not None:
      by = jnp.asarray(scale, logits.dtype)
      if by.shape != logits.shape[:1]:
        raise ValueError(
          f'scale must have shape {logits.shape[:1]}, got {by.shape}'
        )
      logits = logits / by[:, None]
    return _logit_losses.evaluate(loss, logits, labels, None)

  return loss_fn


def logit_scale(logits: ArrayLike) -> jax.Array:
  r"""Spread of the logits of each example, a constant to the gradient.

  The standard deviation over classes. Logits divided by it are those of every
  network that differs by a factor alone, so that an attack on them does not
  depend on the factor, while :func:`pgd` on cross-entropy does: the same
  network is 48% robust as it is and 92% with logits 4,000 times as large.

  Args:
    logits: Of clean examples, floats ``[B, K]``.

  Returns:
    Positive numbers ``[B]``, float32 or wider; 1 where all logits are equal or
    one is not finite.

  Raises:
    TypeError: Logits are not floating.
    ValueError: They are not ``[B, K]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> print(attacks.logit_scale(jnp.array([[30.0, 10.0], [3.0, 1.0]])))
    [10.  1.]

  References:
    The effect is that of Croce, Hein, `Reliable Evaluation of Adversarial
    Robustness with an Ensemble of Diverse Parameter-free Attacks
    <https://arxiv.org/abs/2003.01690>`_, 2020, section 4, which divides by a
    difference of logits; a standard deviation is zero only if all are equal.
  """
  logits = _projections.widen(_checks.inputs(logits, 'logits'))
  if logits.ndim != 2:
    raise ValueError(f'logits must have shape [B, K], got {logits.shape}')
  top = jnp.max(jnp.abs(logits), axis=1, keepdims=True)
  known = jnp.isfinite(top) & (top > 0)
  unit = jnp.where(known, logits / jnp.where(known, top, 1), 0)
  scale = jnp.std(unit, axis=1) * top[:, 0]
  usable = known[:, 0] & (scale > jnp.finfo(scale.dtype).tiny)
  return jax.lax.stop_gradient(jnp.where(usable, scale, 1))


def targeted_objective(
  logits_fn: Callable[[jax.Array], jax.Array],
  targets: ArrayLike,
  *,
  loss: str = 'ce',
) -> LossFn:
  r"""Loss that is high where an example is given its target.

  Minus ``untargeted_objective`` at the targets: :math:`\log p_t` for ce,
  :math:`z_t - \max_{k \ne t} z_k` for margin, which is positive exactly where
  the target wins.

  Args:
    logits_fn: Maps points ``[B, ...]`` to logits ``[B, K]``.
    targets: Classes to reach, integers in ``[0, K)``, ``[B]``.
    loss: ce, margin or dlr (three classes at least).

  Returns:
    ``loss_fn(points) -> [B]``, float32 or wider; -inf where a logit is NaN.

  Raises:
    TypeError: Targets are not integers.
    ValueError: Unknown loss; when called: shapes that do not match, a target
      outside the classes, or too few classes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> loss_fn = attacks.targeted_objective(
    ...   lambda x: x, jnp.array([1]), loss='margin')
    >>> print(loss_fn(jnp.array([[3.0, 1.0, 0.0]])))
    [-2.]

  References:
    Kurakin, Goodfellow, Bengio, `Adversarial Machine Learning at Scale
    <https://arxiv.org/abs/1611.01236>`_, 2017.

  .. note::
    The targeted dlr of APGD divides otherwise and needs the label as well.
  """
  targets = _classes(targets, 'targets')
  _check_loss(loss)

  def loss_fn(points):
    logits = _logits(logits_fn, points, loss)
    _match('targets', targets, logits)
    value = _logit_losses.evaluate(loss, logits, targets, None)
    return jnp.where(value == -jnp.inf, value, -value)

  return loss_fn


def kl_objective(
  logits_fn: Callable[[jax.Array], jax.Array],
  clean_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
) -> LossFn:
  r"""Divergence of the prediction from that on the clean example.

  .. math:: \mathrm{KL}(p \,\|\, q(z)) = \sum_k p_k (\log p_k - \log q_k(z))

  with p the softmax of the clean logits over the temperature, held constant,
  and q that at the point: the inner loss of TRADES, without labels. Value and
  gradient are finite for finite logits. The gradient vanishes at the clean
  point, so that an attack needs its random start.

  Args:
    logits_fn: Maps points ``[B, ...]`` to logits ``[B, K]``.
    clean_logits: Logits of the clean examples, ``[B, K]``, float.
    temperature: Positive scalar.

  Returns:
    ``loss_fn(points) -> [B]``, float32 or wider, in nats.

  Raises:
    TypeError: Clean logits are not floating.
    ValueError: Clean logits are not ``[B, K]``, a static temperature that is
      not positive; when called: logits of another shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> clean = jnp.array([[0.0, 0.0]])
    >>> loss_fn = attacks.kl_objective(lambda x: x, clean)
    >>> print(loss_fn(jnp.array([[0.0, 4.0]])).round(3))
    [1.325]

  References:
    Zhang et al., `Theoretically Principled Trade-off between Robustness and
    Accuracy <https://arxiv.org/abs/1901.08573>`_, 2019.
  """
  clean = _checks.inputs(clean_logits, 'clean_logits')
  if clean.ndim != 2:
    raise ValueError(f'clean_logits must have shape [B, K], got {clean.shape}')
  _checks.scalar('temperature', temperature, positive=True)
  clean = jax.lax.stop_gradient(_projections.widen(clean))

  def loss_fn(points):
    logits = _logits(logits_fn, points, 'ce')
    if logits.shape != clean.shape:
      raise ValueError(
        f'logits {logits.shape} and clean_logits {clean.shape} differ in shape'
      )
    log_p = jax.nn.log_softmax(clean / temperature, axis=-1)
    log_q = jax.nn.log_softmax(logits / temperature, axis=-1)
    p = jnp.exp(log_p)
    # A class without mass counts for nothing, even if its logarithm is -inf.
    gaps = jnp.where(p > 0, log_p - log_q, 0)
    return jnp.sum(p * gaps, axis=-1)

  return loss_fn


def feature_shift_objective(
  features_fn: Callable[[jax.Array], jax.Array],
  clean_features: ArrayLike,
  *,
  distance: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> LossFn:
  r"""How far the features have moved from those of the clean example.

  .. math:: D\big(f(x), f(z)\big), \qquad D = \|f(z) - f(x)\|_2^2
     \text{ by default}

  with f(x) held constant: an attack on a representation, without labels or a
  task. The gradient of every distance vanishes at the clean point, so that an
  attack needs its random start.

  Args:
    features_fn: Maps points ``[B, ...]`` to features ``[B, ...]``.
    clean_features: Features of the clean examples, ``[B, ...]``, float.
    distance: Maps ``(clean_features, features)`` to one distance an example,
      ``[B]``, such as ``losses.feature_shift``; None for the squared
      Euclidean one over all axes past the first.

  Returns:
    ``loss_fn(points) -> [B]``, float32 or wider.

  Raises:
    TypeError: Clean features are not floating.
    ValueError: Clean features lack a batch axis; when called: features of
      another shape, or a distance that does not return ``[B]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> clean = jnp.array([[1.0, 0.0]])
    >>> loss_fn = attacks.feature_shift_objective(lambda x: 2 * x, 2 * clean)
    >>> print(loss_fn(jnp.array([[1.0, 1.0]])))
    [4.]

  References:
    Nguyen, Lim, Torr, `Task-Agnostic Robust Representation Learning
    <https://arxiv.org/abs/2203.07596>`_, 2022, for a regulariser of this kind;
    their own distance is not known to us.
  """
  clean = _checks.inputs(clean_features, 'clean_features')
  clean = jax.lax.stop_gradient(_projections.widen(clean))

  def loss_fn(points):
    features = _projections.widen(jnp.asarray(features_fn(points)))
    if features.shape != clean.shape:
      raise ValueError(
        f'features {features.shape} and clean_features {clean.shape} differ in '
        'shape'
      )
    if distance is None:
      axes = tuple(range(1, clean.ndim))
      return jnp.sum(jnp.square(features - clean), axis=axes)
    return distance(clean, features)

  return loss_fn


def expectation_over_transformation(
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array],
  key: jax.Array,
  num_samples: int,
  *,
  example_ids: ArrayLike | None = None,
) -> LossFn:
  r"""Mean loss of a randomised model over a set of its draws.

  .. math:: \bar\ell(z) = \frac1n \sum_{s=1}^n \ell(z; k_s), \qquad
     k_{s,i} = \mathrm{fold\_in}(\mathrm{fold\_in}(k, \mathrm{id}_i), s)

  The draws belong to the key and the example: they are the same in every call,
  so that an attack climbs one function and its restarts compare like with
  like. Judge the result with a new key, as the draws attacked are the ones it
  fits best. Given the number of a step, the draws belong to that too: the key
  of a row is folded with it, and gradients over many steps average over many
  draws. The model is mapped over the samples by ``vmap``.

  Args:
    loss_fn: Maps points ``[N, ...]`` and keys ``[N]`` to one loss a point,
      ``[N]``; the randomness of a row is to come from its key.
    key: Typed PRNG key.
    num_samples: Number of draws n, static, at least 1.
    example_ids: Integers ``[B]`` that key the draws of each row, by default
      its position.

  Returns:
    ``loss_fn(points, step=None) -> [B]``, with ``step`` an integer scalar,
    which may be traced, or None for the fixed draws.

  Raises:
    TypeError: ``num_samples`` is not a static integer.
    ValueError: It is less than 1; when called: ids of another shape, or a
      ``loss_fn`` that does not return one loss a point.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> def noisy(points, keys):
    ...   noise = jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)
    ...   return jnp.sum(jnp.square(points + 0.1 * noise), axis=1)
    >>> loss_fn = attacks.expectation_over_transformation(
    ...   noisy, jax.random.key(0), 8)
    >>> print(loss_fn(jnp.ones((3, 2))).shape)
    (3,)

  References:
    Athalye et al., `Synthesizing Robust Adversarial Examples
    <https://arxiv.org/abs/1707.07397>`_, 2018.

  .. note::
    The paper draws anew at each step, as ``eot_pgd`` does. With few draws
    that explores more; with fixed ones restarts compare like with like. Either
    way a run can be repeated and does not depend on its batch.
  """
  _checks.count('num_samples', num_samples, 1)

  def expected(points, step=None):
    keys = _ascent.row_keys(key, example_ids, points.shape[0])
    if step is not None:
      # Apart from the draws without a step, and the same for more samples.
      keys = _program.fold(_program.fold(keys, 0x5EED), step)
    # Samples are mapped over rather than joined to the batch axis, so that
    # rows stay on their devices.
    draws = jax.vmap(
      lambda s: jax.vmap(lambda k: jax.random.fold_in(k, s))(keys)
    )(jnp.arange(num_samples))

    def one(row_keys):
      return _checks.losses(loss_fn(points, row_keys), points.shape[0])

    return jnp.mean(jax.vmap(one)(draws), axis=0)

  return expected


def _classes(values, name):
  values = jnp.asarray(values)
  if not jnp.issubdtype(values.dtype, jnp.integer):
    raise TypeError(f'{name} must have an integer dtype, got {values.dtype}')
  if values.ndim != 1:
    raise ValueError(f'{name} must have shape [B], got {values.shape}')
  return values


def _check_loss(loss):
  if loss not in _logit_losses.LOSSES:
    raise ValueError(
      f'loss must be one of {", ".join(_logit_losses.LOSSES)}, got {loss!r}'
    )


def _match(name, values, logits):
  _program.classes(values, logits.shape[0], name)
  _program.check_classes(values, logits.shape[1], name)


def _logits(logits_fn, points, loss):
  """The logits, float32 or wider, checked."""
  logits = jnp.asarray(logits_fn(points))
  _program.check_logits(logits, points.shape[0])
  _logit_losses.check(loss, logits.shape[1], targeted=False)
  return _projections.widen(logits)
