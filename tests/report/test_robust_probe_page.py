"""What the page says of target tasks under attack."""

import json

import numpy as np
import pytest

from rrl_jax.report import _results, _robust_probe
from tests.report import run_folder
from tests.report.pages import HOSTILE, TAGS, Page, build, words

TIMES = '\N{MULTIPLICATION SIGN}'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = run_folder.write(tmp_path_factory.mktemp('probes'))
  return run_folder.write_probes(folder)


@pytest.fixture(scope='module')
def text(folder):
  return build(folder)


@pytest.fixture
def measured(folder):
  results, protocols = (
    json.loads((folder / name).read_text())
    for name in ('results.json', 'protocols.json')
  )
  return _results.measurements(results, protocols)


@pytest.fixture
def arrays(folder):
  with np.load(folder / 'figures.npz') as found:
    return dict(found)


def section(text, ident):
  start = text.index(f'<section id="{ident}"')
  return text[start : text.index('</section>', start)]


def value_of(row):
  return [
    cell and cell['value'].replace('\N{NO-BREAK SPACE}', ' ') for cell in row
  ]


def test_the_page_shows_what_tasks_withstand(text):
  said = words(section(text, 'probes'))
  for wanted in (
    'Linear probe (SLF) Adversarial probe (ALF)',
    'Task clean PGD-20 AutoAttack clean PGD-20',
    'seen 95.0 % 94.0 to 96.0 50.0 % 49.0 to 51.0 45.0 % 44.0 to 46.0 91.0 %',
    'Mean over tasks 97.0 %',
    'the attack with radius 0 changed no prediction',
    'Linear probe (SLF) under PGD-20 of 3 radii',
    'The inequality was seen to hold on every attacked image. The bound is '
    '11 to 20 times the loss under attack; that rose by 4.2 to 8.3 % of K',
    'What bound propagation certifies is 30 times the shift found: it holds '
    'for every attack, and certifies no image here.',
    'Clean loss nats 0.2 0.19 to 0.21',
    f'K {TIMES} R nats 24 24',
    'Certified bound nats 1,720 1,720 to 1,720',
    '101 test images: median 3, 5 % to 95 % 2.1 to 3.9, mean R = 3',
    'the image nearest to it reaches 25 % of it',
    'seen as T-shirt, after the attack as trouser',
    'How bound/unseen/slack was measured.',
  ):
    assert wanted in said, wanted
  assert 'AFF' not in said
  assert 'Left out' not in said


def test_what_stands_there_stands_nowhere_else(text, measured):
  # Means over tasks of which one alone was measured say nothing new.
  repeated = _results.repetitions(_results.numbers(measured))
  assert sorted(repeated) == ['transfer/svm_accuracy']
  for name, row in measured.items():
    shown = text.count(f'<code>{name}</code>')
    hidden = name.startswith('test/accuracy/') or name in repeated
    assert shown == (0 if hidden else 1), row
  results = words(section(text, 'results'))
  assert 'transfer/seen/knn_accuracy' in results
  assert 'The bound of a task-agnostic' not in results
  assert 'Linear probe AutoAttack' not in results


def test_a_reader_who_does_not_see_it_has_names_and_tables(text):
  page = Page(section(text, 'probes') + '</section>')
  regions = [a for a in page.all('div') if a.get('role') == 'region']
  assert len(regions) == 3
  assert all(a['aria-label'] and a['tabindex'] == '0' for a in regions)
  assert all('scope' in a for a in page.all('th'))
  assert all(a['aria-label'] for a in page.all('svg'))
  assert all(a['alt'] for a in page.all('img'))
  whole = Page(text)
  ids = [attrs['id'] for _, attrs in whole.elements if 'id' in attrs]
  assert len(ids) == len(set(ids))
  assert {'href': '#probes'} in whole.all('a')


@pytest.mark.fast
@pytest.mark.usefixtures('undrawn')
def test_a_run_without_attacked_tasks_has_no_word_of_it(tmp_path):
  text = build(run_folder.write(tmp_path))
  assert 'under attack' not in words(text)
  assert '"probes"' not in text


def test_hostile_tasks_stay_text(tmp_path):
  run_folder.write(tmp_path)
  text = build(run_folder.write_probes(tmp_path, tasks=HOSTILE[:4]))
  page = Page(text)
  assert {tag for tag, _ in page.elements} <= {*TAGS.split(), 'h3'}
  for name in HOSTILE[:4]:
    assert ' '.join(name.split()) in page.text


def test_columns_follow_protocols_and_strength_and_lack_nothing(measured):
  row = measured['transfer/seen/linear_probe_accuracy']
  measured |= {
    f'transfer/seen/fine_tuning_{attack}accuracy': row
    for attack in ('auto_attack_', 'pgd100_', 'pgd20_')
  }
  table, names = _robust_probe.accuracies(measured)
  assert [p['span'] for p in table['protocols']] == [3, 2, 3]
  assert [a['name'] for a in table['attacks']] == [
    *('clean', 'PGD-20', 'AutoAttack'),
    *('clean', 'PGD-20'),
    *('PGD-20', 'PGD-100', 'AutoAttack'),
  ]
  rows = {r['name']: value_of(r['cells']) for r in table['rows']}
  assert rows['unseen'][5:] == [None] * 3
  assert rows['seen'][5:] == ['95.0 %'] * 3
  assert 'transfer/knn_accuracy' not in names
  assert 'AFF: the whole network' in table['text']


@pytest.mark.fast
def test_one_task_needs_no_mean(tmp_path):
  run_folder.write(tmp_path)
  results = {
    'transfer/t/linear_probe_pgd3_accuracy': 0.5,
    'transfer/linear_probe_pgd3_accuracy': 0.5,
  }
  measured = _results.measurements(results, dict.fromkeys(results, 'Said.'))
  table, names = _robust_probe.accuracies(measured)
  assert [row['name'] for row in table['rows']] == ['t']
  assert names == set(results)


