"""Every config is plain data, and its recipe steps on mock data."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import (
  acl,
  common,
  deacl,
  dynacl,
  erm,
  gr,
  group_dro,
  hro,
  indicators,
  jtt,
  pgd_at,
  rocl,
  simclr,
  supcon,
  tarrl,
  thanos,
  trades,
)
from configs.studies import gr as gr_study
from configs.studies import hro as hro_study
from configs.studies import indicators as indicators_study
from configs.studies import precision
from configs.studies import tarrl as tarrl_study
from configs.studies import thanos as thanos_study
from rrl_jax import models
from rrl_jax.studies import pool
from rrl_jax.train import experiment, loop, sharding

NETWORKS_OF_DEPTH = (
  'resnet18', 'resnet44', 'resnet50', 'resnet56', 'vit_lite'
)  # fmt: skip
GR = (
  *gr.METHODS,
  'fashion_mnist,asymmetric,noise=0.6',
  'cifar10,estimate',
  'cifar100,asymmetric',
  'clothing1m,published',
  'pair',
  'symmetric_inclusive,noise=0.9',
  'abnormal,noise=0.2',
)
CONFIGS = {
  f'hro:{variant},{data}': (hro, f'{variant},{data}')
  for variant, data in itertools.product(hro.VARIANTS, hro.DATA_SETS)
} | {
  f'erm:{arg}': (erm, arg)
  for arg in ('digits', 'fashion_mnist,balanced', 'cifar10')
}
CONFIGS |= {f'gr:{arg}': (gr, arg) for arg in GR}
CONFIGS |= {
  f'group_dro:{arg}': (group_dro, arg)
  for arg in (
    'digits',
    'balanced,fashion_mnist,colour',
    'cifar10,background',
    'waterbirds',
    'celeb_a,balanced',
  )
} | {'jtt:fine': (jtt, 'fine')}
CONFIGS |= {
  f'tarrl:{arg}': (tarrl, arg)
  for arg in ('digits', 'fashion_mnist,labels', 'byol,free', 'cifar10')
}
CONFIGS |= {
  f'{module.__name__.removeprefix("configs.")}:{arg}': (module, arg)
  for module in (acl, deacl, dynacl, pgd_at, rocl, trades)
  for arg in ('digits', 'cifar10')
}
CONFIGS |= {
  f'simclr:{arg}': (simclr, arg)
  for arg in ('byol', 'fashion_mnist,cross_entropy', 'imagenet')
} | {'supcon:digits': (supcon, 'digits')}
CONFIGS |= {
  f'thanos:{arg}': (thanos, arg)
  for arg in ('digits', 'supcon_infonce', 'joint,released', 'celeb_a,spread')
}

CONFIGS['indicators:train_only'] = (indicators, 'train_only')


def on_mock_data(config: ConfigDict) -> ConfigDict:
  """The same recipe on random arrays with as many classes, a few at a time."""
  sizes = {
    'cifar10': (32, 10), 'cifar100': (32, 100), 'imagenet2012': (64, 1000),
    'celeb_a': (64, 2),
  }  # fmt: skip
  size, num_classes = sizes.get(config.data.kw.data_set, (8, 10))
  if config.data.name == 'folder':
    size, num_classes = 64, 14
  if config.data.name == 'fashion_mnist':
    size = 28
  if config.data.name == 'tfds':
    config.transfer = {}  # Other sets, which are not there either.
  config.data.name = 'mock'
  if config.data.coarse == 'source':  # As many coarse classes as it has.
    each = 5
    config.data.coarse = ' '.join(
      f'{k}-{k + each - 1}' for k in range(0, num_classes, each)
    )
  if config.data.groups.kind == 'attribute':
    config.data.groups.kind = 'patch'
  for field in (
    'data_set', 'path', 'metadata', 'image_size', 'image_key', 'label_key',
    'attribute_key', 'class_names', 'attribute_names',
  ):  # fmt: skip
    config.data.kw[field] = None
  config.data.kw.num_classes = num_classes
  config.data.kw.num_examples = max(4 * num_classes, 200)
  config.data.kw.image_shape = (size, size, 1 if size < 32 else 3)
  if config.data.noise.mapping:
    config.data.noise.mapping = '1>0 2<>3'
  if 'automobile' in config.data.concepts:  # Mock classes are numbers.
    config.data.concepts = 'vehicles=0,1,8,9 animals=2-7'
  if config.data.augment.resized_crop:
    config.data.augment.resized_crop = 32
  if config.objective.kw.get('warmup_steps'):
    config.objective.kw.warmup_steps = 1
  config.batch_size = 8
  config.total_steps = 2
  return config


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_is_plain_data(name):
  module, arg = CONFIGS[name]
  config = module.get_config(arg)
  assert json.loads(json.dumps(config.to_dict())) is not None
  assert set(config) >= set(common.base())


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_takes_one_step_on_mock_data(name):
  module, arg = CONFIGS[name]
  config = on_mock_data(module.get_config(arg))
  config.mesh.data = 1
  built = experiment.build(config)
  store = loop.resident_set(built)
  batch = next(loop.read_batches(built, 0, lookup=True))
  step = lambda s, b, t: built.step(s, loop.look_up(t, b))
  deep = config.model.name in NETWORKS_OF_DEPTH
  if deep and not name.startswith('hro:hro'):
    state = jax.eval_shape(built.init, jax.random.key(0))
    new, _ = jax.eval_shape(step, state, batch, store)  # They compile alike.
    assert jax.tree.structure(new) == jax.tree.structure(state)
    return
  state = jax.jit(built.init)(jax.random.key(0))
  step = jax.jit(step)
  state, metrics = step(state, batch, store)
  assert int(state.step) == 1
  # Of DeACL's two stages each knows what the other does not.
  known = ('loss', 'grad_norm') if name.startswith('deacl') else metrics
  assert all(np.all(np.isfinite(metrics[which])) for which in known)


@pytest.mark.parametrize(
  ('module', 'arg'),
  [
    (hro, 'hro,cifar10'),
    (hro, 'hro,imagenet'),
    (gr, 'cifar100,estimate'),
    (gr, 'clothing1m'),
    (tarrl, 'cifar10'),
    (acl, 'cifar10'),
    (deacl, 'cifar10'),
    (thanos, 'cifar10'),
    (group_dro, 'waterbirds'),
  ],
)
def test_paper_scale_lowers_for_tpu_and_cuda(module, arg):
  """The train step at full batch, image and model size, on abstract arrays."""
  full = module.get_config(arg)
  config = on_mock_data(module.get_config(arg))
  config.mesh.data = 1
  config.data.augment.resized_crop = full.data.augment.resized_crop
  config.batch_size = full.batch_size
  built = experiment.build(config)
  state = jax.eval_shape(built.init, jax.random.key(0))
  side = full.data.kw.image_size or 32
  rows = jax.ShapeDtypeStruct((full.batch_size,), jnp.int32)
  batch = {'label': rows, 'concept': rows, 'index': rows}
  if built.data.train.groups is not None:
    batch['group'] = rows
  batch['image'] = jax.ShapeDtypeStruct(
    (full.batch_size, side, side, 3), jnp.uint8
  )
  exported = jax.export.export(jax.jit(built.step), platforms=('tpu', 'cuda'))(
    state, batch
  )
  assert set(exported.platforms) == {'tpu', 'cuda'}
  assert len(exported.out_avals) == len(jax.tree.leaves(state)) + len(
    jax.eval_shape(built.step, state, batch)[1]
  )


@pytest.mark.parametrize('name', models.names())
def test_every_network_trains_in_bfloat16(name):
  config = on_mock_data(hro.get_config('hro,digits'))
  config.mesh.data = 1
  config.data.kw.image_shape = (32, 32, 3)
  config.model.name = name
  config.model.kw.widths = None
  config.model.kw.dtype = 'bfloat16'
  if name.startswith('vit'):
    config.model.kw.patch_size = 8
  built = experiment.build(config)
  state = jax.eval_shape(built.init, jax.random.key(0))
  batch = experiment.abstract_batch(8, (32, 32, 3))
  new, metrics = jax.eval_shape(built.step, state, batch)
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert jax.tree.all(jax.tree.map(same, state, new))
  assert metrics['loss'].dtype == jnp.float32


def test_every_config_file_is_tested():
  folder = pathlib.Path(common.__file__).parent
  names = {path.stem for path in folder.glob('*.py')}
  assert names - {'__init__', 'common'} == {n.split(':')[0] for n in CONFIGS}


@pytest.mark.parametrize('data', ['digits', 'fashion_mnist'])
@pytest.mark.parametrize(
  'module', [hro_study, gr_study, tarrl_study, thanos_study]
)
def test_studies_tune_every_method_as_much(module, data):
  study = module.get_config(data).study
  sizes = {
    name: np.prod([len(values) for _, values in grid])
    for name, grid in study.grids.items()
  }
  assert set(sizes) == set(study.methods)
  assert len(set(sizes.values())) == 1


@pytest.mark.parametrize(('study', 'data'), precision.CHOSEN)
def test_precision_is_compared_at_the_settings_that_a_study_chose(study, data):
  tuned = precision.STUDIES[study].get_config(data).study
  config = precision.get_config(f'{study},{data}').study
  assert set(config.methods) == set(tuned.methods)
  for name, chosen in precision.CHOSEN[study, data].items():
    axes = dict(tuned.grids[name])
    for fields, values in axes.items():
      whole = (fields,) if isinstance(fields, str) else fields
      point = tuple(chosen.get(field) for field in whole)
      possible = [v if whole is fields else (v,) for v in values]
      assert point in possible, (name, fields)
    flat = config.methods[name].to_dict()
    for field, value in chosen.items():
      found = flat
      for part in field.split('.'):
        found = found[part]
      assert found == value
  if study == 'gr':
    assert config.methods.GR.data.noise.rate == 0.4


@pytest.mark.parametrize(
  ('module', 'arg', 'least'),
  [(indicators, None, 10), (indicators_study, 'num_seeds=2', 48)],
)
def test_every_model_of_a_pool_has_a_recipe_that_can_be_trained(
  module, arg, least, tmp_path
):
  config = module.get_config(arg)
  assert json.loads(json.dumps(config.to_dict())) is not None
  config.pool.train_only = True  # Looks at the models, not at their data.
  members = pool.members_of(config.pool, tmp_path)
  assert len(members) >= least
  recipes = {member.recipe for member in members}
  assert len(recipes) == len(module.RECIPES)
  for member in members:
    total = member.config.total_steps
    assert total >= 5 * member.config.ckpt_steps
    assert total >= 50 * member.config.log_steps or total < 50


@pytest.mark.parametrize(
  ('arg', 'words'),
  [
    ('noise=1.5', 'noise=1.5 is not in'),
    ('gce,estimate', 'gce estimates nothing'),
    ('estimate,published', 'one of both'),
    ('cotraining', 'cotraining'),
  ],
)
def test_arguments_of_gr_that_make_no_sense_are_refused(arg, words):
  with pytest.raises(ValueError, match=words):
    gr.get_config(arg)


def test_a_mesh_takes_the_devices_that_it_is_told_to():
  assert sharding.make_mesh(4).size == 4
  assert sharding.make_mesh().size == 8


def test_words_of_an_argument_are_typed_and_checked():
  parse = lambda arg: common.parse_arg(
    arg, data=common.Choice(('a', 'b')), noise=0.4, fast=False
  )
  assert parse(None).to_dict() == {'data': 'a', 'noise': 0.4, 'fast': False}
  assert parse('b,noise=0.1,fast').to_dict() == {
    'data': 'b',
    'noise': 0.1,
    'fast': True,
  }
  for wrong in ('c', 'noise=x', 'fast=maybe', 'data=c', 'speed=1'):
    with pytest.raises(ValueError, match=wrong.split('=')[0]):
      parse(wrong)


@pytest.mark.parametrize('name', CONFIGS)
def test_no_field_hides_behind_a_method_of_its_class(name):
  """Such a field could not be set from the command line."""
  module, arg = CONFIGS[name]
  tree = [module.get_config(arg)]
  while tree:
    config = tree.pop()
    assert not [field for field in config if hasattr(ConfigDict, field)]
    tree += [v for v in config.values() if isinstance(v, ConfigDict)]
