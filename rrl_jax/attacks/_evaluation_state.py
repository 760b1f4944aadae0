"""How far an evaluation has come, in a file that survives a kill."""

import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple
import zipfile

import jax
import numpy as np

_FORMAT = 2


class Partial(NamedTuple):
  """A batch in the middle of a run.

  Attributes:
    run: Number of the run.
    phase: Phase of its program.
    index: Steps of the phase that are done, at least one.
    places: Places of the batch's examples, ``[n]``.
    slots: For each row of the arrays the example of the batch in it, -1 for
      none.
    found: Which examples were broken and dropped from the arrays, ``[n]``.
    adv: Bytes of the points that broke them.
    leaves: Bytes of the arrays of the attack's state.
  """

  run: int
  phase: int
  index: int
  places: np.ndarray
  slots: np.ndarray
  found: np.ndarray
  adv: np.ndarray
  leaves: list[np.ndarray]


class EvaluationState:
  """Progress of an AutoAttack evaluation, example by example.

  Attributes:
    finished: Runs each example has been through, ``[N]``.
    broken_by: Run that broke each example, -1 for none, ``[N]``.
    adv_inputs: What broke it, the clean input else, ``[N, ...]``.
    notes: Remarks made so far.
    partial: The batch under way, if its state was kept.
  """

  def __init__(self, inputs: np.ndarray):
    self.finished = np.zeros(len(inputs), np.int32)
    self.broken_by = np.full(len(inputs), -1, np.int32)
    self.adv_inputs = np.array(inputs)
    self.notes: list[str] = []
    self.partial: Partial | None = None


def as_bytes(array: np.ndarray) -> np.ndarray:
  """An array of any dtype, bfloat16 too, as bytes."""
  return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def digest(array: np.ndarray) -> str:
  """A short fingerprint of an array's bytes."""
  data = np.ascontiguousarray(array)
  return hashlib.sha256(data.view(np.uint8).tobytes()).hexdigest()[:16]


def summary(logits: np.ndarray) -> np.ndarray:
  """Two numbers of each example by which its logits are known again.

  Args:
    logits: Of clean examples, ``[N, K]``.

  Returns:
    Fixed weighted sums of the logits over what rounding may change of these:
    float64 ``[N, 2]``, NaN where a logit is none.
  """
  logits = np.asarray(logits, np.float64)
  place = np.arange(1, logits.shape[1] + 1)
  weights = np.stack([np.cos(place), np.sin(2 * place)], axis=1)
  return logits @ weights


def digest_of_tree(tree: Any) -> str:
  """A short fingerprint of all arrays of a pytree, in order."""
  found = hashlib.sha256()
  for leaf in jax.tree.leaves(tree):
    array = np.asarray(leaf)
    found.update(f'{array.shape}{array.dtype}'.encode())
    found.update(np.ascontiguousarray(array).tobytes())
  return found.hexdigest()[:16]


def save(
  path: str | os.PathLike,
  state: EvaluationState,
  settings: dict[str, Any],
  logits: np.ndarray,
) -> None:
  """Writes a state beside its place and renames it there.

  Args:
    path: The file.
    state: What to keep.
    settings: All that results depend on, JSON values by name.
    logits: Clean logits of all examples, to know the model by.
  """
  path = pathlib.Path(path)
  broken = state.broken_by >= 0
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  with open(part, 'wb') as file:
    np.savez(
      file,
      format=_FORMAT,
      settings=json.dumps(settings),
      logits=summary(logits),
      finished=state.finished,
      broken_by=state.broken_by,
      adv=as_bytes(state.adv_inputs[broken]),
      notes=json.dumps(state.notes),
      **_packed(state.partial),
    )
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)


def _packed(partial):
  """The arrays of the file that hold the batch under way."""
  if partial is None:
    return {}
  names = [n for n in Partial._fields if n != 'leaves']
  packed = {f'partial_{name}': getattr(partial, name) for name in names}
  for number, leaf in enumerate(partial.leaves):
    packed[f'leaf_{number}'] = leaf
  return packed


def _unpacked(stored):
  """The batch under way in the arrays of a file, if any."""
  if 'partial_run' not in stored:
    return None
  names = [n for n in Partial._fields if n != 'leaves']
  found = {name: stored[f'partial_{name}'] for name in names}
  for name in ('run', 'phase', 'index'):
    found[name] = int(found[name])
  count = sum(name.startswith('leaf_') for name in stored)
  return Partial(**found, leaves=[stored[f'leaf_{n}'] for n in range(count)])


def load(
  path: str | os.PathLike,
  inputs: np.ndarray,
  settings: dict[str, Any],
  logits: np.ndarray,
  *,
  tolerance: float,
) -> EvaluationState | None:
  """Reads a state, None if there is no file.

  Args:
    path: The file.
    inputs: Clean examples, ``[N, ...]``.
    settings: As in ``save``; they must be equal.
    logits: As in ``save``; they must be close on every example.
    tolerance: By how much they may differ, relative to an example's logits.

  Returns:
    The state.

  Raises:
    ValueError: The file cannot be read, or is of another evaluation.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as stored:
      stored = dict(stored)
    theirs = json.loads(str(stored['settings']))
    notes = json.loads(str(stored['notes']))
    known = stored['logits']
    partial = _unpacked(stored)
    if int(stored['format']) != _FORMAT:
      raise ValueError(f'format {int(stored["format"])}')
  except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    cause = str(error).split('\n')[0]
    raise ValueError(
      f'{path} is not a readable evaluation state ({cause}); delete it or '
      'give another state_path'
    ) from None
  names = sorted(
    n for n in {*settings, *theirs} if settings.get(n) != theirs.get(n)
  )
  if not names:
    slack = tolerance * np.abs(logits).sum(axis=1, dtype=np.float64)[:, None]
    now = summary(logits)
    same = known.shape == now.shape and np.all(
      (np.abs(known - now) <= slack) | (np.isnan(known) & np.isnan(now))
    )
    names = [] if same else ['the model']
  if names:
    raise ValueError(
      f'{path} holds an evaluation that differs in {", ".join(names)}; '
      'delete it or give another state_path'
    )
  state = EvaluationState(inputs)
  state.finished = stored['finished']
  state.broken_by = stored['broken_by']
  state.notes = notes
  state.partial = partial
  broken = state.broken_by >= 0
  adv = np.frombuffer(stored['adv'].tobytes(), inputs.dtype)
  state.adv_inputs[broken] = adv.reshape((-1, *inputs.shape[1:]))
  return state
