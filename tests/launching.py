"""Runs launch.py as a command, without importing everything each time.

JAX, Flax, Orbax and scikit-learn take four seconds to import and a fork takes
none. `run` therefore asks one process per test worker, which has imported the
package and used no device, to fork a child that becomes ``launch.py``: it has
its own arguments, environment, output and exit code, as any command has.
"""

import atexit
import functools
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent


def run(*args, timeout=600, **env) -> subprocess.CompletedProcess:
  """Runs ``python launch.py ARGS`` on one CPU device and waits for its end.

  Args:
    *args: The command's arguments.
    timeout: Seconds after which the command is killed.
    **env: Environment variables that the command has besides the tests' own.
      Variables that JAX reads while it is imported have no effect.

  Returns:
    The arguments, the return code and what was printed.
  """
  return Command(*args, **env).wait(timeout)


class Command:
  """``python launch.py ARGS`` while it runs; see `run`.

  Attributes:
    args: The command's arguments.
    pid: Of its process.
  """

  def __init__(self, *args, **env):
    """Starts it."""
    self.args = list(map(str, args))
    self._folder = tempfile.TemporaryDirectory()
    self._out = pathlib.Path(self._folder.name, 'out')
    self._err = pathlib.Path(self._folder.name, 'err')
    self.pid = _ask(
      args=self.args, env=env, out=str(self._out), err=str(self._err)
    )

  def send(self, number: int) -> None:
    """Sends it a signal; it must not have been waited for."""
    os.kill(self.pid, number)

  def ended(self) -> bool:
    """Whether it has ended; it must not have been waited for."""
    stat = pathlib.Path(f'/proc/{self.pid}/stat').read_text()
    return stat.rpartition(')')[2].split()[0] == 'Z'

  def wait(self, timeout: float = 600) -> subprocess.CompletedProcess:
    """Waits for its end; kills it after so many seconds."""
    code = _ask(pid=self.pid, timeout=timeout)
    out, err = self._out.read_text(), self._err.read_text()
    self._folder.cleanup()
    return subprocess.CompletedProcess(self.args, code, out, err)


def _ask(**request) -> int:
  """Sends the server a request; returns its answer."""
  server = _server()
  server.stdin.write(json.dumps(request) + '\n')
  server.stdin.flush()
  return json.loads(server.stdout.readline())


def environment() -> dict[str, str]:
  """The tests' environment, but with one device as a user has."""
  return {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}


@functools.cache
def _server() -> subprocess.Popen:
  """The process that forks; it ends with this one."""
  server = subprocess.Popen(
    [sys.executable, '-m', 'tests.launching'],
    cwd=ROOT,
    env=environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  atexit.register(server.communicate)  # Closes its input and waits for it.
  return server


def _serve() -> dict | None:
  """Forks and waits as it is asked; returns, in a child, what to run."""
  import rrl_jax.report.terminal
  import rrl_jax.studies.pool
  import rrl_jax.train  # noqa: F401

  answers = os.fdopen(os.dup(1), 'w')
  for line in sys.stdin:
    request = json.loads(line)
    if 'pid' in request:
      answer = _wait(**request)
    else:
      answer = os.fork()
      if not answer:
        return request
    answers.write(f'{answer}\n')
    answers.flush()
  return None


def _wait(pid: int, timeout: float) -> int:
  """The child's return code, negative for a signal, as subprocess has it."""
  deadline = time.monotonic() + timeout
  while True:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status)
    if time.monotonic() > deadline:
      os.kill(pid, 9)
      os.waitpid(pid, 0)
      return -9
    time.sleep(0.005)


def _become(request: dict) -> None:
  """Is ``python launch.py`` from here on."""
  for number, name in ((1, 'out'), (2, 'err')):
    file = os.open(request[name], os.O_WRONLY | os.O_CREAT)
    os.dup2(file, number)
  os.environ |= request['env']
  sys.argv = [str(ROOT / 'launch.py'), *request['args']]
  sys.path[0] = str(ROOT)
  runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
  if (asked := _serve()) is not None:
    _become(asked)
