"""Writes docs/settings.md from signatures, docstrings and the base config.

  python docs/make_settings.py

Every setting stands where it is used: a field in `configs/common.py`, an
argument of an objective, an evaluator or a data source, an attribute of a
network. The page is committed; a test fails when it is not what this writes.
"""

import importlib
import inspect
import pathlib
import re
import sys

from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs import common  # noqa: E402
from rrl_jax import attacks, data, evals, models, objectives  # noqa: E402
from rrl_jax.data import abnormal, groups, noise, pipeline  # noqa: E402
from rrl_jax.models import _composition, _layers  # noqa: E402
from rrl_jax.studies import pool, study  # noqa: E402
from rrl_jax.train import optim  # noqa: E402

PAGE = ROOT / 'docs' / 'settings.md'
# By the trainer or the caller, not a config.
GIVEN = ('apply_fn', 'data', 'encoder', 'key', 'loss_fn', 'logits_fn', 'inputs')
# What the checks before a run allow, by fields; a test tries a value outside.
MUST_BE = {
  'job': 'one of train, evaluate, study, pool',
  'seed data.seed data.split_seed': 'in [0, 2^32)',
  'data.noise.seed data.abnormal.seed data.groups.seed': 'at least 0',
  'batch_size log_steps ckpt_steps keep_last eval_batch_size micro_batches'
  ' data.device_bytes data.num_threads': 'at least 1',
  'total_epochs': 'in (0, 1e9)',
  'total_steps': 'empty or in (0, 1e9)',
  'interim_steps mesh.fsdp data.augment.crop'
  ' data.augment.decay_stages data.augment.views': 'at least 0',
  'tracker': 'one of none, wandb',
  'data.name': f'one of {", ".join(data.names())}',
  'data.sampling': f'one of {", ".join(pipeline.SAMPLING)}',
  'data.noise.kind': f'one of {", ".join(noise.KINDS)}',
  'data.abnormal.kind': f'one of {", ".join(abnormal.KINDS)}',
  'data.groups.kind': f'one of {", ".join(groups.KINDS)}',
  'data.validation optim.momentum optim.warmup optim.ema_decay': 'in [0, 1)',
  'data.noise.rate data.abnormal.rate data.groups.strength': 'in [0, 1]',
  'data.groups.test_strength': 'empty or in [0, 1]',
  'data.groups.num_attributes': 'empty or at least 2',
  'data.augment.resized_crop': 'at least -1',
  'data.augment.scale': '0 < least <= greatest <= 1',
  'data.augment.ratio': '0 < least <= greatest',
  'data.augment.jitter': 'in [0, 1.25]',
  'data.augment.jitter_probability data.augment.grayscale data.augment.blur'
  ' data.augment.solarize data.augment.final_strength': 'in [0, 1]',
  'model.name': f'one of {", ".join(models.names())}',
  'objective.name': f'one of {", ".join(objectives.names())}',
  'optim.name': f'one of {", ".join(optim.OPTIMIZERS)}',
  'optim.schedule': f'one of {", ".join(optim.SCHEDULES)}',
  'optim.lr': 'positive',
  'optim.boundaries': 'each in (0, 1)',
  'optim.weight_decay optim.grad_clip_norm': 'at least 0',
  'mesh.data': '-1 or at most the number of devices',
}
STUDY = {
  'methods': 'Name of a method -> its config.',
  'order': 'Names of the methods, as the table has them.',
  'grids': 'Method -> fields and the values to try, equally many each.',
  'conditions': 'Name -> fields to change, of all methods or of one; the whole'
  ' study is done under each.',
  'tuning_seeds': 'Of the runs that choose settings.',
  'tuning_evals': 'Evaluators of these runs.',
  'tuning_transfer': 'Target tasks of these runs, none by default.',
  'validation': 'Fraction of the training split that these runs are judged on.',
  'select': 'The measurement whose mean over the tuning seeds chooses.',
  'seeds': 'Of the runs in the table.',
  'baseline': 'The method with which the others are compared.',
  'metrics': 'Measurements in the table.',
  'inferred_groups': 'Method -> the earlier method that finds its groups.',
  'same_order': 'The condition whose order of methods is compared.',
  'cross_attack': 'How linear probes are attacked once more.',
}
POOL = {
  'train_only': 'Whether to stop when all models are trained.',
  'models': 'Name of a model -> its config.',
  'folders': 'Of runs elsewhere: checkpoints that join the pool.',
  'features': 'npz files of other encoders that join the pool.',
  'evals': 'Evaluator -> its arguments, for every model.',
  'targets': 'Measurements that the indicators are to tell.',
  'control': 'The measurement that is known anyway and held fixed.',
  'combination': 'Indicators that are fitted together.',
  'resamples': 'Of the bootstrap over models, at least 0.',
  'seed': 'Of resamples and permutations, at least 0.',
}
OPENING = """# Settings

Made by `python docs/make_settings.py` from signatures and docstrings. A field
is set by `--config.<field>=<value>`, and so is what a config leaves out:
another evaluator (`--config.evals.calibration.num_bins=10`), another argument
of a network or an optimizer (`model.kw.width`, `optim.kw.b1`). Any config takes
images of your own behind its colon: `npz=FILE`, `folder=DIR` or `idx=DIR`. An
unknown name, a wrong type or a value out of range is one line and exit code 2,
before any work. An empty default means that the setting is off or follows from
others.
[methods.md](methods.md) says how the settings of a method work together."""


