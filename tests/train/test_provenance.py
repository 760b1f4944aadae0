"""A run keeps where its numbers come from, over stops and evaluations."""

import dataclasses
import json
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from rrl_jax import train as train_lib
from rrl_jax.errors import DataError
from rrl_jax.report import _drawing, _figures
from rrl_jax.train import experiment, metrics, provenance
from tests.train.test_label_noise import tiny


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a short run that went on once, and what it printed."""
  root = tmp_path_factory.mktemp('run')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'argv', ['launch.py', '--first', "--config=a b's"])
    train_lib.train_and_evaluate(tiny(total_steps=4), root, {}, quiet=True)
    patch.setattr(sys, 'argv', ['launch.py', '--second', '--restarts=0'])
    train_lib.train_and_evaluate(tiny(), root, {}, quiet=True)
  return root


def test_a_record_has_data_steps_seed_and_how_it_was_made(run):
  record = provenance.read(run)
  expected = {
    'training_images': 100,
    'image_shape': [4, 4, 1],
    'classes': 4,
    'wrong_labels': int(np.load(run / 'noise.npz')['flipped'].sum()),
    'tasks': {},
    'networks': 1,
    'parameters': 16 * 8 + 8 + 8 * 4 + 4,
    'steps': 6,
    'batch_size': 16,
    'seed': 0,
  }
  assert {name: record[name] for name in expected} == expected
  assert 'noise rate 0.3' in record['data']
  assert record['objective'].startswith('gr, ')
  assert 'weighted cross entropy' in record['loss']
  assert record['versions']['jax'] == jax.__version__
  assert record['training_seconds'] > 0
  assert record['evaluation']['seconds'] > 0


def test_each_start_that_counts_is_kept(run):
  record = provenance.read(run)
  first, second = record['starts']
  assert (first['from_step'], second['from_step']) == (0, 4)
  assert first['command'] == ("python launch.py --first '--config=a b'\"'\"'s'")
  assert second['command'] == 'python launch.py --second'
  assert record['evaluation']['command'] == second['command']
  assert first['date'] <= second['date'] <= record['evaluation']['date']


def test_the_page_says_of_such_a_run_that_its_loss_is_not_minimised(
  run, monkeypatch
):
  monkeypatch.setattr(_drawing, 'svg', lambda *args, **kw: '')
  lines = metrics.read(run / 'metrics.jsonl')
  texts = {f['title']: f['text'] for f in _figures.curves(lines)[0]}
  assert 'not its gradient' in texts['Training loss']
  assert 'which may be wrong' in texts['Accuracy on training batches']
  assert 'counts the compilation' in texts['Speed of training']


def test_results_hold_numbers_alone(run):
  results = json.loads((run / 'results.json').read_text())
  assert all(isinstance(value, int | float) for value in results.values())


def test_an_evaluation_anew_keeps_what_was_trained(
  run, tmp_path, monkeypatch, capsys
):
  root = tmp_path / 'run'
  shutil.copytree(run, root)
  before = provenance.read(root)
  monkeypatch.setattr(sys, 'argv', ['launch.py', '--third'])
  config = tiny()
  config.evals = {'accuracy': {}}
  train_lib.evaluate_last(config, root, {})
  printed = capsys.readouterr().out
  assert printed.startswith(f'folder     {root}')
  assert '6 of 16 images (0.96 epochs), seed 0; 6 are' in printed
  assert 'evaluation 1/1: accuracy' in printed
  after = provenance.read(root)
  assert after['evaluation']['command'] == 'python launch.py --third'
  for name in ('starts', 'training_seconds', 'data', 'steps'):
    assert after[name] == before[name]


def test_data_that_were_replaced_are_neither_trained_nor_evaluated_on(
  run, tmp_path, monkeypatch
):
  root = tmp_path / 'run'
  shutil.copytree(run, root)
  load = experiment.load_data

  def replaced(config, **changes):
    splits = load(config, **changes)
    images = np.array(splits.train.images)
    images[7] = 1 - images[7]  # One image of a hundred.
    train = dataclasses.replace(splits.train, images=images)
    return splits._replace(train=train)

  monkeypatch.setattr(experiment, 'load_data', replaced)
  before = provenance.read(root)
  for act in (
    lambda: train_lib.train_and_evaluate(tiny(total_steps=8), root, {}),
    lambda: train_lib.evaluate_last(tiny(), root, {}),
  ):
    with pytest.raises(DataError, match='was trained on other images') as e:
      act()
    assert '\n' not in str(e.value)
  assert provenance.read(root) == before


def test_a_run_of_before_there_were_records_is_evaluated(run, tmp_path):
  root = tmp_path / 'run'
  shutil.copytree(run, root)
  (root / provenance.FILE).unlink()
  config = tiny()
  config.evals = {'accuracy': {}}
  train_lib.evaluate_last(config, root, {}, quiet=True)
  record = provenance.read(root)
  assert record['starts'] == []
  assert record['training_seconds'] is None
  assert record['training_images'] == 100


@pytest.mark.fast
def test_a_table_of_runs_names_what_they_share_and_how_they_differ(tmp_path):
  folders = [tmp_path / str(i) for i in range(6)]
  for i, folder in enumerate(folders[:5]):
    folder.mkdir()
    record = {
      'data': f'digits, noise rate 0.{i}',
      'training_images': 1000 + i // 2,
      'test_images': 252,
      'classes': 10,
      'steps': 1500,
      'seed': i % 2,
      'training_seconds': None if i == 4 else 1.5,
    }
    (folder / provenance.FILE).write_text(json.dumps(record))
  said = provenance.of_runs(tmp_path, folders)
  assert said.startswith(
    'Data: digits, noise rate 0.0; digits, noise rate 0.1; digits, noise rate'
    ' 0.2; 2 more. 1,000 to 1,002 training images, 252 test images,'
    ' 10 classes, 1,500 steps. Seeds 0, 1. 5 runs on '
  )
  record = provenance.read(tmp_path)
  assert record['training_images'] == [1000, 1001, 1002]
  assert record['training_seconds'] == 6.0
  assert record['evaluation']['command'].startswith('python ')
  assert provenance.of_runs(tmp_path, []).startswith('0 runs on ')


def test_a_lost_or_broken_record_is_begun_anew(run, tmp_path):
  built = experiment.build(tiny())
  params = jax.eval_shape(built.init, jax.random.key(0)).params
  state = types.SimpleNamespace(params=params, step=2)
  for text in (None, '[1', '[]', '{"starts": [3, {"from_step": "x"}]}'):
    if text is not None:
      (tmp_path / provenance.FILE).write_text(text)
    record = provenance.begin(built, state, tmp_path)
    (start,) = record['starts']
    assert start['from_step'] == 2


def test_the_header_says_what_is_trained_in_80_columns(run):
  record = provenance.read(run)
  record |= {
    'device': '4 x TPU v5 lite in 2 processes',
    'tasks': {f'a_target_task_with_the_number_{i}': [5, 3] for i in range(4)},
    'networks': 2,
  }
  folder = run / ('long' * 30)
  lines = provenance.header(
    folder, record, start=4, changed='training split: 30 of 100 are wrong'
  )
  wide = [line for line in lines if len(line) > 80]
  assert wide == [f'folder     {folder}']  # A path is one that can be copied.
  text = ' '.join(' '.join(lines).split())
  for said in (
    'data mock,',
    '100 training and',
    '4 classes',
    'changed training split: 30 of 100 are wrong',
    'a_target_task_with_the_number_3 (5 training, 3 test images)',
    '172 parameters, 2 such networks',
    'objective gr',
    'loss shown is the weighted cross entropy',
    'steps 6 of 16 images (0.96 epochs), seed 0; 4 are done',
    'device 4 x TPU v5 lite in 2 processes',
  ):
    assert said in text, said


def git(folder, *args):
  words = ['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=b']
  subprocess.run([*words, *args], check=True, capture_output=True)


@pytest.mark.fast
def test_the_commit_is_that_of_a_checkout_and_tells_of_changes(tmp_path):
  if shutil.which('git') is None:
    pytest.skip('needs git')
  assert provenance.commit(tmp_path) is None
  git(tmp_path, 'init')
  assert provenance.commit(tmp_path) is None  # Without a commit.
  (tmp_path / 'code.py').write_text('1')
  git(tmp_path, 'add', '-A')
  git(tmp_path, 'commit', '-m', 'One')
  clean = provenance.commit(tmp_path)
  assert len(clean) == 12
  (tmp_path / 'untracked.txt').write_text('2')
  assert provenance.commit(tmp_path) == clean
  (tmp_path / 'code.py').write_text('2')
  assert provenance.commit(tmp_path) == f'{clean}+'
  # The repository of a project whose environment holds the package.
  (tmp_path / 'site-packages').mkdir()
  assert provenance.commit(tmp_path / 'site-packages') is None


@pytest.mark.fast
def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert provenance.commit() is None
