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

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs import common  # noqa: E402
from rrl_jax import attacks, data, evals, models, objectives  # noqa: E402
from rrl_jax.train import optim  # noqa: E402

PAGE = ROOT / 'docs' / 'settings.md'
# By the trainer or the caller, not a config.
GIVEN = ('apply_fn', 'data', 'encoder', 'key', 'loss_fn', 'logits_fn', 'inputs')
OPENING = """# Settings

Made by `python docs/make_settings.py` from signatures and docstrings. A setting
is changed by `--config.<field>=<value>`. An unknown name, a wrong type or a
value out of range is one line and exit code 2, before any work. An empty
default means that the setting is off or follows from others.
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
    _table(('field', 'default', 'meaning'), _fields()),
    _optimizers(),
  ]
  parts += _modules('Objectives', 'objective.kw', objectives, _objective)
  parts += _modules('Evaluators', 'evals.{}', evals, _evaluator)
  parts += _modules('Networks', 'model.kw', models, _network)
  parts += _modules('Data sources', 'data.kw', data, _source)
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
  above = ''
  for line in source.splitlines():
    text, _, comment = line.strip().partition('  # ')
    if text.startswith('# '):
      above = text[2:]
      continue
    found = re.fullmatch(r'config\.([\w.]+) = (.*)', text)
    if not found or found[2].startswith(('ConfigDict', '_source_kw')):
      above = ''
      continue
    default = _default(_at(common.base(), found[1]))
    yield f'`{found[1]}`', default, ' '.join(filter(None, (above, comment)))
    above = ''


def _at(config, dotted):
  for name in dotted.split('.'):
    config = config[name]
  return config


def _optimizers():
  """Names of optimizers and schedules."""
  names = lambda values: ', '.join(f'`{value}`' for value in values)
  return (
    '## Optimizers and schedules\n\n'
    f'`optim.name`: {names(optim.OPTIMIZERS)}, each with the arguments of'
    ' `optax` in `optim.kw`.\n\n'
    f'`optim.schedule`: {names(optim.SCHEDULES)}.'
  )


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


def _network(module):
  """Attributes of the network's class and of those that it extends."""
  model = module.Model
  texts = {}
  for kind in reversed(model.__mro__):
    if kind.__module__.startswith('rrl_jax'):
      texts |= _described(kind.__doc__, 'Attributes')
  for name, text in texts.items():
    if name in model.__dataclass_fields__ and name != 'num_classes':
      yield f'`{name}`', _default(getattr(model, name, None)), text


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
        entries[name] = ' '.join(meaning.split())
  return entries


def _first_sentence(thing):
  text = inspect.cleandoc(thing.__doc__).split('\n\n')[0]
  return ' '.join(text.split())


def _default(value) -> str:
  """A default as one would type it; nothing for None."""
  if value is None or value == '':
    return ''
  if isinstance(value, float):
    return f'{value:.6g}'
  return f'{value}'


def _table(head, rows) -> str:
  cell = lambda text: text.replace('|', r'\|').replace('``', '`')
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(map(cell, line))} |' for line in lines)


if __name__ == '__main__':
  PAGE.write_text(page())
