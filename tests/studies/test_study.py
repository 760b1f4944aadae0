"""A study tunes alike, compares pairwise, and says what it saw."""

import json

from ml_collections import ConfigDict
import numpy as np
import pytest
from scipy import stats

from configs import common, hro
from rrl_jax import studies
from rrl_jax.errors import ConfigError, DivergedError
from rrl_jax.evals import Measurement
from rrl_jax.studies import table as table_lib


def rows(*values):
  return [{'test/accuracy': value} for value in values]


@pytest.mark.fast
def test_a_cell_is_the_student_interval_of_the_seeds():
  values = np.array([0.5, 0.6, 0.9])
  table = studies.make_table({'A': rows(*values)}, 'A', ('test/accuracy',))
  cell = table['A']['test/accuracy']
  low, high = stats.t.interval(
    0.95, 2, loc=values.mean(), scale=stats.sem(values)
  )
  np.testing.assert_allclose(
    [cell.mean - cell.half_width, cell.mean + cell.half_width], [low, high]
  )


@pytest.mark.fast
def test_a_difference_is_paired_by_seed():
  # Seeds differ much, methods by a constant: only pairing sees it.
  table = studies.make_table(
    {'A': rows(0.1, 0.5, 0.9), 'B': rows(0.2, 0.6, 1.0)},
    'A',
    ('test/accuracy',),
  )
  cell = table['B']['test/accuracy']
  np.testing.assert_allclose(cell.difference, 0.1)
  np.testing.assert_allclose(cell.difference_half_width, 0, atol=1e-12)
  assert cell.half_width > 0.3


@pytest.mark.fast
def test_the_table_marks_what_leaves_zero_out_and_nothing_else():
  table = studies.make_table(
    {
      'base': rows(0.5, 0.6, 0.7),
      'better': rows(0.6, 0.71, 0.8),
      'worse': rows(0.4, 0.51, 0.6),
      'tied': rows(0.4, 0.7, 0.7),
    },
    'base',
    ('test/accuracy',),
  )
  text = studies.to_markdown(table, 'base', {}, 3)
  line = lambda name: next(x for x in text.splitlines() if f'| {name} ' in x)
  assert line('better').endswith('**+** |')
  assert line('worse').endswith('**-** |')
  assert '**' not in line('tied')
  assert '**' not in line('base')
  assert '60.0%' in line('base')


@pytest.mark.fast
def test_conditions_list_what_was_tuned_and_nothing_else():
  found = {
    name: table_lib.Found(
      chosen,
      {'A': rows(0.5, 0.6)},
      studies.make_table({'A': rows(0.5, 0.6)}, 'A', ('test/accuracy',)),
    )
    for name, chosen in (
      ('tuned', {'A': {'optim.lr': 0.1}}),
      ('not', {'A': {}}),
    )
  }
  text = table_lib.conditions_to_markdown(found, 'A', 2)
  assert text.endswith('Chosen on held-out examples:\n* tuned: A: lr 0.1.\n')
  untuned = table_lib.conditions_to_markdown({'not': found['not']}, 'A', 2)
  assert 'Chosen' not in untuned


def tiny_study(**changes) -> ConfigDict:
  method = hro.get_config('erm')
  method.total_steps = 2
  method.optim.weight_decay = 0.0
  config = common.base()
  config.job = 'study'
  config.study = {
    'methods': {'A': method, 'B': method},
    'order': ('B', 'A'),
    'grids': {
      'A': (('optim.lr', (0.1, 0.2)),),
      'B': (('optim.weight_decay', (0.0, 0.1)),),
    },
    'seeds': (0, 1),
    'tuning_seeds': (7,),
    'tuning_evals': ('accuracy',),
    'validation': 0.2,
    'select': 'test/accuracy',
    'baseline': 'A',
    'metrics': ('test/accuracy',),
  }
  config.study.update(changes)
  return config


@pytest.fixture
def runs(monkeypatch):
  """Replaces training by a formula: accuracy from the settings alone."""
  seen = []

  def run(config, folder, overrides, *, quiet):
    seen.append((config.copy_and_resolve_references(), folder))
    value = config.optim.lr - config.optim.weight_decay + config.seed / 100
    return {'test/accuracy': Measurement(value, 0.0, 1.0, 'by formula')}

  monkeypatch.setattr('rrl_jax.train.train_and_evaluate', run)
  return seen


