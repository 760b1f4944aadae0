"""Trains, evaluates and reports what a config describes.

  python launch.py --config=configs/hro.py
  python launch.py --config=configs/hro.py:cl,fashion_mnist --config.seed=1
  python launch.py --config=configs/hro.py:imagenet --aot=v5e:16x16

The text behind the config file's colon chooses a variant; with npz=FILE,
folder=DIR or idx=DIR there, any config takes images of your own:

  python launch.py --config=configs/hro.py:npz=mine.npz

--config.a.b=value sets one field, in a study or a pool one of every member. A
part that is chosen by name (data.name, model.name, objective.name, optim.name)
forgets what belonged to the former one, and the run says so before its first
step. --config.evals.NAME.ARG=value adds an evaluator, --config.evals.NAME=
leaves one out, --config.evals= all. With --config=FILE, --help lists what may
stand behind the colon and the fields with their values.

--config.features=mine.npz scores an encoder's features in place of training. A
run's folder holds its config, metrics, checkpoints, results.json and
report/index.html. The same --workdir again resumes the run, or says that it is
done; a longer --config.total_epochs goes on from the end.

Several machines run the same command with --multihost, each its own process
(docs/pods.md). When one is lost, the others stop within 15 seconds with exit
code 75; with --restarts=N each starts again from the last checkpoint.

Exit codes:
  0   done
  1   a loss or gradient was not finite, or an unforeseen error
  2   the command or the config is wrong, values included
  3   data, features or checkpoints cannot be used
  75  stopped, saved and resumable: the same command goes on (SIGTERM, or
      another process was lost)
  130 interrupted at the keyboard: likewise, from the last checkpoint
"""

import contextlib
import importlib.util
import os
import pathlib
import platform
import signal
import sys
import traceback
from typing import Any, NamedTuple
import zlib

from absl import flags
from ml_collections import ConfigDict

_HERE = pathlib.Path(__file__).resolve().parent / 'configs'
# Sources of images that a config takes behind its colon, by file or folder.
_OWN_IMAGES = ('npz', 'folder', 'idx')
_PAUSE_SECONDS = 16  # In which every process notices that one is gone.

