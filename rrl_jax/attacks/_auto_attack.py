"""AutoAttack: the worst case over an ensemble, driven from the host."""

from collections.abc import Callable, Sequence
import contextlib
import functools
import math
import os
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.attacks import (
  _apgd,
  _checks,
  _evaluation_state,
  _fab,
  _program,
  _progress,
  _projections,
  _square,
)

# The number of a name keys its randomness, whatever else runs.
ATTACKS = ('apgd-ce', 'apgd-dlr', 'apgd-t', 'fab', 'fab-t', 'square')
VERSIONS = {
  'standard': ('apgd-ce', 'apgd-t', 'fab-t', 'square'),
  'plus': ('apgd-ce', 'apgd-dlr', 'fab', 'square', 'apgd-t', 'fab-t'),
  'rand': ('apgd-ce', 'apgd-dlr'),
  'custom': (),
}
_SIZES = 4  # Static batch sizes, each half of the one before ...
_LEAST = 8  # ... down to this one.
_BLOCK = {'square': 50}  # Steps between two looks at what is broken.
_PASSES = {'apgd': 2, 'fab': 3, 'square': 1}  # Rough cost of a step.
_SQUARE_GAIN = 0.002  # Share of examples only Square breaks: a warning sign.


class AutoAttackResult(NamedTuple):
  """The worst case of each example.

  Attributes:
    adv_inputs: A misclassified point within ball and bounds; the clean input
      where none was found or where it is misclassified itself, ``[N, ...]``.
    robust: Whether the clean input and all attacks end in the right class,
      ``[N]``; its mean is the robust accuracy.
    by_attack: Whether an example still was robust after ``clean`` and after
      each attack, ``[N]`` by name, in the order of the attacks.
    notes: Signs that the figure may not be what it seems, and departures from
      the version, a sentence each.
  """

  adv_inputs: np.ndarray
  robust: np.ndarray
  by_attack: dict[str, np.ndarray]
  notes: tuple[str, ...]


class Progress(NamedTuple):
  """Where an evaluation stands.

  Attributes:
    attack: Name of the attack at work.
    run: Number of the run (a restart or a target of an attack), from 1.
    num_runs: Number of runs.
    num_robust: Examples not broken so far.
    num_examples: All examples.
    seconds: Time since the call.
    seconds_left: Estimate for the rest.
  """

  attack: str
  run: int
  num_runs: int
  num_robust: int
  num_examples: int
  seconds: float
  seconds_left: float


class _Run(NamedTuple):
  attack: str
  restart: int = 0
  rank: int = 0  # Of the target among the clean logits; 0 for none.


