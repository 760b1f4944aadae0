"""Trains, evaluates and reports what a config describes.

  python launch.py --config=configs/hro.py
  python launch.py --config=configs/hro.py:cl,fashion_mnist --config.seed=1
  python launch.py --config=configs/hro.py:imagenet --aot=v5e:16x16

The text behind the config file's colon chooses a variant; --config.a.b=value
overrides one field; with --config.data.name the config's own data.kw are
forgotten. --config.features=mine.npz scores an encoder's features
in place of training. A run's folder holds its config, metrics, checkpoints,
results.json and report/index.html. The same --workdir again resumes the run,
or says that it is done; a longer --config.total_epochs goes on from the end.

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

import importlib.util
import os
import pathlib
import platform
import signal
import sys
import traceback
import zlib

from absl import flags
from ml_collections import ConfigDict, config_flags

_HERE = pathlib.Path(__file__).resolve().parent / 'configs'
_PAUSE_SECONDS = 16  # In which every process notices that one is gone.

_CONFIG = config_flags.DEFINE_config_file(
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
    print(_help())
    return 0
  try:
    _parse(argv)
    if _AOT.value is not None:
      os.environ |= _COMPILE_ONLY
  except _UsageError as error:
    return _say(error, 2)
  if _RESTARTS.value:
    return _supervise(argv)
  try:
    signal.signal(signal.SIGTERM, _stop)
    if _AOT.value is not None:
      _aot(_config())
    else:
      _run()
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


def _parse(argv):
  """Reads the flags, with every failure as one line."""
  _check_config(argv)
  try:
    left = flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    raise _UsageError(_one_line(e)) from e
  if len(left) > 1:
    raise _UsageError(f'unknown argument {left[1]!r}; see --help')
  if _WORKDIR.value == '':
    raise _UsageError('--workdir= is empty')
  if _RESTARTS.value < 0:
    raise _UsageError(f'--restarts={_RESTARTS.value} is negative')


def _check_config(argv):
  """Loads the config by itself: absl would bury its errors in a traceback.

  What is checked is that the file exists and takes its argument, and that it
  has the fields that the command line overrides.
  """
  text = _value_of('config', argv)
  if text is None:
    raise _UsageError(
      f'--config=configs/<name>.py is missing; there are {_configs()}'
    )
  path, _, arg = text.partition(':')
  if not os.path.isfile(path) or not path.endswith('.py'):
    raise _UsageError(
      f'--config={path}: no such config; there are {_configs()}'
    )
  spec = importlib.util.spec_from_file_location('config', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(arg or None)
  except (AttributeError, ImportError, SyntaxError, TypeError, ValueError) as e:
    raise _UsageError(f'--config={text}: {_one_line(e)}') from e
  for override in argv:
    if override.startswith('--config.'):
      _check_field(config, override.removeprefix('--').partition('=')[0])


def _check_field(config, dotted):
  """Raises unless the config has the field, listing those that it has."""
  at, *names = dotted.split('.')
  for name in names:
    fields = sorted(config) if isinstance(config, ConfigDict) else []
    if name not in fields:
      there = ', '.join(fields) or 'nothing inside'
      raise _UsageError(
        f'--{dotted}: {at} has no field {name!r}; it has {there}'
      )
    config = config[name]
    at = f'{at}.{name}'


def _value_of(name, argv):
  """The text of a flag written ``--name=text`` or ``--name text``, or None."""
  for i, word in enumerate(argv):
    flag, given, text = word.partition('=')
    if flag in (f'--{name}', f'-{name}'):
      return text if given else ''.join(argv[i + 1 : i + 2])
  return None


def _configs():
  """The config files that can be launched."""
  hidden = ('__init__', 'common')
  paths = [*sorted(_HERE.glob('*.py')), *sorted(_HERE.glob('studies/*.py'))]
  return ', '.join(
    str(path.relative_to(_HERE.parent))
    for path in paths
    if path.stem not in hidden
  )


def _config():
  """The config; with another source of data, without the old one's settings."""
  config, changed = _CONFIG.value, _overrides()
  if 'data.name' in changed:
    tasks = {f'transfer.{name}': t for name, t in config.transfer.items()}
    for where, part in ({'data': config.data} | tasks).items():
      for name in part.get('kw', ()):
        if f'{where}.kw.{name}' not in changed:
          part.kw[name] = None
  return config


def _run():
  """Does the config's job."""
  config = _config()
  _set_up_jax()
  from rrl_jax.errors import ConfigError

  jobs = {
    'train': _train,
    'evaluate': _evaluate,
    'study': _study,
    'pool': _pool,
  }
  if config.job in ('study', 'pool') and config.job not in config:
    raise ConfigError(f'job={config.job!r}: this config has no {config.job}')
  if config.job not in jobs:
    raise ConfigError(f'job={config.job!r}; known: {", ".join(jobs)}')
  root = pathlib.Path(_WORKDIR.value or _default_workdir())
  scores = config.get('features') is not None
  (_score if scores else jobs[config.job])(config, root)


def _aot(config):
  """Compiles for TPUs that are not there and prints what a step takes."""
  from rrl_jax.train import aot

  aot.report(config, _AOT.value)


def _train(config, root):
  """Trains to the end, evaluates, reports."""
  from rrl_jax import train

  _report(root, train.train_and_evaluate(config, root, _overrides()))


def _evaluate(config, root):
  """Evaluates the last checkpoint anew, reports."""
  from rrl_jax import train

  _report(root, train.evaluate_last(config, root, _overrides()))


def _score(config, root):
  """Takes the indicators of an encoder's features from a file, reports."""
  from rrl_jax import train

  _report(root, train.score_features(config, root, _overrides()))


def _study(config, root):
  """Trains and evaluates many runs, prints one table."""
  from rrl_jax import studies

  studies.run(config, root, _overrides())


def _pool(config, root):
  """Trains and evaluates models, says what tells their robustness."""
  import jax

  from rrl_jax import report
  from rrl_jax.studies import pool

  if pool.run(config, root, _overrides()) and jax.process_index() == 0:
    print(f'report: {report.build_pool(root)}')


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
  if not _has_tpu():
    os.environ.update(_NO_TPU | os.environ)
  import jax

  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', str(_cache_folder()))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
  if _MULTIHOST.value:
    from rrl_jax.train import multihost

    multihost.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)


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


def _default_workdir():
  """``runs/hro-cl-fashion_mnist`` for ``configs/hro.py:cl,fashion_mnist``."""
  flag = flags.FLAGS['config']
  path, _, arg = flag.config_filename.partition(':')
  words = [pathlib.Path(path).stem, *filter(None, arg.split(','))]
  if _CONFIG.value.get('features'):
    words.append(pathlib.Path(_CONFIG.value.features).stem)
  return pathlib.Path('runs', '-'.join(words).replace('/', '_'))


def _overrides():
  """The fields that the command line changed, by dotted name."""
  return config_flags.get_override_values(flags.FLAGS['config'])


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
    sys.stdout.flush()
    os._exit(code)