def test_tuning_never_sees_the_test_split_nor_the_final_seeds(runs, tmp_path):
  studies.run(tiny_study(), tmp_path, {})
  tuning = [c for c, folder in runs if 'tuning' in folder.parts]
  final = [c for c, folder in runs if 'runs' in folder.parts]
  assert {c.data.validation for c in tuning} == {0.2}
  assert {c.data.validation for c in final} == {0.0}
  assert {c.seed for c in tuning} == {7}
  assert {c.seed for c in final} == {0, 1}
  assert all(c.data.seed == c.seed for c, _ in runs)
  assert {tuple(c.evals) for c in tuning} == {('accuracy',)}


def test_the_best_held_out_point_is_trained_and_reported(
  runs, tmp_path, capsys
):
  studies.run(tiny_study(), tmp_path, {})
  table = json.loads((tmp_path / 'table.json').read_text())
  assert table['chosen'] == {
    'A': {'optim.lr': 0.2},
    'B': {'optim.weight_decay': 0.0},
  }
  np.testing.assert_allclose(
    [row['test/accuracy'] for row in table['results']['A']], [0.2, 0.21]
  )
  text = (tmp_path / 'table.md').read_text()
  assert text in capsys.readouterr().out
  assert text.index('| B |') < text.index('| A |')
  assert 'Made by `python ' in text
  assert (tmp_path / 'provenance.json').exists()


def test_every_condition_is_tuned_and_reported_by_itself(
  runs, tmp_path, capsys
):
  conditions = {
    'clean': {},
    'noisy': {
      'all': (('data.noise.kind', 'symmetric'), ('data.noise.rate', 0.4)),
      'B': (('total_epochs', 7.0),),
    },
  }
  studies.run(tiny_study(conditions=conditions), tmp_path, {})
  for config, folder in runs:
    noisy = 'noisy' in folder.parts
    assert noisy != ('clean' in folder.parts)
    assert config.data.noise.rate == (0.4 if noisy else 0.0)
    assert config.data.noise.seed == config.seed
    mine = noisy and 'B' in folder.parts
    assert (config.total_epochs == 7.0) == mine
  table = json.loads((tmp_path / 'table.json').read_text())
  assert set(table['conditions']) == {'clean', 'noisy'}
  assert table['conditions']['noisy']['chosen']['A'] == {'optim.lr': 0.2}
  text = capsys.readouterr().out
  assert '| method | clean | noisy |' in text
  assert '* noisy: B: weight_decay 0; A: lr 0.2.' in text


def test_an_axis_of_a_grid_may_move_several_fields(runs, tmp_path):
  grids = {
    'A': (
      (
        ('optim.lr', 'optim.weight_decay'),
        ((0.1, 0.05), (0.3, 0.01), (0.2, 0.0)),
      ),
    ),
    'B': (('optim.lr', (0.1, 0.2, 0.3)),),
  }
  studies.run(tiny_study(grids=grids), tmp_path, {})
  table = json.loads((tmp_path / 'table.json').read_text())
  assert table['chosen']['A'] == {'optim.lr': 0.3, 'optim.weight_decay': 0.01}


def test_tuning_runs_solve_the_tasks_that_are_held_out_for_them(runs, tmp_path):
  held_out = {'seen': {'classes': '0-4', 'validation': 0.2}}
  studies.run(tiny_study(tuning_transfer=held_out), tmp_path, {})
  for config, folder in runs:
    if 'tuning' in folder.parts:
      assert config.transfer.to_dict() == held_out
    else:
      assert 'seen' not in config.transfer


def test_a_run_is_told_the_groups_that_an_earlier_method_found(runs, tmp_path):
  config = tiny_study(inferred_groups={'A': 'B'})
  config.study.methods.B.evals.infer_groups = {}
  studies.run(config, tmp_path, {})
  for config, folder in runs:
    told = config.data.inferred_groups
    if 'B' in folder.parts:
      assert told is None
      assert 'infer_groups' in config.evals
      continue
    best = 'tuning/B/0' if 'tuning' in folder.parts else 'runs/B'
    found = tmp_path / best / f'seed{config.seed}' / 'figures.npz'
    assert told == str(found)


