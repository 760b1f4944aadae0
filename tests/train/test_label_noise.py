"""A run with wrong labels: evaluated on the way, resumed, blind to truth."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import gr
from rrl_jax import train as train_lib
from rrl_jax.data import noise
from rrl_jax.train import evaluation, experiment, loop
from rrl_jax.train.workdir import Workdir


def tiny(arg='gr', **changes):
  """A few steps on a hundred random images, a third of the labels wrong."""
  config = gr.get_config(f'{arg},noise=0.3')
  config.data.name = 'mock'
  config.data.kw.num_examples = 100
  config.data.kw.num_classes = 4
  config.data.kw.image_shape = (4, 4, 1)
  config.model.kw.widths = (8,)
  config.batch_size = 16
  config.total_steps = 6
  config.ckpt_steps = 2
  config.log_steps = 3
  config.interim_steps = 2
  config.mesh.data = 1
  for name in ('calibration', 'label_noise'):
    config.evals[name].resamples = 10
  config.update_from_flattened_dict(changes)
  return config


def lines_of(root):
  text = (root / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def run(root, *args, **changes):
  return train_lib.train_and_evaluate(
    tiny(*args, **changes), root, {}, quiet=True
  )


ESTIMATING = {'arg': 'gr,estimate', 'objective.kw.warmup_steps': 3}


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """The folder and the results of a run that nothing stopped."""
  root = tmp_path_factory.mktemp('straight')
  return root, run(root, **ESTIMATING)


def test_a_run_is_evaluated_while_it_trains(straight):
  root, found = straight
  lines = {line['step']: line for line in lines_of(root)}
  # Step 1, every third and last step, and every second for the evaluation.
  assert sorted(lines) == [1, 2, 3, 4, 6]
  for step in (2, 4, 6):
    assert {'test/accuracy', 'fit/flipped_accuracy', 'mass/clean'} <= set(
      lines[step]
    )
  assert 'test/accuracy' not in lines[3]
  assert lines[6]['test/accuracy'] == found['test/accuracy'].value
  best = max(lines[step]['test/accuracy'] for step in (2, 4, 6))
  assert found['test/best_accuracy'].value == best
  assert 'of 3 evaluations' in found['test/best_accuracy'].protocol
  assert 'optimistic' in found['test/best_accuracy'].protocol


def test_the_evaluation_changes_no_step(straight, tmp_path):
  run(tmp_path, **ESTIMATING, interim_steps=0, evals={})
  (a, b) = (
    {line['step']: line['train/loss'] for line in lines_of(root)}
    for root in (straight[0], tmp_path)
  )
  assert b.items() <= a.items()
  assert sorted(b) == [1, 3, 6]


def test_a_resumed_run_has_the_same_lines_and_results(straight, tmp_path):
  root = tmp_path / 'resumed'
  shutil.copytree(straight[0], root)
  for step in (4, 6):
    shutil.rmtree(root / 'checkpoints' / str(step))
  run(root, **ESTIMATING)
  drop = lambda line: {
    k: v for k, v in line.items() if k not in ('time', 'train/images_per_sec')
  }
  assert [drop(line) for line in lines_of(root)] == [
    drop(line) for line in lines_of(straight[0])
  ]
  results = [
    json.loads((folder / 'results.json').read_text())
    for folder in (straight[0], root)
  ]
  assert results[0] == results[1]
  assert 'noise/estimate_error' in results[0]


def test_the_truth_is_stored_with_the_run_and_kept_from_training(straight):
  built = experiment.build(tiny())
  truth = built.data.train.truth
  labels, stored = noise.load(Workdir(straight[0]).truth)
  np.testing.assert_array_equal(labels, built.data.train.labels)
  np.testing.assert_array_equal(stored.labels, truth.labels)
  counts = np.bincount(truth.labels, minlength=4)
  wrong = np.bincount(truth.labels[truth.flipped], minlength=4)
  np.testing.assert_array_equal(wrong, np.round(0.3 * counts))
  store = loop.resident_set(built)
  assert set(store) == {'image', 'label', 'concept'}
  np.testing.assert_array_equal(store['label'], built.data.train.labels)
  assert not np.array_equal(store['label'], truth.labels)
  np.testing.assert_array_equal(store['concept'], built.data.train.labels)
  batch = next(loop.read_batches(built, 0, lookup=True))
  assert set(batch) == {'label', 'concept', 'index'}
  rows = np.asarray(batch['index'])
  np.testing.assert_array_equal(batch['label'], built.data.train.labels[rows])
  assert built.data.test.truth is None


@pytest.mark.fast
def test_both_rates_are_printed():
  words = loop.tampering(experiment.build(tiny('gr,symmetric_inclusive')))
  assert '0.3 of the labels' in words
  assert '0.225 of all labels are expected to be wrong' in words
  assert 'told a noise_rate of 0.27' in words
  words = loop.tampering(experiment.build(tiny('gr,abnormal')))
  assert words.startswith('training split: 30 of 100 training images replaced')


def test_held_out_examples_are_as_noisy_as_the_rest_and_called_so():
  config = tiny()
  config.data.validation = 0.2
  built = experiment.build(config)
  state = jax.jit(built.init)(jax.random.key(0))
  asked = {'accuracy': {'train_examples': 0}, 'calibration': {'resamples': 0}}
  found, _ = evaluation.Evaluator(built)(state, asked)
  for name in ('test/accuracy', 'test/calibration_error'):
    assert 'partly wrong labels' in found[name].protocol.lower()
  test = built.data.test
  wrong = test.labels != test.truth.labels
  np.testing.assert_array_equal(wrong, test.truth.flipped)
  assert 0 < wrong.mean() < 1


def test_a_method_that_estimates_trains_and_is_evaluated(straight):
  _, found = straight
  assert 0 <= found['test/accuracy'].value <= 1
  assert 'fit/flipped_accuracy' in found


@pytest.mark.parametrize(
  'arg',
  [
    'co_teaching',
    'elr',
    pytest.param('mixup', marks=pytest.mark.full),
    pytest.param('apl', marks=pytest.mark.full),
  ],
)
def test_every_method_trains_and_is_evaluated(tmp_path, arg):
  found = run(tmp_path, arg, total_steps=2)
  assert 0 <= found['test/accuracy'].value <= 1
  assert 'fit/flipped_accuracy' in found


def test_the_first_of_two_networks_is_evaluated():
  built = experiment.build(tiny('co_teaching'))
  state = jax.jit(built.init)(jax.random.key(0))
  assert jax.tree.leaves(state.params)[0].shape[0] == 2
  first = state.replace(
    params=jax.tree.map(lambda leaf: np.asarray(leaf)[0], state.params)
  )
  question = {'accuracy': {'train_examples': 0}}
  two, _ = evaluation.Evaluator(built)(state, question)
  single = experiment.build(tiny('erm'))
  one, _ = evaluation.Evaluator(single)(first, question)
  assert two['test/accuracy'] == one['test/accuracy']


def test_micro_batches_must_divide_the_batch():
  with pytest.raises(Exception, match='micro_batches=3'):
    experiment.build(tiny(micro_batches=3))
  built = experiment.build(tiny(micro_batches=4))
  batch = experiment.abstract_batch(16, (4, 4, 1))
  state = jax.eval_shape(built.init, jax.random.key(0))
  new, _ = jax.eval_shape(built.step, state, batch)
  assert jax.tree.structure(new) == jax.tree.structure(state)


def test_a_collapse_is_told_once(capsys):
  built = experiment.build(tiny(log_steps=1))
  record = loop._Recorder(built, lambda *args: None, lambda *args: None, 0)
  metrics = dict.fromkeys(('loss', 'grad_norm', 'param_norm'), 1.0)
  for step, collapse in enumerate((0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9)):
    record(step + 1, metrics | {'collapse': collapse})
  said = capsys.readouterr().err
  assert said.count('has collapsed to one class') == 1
  assert said.startswith('step 6: ')


@pytest.mark.full
def test_a_run_of_too_large_steps_collapses_and_says_so(tmp_path, capsys):
  # A learning rate this large leaves a network of dead units.
  run(
    tmp_path,
    **{
      'optim.name': 'sgd',
      'optim.lr': 1e4,
      'total_steps': 20,
      'log_steps': 1,
      'interim_steps': 0,
    },
  )
  said = capsys.readouterr().err
  assert said.count('has collapsed to one class') == 1


@pytest.mark.fast
@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'data.noise.rate': 1.2}, 'data.noise.rate=1.2'),
    ({'data.noise.kind': 'salt'}, "data.noise.kind='salt'"),
    ({'data.noise.kind': 'none'}, 'data.noise.rate=0.3: data.noise.kind is'),
    ({'objective.kw.warmup_steps': 6}, 'warmup_steps=6: the run has 6 steps'),
    ({'interim_steps': -1}, 'interim_steps=-1'),
    (
      {'data.noise.kind': 'asymmetric', 'data.noise.mapping': '9>elephant'},
      'elephant',
    ),
    ({'objective.kw.focus': -1.0}, 'focus=-1'),
    ({'interim_evals': {'accuracyy': {}}}, 'accuracyy'),
  ],
)
def test_wrong_fields_are_one_line(tmp_path, changes, words):
  config = tiny()
  interim = changes.pop('interim_evals', None)
  config.update_from_flattened_dict(changes)
  if interim:
    config.interim_evals = interim
  with pytest.raises(Exception, match=words) as caught:
    train_lib.train_and_evaluate(config, tmp_path / 'run', {}, quiet=True)
  assert type(caught.value).__name__ == 'ConfigError'
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'run').exists()
