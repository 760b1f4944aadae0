"""The losses AutoAttack raises, as functions of logits; one value a row."""

import jax
import jax.numpy as jnp

LOSSES = ('ce', 'dlr', 'margin')
GUARD = 1e-12  # Of the denominator of DLR, as the authors have it.


def check(loss: str, num_classes: int, targeted: bool) -> None:
  """Raises ValueError if a loss is unknown or needs more classes."""
  if loss not in LOSSES:
    raise ValueError(f'loss must be one of {", ".join(LOSSES)}, got {loss!r}')
  least = 4 if targeted else 3
  if loss == 'dlr' and num_classes < least:
    kind = 'targeted dlr' if targeted else 'dlr'
    raise ValueError(
      f'{kind} needs at least {least} classes, the model has {num_classes}; '
      "use loss='margin'"
    )


def evaluate(
  loss: str,
  logits: jax.Array,
  labels: jax.Array,
  targets: jax.Array | None,
) -> jax.Array:
  """Loss of each row, to be raised; NaN counts as the lowest.

  Args:
    loss: ce, dlr or margin.
    logits: Shape ``[B, K]``.
    labels: True classes, ``[B]``.
    targets: Classes to reach, ``[B]``; None for an untargeted loss.

  Returns:
    Shape ``[B]``.
  """
  if loss == 'ce':
    total = jax.nn.logsumexp(logits, axis=1)
    if targets is None:
      value = total - pick(logits, labels)
    else:
      value = pick(logits, targets) - total
  else:
    rival = (
      best_other(logits, labels) if targets is None else pick(logits, targets)
    )
    value = rival - pick(logits, labels)
    if loss == 'dlr':
      ranks = highest(logits, 3 if targets is None else 4)
      third = ranks[2] if targets is None else (ranks[2] + ranks[3]) / 2
      value = value / (ranks[0] - third + GUARD)
  return jnp.where(jnp.isnan(value), -jnp.inf, value)


def pick(logits: jax.Array, index: jax.Array) -> jax.Array:
  """One logit a row; a mask instead of a gather, for any sharding."""
  return jnp.sum(jnp.where(_mask(logits, index), logits, 0), axis=1)


def best_other(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The highest logit besides the label's."""
  return highest(jnp.where(_mask(logits, labels), -jnp.inf, logits), 1)[0]


def highest(logits: jax.Array, count: int) -> list[jax.Array]:
  """The highest logits in order, each ``[B]``; ties take the first entry."""
  found = []
  for _ in range(count):
    index = jnp.argmax(logits, axis=1)
    found.append(pick(logits, index))
    logits = jnp.where(_mask(logits, index), -jnp.inf, logits)
  return found


def ranked(logits: jax.Array, rank: int) -> jax.Array:
  """Class of a rank, 1 the highest, ``[B]``."""
  return jnp.argsort(logits, axis=1)[:, -rank]


def _mask(logits, index):
  classes = jnp.arange(logits.shape[1], dtype=index.dtype)
  return classes[None, :] == index[:, None]
