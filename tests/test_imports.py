"""Rooms import one way only, and the light ones stay light."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'rrl_jax'

# Each room and the rooms that it may import besides itself.
LOWEST = {'typing', 'numerics', 'errors', 'target'}
ROOMS = LOWEST | {
  'losses',
  'attacks',
  'indicators',
  'corruptions',
  'models',
  'data',
}
MAY_IMPORT = {
  'typing': set(),
  'numerics': set(),
  'errors': set(),
  'target': set(),
  'losses': LOWEST,
  'attacks': LOWEST,
  'indicators': LOWEST,
  'corruptions': LOWEST,
  'models': LOWEST,
  'data': LOWEST,
  'objectives': LOWEST | {'losses', 'attacks'},
  'evals': ROOMS - {'models'},
  'train': ROOMS | {'objectives', 'evals'},
  'report': ROOMS | {'objectives', 'evals', 'train'},
  'studies': ROOMS | {'objectives', 'evals', 'train', 'report'},
}
HEAVY = {
  'flax',
  'grain',
  'matplotlib',
  'ml_collections',
  'orbax',
  'ott',
  'sklearn',
  'tensorflow',
  'tensorflow_datasets',
}


def files():
  return sorted(p for p in PACKAGE.rglob('*.py') if p.parent != PACKAGE)


def room(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0]


def imported_rooms(path: pathlib.Path) -> set[str]:
  """Rooms that a file imports, at its top or inside a function."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    for name in names:
      parts = name.split('.')
      if parts[0] == 'rrl_jax' and len(parts) > 1 and parts[1] in MAY_IMPORT:
        found.add(parts[1])
  return found


def imported_packages(path: pathlib.Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name.split('.')[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found.add(node.module.split('.')[0])
  return found


@pytest.mark.parametrize('path', files(), ids=lambda p: p.stem)
def test_a_room_imports_only_rooms_below_it(path):
  allowed = MAY_IMPORT[room(path)] | {room(path)}
  assert imported_rooms(path) <= allowed


@pytest.mark.fast
def test_only_models_know_linen():
  users = {
    room(path)
    for path in files()
    if 'flax.linen' in path.read_text() or 'import linen' in path.read_text()
  }
  assert users == {'models'}


@pytest.mark.fast
def test_configs_import_nothing_of_the_package():
  for path in (PACKAGE.parent / 'configs').rglob('*.py'):
    assert 'rrl_jax' not in imported_packages(path), path


@pytest.mark.fast
def test_nothing_is_called_utils():
  assert not [
    p for p in PACKAGE.parent.rglob('*util*.py') if '.venv' not in p.parts
  ]


@pytest.mark.parametrize('name', ['losses', 'attacks'])
def test_losses_and_attacks_import_nothing_heavy(name):
  code = f'import rrl_jax.{name}, sys; print(*sys.modules)'
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout
  assert not {module.split('.')[0] for module in out.split()} & HEAVY