def auto_attack(
  logits_fn: Callable[[jax.Array], jax.Array],
  key: jax.Array | None,
  inputs: ArrayLike,
  labels: ArrayLike,
  *,
  epsilon: ArrayLike,
  norm: str = 'linf',
  version: str = 'standard',
  batch_size: int = 256,
  attacks: Sequence[str] | None = None,
  bounds: tuple[float, float] | None = (0.0, 1.0),
  num_steps: int = 100,
  num_queries: int = 5000,
  num_targets: int | None = None,
  num_restarts: int | None = None,
  num_samples: int | None = None,
  example_ids: ArrayLike | None = None,
  mesh: Mesh | None = None,
  state_path: str | os.PathLike | None = None,
  params: Any = None,
  save_seconds: float = 60.0,
  progress: Callable[[Progress], None] | bool | None = None,
) -> AutoAttackResult:
  """AutoAttack: each example's worst case over an ensemble of attacks.

  ======== ============================================================
  version  attacks, in order
  ======== ============================================================
  standard apgd-ce, apgd-t (9 targets), fab-t (9 targets), square; in l1
           apgd-ce has 5 restarts, apgd-t 5 targets, and both run at 3, 2
           and 1 epsilon
  plus     apgd-ce, apgd-dlr, fab (5 restarts each), square, apgd-t, fab-t
  rand     apgd-ce, apgd-dlr with 20 gradients averaged a step
  custom   those of ``attacks``, as in plus
  ======== ============================================================

  apgd-t raises the targeted dlr and fab-t steps to the border of the classes
  that rank 2nd, 3rd, ... at the clean input, one after the other. Every attack
  starts from the clean input and runs only on examples not broken before; an
  example stops at its first success. A clean input that is misclassified is
  not robust.

  Runs on the host and calls compiled steps; call it outside ``jit``. Examples
  that are done are dropped as it goes, among four static batch sizes, so that
  nothing compiles twice. Randomness is keyed by example, so that neither
  batch size nor device count matters but for rounding.

  With few classes: there are at most K - 1 targets; targeted dlr needs four
  classes and dlr three, below which the difference of logits takes its place
  (``notes`` says so).

  Args:
    logits_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to logits
      ``[B, K]``, in evaluation mode. If it has a second required argument it
      gets fresh keys, one an example, ``[B]``.
    key: Typed PRNG key; None for key 0.
    inputs: Clean examples within the bounds, shape ``[N, ...]``, float.
    labels: True classes, integers, ``[N]``.
    epsilon: Radius of the ball, non-negative: a scalar or one an example.
    norm: One of linf, l2, l1.
    version: One of standard, plus, rand, custom.
    batch_size: Most examples in the model at once.
    attacks: Names for ``version='custom'``: apgd-ce, apgd-dlr, apgd-t, fab,
      fab-t, square.
    bounds: Least and greatest value of a coordinate, or None.
    num_steps: Steps of each APGD and FAB run.
    num_queries: Queries of Square.
    num_targets: Targets of apgd-t and fab-t; None for the version's.
    num_restarts: Runs of apgd-ce, apgd-dlr and fab; None for the version's.
    num_samples: Gradients averaged a step by APGD; None for the version's.
    example_ids: Integers ``[N]`` that key the randomness of each example, by
      default its position. With ids a part of a data set can be evaluated
      alone with the same result.
    mesh: Spreads batches over the axis ``data`` of a mesh (the first, if none
      has that name).
    state_path: File that keeps the state. If it exists, the evaluation goes on
      from there, to the same result bit by bit; also from within a batch, if
      ``batch_size`` is the same (else that batch starts again). A file of
      another model, known by its logits on all inputs, is refused.
    params: Arrays of the model, a pytree, where they are at hand: the state is
      then of exactly these and no others. None trusts the logits, in which
      networks that differ by less than rounding are one.
    save_seconds: Least time between two writes, which come between batches,
      after every 50 queries of Square or after every 10 steps of the others.
      Within a batch the file holds all arrays of the attack, some ten times
      the size of the batch.
    progress: True for a bar with the time left (some plain lines where there
      is no terminal; needs rich), or a function called with a
      :class:`Progress` wherever a write may come.

  Returns:
    An :class:`AutoAttackResult` of NumPy arrays.

  Raises:
    TypeError: Called inside ``jit``, inputs not floating, classes not integer,
      or a count is not an integer.
    ValueError: Unknown norm, version or attack, bad shapes, classes or inputs
      out of range, a negative radius, a ``logits_fn`` that does not return
      ``[B, K]``, or a state of another evaluation.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> weights = jnp.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> result = attacks.auto_attack(
    ...   lambda x: x @ weights, jax.random.key(0),
    ...   jnp.array([[0.9, 0.3], [0.9, 0.1]]), jnp.array([0, 0]), epsilon=0.15,
    ...   version='custom', attacks=['apgd-ce'], num_restarts=1, num_steps=5)
    >>> print(result.robust)
    [False  True]

  References:
    Croce and Hein, `Reliable evaluation of adversarial robustness with an
    ensemble of diverse parameter-free attacks
    <https://arxiv.org/abs/2003.01690>`_, 2020; l1 as in `Mind the box
    <https://arxiv.org/abs/2103.01208>`_, 2021.

  .. note::
    Flags follow the authors' code; of the points that break an example theirs
    keeps the last of a run and ours the first. Square draws a window for each
    example (theirs for each batch). A model with keys is asked once more, with
    fresh keys, whether a point breaks it.
  """
  started = time.monotonic()
  if _program.is_traced(inputs, labels, key, epsilon):
    raise TypeError('auto_attack runs on the host: call it outside jit')
  evaluation = _Evaluation(
    logits_fn,
    key,
    inputs,
    labels,
    epsilon=epsilon,
    norm=norm,
    version=version,
    batch_size=batch_size,
    attacks=attacks,
    bounds=bounds,
    num_steps=num_steps,
    num_queries=num_queries,
    num_targets=num_targets,
    num_restarts=num_restarts,
    num_samples=num_samples,
    example_ids=example_ids,
    mesh=mesh,
    params=params,
  )
  with contextlib.ExitStack() as stack:
    if progress is True:
      progress = stack.enter_context(_progress.show())
    return evaluation.run(state_path, save_seconds, progress or None, started)


