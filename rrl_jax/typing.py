"""Names for the values that cross a room's border; no logic.

Shapes use one set of letters everywhere: ``B`` examples in a batch, ``N``
examples in a set, ``H, W, C`` image height, width and channels, ``K`` classes
or concepts, ``D`` feature dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, Protocol

import jax
import numpy as np

Params = Any  # Trained weights: a pytree of float arrays.
ModelState = Any  # What the network carries besides: BatchNorm statistics.
AuxState = Any  # What the adversary learns: concept weights, duals, teachers.
Batch = Mapping[str, jax.Array]  # 'image' [B, H, W, C] in [0, 1], 'label' [B],
#                                  'concept' [B], 'index' [B] (example id),
#                                  'group' [B], 'views' [B, V, H, W, C].
Metrics = dict[str, jax.Array]  # By name: a scalar, or one a concept, [K].

LossFn = Callable[[jax.Array], jax.Array]  # Images -> loss of each, [B].
LogitsFn = Callable[[jax.Array], jax.Array]  # Images -> logits, [B, K].


class ApplyFn(Protocol):
  """A network as a pure function of its variables and images in [0, 1]."""

  def __call__(
    self,
    params: Params,
    model_state: ModelState,
    images: jax.Array,
    *,
    train: bool,
    adversarial: bool = False,
    labels: jax.Array | None = None,
  ) -> tuple[tuple[jax.Array, dict[str, jax.Array]], ModelState]:
    """Returns ``((logits [B, K], out), model_state)``.

    ``out['features']`` is the penultimate vector and ``out['embedding']`` the
    projected one; ``model_state`` comes back changed only when training.
    ``adversarial`` chooses the BatchNorms of attacked images, where a network
    has two sets. ``labels`` [B] reach a decoder that takes them; without, it
    takes the predicted classes. ``out['reconstruction']`` [B, H, W, C] is what
    a network with a decoder makes of the features.
    """


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """What an objective may know of the training set, true labels excepted.

  Attributes:
    class_names: Name of each class.
    concept_names: Name of each concept.
    concept_counts: Training examples of each concept, integers, shape ``[K]``.
    sampling_probs: Probability that an example of a batch is of concept k,
      shape ``[K]``; counts / total under uniform sampling, 1 / K under
      concept-balanced sampling.
    num_examples: Training examples N; ``batch['index']`` is below it.
    group_names: Name of each group; none unless the batch has ``'group'``.
    group_counts: Training examples of each group, integers, shape ``[G]``.
    class_probs: Probability that an example of a batch has given label c,
      shape of the classes; None for not known.
  """

  class_names: tuple[str, ...]
  concept_names: tuple[str, ...]
  concept_counts: np.ndarray
  sampling_probs: np.ndarray
  num_examples: int
  group_names: tuple[str, ...] = ()
  group_counts: np.ndarray | None = None
  class_probs: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
  """A training loss together with the state that its adversary learns.

  Attributes:
    loss_fn: ``(params, model_state, aux_state, batch, key, step) ->
      (loss, (model_state, aux_state, metrics))``, pure; differentiated with
      respect to ``params``. Where the batch's gradient is no mean over its
      examples, ``metrics['log_normalizer']`` is the logarithm of what it was
      divided by: the gradients of micro-batches are combined in proportion.
    init: ``(params, model_state, batch, key) -> aux_state`` before the first
      step; ``batch`` may hold shapes instead of arrays.
    step_scale: ``metrics -> scalar`` that multiplies the optimizer's update,
      or None for no scaling.
    example_loss: ``(logits [B, K], labels [B], index [B], aux_state, step) ->
      [B]``, the loss as a function of the logits, undivided by the batch: its
      gradient tells how much each example weighs. None where the loss is not
      of that form.
    learned: ``aux_state -> name -> scalar`` to be reported with the results;
      what is not a number is not known yet.
    num_networks: Networks that train each other. From two on, every leaf of
      ``params`` and ``model_state`` has a leading axis of them; the first is
      the one evaluated.
    num_views: Augmentations of an image that ``batch['views']`` has to hold.
    whole_batch: Whether the adversary answers to a batch as a whole, which then
      must not be cut into micro-batches: each would be a batch to it.
    eval_adversarial: Whether evaluations take the BatchNorms of attacked
      images, where the network has two sets.
    remarks: ``batch_size -> lines`` that the user ought to read before the run
      starts.
    loss_is: What the loss that is logged is, where the gradient is not that of
      this loss.
  """

  loss_fn: Callable[..., tuple[jax.Array, tuple[ModelState, AuxState, Metrics]]]
  init: Callable[[Params, ModelState, Batch, jax.Array], AuxState] = (
    lambda params, model_state, batch, key: {}
  )
  step_scale: Callable[[Metrics], jax.Array] | None = None
  example_loss: Callable[..., jax.Array] | None = None
  learned: Callable[[AuxState], dict[str, jax.Array]] = lambda aux_state: {}
  num_networks: int = 1
  num_views: int = 0
  whole_batch: bool = False
  eval_adversarial: bool = False
  remarks: Callable[[int], Sequence[str]] = lambda batch_size: ()
  loss_is: str = ''

  def __call__(self, params, model_state, aux_state, batch, key, step):
    """Calls ``loss_fn``."""
    return self.loss_fn(params, model_state, aux_state, batch, key, step)
