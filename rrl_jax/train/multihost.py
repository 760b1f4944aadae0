"""Several processes that train as one: they start, stop and fail together.

A process that is lost is noticed by the others through a collective that
fails or, where it hangs instead, through heartbeats of 10 seconds. The
runtime's own answer to a missing heartbeat is a long log and ``abort()``; here
it is one line and exit code 75, which asks to be started again.

SIGTERM on any process stops all. They agree on a step that none has passed,
save there, and exit with 75. A process that fails by itself (a full disk, data
that one machine lacks) tells the others, and all exit with its code.

Before Python takes itself down, the thread that listens to the others has ended
and ``abort()`` is as it was. Python before 3.14 ends a thread that comes back
from native code later than that with ``pthread_exit``, which C++ turns into
``abort()`` (CPython's gh-87135; seen with Python 3.11 and jaxlib 0.10.2). A
handler in Python would then do the same again until the stack is full: SIGSEGV
at the end of a run that went well, without a word.

With one process all of this comes down to a handler of SIGTERM.
"""

import atexit
from collections.abc import Callable
import contextlib
import ctypes
import faulthandler
import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # Holds the key-value store, as Orbax uses it.
from jax.experimental import multihost_utils

from rrl_jax.errors import ConfigError, StoppedError

HEARTBEAT_SECONDS = 10
_TICK = 0.5  # Seconds between two looks at what the others say.
_PATIENCE = 3.0  # Seconds for which one that fails waits to be heard.
_BARRIER_MS = 120_000
_GOES_ON = 'the same command on every process goes on'
# What a collective, or the runtime, says when another process is gone.
_LOSS = re.compile(
  'gloo|connection|socket|unavailable|unhealthy|heartbeat|deadline|aborted'
  '|cancelled|barrier|preempt|coordination|distributed service',
  re.IGNORECASE,
)
# A program that was compiled before raises the same as a bare ValueError.
_STATUS = re.compile(r'[A-Z_]+: ')
_NATIVE = re.compile(rb'^[EF]\d{4} .*(coordination|client\.h)', re.MULTILINE)


