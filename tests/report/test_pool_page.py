"""The page of a pool shows every model and number, to anyone."""

import html.parser
import json

import numpy as np
import pytest

from rrl_jax import report
from rrl_jax.report import _pool
from rrl_jax.studies import pool_table

CORRUPTIONS = ('gaussian_noise', 'fog', 'pixelate')
CONTROL = 'test/accuracy'
TARGETS = ('corruption/mean_accuracy', 'corruption/relative_accuracy')
HOSTILE = '<script>alert("x")</script>'


def results_of(rng):
  """Of a model: clean accuracy, indicators, accuracy on corruptions."""
  clean = rng.uniform(0.5, 0.9)
  robust = clean * rng.uniform(0.6, 0.95)
  found = {
    CONTROL: clean,
    'indicators/kmeans_accuracy': robust + 0.05 * rng.normal(),
    'indicators/multicut_accuracy': clean + 0.05 * rng.normal(),
    'indicators/overlap': 1 - clean + 0.1 * rng.normal(),
    'indicators/label_free/purity': rng.uniform(),
    'shifted/mano': robust + 0.01 * rng.normal(),
    TARGETS[0]: robust,
    TARGETS[1]: robust / clean,
  }
  for threshold in (0.3, 0.6):
    for measure in ('accuracy', 'purity', 'ari'):
      found[f'indicators/sweep/{threshold}/{measure}'] = rng.uniform()
  for name in CORRUPTIONS:
    found[f'corruption/{name}/accuracy'] = robust * rng.uniform(0.8, 1.1)
  return found


def make_table(num_models=10, names=None):
  rng = np.random.default_rng(0)
  names = names or [f'model_{i}' for i in range(num_models)]
  results = [results_of(rng) for _ in names]
  labels = rng.integers(0, 3, 60)

  def predicted(accuracy, shape):
    right = rng.random((*shape, 60)) < accuracy
    return np.where(right, labels, (labels + 1) % 3)

  figures = {
    name: {
      'clean_predictions': predicted(row[CONTROL], ()),
      'corruption_predictions': predicted(row[TARGETS[0]], (3, 2)),
      'corruption_labels': labels,
    }
    for name, row in zip(names, results, strict=True)
  }
  return {
    'control': CONTROL,
    'combination': ['indicators/kmeans_accuracy', 'indicators/overlap'],
    'targets': {
      target: pool_table.relate(
        results,
        names,
        names,
        target=target,
        control=CONTROL,
        combination=['indicators/kmeans_accuracy', 'indicators/overlap'],
        resamples=20,
        permutations=50,
        seed=0,
      )
      for target in TARGETS
    },
    'models': {
      name: {
        'recipe': name,
        'source': None,
        'results': {
          field: {'value': x, 'low': x - 0.02, 'high': x + 0.02}
          for field, x in row.items()
          if '/sweep/' not in field
        },
      }
      for name, row in zip(names, results, strict=True)
    },
    'agreement_on_the_line': pool_table.agreement_on_the_line(figures),
    'estimates': {'difference_of_confidences': 0.1},
  }


class Page(html.parser.HTMLParser):
  """Elements that close as they open, and the text."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.words, self._open = [], [], []
    self.feed(text)
    assert not self._open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in ('meta', 'link', 'img', 'br', 'path', 'use'):
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if 'style' not in self._open:
      self.words.append(data)

  @property
  def text(self):
    return ' '.join(' '.join(self.words).split())


@pytest.fixture(scope='module')
def table():
  return make_table()


def build(folder, table):
  folder.mkdir(exist_ok=True)
  (folder / 'table.json').write_text(json.dumps(table))
  return report.build_pool(folder).read_text('utf-8')


@pytest.fixture(scope='module')
def text(table, tmp_path_factory):
  return build(tmp_path_factory.mktemp('page') / 'pool', table)


@pytest.fixture(scope='module')
def page(text):
  return Page(text)


def test_every_model_corruption_and_indicator_is_named(page, table):
  for name in table['models']:
    assert name.replace('_', ' ') in page.text
  for name in CORRUPTIONS:
    assert name.replace('_', ' ') in page.text
  for name in table['targets'][TARGETS[0]]['associations']:
    assert _pool.words(name) in page.text
  assert '10' in page.text
  assert 'sweep 0.3' not in page.text  # Drawn, not tested.


def test_numbers_stand_as_in_the_table(page, table):
  found = table['targets'][TARGETS[0]]['associations']['shifted/mano']
  assert f'{found["spearman"]["value"]:.2f}' in page.text
  error = table['agreement_on_the_line']['error']['pairwise']
  assert f'{error:.1%} by pairs' in page.text


def test_the_best_model_comes_first(page, table):
  order = _pool.ranked(table, TARGETS[0])
  worth = [table['models'][n]['results'][TARGETS[0]]['value'] for n in order]
  assert worth == sorted(worth, reverse=True)
  at = [page.text.index(f'{k + 1}. {n}'.replace('_', ' '))
        for k, n in enumerate(order)]  # fmt: skip
  assert at == sorted(at)


def test_drawings_are_named_and_ids_are_unique(page):
  labels = [a.get('aria-label') for tag, a in page.elements if tag == 'svg']
  assert len(labels) >= 6
  assert all(labels)
  ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
  assert len(ids) == len(set(ids))
  links = [a['href'][1:] for tag, a in page.elements if tag == 'a']
  assert set(links) <= set(ids)


def test_nothing_runs_and_nothing_is_asked_for(page):
  for tag, attrs in page.elements:
    assert tag != 'script'
    for name, value in attrs.items():
      assert not name.startswith('on')
      if name in ('src', 'href', 'xlink:href'):
        assert value.startswith(('#', 'data:'))


def test_a_ratio_comes_with_its_warning(page):
  assert page.text.count('such a pair goes together by itself') == 1


def test_names_are_text(tmp_path):
  names = [HOSTILE, '{{ 7 * 7 }}', 'c', 'd']
  page = Page(build(tmp_path, make_table(names=names)))
  assert HOSTILE in page.text
  assert '{{ 7 * 7 }}' in page.text
  assert not [tag for tag, _ in page.elements if tag == 'script']


def test_the_same_table_gives_the_same_page(tmp_path, table, text):
  assert build(tmp_path / 'pool', table) == text  # So are both folders called.


def test_what_a_pool_lacks_is_left_out(tmp_path):
  table = make_table(4)
  for model in table['models'].values():
    model['results'] = {
      name: found
      for name, found in model['results'].items()
      if 'corruption/' not in name
    }
  for target in table['targets']:
    table['targets'][target] = {
      'num_models': 0, 'num_recipes': 0, 'left_out': '0 recipes have it'
    }  # fmt: skip
  table['agreement_on_the_line'] = {'left_out': '0 models have predictions'}
  page = Page(build(tmp_path, table))
  assert 'Left out: 0 recipes have it.' in page.text
  assert 'Left out: 0 models have predictions.' in page.text
  assert 'model 3' in page.text
  assert 'Accuracy by corruption' not in page.text


@pytest.mark.fast
@pytest.mark.parametrize(
  ('content', 'words'),
  [
    (None, 'table.json is missing'),
    ('{', 'table.json cannot be read'),
    ('{"models": {}}', 'table.json holds no models'),
  ],
)
def test_a_broken_table_is_said_to_be_broken(tmp_path, content, words):
  if content is not None:
    (tmp_path / 'table.json').write_text(content)
  page = Page(report.build_pool(tmp_path).read_text('utf-8'))
  assert words in page.text