def page() -> str:
  """The whole page as Markdown."""
  parts = [
    OPENING,
    '## Configs\n\nWhat may stand behind the colon of `--config=configs/'
    'NAME.py:A,B`: one value of each row, a word for a switch, `name=value` for'
    ' a number. The first value is the default.',
    _table(('config', 'argument', 'values'), _arguments()),
    '## Fields of every config',
    _table(('field', 'default', 'must be', 'meaning'), _fields()),
    '## Optimizers\n\n`optim.kw` are the arguments that `optax` has for the'
    ' optimizer `optim.name`, except for the learning rate.',
  ]
  parts += _modules('Objectives', 'objective.kw', objectives, _objective)
  parts += _modules('Evaluators', 'evals.{}', evals, _evaluator)
  heading, *networks = _modules('Networks', 'model.kw', models, _network)
  every = _table(('`model.kw.`', 'default', 'meaning'), _every_network())
  parts += [heading, '### every network', every, *networks]
  parts += _modules('Data sources', 'data.kw', data, _source)
  parts += _studies()
  parts.append('## Attacks\n\nArguments of the functions of `rrl_jax.attacks`.')
  parts += _attacks()
  return '\n\n'.join(parts) + '\n'


def _arguments():
  """Name, argument and values of everything that a config declares."""
  for folder in ('configs', 'configs/studies'):
    for path in sorted((ROOT / folder).glob('*.py')):
      if path.stem in ('__init__', 'common'):
        continue
      where = f'{folder}/{path.stem}'.replace('/', '.')
      for name, default in _declared(importlib.import_module(where)).items():
        if isinstance(default, common.Choice):
          values = ', '.join(f'`{option}`' for option in default.options)
        elif default is False:
          values = f'`{name}` switches it on'
        else:
          values = f'`{name}={default}`'
        yield f'`{path.relative_to(ROOT)}`', name, values


def _declared(module):
  """The arguments that a config leaves open, with their defaults."""
  seen = []
  original = common.parse_arg

  def parse_arg(arg, **defaults):
    given = set((arg or '').split(','))  # By a config made from another one.
    fixed = lambda d: isinstance(d, common.Choice) and given & {*d.options}
    seen.append({k: d for k, d in defaults.items() if not fixed(d)})
    return original(arg, **defaults)

  common.parse_arg = parse_arg
  try:
    module.get_config()
  finally:
    common.parse_arg = original
  return seen[0]


def _fields():
  """Every field of `common.base` with the comments behind and above it."""
  source = inspect.getsource(common.base)
  must_be = {
    field: words for key, words in MUST_BE.items() for field in key.split()
  }
  above = ''
  for line in source.splitlines():
    text, _, comment = line.strip().partition('  # ')
    if text.startswith('# '):
      above = text[2:]
      continue
    found = re.fullmatch(r'config\.([\w.]+) = .*', text)
    meaning = ' '.join(filter(None, (above, comment)))
    above = ''
    if found and meaning:
      value = _at(common.base(), found[1])
      default = '' if isinstance(value, ConfigDict) else _default(value)
      yield f'`{found[1]}`', default, must_be.get(found[1], ''), meaning


