"""Runs whose data have coarse labels and groups."""

import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from configs import common, group_dro, jtt
from rrl_jax import evals
from rrl_jax.errors import ConfigError
from rrl_jax.evals import groups
from rrl_jax.train import evaluation, experiment, loop
from rrl_jax.train import metrics as metrics_lib
from rrl_jax.train.workdir import Workdir


def recipe(arg=None, **changes):
  """A small network on few digits, for a few steps."""
  config = group_dro.get_config(arg)
  config.model.kw.widths = (8,)
  config.batch_size = 64
  config.total_steps = 4
  config.mesh.data = 1
  config.evals = {}
  config.update_from_flattened_dict(changes)
  return config


def train(root):
  """Trains the recipe of group DRO in a folder, or goes on there."""
  config = recipe(**{'ckpt_steps': 2, 'log_steps': 2})
  built, workdir = experiment.build(config), Workdir(root)
  workdir.check_owner(config)
  workdir.claim(config, {})
  return built, loop.train(built, workdir, quiet=True)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """Folder, experiment and last state of a run that nothing stopped."""
  root = tmp_path_factory.mktemp('straight')
  return root, *train(root)


def test_group_dro_trains_and_its_groups_are_measured(straight):
  root, built, state = straight
  metrics = metrics_lib.read(root / 'metrics.jsonl')[-1]
  names = built.data.train.group_names
  weights = [metrics[f'train/group_weight/{name}'] for name in names]
  assert sum(weights) == pytest.approx(1, abs=1e-5)
  assert len(set(np.round(weights, 6))) > 1
  measured, _ = evaluation.Evaluator(built)(state, {'groups': {}})
  assert {f'groups/accuracy/{name}' for name in names} <= set(measured)
  assert measured['groups/worst_accuracy'].value <= min(
    measured[f'groups/accuracy/{name}'].value for name in names
  )


def test_a_resumed_group_dro_ends_where_an_uninterrupted_one_does(
  straight, tmp_path
):
  """Bit for bit, and so do the weights of the groups."""
  root, _, expected = straight
  shutil.copytree(root, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '4')
  _, resumed = train(tmp_path / 'run')
  jax.tree.map(np.testing.assert_array_equal, expected, resumed)
  probs = np.asarray(resumed.aux_state.probs)
  assert len(np.unique(probs)) > 1
  # Had the weights begun anew they would be nearer to even.
  assert int(resumed.step) == 4


@pytest.mark.parametrize('resident', [True, False])
def test_batches_of_the_loop_hold_the_group(resident):
  changes = {} if resident else {'data.device_bytes': 1}
  built = experiment.build(recipe('erm', **changes))
  store = loop.resident_set(built)
  assert bool(store) == resident
  batch = next(loop.read_batches(built, 0, lookup=resident))
  batch = loop.look_up(store, batch)
  np.testing.assert_array_equal(
    batch['group'], built.data.train.groups[np.asarray(batch['index'])]
  )


def test_without_groups_nothing_of_them_reaches_the_devices():
  config = recipe('erm', **{'data.groups.kind': 'none'})
  built = experiment.build(config)
  store = loop.resident_set(built)
  assert set(store) == {'image', 'label', 'concept'}
  batch = next(loop.read_batches(built, 0, lookup=True))
  assert set(batch) == {'label', 'concept', 'index'}


def test_jtt_trains_two_networks_and_evaluates_the_second():
  config = recipe('jtt', **{'objective.kw.warmup_steps': 2})
  built = experiment.build(config)
  store = loop.resident_set(built)
  step = loop.jit_step(built)
  state = jax.jit(built.init)(jax.random.key(0))
  for batch in loop.read_batches(built, 0, lookup=True):
    state, _ = step(state, batch, store)
  assert state.aux_state['wrong'].shape == (len(built.data.train),)
  assert bool(state.aux_state['wrong'].any())


@pytest.mark.fast
def test_jtt_warms_up_for_less_than_the_run():
  with pytest.raises(ConfigError, match='warmup_steps=4: the run has 4 steps'):
    experiment.build(recipe('jtt', **{'objective.kw.warmup_steps': 4}))


@pytest.mark.fast
def test_a_held_out_split_keeps_groups_and_fine_labels():
  config = recipe('erm', **{'data.validation': 0.2})
  train, held_out = experiment.load_data(config)
  for split in (train, held_out):
    np.testing.assert_array_equal(split.labels, split.fine_labels >= 5)
    np.testing.assert_array_equal(split.groups // 2, split.labels)
    # The patch says the attribute: top left or top right corner.
    corner = split.images[:, 0, 0, 0] == 255
    np.testing.assert_array_equal(split.groups % 2 == 0, corner)


@pytest.mark.fast
def test_a_group_may_be_empty_in_the_held_out_split():
  """Nothing is held out by group, so a rare one may miss; it is named."""
  config = recipe(
    'erm', **{'data.validation': 0.1, 'data.groups.strength': 0.998}
  )
  train, held_out = experiment.load_data(config)
  assert (held_out.group_counts == 0).any()
  assert (train.group_counts > 0).all()
  right = np.ones(len(held_out), bool)
  measured = dict(groups.measure(right, held_out, train, 'x'))
  missing = held_out.group_names[int(np.argmin(held_out.group_counts))]
  assert f'groups/accuracy/{missing}' not in measured
  said = measured['groups/worst_accuracy'].protocol
  assert 'left out without a test example' in said
  assert missing in said


@pytest.mark.fast
@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data.groups.kind': 'x'}, "data.groups.kind='x'"),
    ({'data.groups.strength': 2.0}, 'data.groups.strength=2.0'),
    ({'objective.name': 'group_dro'}, 'group_dro needs groups'),
    ({'objective.kw.upweight': 2.0}, 'objective.kw.upweight'),
  ],
)
def test_fields_are_checked_before_the_data(changes, message, monkeypatch):
  def never(*args, **kw):
    raise AssertionError('data were read')

  monkeypatch.setattr(experiment, 'load_data', never)
  config = common.base()
  config.objective.kw.upweight = common.optional(float)
  config.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError, match=message):
    experiment.build(config)


