"""The command says in one line, with its exit code, what is wrong."""

import json

import numpy as np
import pytest

import launch as launcher
from tests.launching import run as launch

TINY = ('--config.total_steps=3', '--config.ckpt_steps=2')


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    ((), ('--config', 'configs/hro.py')),
    (('--config=configs/hor.py',), ('configs/hor.py', 'configs/hro.py')),
    (('--config=configs/hro.py:ell',), ('ell', 'el', 'fashion_mnist')),
    (('--config=configs/hro.py', '--config.lr=1'), ('lr', 'optim')),
    (('--config=configs/hro.py', '--config.optim.lrr=1'), ('lrr', 'lr')),
    (('--config=configs/hro.py', '--config.optim.lr=abc'), ('abc', 'optim.lr')),
    (('--config=configs/hro.py', '--config.seed=1.5'), ('1.5', 'seed')),
    (('--config=configs/hro.py', '--config.job=trian'), ('trian', 'train')),
    (('--config=configs/hro.py', '--config.batch_size=0'), ('batch_size',)),
    (('--config=configs/hro.py', '--fast'), ('fast',)),
    (('--config=configs/hro.py', 'fast'), ('fast',)),
    (
      ('--config=configs/hro.py', '--config.objective.name=hor'),
      ('hor', 'erm', 'hro'),
    ),
    (
      ('--config=configs/hro.py', '--config.objective.kw.gamma=-1'),
      ('gamma', '-1'),
    ),
    (('--config=configs/hro.py', '--config.model.name=mpl'), ('mpl', 'mlp')),
    (('--config=configs/hro.py', '--config.data.name=digit'), ('digits',)),
    (('--config=configs/hro.py:cl,el',), ('cl', 'el', 'variant')),
    (('--config=README.md',), ('README.md', 'configs/hro.py')),
    (('--config=configs/hro.py', '--config.job=study'), ('study',)),
    (('--config=configs/hro.py', '--config.total_epochs=inf'), ('inf',)),
    (('--config=configs/hro.py', f'--config.seed={10**22}'), ('seed',)),
    (('--config=configs/hro.py', '--config.optim.lr=inf'), ('optim.lr',)),
    (
      ('--config=configs/hro.py', '--config.data.augment.crop=-1'),
      ('crop', '-1'),
    ),
    (
      ('--config=configs/hro.py', "--config.model.kw.widths=('a',)"),
      ('model.kw',),
    ),
    (
      (
        '--config=configs/hro.py',
        '--config.transfer.unseen_classes.classes=77',
      ),
      ('77',),
    ),
    (('--config=configs/hro.py', '--multihost'), ('--coordinator',)),
    (
      ('--config=configs/hro.py', '--config.evals.pgd.epsilon=-1'),
      ('epsilon', '-1'),
    ),
    (  # The config's own data.kw are those of tfds, and forgotten.
      (
        '--config=configs/hro.py:cifar10',
        '--config.data.name=mock',
        '--config.data.kw.num_test=0',
      ),
      ('data.kw.num_test', '0'),
    ),
    (
      (
        '--config=configs/hro.py:cifar10',
        '--config.data.name=mock',
        '--config.data.kw.data_set=mnist',
      ),
      ('data.kw.data_set', 'mock'),
    ),
  ],
  ids=lambda value: value[-1] if value else 'none',
)
def test_a_wrong_command_exits_2_with_one_line(args, words, tmp_path):
  done = launch(*args, f'--workdir={tmp_path / "run"}')
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert all(word in done.stderr for word in words)
  assert not (tmp_path / 'run').exists()


def test_missing_data_exits_3_with_one_line(tmp_path):
  done = launch(
    '--config=configs/hro.py',
    '--config.data.name=npz',
    f'--config.data.kw.path={tmp_path / "none.npz"}',
    f'--workdir={tmp_path / "run"}',
  )
  assert done.returncode == 3
  assert len(done.stderr.splitlines()) == 1
  assert 'none.npz' in done.stderr
  assert not (tmp_path / 'run').exists()