def test_clean_probes_alone_are_left_to_the_results(measured):
  kept = {n: r for n, r in measured.items() if n.endswith('probe_accuracy')}
  assert kept
  assert _robust_probe.part(kept, {}) == (None, set())


def test_the_main_radius_joins_the_further_ones(measured, arrays):
  curve, names = _robust_probe.by_radius(measured, arrays)
  assert curve['head'] == ['0', '0.05', '0.1']
  rows = {row['name']: value_of(row['cells']) for row in curve['table']}
  assert rows['seen'] == ['96.0 %', '80.0 %', '50.0 %']
  assert list(rows)[-1] == 'Mean over tasks'
  assert all('/epsilon=' in name for name in names)
  for broken in (np.array(np.nan), np.array('x'), np.zeros(2)):
    arrays['figure/probe_epsilon'] = broken
    curve, _ = _robust_probe.by_radius(measured, arrays)
    assert curve['head'] == ['0', '0.05']
  for name in ('x', 'nan', '1e999'):
    odd = f'transfer/seen/linear_probe_pgd20_accuracy/epsilon={name}'
    assert (
      odd
      not in _robust_probe.by_radius({odd: measured[next(iter(names))]}, {})[1]
    )


def test_many_tasks_are_drawn_in_part_and_tabled_in_full(tmp_path):
  run_folder.write(tmp_path)
  tasks = tuple(f'task {k}' for k in range(15))
  said = words(build(run_folder.write_probes(tmp_path, tasks=tasks)))
  assert '3 more tasks are in the table only' in said
  assert said.count('task 14') > 3


def test_violations_are_told_with_their_task(measured):
  row = {'number': 0.04, 'value': '4.0 %'}
  measured['bound/unseen/violations'] = (
    measured['bound/unseen/violations'] | row
  )
  bound, _ = _robust_probe.bounds(measured)
  assert bound['says'].startswith(
    'The inequality was seen to fail on 4.0 % of the images of unseen: there'
  )


def test_a_certificate_says_how_many_images_it_covers(measured):
  row = {'number': 0.4, 'value': '40.0 %'}
  measured['bound/seen/certified_accuracy'] = (
    measured['bound/seen/certified_accuracy'] | row
  )
  bound, _ = _robust_probe.bounds(measured)
  assert 'certifies up to 40.0 % of the images of a task.' in bound['says']


def test_without_certificates_none_is_spoken_of(measured):
  kept = {n: r for n, r in measured.items() if '/certified' not in n}
  bound, _ = _robust_probe.bounds(kept)
  assert 'ertif' not in str(bound['rows']) + bound['says']
  # Of a run from before there were any: the rate under its old name.
  kept['bound/seen/certified_accuracy'] = measured[
    'bound/seen/certified_accuracy'
  ]
  bound, names = _robust_probe.bounds(kept)
  assert 'bound/seen/certified_accuracy' not in names
  del kept['bound/seen/lipschitz']
  bound, _ = _robust_probe.bounds(kept)
  assert bound['tasks'] == ['unseen']


def test_features_that_never_move_divide_nothing(measured, arrays):
  for name in ('feature_shift', 'adversarial_loss', 'clean_loss'):
    key = f'bound/seen/{name}'
    measured[key] = measured[key] | {'number': 0.0}
  arrays['figure/bound_shift/seen'] = np.zeros(5)
  arrays['figure/bound_loss_gap/seen'] = np.zeros(5)
  found, _ = _robust_probe.part(measured, arrays)
  assert found['bound']['says'] == (
    'The inequality was seen to hold on every attacked image.'
  )
  assert 'reaches 0\N{NO-BREAK SPACE}% of it' in found['shifts'][0]['text']


def test_images_above_the_line_are_crosses(measured, arrays):
  arrays['figure/bound_loss_gap/seen'][:2] = 100
  found, _ = _robust_probe.shift_figures(measured, arrays)
  assert '2 above the line are crosses' in found[0]['text']
  assert 'crosses' not in found[1]['text']


@pytest.mark.parametrize(
  ('name', 'broken', 'reason'),
  [
    ('bound_shift/seen', np.zeros((2, 2)), 'has shape (2, 2)'),
    ('bound_shift/seen', np.full(101, np.nan), 'no lengths'),
    ('bound_shift/seen', np.full(101, 'x'), 'no lengths'),
    ('bound_shift/seen', np.full(101, -1.0), 'no lengths'),
    ('bound_loss_gap/seen', np.zeros(7), ''),
    ('bound_loss_gap/seen', np.full(101, np.inf), ''),
    ('probe_examples_adv', np.zeros(3), 'example images have shapes'),
  ],
)
def test_damaged_arrays_leave_their_figure_out(
  measured, arrays, name, broken, reason
):
  arrays[f'figure/{name}'] = broken
  found, _ = _robust_probe.part(measured, arrays)
  gap = found['pairs_gap' if 'examples' in name else 'shifts_gap']
  assert reason in gap if reason else gap == ''
  if name.startswith('bound_loss'):
    assert 'the line is' not in found['shifts'][0]['text']
  else:
    assert len(found['shifts']) == (2 if 'examples' in name else 1)


def test_a_check_that_fails_stays_among_the_results(measured):
  key = 'transfer/seen/linear_probe_zero_epsilon_agreement'
  measured[key] = measured[key] | {'number': 0.9}
  found, names = _robust_probe.part(measured, {})
  assert found['sanity'] == ''
  assert key not in names
