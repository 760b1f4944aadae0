"""Networks, chosen by name: one module a network, each with a `Model`.

A `Model(num_classes, **kw)` is a flax.linen module called as
``model(images, train=...) -> (logits, out)`` on float images in [0, 1];
``out['features']`` is the penultimate vector and ``out['embedding']`` the
projected one. Normalisation of the input lies inside. This room is the only
one that knows flax.linen: everything else sees the pure function that
`apply_fn` returns.
"""

from collections.abc import Callable
import functools
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from rrl_jax import errors, typing
from rrl_jax.models import _composition

__all__ = ['apply_fn', 'feature_bounds', 'get', 'init', 'make', 'names']


def names() -> tuple[str, ...]:
  """Returns the names of the networks, sorted."""
  modules = (m.name for m in pkgutil.iter_modules(__path__))
  return tuple(sorted(m for m in modules if not m.startswith('_')))


def get(name: str) -> ModuleType:
  """Returns the module of a network; it holds `Model`.

  Args:
    name: One of `names()`.

  Returns:
    The module ``rrl_jax.models.<name>``.

  Raises:
    ConfigError: There is no such network.
  """
  if name not in names():
    raise errors.ConfigError(
      f'model.name={name!r} is unknown; models: {", ".join(names())}'
    )
  return importlib.import_module(f'{__name__}.{name}')


def make(name: str, *, num_classes: int, **kw: Any) -> nn.Module:
  """Builds a network by name.

  Args:
    name: One of `names()`.
    num_classes: Number of logits, at least 1.
    **kw: Fields of the network's `Model`, and those of
      `_composition.Composition`: a decoder, a second encoder. Lists become
      tuples.

  Returns:
    The linen module, hashable.

  Raises:
    ConfigError: Unknown name, unknown key, or a value out of range.
  """
  model_class = get(name).Model
  known = [
    field
    for field in inspect.signature(model_class).parameters
    if field not in ('num_classes', 'parent', 'name')
  ]
  known += _composition.FIELDS
  for field in kw:
    if field not in known:
      raise errors.ConfigError(
        f'model.kw.{field} is unknown to model {name!r}; '
        f'keys: {", ".join(known)}'
      )
  if num_classes < 1:
    raise errors.ConfigError(f'num_classes={num_classes} must be at least 1')
  kw = {k: tuple(v) if isinstance(v, list) else v for k, v in kw.items()}
  beside = _composition.Composition(
    **{k: kw.pop(k) for k in _composition.FIELDS if k in kw}
  )
  model = model_class(num_classes=num_classes, **kw)
  if beside != _composition.Composition():
    model = _composition.compose(model, beside, _mirrored(model, beside))
  model.check()
  return model


def _mirrored(model, beside):
  """The network that a decoder mirrors, None for no decoder."""
  if beside.decoder in ('none', 'mirror'):
    return None if beside.decoder == 'none' else model
  if beside.decoder not in names():
    raise errors.ConfigError(
      f'model.kw.decoder={beside.decoder!r} must be one of none, mirror,'
      f' {", ".join(names())}'
    )
  return make(beside.decoder, num_classes=1, dtype=model.dtype)


def init(
  model: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]
) -> tuple[typing.Params, typing.ModelState]:
  """Draws the initial variables of a network.

  Args:
    model: Result of `make`.
    key: Key of the draw.
    image_shape: ``(H, W, C)`` of the images.

  Returns:
    ``(params, model_state)``: float32 weights, and ``{}`` or
    ``{'batch_stats': ...}``.

  Raises:
    ConfigError: The network cannot take images of this shape.
  """
  variables = dict(_drawer(model, tuple(image_shape))(key))
  params = variables.pop('params')
  return params, variables


@functools.lru_cache(maxsize=16)
def _drawer(model, image_shape):
  """Jits the draw once for all keys: it takes seconds to compile."""

  def draw(key):
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return model.init(key, images, train=False)

  return jax.jit(draw)


def apply_fn(model: nn.Module) -> typing.ApplyFn:
  """Returns a network as a pure function of its variables and images.

  BatchNorm under `jax.jit` with a sharded batch takes its statistics over the
  global batch.

  Args:
    model: Result of `make`.

  Returns:
    ``(params, model_state, images, *, train, adversarial=False, labels=None)
    -> ((logits [B, K], out), model_state)``; the state comes back as it was
    unless ``train``. ``adversarial`` chooses the second set of BatchNorms
    where the network has two, and nothing where it has not; ``labels`` likewise
    reach a decoder that takes them.
  """
  dual = getattr(model, 'dual_norm', False)
  takes_labels = getattr(model, 'takes_labels', False)

  def apply(
    params, model_state, images, *, train, adversarial=False, labels=None
  ):
    variables = {'params': params, **model_state}
    kw = {'train': train} | ({'adversarial': adversarial} if dual else {})
    kw |= {'labels': labels} if takes_labels else {}
    if train and model_state:
      return model.apply(variables, images, mutable=list(model_state), **kw)
    return model.apply(variables, images, **kw), model_state

  return apply


def feature_bounds(
  model: nn.Module,
) -> (
  Callable[[typing.Params, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
  | None
):
  """Returns certified bounds of a network's features over boxes of images.

  By interval bound propagation, rounding included, see `_intervals`: whatever
  the images in the box, ``out['features']`` in evaluation mode lies within
  the bounds. They are sound and loose, the more so the deeper the network.

  Args:
    model: Result of `make`.

  Returns:
    Pure function ``(params, lower [B, H, W, C], upper [B, H, W, C]) ->
    (lower [B, D], upper [B, D])``, float32, with ``lower <= upper`` in every
    pixel; None for a network whose layers have no rule yet (resnet, vit).

  References:
    Gowal et al., `On the Effectiveness of Interval Bound Propagation for
    Training Verifiably Robust Models <https://arxiv.org/abs/1810.12715>`_,
    2018.
  """
  return getattr(model, 'feature_bounds', None)
