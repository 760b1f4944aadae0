"""A run shows itself in a few plain lines where there is no terminal."""

import re
import threading

import jax
import pytest

from rrl_jax.train import progress

pytestmark = pytest.mark.fast


def lines(capsys, start, total, quiet=False):
  with progress.show(start=start, total=total, quiet=quiet) as update:
    for step in range(start + 1, total + 1):
      update(step, 0.5, 1234.0)
  return capsys.readouterr().out.splitlines()


def test_a_long_run_prints_few_lines_and_always_the_last(capsys):
  shown = lines(capsys, 0, 1000)
  assert 10 <= len(shown) <= 22
  assert shown[0].startswith('step 1/1000  loss 0.5000  1,234 images/s')
  assert shown[-1].startswith('step 1000/1000')
  assert shown[-1].endswith(' 0 s left')


def test_a_short_run_prints_every_step(capsys):
  assert len(lines(capsys, 2, 5)) == 3


def test_quiet_prints_nothing(capsys):
  assert lines(capsys, 0, 5, quiet=True) == []


def test_the_first_step_tells_nothing_of_the_time_that_is_left(
  capsys, monkeypatch
):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  with progress.show(start=100, total=1000) as update:
    now[0] = 80.0  # The step is compiled.
    update(101, 0.5, None)
    for step in range(102, 1001):
      now[0] += 0.1
      update(step, 0.5, 1280.0)
  first, *others = capsys.readouterr().out.splitlines()
  assert first == 'step 101/1000  loss 0.5000  compiled in 80 s'
  for line in others:
    step, left = re.fullmatch(
      r'step (\d+)/1000  loss 0.5000  1,280 images/s  (\d+) s left', line
    ).groups()
    assert abs(int(left) - 0.1 * (1000 - int(step))) <= 0.5


def test_a_run_of_one_step_says_so(capsys):
  (line,) = lines(capsys, 0, 1)
  assert line.startswith('step 1/1 ')
  assert line.endswith('0 s left')


@pytest.mark.parametrize(
  ('seconds', 'words'),
  [(0, '0 s'), (119.4, '119 s'), (119.6, '2 min'), (7165, '119 min')]
  + [(7175, '2.0 h'), (52_666, '14.6 h')],
)
def test_times_are_written_as_one_says_them(seconds, words):
  assert progress.clock(seconds) == words


def test_an_evaluation_names_what_it_is_at(capsys):
  with progress.evaluation(['accuracy', 'pgd']) as begin:
    begin('accuracy')
    begin('pgd')
  assert capsys.readouterr().out.splitlines() == [
    'evaluation 1/2: accuracy',
    'evaluation 2/2: pgd',
  ]


def test_an_evaluator_that_takes_long_says_that_it_is_at_work(monkeypatch):
  said, enough = [], threading.Event()

  def shown(line, flush):
    said.append(line)
    if len(said) == 3:
      enough.set()

  monkeypatch.setattr(progress, '_SILENCE', 0.01)
  monkeypatch.setattr(progress, 'print', shown, raising=False)
  with progress.evaluation(['fine_tune']) as begin:
    begin('fine_tune')
    assert enough.wait(60)
  assert said[0] == 'evaluation 1/1: fine_tune'
  pattern = r'evaluation 1/1: fine_tune, for \d+ (s|min) so far'
  assert all(re.fullmatch(pattern, line) for line in said[1:])


@pytest.mark.parametrize('quiet', [True, False])
def test_other_processes_and_quiet_ones_show_no_evaluation(
  capsys, monkeypatch, quiet
):
  if not quiet:
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with progress.evaluation(['pgd'], quiet=quiet) as begin:
    begin('pgd')
  with progress.show(start=0, total=1, quiet=quiet) as update:
    update(1, 0.5, None)
  assert capsys.readouterr().out == ''


def fail():
  with progress.evaluation(['pgd']) as begin:
    begin('pgd')
    raise ZeroDivisionError


def test_a_failing_evaluator_leaves_no_thread_behind():
  before = threading.active_count()
  with pytest.raises(ZeroDivisionError):
    fail()
  assert threading.active_count() == before