_CONFIG = flags.DEFINE_string(
  'config', None, 'A file of configs/, with an argument behind a colon.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run; default runs/<config>-<argument>.'
)
_MULTIHOST = flags.DEFINE_bool(
  'multihost', False, 'Call jax.distributed.initialize() before anything.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0; TPU pods need none.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Processes in all; TPU pods need none.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process; TPU pods need none.'
)
_RESTARTS = flags.DEFINE_integer(
  'restarts', 0, 'Starts again after exit 75 or a crash, at most so often.'
)
_AOT = flags.DEFINE_string(
  'aot',
  None,
  'Topology, as v5e:16x16: compile for it, say what a step takes, end.',
)
# libtpu is to look for no TPU, and to say nothing of it.
_NO_TPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-1',
}
# For --aot, also beside other processes that do so.
_COMPILE_ONLY = _NO_TPU | {
  'JAX_PLATFORMS': 'cpu',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def main(argv: list[str]) -> int:
  """Parses the command, hands over to its job; returns the exit code."""
  if '--help' in argv or '-h' in argv:
    return _show_help(argv)
  try:
    command = _parse(argv)
    if _AOT.value is not None:
      os.environ |= _COMPILE_ONLY
    if _RESTARTS.value:
      return _supervise(argv)
    signal.signal(signal.SIGTERM, _stop)
    run = _prepare(command)
  except _UsageError as error:
    return _say(error, 2)
  try:
    if _AOT.value is not None:
      _aot(run)
    else:
      _run(run)
  except (Exception, KeyboardInterrupt) as error:
    code, line = _verdict(error)
    if _MULTIHOST.value:
      _leave(error, code, line)
    if line is None:
      raise
    return _say(line, code)
  return 0


def _verdict(error):
  """Exit code of what ended the run, and its line; None if unforeseen."""
  from rrl_jax import errors

  if isinstance(
    error,
    errors.ConfigError
    | errors.DataError
    | errors.DivergedError
    | errors.StoppedError,
  ):
    return error.exit_code, _one_line(error)
  if isinstance(error, BrokenPipeError):
    _read_by_nobody()
    return 75, 'nobody reads the output any more; the same command goes on'
  if isinstance(error, OSError):
    return 3, f'cannot read or write: {_one_line(error)}'
  if isinstance(error, KeyboardInterrupt):
    return 130, 'interrupted; the same command goes on'
  return 1, None


def _leave(error, code, line):
  """Ends one of several processes, and tells the others why."""
  from rrl_jax.train import multihost

  if line is None or isinstance(error, OSError):  # Not one of our own.
    lost = multihost.lost(error)
    if lost is not None:
      multihost.abandon(lost)
  if line is None:
    traceback.print_exception(error)
    line = f'{type(error).__name__}: {_one_line(error)}'
  multihost.leave(code, line)


def _supervise(argv):
  """Runs this command as a child, again and again; returns the last code."""
  from rrl_jax.train import supervisor

  return supervisor.run(
    [sys.executable, *argv, '--restarts=0'],  # The last of a flag counts.
    restarts=_RESTARTS.value,
    pause=_PAUSE_SECONDS if _MULTIHOST.value else 1,
  )


def _stop(signum, frame):
  """SIGTERM where nothing is being trained: what was saved is all there is."""
  from rrl_jax import errors

  raise errors.StoppedError('stopped by SIGTERM; the same command goes on')


class _UsageError(Exception):
  """The command line cannot be read; one line says why."""


class _Command(NamedTuple):
  """A command line, read but not applied.

  Attributes:
    text: What stands behind ``--config=``.
    given: Texts of the fields that it sets, by dotted name.
    config: What the config file gives.
    base: Every field with its default.
    doc: The docstring of the config file.
  """

  text: str
  given: dict[str, str]
  config: ConfigDict
  base: ConfigDict
  doc: str


class _Prepared(NamedTuple):
  """What is to be run.

  Attributes:
    config: With every change of the command line.
    overrides: These changes by dotted name.
    root: The run's folder.
    remarks: What is to be said before the first step.
  """

  config: ConfigDict
  overrides: dict[str, Any]
  root: pathlib.Path
  remarks: list[str]


def _parse(argv):
  """Reads flags and config, with every failure as one line."""
  command, rest = _read(argv)
  try:
    left = flags.FLAGS(rest)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    raise _UsageError(_one_line(e)) from e
  if len(left) > 1:
    raise _UsageError(f'unknown argument {left[1]!r}; see --help')
  if _WORKDIR.value == '':
    raise _UsageError('--workdir= is empty')
  if _RESTARTS.value < 0:
    raise _UsageError(f'--restarts={_RESTARTS.value} is negative')
  return command


def _read(argv):
  """Loads the config and gathers its changes; returns what is left as well."""
  texts, given, rest = [], {}, []
  words = _with_flag_files(argv)
  while words:
    word = words.pop(0)
    name, equals, text = word.partition('=')
    bare = name.lstrip('-')
    if not name.startswith('-') or bare.partition('.')[0] not in (
      'config',
      'noconfig',
    ):
      rest.append(word)
      continue
    if bare.startswith('noconfig.'):
      text = 'false'
    elif not equals:
      if not words or words[0].startswith('--'):
        raise _UsageError(f'{word}: a value is missing, as in {word}=VALUE')
      text = words.pop(0)
    if bare == 'config':
      texts.append(text)
    else:
      given[bare.partition('.')[2]] = text
  if not texts:
    raise _UsageError(
      f'--config=configs/<name>.py is missing; there are {_configs()}'
    )
  if len(texts) > 1:
    raise _UsageError(
      f'--config is given {len(texts)} times ({", ".join(texts)}); one config'
      ' makes a run'
    )
  text, own = _own_images(texts[0])
  for name in own:
    if name in given:
      raise _UsageError(
        f'--config={texts[0]} and --config.{name}={given[name]} both choose the'
        ' data'
      )
  config, base, doc = _load_config(text)
  return _Command(texts[0], own | given, config, base, doc), rest


def _with_flag_files(argv):
  """The words, those of ``--flagfile=FILE`` in its place."""
  try:
    return flags.FLAGS.read_flags_from_files(argv, force_gnu=True)
  except (flags.Error, OSError, UnicodeDecodeError) as error:
    raise _UsageError(_one_line(error)) from error


def _own_images(text):
  """Takes ``npz=FILE`` and the like out of a config's argument."""
  path, colon, arg = text.partition(':')
  own, kept = {}, []
  for word in arg.split(','):
    name, equals, where = word.partition('=')
    if not equals or name not in _OWN_IMAGES:
      kept.append(word)
      continue
    if own:
      raise _UsageError(f'--config={text}: one set of images makes a run')
    if not where:
      raise _UsageError(f'--config={text}: {name}= names no file or folder')
    own = {'data.name': name, 'data.kw.path': where}
  arg = ','.join(kept)
  return (f'{path}:{arg}' if colon and arg else path), own


def _load_config(text):
  """What a config file gives for its argument, the defaults, its docstring."""
  path, _, arg = text.partition(':')
  if not os.path.isfile(path) or not path.endswith('.py'):
    raise _UsageError(
      f'--config={path}: no such config; there are {_configs()}'
    )
  spec = importlib.util.spec_from_file_location('config', path)
  module = importlib.util.module_from_spec(spec)
  try:
    from configs import common

    spec.loader.exec_module(module)
    config = module.get_config(arg or None)
  except (
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    SyntaxError,
    TypeError,
    ValueError,
  ) as e:
    own = ', '.join(f'{name}=PATH' for name in _OWN_IMAGES)
    hint = f', {own}' if '; known: ' in str(e) else ''
    raise _UsageError(f'--config={text}: {_one_line(e)}{hint}') from e
  if not isinstance(config, ConfigDict) or 'job' not in config:
    raise _UsageError(
      f'--config={text}: get_config returned a {type(config).__name__} that is'
      ' not made from configs/common.py: base()'
    )
  return config, common.base(), module.__doc__ or ''


def _prepare(command):
  """Applies the command line to the config."""
  _look_for_tpu()
  from rrl_jax.errors import ConfigError
  from rrl_jax.train import overrides

  try:
    applied = overrides.apply(command.config, command.base, command.given)
  except ConfigError as error:
    raise _UsageError(_one_line(error)) from error
  applied.config.lock()
  root = pathlib.Path(
    _WORKDIR.value or _default_workdir(command.text, applied.config)
  )
  return _Prepared(applied.config, applied.values, root, applied.remarks)


def _configs():
  """The config files that can be launched."""
  hidden = ('__init__', 'common')
  paths = [*sorted(_HERE.glob('*.py')), *sorted(_HERE.glob('studies/*.py'))]
  return ', '.join(
    str(path.relative_to(_HERE.parent))
    for path in paths
    if path.stem not in hidden
  )


def _run(run):
  """Does the config's job."""
  _set_up_jax()
  from rrl_jax.errors import ConfigError

  jobs = {
    'train': _train,
    'evaluate': _evaluate,
    'study': _study,
    'pool': _pool,
  }
  config = run.config
  if config.job in ('study', 'pool') and config.job not in config:
    raise ConfigError(f'job={config.job!r}: this config has no {config.job}')
  if config.job not in jobs:
    raise ConfigError(f'job={config.job!r}; known: {", ".join(jobs)}')
  _remark(run.remarks)
  scores = config.get('features') is not None
  (_score if scores else jobs[config.job])(run)


def _remark(remarks):
  """Says what the command line has changed besides."""
  import jax

  if jax.process_index() == 0:
    for remark in remarks:
      print(remark, flush=True)


def _aot(run):
  """Compiles for TPUs that are not there and prints what a step takes."""
  from rrl_jax.train import aot

  aot.report(run.config, _AOT.value)


def _train(run):
  """Trains to the end, evaluates, reports."""
  from rrl_jax import train

  found = train.train_and_evaluate(run.config, run.root, run.overrides)
  _report(run.root, found)


def _evaluate(run):
  """Evaluates the last checkpoint anew, reports."""
  from rrl_jax import train

  found = train.evaluate_last(run.config, run.root, run.overrides)
  _report(run.root, found)


def _score(run):
  """Takes the indicators of an encoder's features from a file, reports."""
  from rrl_jax import train

  found = train.score_features(run.config, run.root, run.overrides)
  _report(run.root, found)


def _study(run):
  """Trains and evaluates many runs, prints one table."""
  from rrl_jax import studies

  studies.run(run.config, run.root, run.overrides)


def _pool(run):
  """Trains and evaluates models, says what tells their robustness."""
  import jax

  from rrl_jax import report
  from rrl_jax.studies import pool

  done = pool.run(run.config, run.root, run.overrides)
  if done and jax.process_index() == 0:
    print(f'report: {report.build_pool(run.root)}')


def _report(root, measurements):
  """Builds the page and prints the results."""
  import jax

  from rrl_jax import report
  from rrl_jax.report import terminal

  if jax.process_index() == 0:
    page = report.build(root)
    terminal.print_results(measurements)
    print(f'report: {page}')


def _set_up_jax():
  """Distributed runtime and compilation cache, before any device is used."""
  import jax

  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', str(_cache_folder()))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
  if _MULTIHOST.value:
    from rrl_jax.train import multihost

    multihost.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)