class _Evaluation:
  """One call of ``auto_attack``."""

  def __init__(
    self,
    logits_fn,
    key,
    inputs,
    labels,
    *,
    epsilon,
    norm,
    version,
    batch_size,
    attacks,
    bounds,
    num_steps,
    num_queries,
    num_targets,
    num_restarts,
    num_samples,
    example_ids,
    mesh,
    params,
  ):
    _checks.norm(norm)
    self.attacks = _attacks(version, attacks)
    self.norm, self.version = norm, version
    self.box = _checks.bounds(bounds)
    _checks.count('batch_size', batch_size, 1)
    _checks.count('num_steps', num_steps, 1)
    _checks.count('num_queries', num_queries, 1)
    many = version in ('plus', 'custom')
    l1 = norm == 'l1' and version == 'standard'
    if num_restarts is None:
      num_restarts = 5 if many or l1 else 1
    if num_samples is None:
      num_samples = 20 if version == 'rand' else 1
    _checks.count('num_restarts', num_restarts, 1)
    _checks.count('num_samples', num_samples, 1)
    self.num_steps, self.num_queries = num_steps, num_queries
    self.num_restarts, self.num_samples = num_restarts, num_samples
    self.schedule = l1

    self.inputs = _host_inputs(inputs, self.box)
    count = len(self.inputs)
    self.labels = _host_classes(labels, count, 'labels').astype(np.int32)
    _checks.radius(epsilon, self.inputs, self.box, norm)
    self.epsilon = _host_epsilon(epsilon, self.inputs)
    if example_ids is None:
      example_ids = np.arange(count)
    self.ids = _host_classes(example_ids, count, 'example_ids')
    if key is None:
      key = jax.random.key(0)
    elif not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
      key = jax.random.wrap_key_data(key)
    self.key = key

    self.takes_keys = _program.takes_keys(logits_fn)

    def model(points, keys):
      args = (points, keys) if self.takes_keys else (points,)
      logits = logits_fn(*args)
      _program.check_logits(logits, points.shape[0])
      self.rounding = float(jnp.finfo(logits.dtype).eps)
      return _projections.widen(logits)

    self.model = model
    self.sharding, devices = _rows_over(mesh)
    self.sizes = _sizes(min(batch_size, max(count, 1)), devices)
    self._compiled: dict[Any, Any] = {}

    self.digest = None
    if params is not None:
      self.digest = _evaluation_state.digest_of_tree(params)

    self.logits = self._clean_logits()
    num_classes = self.logits.shape[1]
    _program.check_classes(self.labels, num_classes, 'labels')
    self.order = np.argsort(self.logits, axis=1, kind='stable')
    self.notes: list[str] = []
    self._look_at_outputs()
    self._plan(num_classes, num_targets, 5 if l1 else 9)

  def _plan(self, num_classes, num_targets, apgd_targets):
    """Lists the runs and what departs from the version."""
    targets = {'apgd-t': apgd_targets, 'fab-t': 9}
    if num_targets is not None:
      _checks.count('num_targets', num_targets, 1)
      targets = dict.fromkeys(targets, num_targets)
    self.losses = {'apgd-ce': 'ce', 'apgd-dlr': 'dlr', 'apgd-t': 'dlr'}
    for attack, least in (('apgd-dlr', 3), ('apgd-t', 4)):
      if attack in self.attacks and num_classes < least:
        self.losses[attack] = 'margin'
        self._note(
          f'{attack} raises the difference of logits: its dlr needs at least '
          f'{least} classes and there are {num_classes}'
        )
    self.runs: list[_Run] = []
    for attack in self.attacks:
      if attack in targets:
        count = min(targets[attack], num_classes - 1)
        if count < targets[attack]:
          self._note(
            f'{attack} has {count} targets instead of {targets[attack]}: '
            f'there are {num_classes} classes'
          )
        self.runs += [_Run(attack, rank=r) for r in range(2, count + 2)]
      elif attack == 'square':
        self.runs.append(_Run(attack))
      else:
        self.runs += [_Run(attack, r) for r in range(self.num_restarts)]
    if self.takes_keys and self.version != 'rand':
      self._note("the model takes keys: version='rand' averages over them")

  def _look_at_outputs(self):
    """Notes outputs that are no logits, and those that depend on the batch."""
    total = self.logits.sum(axis=1)
    slack = max(1e-5, 2 * self.rounding)
    if (
      np.ptp(self.logits, axis=0).max() > 0  # A constant tells nothing.
      and self.logits.min() > -slack
      and self.logits.max() < 1 + slack
      and np.abs(total - 1).max() < slack
    ):
      self._note('the outputs look like probabilities; logits are needed')
    # The same examples in another company: one that fills half of the batch.
    places = np.arange(min(len(self.inputs), self.sizes[0]))
    places = places[: (len(places) + 1) // 2]
    slots = np.resize(places, self._fitting(len(places)))
    clean_key = jax.random.fold_in(self.key, len(ATTACKS))
    again = np.asarray(
      self._predict()(
        self._put(self.inputs[slots]), self._keys(clean_key, slots)
      )
    )[: len(places)]
    before = self.logits[places]
    slack = self._tolerance * np.abs(before).max(axis=1, keepdims=True)
    differ = (np.abs(again - before) > 10 * slack + 1e-30).any(axis=1)
    if differ.any():
      labels = self.labels[places]
      right = [np.mean(x.argmax(axis=1) == labels) for x in (before, again)]
      self._note(
        f'the outputs for an example depend on the rest of its batch (training'
        f' mode?): {differ.sum()} of {len(places)} differ in another batch,'
        f' accuracy {right[0]:.4f} in the one and {right[1]:.4f} in the other;'
        ' no figure of single examples can be had'
      )

  @property
  def _tolerance(self):
    """What rounding may change of logits, relative."""
    return max(1e-4, 4 * self.rounding)

  def _note(self, text):
    if text not in self.notes:
      self.notes.append(text)
      logging.warning('auto_attack: %s', text)

  def run(self, state_path, save_seconds, progress, started):
    """Runs what is left to run; returns the result."""
    settings = self._settings()
    known = self.logits
    state = None
    if state_path is not None:
      state = _evaluation_state.load(
        state_path, self.inputs, settings, known, tolerance=self._tolerance
      )
    if state is None:
      state = _evaluation_state.EvaluationState(self.inputs)
    for note in state.notes:
      if note not in self.notes:
        self.notes.append(note)
    right = (self.logits.argmax(axis=1) == self.labels) & ~np.isnan(
      self.logits
    ).any(axis=1)

    def save(partial):
      if state_path is not None:
        state.notes, state.partial = self.notes, partial
        _evaluation_state.save(state_path, state, settings, known)

    programs = [self._program(run) for run in self.runs]
    costs = list(map(self._cost, self.runs, programs))
    partial = state.partial
    watch = _Watch(
      self.runs,
      costs,
      len(self.inputs),
      save=save,
      save_seconds=save_seconds,
      progress=progress,
      started=started,
    )
    for number, (run, program) in enumerate(
      zip(self.runs, programs, strict=True)
    ):
      todo = np.flatnonzero(right & (state.broken_by < 0))
      todo = todo[state.finished[todo] <= number]
      for low in range(0, len(todo), self.sizes[0]):
        chunk = todo[low : low + self.sizes[0]]
        robust = int((right & (state.broken_by < 0)).sum())
        watch.begin(number, len(chunk), len(todo) - low - len(chunk), robust)
        broken, adv = self._chunk(run, program, chunk, watch, partial)
        partial = None
        state.finished[chunk] = number + 1
        state.broken_by[chunk[broken]] = number
        state.adv_inputs[chunk[broken]] = adv[broken]
        watch.tick(1.0, int(broken.sum()))
    by_attack = {'clean': right}
    for attack in self.attacks:
      last = max(i for i, r in enumerate(self.runs) if r.attack == attack)
      unbroken = (state.broken_by < 0) | (state.broken_by > last)
      by_attack[attack] = right & unbroken
    self._look_at_square(by_attack)
    save(None)
    return AutoAttackResult(
      adv_inputs=state.adv_inputs,
      robust=right & (state.broken_by < 0),
      by_attack=by_attack,
      notes=tuple(self.notes),
    )

  def _look_at_square(self, by_attack):
    names = list(by_attack)
    place = names.index('square') if 'square' in names else 0
    if place < 2 or not len(self.inputs):  # No attack before it.
      return
    gain = by_attack[names[place - 1]] & ~by_attack['square']
    if gain.mean() > _SQUARE_GAIN:
      self._note(
        f'square broke {gain.mean():.1%} of the examples that the attacks '
        'before it did not: gradients may be masked, try an adaptive attack'
      )

  def _settings(self):
    """All that results depend on, as JSON values."""
    return {
      'version': self.version,
      'attacks': [list(run) for run in self.runs],
      'norm': self.norm,
      'bounds': [float(b) for b in self.box],
      'epsilon': _evaluation_state.digest(self.epsilon),
      'num_steps': int(self.num_steps),
      'num_queries': int(self.num_queries),
      'num_samples': int(self.num_samples),
      'inputs': _evaluation_state.digest(self.inputs),
      'shape': list(self.inputs.shape),
      'dtype': str(self.inputs.dtype),
      'labels': _evaluation_state.digest(self.labels),
      'example_ids': _evaluation_state.digest(self.ids.astype(np.int64)),
      'key': np.asarray(jax.random.key_data(self.key)).tolist(),
      'params': self.digest,
    }

  def _cost(self, run, program):
    """Rough passes through the model an example."""
    kind = run.attack.split('-')[0]
    passes = _PASSES[kind]
    if run.attack == 'fab':
      passes += self.logits.shape[1] - 1
    if kind == 'apgd':
      passes *= self.num_samples
    return passes * sum(program.phases)

  def _program(self, run) -> _program.Program:
    """The program of a run; equal for all targets and most restarts."""
    name = ('program', run.attack, run.attack == 'fab' and run.restart > 0)
    if name not in self._compiled:
      targeted = run.rank > 0
      common = {'norm': self.norm, 'box': self.box}
      if run.attack == 'square':
        program = _square.Program(
          self.model, num_queries=self.num_queries, **common
        )
      elif run.attack.startswith('fab'):
        program = _fab.Program(
          self.model,
          targeted=targeted,
          num_steps=self.num_steps,
          random_start=run.restart > 0,
          first=True,
          **common,
        )
      else:
        program = _apgd.Program(
          self.model,
          loss=self.losses[run.attack],
          targeted=targeted,
          num_steps=self.num_steps,
          schedule=self.schedule,
          num_samples=self.num_samples,
          keyed=self.takes_keys,
          first=True,
          **common,
        )
      self._compiled[name] = program
    return self._compiled[name]

  def _chunk(self, run, program, chunk, watch, partial):
    """One run on at most a batch of examples.

    Args:
      run: What to run.
      program: Its program.
      chunk: Places of the examples, ``[n]``.
      watch: Told how far it is after each block of steps.
      partial: Where to go on if it is of this batch, or None.

    Returns:
      Whether each was broken, ``[n]``, and the points, ``[n, ...]``.
    """
    begin, resume, advance, done_of, take = self._steps(program)
    steps = sum(program.phases)
    restored = self._restored(run, begin, chunk, partial)
    if restored is not None:
      state, slots, found, adv = restored
      at_phase, at_index = partial.phase, partial.index
      watch.share = (sum(program.phases[:at_phase]) + at_index) / steps
    else:
      at_phase = at_index = 0
      found = np.zeros(len(chunk), bool)
      adv = np.array(self.inputs[chunk])
      slots = self._padded(np.arange(len(chunk)))  # -1 fills a batch up.
      state = begin(*self._rows(run, chunk[slots], slots))
      if run.attack.startswith('apgd'):
        flat = np.asarray(jnp.all(state.grads == 0, axis=_after(state.grads)))
        if (flat & (slots >= 0)).any():
          self._note(
            f'zero gradients at the start of {run.attack}: gradients may be '
            'masked'
          )

    def collect(state, slots):
      broken = np.asarray(state.broken) & (slots >= 0)
      if broken.any():
        points = np.asarray(state.adv)
        found[slots[broken]] = True
        adv[slots[broken]] = points[broken]

    block = _BLOCK.get(run.attack, 10)
    for phase, count in enumerate(program.phases):
      if phase < at_phase:
        continue
      index = at_index if phase == at_phase else 0
      if phase and not index:
        state = resume(state, phase)
      final = phase == len(program.phases) - 1
      while index < count:
        if final:
          alive = np.flatnonzero(~np.asarray(done_of(state)) & (slots >= 0))
          if not len(alive):
            break
          if self._fitting(len(alive)) < len(slots):
            collect(state, slots)
            kept = self._padded(alive)
            state = take(state, np.where(kept >= 0, kept, alive[0]))
            slots = np.where(kept >= 0, slots[kept], -1)
        stop = min(index + block, count)
        state = advance(state, phase, index, stop)
        index = stop
        if final and index == count:
          break
        broken = np.asarray(state.broken) & (slots >= 0)
        watch.tick(
          (sum(program.phases[:phase]) + index) / steps,
          int(found.sum() + broken.sum()),
          functools.partial(
            _partial,
            watch.number,
            chunk,
            phase,
            index,
            slots,
            found,
            adv,
            state,
          ),
        )
    collect(state, slots)
    if self.takes_keys and found.any():
      found &= self._wrong_again(run, chunk, adv)
    return found, adv

  def _restored(self, run, begin, chunk, partial):
    """State, slots, found and adv of a partial run of these examples."""
    if (
      partial is None
      or self.runs[partial.run] != run
      or not np.array_equal(partial.places, chunk)
      or len(partial.slots) not in self.sizes
    ):
      return None
    slots = partial.slots
    rows = self._rows(run, chunk[slots], slots)
    leaves, tree = jax.tree.flatten(jax.eval_shape(begin, *rows))
    if len(leaves) != len(partial.leaves):
      return None
    put = []
    for like, stored in zip(leaves, partial.leaves, strict=True):
      keys = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
      spec = jax.eval_shape(jax.random.key_data, like) if keys else like
      if stored.size != math.prod(spec.shape) * spec.dtype.itemsize:
        return None
      leaf = np.frombuffer(stored.tobytes(), spec.dtype).reshape(spec.shape)
      leaf = self._put(leaf)
      if keys:
        leaf = jax.random.wrap_key_data(
          leaf, impl=jax.random.key_impl(self.key)
        )
      put.append(leaf)
    adv = np.array(self.inputs[chunk])
    adv[partial.found] = np.frombuffer(
      partial.adv.tobytes(), adv.dtype
    ).reshape((-1, *adv.shape[1:]))
    found = np.array(partial.found)
    return jax.tree.unflatten(tree, put), slots, found, adv

  def _wrong_again(self, run, chunk, points):
    slots = self._padded(np.arange(len(chunk)))
    rows = list(self._rows(run, chunk[slots], slots))
    rows[0] = self._put(points[slots])
    keys = self._keys(jax.random.fold_in(self.key, 0xA6A1), chunk[slots], run)
    logits = np.asarray(self._predict()(rows[0], keys))
    logits = logits[: len(chunk)]
    right = logits.argmax(axis=1) == self.labels[chunk]
    return ~right | np.isnan(logits).any(axis=1)

  def _rows(self, run, places, slots):
    """The arguments of ``begin`` on the devices."""
    places = np.where(slots >= 0, places, places[0])
    targets = self.labels[places]
    if run.rank:
      targets = self.order[places, -run.rank].astype(np.int32)
    key = jax.random.fold_in(self.key, ATTACKS.index(run.attack))
    return (
      self._put(self.inputs[places]),
      self._put(self.labels[places]),
      self._put(targets),
      self._put(self.epsilon[places]),
      self._keys(key, places, run),
    )

  def _keys(self, key, places, run=None):
    """A key an example, other ones for each target and restart."""
    restart = 0
    if run is not None:
      key = jax.random.fold_in(key, run.rank) if run.rank else key
      restart = run.restart
    name = ('keys', restart > 0)
    if name not in self._compiled:

      def row_keys(key, ids, restart):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
        return _program.fold(keys, restart) if name[1] else keys

      self._compiled[name] = self._jit(row_keys)
    return self._compiled[name](
      key, self._put(self.ids[places]), np.int32(restart)
    )

  def _steps(self, program):
    """Compiled begin, resume, advance, done and take of a program."""
    name = ('steps', id(program))
    if name in self._compiled:
      return self._compiled[name]
    jit = self._jit

    def begin(inputs, labels, targets, epsilon, keys):
      radius = _projections.radius_within(epsilon, inputs, self.norm)
      rows = _program.Rows(inputs, labels, targets, radius, keys)
      return program.begin(rows)

    step = jit(program.step, donate_argnums=0)

    def block(state, phase, low, high):
      return jax.lax.fori_loop(
        low, high, lambda i, s: program.step(s, phase, i), state
      )

    rolled = jit(block, donate_argnums=0)

    def advance(state, phase, low, high):
      phase = np.int32(phase)
      if not self._by_step():
        return rolled(state, phase, np.int32(low), np.int32(high))
      for index in range(low, high):
        state = step(state, phase, np.int32(index))
      return state

    done = jax.jit(lambda state: state.done)
    take = jit(
      lambda state, places: jax.tree.map(lambda leaf: leaf[places], state)
    )
    resume = jit(program.resume, static_argnums=1)
    steps = (jit(begin), resume, advance, done, take)
    self._compiled[name] = steps
    return steps

  def _by_step(self):
    """Whether to call single steps: convolutions crawl in loops on CPU."""
    if 'by_step' not in self._compiled:
      one = jax.ShapeDtypeStruct(
        (self.sizes[-1], *self.inputs.shape[1:]), self.inputs.dtype
      )
      keys = jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0), self.sizes[-1])
      )
      text = str(jax.make_jaxpr(self.model)(one, keys))
      self._compiled['by_step'] = (
        jax.default_backend() == 'cpu' and 'conv_general_dilated' in text
      )
    return self._compiled['by_step']

  def _predict(self):
    if 'predict' not in self._compiled:
      self._compiled['predict'] = self._jit(self.model)
    return self._compiled['predict']

  def _clean_logits(self):
    """Logits of all clean inputs, ``[N, K]``, on the host."""
    found = []
    predict = self._predict()
    clean_key = jax.random.fold_in(self.key, len(ATTACKS))
    for low in range(0, max(len(self.inputs), 1), self.sizes[0]):
      places = np.arange(low, min(low + self.sizes[0], len(self.inputs)))
      if not len(places):
        raise ValueError('inputs must hold at least one example')
      slots = self._padded(np.arange(len(places)))
      padded = places[slots]
      logits = predict(
        self._put(self.inputs[padded]), self._keys(clean_key, padded)
      )
      found.append(np.asarray(logits)[: len(places)])
    return np.concatenate(found)

  def _fitting(self, count):
    """The smallest static size that holds so many rows."""
    return min(size for size in self.sizes if size >= count)

  def _padded(self, values):
    """Values filled up with -1 to a static size."""
    missing = self._fitting(len(values)) - len(values)
    return np.pad(values, (0, missing), constant_values=-1)

  def _put(self, array):
    if self.sharding is None:
      return jnp.asarray(array)
    return jax.device_put(array, self.sharding)

  def _jit(self, fun, **kw):
    if self.sharding is None:
      return jax.jit(fun, **kw)
    return jax.jit(fun, out_shardings=self.sharding, **kw)


