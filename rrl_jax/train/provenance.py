"""Where the numbers of a run come from: what, how many, how, when, on what.

``provenance.json`` stands beside results.json, which holds numbers alone.
"""

from collections.abc import Iterable, Mapping, Sequence
import datetime
import json
import math
import os
import pathlib
import shlex
import subprocess
import sys
import textwrap
import time
from typing import Any

import jax
import numpy as np

from rrl_jax.data import source
from rrl_jax.errors import DataError
from rrl_jax.train import active
from rrl_jax.train import metrics as metrics_lib
from rrl_jax.train import workdir as workdir_lib
from rrl_jax.train.experiment import Experiment
from rrl_jax.train.state import TrainState

FILE = 'provenance.json'
_ROOT = pathlib.Path(__file__).parents[2]  # A checkout, or site-packages.
_LABEL = 11  # Columns of a label with the room behind it.
_WIDTH = 80
_MOST = 3  # Data sets that are named in a paragraph.
_COUNTS = {  # Field of the record of a run -> its unit.
  'training_images': 'training images',
  'test_images': 'test images',
  'classes': 'classes',
  'steps': 'steps',
  'seed': '',
}


def describe(experiment: Experiment, state: TrainState) -> dict[str, Any]:
  """What a run is made of, as JSON data.

  Args:
    experiment: The experiment.
    state: A state of it, for the number of parameters.

  Returns:
    ``data``, ``network``, ``objective``, ``optimizer`` in words with the
    settings that were active; ``training_images``, ``test_images``,
    ``image_shape``, ``classes``, ``data_digest`` (see `source.digest`; of the
    training split), ``wrong_labels`` (None where none was made
    wrong), ``tasks`` (training and test images of each target task),
    ``networks``, ``parameters`` of each, ``steps``, ``epochs``, ``batch_size``,
    ``seed`` and ``loss``, what the logged loss is where that is not what is
    minimised.
  """
  config = experiment.config
  parts = active.settings(workdir_lib.plain(config))
  train, test = experiment.data
  networks = experiment.objective.num_networks
  leaves = jax.tree.leaves(state.params)
  truth = train.truth
  return {
    'data': active.words(parts['data']),
    'training_images': len(train),
    'test_images': len(test),
    'image_shape': list(train.image_shape),
    'classes': train.num_classes,
    'data_digest': source.digest(train),
    'wrong_labels': None if truth is None else int(np.sum(truth.flipped)),
    'tasks': {
      task.name: [len(task.train), len(task.test)] for task in experiment.tasks
    },
    'network': active.words(parts['model']),
    'networks': networks,
    'parameters': sum(math.prod(leaf.shape) for leaf in leaves) // networks,
    'objective': active.words(parts['objective']),
    'loss': experiment.objective.loss_is,
    'optimizer': active.words(parts['optim']),
    'steps': experiment.total_steps,
    'epochs': experiment.total_steps * config.batch_size / len(train),
    'batch_size': config.batch_size,
    'seed': config.seed,
  }


def circumstances() -> dict[str, Any]:
  """Command, commit, device and time of this process, now.

  Returns:
    ``date`` (UTC, ISO 8601), ``command``, ``commit`` (None where the package is
    no checkout; with '+' where files differ from it) and ``device``.
  """
  now = datetime.datetime.now(datetime.UTC)
  devices = jax.devices()
  device = f'{len(devices)} x {devices[0].device_kind}'
  if devices[0].platform == 'cpu':
    device += f' ({_cores()} cores)'
  if jax.process_count() > 1:
    device += f' in {jax.process_count()} processes'
  return {
    'date': now.isoformat(timespec='seconds'),
    'command': command(),
    'commit': commit(),
    'device': device,
  }


