"""What the page says of groups, true and discovered, and of the map in them."""

import json

import numpy as np
import pytest

from rrl_jax.report import _groups, _maps, _results
from tests.report import run_folder
from tests.report.pages import HOSTILE, Page, build

pytestmark = pytest.mark.fast

GROUPS = ('bird:land', 'bird:water', '<b>cat</b>:land')
NUMBERS = {
  'groups/worst_accuracy': 0.4,
  'groups/average_accuracy': 0.7,
  'groups/reweighted_accuracy': 0.9,
  'groups/accuracy/bird:land': 0.95,
  'groups/accuracy/bird:water': 0.4,
  'groups/accuracy/<b>cat</b>:land': 0.75,
  'groups/dfr_worst_accuracy': 0.6,
  'groups/dfr_accuracy/bird:water': 0.61,
  'groups/inferred_purity': 0.8,
  'groups/class_purity': 0.7,
  'groups/inferred_adjusted_rand_index': 0.35,
  'groups/inferred_adjusted_rand_index/bird': 0.5,
  'groups/inferred_recall/bird:land': 0.55,
  'groups/inferred_purity/bird:land': 0.99,
  'groups/inferred_recall/bird:water': 0.25,
  'groups/inferred_purity/bird:water': 0.33,
}


def measured(numbers=NUMBERS):
  results = {
    key: value
    for name, number in numbers.items()
    for key, value in (
      (name, number),
      (f'{name}.low', max(number - 0.05, 0)),
      (f'{name}.high', number + 0.04),
    )
  }
  return results, dict.fromkeys(numbers, 'Test images, top-1.')


def arrays(rng):
  fine = rng.integers(0, 4, 60)
  clusters = np.concatenate([fine % 3, [7, 7]])
  return {
    'figure/group_names': np.array(GROUPS),
    'figure/group_train_counts': np.array([3498, 184, 56]),
    'figure/group_test_counts': np.array([2255, 2255, 642]),
    'figure/map': rng.normal(size=(60, 2)),
    'figure/map_labels': fine // 2,
    'figure/map_class_names': np.array(['low', 'high']),
    'figure/map_index': np.arange(60),
    'figure/map_fine': fine,
    'figure/map_fine_names': np.array(['zero', 'one', 'two', 'three']),
    'figure/map_groups': fine % 2,
    'figure/map_group_names': np.array(['even', 'odd']),
    'figure/inferred_test_groups': clusters,
    'figure/inferred_names': np.array(
      ['low:cluster_0', 'low:cluster_1', 'high:cluster_0']
    ),
  }


