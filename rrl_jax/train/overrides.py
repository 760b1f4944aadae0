"""Fields of a config that the command line sets, and what follows from them.

``--config.a.b=text`` arrives here as ``{'a.b': 'text'}``. `apply` gives each
text the type of its field and sets it. It also does what a name implies: a part
that is chosen by name (data set, network, objective, optimizer, schedule,
adversary) forgets the arguments of the part that it replaces, and of a study
or a pool every member is changed. No device is used.
"""

import ast
from collections.abc import Callable, Mapping
import copy
import importlib
import inspect
import re
import textwrap
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import optax

from rrl_jax import evals, models, objectives
from rrl_jax.errors import ConfigError
from rrl_jax.models import _composition
from rrl_jax.train import workdir

OWN_FILES = ('npz', 'folder', 'idx')  # Sources that read files of the user's.
# Groups whose names are not fixed: arguments of what is chosen by name, or
# named things that have arguments themselves.
_ARGUMENTS = (
  'model.kw', 'objective.kw', 'optim.kw', 'data.kw', 'data.abnormal.kw'
)  # fmt: skip
_NAMED = ('evals', 'interim_evals', 'pool.evals', 'transfer')
# Parts whose settings are said where the part is exchanged.
_PARTS = ('data.name', 'model.name', 'objective.name', 'optim.name')
# Choices inside an objective, and the arguments that belong to each.
_CHOICES = {
  'inner': (
    'gamma', 'radius', 'radius_rate', 'inner_steps', 'sinkhorn_epsilon',
    'sinkhorn_tau', 'sinkhorn_labels',
  ),
  'divergence': (
    'temperature', 'mix_update', 'mix_rate', 'cost', 'cost_matrix',
    'cost_epsilon',
  ),
  'loss': ('q', 'alpha', 'beta', 'gamma', 'kind', 'active', 'passive'),
  'weighting': ('mode', 'alpha', 'eta'),
}  # fmt: skip
# What a study or a pool decides itself, so that a member cannot be told.
_OF_STUDY = ('seed', 'data.seed', 'data.noise.seed', 'data.abnormal.seed',
             'data.groups.seed', 'data.validation')  # fmt: skip
_OF_POOL = ('evals', 'transfer')
_MEMBERS = {'study': 'methods', 'pool': 'models'}
# Of features from a file only these matter: nothing is trained.
_OF_FEATURES = ('features', 'evals.indicators', 'job')


class Applied(NamedTuple):
  """A config with the command line's changes.

  Attributes:
    config: A copy with all changes.
    values: What was set, by dotted name, as plain data.
    remarks: Lines that say what was forgotten and what was kept.
  """

  config: ConfigDict
  values: dict[str, Any]
  remarks: list[str]


def apply(
  config: ConfigDict, base: ConfigDict, given: Mapping[str, str]
) -> Applied:
  """Sets fields from their texts.

  A dictionary replaces named things (``evals``, ``transfer``, ...) and sets the
  fields that it names elsewhere; one that is empty, and an empty text, empty
  their group. An empty text also takes a named thing out of it; an evaluator
  or a target task that is not there is added.

  Where the config is a study or a pool, a field outside of ``study.`` and
  ``pool.`` is set in each member.

  Args:
    config: What a config file gave; it stays as it is.
    base: Every field with its default: ``configs/common.py: base()``.
    given: Texts by dotted name, in the order of the command line.

  Raises:
    ConfigError: A field or value that does not exist, an argument that has to
      be given with another one, or a field that a study or pool decides itself.
  """
  _check_order(given)
  config = copy.deepcopy(config)
  config.unlock()
  kind = config.job if config.job in _MEMBERS and config.job in config else ''
  if config.get('features') is not None or given.get('features'):
    _check_of_features(given)
    kind = ''
  if kind:
    values, remarks = _apply_to_members(config, base, given, kind)
  else:
    values, remark = _apply(config, base, given)
    remarks = _lines(remark) if remark else []
  return Applied(config, values, remarks)


