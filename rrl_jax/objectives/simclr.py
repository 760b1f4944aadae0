"""SimCLR and supervised contrastive learning: two views attract each other.

References:
  Chen et al., `A Simple Framework for Contrastive Learning of Visual
  Representations <https://arxiv.org/abs/2002.05709>`_, 2020; Khosla et al.,
  `Supervised Contrastive Learning <https://arxiv.org/abs/2004.11362>`_, 2020.
"""

from rrl_jax import typing
from rrl_jax.objectives import _contrast


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  base: str = 'simclr',
  temperature: float = 0.5,
) -> typing.Objective:
  """Returns a loss of two augmented views (``data.augment.views=2``).

  Args:
    apply_fn: The network; ``model.kw.embedding_dim`` gives it a projector.
    data: Not used; every objective takes it.
    base: 'simclr', without labels; 'supcon'; 'cross_entropy', the supervised
      baseline on the same augmentation.
    temperature: Positive.

  Raises:
    ValueError: An unknown base or a temperature that is not positive.
  """
  del data
  base_loss = _contrast.base(base, temperature=temperature)

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key, step
    (logits, out), model_state = apply_fn(
      params, model_state, _contrast.two_views(batch), train=True
    )
    loss, metrics = base_loss(logits, out, batch['label'])
    return loss, (model_state, aux_state, metrics)

  return typing.Objective(loss_fn, num_views=2)