class _Watch:
  """Tells how long the rest takes; saves and reports, where due.

  Attributes:
    number: Number of the run at work.
  """

  def __init__(
    self, runs, costs, num_examples, *, save, save_seconds, progress, started
  ):
    self.runs, self.costs, self.num_examples = runs, costs, num_examples
    self.save, self.save_seconds = save, save_seconds
    self.progress, self.started = progress, started
    self.began = self.saved = time.monotonic()
    self.spent = 0.0  # Passes through the model, roughly.
    self.number = 0

  def begin(self, number, size, behind, robust):
    """A batch begins.

    Args:
      number: Number of the run.
      size: Examples in the batch.
      behind: Examples that wait for the same run.
      robust: Examples not broken so far, over all.
    """
    self.number, self.size, self.behind = number, size, behind
    self.robust, self.share = robust, 0.0

  def tick(self, share, num_broken, partial=None):
    """The batch goes on.

    Args:
      share: How much of its run is done.
      num_broken: Examples it broke so far.
      partial: Gives what to keep of it, once called.
    """
    cost = self.costs[self.number]
    self.spent += cost * self.size * (share - self.share)
    self.share = share
    now = time.monotonic()
    if now - self.saved >= self.save_seconds:
      self.save(partial() if partial else None)
      self.saved = time.monotonic()
    if self.progress is None:
      return
    robust = self.robust - num_broken
    rest = cost * (self.size * (1 - share) + self.behind)
    rest += robust * sum(self.costs[self.number + 1 :])
    self.progress(
      Progress(
        attack=self.runs[self.number].attack,
        run=self.number + 1,
        num_runs=len(self.runs),
        num_robust=robust,
        num_examples=self.num_examples,
        seconds=now - self.started,
        seconds_left=rest * (now - self.began) / self.spent,
      )
    )


