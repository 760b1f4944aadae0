"""The training loop: feed, step, log, save; stop only at a saved step."""

import contextlib
import sys
import time

import jax
import numpy as np

from rrl_jax.data import abnormal, noise, pipeline
from rrl_jax.errors import DivergedError, StoppedError
from rrl_jax.train import (
  checkpoint,
  evaluation,
  multihost,
  optim,
  progress,
  provenance,
  sharding,
)
from rrl_jax.train import metrics as metrics_lib
from rrl_jax.train import workdir as workdir_lib
from rrl_jax.train.experiment import Experiment
from rrl_jax.train.state import TrainState

# How much larger the largest class may be among a batch's predictions than
# among its labels, and for how many logged steps in a row.
_COLLAPSED = 0.5
_COLLAPSED_LINES = 3


def train(
  experiment: Experiment,
  workdir: workdir_lib.Workdir,
  *,
  quiet: bool = False,
) -> TrainState:
  """Trains from the newest whole checkpoint, or the start, to the last step.

  Args:
    experiment: The experiment.
    workdir: The run's folder.
    quiet: Whether to show no progress.

  Returns:
    The state after the last step; its checkpoint is on disk.

  Raises:
    DivergedError: A loss or gradient is not finite; older checkpoints stay.
    StoppedError: SIGTERM came; the state is saved.
    DataError: The folder's checkpoints cannot be used or written.
  """
  config = experiment.config
  total = experiment.total_steps
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(multihost.stopping())

    # --- Where to start: the newest whole checkpoint, else initial weights.
    saved = stack.enter_context(open_checkpoints(experiment, workdir))
    state = saved.restore(experiment.abstract_state(), set_aside=True)
    if state is None:
      init = jax.jit(experiment.init, out_shardings=experiment.state_sharding())
      state = init(jax.random.key(config.seed))
    start = int(state.step)
    if start >= total:
      return state
    if jax.process_index() == 0:
      for line in experiment.objective.remarks(config.batch_size):
        print(line, file=sys.stderr, flush=True)
    origin = provenance.begin(experiment, state, workdir.root)
    if not quiet:
      changed = experiment.data.train.truth is not None
      words = tampering(experiment) if changed else ''
      provenance.announce(workdir.root, origin, start=start, changed=words)

    # --- The step: state donated, the resident set passed beside the batch.
    store = resident_set(experiment)
    step_fn = jit_step(experiment)
    batches = read_batches(experiment, start, lookup=bool(store))
    evaluator = evaluation.Evaluator(experiment)

    # --- The loop: metrics of a step are fetched while the next one runs.
    write = stack.enter_context(
      metrics_lib.writer(
        workdir.root,
        step=start,
        tracker=config.tracker,
        config=workdir_lib.plain(config),
      )
    )
    update = stack.enter_context(
      progress.show(start=start, total=total, quiet=quiet)
    )
    record = _Recorder(experiment, write, update, start)
    if experiment.data.train.truth is not None and jax.process_index() == 0:
      noise.save(workdir.truth, experiment.data.train)
    pending = None
    for step, batch in zip(range(start + 1, total + 1), batches, strict=True):
      state, metrics = step_fn(state, batch, store)
      if pending is not None:
        record(*pending)
      pending = (step, metrics)
      if config.interim_steps and step % config.interim_steps == 0:
        began = time.monotonic()
        found, _ = evaluator(state, config.interim_evals.to_dict())
        pending = (step, metrics, found, time.monotonic() - began)
      stopping = stop.reached()
      if stopping or step == total or step % config.ckpt_steps == 0:
        record(*pending)  # Nothing is saved before it is known to be finite.
        pending = None
        saved.save(state)
      if stopping:
        raise StoppedError(
          f'stopped by SIGTERM, saved at step {step} of {total}; the same'
          ' command goes on from there'
        )
  return state


def jit_step(experiment: Experiment):
  """The step as it runs: ``(state, batch, store) -> (state, metrics)``.

  The state is donated; ``store`` is the `resident_set`, which is passed beside
  the batch.
  """
  return jax.jit(
    lambda state, batch, store: experiment.step(state, look_up(store, batch)),
    donate_argnums=0,
    out_shardings=(
      experiment.state_sharding(),
      sharding.replicated(experiment.mesh),
    ),
  )


def tampering(experiment: Experiment) -> str:
  """What was done to the training split, in words and counts."""
  fields, train = experiment.config.data, experiment.data.train
  flipped = fields.noise.kind != 'none'
  said = noise.rates(
    fields.noise.kind,
    fields.noise.rate,
    train.num_classes,
    mapping=fields.noise.mapping,
    seed=fields.noise.seed,
    source=train,
  )
  wrong = int(train.truth.flipped.sum())
  words = [f'{said.protocol}, {wrong} of {len(train)} are'] if flipped else []
  if fields.abnormal.kind != 'none':
    words.append(abnormal.describe(train, fields.abnormal.kind))
  for told in ('noise_rate', 'forget_rate'):
    rate = experiment.config.objective.kw.get(told)
    if rate is not None:
      words.append(f'the objective is told a {told} of {rate:g}')
  return f'training split: {"; ".join(words)}'