def _at(config, dotted):
  for name in dotted.split('.'):
    config = config[name]
  return config


def _modules(title, prefix, package, rows_of):
  """A heading, then a table per module that has settings."""
  parts = [f'## {title}']
  for name in package.names():
    module = importlib.import_module(f'{package.__name__}.{name}')
    parts.append(f'### {name}\n\n{_first_sentence(module)}')
    rows = list(rows_of(module))
    if rows:
      head = f'`{prefix.format(name)}.`'
      with_range = len(rows[0]) == 4
      titles = (head, 'default', *(['must be'] if with_range else []))
      parts.append(_table((*titles, 'meaning'), rows))
  return parts


def _studies():
  """What studies and pools do, and the fields that they have."""
  yield '## Studies and pools'
  for name, module, texts in (('study', study, STUDY), ('pool', pool, POOL)):
    text = inspect.cleandoc(module.run.__doc__).partition('\n\nArgs:')[0]
    yield f'### {name}'
    yield from map(_markdown, text.split('\n\n'))
    rows = [(f'`{field}`', meaning) for field, meaning in texts.items()]
    yield _table((f'`{name}.`', 'meaning'), rows)


def _attacks():
  """A heading and a table per attack."""
  for name in sorted(attacks.__all__):
    function = getattr(attacks, name)
    if (
      inspect.isfunction(function)
      and 'bounds' in inspect.signature(function).parameters
    ):
      table = _table(('argument', 'default', 'meaning'), _parameters(function))
      yield f'### {name}\n\n{_first_sentence(function)}\n\n{table}'


def _objective(module):
  return _parameters(module.make)


def _source(module):
  return _parameters(module.load)


def _evaluator(module):
  rules = getattr(module, 'RULES', {})
  for name, default, meaning in _parameters(module.evaluate):
    words = rules.get(name.strip('`'), (None, ''))[1]
    yield name, default, words, meaning


def _every_network():
  """Attributes of every network, and of what can stand beside it."""
  for kind in (_layers.Network, _composition.Composition):
    for name, text in _described(kind.__doc__, 'Attributes').items():
      if name != 'num_classes':  # By the data.
        yield f'`{name}`', _default(getattr(kind, name)), text


def _network(module):
  """Attributes of the network's class that not every network has."""
  model = module.Model
  texts = {}
  for kind in reversed(model.__mro__):
    if issubclass(kind, _layers.Network) and kind is not _layers.Network:
      texts |= _described(kind.__doc__, 'Attributes')
  for name, text in texts.items():
    if name in model.__dataclass_fields__:
      yield f'`{name}`', _default(getattr(model, name)), text


def _parameters(function):
  """Name, default and text of what a config may give to a function."""
  texts = _described(function.__doc__, 'Args')
  for name, parameter in inspect.signature(function).parameters.items():
    if name in GIVEN:
      continue
    required = parameter.default is parameter.empty
    default = 'required' if required else _default(parameter.default)
    yield f'`{name}`', default, texts.get(name, '')


def _described(text, section) -> dict[str, str]:
  """The entries of a section of a docstring, by name."""
  text = inspect.cleandoc(text or '')
  found = re.search(rf'^{section}:\n((?:  .*\n?|\n)*)', text, re.MULTILINE)
  entries = {}
  for entry in re.split(r'^  (?=\S)', found[1] if found else '', flags=re.M):
    names, colon, meaning = entry.partition(':')
    if colon:
      for name in names.replace('*', '').split(', '):
        entries[name] = _markdown(meaning)
  return entries


def _first_sentence(thing):
  return _markdown(inspect.cleandoc(thing.__doc__).split('\n\n')[0])


def _markdown(text) -> str:
  """A paragraph of a docstring on one line of Markdown."""
  text = re.sub(r':math:`([^`]*)`', r'$\1$', ' '.join(text.split()))
  text = text.replace(':class:', '')
  return text.replace('``', '`').replace(r'\|', r'\Vert ')


def _default(value) -> str:
  """A default as one would type it; nothing for None."""
  if value is None or value == '':
    return ''
  if isinstance(value, float):
    return f'{value:.6g}'
  return f'{value}'


def _table(head, rows) -> str:
  cell = lambda text: text.replace('|', r'\|')
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(map(cell, line))} |' for line in lines)


if __name__ == '__main__':
  PAGE.write_text(page())
