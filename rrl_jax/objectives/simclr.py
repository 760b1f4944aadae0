"""Two views of an image attract each other: SimCLR, BYOL, SupCon.

References:
  Chen et al., `A Simple Framework for Contrastive Learning of Visual
  Representations <https://arxiv.org/abs/2002.05709>`_, 2020; Grill et al.,
  `Bootstrap your own latent <https://arxiv.org/abs/2006.07733>`_, 2020; Khosla
  et al., `Supervised Contrastive Learning <https://arxiv.org/abs/2004.11362>`_,
  2020.
"""

from rrl_jax import typing
from rrl_jax.objectives import _contrast


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  base: str = 'simclr',
  temperature: float = 0.5,
  momentum: float = 0.99,
) -> typing.Objective:
  """Returns a loss of two augmented views (``data.augment.views=2``).

  Args:
    apply_fn: The network; ``model.kw.embedding_dim`` gives it a projector.
    data: Not used; every objective takes it.
    base: 'simclr' and 'byol', without labels; 'supcon'; 'cross_entropy', the
      supervised baseline on the same augmentation.
    temperature: Of 'simclr' and 'supcon', positive.
    momentum: Of the teacher of 'byol', in [0, 1). It stays the same, where the
      authors' rises to 1.

  Raises:
    ValueError: An unknown base or a value out of range.
  """
  del data
  base_fn = _contrast.base(
    base, apply_fn, temperature=temperature, momentum=momentum
  )

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key, step
    loss, _, _, rest = base_fn.loss_fn(
      params,
      model_state,
      aux_state,
      _contrast.two_views(batch),
      batch['label'],
    )
    return loss, rest

  return typing.Objective(loss_fn, init=base_fn.init, num_views=2)
