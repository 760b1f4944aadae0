"""A run shows itself in a few plain lines where there is no terminal."""

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