def _partial(run, places, phase, index, slots, found, adv, state):
  """What to keep of a batch under way."""
  leaves = []
  for leaf in jax.tree.leaves(state):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    leaves.append(_evaluation_state.as_bytes(np.asarray(leaf)))
  return _evaluation_state.Partial(
    run=run,
    phase=phase,
    index=index,
    places=places,
    slots=slots,
    found=found,
    adv=_evaluation_state.as_bytes(adv[found]),
    leaves=leaves,
  )


def _attacks(version, attacks):
  if version not in VERSIONS:
    raise ValueError(
      f'version must be one of {", ".join(VERSIONS)}, got {version!r}'
    )
  if version != 'custom':
    if attacks is not None:
      raise ValueError("attacks goes with version='custom' only")
    return VERSIONS[version]
  names = tuple(attacks or ())
  if not names or isinstance(attacks, str):
    raise ValueError(
      f"version='custom' needs attacks, a list out of {', '.join(ATTACKS)}"
    )
  for name in names:
    if name not in ATTACKS:
      raise ValueError(
        f'attacks must be out of {", ".join(ATTACKS)}, got {name!r}'
      )
  if len(set(names)) < len(names):
    raise ValueError(f'attacks must not repeat, got {", ".join(names)}')
  return names


def _host_inputs(inputs, box):
  if not hasattr(inputs, 'dtype'):
    inputs = np.asarray(inputs)
  if not jnp.issubdtype(inputs.dtype, jnp.floating):
    raise TypeError(f'inputs must have a floating dtype, got {inputs.dtype}')
  if inputs.ndim < 2:
    raise ValueError(f'inputs must have shape [N, ...], got {inputs.shape}')
  dtype = jax.dtypes.canonicalize_dtype(inputs.dtype)
  inputs = np.asarray(inputs).astype(dtype)
  if inputs.size:
    low, high = float(inputs.min()), float(inputs.max())
    if not (low >= box[0] and high <= box[1]):  # NaN fails as well.
      raise ValueError(
        f'inputs must lie within the bounds ({box[0]}, {box[1]}), got '
        f'{low}..{high}; normalisation belongs inside the model'
      )
  return inputs


