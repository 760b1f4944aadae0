"""Co-teaching: two networks, each taught what the other finds easy.

References:
  Han et al., `Co-teaching: Robust Training of Deep Neural Networks with
  Extremely Noisy Labels <https://arxiv.org/abs/1804.06872>`_, 2018.
"""

import jax
import jax.numpy as jnp

from rrl_jax import typing
from rrl_jax.objectives import _classification


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  forget_rate: float = 0.2,
  ramp_steps: int = 0,
) -> typing.Objective:
  """Returns the co-teaching objective; its two networks share a vmapped state.

  Each network takes the mean cross entropy over those examples of the batch
  whose loss is smallest *to the other one*; a share
  ``forget_rate * min(step / ramp_steps, 1)`` is left out. The loss is the sum
  of both means, so that each network has the whole gradient of its own. The
  authors' code divides each mean by the number kept once more, which is left
  out here.

  Args:
    apply_fn: One network.
    data: Not used; every objective takes it.
    forget_rate: Share left out in the end, in [0, 1); the authors set it to
      the noise rate.
    ramp_steps: Steps until then; the authors have 10 epochs.

  Raises:
    ValueError: A value is out of range.
  """
  del data
  if not 0 <= forget_rate < 1:
    raise ValueError(f'forget_rate={forget_rate} is not in [0, 1)')
  if ramp_steps < 0:
    raise ValueError(f'ramp_steps={ramp_steps} is negative')

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key
    labels = batch['label']

    def forward(params, model_state):
      (logits, _), model_state = apply_fn(
        params, model_state, batch['image'], train=True
      )
      return logits, model_state

    logits, model_state = jax.vmap(forward)(params, model_state)  # [2, B, K]
    example_losses = jax.vmap(_classification.cross_entropy, (0, None))(
      logits, labels
    )  # [2, B]
    progress = jnp.minimum(step / max(ramp_steps, 1), 1) if ramp_steps else 1.0
    # As the authors' int(); the small number is for what is whole already.
    kept = jnp.floor((1 - forget_rate * progress) * len(labels) + 1e-3)
    kept = jnp.maximum(kept, 1)
    ranks = jnp.argsort(jnp.argsort(example_losses, axis=-1), axis=-1)
    chosen = (ranks < kept)[::-1]  # By the peer, a constant to the gradient.
    loss = jnp.sum(jnp.where(chosen, example_losses, 0)) / kept
    metrics = _classification.metrics(logits, labels) | {
      'kept_share': kept / len(labels)
    }
    return loss, (model_state, aux_state, metrics)

  return typing.Objective(loss_fn, num_networks=2)
