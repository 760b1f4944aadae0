r"""Task-agnostic robust representations: features that no attack moves far.

.. math:: L_{\mathrm{base}} + \lambda\, \frac1B \sum_i
          \max_{x' \in B(x_i)} D\big(f(x_i), f(x')\big)

The second term knows no labels and no task. For any head with a K-Lipschitz
loss the adversarial loss exceeds the clean one by at most K times its l2 form
(`losses.adversarial_loss_bound`), so that clean loss and this term together
bound the adversarial loss on every task.

References:
  Nguyen, Lim, Torr, `Task-Agnostic Robust Representation Learning
  <https://arxiv.org/abs/2203.07596>`_, 2022. Only the abstract could be read:
  this objective is derived from it and is not the paper's algorithm; no
  setting here is the paper's.
"""

import functools

import jax
import jax.numpy as jnp

from rrl_jax import attacks, losses, typing
from rrl_jax.objectives import _contrast, _inner_attack

DISTANCES = ('sq_l2', 'l2', 'cosine', 'unit_l2', 'kl')
LAYERS = ('features', 'embedding', 'logits')
STOPS = ('none', 'clean', 'adversarial')
ATTACKS = ('shift', 'base_gradient')
STANDARDS = ('each', 'whole', 'none')
_LEAST_VARIANCE = 1e-4  # Of a feature, in terms of their mean.


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  base: str = 'simclr',
  temperature: float = 0.5,
  momentum: float = 0.99,
  strength: float = 1.0,
  distance: str = 'unit_l2',
  layer: str = 'features',
  standardise: str = 'each',
  stop: str = 'none',
  attack: str = 'shift',
  epsilon: float = 8 / 255,
  norm: str = 'linf',
  inner_steps: int = 5,
  inner_step_size: float | None = None,
  attack_train_mode: bool = False,
  eval_norm: str = 'clean',
  ramp_steps: int = 0,
) -> typing.Objective:
  """Returns the TARRL objective on two views (``data.augment.views=2``).

  The first view of each image is attacked. The attack starts at a random
  point of the ball, for at the image itself the gradient of every distance
  vanishes. With ``model.kw.dual_norm`` attacked images are normalised by
  BatchNorms of their own, in the attack too.

  Args:
    apply_fn: The network; ``model.kw.embedding_dim`` gives it a projector.
    data: Not used; every objective takes it.
    base: What keeps features apart: 'simclr', 'byol', 'supcon' or
      'cross_entropy'.
    temperature: Of 'simclr' and 'supcon', positive.
    momentum: Of the teacher of 'byol', in [0, 1).
    strength: The weight lambda, at least 0; 0 leaves the attack out.
    distance: D: 'sq_l2', 'l2', 'cosine', 'unit_l2' or 'kl'.
    layer: What is held still: 'features' (what a probe reads, of which the
      bound speaks), 'embedding' or 'logits'.
    standardise: What features are divided by before D, once the batch's mean
      is taken from them: 'each' by its own standard deviation, as a linear
      probe of standardised features sees them; 'whole', all by their root mean
      square distance from the mean; 'none' leaves them, mean and all. Then the
      network may shrink its features ('sq_l2', 'l2') or add a constant to them
      ('unit_l2', 'cosine') and be no more robust to a head that undoes it.
    stop: The side without gradient: 'clean', 'adversarial' or 'none'.
    attack: 'shift' maximises D by PGD. 'base_gradient' is cheaper and weaker:
      one step to the edge of the ball, up the slope of the base loss, which
      training has computed already but for the first layer; with
      ``stop='clean'`` it costs no pass through the network.
    epsilon: Radius of the ball in units of images in [0, 1], at most 1 for
      'linf'.
    norm: 'linf', 'l2' or 'l1'.
    inner_steps: Gradient steps of 'shift'.
    inner_step_size: Of each; None takes 2.5 epsilon / inner_steps, and epsilon
      for one step.
    attack_train_mode: Whether BatchNorm normalises by the batch while
      attacking, as in the step that follows, or by its averages;
      'base_gradient' always takes the batch.
    eval_norm: 'clean' or 'adversarial', the BatchNorms that evaluations take
      where there are two sets.
    ramp_steps: Steps over which the weight rises from 0.

  Raises:
    ValueError: A value does not exist or is out of range.
  """
  del data
  base_fn = _contrast.base(
    base, apply_fn, temperature=temperature, momentum=momentum
  )
  for name, value, known in (
    ('distance', distance, DISTANCES),
    ('layer', layer, LAYERS),
    ('stop', stop, STOPS),
    ('attack', attack, ATTACKS),
    ('standardise', standardise, STANDARDS),
    ('eval_norm', eval_norm, ('clean', 'adversarial')),
  ):
    if value not in known:
      raise ValueError(f'{name}={value!r}; known: {", ".join(known)}')
  if not 0 <= strength < float('inf'):
    raise ValueError(f'strength={strength} is not in [0, inf)')
  if ramp_steps < 0:
    raise ValueError(f'ramp_steps={ramp_steps} is negative')
  ascend = _inner_attack.make(
    epsilon=epsilon,
    norm=norm,
    inner_steps=inner_steps,
    inner_step_size=inner_step_size,
  )
  shift = functools.partial(losses.feature_shift, distance=distance)
  pick = lambda logits, out: logits if layer == 'logits' else out[layer]

  def scaled_by(clean):
    """Features as a head that standardises sees them, of mean square 1."""
    if standardise == 'none':
      return lambda features: features
    mean = jnp.mean(clean, axis=0, keepdims=True)
    variance = jnp.mean(jnp.square(clean - mean), axis=0, keepdims=True)
    whole = jnp.mean(variance, axis=-1, keepdims=True)
    if standardise == 'each':
      variance = variance + _LEAST_VARIANCE * whole
    else:
      variance = whole
    norm = jnp.sqrt(clean.shape[-1] * variance + 1e-12)
    return lambda features: (features - mean) / norm

  def furthest(params, model_state, images, clean, key):
    """The images whose features lie furthest from the clean ones."""
    params, model_state = jax.lax.stop_gradient((params, model_state))

    def features_fn(points, adversarial=True):
      (logits, out), _ = apply_fn(
        params,
        model_state,
        points,
        train=attack_train_mode,
        adversarial=adversarial,
      )
      return pick(logits, out)

    if not attack_train_mode:  # The clean features in the attack's mode.
      clean = features_fn(images, adversarial=False)
    scale = scaled_by(jax.lax.stop_gradient(clean))
    return ascend(
      attacks.feature_shift_objective(
        lambda points: scale(features_fn(points)), scale(clean), distance=shift
      ),
      key,
      images,
    )

  def up_the_base_loss(params, model_state, aux_state, images, labels):
    """The first views, moved to the edge of the ball."""
    frozen = jax.lax.stop_gradient((params, model_state, aux_state))
    # The very graph that training differentiates, so that XLA merges the two.
    slope = jax.grad(
      lambda points: base_fn.loss_fn(*frozen, points, labels)[0]
    )(images)
    slope = _contrast.split(slope)[0]
    return attacks.pgd(
      lambda points: jnp.sum(points * slope, axis=(1, 2, 3)),
      None,
      _contrast.split(images)[0],
      epsilon=epsilon,
      step_size=epsilon,
      num_steps=1,
      norm=norm,
      random_start=False,
    )

  def loss_fn(params, model_state, aux_state, batch, key, step):
    images, labels = _contrast.two_views(batch), batch['label']
    before = params, model_state, aux_state
    loss, logits, out, (model_state, aux_state, metrics) = base_fn.loss_fn(
      *before, images, labels
    )
    if strength:
      first = _contrast.split(images)[0]
      clean = _contrast.split(pick(logits, out))[0]
      if attack == 'shift':
        moved = furthest(params, before[1], first, clean, key)
      else:
        moved = up_the_base_loss(*before, images, labels)
      (logits, out), model_state = apply_fn(
        params, model_state, moved, train=True, adversarial=True
      )
      adversarial = pick(logits, out)
      if stop == 'clean':
        clean = jax.lax.stop_gradient(clean)
      elif stop == 'adversarial':
        adversarial = jax.lax.stop_gradient(adversarial)
      scale = scaled_by(clean)
      penalty = jnp.mean(shift(scale(clean), scale(adversarial)))
      weight = strength
      if ramp_steps:
        weight = strength * jnp.minimum(step / ramp_steps, 1.0)
      metrics |= {
        'base_loss': loss,
        'feature_shift': penalty,
        'strength': jnp.asarray(weight, jnp.float32),
        'pixel_shift': jnp.mean(jnp.abs(moved - first)),
      }
      loss = loss + weight * penalty
    return loss, (model_state, aux_state, metrics)

  return typing.Objective(
    loss_fn,
    init=base_fn.init,
    num_views=2,
    eval_adversarial=eval_norm == 'adversarial',
  )
