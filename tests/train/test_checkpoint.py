"""A checkpoint is whole or not used, whatever happens to its files."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
import numpy as np
import optax
import pytest

from rrl_jax import typing
from rrl_jax.errors import DataError
from rrl_jax.train import step as step_lib
from rrl_jax.train.checkpoint import Checkpoints
from rrl_jax.train.state import TrainState


def _state(step: int) -> TrainState:
  key = jax.random.key(step)
  return TrainState(
    step=jnp.int32(step),
    params={'w': jax.random.normal(key, (64, 32)), 'b': jnp.zeros(3)},
    model_state={},
    opt_state=({'momentum': jnp.full(3, step, jnp.float32)}, ()),
    ema_params=None,
    aux_state={'concept_probs': jnp.array([0.25, 0.75])},
  )


def _abstract(where=None) -> TrainState:
  where = where or SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    jax.eval_shape(lambda: _state(0)),
  )


def _assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> pathlib.Path:
  """A folder with checkpoints 1 and 2."""
  root = tmp_path_factory.mktemp('checkpoints')
  with Checkpoints(root, 'mine', keep_last=3) as checkpoints:
    checkpoints.save(_state(1))
    checkpoints.save(_state(2))
  return root


def _restore(root, identity='mine'):
  with Checkpoints(root, identity, keep_last=3) as checkpoints:
    return checkpoints.restore(_abstract())


def test_the_newest_state_comes_back_bit_for_bit(saved):
  _assert_equal(_restore(saved), _state(2))


@pytest.mark.parametrize(
  ('ema', 'model_state', 'more'),
  [
    (False, {'mean': jnp.ones(2)}, set()),
    (True, {}, set()),
    (True, {'mean': jnp.ones(2)}, {'ema_model_state'}),
  ],
)
def test_a_checkpoint_has_a_field_more_only_with_statistics_to_average(
  tmp_path, ema, model_state, more
):
  params = {'w': jnp.ones(2)}
  state = step_lib.init(
    jax.random.key(0),
    model_init=lambda key: (params, model_state),
    objective=typing.Objective(loss_fn=None),
    tx=optax.identity(),
    batch={},
    ema=ema,
  )
  with Checkpoints(tmp_path, 'mine', keep_last=3) as checkpoints:
    checkpoints.save(state)
  # Orbax refuses a tree whose names are not those on disk, be they of None.
  metadata = json.loads((tmp_path / '0' / 'state' / '_METADATA').read_text())
  names = {
    entry['key_metadata'][0]['key']
    for entry in metadata['tree_metadata'].values()
  }
  fields = {field.name for field in dataclasses.fields(TrainState)}
  assert names == fields | more


@pytest.mark.fast
def test_an_empty_folder_has_nothing_to_restore(tmp_path):
  assert _restore(tmp_path / 'none') is None


def test_only_the_last_are_kept(tmp_path):
  with Checkpoints(tmp_path, 'mine', keep_last=2) as checkpoints:
    for step in (1, 2, 3, 4):
      checkpoints.save(_state(step))
    assert checkpoints.steps() == [3, 4]


@pytest.mark.fast
def test_another_config_is_refused(saved):
  with pytest.raises(DataError, match='another config'):
    _restore(saved, identity='yours')


def _files(folder: pathlib.Path):
  return sorted(path for path in folder.rglob('*') if path.is_file())


@pytest.mark.parametrize('harm', ['truncate', 'flip', 'remove'])
def test_harm_to_any_file_is_named_and_the_older_one_used(
  saved, tmp_path, capfd, harm
):
  for i, victim in enumerate(_files(saved / '2')):
    root = tmp_path / str(i)
    shutil.copytree(saved, root)
    path = root / victim.relative_to(saved)
    content = bytearray(path.read_bytes())
    if not content:
      continue
    if harm == 'truncate':
      path.write_bytes(content[: len(content) // 2])
    elif harm == 'flip':
      content[len(content) // 2] ^= 1
      path.write_bytes(content)
    else:
      path.unlink()
    restored = _restore(root)
    line = capfd.readouterr().err
    if 'using' in line:
      assert line.startswith('checkpoint 2 is unreadable: ')
      assert line.endswith('; using 1\n')
      _assert_equal(restored, _state(1))
    else:  # The harm hit a digit of the manifest that decides nothing.
      assert victim.name == 'manifest.json'
      _assert_equal(restored, _state(2))


def test_without_a_whole_one_it_starts_anew(saved, tmp_path, capfd):
  root = tmp_path / 'copy'
  shutil.copytree(saved, root)
  for step in ('1', '2'):
    (root / step / 'manifest.json').unlink()
  assert _restore(root) is None
  lines = capfd.readouterr().err.splitlines()
  assert [line.split(';')[-1] for line in lines] == [' using 1', ' using 0']


@pytest.mark.parametrize('damaged', [('2',), ('1', '2')])
@pytest.mark.parametrize('step', [1, 2, 3])
def test_any_step_can_be_saved_once_the_damaged_are_set_aside(
  saved, tmp_path, damaged, step
):
  root = tmp_path / 'copy'
  shutil.copytree(saved, root)
  for name in damaged:
    (root / name / 'manifest.json').unlink()
  with Checkpoints(root, 'mine', keep_last=3) as checkpoints:
    checkpoints.restore(_abstract(), set_aside=True)
    checkpoints.save(_state(step))
    newest = max([step, *(s for s in (1, 2) if str(s) not in damaged)])
    _assert_equal(checkpoints.restore(_abstract()), _state(newest))
  assert (root / f'{damaged[-1]}.damaged').is_dir()


@pytest.mark.parametrize(
  'text', ['', '[]', '{"files": [], "config": "x"}', '{"files": {"a": 3}}']
)
def test_a_manifest_that_is_none_is_a_damage(saved, tmp_path, text):
  root = tmp_path / 'copy'
  shutil.copytree(saved, root)
  (root / '2' / 'manifest.json').write_text(text)
  _assert_equal(_restore(root), _state(1))


def test_it_opens_on_another_number_of_devices(saved, mesh):
  where = NamedSharding(mesh, PartitionSpec())
  with Checkpoints(saved, 'mine', keep_last=3) as checkpoints:
    restored = checkpoints.restore(_abstract(where))
  assert restored.params['w'].sharding == where
  _assert_equal(restored, _state(2))


@pytest.mark.fast
def test_a_folder_that_cannot_be_written_is_a_one_line_error(tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('not a folder')
  with pytest.raises(DataError, match='file') as error:
    Checkpoints(blocked / 'checkpoints', 'mine', 1).save(_state(1))
  assert '\n' not in str(error.value)
