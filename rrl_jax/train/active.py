"""Which settings of a config had an effect, for headers, pages and records.

A config has every field there is. What is off, and what only matters where
something else is on, would read as if it had been used.
"""

from collections.abc import Mapping
from typing import Any

# How images come to the devices: no number depends on it.
_HOW = ('device_bytes', 'num_threads')
_NAMED = ('name', 'kw')
_SCHEDULED = {'boundaries': ('piecewise',)}  # Field of optim -> schedules.
_AUGMENTED = {  # Field -> the augmentation without which it does nothing.
  'scale': 'resized_crop',
  'ratio': 'resized_crop',
  'jitter_probability': 'jitter',
  'final_strength': 'decay_stages',
}
_DAMAGED = {  # Field of data.noise or abnormal -> kinds that read it.
  'mapping': ('asymmetric',),
  'confusion': ('instance',),
  'name': ('source',),
  'classes': ('source',),
}
_MOVED = ('wrm', 'sinkhorn')
_MIXED = ('kl', 'l2', 'ot', 'cvar', 'chi2')
# Objective -> argument -> values of others without which it does nothing.
NEEDS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
  'hro': {
    'gamma': {'inner': _MOVED},
    'radius': {'inner': _MOVED},
    'radius_rate': {'inner': _MOVED},
    'inner_steps': {'inner': _MOVED},
    'attack_train_mode': {'inner': _MOVED},
    'sinkhorn_epsilon': {'inner': ('sinkhorn',)},
    'sinkhorn_tau': {'inner': ('sinkhorn',)},
    'sinkhorn_labels': {'inner': ('sinkhorn',)},
    'temperature': {'divergence': _MIXED},
    'prior': {'divergence': _MIXED},
    'mix_update': {'divergence': _MIXED},
    'mix_rate': {'divergence': _MIXED, 'mix_update': ('ascent',)},
    'risk': {'divergence': _MIXED, 'inner': _MOVED},
    'risk_rate': {'divergence': _MIXED},
    'step_scale': {'divergence': _MIXED},
    'cost': {'divergence': ('ot',)},
    'cost_matrix': {'divergence': ('ot',), 'cost': ('given',)},
    'cost_epsilon': {'divergence': ('ot',)},
  },
  'gr': {
    'focus': {'weighting': ('emphasis',)},
    'focus_end': {'weighting': ('emphasis',)},
    'spread': {'weighting': ('emphasis', 'normal', 'exponential')},
    'spread_end': {'weighting': ('emphasis', 'normal', 'exponential')},
    'mode': {'weighting': ('normal',)},
    'alpha': {'weighting': ('beta',)},
    'eta': {'weighting': ('beta',)},
  },
}
# Objective -> argument -> another that must be given.
_WITH = {'hro': {'radius_rate': 'radius'}}


def settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The parts of a config without what had no effect.

  Args:
    config: A config as plain data, perhaps one with parts missing.

  Returns:
    ``data``, ``model``, ``objective`` and ``optim``, each with its ``name`` and
    ``kw`` if it has them, and fields that were active; parts that the config
    lacks are left out.
  """
  parts = {
    'data': _data,
    'model': _part,
    'objective': _objective,
    'optim': _optim,
  }
  return {
    name: choose(config[name])
    for name, choose in parts.items()
    if isinstance(config.get(name), Mapping)
  }


def words(part: Mapping[str, Any]) -> str:
  """Settings in a line.

  >>> words({'name': 'mlp', 'kw': {'widths': [256, 128]}})
  'mlp, widths 256 128'
  """
  said = [str(part['name'])] if part.get('name') else []
  for key, value in part.items():
    if key == 'kw' and isinstance(value, Mapping):
      said += _pairs(value)
    elif key not in _NAMED:
      said += _pairs({key: value})
  return ', '.join(said)


def scalar(value: Any) -> str:
  """A value of a config in a sentence."""
  if value is True:
    return 'on'
  if value is False:
    return 'off'
  if isinstance(value, float):
    return f'{value:g}'
  if isinstance(value, list | tuple):
    return ' '.join(scalar(v) for v in value)
  return str(value)


def _pairs(values):
  """'key value' of each value; of groups of values 'group key value'."""
  found = []
  for key, value in values.items():
    if isinstance(value, Mapping):
      found += _pairs({f'{key} {k}': v for k, v in value.items()})
    else:
      found.append(f'{str(key).replace("_", " ")} {scalar(value)}')
  return found


def _is_on(value):
  """Whether it is anything but empty, off, zero or not given."""
  return not (value is None or value is False or value in ('', [], (), 0, {}))


def _part(part):
  """Name and arguments that were given."""
  kw = part.get('kw')
  kept = {'name': part['name']} if part.get('name') else {}
  if isinstance(kw, Mapping):
    kept['kw'] = {k: v for k, v in kw.items() if v not in (None, '', [], ())}
  return kept


def _data(data):
  """Where the examples come from and what was done to them."""
  kept = _part(data)
  for field, value in data.items():
    if field in (*_NAMED, *_HOW) or not _is_on(value):
      continue
    if field == 'concepts' and value == 'class':
      continue
    if field == 'sampling' and value == 'uniform':
      continue
    if field == 'augment' and isinstance(value, Mapping):
      value = {
        name: each
        for name, each in value.items()
        if _is_on(each) and value.get(_AUGMENTED.get(name, name))
      }
    elif isinstance(value, Mapping) and 'kind' in value:
      value = _damage(value)
    if _is_on(value):
      kept[field] = value
  return kept


def _damage(part):
  """Noise, abnormal images or groups; nothing where the kind is none."""
  kind = part['kind']
  if kind == 'none':
    return {}
  kept = {'kind': kind}
  for field, value in part.items():
    if field == 'kw':
      continue
    if field == 'exact':  # The default, and what the word rate means.
      kept |= {} if value else {field: value}
    elif kind in _DAMAGED.get(field, (kind,)) and _is_on(value):
      kept[field] = value
  source = part.get('kw')
  if kind == 'source' and isinstance(source, Mapping):
    kept |= {name: value for name, value in source.items() if _is_on(value)}
  return kept


def _objective(part):
  """Arguments of the objective that it reads, given the others."""
  kept = _part(part)
  given = kept.get('kw', {})
  needs = NEEDS.get(kept.get('name'), {})
  together = _WITH.get(kept.get('name'), {})
  if given:
    kept['kw'] = {
      name: value
      for name, value in given.items()
      if all(given.get(n) in v for n, v in needs.get(name, {}).items())
      and together.get(name, name) in given
    }
  return kept


def _optim(optim):
  """The optimizer and its schedule."""
  kept = _part(optim)
  for field, value in optim.items():
    schedules = _SCHEDULED.get(field)
    read = schedules is None or optim.get('schedule') in schedules
    if field == 'nesterov':
      read = bool(optim.get('momentum'))
    if field not in _NAMED and read and _is_on(value):
      kept[field] = value
  return kept
