"""What the page says of indicators and of accuracy under corruptions."""

import json

import numpy as np
import pytest

from rrl_jax.report import _corruption, _indicators, _results
from tests.report.pages import Page, build

pytestmark = pytest.mark.fast

NAMES = ('gaussian_noise', 'elastic_transform', 'fog')


def numbers():
  """Results and protocols as the evaluators write them."""
  values = {
    'indicators/clean_accuracy': (0.9, 0.85, 0.94),
    'indicators/kmeans_accuracy': (0.7, 0.64, 0.76),
    'indicators/label_free/kmeans_accuracy': (0.75, 0.7, 0.8),
    'indicators/purity': (0.72, 0.66, 0.78),
    'indicators/multicut_accuracy': (0.62, 0.55, 0.68),
    'indicators/multicut_purity': (0.81, 0.75, 0.86),
    'indicators/multicut_ari': (0.55,),
    'indicators/multicut_num_clusters': (14.0, 14.0, 14.0),
    'indicators/multicut_threshold': (0.43, 0.43, 0.43),
    'indicators/log_me': (-0.25,),
    'indicators/calinski_harabasz': (1234.56,),
    'indicators/newer_one': (0.125,),
    'corruption/mean_accuracy': (0.6, 0.57, 0.63),
    'corruption/clean_accuracy': (0.8, 0.76, 0.84),
    'corruption/accuracy_drop': (0.2, 0.17, 0.23),
    'shifted/mano': (0.31,),
  }
  for name in NAMES:
    values[f'corruption/{name}/accuracy'] = (0.6, 0.55, 0.65)
    for severity in range(1, 6):
      values[f'corruption/{name}/accuracy/{severity}'] = (0.6, 0.5, 0.7)
  results, protocols = {'step': 0}, {}
  for name, (value, *ends) in values.items():
    results[name] = value
    if ends:
      results |= {f'{name}.low': ends[0], f'{name}.high': ends[1]}
    exact = ends and ends[0] == ends[1]
    protocols[name] = f'Protocol of {name}; {"exact" if exact else "n=200"}.'
  return results, protocols


def arrays(**changes):
  rng = np.random.default_rng(0)
  accuracy = np.linspace(0.8, 0.35, 15).reshape(3, 5)
  made = {
    'figure/indicator_thresholds': np.array([0.6, 0.2, 0.4]),
    'figure/indicator_sweep': np.array(
      [[0.3, 0.9, 0.2, 40], [0.5, 0.5, 0.4, 3], [0.61, 0.8, 0.5, 12]]
    ),
    'figure/indicator_threshold': np.array([0.43]),
    'figure/corruption_names': np.array(NAMES),
    'figure/corruption_severities': np.arange(1, 6),
    'figure/corruption_accuracy': accuracy,
    'figure/corruption_examples': rng.integers(
      0, 256, (3, 5, 16, 16, 1), np.uint8
    ),
    'figure/corruption_example_severities': np.arange(1, 6),
    'figure/corruption_example_clean': np.zeros((16, 16, 1), np.uint8),
    'figure/corruption_example_class': np.array('<bag>'),
  } | changes
  return {name: x for name, x in made.items() if x is not None}


def write(folder, *, features=None, **changes):
  folder.mkdir(exist_ok=True)
  results, protocols = numbers()
  config = {'objective': {'name': 'erm'}, 'data': {'name': 'digits'}}
  config |= {'features': features}
  for name, content in (
    ('config', config),
    ('results', results),
    ('protocols', protocols),
  ):
    (folder / f'{name}.json').write_text(json.dumps(content))
  np.savez(folder / 'figures.npz', **arrays(**changes))
  return folder


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  return build(write(tmp_path_factory.mktemp('run')))


