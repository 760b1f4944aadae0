"""Just train twice: the second network learns more from the first one's errors.

A first network trains for some steps by plain cross entropy and learns what is
easiest, a shortcut if there is one. The training examples that it still gets
wrong are mostly those on which the shortcut fails; they weigh more for a second
network, which is the one evaluated. No group labels are needed.
"""

import jax
import jax.numpy as jnp

from rrl_jax import typing
from rrl_jax.objectives import _classification


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec,
  warmup_steps: int = 100,
  upweight: float = 20.0,
) -> typing.Objective:
  """Returns JTT; both networks live in one run, one of them at a time.

  Args:
    apply_fn: The network.
    data: Number of examples, each of which has a mark.
    warmup_steps: Steps of the first network; the other steps of the run are the
      second one's.
    upweight: How often an error counts, at least 1; 1 is ERM.

  Raises:
    ValueError: A value is out of range.

  References:
    Liu et al., `Just Train Twice: Improving Group Robustness without Training
    Group Information <https://arxiv.org/abs/2107.09044>`_, 2021, Algorithm 1.

  .. note::
    The paper takes the errors of the first network after its last step, in
    evaluation mode; here an example is marked by the prediction made at its
    last visit in these steps, in training mode and augmented, so that no pass
    over the set is needed. One never visited counts as right. Instead of being
    repeated an error has its loss multiplied, divided by the mean weight over
    the training set: the same expectation. Both phases share one learning-rate
    schedule, and weight decay shrinks the second network while it waits.
  """
  if isinstance(warmup_steps, bool) or warmup_steps != int(warmup_steps):
    raise ValueError(f'warmup_steps={warmup_steps} is no whole number')
  if warmup_steps < 1:
    raise ValueError(f'warmup_steps={warmup_steps} is below 1')
  if not 1 <= upweight < float('inf'):
    raise ValueError(f'upweight={upweight} is not in [1, inf)')

  def init(params, model_state, batch, key):
    del params, model_state, batch, key
    return {'wrong': jnp.zeros(data.num_examples, bool)}

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key
    labels, index = batch['label'], batch['index']
    first = step < warmup_steps
    network = jnp.where(first, 1, 0)  # The one evaluated is number 0.
    (logits, _), state = apply_fn(
      jax.tree.map(lambda leaf: leaf[network], params),
      jax.tree.map(lambda leaf: leaf[network], model_state),
      batch['image'],
      train=True,
    )
    model_state = jax.tree.map(
      lambda leaf, new: leaf.at[network].set(new), model_state, state
    )
    wrong = aux_state['wrong']
    now = jnp.argmax(logits, axis=-1) != labels
    wrong = wrong.at[index].set(jnp.where(first, now, wrong[index]))
    weights = 1 + (upweight - 1) * wrong[index]
    weights /= 1 + (upweight - 1) * jnp.mean(wrong.astype(logits.dtype))
    weights = jnp.where(first, 1.0, weights)
    example_losses = _classification.cross_entropy(logits, labels)
    metrics = _classification.metrics(logits, labels) | {
      'error_set': jnp.mean(wrong.astype(jnp.float32))
    }
    loss = jnp.mean(weights * example_losses)
    return loss, (model_state, {'wrong': wrong}, metrics)

  return typing.Objective(loss_fn, init, num_networks=2)
