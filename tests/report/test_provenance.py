"""A page says where its numbers come from, as far as the folder tells."""

import json

import pytest

from rrl_jax.report import _provenance
from tests.report import run_folder
from tests.report.pages import HOSTILE, Page, build

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures('undrawn')]

NOW = {
  'date': '2026-11-30T23:59:00-02:00',
  'command': 'python launch.py --config=configs/hro.py',
  'commit': 'abcdef012345+',
  'device': '4 x TPU v5 lite',
}
RECORD = {
  'data': 'digits',
  'training_images': 1234,
  'test_images': 252,
  'image_shape': [8, 8, 1],
  'classes': 7,
  'wrong_labels': None,
  'tasks': {'unseen': [426, 107]},
  'networks': 2,
  'parameters': 17031,
  'loss': 'shown is another one',
  'steps': 1500,
  'seed': 3,
  'starts': [
    NOW | {'from_step': 0, 'command': 'python launch.py --first'},
    NOW | {'from_step': 700},
  ],
  'training_seconds': 84.2,
  'evaluation': NOW | {'seconds': 1000},
  'versions': {'jax': '0.10.2', 'wandb': 'not installed', 'devices': '4'},
}


def page(folder, record):
  run_folder.write(folder)
  (folder / 'provenance.json').write_text(json.dumps(record))
  return Page(build(folder))


def test_a_page_says_data_steps_seed_command_commit_device_and_date(tmp_path):
  text = page(tmp_path, RECORD).text
  for said in (
    '1,234 training images · 252 test images · 1,500 steps · seed 3',
    '4 x TPU v5 lite · trained in 84 s, evaluated in 17 min · 2026-12-01',
    'commit abcdef012345+',
    'unseen (426 training, 107 test images)',
    '17,031 in each of 2 networks',
    'Loss shown shown is another one',
    'Command python launch.py --config=configs/hro.py',
    'Trained by python launch.py --first',
    'with changes to tracked files',
    '2026-12-01 01:59 UTC',
    'Versions jax 0.10.2',
  ):
    assert said in text, said
  assert 'wandb' not in text
  assert 'made wrong' not in text


def test_a_folder_without_a_record_says_what_is_not_known(tmp_path):
  text = Page(build(run_folder.write(tmp_path))).text
  assert 'Not recorded: command, commit, device and date' in text


def test_an_installed_package_has_no_commit(tmp_path):
  record = RECORD | {'evaluation': NOW | {'commit': None}}
  assert 'Commit no checkout' in page(tmp_path, record).text


@pytest.mark.parametrize(
  'broken',
  [
    [],
    dict.fromkeys(RECORD, HOSTILE[0]),
    {name: [HOSTILE] for name in RECORD},
    {name: {'x': None} for name in RECORD},
    RECORD | {'evaluation': dict.fromkeys(NOW, HOSTILE[1])},
    RECORD | {'evaluation': {'date': '99999', 'seconds': -1}, 'steps': True},
  ],
)
def test_a_record_of_anything_gives_a_page(tmp_path, broken):
  shown = page(tmp_path, broken)
  assert not shown.all('script')
  assert shown.text


def test_features_have_a_record_too():
  record = {'examples': 1500, 'dimensions': 784, 'classes': 10}
  assert _provenance.summary(record) == ['1,500 examples']
  (row,) = _provenance.rows(record)
  assert row == ('Images', '1,500 examples, 784 dimensions, 10 classes')


def test_several_runs_have_ranges():
  record = {
    'runs': 12,
    'data': ['digits', 'mock', None],
    'training_images': [500, 526],
    'steps': [164],
    'seed': [3, 4],
  }
  assert _provenance.summary(record) == [
    '500 to 526 training images',
    '12 runs',
    '164 steps',
    'seeds 3, 4',
  ]
  assert ('Data', 'digits; mock') in _provenance.rows(record)
