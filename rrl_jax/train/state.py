"""What a training step reads and writes: one frozen pytree of arrays."""

from typing import Any

import flax.struct
import jax

from rrl_jax import typing


@flax.struct.dataclass
class TrainState:
  """All that changes while training, and nothing else.

  Attributes:
    step: Steps done so far, a scalar int32.
    params: Trained weights.
    model_state: BatchNorm statistics, or an empty dict.
    opt_state: State of the optimizer.
    ema_params: Moving average of the weights, or None.
    aux_state: What the objective's adversary has learned.
  """

  step: jax.Array
  params: typing.Params
  model_state: typing.ModelState
  opt_state: Any
  ema_params: typing.Params | None
  aux_state: typing.AuxState

  @property
  def eval_params(self) -> typing.Params:
    """The weights to evaluate: the average where one is kept."""
    return self.params if self.ema_params is None else self.ema_params

  @property
  def eval_model_state(self) -> typing.ModelState:
    """The BatchNorm statistics that go with `eval_params`."""
    return self.model_state


@flax.struct.dataclass
class AveragedState(TrainState):
  """The state where averaged weights have BatchNorm statistics to go with them.

  A class of its own because a checkpoint tells a field that is None from one
  that is not there: other states are saved and read as before it existed.

  Attributes:
    ema_model_state: Moving average of ``model_state``.
  """

  ema_model_state: typing.ModelState

  @property
  def eval_model_state(self) -> typing.ModelState:
    """The BatchNorm statistics that go with `eval_params`."""
    return self.ema_model_state
