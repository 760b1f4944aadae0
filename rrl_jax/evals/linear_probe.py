"""A linear classifier on frozen features, solved to tolerance by L-BFGS."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from rrl_jax.errors import DataError

MAX_ITERATIONS = 2000


def fit(
  features: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  l2: float,
  tol: float,
) -> tuple[jax.Array, jax.Array, int]:
  r"""Fits multinomial logistic regression on the full batch.

  With rows :math:`x_i` and labels :math:`y_i`, minimises

  .. math::
    \frac1N \sum_i \mathrm{CE}(x_i W + b, y_i) + \frac{\lambda}{2} \|W\|^2

  by optax's L-BFGS with a zoom line search, from zero, until the largest
  absolute entry of the gradient is at most ``tol`` or `MAX_ITERATIONS` are
  done. The bias is not penalised. Features are taken as they are:
  `standardise` them first.

  Args:
    features: Float, finite, shape ``[N, D]``.
    labels: Integers in ``[0, num_classes)``, shape ``[N]``.
    num_classes: Number of classes K.
    l2: The penalty lambda, at least 0. scikit-learn's C is 1 / (N l2), and for
      two classes, where it fits one column w_1 - w_0, twice that.
    tol: Bound on the gradient's entries; float32 reaches about 1e-6.

  Returns:
    ``(w [D, K], b [K], iterations)``; as many iterations as `MAX_ITERATIONS`
    mean that ``tol`` was not reached.

  Raises:
    ValueError: Shapes that do not fit, a label out of range, a negative
      ``l2``, a ``tol`` that is not positive.
    DataError: Features that are not finite.

  Example:
    >>> w, b, _ = fit([[-1.0], [1.0]], [0, 1], num_classes=2, l2=0.1, tol=1e-5)
    >>> jnp.argmax(jnp.array([[-2.0], [3.0]]) @ w + b[None], axis=-1).tolist()
    [0, 1]

  References:
    Liu and Nocedal, On the limited memory BFGS method for large scale
    optimization, Mathematical Programming 45, 1989.
  """
  features = jnp.asarray(features)
  host_labels = np.asarray(labels)
  if features.ndim != 2 or host_labels.shape != features.shape[:1]:
    raise ValueError(
      f'features {features.shape} need labels [N], not {host_labels.shape}'
    )
  if not np.issubdtype(host_labels.dtype, np.integer):
    raise ValueError(f'labels must be integers, not {host_labels.dtype}')
  if host_labels.size and not (
    0 <= host_labels.min() <= host_labels.max() < num_classes
  ):
    raise ValueError(
      f'labels run from {host_labels.min()} to {host_labels.max()}, '
      f'outside of {num_classes} classes'
    )
  if l2 < 0 or tol <= 0:
    raise ValueError(f'l2={l2} must be >= 0 and tol={tol} > 0')
  check_finite(features, 'training')
  w, b, iterations = _solve(
    features, jnp.asarray(host_labels), l2, tol, num_classes=num_classes
  )
  return w, b, int(iterations)


@functools.partial(jax.jit, static_argnames='num_classes')
def _solve(features, labels, l2, tol, *, num_classes):
  """Compiled part of `fit`."""
  # A product, not a gather: on the CPU its gradient, a scatter, is slow.
  targets = jax.nn.one_hot(labels, num_classes, dtype=features.dtype)

  def objective(weights):
    w, b = weights
    logits = features @ w + b[None]
    losses = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(
      targets * logits, axis=-1
    )
    return jnp.mean(losses) + 0.5 * l2 * jnp.sum(jnp.square(w))

  tx = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)

  def body(carry):
    weights, state, _, iteration = carry
    value, grad = value_and_grad(weights, state=state)
    updates, state = tx.update(
      grad, state, weights, value=value, grad=grad, value_fn=objective
    )
    weights = optax.apply_updates(weights, updates)
    # The line search has already computed the gradient at the new point.
    grad = optax.tree.get(state, 'grad')
    return weights, state, optax.tree.norm(grad, ord=jnp.inf), iteration + 1

  def unsolved(carry):
    _, _, steepest, iteration = carry
    # A gradient that is NaN has not reached the tolerance.
    return ~(steepest <= tol) & (iteration < MAX_ITERATIONS)

  dtype = features.dtype
  start = (
    jnp.zeros((features.shape[1], num_classes), dtype),
    jnp.zeros(num_classes, dtype),
  )
  # A gradient of zero at the start is a solution: no step can be made of it.
  steepest = optax.tree.norm(jax.grad(objective)(start), ord=jnp.inf)
  (w, b), _, _, iterations = jax.lax.while_loop(
    unsolved, body, (start, tx.init(start), steepest, 0)
  )
  return w, b, iterations


def standardise(
  train: np.ndarray, *others: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Centres and scales features by the training split's moments.

  Args:
    train: ``[N, D]``, finite; its mean and standard deviation are used.
    *others: More features, ``[M, D]``.

  Returns:
    All of them, float32. A feature without variance in ``train`` is centred
    only.

  Raises:
    DataError: ``train`` is not finite.
  """
  check_finite(train, 'training')
  mean = np.mean(train, axis=0, dtype=np.float64)
  std = np.std(train, axis=0, dtype=np.float64)
  # Below float32's resolution a spread is rounding, not signal.
  std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0)
  return tuple(((x - mean) / std).astype(np.float32) for x in (train, *others))


def check_finite(features: ArrayLike, split: str) -> None:
  """Raises DataError for NaN and inf, of which one would undo a whole fit.

  Args:
    features: ``[N, D]``.
    split: Whose they are, for the message.
  """
  known = np.isfinite(np.asarray(features)).all(axis=1)
  if not known.all():
    raise DataError(
      f'features of {np.sum(~known)} of {len(known)} {split} examples are not'
      f' finite, first in row {np.argmin(known)}'
    )
