"""What the page says of a run on wrong labels."""

import json
import re

import numpy as np
import pytest

from rrl_jax.report import _calibration, _drawing, _figures, _label_noise
from tests.report import run_folder
from tests.report.pages import Page, build, words

SECTIONS = ('noise', 'suspicious', 'calibration')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = run_folder.write(tmp_path_factory.mktemp('noise'))
  return run_folder.write_noise(folder)


@pytest.fixture(scope='module')
def text(folder):
  return build(folder)


@pytest.fixture
def arrays(folder):
  with np.load(folder / 'figures.npz') as found:
    return dict(found)


def test_the_page_shows_whom_the_network_learned_from(text):
  page, shown = Page(text), words(text)
  assert {a['id'] for a in page.all('section')} >= set(SECTIONS)
  for said in (
    'clean : its label is the true one',
    'line: exp(8 p^0.5 (1 \N{MINUS SIGN} p))',
    'flipped 40.0 % (of the examples 30.0 %)',
    'Of flipped ones 30.0 % are memorised at the end',
    'best 90.0 % at step 300, last 41.0 %',
    'In truth: 1 labelled rightly, 3 with a wrong label, 2 of no class.',
    '100 test images by confidence',
    'the accuracy 50.0 %',
    'p 1e-60',
  ):
    assert said in shown, said
  assert 'Left out' not in page.text
  assert 'Accuracy on test images' not in page.text  # Drawn with the fit.
  ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
  assert len(ids) == len(set(ids))


def test_suspicious_images_are_enlarged_by_pixels_and_described(text):
  images = [a for a in Page(text).all('img') if 'Training' in a['alt']]
  assert len(images) == 6
  assert {a.get('class') for a in images} == {'tiny'}
  alts = [a['alt'] for a in images]
  assert alts[0] == (
    'Training image labelled T-shirt, seen as trouser, in truth trouser'
  )
  assert alts[1].endswith('in truth no class')


def test_numbers_have_their_units(text):
  shown = words(text)
  for said in (
    'Log loss 0.700 nats 0.500 to 0.900',
    'Error of that estimate \N{MINUS SIGN}3.2 points exact',
    'Flipped labels 30.0 % exact',
    'Flipped, by loss: ROC area 0.970 0.960 to 0.980',
    'Flipped, by weight: average precision 0.500',
    'Clean 40.0 % none',
    'Who gets the gradient Share of each group in the sum',
  ):
    assert said in shown, said
  assert shown.index('test/best_accuracy') < shown.index(
    'test/worst_concept_accuracy'
  )


@pytest.mark.usefixtures('undrawn')
def test_a_run_without_noise_has_no_word_of_it(tmp_path):
  page = Page(build(run_folder.write(tmp_path)))
  assert not {a['id'] for a in page.all('section')} & set(SECTIONS)
  assert not {a['href'] for a in page.all('a')} & {f'#{s}' for s in SECTIONS}


@pytest.mark.fast
def test_what_this_run_does_not_have_is_one_line(tmp_path):
  np.savez(tmp_path / 'figures.npz', **{'figure/x': np.zeros(3)})
  (tmp_path / 'results.json').write_text('{}')
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "train/loss": 2}')
  page = Page(build(tmp_path))
  assert 'Not in this run: results.json holds no test/accuracy' in page.text
  assert {a['id'] for a in page.all('section')} == {
    'results',
    'curves',
    'protocol',
  }
  ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
  assert all(a['href'][1:] in ids for a in page.all('a'))


@pytest.mark.parametrize('kind', ['shape', 'nan', 'text', 'absent'])
@pytest.mark.parametrize(
  ('name', 'section'),
  [
    ('label_probability', 'noise'),
    ('label_group', 'noise'),
    ('label_weight', 'noise'),
    ('suspicious_images', 'suspicious'),
    ('suspicious_given', 'suspicious'),
    ('suspicious_true', 'suspicious'),
    ('suspicious_probability', 'suspicious'),
    ('calibration_count', 'calibration'),
    ('calibration_right', 'calibration'),
  ],
)
def test_damaged_arrays_give_a_reason_in_place_of_a_figure(
  arrays, name, section, kind
):
  broken = arrays.pop(f'figure/{name}')
  if kind == 'shape':
    arrays[f'figure/{name}'] = np.zeros((7, 3))
  elif kind == 'nan':
    arrays[f'figure/{name}'] = np.full(broken.shape, np.nan)
  elif kind == 'text':
    arrays[f'figure/{name}'] = np.full(broken.shape, 'x')
  found, reason = {
    'noise': lambda: _label_noise.emphasis(arrays, [], known=True),
    'suspicious': lambda: _label_noise.suspicious(arrays, known=True),
    'calibration': lambda: _calibration.diagram(arrays),
  }[section]()
  if kind == 'absent' and name == 'label_weight':
    assert found['title'] == 'Probability of the labels'
  elif kind == 'absent' and name in ('label_probability', 'suspicious_images'):
    assert (found, reason) == (None, '')
  else:
    assert found is None
    assert 'figure/' in reason


