"""From the ``optim`` part of a config to an optax transformation."""

import inspect
import math

import jax
from ml_collections import ConfigDict
import optax

from rrl_jax.errors import ConfigError

# Of optax's optimizers, those that take a learning rate and a gradient alone.
OPTIMIZERS = (
    'adabelief', 'adagrad', 'adam', 'adamw', 'lamb', 'lars', 'lion', 'nadam',
    'nadamw', 'radam', 'rmsprop', 'sgd',
)  # fmt: skip
SCHEDULES = ('constant', 'cosine', 'piecewise')
# Arguments of optax that a field of `optim` or a rule of this file decides.
_OWN = {
  'momentum': 'set optim.momentum',
  'nesterov': 'set optim.nesterov',
  'weight_decay': 'set optim.weight_decay',
  'mask': 'arrays of two or more axes decay',
  'weight_decay_mask': 'arrays of two or more axes decay',
}


def make(optim: ConfigDict, total_steps: int) -> optax.GradientTransformation:
  """Builds the optimizer: clipping, weight decay, then the update rule.

  Weight decay touches arrays of two or more axes: kernels, and a ViT's class
  token and positions, but no biases and scales. It is decoupled in adamw, lamb,
  lion and nadamw, added to the gradient before the trust ratio in lars, and
  added to the gradient in all others, as in torch.

  Args:
    optim: The config's ``optim``: name, kw, momentum, nesterov, lr, schedule,
      warmup, boundaries, weight_decay, grad_clip_norm.
    total_steps: Steps over which the schedule runs.

  Raises:
    ConfigError: An unknown name or argument, a value out of range, an argument
      in ``kw`` that has a field of its own, or a momentum for an optimizer
      without one.
  """
  if optim.name not in OPTIMIZERS:
    raise ConfigError(
      f'optim.name={optim.name!r}; known: {", ".join(OPTIMIZERS)}'
    )
  for field in ('weight_decay', 'grad_clip_norm'):
    if not 0 <= optim[field] < math.inf:
      raise ConfigError(f'optim.{field}={optim[field]} is not in [0, inf)')
  rule = getattr(optax, optim.name)
  defaults = {
    name: parameter.default
    for name, parameter in inspect.signature(rule).parameters.items()
  }
  known = set(defaults) - {'learning_rate'} - _OWN.keys()
  kw = {name: value for name, value in optim.kw.items() if value is not None}
  for name in kw:
    if name in _OWN and name in defaults:
      raise ConfigError(f'optim.kw.{name}: {_OWN[name]}')
    if name not in known:
      raise ConfigError(
        f'optim.kw.{name}: optax.{optim.name} knows {", ".join(sorted(known))}'
      )
  for field in ('momentum', 'nesterov'):
    if field not in defaults and optim[field]:
      raise ConfigError(
        f'optim.{field}={optim[field]}: optax.{optim.name} has none'
      )
    if optim[field] or defaults.get(field):  # Optax has .9 for lars.
      kw[field] = optim[field]
  parts = []
  if optim.grad_clip_norm:
    parts.append(optax.clip_by_global_norm(optim.grad_clip_norm))
  if 'weight_decay' in defaults:
    mask = 'weight_decay_mask' if optim.name == 'lars' else 'mask'
    kw |= {'weight_decay': optim.weight_decay, mask: _kernels}
  elif optim.weight_decay:
    parts.append(optax.add_decayed_weights(optim.weight_decay, _kernels))
  schedule = learning_rate(optim, total_steps)
  return optax.chain(*parts, rule(schedule, **kw))


def per_network(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """The same optimizer for each of several networks, by itself.

  Weights, gradients and the optimizer's state have a leading axis of networks;
  clipping and decay see one network at a time.
  """
  return optax.GradientTransformation(jax.vmap(tx.init), jax.vmap(tx.update))


def learning_rate(optim: ConfigDict, total_steps: int) -> optax.Schedule:
  """The learning rate as a function of the step.

  A linear rise over the first ``warmup`` of the run, then constant, a half
  cosine to zero, or a tenth from each of ``boundaries`` (fractions of the run;
  one inside the warm-up counts from its end).

  Raises:
    ConfigError: An unknown schedule, or a value out of range.
  """
  if optim.schedule not in SCHEDULES:
    raise ConfigError(
      f'optim.schedule={optim.schedule!r}; known: {", ".join(SCHEDULES)}'
    )
  if not 0 < optim.lr < math.inf:
    raise ConfigError(f'optim.lr={optim.lr} is not in (0, inf)')
  if not 0 <= optim.momentum < 1:
    raise ConfigError(f'optim.momentum={optim.momentum} is not in [0, 1)')
  if not 0 <= optim.warmup < 1:
    raise ConfigError(f'optim.warmup={optim.warmup} is not in [0, 1)')
  for part in optim.boundaries:
    if not (isinstance(part, int | float) and 0 < part < 1):
      raise ConfigError(f'optim.boundaries: {part!r} is not in (0, 1)')
  rising = round(optim.warmup * total_steps)
  rest = max(total_steps - rising, 1)
  if optim.schedule == 'constant':
    after = optax.constant_schedule(optim.lr)
  elif optim.schedule == 'cosine':
    after = optax.cosine_decay_schedule(optim.lr, rest)
  else:
    drops = {}
    for part in optim.boundaries:
      drop_step = max(round(part * total_steps) - rising, 0)
      drops[drop_step] = 0.1 * drops.get(drop_step, 1.0)
    after = optax.piecewise_constant_schedule(optim.lr, drops)
  if not rising:
    return after
  # The first step has rate lr / rising, not zero: no step is wasted.
  rise = optax.linear_schedule(optim.lr / rising, optim.lr, max(rising - 1, 1))
  return optax.join_schedules([rise, after], [rising])


def _kernels(params):
  """True for the weights that decay."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