def _apply_to_members(config, base, given, kind):
  """Changes a study or a pool in place: itself and every member."""
  group = f'{kind}.{_MEMBERS[kind]}'
  members = config[kind][_MEMBERS[kind]]
  before = {name: _recipe(member) for name, member in members.items()}
  shared, own, itself = {}, {}, {}
  for name, text in given.items():
    if _inside(name, group):
      who, _, field = name.removeprefix(f'{group}.').partition('.')
      if who not in members:
        raise _unknown(name, members, group, who)
      own.setdefault(who, {})[field] = text
    else:
      (itself if _inside(name, kind) else shared)[name] = text
  values, _ = _apply(config, base, itself)
  shared = _flat(config, base, shared)
  _check_decided(config[kind], kind, shared)
  values |= _apply(config, base, shared)[0]
  for_all = {name: text for name, text in shared.items() if name != 'job'}
  said = {}
  for who in list(members):
    fields = own.get(who, {})
    if '' in fields:
      if fields[''] or len(fields) > 1:
        raise ConfigError(
          f'--config.{group}.{who} is a whole config; set its fields, or'
          ' nothing to leave it out'
        )
      values |= _take_out(config, f'{group}.{who}')
      continue
    try:
      _check_decided(config[kind], kind, fields)
      found, said[who] = _apply(members[who], base, for_all | fields, fit=False)
    except ConfigError as error:
      raise ConfigError(f'{group}.{who}: {error}') from error
    values |= {f'{group}.{who}.{field}': found.get(field) for field in fields}
  return values, _of_members(said) + _now_alike(members, before)


# --- One run -----------------------------------------------------------------


def _apply(config, base, given, *, fit=True):
  """Changes one run's config in place; returns values and a remark, if any.

  With ``fit`` a network that is too small for other images is exchanged.
  """
  base = copy.deepcopy(base)  # Parts of it become parts of the config.
  given = _flat(config, base, given)
  before = workdir.flatten(workdir.plain(config))
  needed: list[str] = []
  named = _changed_names(config, given)
  if _names_data(config, given):
    needed += _forget_data(config, base, given, fit)
  if 'model.name' in named:
    _forget_model(config, base, given)
  if 'objective.name' in named:
    config.objective.kw = ConfigDict()
  if 'optim.name' in named:
    for field in ('kw', 'momentum', 'nesterov'):
      config.optim[field] = base.optim[field]
  if 'optim.schedule' in named:
    config.optim.boundaries = base.optim.boundaries
  for part in ('noise', 'abnormal', 'groups'):
    if f'data.{part}.kind' in named:
      _forget_kind(config.data, base.data, part, given[f'data.{part}.kind'])
  if 'objective.name' not in named:
    for choice, arguments in _CHOICES.items():
      if f'objective.kw.{choice}' in named:
        for argument in set(arguments) & set(config.objective.kw):
          del config.objective.kw[argument]
  if 'total_epochs' in given and 'total_steps' not in given:
    config.total_steps = None  # It would be the length, whatever the epochs.
  values = {}
  for name, text in given.items():
    values |= _set(config, base, name, text)
  for name in named:
    if name.rpartition('.')[2] == 'norm':
      _check_radius(config, name, before[name], given)
  _check_inner(config, named, given)
  if needed:
    raise ConfigError(needed[0])
  _check_values(config)
  return values, _remark(before, config, given, named)


def _flat(config, base, given):
  """The texts, with dictionaries of fixed fields taken apart."""
  flat = {}
  for name, text in given.items():
    fixed = isinstance(_look(config, name), ConfigDict) and not _is_open(name)
    fields = _dictionary(name, text) if fixed and text else {}
    if fields:
      for field, value in fields.items():
        flat |= _flat(config, base, {f'{name}.{field}': value})
    else:
      flat[name] = text
  return flat


def _is_open(name):
  """Whether a dictionary replaces what is in this group."""
  return (
    name in _NAMED
    or name.rpartition('.')[0] in _NAMED
    or name.split('.')[0] in ('study', 'pool', 'transfer')
  )