def _cores():
  """Of the processor, those that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count()


def command() -> str:
  """The command line of this process, as one could type it again."""
  program, *args = sys.argv
  if args and args[-1] == '--restarts=0':  # Added to a child that is watched.
    args.pop()
  return shlex.join(['python', program, *args])


def commit(root: pathlib.Path = _ROOT) -> str | None:
  """The commit of a checkout, with '+' if tracked files differ from it.

  Args:
    root: The folder that has to be the top of the checkout. A repository
      around it, as of a project whose environment holds the package, is not
      this one's.
  """
  git = ['git', '-C', str(root)]
  try:
    top, head = subprocess.check_output(
      [*git, 'rev-parse', '--show-toplevel', 'HEAD'],
      stderr=subprocess.DEVNULL,
      text=True,
      timeout=10,
    ).splitlines()
    if pathlib.Path(top).resolve() != root.resolve():
      return None
    changed = subprocess.check_output(
      [*git, 'status', '--porcelain', '--untracked-files=no'],
      stderr=subprocess.DEVNULL,
      text=True,
      timeout=10,
    )
  except (OSError, subprocess.SubprocessError, ValueError):
    return None
  return head[:12] + ('+' if changed else '')


def begin(
  experiment: Experiment, state: TrainState, root: pathlib.Path
) -> dict[str, Any]:
  """Writes down that steps are about to be trained.

  Args:
    experiment: The experiment.
    state: Where it starts; from there earlier starts do not count.
    root: The run's folder.

  Returns:
    The record, with the circumstances of this process.

  Raises:
    DataError: The folder cannot be written, or steps before were trained on
      other data.
  """
  step = int(state.step)
  earlier = read(root)
  starts = [each for each in _starts(earlier) if each['from_step'] < step]
  now = circumstances()
  record = describe(experiment, state)
  if step:
    check_data(record, earlier, root)
  record |= {
    'starts': [*starts, {'from_step': step, **now}],
    'versions': workdir_lib.versions(),
  }
  _write(root, record)
  return record | now


def check_data(
  record: Mapping[str, Any], earlier: Mapping[str, Any], root: pathlib.Path
) -> None:
  """Raises DataError if a run was trained on other data than there are now.

  Args:
    record: Of what there is now, see `describe`.
    earlier: The record in the run's folder; one without a digest passes.
    root: The run's folder, for the message.
  """
  digest = record['data_digest']
  if earlier.get('data_digest', digest) != digest:
    raise DataError(
      f'{root} was trained on other images or labels than there are now in'
      f' {record["data"]}; give another --workdir'
    )


def evaluated(
  experiment: Experiment,
  state: TrainState,
  root: pathlib.Path,
  began: float,
) -> None:
  """Writes down that the evaluations are done.

  Args:
    experiment: The experiment.
    state: What was evaluated.
    root: The run's folder.
    began: ``time.monotonic()`` when they started.
  """
  starts = _starts(read(root))
  record = describe(experiment, state) | {
    'steps': int(state.step),
    'starts': starts,
    'training_seconds': _training_seconds(starts, root / 'metrics.jsonl'),
    'evaluation': circumstances()
    | {'seconds': round(time.monotonic() - began, 1)},
    'versions': workdir_lib.versions(),
  }
  _write(root, record)


def scored(root: pathlib.Path, features: str, file: Any, began: float) -> None:
  """Writes down that the features of a file were scored.

  Args:
    root: The folder.
    features: Path of the file.
    file: What was read from it, an ``evals.feature_file.FeatureFile``.
    began: ``time.monotonic()`` when it started.
  """
  classes = len(np.unique(file.labels))
  record = {
    'data': f'features of {features}',
    'examples': len(file.features),
    'dimensions': file.features.shape[1],
    'classes': classes,
    'evaluation': circumstances()
    | {'seconds': round(time.monotonic() - began, 1)},
    'versions': workdir_lib.versions(),
  }
  _write(root, record)


def of_runs(root: pathlib.Path, folders: Iterable[pathlib.Path]) -> str:
  """Writes down where a table of many runs comes from.

  Args:
    root: Where it is written, the folder of a study or a pool.
    folders: Of the runs whose numbers are in the table.

  Returns:
    A paragraph for the table: data with the number of images, steps, seeds,
    and how it was made. What differs between runs is given from least to most.
  """
  records = [record for record in map(read, folders) if record]
  now = circumstances()
  found = {'runs': len(records)}
  for name in ('data', 'network', 'objective'):
    found[name] = list(dict.fromkeys(r.get(name) for r in records))
  for name in _COUNTS:
    found[name] = sorted({record[name] for record in records if name in record})
  seconds = [record.get('training_seconds') or 0 for record in records]
  _write(
    root,
    found
    | {
      'training_seconds': round(sum(seconds), 1),
      'evaluation': now,
      'versions': workdir_lib.versions(),
    },
  )
  data = [text for text in found['data'] if text]
  if len(data) > _MOST:
    data = [*data[:_MOST], f'{len(data) - _MOST} more']
  sizes = ', '.join(
    f'{_from_to(found[name])} {unit}'
    for name, unit in _COUNTS.items()
    if found[name] and unit
  )
  parts = [
    f'Data: {"; ".join(data)}' if data else '',
    sizes,
    f'seeds {", ".join(map(str, found["seed"]))}' if found['seed'] else '',
    f'{len(records)} runs on {now["device"]}, {now["date"][:10]}'
    + (f', commit {now["commit"]}' if now['commit'] else ''),
    f'made by `{now["command"]}`',
  ]
  return '. '.join(part[0].upper() + part[1:] for part in parts if part) + '.'


def _from_to(values):
  """'526', or '526 to 1,438'."""
  ends = dict.fromkeys((values[0], values[-1]))
  return ' to '.join(f'{value:,}' for value in ends)


def read(root: pathlib.Path) -> dict[str, Any]:
  """The record in a run's folder; empty where there is none to read."""
  try:
    found = json.loads((root / FILE).read_text())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def header(
  root: pathlib.Path,
  record: Mapping[str, Any],
  *,
  start: int,
  changed: str = '',
) -> list[str]:
  """What is about to happen, in lines of 80 columns.

  Args:
    root: The run's folder.
    record: What `begin` returns.
    start: Steps done before; all of them where only an evaluation is to come.
    changed: What was done to the training split, or ''.

  Returns:
    Lines to print before the first step.
  """
  shape = 'x'.join(map(str, record['image_shape']))
  data = (
    f'{record["data"]}: {record["training_images"]:,} training and'
    f' {record["test_images"]:,} test images of {shape},'
    f' {record["classes"]} classes'
  )
  rows = [('folder', str(root)), ('data', data), ('changed', changed)]
  if record['tasks']:
    tasks = (
      f'{name} ({train:,} training, {test:,} test images)'
      for name, (train, test) in record['tasks'].items()
    )
    rows.append(('tasks', ', '.join(tasks)))
  network = f'{record["network"]}: {record["parameters"]:,} parameters'
  if record['networks'] > 1:
    network += f', {record["networks"]} such networks'
  steps = (
    f'{record["steps"]:,} of {record["batch_size"]} images'
    f' ({record["epochs"]:.4g} epochs), seed {record["seed"]}'
  )
  if start:
    steps += f'; {start:,} are done'
  rows += [
    ('network', network),
    ('objective', record['objective'].partition(',')[0]),
    ('loss', record['loss']),
    ('steps', steps),
    ('device', record['device']),
  ]
  return [
    line for label, text in rows if text for line in _wrapped(label, text)
  ]