def _host_classes(values, count, name):
  values = np.asarray(values)
  if not np.issubdtype(values.dtype, np.integer):
    raise TypeError(f'{name} must have an integer dtype, got {values.dtype}')
  if values.shape != (count,):
    raise ValueError(f'{name} must have shape ({count},), got {values.shape}')
  return values


def _host_epsilon(epsilon, inputs):
  """The radius of each example, rounded down to the dtype of the work."""
  exact = np.asarray(epsilon)
  exact = exact.astype(np.promote_types(exact.dtype, np.float32))
  dtype = np.dtype(jnp.promote_types(inputs.dtype, jnp.float32))
  rounded = exact.astype(dtype)
  high = rounded.astype(np.float64) > exact
  rounded = np.where(high, np.nextafter(rounded, dtype.type(0)), rounded)
  return np.broadcast_to(rounded, (len(inputs),)).copy()


def _rows_over(mesh):
  """Sharding of rows and the number of devices it spreads them over."""
  if mesh is None:
    return None, 1
  axis = 'data' if 'data' in mesh.axis_names else mesh.axis_names[0]
  auto = Mesh(
    mesh.devices,
    mesh.axis_names,
    axis_types=(AxisType.Auto,) * len(mesh.axis_names),
  )
  return NamedSharding(auto, P(axis)), mesh.shape[axis]


def _sizes(largest, devices):
  """Static batch sizes, largest first, multiples of the device count."""
  least = min(largest, _LEAST)
  sizes = {
    -(-max(largest // 2**power, least) // devices) * devices
    for power in range(_SIZES)
  }
  return tuple(sorted(sizes, reverse=True))


def _after(x):
  return tuple(range(1, x.ndim))