def _look(config, name):
  """A field by its dotted name; None where it is not there."""
  for part in name.split('.'):
    if not isinstance(config, ConfigDict) or part not in config:
      return None
    config = config[part]
  return config


def _changed_names(config, given):
  """Names of parts that are given and are others than the config's."""
  names = {
    'model.name', 'objective.name', 'optim.name', 'optim.schedule',
    'data.noise.kind', 'data.abnormal.kind', 'data.groups.kind',
    *(f'objective.kw.{choice}' for choice in _CHOICES),
  }  # fmt: skip
  return [
    name
    for name, text in given.items()
    if (name in names or name.endswith('.norm'))
    and _look(config, name) not in (None, text)
  ]


# --- What a name implies -----------------------------------------------------


def _names_data(config, given):
  """Whether another set of images is named than the recipe's."""
  name = given.get('data.name')
  if name is not None and name != config.data.name:
    return True
  if name in OWN_FILES and _given(given, 'data.kw'):
    return True
  data_set = given.get('data.kw.data_set')
  return data_set is not None and data_set != config.data.kw.get('data_set')


def _given(given, group):
  """Whether a group or one of its fields is given."""
  return any(name == group or name.startswith(f'{group}.') for name in given)


def _forget_data(config, base, given, fit):
  """Undoes what belongs to the recipe's images; returns what must be given.

  Random images stand for the recipe's own and keep their augmentation.
  """
  data = config.data
  name = given.get('data.name', data.name)
  needed = []
  own_facts = name not in ('digits', 'fashion_mnist', 'tfds')
  data.kw = base.data.kw
  for field in ('classes', 'imbalance', 'inferred_groups'):
    data[field] = base.data[field]
  if data.concepts not in ('class', 'group'):
    data.concepts = 'class'
  if data.coarse and not _given(given, 'data.coarse'):
    asked = data.coarse == 'source' or data.groups.kind == 'fine'
    if own_facts and asked:
      needed.append(
        f'data.coarse: this recipe learns from coarse labels, and those of'
        f' data.name={name} are not known; say which classes become one, as in'
        " --config.data.coarse='a=0-4 b=5-9', or --config.data.coarse= to learn"
        ' from the classes as they are'
      )
    data.coarse = '' if own_facts else 'source'
  known = _given(given, 'data.groups') or given.get('data.kw.attribute_key')
  if data.groups.kind == 'attribute' and not known:
    if data.concepts == 'group':
      needed.append(
        'data.groups.kind: this recipe needs groups, and those of'
        f' data.name={name} are not known; plant some by'
        ' --config.data.groups.kind=patch, or name an attribute by'
        ' --config.data.kw.attribute_key'
      )
    data.groups.kind = 'none'
  data.groups.num_attributes = base.data.groups.num_attributes
  if data.noise.mapping and not _given(given, 'data.noise.mapping'):
    needed.append(
      f'data.noise.mapping: which class of data.name={name} becomes which? As'
      " in --config.data.noise.mapping='9>1 3<>5', or take another"
      ' --config.data.noise.kind'
    )
  data.noise.mapping = base.data.noise.mapping
  data.noise.confusion = base.data.noise.confusion
  for field in ('noise_rate', 'forget_rate'):
    share = config.objective.kw.get(field)
    by_classes = data.noise.kind in ('asymmetric', 'symmetric_inclusive')
    if share and by_classes and not _given(given, f'objective.kw.{field}'):
      needed.append(
        f'objective.kw.{field}={share:g} is the share of wrong labels for the'
        f" classes of the recipe's own data; give that for data.name={name}"
      )
  for field in ('class_alpha', 'cost_matrix'):
    if field in config.objective.kw:
      config.objective.kw[field] = None
  if name != 'mock':
    data.augment.crop = base.data.augment.crop
    data.augment.flip = base.data.augment.flip
    if data.augment.resized_crop:
      data.augment.resized_crop = -1  # The side of these images.
  if config.transfer:
    config.transfer = {'all_classes': {'classes': ''}}
  config.model.kw.mean = base.model.kw.mean
  config.model.kw.std = base.model.kw.std
  small = name in ('digits', 'fashion_mnist', 'mock')
  chosen = small or _given(given, 'model')
  if fit and config.model.name == 'mlp' and not chosen:
    config.model.name = 'cnn'
    _forget_model(config, base, {'model.name': 'cnn'})
  _leave_out_evaluators(config, given)
  return needed


