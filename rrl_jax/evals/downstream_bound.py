"""Both sides of the bound of a task-agnostic representation, on one task."""

from collections.abc import Callable, Iterator
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import losses
from rrl_jax.data import augment
from rrl_jax.evals import measurement
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement

_ROUNDING = 1e-5  # Of a loss in float32, relative to losses above one.
_TINY = 2.0**-22  # Of a pixel: two roundings of a float32 below one.


@dataclasses.dataclass(frozen=True, eq=False)
class Attacked:
  """What the attacks did to the images of a task, a row an image.

  Attributes:
    w: Weights of the head on the encoder's features, ``[D, K]``.
    logits: On clean images, ``[N, K]``.
    labels: Integers ``[N]``.
    clean_loss: Cross-entropy on clean images, ``[N]``.
    adv_loss: After an attack on it, ``[N]``.
    shift: Largest l2 shift of the features that an attack found, ``[N]``.
    certified_shift: What no shift exceeds, ``[N]``; None if unknown.
  """

  w: np.ndarray
  logits: np.ndarray
  labels: np.ndarray
  clean_loss: np.ndarray
  adv_loss: np.ndarray
  shift: np.ndarray
  certified_shift: np.ndarray | None = None


def certifier(
  encoder: Encoder,
) -> Callable[..., jax.Array] | None:
  """Bounds each feature's change in a ball, by `Encoder.feature_bounds`.

  Args:
    encoder: With bounds of its features, or without.

  Returns:
    ``(variables, images [B, H, W, C], radius [B]) -> [B, D]``: how far each
    feature can move while no pixel moves by more than the radius or leaves
    [0, 1]. The linf ball holds the l2 and l1 balls of its radius. None without
    bounds.
  """
  if encoder.feature_bounds is None:
    return None

  def reach(variables, images, radius):
    images = augment.to_float(images)
    radius = radius.reshape(-1, 1, 1, 1) + _TINY
    # The bounds are of products in float32.
    with jax.default_matmul_precision('highest'):
      features = encoder.apply(variables, images)[1].astype(jnp.float32)
      lower, upper = encoder.feature_bounds(
        variables,
        jnp.clip(images - radius, 0, 1),
        jnp.clip(images + radius, 0, 1),
      )
    return jnp.maximum(upper - features, features - lower)

  return reach


def length(reach: np.ndarray) -> np.ndarray:
  """Norm of the farthest corner, rounded up: ``[N, D] -> [N]``, float64."""
  return np.linalg.norm(np.asarray(reach, np.float64), axis=1) * (1 + 1e-6)


def measure(
  task: str, found: Attacked, on: str, attack: str, norm: str
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Measures both sides of the bound, image by image.

  Args:
    task: Its name.
    found: What the attacks did.
    on: Which head on which features, for the protocol.
    attack: The attack in words.
    norm: Of the ball.

  Yields:
    ``bound/<task>/...``, and of each image the shift and the rise of the loss
    as ``figure/bound_shift/<task>`` and ``figure/bound_loss_gap/<task>``.
  """
  lipschitz = losses.head_lipschitz(found.w)
  radius = losses.margin_certificate(found.logits, found.w, labels=found.labels)
  radius, clean, adv, shift = (
    np.asarray(x, np.float64)
    for x in (radius, found.clean_loss, found.adv_loss, found.shift)
  )

  def bound_of(shift):
    return np.asarray(
      losses.adversarial_loss_bound(
        found.clean_loss, shift.astype(np.float32), lipschitz=lipschitz
      ),
      np.float64,
    )

  bound = bound_of(shift)
  violated = adv - bound > _ROUNDING * np.maximum(adv, 1)
  largest = f'largest l2 shift of the features found by {attack}'
  no_certificate = 'an attack finds less than the largest shift'

  def mean(column, what, least=0.0):
    return measurement.bootstrap(
      np.mean, [column], f'{on}; {what}', bounds=(least, np.inf)
    )

  columns = {
    'clean_loss': mean(clean, 'mean cross-entropy of clean test images, nats'),
    'adversarial_loss': mean(
      adv, f'mean cross-entropy of test images after {attack}, nats'
    ),
    'feature_shift': mean(
      shift, f'mean over test images of the {largest}; {no_certificate}'
    ),
    'lipschitz': measurement.exact(
      lipschitz,
      f'{on}; Lipschitz constant of its cross-entropy in the features: the '
      'largest distance of the weights of two classes, standardisation folded '
      'in, nats per unit of feature',
    ),
    'bound': mean(
      bound,
      'mean clean loss + Lipschitz constant x feature shift over test images, '
      f'nats, with the {largest}; {no_certificate}, so this estimates the '
      'bound from below',
    ),
    'slack': mean(
      bound - adv,
      'bound minus adversarial loss, mean over test images, nats, both from '
      'attacks of their own',
      -np.inf,
    ),
    'margin_certificate_rate': measurement.proportion(
      np.sum(radius > shift),
      shift.size,
      f'{on}; test images that are right with a margin that no feature shift '
      f'as large as the one found can close, with the {largest}; '
      f'{no_certificate}, so this is an upper estimate and no certificate',
    ),
    'violations': measurement.proportion(
      violated.sum(),
      violated.size,
      f'{on}; test images whose loss the attack on it raises by more than the '
      'Lipschitz constant x their own feature shift, beyond rounding: none '
      'unless the attack on the features is too weak there',
    ),
  }
  if found.certified_shift is not None:
    certified = found.certified_shift
    by = _how_certified(certified, shift, norm)
    columns |= {
      'certified_feature_shift': mean(
        certified,
        'mean over test images of a bound of the l2 shift of the features, '
        f'{by}',
      ),
      'certified_bound': mean(
        bound_of(certified),
        'mean clean loss + Lipschitz constant x certified feature shift over '
        f'test images, nats: no attack raises the loss above it; {by}',
      ),
      'certified_accuracy': measurement.proportion(
        np.sum(radius > certified),
        certified.size,
        f'{on}; test images that are right with a margin that no certified '
        'feature shift can close: no attack in the ball makes them wrong, '
        f'rounding of the head aside; {by}',
      ),
    }
  for name, measured in columns.items():
    yield f'bound/{task}/{name}', measured
  yield f'figure/bound_shift/{task}', shift.astype(np.float32)
  yield f'figure/bound_loss_gap/{task}', (adv - clean).astype(np.float32)


def _how_certified(certified, shift, norm):
  """In words, with how loose it is."""
  words = 'by interval bound propagation through the network'
  if norm != 'linf':
    words += f' from the box that holds the {norm} ball'
  if shift.mean() > 0:
    words += (
      f'; loose: {certified.mean() / shift.mean():.3g} times the mean shift '
      'that the attack found'
    )
  return words