def write(folder, figures, numbers=NUMBERS):
  run_folder.write(folder)
  results, protocols = measured(numbers)
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'protocols.json').write_text(json.dumps(protocols))
  lines = [
    {'step': step, 'train/loss': 1.0}
    | {f'train/group_weight/{group}': step / 90 for group in GROUPS}
    for step in (10, 20, 30)
  ]
  (folder / 'metrics.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  np.savez(folder / 'figures.npz', **figures)
  return folder


def write_hostile(folder):
  """A run whose groups and fine classes have such names."""
  numbers = dict(NUMBERS)
  for name in HOSTILE:
    numbers |= {
      f'groups/accuracy/{name}': 0.5,
      f'groups/dfr_accuracy/{name}': 0.5,
      f'groups/inferred_recall/{name}': 0.5,
      f'groups/inferred_purity/{name}': 0.5,
    }
  figures = arrays(np.random.default_rng(0)) | {
    'figure/map_fine_names': np.array(HOSTILE),
    'figure/group_names': np.array((*GROUPS[:2], HOSTILE[-1])),
  }
  return write(folder, figures, numbers)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  figures = arrays(np.random.default_rng(0))
  return Page(build(write(tmp_path_factory.mktemp('groups') / 'a', figures)))


def test_the_page_lists_groups_with_sizes_and_marks_the_worst(page):
  assert 'groups' in {a['id'] for a in page.all('section')}
  for said in (
    'bird:water worst 184 training, 2,255 test images',
    '<b>cat</b>:land',
    'The worst group has 40.0',
    'Found again in the features',
    'Adjusted Rand index 0.350',
    '61.0 % with a new last layer',
    'Weight of each group',
  ):
    assert said in page.text, said
  ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
  assert len(ids) == len(set(ids))


def test_numbers_of_single_groups_stand_once(page):
  """In the section, not in the table of all results too."""
  assert page.text.count('90.0 to 99.0') == 1
  assert 'groups/accuracy/bird:land' not in page.text
  assert 'groups/worst_accuracy' in page.text


def test_one_map_for_each_way_to_colour_it(page):
  titles = ['Given classes', 'Fine classes', 'True groups', 'Discovered groups']
  for title in titles:
    assert title in page.text
  maps = [
    a['aria-label'] for a in page.all('svg') if 'plane' in a['aria-label']
  ]
  assert len(maps) == len(set(maps)) == 4


def test_groups_are_ordered_from_the_worst(rng):
  found = _results.measurements(*measured())
  rows = _groups.accuracies(found, arrays(rng))
  assert [row['group'] for row in rows] == [
    'bird:water', '<b>cat</b>:land', 'bird:land'
  ]  # fmt: skip
  assert [row['worst'] for row in rows] == [True, False, False]
  assert [row['train'] for row in rows] == [184, 56, 3498]
  assert rows[0]['dfr']['number'] == 0.61
  assert rows[1]['dfr'] is None
  (first, second) = _groups.discovered(found)
  assert first['group'] == 'bird:water'
  assert second['purity']['number'] == 0.99


@pytest.mark.usefixtures('undrawn')
def test_a_run_without_groups_has_no_such_section(tmp_path):
  page = Page(build(run_folder.write(tmp_path / 'run')))
  assert 'groups' not in {a['id'] for a in page.all('section')}
  assert _groups.part({}, {}) == (None, set())


def test_sizes_that_do_not_fit_are_left_out(rng):
  found = _results.measurements(*measured())
  broken = arrays(rng) | {'figure/group_test_counts': np.zeros(2)}
  rows = _groups.accuracies(found, broken)
  assert {row['test'] for row in rows} == {None}


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('figure/map_index', np.arange(60) + 3),
    ('figure/map_index', np.linspace(0, 1, 60)),
    ('figure/map_index', np.arange(59)),
    ('figure/inferred_test_groups', np.zeros((62, 2))),
    ('figure/inferred_test_groups', np.full(62, np.nan)),
  ],
)
def test_clusters_that_do_not_fit_the_map_are_not_drawn(rng, name, value):
  found, gap = _maps.feature_map(arrays(rng) | {name: value})
  assert gap == ''
  assert 'Discovered groups' not in [p['title'] for p in found['panels']]


def test_groups_that_are_the_fine_classes_are_drawn_once(rng):
  figures = arrays(rng)
  figures['figure/map_groups'] = figures['figure/map_fine']
  figures['figure/map_group_names'] = figures['figure/map_fine_names']
  found, _ = _maps.feature_map(figures)
  assert [p['title'] for p in found['panels']] == [
    'Given classes', 'Fine classes', 'Discovered groups'
  ]  # fmt: skip


def test_a_map_of_classes_alone_is_one_figure(rng):
  figures = {
    name: array
    for name, array in arrays(rng).items()
    if name in ('figure/map', 'figure/map_labels', 'figure/map_class_names')
  }
  found, _ = _maps.feature_map(figures)
  assert len(found['panels']) == 1
  assert '>low<' in found['panels'][0]['svg']


def test_an_error_of_pixels_is_no_share():
  name = 'reconstruction/error'
  row = _results.measurements(*measured({name: 0.0071}))[name]
  assert row['value'] == '0.0071'
  assert row['bar'] is None
  (group,) = _results.groups({name: row})
  assert group['title'] == 'Reconstruction'