def _leave_out_evaluators(config, given):
  """Takes out evaluators for want of coarse labels or groups."""
  coarse = given.get('data.coarse', config.data.coarse)
  groups = given.get('data.groups.kind', config.data.groups.kind)
  if groups == 'none' and given.get('data.kw.attribute_key'):
    config.data.groups.kind = groups = 'attribute'
  lacking = () if coarse else ('coarse_to_fine',)
  if groups == 'none':
    lacking += ('groups', 'last_layer')
  for name in lacking:
    for asked in (config.evals, config.interim_evals):
      if name in asked and not _given(given, f'evals.{name}'):
        del asked[name]


def _forget_model(config, base, given):
  """Keeps of a network's arguments those that the next one has as well.

  These are what every network has, and the method's own: heads, decoder,
  second encoder, a second set of BatchNorms where there are any.
  """
  kept = {'embedding_dim', 'predictor', 'mean', 'std', 'dtype'}
  kept |= set(_composition.FIELDS)
  if (
    'dual_norm'
    in inspect.signature(models.get(given['model.name']).Model).parameters
  ):
    kept.add('dual_norm')
  for field in list(config.model.kw):
    if field in kept:
      continue
    if field in base.model.kw:
      config.model.kw[field] = None
    else:
      del config.model.kw[field]


def _forget_kind(data, base, part, kind):
  """Keeps what every kind of noise, strange images or groups has."""
  kept = () if kind == 'none' else ('rate', 'seed', 'exact', 'strength',
                                    'test_strength')  # fmt: skip
  for field in data[part]:
    if field not in kept:
      data[part][field] = base[part][field]


def _check_radius(config, name, former, given):
  """A radius is one of its norm: the norm alone cannot be exchanged."""
  group = name.rpartition('.')[0]
  arguments = _look(config, group)
  if 'epsilon' in arguments and not _given(given, f'{group}.epsilon'):
    raise ConfigError(
      f'{name}={arguments.norm}: {group}.epsilon={arguments.epsilon:g} is a'
      f' radius of {former}; give --config.{group}.epsilon too'
    )
  for field, default in (
    ('inner_step_size', None),
    ('step_size', None),
    ('epsilons', ()),
  ):
    if arguments.get(field) and not _given(given, f'{group}.{field}'):
      arguments[field] = default


def _check_inner(config, named, given):
  """With one step the adversary of the whole batch is that of each image."""
  if 'objective.kw.inner' in named and 'objective.name' not in named:
    steps = config.objective.kw.get('inner_steps', 1)
    if config.objective.kw.inner == 'sinkhorn' and steps < 2:
      raise ConfigError(
        'objective.kw.inner=sinkhorn: with one step it is wrm; give'
        ' --config.objective.kw.inner_steps of at least 2'
      )


class _Remark(NamedTuple):
  """What follows from the names that are given: lists of ``field=value``."""

  named: str
  forgotten: list[str]
  now: list[str]
  kept: list[str]


def _remark(before, config, given, named):
  """What the names have changed besides, and what of the recipe is kept."""
  after = workdir.flatten(workdir.plain(config))
  set_here = lambda name: any(g == name or _inside(name, g) for g in given)
  forgotten, now = [], []
  for name in dict.fromkeys([*before, *after]):
    old, new = before.get(name), after.get(name)
    if old == new or set_here(name):
      continue
    if old not in (None, ''):
      forgotten.append(f'{name}={_short(old)}')
    if new is not None:
      now.append(f'{name}={_short(new)}')
  parts = [name for name in given if name in _PARTS and name in named]
  if not parts and not forgotten and not now:
    return None
  named = [n for n in given if n in named or n in ('data.name', 'total_epochs')]
  kept = [
    f'{name}={_short(value)}'
    for name, value in after.items()
    if value is not None and _is_tuned(name) and not set_here(name)
  ]
  kept = [field for field in kept if field not in now]
  what = ', '.join(f'{name}={given[name]}' for name in named)
  return _Remark(what, forgotten, now, kept)


