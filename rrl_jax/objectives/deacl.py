r"""Decoupled adversarial contrastive learning (DeACL): distil, then harden.

First the network learns from two views without an attack. From then on those
weights are a teacher t that stays as it is, and the network s learns

.. math:: -\cos(s(x), t(x)) - \beta \cos(s(x'), s(x)), \quad
          x' = \arg\max_{x'} -\cos(s(x'), t(x))

References:
  Zhang et al., `Decoupled Adversarial Contrastive Learning for
  Self-supervised Adversarial Robustness <https://arxiv.org/abs/2207.10899>`_,
  2022.
"""

import jax
import jax.numpy as jnp

from rrl_jax import losses, typing
from rrl_jax.objectives import _contrast, _inner_attack, _teacher


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  base: str = 'simclr',
  temperature: float = 0.5,
  momentum: float = 0.99,
  teacher_steps: int,
  beta: float = 2.0,
  epsilon: float = 8 / 255,
  norm: str = 'linf',
  inner_steps: int = 5,
  inner_step_size: float | None = None,
  attack_train_mode: bool = False,
) -> typing.Objective:
  """Returns the DeACL objective on two views (``data.augment.views=2``).

  Both stages are steps of one run. The distance of the second is that of the
  features, as the authors', who put the identity in the projector's place;
  that stage sees the first view only.

  Args:
    apply_fn: The network; ``model.kw.embedding_dim`` gives it a projector.
    data: Not used; every objective takes it.
    base: Of the first stage: 'simclr', 'byol', 'supcon' or 'cross_entropy'.
    temperature: Of 'simclr' and 'supcon', positive.
    momentum: Of the teacher of 'byol', in [0, 1).
    teacher_steps: Steps of the first stage, at least 0.
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

  .. note::
    The student starts from the teacher's weights, and learning rate and
    optimizer's state go on; the authors' stages are two runs.
  """
  del data
  base_fn = _contrast.base(
    base, apply_fn, temperature=temperature, momentum=momentum
  )
  if teacher_steps < 0:
    raise ValueError(f'teacher_steps={teacher_steps} is negative')
  if not 0 <= beta < float('inf'):
    raise ValueError(f'beta={beta} is not in [0, inf)')
  ascend = _inner_attack.make(
    epsilon=epsilon,
    norm=norm,
    inner_steps=inner_steps,
    inner_step_size=inner_step_size,
  )

  def distance(features, targets):
    return losses.feature_shift(features, targets, distance='cosine')

  def attacked(params, model_state, images, targets, key):
    """Images whose features lie furthest from the teacher's."""
    params, model_state = jax.lax.stop_gradient((params, model_state))

    def loss_fn(points):
      (_, out), _ = apply_fn(
        params, model_state, points, train=attack_train_mode, adversarial=True
      )
      return distance(out['features'], targets)

    return ascend(loss_fn, key, images)

  def teach(params, model_state, aux_state, batch, key, step):
    """A step of the first stage."""
    del key, step
    loss, _, _, (model_state, base_state, metrics) = base_fn.loss_fn(
      params,
      model_state,
      aux_state['base'],
      _contrast.two_views(batch),
      batch['label'],
    )
    return loss, (model_state, aux_state | {'base': base_state}, metrics)

  def distil(params, model_state, aux_state, batch, key, step):
    """A step of the second stage; in the first the network is the teacher."""
    teacher = jax.tree.map(
      lambda old, new: jnp.where(step == teacher_steps, new, old),
      aux_state['teacher'],
      jax.lax.stop_gradient({'params': params, 'model_state': model_state}),
    )
    images = batch['views'][:, 0]
    (_, target), _ = _teacher.forward(apply_fn, teacher, images, train=False)
    targets = target['features']
    moved = attacked(params, model_state, images, targets, key)
    (_, out), model_state = apply_fn(params, model_state, images, train=True)
    (_, moved_out), model_state = apply_fn(
      params, model_state, moved, train=True, adversarial=True
    )
    from_teacher = jnp.mean(distance(out['features'], targets))
    shift = jnp.mean(distance(moved_out['features'], out['features']))
    # 1 - cos each: the constants leave the gradient as it is.
    loss = from_teacher + beta * shift
    metrics = {
      'teacher_distance': from_teacher,
      'feature_shift': shift,
      'pixel_shift': jnp.mean(jnp.abs(moved - images)),
    }
    return loss, (model_state, aux_state | {'teacher': teacher}, metrics)

  def loss_fn(*given):
    step = given[-1]
    reports = [jax.eval_shape(stage, *given)[1][2] for stage in (teach, distil)]
    # What only the other stage knows is not a number, and is not logged.
    unknown = {
      name: jnp.full(spec.shape, jnp.nan, spec.dtype)
      for report in reports
      for name, spec in report.items()
    }

    def complete(stage):
      def run(*given):
        loss, (model_state, aux_state, metrics) = stage(*given)
        return loss, (model_state, aux_state, unknown | metrics)

      return run

    return jax.lax.cond(
      step < teacher_steps, complete(teach), complete(distil), *given
    )

  def init(params, model_state, batch, key):
    return {
      'base': base_fn.init(params, model_state, batch, key),
      'teacher': _teacher.init(params, model_state),
    }

  return typing.Objective(loss_fn, init=init, num_views=2)