def _look_for_tpu():
  """Before JAX is imported: libtpu need not look where there is no TPU."""
  if not _has_tpu():
    os.environ.update(_NO_TPU | os.environ)


def _has_tpu():
  """Whether a chip of Google's is on the bus."""
  vendors = pathlib.Path('/sys/bus/pci/devices').glob('*/vendor')
  return any(path.read_text().strip() == '0x1ae0' for path in vendors)


def _cache_folder():
  """Where compiled programs stay: one folder a kind of processor.

  Programs for the CPU use whatever instructions it has, and a home folder may
  be shared by machines that have others.
  """
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    flags_line = next(line for line in lines if line.startswith('flags'))
  except (OSError, StopIteration):
    flags_line = platform.processor()
  kind = f'{platform.machine()}-{zlib.crc32(flags_line.encode()):08x}'
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(home, 'rrl_jax', kind)


def _default_workdir(text, config):
  """``runs/hro-cl-fashion_mnist`` for ``configs/hro.py:cl,fashion_mnist``."""
  path, _, arg = text.partition(':')
  words = [pathlib.Path(path).stem]
  for word in filter(None, arg.split(',')):
    name, _, where = word.partition('=')
    words.append(pathlib.Path(where).stem if name in _OWN_IMAGES else word)
  if config.get('features'):
    words.append(pathlib.Path(config['features']).stem)
  return pathlib.Path('runs', '-'.join(words).replace('/', '_'))


