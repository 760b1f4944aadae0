"""The table on the terminal fits it, and says first what counts most."""

import io
import math

import pytest
import rich.console

from rrl_jax.evals import Measurement, measurement
from rrl_jax.report import terminal

pytestmark = pytest.mark.fast

FOUND = {
  'mass/clean': Measurement(0.6, math.nan, math.nan, 'z.'),
  'test/accuracy': Measurement(0.9, 0.8706, 0.9314, 'Clean [bold]images[/].'),
  'detect/flipped_weight_average_precision': Measurement(0.4, 0.3, 0.5, 'x.'),
  'noise/estimate_error': Measurement(-0.032, -0.032, -0.032, 'By y; exact.'),
  'test/accuracy/[red]' + 'n' * 70: Measurement(0.9, 0.8, 1.0, 'One.'),
}
LONG = 'transfer/unseen_classes/linear_probe_pgd20_accuracy/epsilon=0.05'


def shown(measurements, width, height=None):
  out = io.StringIO()
  terminal.print_results(
    measurements, rich.console.Console(file=out, width=width, height=height)
  )
  return out.getvalue()


def some(**values):
  """Measurements of which only the value matters."""
  return {
    name: Measurement(value, 0.0, 1.0, 'x.') for name, value in values.items()
  }


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
  assert '[red]' in text
  assert ('[bold]' in text) == (width == 120)
  assert 'protocols.json' in text


@pytest.mark.parametrize('width', [70, 80, 120, 200])
def test_no_name_is_broken(width):
  names = [LONG, LONG.replace('linear_probe', 'fine_tune'), 'test/accuracy']
  lines = shown(some(**dict.fromkeys(names, 0.5)), width).splitlines()
  assert max(map(len, lines)) <= width
  for name in names:
    (line,) = [each for each in lines if each.split()[:1] == [name]]
    numbers = line if '0.5000' in line else lines[lines.index(line) + 1]
    assert '0.5000  0.0000 .. 1.0000' in numbers


def test_of_many_concepts_the_worst_are_shown():
  many = {
    f'test/accuracy/{k}': Measurement(k / 100, 0.0, 1.0, 'x.')
    for k in reversed(range(100))
  }
  text = shown(FOUND | many, 80)
  assert 'test/accuracy/4 ' in text
  assert 'test/accuracy/5 ' not in text
  assert '96 better concepts: results.json' in text
  few = shown(dict(list(many.items())[:20]), 80, height=40)
  assert 'better concepts' not in few
  assert few.count('test/accuracy/') == 20


@pytest.mark.parametrize('height', [10, 24, 40])
def test_the_table_is_at_most_a_screen(height):
  many = some(**{f'groups/accuracy/{k}': 0.1 for k in range(70)}) | FOUND
  lines = shown(many, 80, height).splitlines()
  assert len(lines) + 2 <= max(height, 24)  # The report's path, the prompt.
  assert lines[2].startswith('test/accuracy  ')
  rows = sum(' .. ' in line or ' exact' in line for line in lines)
  assert f'{len(many) - rows} more: results.json' in '\n'.join(lines)


def test_the_headline_comes_first_and_is_the_lowest_of_several_attacks():
  found = some(
    **{
      'test/blur_accuracy': 0.7,
      'test/pgd20_zero_epsilon_agreement': 1.0,
      'robust/auto_attack_accuracy': 0.3,
      'test/pgd20_accuracy': 0.31,
      'test/pgd100_accuracy': 0.29,
      'test/accuracy': 0.9,
    }
  )
  lines = shown(found, 80).splitlines()[2:]
  names = [line.split()[0] for line in lines]
  assert names[:2] == ['test/accuracy', 'test/pgd100_accuracy']
  assert names[5] == 'test/pgd20_zero_epsilon_agreement'
  found['test/pgd20_zero_epsilon_agreement'] = Measurement(0.9, 0, 1, 'x.')
  names = [line.split()[0] for line in shown(found, 80).splitlines()[2:]]
  assert names.index('test/pgd20_zero_epsilon_agreement') < 5


def test_a_mean_over_one_task_is_not_shown_beside_the_task():
  one = some(**{'transfer/a/knn_accuracy': 0.5, 'transfer/knn_accuracy': 0.5})
  assert 'transfer/knn_accuracy' not in shown(one, 80)
  two = one | some(**{'transfer/b/knn_accuracy': 0.5})
  assert 'transfer/knn_accuracy' in shown(two, 80)


def test_means_over_tasks_come_before_the_tasks_of_which_they_are():
  found = some(
    **{f'transfer/{task}/knn_accuracy': 0.5 for task in 'abc'},
    **{'bound/b/slack': 0.5, 'transfer/d/svm_accuracy': 0.5},
    **{'transfer/knn_accuracy': 0.5},
  )
  lines = shown(found, 80).splitlines()[2:]
  assert [line.split()[0] for line in lines[:6]] == [
    'transfer/knn_accuracy',
    'transfer/d/svm_accuracy',
    'transfer/a/knn_accuracy',
    'transfer/b/knn_accuracy',
    'transfer/c/knn_accuracy',
    'bound/b/slack',
  ]


def test_large_numbers_take_no_more_room():
  found = {'bound/a/bound': Measurement(1720.23, 24.199, 99_999.95, 'x.')}
  assert '1720.2  24.20 .. 99999.9' in shown(found, 80)


def test_nothing_measured_is_no_error():
  assert shown({}, 80).startswith('result')


def test_names_of_classes_are_shown_as_people_write_them():
  name = f'test/accuracy/{measurement.key_part("fine/risk.low")}'
  text = shown({name: measurement.proportion(3, 4, 'images')}, 80)
  assert 'test/accuracy/fine/risk.low' in text