def test_a_damaged_figure_leaves_the_others(folder, arrays, tmp_path):
  run_folder.write_noise(run_folder.write(tmp_path))
  arrays['figure/label_weight'] = np.full(500, np.inf)
  arrays['figure/calibration_right'] = arrays['figure/calibration_count'] + 1
  arrays['figure/class_names'] = np.zeros((2, 2))
  np.savez(tmp_path / 'figures.npz', **arrays)
  said = words(build(tmp_path))
  assert 'Left out: figure/label_weight holds no weight' in said
  assert 'Left out: figure/calibration_... holds impossible counts' in said
  assert 'What was learned, what memorised' in said
  assert 'label class 0 seen class 1' in said


@pytest.mark.fast
def test_without_true_labels_nobody_is_called_wrong(arrays):
  found, _ = _label_noise.suspicious(arrays, known=False)
  assert 'truth' not in found['text']
  assert {row['true'] for row in found['images']} == {''}
  figure, _ = _label_noise.emphasis(arrays, [], known=False)
  assert 'median: all 0.' in figure['text']
  assert 'clean' not in figure['text']
  assert _label_noise.rates({}, []) == {}


@pytest.mark.fast
def test_rates_come_from_the_metrics_while_there_are_no_results():
  metrics = [{'step': 1, 'noise/flipped_rate': 0.4, 'noise/abnormal_rate': 0.1}]
  rates = _label_noise.rates({}, metrics)
  assert rates == pytest.approx({'clean': 0.5, 'flipped': 0.4, 'abnormal': 0.1})


def test_the_formula_is_named_only_if_the_weights_follow_it(arrays):
  metrics = [{'step': 1, 'train/focus': 0.5, 'train/spread': 8}]
  figure, _ = _label_noise.emphasis(arrays, metrics, known=True)
  assert 'line: exp(8\N{NO-BREAK SPACE}p^0.5' in figure['text']
  arrays['figure/label_weight'] = 2 * (1 - arrays['figure/label_probability'])
  figure, _ = _label_noise.emphasis(arrays, metrics, known=True)
  assert 'line: their mean' in figure['text']


@pytest.mark.parametrize('channels', [1, 3])
def test_large_images_are_reduced(arrays, channels):
  image = np.full((6, 400, 300, channels), 0.5, np.float32)
  arrays['figure/suspicious_images'] = image
  found, _ = _label_noise.suspicious(arrays, known=True)
  assert not found['images'][0]['tiny']
  assert _label_noise._reduced(image[0]).shape == (134, 100, channels)
  assert _drawing.png((255 * image[0]).astype(np.uint8)) != _drawing.png(
    image[0] * 0
  )


def test_a_group_has_one_colour_everywhere(text):
  assert 'background:var(--c1)"></i><strong>flipped<' in text
  for ident in ('emphasis', 'mass', 'fit'):
    (drawing,) = [
      found
      for found in re.findall('<svg.*?</svg>', text, flags=re.S)
      if f'id="{ident}-' in found
    ]
    assert {'var(--c0)', 'var(--c1)', 'var(--muted)'} <= set(
      re.findall(r'(?:fill|stroke): ([^;"]+)', drawing)
    )


@pytest.mark.fast
@pytest.mark.parametrize(
  ('focus', 'want'), [(0, 'exp(8 (1 - p))'), (1, 'exp(8 p (1 - p))')]
)
def test_formulas_are_written_as_one_would(focus, want):
  found = _label_noise._written(focus, 8.0)
  assert found.split() == want.replace('-', '\N{MINUS SIGN}').split()


@pytest.mark.fast
def test_a_loss_that_is_not_minimised_says_so():
  metrics = [{'step': k, 'train/loss': 1 + k} for k in range(3)]
  (plain,), _ = _figures.curves(metrics)
  assert 'cross entropy' not in plain['text']
  metrics[0]['train/effective_share'] = 0.5
  (rescaled, _), _ = _figures.curves(metrics)
  assert 'may rise while the network learns' in rescaled['text']


@pytest.mark.usefixtures('undrawn')
def test_numbers_too_large_for_a_float_are_left_out(tmp_path):
  run_folder.write_noise(run_folder.write(tmp_path))
  results = json.loads((tmp_path / 'results.json').read_text())
  (tmp_path / 'results.json').write_text(
    json.dumps(results | {'mass/flipped': 10**400, 'noise/flipped_rate': 7})
  )
  (tmp_path / 'metrics.jsonl').write_text(
    json.dumps({'step': 10, 'mass/clean': 10**400, 'train/loss': 1})
  )
  page = words(build(tmp_path))
  assert 'median: all 0.' in page
  assert 'Who gets the gradient Share of each group' in page  # The table.
  assert 'mass/flipped' not in page
