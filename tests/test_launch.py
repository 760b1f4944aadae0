"""The command says in one line, with its exit code, what is wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import launch as launcher
from tests.launching import ROOT, environment
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
    (
      ('--config=configs/hro.py', '--config=configs/erm.py'),
      ('--config is given 2 times', 'configs/hro.py', 'configs/erm.py'),
    ),
    (('--flagfile=none.cfg',), ('none.cfg',)),
    (('--config=configs/hro.py', '--config.seed'), ('--config.seed=VALUE',)),
    (('--config=configs/hro.py:npz=',), ('npz= names no file',)),
    (('--config=configs/hro.py:npz=a,idx=b',), ('one set of images',)),
    (('--config=configs/hro.py:el,nzp=a',), ("'nzp=a'", 'npz=PATH')),
    (
      ('--config=configs/hro.py:npz=a', '--config.data.name=idx'),
      ('both choose the data',),
    ),
    (('--config=configs/hro.py', '--config.evals=pgd'), ('a dictionary',)),
    (
      ('--config=configs/hro.py', '--config.evals.calibration.bins=9'),
      ('evals.calibration.bins', 'num_bins'),
    ),
    (
      ('--config=configs/hro.py', '--config.transfer.mine.classes=0,77'),
      ('transfer.mine.classes', '77'),
    ),
    (
      (
        '--config=configs/hro.py',
        '--config.transfer.unseen_classes.concepts=a=77',
      ),
      ('transfer.unseen_classes.concepts', '77'),
    ),
    (
      ('--config=configs/indicators.py', '--config.evals.pgd.epsilon=0.1'),
      ('evals', 'pool.evals'),
    ),
    (
      ('--config=configs/indicators.py', '--config.pool.evals.nope.x=1'),
      ('pool.evals.nope',),
    ),
    (
      ('--config=configs/indicators.py', '--config.objective.kw.nope=1'),
      ('pool.models', 'objective.kw.nope'),
    ),
    (
      ('--config=configs/studies/hro.py', '--config.optim.lr=1'),
      ('optim.lr', 'study.grids'),
    ),
    (
      ('--config=configs/studies/hro.py', '--config.evals='),
      ('study.tuning_evals', 'remix'),
    ),
    (
      ('--config=configs/studies/hro.py', '--config.objective.kw.cost=x'),
      ('study.methods', 'cost'),
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


@pytest.mark.fast
@pytest.mark.parametrize(
  ('text', 'words'),
  [
    (
      'configs/gr.py:gce',
      ('label_smoothing', 'noise=0.4', 'npz=PATH', 'objective.kw.loss=gce'),
    ),
    (
      'configs/studies/hro.py',
      ('study.methods=CL, ', 'study.seeds'),
    ),
    ('configs/indicators.py', ('train_only', 'pool.models=crop, ')),
  ],
)
def test_help_of_a_config_shows_its_own_words_and_fields(text, words, capsys):
  assert launcher.main(['launch.py', f'--config={text}', '--help']) == 0
  said = capsys.readouterr().out
  assert all(word in said for word in words)
  assert 'Exit codes' not in said


def test_help_of_no_config_is_one_line():
  done = launch('--config=configs/hor.py', '--help')
  assert (done.returncode, done.stdout) == (2, '')
  assert len(done.stderr.splitlines()) == 1


def test_whoever_reads_only_the_beginning_is_told_nothing():
  reader, writer = os.pipe()
  os.close(reader)
  command = [sys.executable, 'launch.py', '--config=configs/gr.py', '--help']
  done = subprocess.run(
    command,
    stdout=writer,
    stderr=subprocess.PIPE,
    cwd=ROOT,
    env=environment(),
    check=False,
  )
  os.close(writer)
  assert (done.returncode, done.stderr) == (0, b'')


def test_a_flag_file_may_hold_the_config_and_its_fields(tmp_path):
  path = tmp_path / 'flags'
  path.write_text(
    '--config=configs/hro.py:el\n--config.seed=3\n'
    '--config.objective.kw.gamma=-1\n'
  )
  done = launch(f'--flagfile={path}')
  assert done.returncode == 2
  assert 'gamma' in done.stderr


@pytest.mark.parametrize('config', ['hro.py', 'tarrl.py'])
def test_evaluating_an_absent_folder_makes_none(config, tmp_path):
  done = launch(
    f'--config=configs/{config}',
    '--config.job=evaluate',
    f'--workdir={tmp_path / "run"}',
  )
  assert done.returncode == 3
  assert 'no checkpoint' in done.stderr
  assert not list(tmp_path.iterdir())


def test_images_of_one_s_own_are_what_a_run_trains_on(tmp_path):
  """And the folder of a run that was refused is free for another config."""
  labels = np.arange(120) % 3
  rng = np.random.default_rng(0)
  images = rng.integers(0, 128, (120, 12, 12), dtype=np.uint8)
  images[np.arange(120), labels] += 100
  path, root = tmp_path / 'mine.npz', tmp_path / 'run'
  np.savez(path, images=images, labels=labels)
  config = f'--config=configs/simclr.py:npz={path}'
  command = (
    f'--workdir={root}',
    *TINY,
    '--config.batch_size=8',
    '--config.model.name=mlp',
    '--config.model.kw.widths=(4,)',
    "--config.evals={'transfer':{'probes':('knn',),'k':1}}",
  )
  diverged = launch(config, *command, '--config.optim.lr=1e38')
  assert diverged.returncode == 1
  done = launch(config, *command)
  assert done.returncode == 0, done.stderr
  assert 'now: data.augment.resized_crop=-1' in done.stdout
  made = json.loads((root / 'config.json').read_text())
  assert made['data']['kw']['path'] == str(path)
  results = json.loads((root / 'results.json').read_text())
  assert 'transfer/all_classes/knn_accuracy' in results
  other = launch(config, *command, '--config.optim.lr=0.5')
  assert other.returncode == 2
  assert 'optim.lr is 0.01 there, 0.5 here' in other.stderr
  assert f'--workdir={root}-2' in other.stderr


@pytest.mark.fast
def test_the_folder_of_a_run_is_named_after_its_words():
  folder = lambda text, **kw: str(launcher._default_workdir(text, kw))
  assert folder('configs/hro.py:cl,cifar10') == 'runs/hro-cl-cifar10'
  assert folder('configs/gr.py:gce,npz=/a/b.npz') == 'runs/gr-gce-b'
  assert folder('configs/erm.py', features='x/y.npz') == 'runs/erm-y'


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