@pytest.mark.parametrize(
  ('changes', 'word'),
  [
    ({'inferred_groups': {'B': 'A'}}, "inferred_groups.B='A'"),
    (
      {'grids': {'A': (('optim.lr', (0.1,)),), 'B': (('seed', (1, 2)),)}},
      'as many points',
    ),
    ({'baseline': 'C'}, "'C'"),
    ({'order': ('A',)}, 'order'),
    ({'seeds': (0,)}, 'at least two'),
    ({'seeds': (0, 0)}, 'each another'),
    ({'tuning_seeds': ()}, 'at least one'),
    ({'validation': 5.0}, 'validation'),
    ({'conditions': {}}, 'conditions is empty'),
    ({'conditions': {'x': {'all': (('data.nose', 1),)}}}, 'nose'),
    (
      {'grids': {'A': (('optim.lrr', (1,)),), 'B': (('seed', (1,)),)}},
      'lrr',
    ),
  ],
)
def test_a_study_that_cannot_be_is_refused_before_the_first_run(
  runs, tmp_path, changes, word
):
  with pytest.raises(ConfigError, match=word):
    studies.run(tiny_study(**changes), tmp_path, {})
  assert runs == []
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('changes', 'num_runs'),
  [({'select': 'test/acuracy'}, 1), ({'metrics': ('test/acuracy',)}, 4)],
)
def test_a_metric_that_no_run_gives_is_told_at_the_first_that_should(
  runs, tmp_path, changes, num_runs
):
  with pytest.raises(ConfigError, match='acuracy.*test/accuracy'):
    studies.run(tiny_study(**changes), tmp_path, {})
  assert len(runs) == num_runs


def test_a_point_that_diverges_is_not_chosen(runs, tmp_path, monkeypatch):
  train = studies.study.train.train_and_evaluate

  def run(config, *args, **kw):
    if config.optim.lr == 0.2:
      raise DivergedError('loss is nan at step 3')
    return train(config, *args, **kw)

  monkeypatch.setattr('rrl_jax.train.train_and_evaluate', run)
  studies.run(tiny_study(), tmp_path, {})
  table = json.loads((tmp_path / 'table.json').read_text())
  assert table['chosen']['A'] == {'optim.lr': 0.1}


def test_runs_that_are_done_are_not_begun_again(tmp_path, monkeypatch, capsys):
  config = tiny_study(order=('A',))
  config.study.methods = {'A': smallest_method()}
  config.study.grids = {'A': (('optim.lr', (0.1, 0.2)),)}
  studies.run(config, tmp_path, {})
  first = (tmp_path / 'table.json').read_text()
  (tmp_path / 'table.json').unlink()
  assert len(list(tmp_path.rglob('results.json'))) == 4

  def refuse(*args, **kw):
    raise AssertionError('trained again')

  monkeypatch.setattr('rrl_jax.train.train_and_evaluate', refuse)
  studies.run(config, tmp_path, {})
  assert (tmp_path / 'table.json').read_text() == first


def smallest_method():
  """Trains and is evaluated in less than a second."""
  method = hro.get_config('erm')
  method.model.kw.widths = (4,)
  method.total_steps = 2
  method.mesh.data = 1
  method.evals = {'accuracy': {'train_examples': 0}}
  method.transfer = {}
  return method


@pytest.mark.full
def test_runs_of_many_evaluators_are_not_begun_again(
  tmp_path, monkeypatch, capsys
):
  studies.run(tiny_study(), tmp_path, {})
  first = (tmp_path / 'table.json').read_text()
  (tmp_path / 'table.json').unlink()

  def refuse(*args, **kw):
    raise AssertionError('trained again')

  monkeypatch.setattr('rrl_jax.train.train_and_evaluate', refuse)
  studies.run(tiny_study(), tmp_path, {})
  assert (tmp_path / 'table.json').read_text() == first
