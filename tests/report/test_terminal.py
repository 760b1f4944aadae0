"""The table on the terminal fits it."""

import io
import math

import pytest
import rich.console

from rrl_jax.evals import Measurement
from rrl_jax.report import terminal

pytestmark = pytest.mark.fast

FOUND = {
  'test/accuracy': Measurement(0.9, 0.8706, 0.9314, 'Clean [bold]images[/].'),
  'detect/flipped_weight_average_precision': Measurement(0.4, 0.3, 0.5, 'x.'),
  'noise/estimate_error': Measurement(-0.032, -0.032, -0.032, 'By y; exact.'),
  'mass/clean': Measurement(0.6, math.nan, math.nan, 'z.'),
  'test/accuracy/[red]' + 'n' * 70: Measurement(0.9, 0.8, 1.0, 'One.'),
}


def shown(measurements, width):
  out = io.StringIO()
  terminal.print_results(
    measurements, rich.console.Console(file=out, width=width)
  )
  return out.getvalue()


@pytest.mark.parametrize('width', [50, 80, 120])
def test_numbers_stand_in_one_line_and_names_in_words(width):
  text = shown(FOUND, width)
  lines = text.splitlines()
  assert max(map(len, lines)) <= width
  rows = {' '.join(line.split()) for line in lines}
  assert any(
    r.startswith('test/accuracy 0.9000 0.8706 .. 0.9314') for r in rows
  )
  assert any('-0.0320 exact' in r for r in rows)
  assert any('0.6000 none' in r for r in rows)
  assert any(r.endswith(('precision', '0.3000 .. 0.5000', 'x.')) for r in rows)
  assert '[red]' in text
  assert ('[bold]' in text) == (width == 120)
  assert ('protocols.json' in text) == (width != 120)


def test_a_name_breaks_between_its_words():
  assert terminal._broken('detect/flipped_loss_average_precision', 17) == (
    'detect/flipped_\n  loss_average_\n  precision'
  )
  assert terminal._broken('test/accuracy', 17) == 'test/accuracy'


def test_of_many_concepts_the_worst_are_shown():
  many = {
    f'test/accuracy/{k}': Measurement(k / 100, 0.0, 1.0, 'x.')
    for k in reversed(range(100))
  }
  text = shown(FOUND | many, 80)
  assert 'test/accuracy/4 ' in text
  assert 'test/accuracy/5 ' not in text
  assert '96 better concepts: results.json' in text
  assert 'better concepts' not in shown(dict(list(many.items())[:20]), 80)