def _lines(remark):
  """A remark as lines of at most 80 columns, where words allow."""
  lines = [f'{remark.named}:']
  for word in ('forgotten', 'now', 'kept'):
    fields = getattr(remark, word)
    if fields:
      lines += textwrap.wrap(
        f'{word}: {", ".join(fields)}',
        width=80,
        initial_indent='  ',
        subsequent_indent='    ',
        break_long_words=False,
        break_on_hyphens=False,
      )
  return lines


def _of_members(remarks):
  """One remark for all members: what holds for some names them."""
  whole = [remark for remark in remarks.values() if remark is not None]
  if not whole:
    return []

  def gathered(word):
    whose: dict[str, list[str]] = {}
    for who, remark in remarks.items():
      for field in getattr(remark, word) if remark else ():
        whose.setdefault(field, []).append(who)
    return [
      field if len(names) == len(remarks) else f'{field} ({" ".join(names)})'
      for field, names in whose.items()
    ]

  everyone = [
    field for field in whole[0].kept if all(field in r.kept for r in whole)
  ]
  return _lines(
    _Remark(whole[0].named, gathered('forgotten'), gathered('now'), everyone)
  )


def _is_tuned(name):
  """Whether a setting of a recipe was chosen for its own parts."""
  return name in (
    'total_steps', 'total_epochs', 'batch_size', 'model.name', 'optim.lr',
    'optim.weight_decay',
    'objective.kw.gamma', 'objective.kw.epsilon', 'objective.kw.alpha',
    'objective.kw.strength',
  ) or name.endswith('.epsilon')  # fmt: skip


def _short(value):
  if isinstance(value, float):
    return f'{value:g}'
  text = repr(value)
  return text if len(text) <= 40 else text[:37] + '...'


# --- Studies and pools -------------------------------------------------------


def _check_decided(part, kind, shared):
  """Raises for a field that the members are not free to have."""
  decided = {}
  if kind == 'pool':
    decided = dict.fromkeys(_OF_POOL, 'is not asked of a pool, see pool.evals')
  else:
    decided = dict.fromkeys(
      _OF_STUDY, 'is decided by study.seeds and study.validation'
    )
    for grid in part.grids.values():
      for fields, _ in grid:
        for field in (fields,) if isinstance(fields, str) else fields:
          decided[field] = 'is tuned by study.grids'
    for condition, changes in part.get('conditions', {}).items():
      for fields in changes.values():
        for field, _ in fields:
          decided[field] = f'is set by study.conditions.{condition}'
  for name in shared:
    for field, why in decided.items():
      if name == field or _inside(name, field) or _inside(field, name):
        raise ConfigError(f'{name}: {field} {why}')
  data = [name for name in shared if name in ('data.name', 'data.kw.data_set')]
  for field, why in decided.items():
    if data and field in ('data.noise.mapping', 'data.imbalance'):
      raise ConfigError(
        f'{data[0]}: {field} {why}, for the classes of its own data; write a'
        ' config for yours'
      )


def _inside(name, group):
  return name.startswith(f'{group}.')


def _check_of_features(given):
  """Raises for a field that has no effect on the score of a file."""
  for name in given:
    if not any(name == f or _inside(name, f) for f in _OF_FEATURES):
      raise ConfigError(
        f'{name}: with --config.features nothing is trained; only'
        ' evals.indicators applies'
      )


def _recipe(member):
  return {
    name: value
    for name, value in workdir.flatten(workdir.plain(member)).items()
    if name.rpartition('.')[2] not in ('seed', 'log_steps', 'ckpt_steps')
  }


def _now_alike(members, before):
  """Names the models that were unlike and have become alike."""
  lines, seen = [], {}
  for name, member in members.items():
    recipe = _recipe(member)
    for other, there in seen.items():
      if recipe == there and before[name] != before[other]:
        lines.append(f'{name} and {other} are now the same recipe')
        break
    seen[name] = recipe
  return lines