@pytest.mark.fast
@pytest.mark.parametrize('name', ['groups', 'last_layer', 'coarse_to_fine'])
def test_what_cannot_be_measured_is_told_before_training(name):
  config = common.base()
  config.mesh.data = 1
  config.interim_evals = {name: {}}
  with pytest.raises(ConfigError, match=f'evals.{name} needs'):
    experiment.build(config)


@pytest.mark.fast
def test_targets_have_fine_labels_unless_they_ask_for_others():
  config = recipe('erm', **{'transfer': {'fine': {'classes': ''}}})
  target = experiment.build(config).tasks[0]
  assert target.train.num_classes == 10
  assert target.train.groups is None
  assert isinstance(target, evals.Task)


def test_targets_in_other_colours_are_told_before_training():
  """A tint makes gray images RGB, and a target has none unless it asks."""
  config = recipe('erm,colour', **{'transfer': {'fine': {'classes': ''}}})
  with pytest.raises(ConfigError, match=r'transfer.fine: images of 1 channels'):
    experiment.build(config)
  config.transfer.fine = {'groups': {'kind': 'colour'}}
  assert experiment.build(config).tasks[0].train.image_shape == (8, 8, 3)


@pytest.mark.fast
@pytest.mark.parametrize('module', [group_dro, jtt])
@pytest.mark.parametrize('data_set', group_dro.DATA_SETS)
def test_recipes_of_every_data_set_pass_the_check(module, data_set):
  experiment.check(module.get_config(data_set))


@pytest.mark.fast
def test_fine_groups_make_one_digit_rare():
  built = experiment.build(recipe('fine'))
  train = built.data.train
  assert train.group_names == tuple('0123456789')
  others = np.delete(train.group_counts, 8)
  assert train.group_counts[8] < 0.1 * others.min()


def test_group_dro_trains_on_inferred_groups(tmp_path):
  """Two clusters a class, and the true groups are not in the batch."""
  config = recipe('erm')
  train = experiment.build(config).data.train
  inferred = train.labels * 2 + np.arange(len(train)) % 2
  path = str(tmp_path / 'figures.npz')
  np.savez(
    path,
    **{
      'figure/inferred_groups': inferred,
      'figure/inferred_labels': train.labels,
      'figure/inferred_names': np.array(['p', 'q', 'r', 's']),
    },
  )
  config = recipe('group_dro')
  config.data.inferred_groups = path
  with pytest.raises(ConfigError, match="data.concepts='group': these are the"):
    experiment.build(config)
  config = recipe(
    f'group_dro,inferred={path}', **{'objective.name': 'group_dro'}
  )
  built = experiment.build(config)
  store = loop.resident_set(built)
  np.testing.assert_array_equal(store['group'], inferred)
  spec = experiment.data_spec(config, built.data.train)
  assert spec.group_names == ('p', 'q', 'r', 's')
  np.testing.assert_array_equal(spec.group_counts, np.bincount(inferred))


@pytest.fixture
def birds(tmp_path):
  """A folder laid out as Waterbirds, images of many sizes, and its lines."""
  lines = ['img_id,img_filename,y,split,place,place_filename']
  rows = []
  for i in range(24):
    split, label, place = (0, 0, 1, 2)[i % 4], i // 4 % 2, i // 8 % 2
    name = f'00{i % 3}.Bird/Bird_{i:04}.jpg'
    (tmp_path / name).parent.mkdir(exist_ok=True)
    size = 30 + 3 * i, 60 - 2 * i
    Image.new('RGB', size, (10 * i, 0, 0)).save(tmp_path / name, quality=95)
    lines.append(f'{i},{name},{label},{split},{place},/o/ocean/{i:08}.jpg')
    rows.append((i, split, label, place))
  (tmp_path / 'metadata.csv').write_text('\n'.join(lines) + '\n')
  return tmp_path, np.array(rows)


@pytest.mark.fast
@pytest.mark.parametrize('part', ['test', 'validation'])
def test_the_recipe_of_waterbirds_reads_its_folder(birds, part):
  path, rows = birds
  config = group_dro.get_config('waterbirds')
  config.data.kw.path = str(path)
  config.data.kw.image_size = 16
  config.data.kw.test_split = part
  splits = experiment.load_data(config)
  for split, number in zip(
    splits, (0, 2 if part == 'test' else 1), strict=True
  ):
    here = rows[rows[:, 1] == number]
    assert split.group_names == (
      'landbird:land', 'landbird:water', 'waterbird:land', 'waterbird:water'
    )  # fmt: skip
    assert split.class_names == ('landbird', 'waterbird')
    assert split.image_shape == (16, 16, 3)
    np.testing.assert_array_equal(split.labels, here[:, 2])
    np.testing.assert_array_equal(split.groups, 2 * here[:, 2] + here[:, 3])
    red = split.images[np.arange(len(here))][:, 8, 8, 0].astype(int)
    assert np.abs(red - 10 * here[:, 0]).max() <= 3
  # The method reads the groups, as concepts that fill a batch evenly.
  assert splits.train.concept_names == splits.train.group_names