def join(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Meets the other processes; from here on they share one fate.

  Args:
    coordinator: ``HOST:PORT`` of process 0. All three may be None where the
      cluster tells: on TPUs, under Slurm and Open MPI.
    num_processes: How many there are.
    process_id: Which of them this is.

  Raises:
    ConfigError: The processes cannot be told from the arguments.
    StoppedError: Not all of them came.
  """
  unmet = f'not all {num_processes or ""} processes came to {coordinator}'
  _on_abort(_NativeLog(), unmet)
  # Its handler of SIGTERM knows of steps only; ours also of what lies between.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address=coordinator,
      num_processes=num_processes,
      process_id=process_id,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    if jax.process_index() != 0:  # Only process 0 prints.
      os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Connects all devices while all are here: after a step has compiled, some
    # are so late that Gloo gives up.
    multihost_utils.sync_global_devices('joined')
  except jax.errors.JaxRuntimeError as error:
    raise StoppedError(f'{unmet} ({_one_line(error)}); {_GOES_ON}') from error
  except (IndexError, RuntimeError, TypeError, ValueError) as error:
    raise ConfigError(
      '--multihost: off TPU give --coordinator=HOST:PORT --num_processes=N'
      f' --process_id=I ({_one_line(error)})'
    ) from error
  global _together
  _together = _Together()
  atexit.register(_together.end)


def joined() -> bool:
  """Whether there are other processes that share this one's fate."""
  return _together is not None


def stopping():
  """While open, SIGTERM asks the loop to stop instead of ending the process.

  Yields an object whose ``reached()`` is to be called once a step: whether this
  is the step at which to save and stop, on all processes the same.
  """
  return _Sigterm() if _together is None else _together.training()


def from_first(fn: Callable[[], Any]) -> Any:
  """What ``fn`` returns on process 0, on every process.

  Only process 0 calls it, so that a folder that is written at the same time,
  or seen late, looks alike to all.

  Args:
    fn: Returns JSON data.
  """
  client = distributed.global_state.client
  if jax.process_count() == 1 or client is None:
    return fn()
  global _told
  _told += 1
  key = f'rrl_jax/told/{_told}'
  if jax.process_index() == 0:
    value = fn()
    client.key_value_set(key, json.dumps(value))
    return value
  while True:
    try:
      return json.loads(client.blocking_key_value_get(key, 60_000))
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise


def lost(error: BaseException) -> str | None:
  """The line about another process that is gone, if that made the error."""
  seen = error
  while seen is not None:
    native = isinstance(seen, jax.errors.JaxRuntimeError) or (
      type(seen) is ValueError and _STATUS.match(str(seen))
    )
    # Orbax has waited for the others' part of a checkpoint; no file system,
    # which would have a number for it.
    timed_out = isinstance(seen, TimeoutError) and seen.errno is None
    if timed_out or (native and _LOSS.search(str(seen))):
      return _lost_line(_one_line(seen))
    seen = seen.__cause__ or seen.__context__
  return None


def leave(code: int, line: str) -> None:
  """Says the line, tells the other processes, and ends this one.

  Not by ``sys.exit``: it would wait minutes for processes that are gone.

  Args:
    code: Exit code; with 75 all have saved at the same step, and go together.
    line: What to say.
  """
  if code == StoppedError.exit_code and _together is not None:
    _together.wait_for_the_end(line)
  _say(line)
  if _together is not None:
    _together.tell_failure(code, line)
  _exit(code)


def abandon(line: str) -> None:
  """Says the line and ends with 75, the others being gone or going."""
  _say(line)
  _exit(StoppedError.exit_code)


_together = None
_told = 0  # Values that process 0 has told.


class _Together:
  """What the processes tell each other while they run, by a thread each."""

  def __init__(self):
    self._client = distributed.global_state.client
    self._index = jax.process_index()
    self._count = jax.process_count()
    self._lock = threading.Lock()  # Held while a step to stop at is agreed on.
    self._asked = False  # SIGTERM came to this process.
    self._idle = True  # Nothing here that is worth saving.
    self._position = 0  # Steps since the start, over all runs of a study.
    self._stop_at = None
    self._last_words = f'stopped by SIGTERM; {_GOES_ON}'
    self.failed = None  # Exit code, once there is one to end with.
    self._ending = False  # This process has done everything.
    self._over = threading.Event()  # So have all.
    signal.signal(signal.SIGTERM, self._on_sigterm)
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()

  @contextlib.contextmanager
  def training(self):
    """While open, there is something to save."""
    self._idle = False
    yield self
    self._idle = True  # After an error `leave` follows, or a study's next run.

  def reached(self) -> bool:
    """Counts a step; whether all stop at it."""
    with self._lock:
      self._position += 1
      return self._stop_at is not None and self._position >= self._stop_at

  def wait_for_the_end(self, line):
    """Ends with the others, once all have saved."""
    self._last_words = line
    self._asked = True
    self._idle = True
    time.sleep(_BARRIER_MS / 1000)  # The thread ends the process before that.

  def tell_failure(self, code, line):
    """Waits until all have failed alike, or have had time to hear of it."""
    self.failed = code
    until = time.monotonic() + _PATIENCE
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._client.key_value_set(
        f'rrl_jax/failed/{self._index}', json.dumps([code, line]), True
      )
      while time.monotonic() < until:
        failed = self._client.key_value_dir_get('rrl_jax/failed')
        if len(failed) == self._count:
          break
        time.sleep(_TICK / 10)
      if self._index == 0:
        time.sleep(_TICK)  # Without it the others could ask no more.

  def end(self):
    """Waits until all have done everything, then for the thread."""
    self._ending = True
    try:
      jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError as error:
      abandon(_lost_line(_one_line(error)))
    self._over.set()
    self._thread.join()

  def _on_sigterm(self, signum, frame):
    self._asked = True

  def _listen(self):
    """The thread: looks for failures and for requests to stop."""
    told = False
    while self.failed is None and not self._over.wait(_TICK):
      try:
        self._look_for_failure()
        if self._asked and not told:
          told = True
          self._client.key_value_set('rrl_jax/stop/by', '', True)
        if self._client.key_value_dir_get('rrl_jax/stop'):
          self._stop_together()
          return
      except jax.errors.JaxRuntimeError:
        continue  # The runtime finds out what is wrong within its heartbeat.

  def _look_for_failure(self):
    for name, told in self._client.key_value_dir_get('rrl_jax/failed'):
      if self.failed is None:
        code, line = json.loads(told)
        _say(f'process {name.rpartition("/")[2]}: {line}')
        self.tell_failure(code, line)
        _exit(code)

  def _stop_together(self):
    """Agrees on a step, then waits until every process has come to it."""
    for number in range(1_000_000):
      try:
        if self._all_idle(number):
          # All have saved. Whoever leaves first may be who is asked here.
          with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._meet('end')
          abandon(self._last_words)
      except jax.errors.JaxRuntimeError as error:
        if self._ending:
          return  # `end` hears what it was; nothing, if all are ending.
        abandon(_lost_line(_one_line(error)))
      time.sleep(_TICK)

  def _all_idle(self, number):
    """Tells where this process is; whether nobody has anything to save."""
    with self._lock:
      self._client.key_value_set(
        f'rrl_jax/at/{number}/{self._index}',
        json.dumps([self._position, self._idle]),
      )
      self._meet(number)
      told = self._client.key_value_dir_get(f'rrl_jax/at/{number}')
      positions, idle = zip(
        *(json.loads(text) for _, text in told), strict=True
      )
      if self._stop_at is None:
        self._stop_at = max(positions) + 1
    return all(idle)

  def _meet(self, name):
    self._client.wait_at_barrier(f'rrl_jax/stop/{name}', _BARRIER_MS)


class _Sigterm:
  """While open, SIGTERM of the only process is a request."""

  def __enter__(self):
    self._requested = False
    self._before = None
    # Outside the main thread, the caller keeps its own handler.
    with contextlib.suppress(ValueError):
      self._before = signal.signal(signal.SIGTERM, self._request)
    return self

  def __exit__(self, *error):
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def reached(self) -> bool:
    """Whether SIGTERM has come."""
    return self._requested

  def _request(self, signum, frame):
    self._requested = True


class _NativeLog:
  """What native code writes to stderr: passed on, but for the last words.

  The runtime logs a page before it aborts. From the first line of that on,
  text is held back.
  """

  def __init__(self):
    sys.stderr.flush()
    self.held = b''
    self.stderr = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = os.fdopen(self.stderr, 'w', buffering=1, closefd=False)
    faulthandler.enable(self.stderr)  # The pipe's reader would die as well.
    self._reading = reading
    threading.Thread(target=self._pass_on, daemon=True).start()

  def _pass_on(self):
    while chunk := os.read(self._reading, 65_536):
      found = _NATIVE.search(chunk)
      at = 0 if self.held else found.start() if found else len(chunk)
      os.write(self.stderr, chunk[:at])
      self.held += chunk[at:]

  def last_words(self) -> str:
    """What was held back, once it has been read."""
    for _ in range(10):
      time.sleep(0.1)
      if self.held:
        break
    return self.held.decode(errors='replace')


def _on_abort(native, unmet):
  """Makes the runtime's ``abort()`` over a lost process an exit with 75."""

  def handle(signum):
    if _together is not None and _together.failed is not None:
      _exit(_together.failed)  # It is ending already, and so are the others.
    words = native.last_words()
    if _LOSS.search(words) and _together is None:
      abandon(f'{unmet}; {_GOES_ON}')
    if _LOSS.search(words):
      abandon(_lost_line(_cause(words)))
    os.write(native.stderr, words.encode())
    faulthandler.dump_traceback(native.stderr)  # Then abort() goes on.

  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal.restype = ctypes.c_void_p
  _on_abort.kept = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)  # Kept alive.
  handler = ctypes.cast(_on_abort.kept, ctypes.c_void_p)
  before = libc.signal(signal.SIGABRT, handler)
  atexit.register(libc.signal, signal.SIGABRT, before)


def _cause(words):
  """The short reason in a page of the runtime's log."""
  if found := re.search(r'unhealthy[^:]*:\s*([\d, \n]+)', words):
    return f'process {", ".join(found[1].split())} stopped answering'
  if 'leader' in words:
    return 'process 0 stopped answering'
  return 'its heartbeat is missing'


def _lost_line(cause):
  return f'another process was lost ({cause}); {_GOES_ON}'


def _one_line(error):
  """The beginning of a message, on one line."""
  return ' '.join(str(error).split())[:160] or type(error).__name__


def _say(line):
  print(f'rrl_jax: {line}', file=sys.stderr, flush=True)


def _exit(code):
  """Ends the process, whatever its other threads are waiting for."""
  sys.stdout.flush()
  os._exit(code)
