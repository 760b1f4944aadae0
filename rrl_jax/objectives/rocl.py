r"""Robust contrastive learning (RoCL): an attacked view is a third one.

With v_1' the first view, moved to be unlike the second,

.. math:: \mathrm{NTXent}(v_1, v_2, v_1') + \beta\, \mathrm{NTXent}(v_1', v_2)

References:
  Kim, Tack, Hwang, `Adversarial Self-Supervised Contrastive Learning
  <https://arxiv.org/abs/2006.07589>`_, 2020.
"""

import jax
import jax.numpy as jnp

from rrl_jax import losses, typing
from rrl_jax.objectives import _contrast, _inner_attack


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  temperature: float = 0.5,
  beta: float = 1 / 256,
  epsilon: float = 8 / 255,
  norm: str = 'linf',
  inner_steps: int = 7,
  inner_step_size: float | None = None,
  attack_train_mode: bool = False,
) -> typing.Objective:
  """Returns the RoCL objective on two views (``data.augment.views=2``).

  The loss of three views is the authors' code's: the sum over an anchor's two
  positives, mean over anchors, another view of the image being among the
  negatives. Unlike there, gradients flow to both sides of every similarity.

  Args:
    apply_fn: The network; ``model.kw.embedding_dim`` gives it a projector.
    data: Not used; every objective takes it.
    temperature: Positive.
    beta: Weight of the second term, at least 0.
    epsilon: Radius of the ball in units of images in [0, 1], at most 1 for
      'linf'.
    norm: 'linf', 'l2' or 'l1'.
    inner_steps: Gradient steps of the attack.
    inner_step_size: Of each; None takes 2.5 epsilon / inner_steps, and epsilon
      for one step.
    attack_train_mode: Whether BatchNorm normalises by the batch while
      attacking, or by its averages.

  Raises:
    ValueError: A value does not exist or is out of range.
  """
  del data
  if not 0 < temperature < float('inf'):
    raise ValueError(f'temperature={temperature} is not positive')
  if not 0 <= beta < float('inf'):
    raise ValueError(f'beta={beta} is not in [0, inf)')
  ascend = _inner_attack.make(
    epsilon=epsilon,
    norm=norm,
    inner_steps=inner_steps,
    inner_step_size=inner_step_size,
  )

  def attacked(params, model_state, first, second, key):
    """The first views, moved away from the second ones."""
    params, model_state = jax.lax.stop_gradient((params, model_state))

    def embed(points):
      (_, out), _ = apply_fn(
        params, model_state, points, train=attack_train_mode, adversarial=True
      )
      return losses.l2_normalize(out['embedding'])

    fixed = embed(second)

    def loss_fn(points):
      both = _contrast.join(embed(points), fixed)
      anchor_losses = _contrast.anchor_infonce(both, temperature)
      return jnp.sum(jnp.stack(_contrast.split(anchor_losses)), axis=0)

    return ascend(loss_fn, key, first)

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del step
    images = _contrast.two_views(batch)
    first, second = _contrast.split(images)
    moved = attacked(params, model_state, first, second, key)
    (_, out), model_state = apply_fn(params, model_state, images, train=True)
    (_, moved_out), model_state = apply_fn(
      params, model_state, moved, train=True, adversarial=True
    )
    clean = losses.l2_normalize(out['embedding'])
    adversarial = losses.l2_normalize(moved_out['embedding'])
    clean_views = _contrast.split(clean)
    three = _contrast.join(*clean_views, adversarial)
    # infonce takes the mean over an anchor's positives, of which there are two.
    three_views = 2 * _contrast.infonce(three, temperature, num_views=3)
    attacked_pair = _contrast.infonce(
      _contrast.join(adversarial, clean_views[1]), temperature
    )
    return three_views + beta * attacked_pair, (
      model_state,
      aux_state,
      _contrast.geometry(clean)
      | {
        'three_views_loss': three_views,
        'adversarial_loss': attacked_pair,
        'pixel_shift': jnp.mean(jnp.abs(moved - first)),
      },
    )

  return typing.Objective(loss_fn, num_views=2)
