"""What the page says of a run that spreads classes and decodes images."""

import json
import re

import numpy as np
import pytest

from rrl_jax.report import _thanos
from tests.report import run_folder
from tests.report.pages import Page, build

pytestmark = pytest.mark.fast


def arrays(rng, **changes):
  inputs = rng.random((4, 8, 8, 1)).astype(np.float32)
  return {
    'figure/reconstructions_inputs': inputs,
    'figure/reconstructions_outputs': inputs + np.float32(0.1),
    'figure/reconstructions_labels': np.array([0, 1, 2, 0]),
    'figure/reconstructions_class_names': np.array(['zero', 'one', '<two>']),
  } | changes


def metrics():
  return [
    {
      'step': step,
      'train/class_spread': 0.3,
      'train/class_spread/low': 0.2 + 1 / step,
      'train/class_spread/high': 0.4,
      'train/within_cosine': 0.7,
      'train/between_cosine': -0.6 + 1 / step,
    }
    for step in (10, 20, 40)
  ]


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  folder = run_folder.write(tmp_path_factory.mktemp('thanos'))
  (folder / 'metrics.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in metrics())
  )
  np.savez(folder / 'figures.npz', **arrays(np.random.default_rng(0)))
  return build(folder)


def test_the_page_shows_spread_by_class_and_reconstructions(text):
  page = Page(text)
  assert 'spread' in {a['id'] for a in page.all('section')}
  for said in (
    'Spread of each class',
    '0 where the class has collapsed to a point',
    'At the end 0.7 within and -0.575 between classes',
    'squared error 0.01',
    '<two>',
  ):
    assert said in page.text, said
  shown = [a for a in page.all('img') if 'econstruct' in a['alt']]
  assert len(shown) == 4
  ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
  assert len(ids) == len(set(ids))


@pytest.mark.usefixtures('undrawn')
def test_a_run_without_them_has_no_such_section(tmp_path):
  page = Page(build(run_folder.write(tmp_path / 'run')))
  assert 'spread' not in {a['id'] for a in page.all('section')}
  assert _thanos.part([], {}) is None


def test_each_image_has_its_error_and_class(rng):
  images, gap = _thanos.reconstructions(arrays(rng))
  assert gap == ''
  assert [i['label'] for i in images] == ['zero', 'one', '<two>', 'zero']
  assert {i['error'] for i in images} == {'0.01'}
  assert all(i['tiny'] for i in images)
  assert images[0]['given'] != images[0]['made']


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'figure/reconstructions_outputs': np.zeros((4, 7, 8, 1))}, 'shapes'),
    ({'figure/reconstructions_labels': np.zeros(3)}, 'labels .* shape'),
    (
      {'figure/reconstructions_outputs': np.full((4, 8, 8, 1), np.nan)},
      'not finite',
    ),
  ],
)
def test_what_cannot_be_drawn_is_said(rng, changes, words):
  images, gap = _thanos.reconstructions(arrays(rng, **changes))
  assert images == []
  assert not gap.endswith('.')
  found = _thanos.part([], arrays(rng, **changes))
  assert found['gap'] == gap
  assert re.search(words, gap)