# --- One field ---------------------------------------------------------------


def _set(config, base, name, text):
  """Sets one field from its text; returns its plain value by name."""
  *parents, last = name.split('.')
  at, path = config, ''
  for part in parents:
    inner = f'{path}.{part}'.strip('.')
    if part not in at and (path in _NAMED or path.split('.')[0] == 'transfer'):
      at[part] = ConfigDict()
    if part not in at or not isinstance(at[part], ConfigDict):
      raise _unknown(name, at, path, part)
    at, path = at[part], inner
  if isinstance(at.get(last), ConfigDict) or path in _NAMED:
    fields = text and _dictionary(name, text)
    if not fields and not (text and path in _NAMED):
      return _take_out(config, name)
    at[last] = _replaced(name, fields)
    return {name: workdir.plain(at[last])}
  if path.split('.')[0] == 'transfer':
    value = _of_task(base, path, last, name, text)
    with at.ignore_type():
      at[last] = value
    return {name: value}
  if last in at:
    kind = at.get_type(last)
    default = at[last]
    if kind is type(None):
      kind = _type_in(base, path, last)
    optional = default is None or (
      path in _ARGUMENTS or path.split('.')[0] in ('evals', 'pool')
    )
  elif path in _ARGUMENTS or path.rpartition('.')[0] in _NAMED:
    kind, optional = None, True
  else:
    raise _unknown(name, at, path, last)
  if kind is None:
    value = _literal(text, _default_of(config, path, last))
  else:
    value = _typed(name, text, kind, optional)
  with at.ignore_type():
    at[last] = value
  return {name: list(value) if isinstance(value, tuple) else value}


def _unknown(name, at, path, last):
  where = f'config.{path}'.rstrip('.')
  there = ', '.join(sorted(at)) or 'nothing inside'
  return ConfigError(
    f'--config.{name}: {where} has no field {last!r}; it has {there}'
  )


def _take_out(config, name):
  """Empties a group, or takes a named thing out of its group."""
  group, _, last = name.rpartition('.')
  at = _look(config, group) if group else config
  if last not in at:
    raise _unknown(name, at, group, last)
  if group in (*_NAMED, 'pool.models', 'study.methods'):
    del at[last]
  elif name in _ARGUMENTS:
    for field in list(at[last]):
      if at[last].get_type(field) is type(None):
        del at[last][field]
      else:
        with at[last].ignore_type():
          at[last][field] = None
  elif name in _NAMED or name.split('.')[0] in ('study', 'pool', 'transfer'):
    at[last] = ConfigDict()
  else:
    raise ConfigError(
      f'--config.{name}= is empty; it is a group of fields:'
      f' {", ".join(at[last])}'
    )
  return {name: ''}


def _replaced(name, fields):
  """The named things that a dictionary stands for."""
  if name in _NAMED:
    for key, value in fields.items():
      if not isinstance(value, dict):
        raise ConfigError(
          f'{name}.{key}={value!r}: a dictionary of its arguments, {{}} for'
          ' none'
        )
  return ConfigDict(fields)


def _of_task(base, path, field, name, text):
  """A field of a target task, which has the type that ``data`` has for it."""
  group = '.'.join(['data', *path.split('.')[2:]])
  kind = _type_in(base, group, field)
  if kind is None:
    known = _look(base, group)
    raise ConfigError(
      f'--config.{name}: a task has no field {field!r}; it has'
      f' {", ".join(known) if known else "nothing inside"}'
    )
  if kind is ConfigDict:
    return ConfigDict(_dictionary(name, text) if text else {})
  return _typed(name, text, kind, kind is not str)


def _type_in(base, path, field):
  """The type of a field of `base`; None for one that is not there."""
  group = _look(base, path) if path else base
  if not isinstance(group, ConfigDict) or field not in group:
    return None
  kind = group.get_type(field)
  return None if kind is type(None) else kind


