"""The page tells what the files hold, to anyone, and asks for nothing else."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from rrl_jax import report
from rrl_jax.report import _drawing, _figures
from tests.report import run_folder, test_groups_page, test_indicators_page
from tests.report.pages import HOSTILE, TAGS, Page, build

FILES = (
  'config.json',
  'metrics.jsonl',
  'results.json',
  'protocols.json',
  'figures.npz',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return run_folder.write(tmp_path_factory.mktemp('run'))


@pytest.fixture(scope='module')
def text(folder):
  return build(folder)


@pytest.fixture(scope='module')
def hostile_text(tmp_path_factory):
  folder = tmp_path_factory.mktemp('hostile')
  run_folder.write(folder, classes=HOSTILE, concepts=HOSTILE, channels=3)
  run_folder.write_noise(folder, classes=HOSTILE, channels=3)
  config = json.loads((folder / 'config.json').read_text())
  config['data']['name'] = HOSTILE[0]
  config['data']['concepts'] = HOSTILE[1]
  (folder / 'config.json').write_text(json.dumps(config))
  protocols = json.loads((folder / 'protocols.json').read_text())
  protocols['test/accuracy'] = HOSTILE[0]
  (folder / 'protocols.json').write_text(json.dumps(protocols))
  return build(folder)


def test_the_page_lies_in_the_folder_and_nothing_else_does(folder):
  path = report.build(str(folder))
  assert path == folder / 'report' / 'index.html'
  assert [p.name for p in path.parent.iterdir()] == ['index.html']


def test_the_same_files_give_the_same_page(text, tmp_path):
  assert build(run_folder.write(tmp_path)) == text


def test_numbers_intervals_and_protocols_stand_in_the_page(text):
  page = Page(text)
  for words in (
    'HRO on fashion_mnist',
    '78.0 % 75.9 to 79.9 %',
    'Gaussian noise of sigma 0.25 on test images',
    'PGD-20 accuracy',
    'digits: linear probe accuracy',
    'shoes & more',
    'kNN accuracy',
    'test/worst_concept_accuracy',
    'From 1.987 at step 20 to',
    '800 test images of 6 classes',
    'difference times 8.3 around grey',
    'seen as coat, after the attack as sandal',
    'gamma 1, divergence kl',
    'Evaluated at step 1,000',
  ):
    assert words in page.text.replace('\N{NO-BREAK SPACE}', ' '), words
  assert 'Left out' not in page.text
  assert len(page.all('img')) == 18
  assert len(page.all('svg')) == 9


def test_concepts_come_with_the_worst_first(text):
  rows = re.findall(r'"row">([^<]*) <small>[\d,]+ training images<', text)
  assert rows == ['shoes &amp; more', 'dresses', 'clothes']


@pytest.mark.usefixtures('undrawn')
@pytest.mark.parametrize('file', FILES)
@pytest.mark.parametrize('state', ['missing', 'broken'])
def test_a_file_that_is_not_there_leaves_its_section_out(
  folder, tmp_path, file, state
):
  shutil.copytree(folder, tmp_path / 'run')
  if state == 'missing':
    (tmp_path / 'run' / file).unlink()
  else:
    (tmp_path / 'run' / file).write_bytes(b'{"truncated": ')
  page = Page(build(tmp_path / 'run'))
  reason = f'{file} is missing' if state == 'missing' else f'{file} '
  gaps = re.findall(r'[Ll]eft out: ([^.]*\.\w+ [^.]*)\.', page.text)
  assert gaps
  assert all(gap.startswith(reason) for gap in gaps)
  assert ('PGD-20' in page.text) == (file != 'results.json')


@pytest.mark.fast
def test_an_empty_folder_gives_a_page_that_says_so(tmp_path):
  page = Page(build(tmp_path))
  assert page.text.count('is missing') == 7
  assert tmp_path.name in page.text


@pytest.mark.fast
def test_files_of_the_wrong_kind_are_named(tmp_path):
  run_folder.write(tmp_path)
  (tmp_path / 'results.json').write_text('[1, 2]')
  (tmp_path / 'metrics.jsonl').write_text('{"step": "no"}\nnot json\n[]\n')
  np.savez(tmp_path / 'figures.npz', **{'figure/map': np.zeros((3, 4))})
  page = Page(build(tmp_path))
  assert 'results.json holds no object' in page.text
  assert 'metrics.jsonl holds no step' in page.text
  assert 'figures.npz holds no figure/map' in page.text


def test_pickled_arrays_are_refused(tmp_path):
  run_folder.write(tmp_path)
  np.savez(tmp_path / 'figures.npz', **{'figure/map': np.array([{}], object)})
  assert (
    'figures.npz cannot be read (Object arrays' in Page(build(tmp_path)).text
  )


@pytest.mark.usefixtures('undrawn')
def test_values_that_are_no_numbers_are_left_out(tmp_path):
  run_folder.write(tmp_path)
  lines = [
    {'step': 10, 'train/loss': None, 'train/accuracy': 0.5},
    {'step': 20, 'train/loss': float('nan'), 'train/accuracy': 0.6},
  ]
  text = '\n'.join(json.dumps(line) for line in lines) + '\n{"step": 30, "tr'
  (tmp_path / 'metrics.jsonl').write_text(text)
  results = {'test/accuracy': None, 'test/accuracy.low': 0, 'x': 'y'}
  (tmp_path / 'results.json').write_text(json.dumps(results))
  page = Page(build(tmp_path))
  assert 'Training loss' not in page.text
  assert 'From 0.5 at step 10 to 0.6 at step 20' in page.text
  assert 'results.json holds no number' in page.text


def test_hostile_strings_stay_text(hostile_text):
  page = Page(hostile_text)
  assert {tag for tag, _ in page.elements} <= set(TAGS.split())
  for tag, attrs in page.elements:
    assert not [a for a in attrs if a.startswith('on')], tag
    assert attrs.get('src', 'data:').startswith('data:image/png;base64,') or (
      'src' not in attrs
    )
  bold = [attrs for tag, attrs in page.elements if tag == 'b']
  assert all('style' in attrs for attrs in bold)  # The page's own ticks.
  for name in HOSTILE:
    assert ' '.join(name.split()) in page.text


def test_the_page_refers_to_nothing_outside(text, hostile_text):
  for page in (Page(text), Page(hostile_text)):
    (policy,) = [
      a['content']
      for a in page.all('meta')
      if a.get('http-equiv') == 'Content-Security-Policy'
    ]
    assert policy.startswith("default-src 'none'")
    assert 'script' not in policy
    for _, attrs in page.elements:
      for name in ('href', 'src', 'xlink:href', 'action', 'srcset'):
        value = attrs.get(name, '#')
        assert value.startswith(('#', 'data:')), value
      assert 'url(' not in re.sub(r'url\(#', '', attrs.get('style', ''))
  style = text[text.index('<style>') : text.index('</style>')]
  assert 'url(' not in style
  assert '@import' not in style


def test_the_page_serves_readers_who_do_not_see_it(text):
  page = Page(text)
  assert page.all('html')[0]['lang'] == 'en'
  assert page.all('a')[0] == {'class': 'skip', 'href': '#main'}
  ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
  assert len(ids) == len(set(ids))
  for attrs in page.all('a', 'use'):
    target = attrs.get('href') or attrs.get('xlink:href')
    assert target[1:] in ids, target
  for attrs in page.all('section'):
    assert attrs['aria-labelledby'] in ids
  assert all(attrs['alt'] for attrs in page.all('img'))
  for attrs in page.all('svg'):
    assert attrs['role'] == 'img'
    assert attrs['aria-label']
  assert all('scope' in attrs for attrs in page.all('th'))
  levels = [int(tag[1]) for tag, _ in page.elements if tag in ('h1', 'h2')]
  assert levels == [1] + [2] * 7


def test_figures_take_their_colours_from_the_page(text):
  drawings = re.findall(r'<svg.*?</svg>', text, flags=re.S)
  assert drawings
  for drawing in drawings:
    colours = set(re.findall(r'(?:fill|stroke): ([^;"]+)', drawing))
    assert colours <= {'none', 'currentColor'} | {
      f'var(--{name})'
      for name in ['rule', 'muted', *(f'c{k}' for k in range(8))]
    }


@pytest.mark.fast
@pytest.mark.parametrize(
  ('values', 'want'),
  [
    ([0.9, 0.5, 0.1], [0.9, 0.5, 0.1]),
    ([0.5, 0.5, 0.5], [0.5, 0.4, 0.3]),
    ([0.05, 0.04, 0.0], [0.2, 0.1, 0.0]),
  ],
)
def test_labels_of_lines_do_not_overlap(values, want):
  np.testing.assert_allclose(
    _drawing.spread(values, 0.1, 0.0, 1.0), want, atol=1e-12
  )


@pytest.mark.fast
def test_long_curves_are_averaged():
  steps, values = _drawing.thin(np.arange(1000.0), np.arange(1000.0) % 2)
  assert len(steps) == 250
  np.testing.assert_allclose(values, 0.5)
  np.testing.assert_allclose(steps[0], 1.5)


@pytest.mark.fast
def test_texts_of_the_map_do_not_overlap():
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure()
  FigureCanvasAgg(figure)
  ax = figure.add_subplot()
  texts = [ax.text(0.5, 0.5 + 0.001 * k, f'class {k}') for k in range(4)]
  _drawing.part(ax, texts)
  boxes = [text.get_window_extent() for text in texts]
  heights = np.sort([box.y0 for box in boxes])
  assert np.diff(heights).min() >= 0.85 * boxes[0].height


def test_a_curve_that_falls_by_orders_is_logarithmic_and_a_flat_one_no_curve():
  metrics = [
    {'step': k, 'train/loss': 10.0**-k, 'train/gamma': 3.0, 'train/accuracy': k}
    for k in range(5)
  ]
  found, constant = _figures.curves(metrics)
  assert [f['title'] for f in found] == [
    'Training loss',
    'Accuracy on training batches',
  ]
  assert '>0.001<' in found[0]['svg']
  assert constant == 'Never changed: price of transport 3.'


@pytest.mark.fast
@pytest.mark.parametrize(
  ('value', 'want'),
  [(0.1 + 0.2, '0.3'), (9000, '9000'), (12500, '12.5k'), (2.5e6, '2.5M')],
)
def test_ticks_are_short(value, want):
  assert _drawing.tick(value) == want


@pytest.mark.fast
@pytest.mark.usefixtures('undrawn')
def test_many_concepts_are_drawn_in_part_and_tabled_in_full(tmp_path):
  run_folder.write(tmp_path, concepts=tuple(f'concept {k}' for k in range(70)))
  page = Page(build(tmp_path))
  assert '58 more concepts are in the table only' in page.text
  assert '10 more concepts stand in results.json' in page.text


def browse(chromium, page, tmp_path, *flags):
  return subprocess.run(
    [
      chromium,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-background-networking',
      '--disable-sync',
      '--disable-component-update',
      '--no-first-run',
      '--enable-logging=stderr',
      f'--user-data-dir={tmp_path / "profile"}',
      *flags,
      page.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=300,
    check=True,
  )


def assert_fit_a_phone(chromium, pages, tmp_path):
  """Asserts that no page is wider than its window, from its text by name."""
  # Frames as narrow as phones, since a window cannot be; everything unfolded.
  frame = tmp_path / 'frames.html'
  frame.write_text(
    """<!doctype html><title>none</title><body><script>
    const found = [];
    const pages = PAGES;
    for (const name in pages) {
      for (const width of [320, 390, 800]) {
        const frame = document.createElement('iframe');
        frame.style.width = `${width}px`;
        frame.style.height = '800px';
        frame.srcdoc = pages[name];
        frame.onload = () => {
          const page = frame.contentDocument;
          for (const d of page.querySelectorAll('details')) d.open = true;
          const root = page.documentElement;
          const wide = [...page.querySelectorAll('body *')].filter(
            (e) => e.getBoundingClientRect().right > root.clientWidth + 1);
          found.push([name, root.clientWidth, root.scrollWidth,
            root.scrollHeight, wide.slice(0, 5).map(
              (e) => e.tagName + e.textContent.slice(0, 30))]);
          document.title = JSON.stringify(found);
        };
        document.body.append(frame);
      }
    }
    </script>""".replace(
      'PAGES',
      json.dumps(pages).replace('<', '\\u003c'),
    ),
    encoding='utf-8',
  )
  shown = browse(
    chromium, frame, tmp_path, '--virtual-time-budget=9000', '--dump-dom'
  )
  title = re.search('<title>(.*)</title>', shown.stdout).group(1)
  found = json.loads(html.unescape(title))
  assert len(found) == 3 * len(pages)
  for name, width, scroll_width, height, wide in found:
    assert 300 <= width <= 800
    assert scroll_width <= width, (name, wide)
    assert height > 2000, name


def test_a_phone_shows_all_pages_without_sideways_scrolling(
  text, hostile_text, chromium, tmp_path
):
  groups = test_groups_page.write_hostile(tmp_path / 'groups')
  indicators = test_indicators_page.write(tmp_path / 'indicators')
  pages = {
    'plain': text,
    'hostile': hostile_text,
    'groups': build(groups),
    'indicators': build(indicators),
  }
  assert '<script' not in ''.join(pages.values())
  assert_fit_a_phone(chromium, pages, tmp_path)


def test_a_browser_renders_the_page_and_refuses_nothing(
  chromium, folder, text, tmp_path
):
  from PIL import Image

  shot = tmp_path / 'shot.png'
  found = browse(
    chromium,
    folder / 'report' / 'index.html',
    tmp_path,
    '--window-size=390,2400',
    f'--screenshot={shot}',
  )
  # The policy would make the browser refuse, and say so, any request.
  assert 'Refused' not in found.stderr
  assert 'violates' not in found.stderr
  assert 'CONSOLE' not in found.stderr
  pixels = np.asarray(Image.open(shot).convert('L'))
  assert pixels.shape == (2400, 390)
  assert np.mean(pixels < 128) > 0.01
