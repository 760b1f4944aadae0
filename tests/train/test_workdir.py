"""A run's folder has one owner, and half a file is never seen."""

import json

import numpy as np
import pytest

from configs import hro
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import Measurement
from rrl_jax.train import workdir as workdir_lib
from rrl_jax.train.workdir import Workdir

pytestmark = pytest.mark.fast

FOUND = {'test/accuracy': Measurement(0.5, 0.25, 0.75, 'n=4')}


@pytest.fixture
def config():
  return hro.get_config()


@pytest.fixture
def workdir(tmp_path, config):
  claimed = Workdir(tmp_path / 'run')
  claimed.claim(config, {'seed': 0})
  (claimed.checkpoints / '3').mkdir(parents=True)
  return claimed


def test_the_folder_tells_config_overrides_and_versions(workdir, config):
  read = lambda name: json.loads((workdir.root / name).read_text())
  assert read('config.json') == workdir_lib.plain(config)
  assert read('overrides.json') == {'seed': 0}
  assert read('versions.json')['jax']


@pytest.mark.parametrize(
  ('field', 'value', 'same'),
  [
    ('total_epochs', 7.0, True),
    ('keep_last', 7, True),
    ('mesh.data', 1, True),
    ('data.num_threads', 1, True),
    ('seed', 7, False),
    ('optim.lr', 7.0, False),
    ('data.seed', 7, False),
    ('objective.kw.gamma', 7.0, False),
  ],
)
def test_what_is_trained_may_not_change_but_how_long_may(
  workdir, config, field, value, same
):
  config.update_from_flattened_dict({field: value})
  if same:
    workdir.check_owner(config)
    return
  with pytest.raises(ConfigError, match=f'{field} is .* there, 7'):
    workdir.check_owner(config)


def test_a_refusal_names_flags_first_and_a_folder_that_is_free(workdir, config):
  (workdir.root.parent / 'run-2').mkdir()
  config.update_from_flattened_dict(
    {f'data.augment.{name}': 1 for name in ('crop', 'resized_crop', 'views')}
    | {'batch_size': 7, 'data.classes': '0-3', 'data.seed': 7, 'seed': 7}
  )
  with pytest.raises(ConfigError) as raised:
    workdir.check_owner(config)
  said = str(raised.value)
  assert '(seed is 0 there, 7 here; ' in said  # Set by a flag there.
  assert said.endswith(f'such as --workdir={workdir.root}-3')
  assert 'and 2 more' in said


@pytest.mark.parametrize(
  'work', ['checkpoints/200/', 'results.json', 'models/a/', 'tuning/']
)
def test_a_folder_is_taken_over_only_where_no_work_is_lost(
  tmp_path, config, work
):
  here = Workdir(tmp_path / 'run')
  here.claim(config, {})
  here.metrics.write_text('{"step": 1, "loss": 3.0}\n')
  (here.checkpoints / 'orbax').mkdir(parents=True)  # None is whole.
  config.seed = 7
  here.check_owner(config)
  if work.endswith('/'):
    (here.root / work).mkdir(parents=True)
  else:
    (here.root / work).write_text('{}')
  with pytest.raises(ConfigError, match='seed is 0 there, 7 here'):
    here.check_owner(config)
  assert here.metrics.exists()


def test_what_a_failed_run_left_does_not_mix_with_the_next(tmp_path, config):
  here = Workdir(tmp_path / 'run')
  here.claim(config, {})
  left = [here.metrics, here.truth, here.root / 'events.out.tfevents.1.host']
  for path in left:
    path.write_text('')
  here.claim(config, {})  # The same run goes on.
  assert all(path.exists() for path in left)
  config.optim.lr = 7.0
  here.claim(config, {})
  assert not any(path.exists() for path in left)


def test_a_field_that_is_new_and_none_makes_no_other_run(workdir, config):
  workdir.claim(config, {})
  before = workdir_lib.identity(config)
  config.unlock()
  config.data.kw.invented = None
  workdir.check_owner(config)
  assert workdir_lib.identity(config) == before
  config.data.kw.invented = 1
  assert workdir_lib.identity(config) != before


def test_checkpoints_of_before_are_known_by_the_config_beside_them(
  workdir, config, tmp_path
):
  assert Workdir(tmp_path / 'free').former_identity() == ''
  former = workdir.former_identity()
  assert former != workdir_lib.identity(config)  # Some fields are None.
  config.unlock()
  config.data.kw.invented = None
  workdir.claim(config, {}, trains=False)
  assert workdir.former_identity() == former


def test_a_config_that_is_no_json_is_a_data_error(workdir, config):
  (workdir.root / 'config.json').write_text('{')
  with pytest.raises(DataError, match='config.json'):
    workdir.check_owner(config)


def test_a_root_that_is_a_file_is_a_data_error(tmp_path, config):
  (tmp_path / 'file').write_text('')
  with pytest.raises(DataError, match='file'):
    Workdir(tmp_path / 'file').claim(config, {})


def test_results_come_back_as_they_were_measured(workdir, config):
  workdir.write_results(config, 3, FOUND, {'figure/x': np.zeros(2)})
  assert workdir.read_results(config, 3) == FOUND
  numbers = json.loads(workdir.results.read_text())
  assert numbers == {
    'step': 3,
    'test/accuracy': 0.5,
    'test/accuracy.low': 0.25,
    'test/accuracy.high': 0.75,
  }


def test_results_of_another_step_or_question_do_not_count(workdir, config):
  workdir.write_results(config, 3, FOUND, {})
  assert workdir.read_results(config, 4) is None
  config.evals.pgd.epsilon = 0.3
  assert workdir.read_results(config, 3) is None


def test_results_cut_short_do_not_count(workdir, config):
  workdir.write_results(config, 3, FOUND, {})
  for path in (workdir.results, workdir.protocols):
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert workdir.read_results(config, 3) is None
    path.write_text(whole)
  assert workdir.read_results(config, 3) == FOUND


def test_numbers_that_json_lacks_are_left_out(workdir, config):
  odd = {'a': Measurement(float('nan'), 0.0, 1.0, 'n=0')}
  workdir.write_results(config, 1, odd, {})
  assert 'a' not in json.loads(workdir.results.read_text())
