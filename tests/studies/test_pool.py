"""A pool trains, evaluates and relates its models, and leaves others alone."""

import json
import pathlib
import re

from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common, indicators
from rrl_jax import indicators as indicators_lib
from rrl_jax import train
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import Measurement
from rrl_jax.studies import pool, pool_table
from tests.processes import POOL_EVALS

CONTROL = 'test/accuracy'
TARGET = 'corruption/mean_accuracy'
RELATIVE = 'corruption/relative_accuracy'


def model(width=4, **fields):
  """Two steps of a digits classifier."""
  config = common.base()
  config.model.kw.widths = (width,)
  config.optim.name = 'adam'
  config.optim.lr = 0.01
  config.batch_size = 64
  config.total_steps = 2
  config.ckpt_steps = 2
  config.mesh.data = 1
  config.update_from_flattened_dict(fields)
  return config


def config_of(models, **changes):
  config = common.base()
  config.job = 'pool'
  config.pool = indicators.pool(models, train_only=False)
  config.pool.resamples = 20
  config.pool.update(changes)
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The folder of a pool of three models, trained and evaluated."""
  root = tmp_path_factory.mktemp('pool')
  models = {f'width_{w}': model(w) for w in (2, 4, 8)}
  config = config_of(models, evals=POOL_EVALS)
  assert pool.run(config, root, {})
  return root, config


def contents(folder: pathlib.Path):
  """Every file with its bytes and its time."""
  return {
    str(path): (path.read_bytes(), path.stat().st_mtime_ns)
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def test_a_pool_relates_indicators_to_corruptions(trained):
  root, _ = trained
  table = json.loads((root / 'table.json').read_text())
  for target in (TARGET, RELATIVE):
    found = table['targets'][target]
    assert found['num_models'] == found['num_recipes'] == 3
    assert 'indicators/kmeans_accuracy' in found['associations']
    assert 'shifted/mano' in found['associations']
    assert found['associations'][CONTROL]['partial_pearson']['value'] is None
    assert 'accuracy' in found['sweep']
    # Of three models none stays that could have a partial correlation.
    weakest = found['weakest']['indicators/kmeans_accuracy']
    assert weakest == {'value': None, 'left_out': []}
  for name, found in table['models'].items():
    accuracy = found['results'][TARGET]
    assert accuracy['low'] <= accuracy['value'] <= accuracy['high']
    results = json.loads((root / 'models' / name / 'results.json').read_text())
    assert accuracy['value'] == results[TARGET]
  text = (root / 'table.md').read_text()
  assert 'a pair goes together by itself' in text
  assert '| width_2 |' in text
  assert re.search(r'Data: .*test images, .* steps. Seeds? .* runs on ', text)
  assert len(list((root / 'corrupted').iterdir())) == 1  # Made once for all.


def test_what_is_done_is_not_done_again(trained, monkeypatch):
  root, config = trained

  def fail(*args, **kw):
    raise AssertionError('trained or evaluated again')

  monkeypatch.setattr('rrl_jax.train.train_and_evaluate', fail)
  monkeypatch.setattr('rrl_jax.train.evaluate_last', fail)
  before = (root / 'table.json').read_bytes()
  pool.run(config, root, {})
  assert (root / 'table.json').read_bytes() == before


def test_runs_elsewhere_join_and_stay_as_they_are(trained, tmp_path):
  root, _ = trained
  folders = tuple(str(f) for f in sorted((root / 'models').iterdir()))
  before = contents(root)
  asked = {'accuracy': {'train_examples': 0}}
  config = config_of({}, folders=folders, evals=asked, targets=('test/loss',))
  members = pool.members_of(config.pool, tmp_path)
  assert [m.name for m in members] == ['width_2', 'width_4', 'width_8']
  assert [str(m.source) for m in members] == list(folders)
  found = pool._measure(members[1], asked, '2/3')
  assert contents(root) == before
  assert members[1].folder == tmp_path / 'folders' / 'width_4'
  there = json.loads((root / 'models/width_4/results.json').read_text())
  assert found[CONTROL].value == there[CONTROL]
  assert pool._measure(members[1], asked, '2/3') == found  # Read, not done.


@pytest.fixture
def measured(monkeypatch):
  """Replaces training and evaluation by a formula of the width."""
  done = []

  def train_one(member, position):
    done.append(('train', member.name))

  def measure(member, config_evals, position):
    done.append(('measure', member.name))
    width = member.config.model.kw.widths[0]
    numbers = {
      CONTROL: 0.5 + width / 100,
      TARGET: 0.3 + width / 80 + 0.01 * (width % 3),
      RELATIVE: 0.6 + 0.01 * (width % 5),
      'indicators/kmeans_accuracy': 0.2 + width / 90,
      'indicators/sweep/0.5/accuracy': 0.1,
      'indicators/multicut_num_examples': 9.0,
      'shifted/mano': 0.4 + 0.02 * (width % 4),
      'shifted/mano_mean_absolute_error': 0.1 * width,
    }
    return {
      n: Measurement(x, np.nan, np.nan, 'told') for n, x in numbers.items()
    }

  monkeypatch.setattr(pool, '_train', train_one)
  monkeypatch.setattr(pool, '_measure', measure)
  monkeypatch.setattr(pool, '_figures', lambda folder: {})
  return done


def four(**fields):
  return {f'm{w}': model(w, **fields) for w in (2, 4, 7, 13)}


def test_all_are_trained_before_any_is_evaluated(measured, tmp_path):
  pool.run(config_of(four()), tmp_path, {})
  assert [what for what, _ in measured] == ['train'] * 4 + ['measure'] * 4


def test_training_alone_asks_no_evaluator(measured, tmp_path):
  config = config_of(four(), train_only=True, evals={'not_written_yet': {}})
  assert not pool.run(config, tmp_path, {})
  assert {what for what, _ in measured} == {'train'}
  assert not (tmp_path / 'table.json').exists()
  config.pool.train_only = False
  with pytest.raises(ConfigError, match='not_written_yet'):
    pool.run(config, tmp_path, {})


def test_a_pool_may_grow(measured, tmp_path):
  pool.run(config_of(four()), tmp_path, {})
  models = four() | {'more': model(16)}
  pool.run(config_of(models, resamples=5), tmp_path, {})
  table = json.loads((tmp_path / 'table.json').read_text())
  assert 'more' in table['models']


def test_seeds_of_one_recipe_are_one_recipe(measured, tmp_path):
  models = {}
  for width in (2, 4, 7):
    for seed in (0, 1):
      fields = {'seed': seed, 'data.seed': seed, 'data.noise.seed': seed}
      models[f'w{width}s{seed}'] = model(width, **fields)
  pool.run(config_of(models), tmp_path, {})
  found = json.loads((tmp_path / 'table.json').read_text())['targets'][TARGET]
  assert (found['num_models'], found['num_recipes']) == (6, 3)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('fields', 'same'),
  [
    ({'seed': 1, 'data.seed': 1, 'data.noise.seed': 1}, True),
    ({'log_steps': 1, 'ckpt_steps': 1, 'keep_last': 1}, True),
    ({'mesh.data': -1, 'mesh.fsdp': 8, 'data.num_threads': 1}, True),
    ({'tracker': 'wandb', 'eval_batch_size': 7}, True),
    ({'interim_steps': 1, 'interim_evals': {'accuracy': {}}}, True),
    ({'evals': {}, 'transfer': {'fine': {'classes': ''}}}, True),
    ({'total_epochs': 7.0}, True),  # The steps are given, and win.
    ({'total_steps': 3}, False),
    ({'optim.lr': 0.02}, False),
    ({'data.noise.kind': 'pair', 'data.noise.rate': 0.1}, False),
    ({'micro_batches': 2}, False),
  ],
)
def test_a_recipe_is_what_decides_the_training_but_for_seeds(fields, same):
  recipe = lambda config: pool.Member('a', config, pathlib.Path('a')).recipe
  assert (recipe(model()) == recipe(model(**fields))) == same


def test_without_steps_the_epochs_are_the_recipe():
  configs = [model(total_steps=None, total_epochs=n) for n in (7.0, 8.0)]
  members = [pool.Member('a', each, pathlib.Path('a')) for each in configs]
  assert members[0].recipe != members[1].recipe


def features_of(path, rng, **arrays):
  labels = np.repeat([0, 1, 2], 12)
  features = 3 * np.eye(4)[labels] + rng.normal(size=(36, 4))
  logits = features[:, :3]
  np.savez(path, features=features, labels=labels, logits=logits, **arrays)
  return str(path)


def test_features_from_elsewhere_join_as_far_as_something_is_told(
  measured, tmp_path, rng
):
  files = (
    features_of(tmp_path / 'told.npz', rng, robust_accuracy=0.41),
    features_of(tmp_path / 'untold.npz', rng),
  )
  evaluators = {'indicators': {'num_restarts': 1, 'sweep': (0.5,)}}
  config = config_of(four(), features=files, evals=evaluators)
  pool.run(config, tmp_path / 'pool', {})
  table = json.loads((tmp_path / 'pool' / 'table.json').read_text())
  assert table['targets'][TARGET]['num_models'] == 5
  assert table['targets'][RELATIVE]['num_models'] == 4
  assert table['models']['told']['results'][TARGET]['value'] == 0.41
  untold = table['models']['untold']['results']
  assert TARGET not in untold
  assert (
    untold[CONTROL]['value'] == untold['indicators/clean_accuracy']['value']
  )


def test_counts_errors_and_sweeps_are_no_indicators(measured, tmp_path):
  pool.run(config_of(four()), tmp_path, {})
  table = json.loads((tmp_path / 'table.json').read_text())
  assert set(table['targets'][TARGET]['associations']) == {
    CONTROL,
    'indicators/kmeans_accuracy',
    'shifted/mano',
  }
  assert table['estimates'] == {'mano': pytest.approx(0.1 * 26 / 4)}


@pytest.mark.parametrize(
  ('models', 'changes', 'error', 'words'),
  [
    ((2, 4), {}, DataError, 'pool: 2 models, and no association'),
    ((2, 4, 8), {'evals': {'corrupt': {}}}, ConfigError, 'evals.corrupt is'),
    ((2, 4, 8), {'targets': ()}, ConfigError, 'pool.targets'),
    ((2, 4, 8), {'resamples': -1}, ConfigError, 'pool.resamples=-1'),
    ((2, 4, 8), {'folder': ''}, ConfigError, 'pool.folder is unknown'),
    ((2, 4, 8), {'folders': ('gone',)}, DataError, 'gone holds no run'),
    ((2, 4, 8), {'features': ('gone.npz',)}, DataError, 'gone.npz'),
    ((2, 4, 0), {}, ConfigError, 'pool.models: m0: .*widths'),
  ],
)
def test_bad_pools_end_in_one_line_before_any_work(
  measured, tmp_path, models, changes, error, words
):
  config = config_of({f'm{w}': model(w) for w in models}, **changes)
  with pytest.raises(error, match=words) as caught:
    pool.run(config, tmp_path / 'pool', {})
  assert '\n' not in str(caught.value)
  assert not measured
  assert not (tmp_path / 'pool').exists()


@pytest.mark.fast
@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'data.name': 'mock'}, "data.name is 'digits' for a, 'mock' for d"),
    ({'data.classes': '0-4'}, "data.classes is '' for a, '0-4' for d"),
    ({'data.split_seed': 3}, 'data.split_seed is 0 for a, 3 for d'),
    ({'data.validation': 0.2}, 'data.validation is None for a, 0.2 for d'),
  ],
)
def test_models_of_other_test_images_are_refused(tmp_path, fields, words):
  models = {'a': model(2), 'b': model(4), 'c': model(8), 'd': model(8)}
  models['d'].update_from_flattened_dict(fields)
  with pytest.raises(ConfigError, match=words):
    pool.members_of(config_of(models).pool, tmp_path)


def test_training_data_may_differ():
  models = four()
  models['m2'].data.noise = {'kind': 'symmetric', 'rate': 0.4}
  models['m4'].data.imbalance = ','.join(['0.5'] * 10)
  members = pool.members_of(
    config_of(models, train_only=True).pool, pathlib.Path('unused')
  )
  assert len({member.recipe for member in members}) == 4


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(model().to_dict()))
  config = config_of(four(), folders=(str(folder),))
  with pytest.raises(DataError, match='run has no checkpoint'):
    pool.members_of(config.pool, tmp_path)
  (folder / 'config.json').write_text('{')
  with pytest.raises(DataError, match=r'config\.json cannot be read'):
    pool.members_of(config.pool, tmp_path)


@pytest.mark.parametrize(
  ('told', 'words'),
  [(1.5, 'robust_accuracy=1.5 is not in'), ([0.1, 0.2], 'not one number')],
)
def test_an_accuracy_that_is_none_is_refused(tmp_path, rng, told, words):
  path = features_of(tmp_path / 'f.npz', rng, robust_accuracy=told)
  with pytest.raises(DataError, match=words):
    pool.run(config_of(four(), features=(path,)), tmp_path / 'pool', {})


@pytest.mark.fast
def test_folders_are_named_by_as_much_of_their_path_as_it_takes():
  paths = [pathlib.Path(p) for p in ('/r/a/seed0', '/r/b/seed0', '/r/b/seed1')]
  assert pool._names(paths) == ['a_seed0', 'b_seed0', 'b_seed1']
  assert pool._names(paths[1:]) == ['seed0', 'seed1']
  assert pool._names([]) == []
  with pytest.raises(ConfigError, match='twice'):
    pool._names([paths[0], paths[0]])


def figures_of(rng, labels, clean, shifted):
  """Predictions of a model that errs independently of the others."""
  wrong = (labels + rng.integers(1, 5, (3, len(labels)))) % 5
  right = lambda share: rng.random(len(labels)) < share
  rows = [np.where(right(a), labels, w) for a, w in zip(
    (clean, shifted, shifted - 0.1), wrong, strict=True
  )]  # fmt: skip
  return {
    'clean_predictions': rows[0],
    'corruption_predictions': np.stack(rows[1:])[None],
    'corruption_labels': labels,
  }


def test_agreement_on_the_line_is_that_of_each_corruption(rng):
  labels = rng.integers(0, 5, 4000)
  figures = {
    f'm{i}': figures_of(rng, labels, 0.95 - i / 10, 0.8 - i / 10)
    for i in range(5)
  }
  found = pool_table.agreement_on_the_line(figures)
  clean = np.stack([each['clean_predictions'] for each in figures.values()])
  errors = []
  for k in (0, 1):
    shifted = np.stack(
      [each['corruption_predictions'][0, k] for each in figures.values()]
    )
    line = indicators_lib.agreement_on_the_line(clean, labels, shifted)
    errors.append(np.abs(line.pairwise - np.mean(shifted == labels, axis=1)))
  np.testing.assert_allclose(found['error']['pairwise'], np.mean(errors))
  assert found['num_lines'] == 2
  assert found['error']['pairwise'] < found['error']['clean_accuracy'] / 3
  truth = np.mean(figures['m0']['corruption_predictions'] == labels)
  np.testing.assert_allclose(found['models']['m0']['truth'], truth)


@pytest.mark.fast
def test_agreement_is_left_out_where_there_is_no_line(rng):
  labels = rng.integers(0, 5, 50)
  same = figures_of(rng, labels, 0.9, 0.5)
  found = pool_table.agreement_on_the_line({'a': same, 'b': same, 'c': same})
  assert 'no corruption leaves pairs' in found['left_out']
  found = pool_table.agreement_on_the_line({'a': same, 'b': {}, 'c': same})
  assert found == {'left_out': '2 models have predictions'}
  other = same | {'corruption_labels': (labels + 1) % 5}
  found = pool_table.agreement_on_the_line({'a': same, 'b': same, 'c': other})
  assert found == {'left_out': 'c and a were tested on different images'}


def test_a_run_of_before_a_field_existed_is_evaluated(trained, tmp_path):
  """Its checkpoint is signed by a config that did not have the field."""
  root, config = trained
  folder = root / 'models' / 'width_2'
  now = ConfigDict(config.pool.models.width_2)
  now.data.kw.invented_later = None
  encoder, _ = train.last_encoder(now, folder)
  assert encoder.variables is not None
