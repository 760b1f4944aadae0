"""Every command of the documentation is one that works as it is typed."""

import importlib
import pathlib
import re
import shlex
import signal
import time

import pytest

import launch
from tests.launching import Command
from tests.test_docs import PAGES, ROOT, blocks

PROGRAM = 'python launch.py '
# Not run as they stand, and why.
ELSEWHERE = {
  '--multihost': 'several processes: tests/test_multihost.py',
  '--aot=v5e:16x16': 'compiles for minutes; a smaller topology is compiled',
  '--config.data.name=mock': 'likewise, with --aot',
  '--config.job=evaluate': 'needs a finished run: tests/test_launch.py',
}
# What ends at once for want of data or of a package, with its exit code.
ABSENT = {
  'cifar10': 3,
  'waterbirds': 3,
  'tracker=wandb': 2,
}


def commands() -> list[str]:
  """Each documented call of launch.py once, without the name of the program."""
  found = []
  for page in PAGES:
    for block in blocks(page, 'bash'):
      for line in block.replace('\\\n', ' ').splitlines():
        if PROGRAM in line:
          found.append(' '.join(line.partition(PROGRAM)[2].split()))
  return list(dict.fromkeys(found))


def exception(command, table):
  """The entry of a table whose key stands in the command, or None."""
  return next((table[key] for key in table if key in command), None)


COMMANDS = commands()
RUN = [c for c in COMMANDS if not exception(c, ELSEWHERE)]


@pytest.mark.fast
def test_there_are_commands_of_every_kind():
  for word in ('--help', 'configs/studies/', '--config.data.kw.path', '--aot'):
    assert any(word in command for command in COMMANDS), word


@pytest.mark.fast
@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_names_a_config_and_fields_that_exist(command):
  if command != '--help':
    launch._check_config(['launch.py', *shlex.split(command)])


@pytest.mark.fast
@pytest.mark.parametrize('page', [*PAGES, ROOT / 'benchmarks' / 'README.md'])
def test_scripts_and_benchmarks_that_a_page_names_are_there(page):
  text = page.read_text()
  for module in re.findall(r'python -m ((?:benchmarks|tests)\.\w+)', text):
    assert importlib.util.find_spec(module), module
  for path in re.findall(r'python ((?:docs|tests)/[\w/]+\.py)', text):
    assert (ROOT / path).exists(), path


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A folder with what the blocks of docs/data.md and methods.md write."""
  folder = tmp_path_factory.mktemp('files')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    for name in ('data', 'methods'):
      for block in blocks(ROOT / 'docs' / f'{name}.md', 'python'):
        exec(compile(block, f'{name}.md', 'exec'), {})  # noqa: S102
  return folder


@pytest.mark.full
@pytest.mark.parametrize('command', RUN)
def test_a_command_runs_until_its_first_step(command, files, tmp_path, request):
  if '--aot' in command:
    request.getfixturevalue('libtpu')
  if 'fashion_mnist' in command or 'studies/indicators' in command:
    request.getfixturevalue('debian_fashion_mnist')
  words = [placed(word, files) for word in shlex.split(command)]
  words = [word for word in words if not word.startswith('--workdir')]
  root = tmp_path / 'run'
  started = Command(*words, f'--workdir={root}')
  while not started.ended() and not has_logged(root):
    time.sleep(0.05)
  started.send(signal.SIGTERM)
  done = started.wait()
  expected = exception(command, ABSENT)
  if expected:
    assert done.returncode == expected, done.stderr
    assert len(done.stderr.splitlines()) == 1
  else:
    assert done.returncode in (0, 75), done.stderr


def placed(word, files):
  """A word of a command, its file in the folder of files if there is one."""
  name, equals, value = word.partition('=')
  return (
    f'{name}={files / value}' if value and (files / value).exists() else word
  )


def has_logged(root: pathlib.Path) -> bool:
  """Whether a run in the folder has logged a step."""
  return any(path.stat().st_size for path in root.rglob('metrics.jsonl'))