def _show_help(argv):
  """Prints what is known of the program, or of the config that is named."""
  asked = [word for word in argv if word not in ('--help', '-h')]
  try:
    named = any(_names_config(word) for word in _with_flag_files(asked))
    text = _help_of(_read(asked)[0]) if named else _help()
  except _UsageError as error:
    return _say(error, 2)
  try:
    print(text, flush=True)
  except BrokenPipeError:
    _read_by_nobody()
  return 0


def _names_config(word):
  return word.partition('=')[0] in ('--config', '-config')


def _read_by_nobody():
  """Lets what is still to be printed go nowhere, as ``head`` wishes."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help_of(command):
  """The docstring of a config, and its fields with their values."""
  own = ', '.join(f'{name}=PATH' for name in _OWN_IMAGES)
  lines = [
    command.doc.strip(),
    '',
    f'Behind the colon of any config: {own}, images of your own.',
    '',
    f'Fields of {command.text}, set by --config.FIELD=VALUE:',
  ]
  for name, value in _fields(command.config):
    lines.append(f'  {name}={"" if value is None else value}')
  return '\n'.join([*lines, '', 'docs/settings.md says what each means.'])


def _fields(config, prefix=''):
  """Each field and its value; of members of a study or a pool their names."""
  for name, value in config.items():
    path = f'{prefix}{name}'
    if path in ('pool.models', 'study.methods'):
      yield path, ', '.join(value)
    elif isinstance(value, ConfigDict) and len(value):
      yield from _fields(value, f'{path}.')
    else:
      yield path, '{}' if isinstance(value, ConfigDict) else value


def _help():
  """The docstring and the flags."""
  lines = [__doc__.strip(), '', 'Flags:']
  for flag in (
    _CONFIG,
    _WORKDIR,
    _MULTIHOST,
    _COORDINATOR,
    _NUM_PROCESSES,
    _PROCESS_ID,
    _RESTARTS,
    _AOT,
  ):
    lines.append(f'  --{flag.name}: {flags.FLAGS[flag.name].help}')
  return '\n'.join([*lines, '', f'Configs: {_configs()}'])


def _one_line(error):
  """The message of an error, on one line."""
  text = ' '.join(str(error).split())
  return text[:300] or type(error).__name__


def _say(message, code):
  """Prints the one line on stderr."""
  print(f'rrl_jax: {message}', file=sys.stderr)
  return code


if __name__ == '__main__':
  code = main(sys.argv)
  if code:  # What a failed run has registered to do at exit would fail too.
    with contextlib.suppress(BrokenPipeError):
      sys.stdout.flush()
    os._exit(code)