def _default_of(config, path, field):
  """The default of an argument that a config leaves out; None for unknown."""
  group, _, last = path.rpartition('.')
  function: Callable | None = None
  if group in _NAMED and last in evals.names():
    function = evals.get(last).evaluate
  elif path == 'model.kw' and config.model.name in models.names():
    function = models.get(config.model.name).Model
  elif path == 'objective.kw' and config.objective.name in objectives.names():
    function = importlib.import_module(
      f'rrl_jax.objectives.{config.objective.name}'
    ).make
  elif path == 'optim.kw':
    function = getattr(optax, config.optim.name, None)
  if function is None:
    return None
  parameter = inspect.signature(function).parameters.get(field)
  if parameter is None or parameter.default is parameter.empty:
    return None
  if parameter.default is None and 'float' in str(parameter.annotation):
    return 0.0
  return parameter.default


def _literal(text, default):
  """A value as Python would read it, with the type of the default."""
  if not isinstance(text, str):
    value = text
  elif isinstance(default, str):
    return text
  elif text.lower() in ('true', 'false', 'none'):
    value = ast.literal_eval(text.capitalize())
  else:
    value = _evaluated(text)
  if isinstance(default, float) and type(value) is int:
    value = float(value)
  return tuple(value) if isinstance(value, list) else value


def _evaluated(text):
  """A number, a fraction, a tuple; the text itself where it is none."""
  fraction = re.fullmatch(r'\s*([\d.]+)\s*/\s*([\d.]+)\s*', text)
  try:
    if fraction:
      return float(fraction[1]) / float(fraction[2])
    return ast.literal_eval(text)
  except (SyntaxError, ValueError, ZeroDivisionError, MemoryError):
    return text


def _typed(name, text, kind, optional):
  """The text as a value of a field's type."""
  if optional and text in (None, '', 'None', 'none'):
    return None
  say = f'--config.{name}={text}'
  if kind is str:
    if not isinstance(text, str):
      raise ConfigError(f'{say} is no text')
    return text
  value = _evaluated(text) if isinstance(text, str) else text
  if kind is bool:
    words = {'true': True, 'false': False, '1': True, '0': False}
    value = words.get(str(value).lower())
    if value is None:
      raise ConfigError(f'{say} is neither true nor false')
  elif kind is int:
    if type(value) is not int:
      raise ConfigError(f'{say} is no whole number')
  elif kind is float:
    try:
      value = float(value)
    except (TypeError, ValueError):
      raise ConfigError(f'{say} is no number') from None
  elif kind is tuple:
    if isinstance(value, str):
      value = tuple(part for part in value.split(',') if part)
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
  elif not isinstance(value, kind):
    raise ConfigError(f'{say} is no {kind.__name__}')
  return value


def _dictionary(name, text):
  """A dictionary as Python writes it, with texts as keys."""
  value = text
  if isinstance(text, str):
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError):
      value = None
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if not isinstance(value, dict):
    raise ConfigError(
      f'--config.{name}={text}: a dictionary is wanted, such as'
      " \"{'name': {'field': 1}}\" or {}, or single fields by"
      f' --config.{name}.FIELD=VALUE'
    )
  _check_keys(name, value)
  return value


def _check_keys(name, value):
  for key, inner in value.items():
    if not isinstance(key, str) or not key or '.' in key:
      raise ConfigError(f'--config.{name}: {key!r} is no name of a field')
    if isinstance(inner, dict):
      _check_keys(f'{name}.{key}', inner)


def _check_values(config):
  """Every named thing has a dictionary of arguments."""
  for group in _NAMED:
    things = _look(config, group)
    for name, value in (things or {}).items():
      if not isinstance(value, ConfigDict):
        raise ConfigError(
          f'{group}.{name}={value!r}: a dictionary of its arguments, {{}} for'
          ' none'
        )


def _check_order(given):
  """Raises where a group is given after one of its fields."""
  seen = []
  for name in given:
    for former in seen:
      if _inside(former, name):
        raise ConfigError(
          f'--config.{name} comes after --config.{former} and would undo it;'
          ' give the whole first'
        )
    seen.append(name)