def announce(
  root: pathlib.Path, record: Mapping[str, Any], *, start: int, **kw
) -> None:
  """Prints the `header`, from process 0 alone."""
  if jax.process_index() == 0:
    for line in header(root, record, start=start, **kw):
      print(line, flush=True)


def _wrapped(label, text):
  """A row in as many lines as it takes; a path is not broken."""
  return textwrap.wrap(
    text,
    _WIDTH,
    initial_indent=f'{label:<{_LABEL}}',
    subsequent_indent=' ' * _LABEL,
    break_long_words=False,
    break_on_hyphens=False,
  )


def _starts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Starts that a record tells of; what is none is left out."""
  starts = record.get('starts')
  return [
    each
    for each in (starts if isinstance(starts, list) else ())
    if isinstance(each, dict)
    and isinstance(each.get('from_step'), int)
    and isinstance(each.get('date'), str)
  ]


def _training_seconds(
  starts: Sequence[Mapping[str, Any]], metrics: pathlib.Path
) -> float | None:
  """Time from each start to the last step that stands; None if not known.

  What was trained after a checkpoint and lost does not count, nor does the
  time between two starts.
  """
  lines = metrics_lib.read(metrics)
  if not starts or not lines:
    return None
  ends = [each['from_step'] for each in starts[1:]] + [math.inf]
  total = 0.0
  for each, end in zip(starts, ends, strict=True):
    times = [
      line['time']
      for line in lines
      if each['from_step'] < line['step'] <= end
      and isinstance(line.get('time'), int | float)
    ]
    try:
      began = datetime.datetime.fromisoformat(each['date']).timestamp()
    except ValueError:
      return None
    if times:
      total += max(times[-1] - began, 0)
  return round(total, 1)


def _write(root, record):
  """By rename, from process 0 alone."""
  try:
    workdir_lib.write_json(root / FILE, record)
  except OSError as error:
    raise DataError(
      f'{root / FILE} cannot be written: {error.strerror or error}'
    ) from error