def test_both_sections_stand_in_the_page(text):
  page = Page(text)
  sections = {a['id'] for a in page.all('section')}
  assert {'indicators', 'corruption'} <= sections
  assert {'#indicators', '#corruption'} <= {a['href'] for a in page.all('a')}
  for said in (
    'None of these numbers is an accuracy under shift',
    'The greatest accuracy of the sweep, 0.610, is at 0.4 with 12 clusters.',
    'the calibrated threshold, 0.430; accuracy 0.620 with 14 clusters.',
    'k-means: accuracy 0.700 0.640 to 0.760 0.750 0.700 to 0.800',
    'Multicut: clusters 14',
    'LogME \N{MINUS SIGN}0.250',
    'Calinski-Harabasz 1,234.6',
    'Newer one 0.125',
    'Accuracy in percent; on average 57.5 %, under fog 41.4 %.',
    'elastic transform 57.5 63.9 60.7 57.5 54.3 51.1',
    'mean 57.5 63.9',
  ):
    assert said in page.text, said


def test_the_table_of_results_keeps_the_headlines_only(text):
  page = Page(text)
  table = page.text[: page.text.index('None of these numbers')]
  for kept in ('mean_accuracy', 'indicators/kmeans_accuracy', 'shifted/mano'):
    assert kept in table
  for gone in ('fog/accuracy', 'label_free', 'multicut_ari', 'log_me'):
    assert gone not in table
  protocols = page.text[page.text.index('None of these numbers') :]
  for name in ('indicators/log_me', 'corruption/fog/accuracy'):
    assert f'Protocol of {name}' in protocols
  assert '+20.0 points' in page.text


def test_a_cell_is_the_darker_the_more_is_lost():
  results, protocols = numbers()
  measured = _results.measurements(results, protocols)
  found, shown = _corruption.part(measured, arrays())
  rows = found['table']['rows']
  shades = [cell['shade'] for row in rows for cell in row['cells']]
  assert shades == sorted(shades)
  assert shades[0] == 0
  lost = (0.8 - 0.35) / 0.8
  np.testing.assert_allclose(shades[-1], 45 * lost, atol=0.06)
  assert 'corruption/fog/accuracy/3' in shown
  assert 'corruption/mean_accuracy' not in shown


def test_each_corruption_has_its_strip_of_pictures(text):
  page = Page(text)
  strips = [a for a in page.all('img') if 'severity' in a['alt']]
  assert len(strips) == 3
  assert 'severity 1, 2, 3, 4, 5: elastic transform' in strips[1]['alt']
  assert all(a['class'] == 'tiny' for a in strips)
  assert 'class <bag>: no corruption' in page.all('img')[0]['alt']


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'figure/corruption_names': None}, 'holds no figure/corruption_names'),
    (
      {'figure/corruption_accuracy': np.ones((3, 4))},
      r'have shape (3, 4)',
    ),
    ({'figure/corruption_accuracy': np.full((3, 5), np.nan)}, 'not finite'),
    ({'figure/corruption_accuracy': np.full((3, 5), 2.0)}, 'not in [0, 1]'),
    (
      {'figure/corruption_examples': np.ones((2, 5, 4, 4, 1), np.uint8)},
      'examples of corruptions have shape',
    ),
    (
      {'figure/indicator_thresholds': None},
      'a part of the sweep of thresholds only',
    ),
    ({'figure/indicator_sweep': np.ones((3, 3))}, 'has shape (3, 3)'),
    ({'figure/indicator_sweep': np.full((3, 4), np.inf)}, 'not finite'),
    ({'figure/indicator_sweep': np.zeros((3, 4))}, 'holds no clusters'),
  ],
)
def test_arrays_that_do_not_fit_leave_a_line(tmp_path, changes, message):
  results, protocols = numbers()
  measured = _results.measurements(results, protocols)
  given = arrays(**changes)
  parts = [module.part(measured, given)[0] for module in MODULES]
  gaps = [part['gap'] for part in parts if part['gap']]
  assert len(gaps) == 1
  assert message in gaps[0]


MODULES = (_corruption, _indicators)


def test_a_run_without_either_has_no_section():
  assert _corruption.part({}, {}) == (None, set())
  assert _indicators.part({}, {}) == (None, set())


def test_a_page_of_features_speaks_of_no_training(tmp_path):
  page = Page(build(write(tmp_path, features='/data/mine.npz')))
  assert 'Features of mine.npz' in page.text
  assert 'what was scored' in page.text
  sections = {a['id'] for a in page.all('section')}
  assert not {'curves', 'weights', 'concepts', 'pairs', 'map'} & sections
  for word in ('ERM', 'metrics.jsonl is missing', 'Epochs'):
    assert word not in page.text
