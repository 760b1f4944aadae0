"""Every command of the documentation is one that works as it is typed."""

import copy
import importlib
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

from absl import flags
import pytest

import launch
from rrl_jax.train import experiment, overrides
from tests import launching
from tests.launching import Command, environment
from tests.test_docs import PAGES, ROOT, blocks

PROGRAM = 'python launch.py '
# Not run as they stand, and why.
ELSEWHERE = {
  '--multihost': 'several processes: tests/test_multihost.py',
  '--aot': 'compiles a ResNet for minutes: below, with a narrow network',
  '--config.job=evaluate': 'needs a finished run: tests/test_launch.py',
}
# What ends at once for want of data or of a package, with its exit code.
ABSENT = {
  'cifar10': 3,  # Neither prepared nor in reach, see `nothing_in_reach`.
  'waterbirds': 3,  # The folder of the pictures is not there.
}
# Packages that are extras, and what in a command asks for one.
for package, words in {
  'umap': 'thanos.py:fashion_mnist,groups',
  'wandb': 'tracker=wandb',
}.items():
  if not importlib.util.find_spec(package):
    ABSENT[words] = 2
# Lines of a shell that do not call launch.py, by what they begin with, and
# where they are run.
OTHERS = {
  'python -m venv ': '.ci/run',
  'pytest': '.ci/run',
  'coverage run ': 'pytest itself, with what it covered written down',
  'python -m benchmarks.': 'by hand, for minutes; below with less to do',
  'export ': 'below, with the scripts that read the variables',
  'scripts/': 'below, printed and not done',
}
# With what a benchmark is done in seconds.
BENCHMARKS = {
  'auto_attack': '--examples=2 --repeats=1 --channels=2 --batch_size=2',
  'coverage': '--only=partial --draws=20',
  'contrastive': '--num=64 --dim=8 --rounds=1',
  'corruptions': '--images=2 --peer_images=1 --rounds=1 --only=fog',
  'multicut': '--nodes=50 --instances=1 --largest=50 --rows=100',
  'noise_estimate': '--only=digits --steps=2',
  'pgd': '--rounds=1 --only=cnn',
  'scaling': '--virtual --methods=erm',
  'step_cost': '--only=gr --batch_size=2',
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
SCRIPTS = [b for b in blocks(ROOT / 'docs/pods.md', 'bash') if 'export ' in b]
CHECKED = [c for c in COMMANDS if '--config' in c and not exception(c, ABSENT)]
RUN = [c for c in COMMANDS if not exception(c, ELSEWHERE)]


@pytest.mark.fast
def test_there_are_commands_of_every_kind():
  for word in ('--help', 'configs/studies/', '--config.data.kw.path', '--aot'):
    assert any(word in command for command in COMMANDS), word


def config_of(command):
  """The config of a command, read as launch.py reads it."""
  words = [word for word in shlex.split(command) if word != '--help']
  read, rest = launch._read(['launch.py', *words])
  known = flags.FlagValues()
  for flag in flags.FLAGS.flags_by_module_dict()['launch']:
    known[flag.name] = copy.deepcopy(flag)
  left = known(rest)
  assert len(left) == 1, f'{left[1:]} are not understood'
  return overrides.apply(read.config, read.base, read.given).config


@pytest.mark.fast
@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_has_flags_fields_and_values_that_are_known(command):
  if command != '--help':
    config_of(command)


@pytest.mark.parametrize('command', CHECKED)
def test_a_command_passes_the_checks_that_need_no_data(command):
  config = config_of(command)
  if config.job == 'study':
    runs = config.study.methods.values()
  elif config.job == 'pool':
    runs = config.pool.models.values()
  else:
    runs = [config]
  for run in runs:
    experiment.check(run)


@pytest.mark.fast
@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_every_other_line_of_a_shell_is_run_somewhere(page):
  for block in blocks(page, 'bash'):
    for line in block.replace('\\\n', ' ').splitlines():
      kinds = (PROGRAM, *OTHERS)
      assert line.startswith(kinds), f'{line!r}: nothing runs it'


@pytest.mark.fast
@pytest.mark.parametrize('block', SCRIPTS)
def test_commands_for_clusters_print_what_they_would_do(block):
  assert 'scripts/' in block
  printed = re.sub(r'(scripts/\w+\.sh)( --dry-run)?', r'\1 --dry-run', block)
  done = subprocess.run(
    ['bash', '-e', '-c', printed],
    env={'PATH': os.environ['PATH'], 'HOME': '/home/me'},
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout


@pytest.mark.fast
@pytest.mark.parametrize('page', [*PAGES, ROOT / 'benchmarks' / 'README.md'])
def test_scripts_and_benchmarks_that_a_page_names_are_there(page):
  text = page.read_text().replace('\\\n', ' ')
  for module, words in re.findall(r'python -m (benchmarks\.\w+)(.*)', text):
    source = pathlib.Path(importlib.util.find_spec(module).origin).read_text()
    for flag in re.findall(r'--\w+', words):
      assert f"'{flag}'" in source, f'{module} has no {flag}'
  for path in re.findall(r'python ((?:docs|tests)/[\w/]+\.py)', text):
    assert (ROOT / path).exists(), path


@pytest.mark.fast
def test_every_benchmark_is_tried():
  names = {path.stem for path in (ROOT / 'benchmarks').glob('[a-z]*.py')}
  assert names == BENCHMARKS.keys()


@pytest.mark.full
@pytest.mark.parametrize('name', BENCHMARKS)
def test_a_small_benchmark_prints_numbers(name):
  done = python('-m', f'benchmarks.{name}', *BENCHMARKS[name].split())
  assert done.returncode == 0, done.stderr
  assert re.search(r'\d\.\d', done.stdout), done.stdout


def python(*args):
  return subprocess.run(
    [sys.executable, *args],
    env=environment(),
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A folder with what the blocks of docs/data.md write, one by one."""
  folder = tmp_path_factory.mktemp('files')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    for block in blocks(ROOT / 'docs' / 'data.md', 'python'):
      exec(compile(block, 'data.md', 'exec'), {})  # noqa: S102
  return folder


@pytest.mark.fast
def test_examples_write_the_files_that_the_commands_below_them_read(files):
  read = {'images.npz', 'mine.npz', 'mnist', 'pictures'}
  text = ' '.join(COMMANDS)
  for name in read:
    assert f'={name}' in text
  assert {path.name for path in files.iterdir()} == read


@pytest.mark.full
@pytest.mark.parametrize('command', RUN)
def test_a_command_runs_until_its_first_step(command, files, tmp_path, request):
  if 'fashion_mnist' in command or 'studies/indicators' in command:
    request.getfixturevalue('debian_fashion_mnist')
  words = [placed(word, files) for word in shlex.split(command)]
  words = [word for word in words if not word.startswith('--workdir')]
  root = tmp_path / 'run'
  started = Command(*words, f'--workdir={root}', **nothing_in_reach(tmp_path))
  deadline = time.monotonic() + 300
  while not (
    started.ended() or has_logged(root) or time.monotonic() > deadline
  ):
    time.sleep(0.05)
  started.send(signal.SIGTERM)
  done = started.wait()
  expected = exception(command, ABSENT)
  if expected:
    assert done.returncode == expected, done.stderr
    assert len(done.stderr.splitlines()) == 1
  else:
    assert done.returncode in (0, 75), done.stderr
    if done.returncode == 75:
      assert has_logged(root), 'no step in five minutes'


@pytest.mark.full
@pytest.mark.usefixtures('libtpu')
@pytest.mark.parametrize('command', [c for c in COMMANDS if '--aot' in c])
def test_a_command_for_a_pod_compiles_a_narrow_network(command, tmp_path):
  narrow = ('--config.model.name=resnet18', '--config.model.kw.width=8')
  root = f'--workdir={tmp_path / "run"}'
  done = launching.run(*shlex.split(command), *narrow, root)
  assert done.returncode == 0, done.stderr
  assert re.search(r'^bytes/chip: \d', done.stdout, re.MULTILINE), done.stdout


def nothing_in_reach(folder):
  """Variables with which no data set is prepared or can be downloaded."""
  out = {
    f'{scheme}_proxy': 'http://127.0.0.1:9' for scheme in ('http', 'https')
  }
  return out | {
    'no_proxy': '',
    'TFDS_DATA_DIR': str(folder / 'tfds'),
    'WANDB_MODE': 'offline',
  }


def placed(word, files):
  """A word of a command, its file in the folder of files if there is one."""
  name, equals, value = word.rpartition('=')
  return (
    f'{name}={files / value}' if value and (files / value).exists() else word
  )


def has_logged(root: pathlib.Path) -> bool:
  """Whether a run in the folder has logged a step."""
  return any(path.stat().st_size for path in root.rglob('metrics.jsonl'))
