r"""Adversarial contrastive learning (ACL), and its dynamic form (DynACL).

.. math:: \tfrac12 \big[(2 - w)\, \mathrm{NTXent}(v_1, v_2)
          + w\, \mathrm{NTXent}(v_1', v_2')\big], \quad
          (v_1', v_2') = \arg\max \mathrm{NTXent}(v_1', v_2')

References:
  Jiang et al., `Robust Pre-Training by Adversarial Contrastive Learning
  <https://arxiv.org/abs/2010.13337>`_, 2020, the dual stream; Luo et al.,
  `Rethinking the Effect of Data Augmentation in Adversarial Contrastive
  Learning <https://arxiv.org/abs/2303.01289>`_, 2023.
"""

import jax
import jax.numpy as jnp

from rrl_jax import losses, typing
from rrl_jax.objectives import _contrast, _inner_attack, _teacher


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  temperature: float = 0.5,
  epsilon: float = 8 / 255,
  norm: str = 'linf',
  inner_steps: int = 5,
  inner_step_size: float | None = None,
  attack_train_mode: bool = False,
  eval_norm: str = 'adversarial',
  weight: float = 1.0,
  ramp_steps: int = 0,
  ramp_stages: int = 1,
  momentum: float | None = None,
) -> typing.Objective:
  """Returns the ACL objective on two views (``data.augment.views=2``).

  Both views are attacked jointly. With ``model.kw.dual_norm``, as the authors
  have it, attacked images have BatchNorms of their own.

  Args:
    apply_fn: The network; ``model.kw.embedding_dim`` gives it a projector.
    data: Not used; every objective takes it.
    temperature: Positive.
    epsilon: Radius of the ball in units of images in [0, 1], at most 1 for
      'linf'.
    norm: 'linf', 'l2' or 'l1'.
    inner_steps: Gradient steps of the attack.
    inner_step_size: Of each; None takes 2.5 epsilon / inner_steps, and epsilon
      for one step.
    attack_train_mode: Whether BatchNorm normalises by the batch while
      attacking, or by its averages.
    eval_norm: 'clean' or 'adversarial', the BatchNorms that evaluations take
      where there are two sets.
    weight: w in the end, in [0, 2]. DynACL's rises from 1 to 5/3.
    ramp_steps: Steps over which w rises, or falls, from 1.
    ramp_stages: Equal parts of the ramp; w changes after each. DynACL has 20.
    momentum: None, or that of an average of the weights which embeds the
      second view, without gradient (DynACL: 0.99).

  Raises:
    ValueError: A value does not exist or is out of range.
  """
  del data
  if not 0 < temperature < float('inf'):
    raise ValueError(f'temperature={temperature} is not positive')
  if eval_norm not in ('clean', 'adversarial'):
    raise ValueError(f'eval_norm={eval_norm!r}; known: clean, adversarial')
  if not 0 <= weight <= 2:
    raise ValueError(f'weight={weight} is not in [0, 2]')
  if ramp_steps < 0:
    raise ValueError(f'ramp_steps={ramp_steps} is negative')
  if ramp_stages < 1:
    raise ValueError(f'ramp_stages={ramp_stages} is not positive')
  if momentum is not None and not 0 <= momentum < 1:
    raise ValueError(f'momentum={momentum} is not in [0, 1)')
  ascend = _inner_attack.make(
    epsilon=epsilon,
    norm=norm,
    inner_steps=inner_steps,
    inner_step_size=inner_step_size,
  )

  def embed(params, model_state, aux_state, images, **kw):
    """Unit embeddings of both views, and what the passes changed."""
    if momentum is None:
      (_, out), model_state = apply_fn(params, model_state, images, **kw)
      return losses.l2_normalize(out['embedding']), model_state, aux_state
    first, second = _contrast.split(images)
    (_, out), model_state = apply_fn(params, model_state, first, **kw)
    (_, target), teacher = _teacher.forward(
      apply_fn, aux_state['teacher'], second, **kw
    )
    both = _contrast.join(out['embedding'], target['embedding'])
    return losses.l2_normalize(both), model_state, {'teacher': teacher}

  def attacked(params, model_state, aux_state, images, key):
    """Both views, moved apart."""
    frozen = jax.lax.stop_gradient((params, model_state))

    def loss_fn(points):
      kw = {'train': attack_train_mode, 'adversarial': True}
      if momentum is None:
        embeddings, _, _ = embed(*frozen, aux_state, points, **kw)
      else:  # The teacher's weights too see the moved images.
        first, second = _contrast.split(points)
        teacher = jax.lax.stop_gradient(aux_state['teacher'])
        (_, out), _ = apply_fn(*frozen, first, **kw)
        (_, target), _ = apply_fn(
          teacher['params'], teacher['model_state'], second, **kw
        )
        embeddings = losses.l2_normalize(
          _contrast.join(out['embedding'], target['embedding'])
        )
      return _contrast.anchor_infonce(embeddings, temperature)

    return ascend(loss_fn, key, images)

  def loss_fn(params, model_state, aux_state, batch, key, step):
    images = _contrast.two_views(batch)
    moved = attacked(params, model_state, aux_state, images, key)
    clean, model_state, aux_state = embed(
      params, model_state, aux_state, images, train=True
    )
    adversarial, model_state, aux_state = embed(
      params, model_state, aux_state, moved, train=True, adversarial=True
    )
    if momentum is not None:
      aux_state = {
        'teacher': _teacher.follow(aux_state['teacher'], params, momentum)
      }
    w = jnp.asarray(weight, jnp.float32)
    if ramp_steps:
      stage = jnp.floor(step * ramp_stages / ramp_steps)
      w = 1 + (w - 1) * jnp.minimum(stage / ramp_stages, 1.0)
    clean_loss = _contrast.infonce(clean, temperature)
    adversarial_loss = _contrast.infonce(adversarial, temperature)
    loss = ((2 - w) * clean_loss + w * adversarial_loss) / 2
    return loss, (
      model_state,
      aux_state,
      _contrast.geometry(clean)
      | {
        'clean_loss': clean_loss,
        'adversarial_loss': adversarial_loss,
        'adversarial_weight': w,
        'pixel_shift': jnp.mean(jnp.abs(moved - images)),
      },
    )

  def init(params, model_state, batch, key):
    del batch, key
    if momentum is None:
      return {}
    return {'teacher': _teacher.init(params, model_state)}

  return typing.Objective(
    loss_fn,
    init=init,
    num_views=2,
    eval_adversarial=eval_norm == 'adversarial',
  )
