"""An evaluation's bar on a terminal, its plain lines elsewhere."""

import io
import subprocess
import sys

import pytest
import rich.console

from rrl_jax.attacks import _auto_attack, _progress


def states(count):
  """Two attacks that take a second a call."""
  return [
    _auto_attack.Progress(
      attack='apgd-t' if i <= count // 2 else 'square',
      run=1 + 2 * i // (count + 1),
      num_runs=2,
      num_robust=400 - i,
      num_examples=400,
      seconds=i,
      seconds_left=count - i,
    )
    for i in range(1, count + 1)
  ]


def shown(states, **kw):
  file = io.StringIO()
  console = rich.console.Console(file=file, width=100, **kw)
  with _progress.show(console) as update:
    for state in states:
      update(state)
  return file.getvalue()


@pytest.mark.fast
def test_a_terminal_shows_attack_robust_examples_and_time_left():
  text = shown(states(300)[:100], force_terminal=True)
  last = text[text.rindex('apgd-t') :]
  for words in ('apgd-t 1/2', 'robust 300/400', '3 min left', '━'):
    assert words in last


@pytest.mark.fast
def test_elsewhere_it_prints_a_few_plain_lines():
  lines = shown(states(300)).splitlines()
  assert lines[0] == 'apgd-t  run 1/2  robust 399/400  5 min left'
  assert lines[-1] == 'square  run 2/2  robust 100/400  0 s left'
  assert sum('square' in line for line in lines) >= 5
  assert len(lines) <= 25
  assert not any('\x1b' in line for line in lines)


def test_the_attacks_do_not_import_rich():
  code = 'import sys, rrl_jax.attacks; assert "rich" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True)