def open_checkpoints(
  experiment: Experiment, workdir: workdir_lib.Workdir
) -> checkpoint.Checkpoints:
  """The checkpoints of a run's folder."""
  return checkpoint.Checkpoints(
    workdir.checkpoints,
    workdir_lib.identity(experiment.config),
    experiment.config.keep_last,
    workdir.former_identity(),
  )


def resident_set(experiment: Experiment) -> dict[str, jax.Array]:
  """The training set on every device if it fits there, else an empty dict."""
  return {
    name: sharding.put_copy(experiment.mesh, array)
    for name, array in resident_arrays(experiment).items()
  }


def resident_arrays(experiment: Experiment) -> dict[str, np.ndarray]:
  """The same on the host."""
  train = experiment.data.train
  images = train.images
  fits = isinstance(images, np.ndarray)
  if not fits or images.nbytes > experiment.config.data.device_bytes:
    return {}
  arrays = {
    'image': images,
    'label': train.labels,
    'concept': train.concepts,
  }
  if train.batch_groups is not None:
    arrays['group'] = train.batch_groups
  return arrays


def look_up(store, batch):
  """The rows of the resident set that a batch of indices names."""
  if not store:
    return batch
  index = batch['index']
  return {name: array[index] for name, array in store.items()} | batch


def read_batches(experiment: Experiment, start: int, *, lookup: bool):
  """Yields the batches of the steps after ``start``, on the devices.

  Args:
    experiment: The experiment.
    start: Steps done; the position in the data is this number alone.
    lookup: Whether to read indices only, the set being on the devices.
  """
  config, mesh = experiment.config, experiment.mesh
  order = pipeline.index_batches(
    experiment.data.train,
    batch_size=config.batch_size,
    seed=config.seed,
    sampling=config.data.sampling,
  )
  rows = pipeline.stream(
    experiment.data.train,
    order,
    start=start,
    stop=experiment.total_steps,
    rows=sharding.local_rows(mesh, config.batch_size),
    num_threads=1 if lookup else config.data.num_threads,
    prefetch=16 if lookup else 2 * config.data.num_threads,
    images=not lookup,
  )
  for batch in rows:
    yield {
      name: sharding.put_rows(mesh, array, config.batch_size)
      for name, array in batch.items()
    }


class _Recorder:
  """Checks each step's metrics, shows them, and writes some of them."""

  def __init__(self, experiment, write, update, start):
    config = experiment.config
    self._write = write
    self._update = update
    self._log_steps = config.log_steps
    self._total = experiment.total_steps
    self._batch_size = config.batch_size
    self._concepts = experiment.data.train.concept_names
    self._schedule = optim.learning_rate(config.optim, self._total)
    self._logged = (start, time.monotonic())
    self._images_per_sec = 0.0
    self._first = start + 1  # It is compiled: its speed is not shown.
    self._collapsed = 0  # Logged steps in a row with nearly one prediction.

  def __call__(self, step, metrics, found=None, seconds=0.0):
    """Takes the metrics of a step, and what was measured after it, how long."""
    before, then = self._logged
    self._logged = (before, then + seconds)  # Evaluation is no training.
    metrics = jax.device_get(metrics)
    for name in ('loss', 'grad_norm', 'param_norm'):
      if not np.isfinite(metrics[name]):
        raise DivergedError(
          f'{name} is {metrics[name]} at step {step}; checkpoints before it'
          ' are intact; a lower optim.lr or optim.grad_clip_norm may help'
        )
    if found or step % self._log_steps == 0 or step in (1, self._total):
      before, then = self._logged
      self._logged = (step, time.monotonic())
      seconds = self._logged[1] - then
      self._images_per_sec = self._batch_size * (step - before) / seconds
      line = self._line(step, metrics)
      self._watch(step, line)
      measured = {name: m.value for name, m in (found or {}).items()}
      self._write(step, line | workdir_lib.finite(measured))
    speed = self._images_per_sec if self._logged[0] > self._first else None
    self._update(step, float(metrics['loss']), speed)

  def _watch(self, step, line):
    """Says so, once, when the network predicts one class for everything."""
    collapsed = line.get('train/collapse', 0.0) > _COLLAPSED
    self._collapsed = self._collapsed + 1 if collapsed else 0
    if self._collapsed == _COLLAPSED_LINES and jax.process_index() == 0:
      print(
        f'step {step}: the network has collapsed to one class; a lower'
        ' optim.lr, adam or optim.grad_clip_norm may help',
        file=sys.stderr,
        flush=True,
      )

  def _line(self, step, metrics):
    """Flat name -> number; a vector has one number a concept."""
    line = {}
    for name, value in metrics.items():
      if np.ndim(value) == 0:
        line[f'train/{name}'] = float(value)
      else:
        for concept, number in zip(self._concepts, value, strict=True):
          line[f'train/{name}/{concept}'] = float(number)
    line['train/learning_rate'] = float(self._schedule(step - 1))
    line['train/images_per_sec'] = self._images_per_sec
    return workdir_lib.finite(line)