def test_features_that_cannot_be_used_exit_3_with_one_line(tmp_path):
  path = tmp_path / 'x.npz'
  features = np.where(np.arange(12) == 7, np.nan, 0).reshape(6, 2)
  np.savez(path, features=features, labels=np.arange(6) % 2)
  done = launch(
    '--config=configs/erm.py',
    f'--config.features={path}',
    f'--workdir={tmp_path / "run"}',
  )
  assert done.returncode == 3
  assert done.stderr.splitlines() == [
    f'rrl_jax: {path}: features holds NaN or inf in 1 of 6 rows, first in row 3'
  ]
  assert not (tmp_path / 'run').exists()


def test_features_of_a_file_are_scored_in_place_of_training(tmp_path):
  path, root = tmp_path / 'x.npz', tmp_path / 'run'
  labels = np.arange(30) % 3
  features = np.eye(3)[labels] + 0.1 * np.random.default_rng(0).random((30, 3))
  np.savez(path, features=features, labels=labels)
  done = launch(
    '--config=configs/erm.py', f'--config.features={path}', f'--workdir={root}'
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr == ''
  results = json.loads((root / 'results.json').read_text())
  assert results['indicators/kmeans_accuracy'] == 1.0
  assert 'Features of x.npz' in (root / 'report' / 'index.html').read_text()
  assert not (root / 'checkpoints').exists()


@pytest.mark.fast
def test_help_names_exit_codes_and_configs(capsys):
  assert launcher.main(['launch.py', '--help']) == 0
  said = capsys.readouterr().out
  assert all(word in said for word in ('75', '--workdir', 'configs/hro.py'))


def test_a_run_leaves_its_folder_is_done_then_goes_on(tmp_path):
  root = tmp_path / 'run'
  command = ('--config=configs/hro.py', f'--workdir={root}', *TINY[1:])
  first = launch(*command, TINY[0])
  assert first.returncode == 0, first.stderr
  assert first.stderr == ''
  for name in (
    'config.json',
    'overrides.json',
    'versions.json',
    'metrics.jsonl',
    'results.json',
    'protocols.json',
    'report/index.html',
    'checkpoints/3',
  ):
    assert (root / name).exists(), name
  assert list(root.glob('events.out.tfevents.*'))
  overrides = json.loads((root / 'overrides.json').read_text())
  assert overrides['total_steps'] == 3
  results = json.loads((root / 'results.json').read_text())
  for key in (
    'test/accuracy',
    'test/worst_concept_accuracy',
    'test/accuracy/rare',
    'test/noise_accuracy',
    'test/pgd20_accuracy',
    'transfer/linear_probe_accuracy',
    'transfer/svm_accuracy',
    'transfer/knn_accuracy',
  ):
    low, value, high = (results[key + end] for end in ('.low', '', '.high'))
    assert 0 <= low <= value <= high <= 1

  again = launch(*command, TINY[0])
  assert again.returncode == 0, again.stderr
  assert 'is done' in again.stdout
  assert json.loads((root / 'results.json').read_text()) == results

  longer = launch(*command, '--config.total_steps=5')
  assert longer.returncode == 0, longer.stderr
  lines = (root / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 3, 5]

  other = launch(*command, TINY[0], '--config.seed=9')
  assert other.returncode == 2
  assert 'seed is 0 there, 9 here' in other.stderr

  evaluated = launch(
    *command, '--config.total_steps=5', '--config.job=evaluate'
  )
  assert evaluated.returncode == 0, evaluated.stderr


def test_a_field_may_be_set_that_is_also_a_word_of_the_config_class():
  done = launch(
    '--config=configs/hro.py',
    '--config.objective.kw.mix_update=ascent',
    '--config.objective.kw.temperature=-1',
  )
  assert done.returncode == 2
  assert 'temperature' in done.stderr


def test_two_processes_do_not_share_a_folder(tmp_path):
  fcntl = pytest.importorskip('fcntl')
  root = tmp_path / 'run'
  root.mkdir()
  with (root / '.lock').open('a') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    done = launch('--config=configs/hro.py', f'--workdir={root}', *TINY)
  assert done.returncode == 2
  assert 'another process' in done.stderr
  assert [path.name for path in root.iterdir()] == ['.lock']
