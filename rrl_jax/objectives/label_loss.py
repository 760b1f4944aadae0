"""The mean of a loss of logits and labels: what gradient rescaling is up to."""

import functools
import inspect

import jax.numpy as jnp

from rrl_jax import losses, typing
from rrl_jax.objectives import _classification

LOSSES = {
  'gce': losses.generalized_cross_entropy,
  'sce': losses.symmetric_cross_entropy,
  'mae': losses.mean_absolute_error,
  'focal': losses.focal,
  'bootstrapping': losses.bootstrapping,
  'apl': losses.active_passive,
}


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  loss: str = 'gce',
  q: float | None = None,
  alpha: float | None = None,
  beta: float | None = None,
  gamma: float | None = None,
  kind: str | None = None,
  active: str | None = None,
  passive: str | None = None,
) -> typing.Objective:
  """Returns the mean of one of `LOSSES` over the batch.

  Args:
    apply_fn: The network.
    data: Not used; every objective takes it.
    loss: 'gce', 'sce', 'mae', 'focal', 'bootstrapping' or 'apl', as `LOSSES`
      says. The other arguments are those of that function of `losses`; None is
      its default.
    q: Of gce, and of apl with ngce; in [0, 1], larger ignores doubtful labels
      more.
    alpha: Weight of the cross entropy in sce, of the active loss in apl; at
      least 0.
    beta: Weight of the reverse cross entropy in sce, of the passive loss in
      apl, at least 0; of the label in bootstrapping, in [0, 1].
    gamma: Of focal, and of apl with nfl; at least 0, where 0 is cross entropy.
    kind: Of bootstrapping, 'soft' or 'hard'.
    active: Of apl, 'nce', 'nfl' or 'ngce'.
    passive: Of apl, 'mae' or 'rce'.

  Raises:
    ValueError: No such loss, an argument that it does not have, or a value out
      of range.
  """
  del data
  if loss not in LOSSES:
    raise ValueError(f'loss={loss!r}; known: {", ".join(LOSSES)}')
  given = {
    'q': q,
    'alpha': alpha,
    'beta': beta,
    'gamma': gamma,
    'kind': kind,
    'active': active,
    'passive': passive,
  }
  given = {name: value for name, value in given.items() if value is not None}
  known = inspect.signature(LOSSES[loss]).parameters
  for name in given:
    if name not in known:
      raise ValueError(f'{name}={given[name]!r}: {loss} has no such argument')
  label_loss = functools.partial(LOSSES[loss], **given)
  label_loss(jnp.zeros((1, 2)), jnp.zeros(1, int))  # Checks the values.

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key, step
    (logits, _), model_state = apply_fn(
      params, model_state, batch['image'], train=True
    )
    example_losses = label_loss(logits, batch['label'])  # [B]
    metrics = _classification.metrics(logits, batch['label'])
    return jnp.mean(example_losses), (model_state, aux_state, metrics)

  return typing.Objective(
    loss_fn, example_loss=lambda logits, labels, *_: label_loss(logits, labels)
  )
