"""Every config is plain data, and its recipe is built and traced."""

import functools
import importlib
import json
import pathlib
import re

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import (
  acl,
  common,
  deacl,
  gr,
  group_dro,
  hro,
  indicators,
  tarrl,
  thanos,
)
from configs.studies import indicators as indicators_study
from configs.studies import precision
import launch
from rrl_jax import models
from rrl_jax.errors import ConfigError
from rrl_jax.studies import pool
from rrl_jax.train import experiment, loop, overrides, sharding
from tests.tiers import first

FOLDER = pathlib.Path(common.__file__).parent
# Arguments that change one another's effect, besides each by itself.
TOGETHER = (
  'hro:cl,imagenet',
  'hro:el,cifar10',
  'erm:fashion_mnist,balanced',
  'gr:cifar10,estimate',
  'gr:cifar100,asymmetric',
  'gr:clothing1m,published',
  'gr:fashion_mnist,asymmetric,noise=0.6',
  'gr:symmetric_inclusive,noise=0.9',
  'gr:abnormal,noise=0.2',
  'group_dro:balanced,fashion_mnist,colour',
  'group_dro:cifar10,background',
  'group_dro:celeb_a,balanced',
  'tarrl:fashion_mnist,labels',
  'tarrl:byol,free',
  'simclr:fashion_mnist,cross_entropy',
  'thanos:joint,released',
  'thanos:celeb_a,spread',
)


def modules(folder: str) -> dict:
  """The configs that can be launched, by name."""
  package = FOLDER.parent / folder
  return {
    path.stem: importlib.import_module(
      f'{folder.replace("/", ".")}.{path.stem}'
    )
    for path in sorted(package.glob('*.py'))
    if path.stem not in ('__init__', 'common')
  }


def declared(module) -> dict:
  """The arguments that a config leaves open, by name, with their defaults."""
  seen = []

  def parse_arg(arg, **defaults):
    given = set((arg or '').split(','))  # By a config made from another one.
    fixed = lambda d: isinstance(d, common.Choice) and given & {*d.options}
    seen.append({k: d for k, d in defaults.items() if not fixed(d)})
    return original(arg, **defaults)

  original = common.parse_arg
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(common, 'parse_arg', parse_arg)
    module.get_config()
  return seen[0]


def variants(name: str, module) -> list[str]:
  """``name`` with its defaults, and with each declared argument by itself."""
  words = []
  for argument, default in declared(module).items():
    if isinstance(default, common.Choice):
      words += default.options[1:]
    elif default is False:
      words.append(argument)
  return [name, *(f'{name}:{word}' for word in words)]


MODULES = modules('configs')
STUDIES = modules('configs/studies')
CONFIGS = (
  *(v for name, module in MODULES.items() for v in variants(name, module)),
  *TOGETHER,
)


def get_config(name: str) -> ConfigDict:
  """The config that ``--config=configs/<name>`` is."""
  stem, _, arg = name.partition(':')
  return MODULES[stem].get_config(arg or None)


@functools.cache
def few_blocks(network):
  """A ResNet of its kind with one block in each of two stages."""
  return type('Model', (network,), {'stage_sizes': (1, 1)})


def shallow(config: ConfigDict, monkeypatch) -> ConfigDict:
  """The same recipe with few layers of each kind and one step of an attack."""
  module = models.get(config.model.name)
  if hasattr(module.Model, 'stage_sizes'):
    monkeypatch.setattr(module, 'Model', few_blocks(module.Model))
  if config.model.name.startswith('vit'):
    config.model.kw.depth = 1
  if config.objective.kw.get('inner_steps'):
    config.objective.kw.inner_steps = 1
  return config


def on_mock_data(config: ConfigDict) -> ConfigDict:
  """The same recipe on random arrays with as many classes, a few at a time."""
  sizes = {
    'cifar10': (32, 10), 'cifar100': (32, 100), 'imagenet2012': (40, 1000),
    'celeb_a': (40, 2),
  }  # fmt: skip
  size, num_classes = sizes.get(config.data.kw.data_set, (8, 10))
  if config.data.name == 'folder':
    size, num_classes = 40, 14
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
    config.data.augment.resized_crop = min(32, size)
  if config.objective.kw.get('warmup_steps'):
    config.objective.kw.warmup_steps = 1
  config.batch_size = 8
  config.total_steps = 2
  return config


def stepping(config: ConfigDict):
  """The step of a config on mock data, its first state and its arguments."""
  config = on_mock_data(config)
  config.mesh.data = 1
  built = experiment.build(config)
  store = loop.resident_set(built)
  batch = next(loop.read_batches(built, 0, lookup=True))
  step = lambda s, b, t: built.step(s, loop.look_up(t, b))
  return step, built.init, batch, store


@pytest.mark.fast
@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_is_plain_data(name):
  config = get_config(name)
  assert json.loads(json.dumps(config.to_dict())) is not None
  assert set(config) >= set(common.base())


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_is_built_and_its_step_is_traced(name, monkeypatch):
  step, init, batch, store = stepping(shallow(get_config(name), monkeypatch))
  state = jax.eval_shape(init, jax.random.key(0))
  new, metrics = jax.eval_shape(step, state, batch, store)
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert jax.tree.all(jax.tree.map(same, state, new))
  assert metrics['loss'].shape == metrics['grad_norm'].shape == ()


@pytest.mark.full
@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_takes_one_step(name):
  step, init, batch, store = stepping(get_config(name))
  state, metrics = jax.jit(step)(jax.jit(init)(jax.random.key(0)), batch, store)
  assert int(state.step) == 1
  # Of DeACL's two stages each knows what the other does not, and an estimate
  # is not known before the warm-up ends.
  partly = name.startswith('deacl') or 'estimate' in name
  known = ('loss', 'grad_norm') if partly else metrics
  assert all(np.all(np.isfinite(metrics[which])) for which in known)


OWN = 'data.name=npz', 'data.kw.path=mine.npz'
# What the command line may say to any config, and what is refused by which,
# in one line: a pattern of the config's name -> words of the refusal.
POOLS = {'indicators': 'evals'}
NEEDED = {
  'thanos:celeb': None,  # It has no coarse labels to begin with.
  'thanos|:fine|precision:thanos': 'data.coarse',
  'gr.*asymmetric|studies/gr': 'data.noise.mapping',
  'gr:symmetric_inclusive': 'objective.kw.noise_rate',
  'group_dro:(waterbirds|celeb_a)|jtt:(waterbirds|celeb_a)': 'data.groups.kind',
}
SAID = {
  'own images': (OWN, NEEDED),
  'evals as a dictionary': (("evals={'accuracy': {}, 'remix': {}}",), POOLS),
  'an added evaluator': (('evals.calibration.num_bins=7',), POOLS),
  'another network': (('model.name=resnet20',), {}),
  'a network as a dictionary': (
    ("model={'name': 'cnn', 'kw': {'widths': (8,)}}",),
    {},
  ),
  'another objective': (('objective.name=erm',), {}),
  'another optimizer': (('optim.name=adam', 'optim.kw.b1=0.8'), {}),
}


def of_name(name: str) -> ConfigDict:
  """The config that ``--config=configs/<name>`` is, a study too."""
  stem, _, arg = name.partition(':')
  known = STUDIES if stem.startswith('studies/') else MODULES
  return known[stem.removeprefix('studies/')].get_config(arg or None)


def runs_of(config: ConfigDict) -> list[ConfigDict]:
  """The configs that are trained: of a study or a pool its members'."""
  if config.job == 'study':
    return list(config.study.methods.values())
  return list(config.pool.models.values()) if 'pool' in config else [config]


DEFAULTS = (*MODULES, *(f'studies/{name}' for name in STUDIES))
VARIANTS = (
  *(name for name in CONFIGS if name not in DEFAULTS),
  *(
    f'studies/{variant}'
    for name, module in STUDIES.items()
    for variant in variants(name, module)[1:]
  ),
)


@pytest.mark.parametrize('said', SAID)
@pytest.mark.parametrize(
  'name',
  [*DEFAULTS, *(pytest.param(v, marks=pytest.mark.full) for v in VARIANTS)],
)
def test_what_any_config_may_be_told_is_right_or_refused_in_one_line(
  name, said
):
  words, refused = SAID[said]
  given = dict(word.split('=', 1) for word in words)
  apply = lambda: overrides.apply(of_name(name), common.base(), given)
  why = next((w for key, w in refused.items() if re.search(key, name)), None)
  if why:
    with pytest.raises(ConfigError) as raised:
      apply()
    assert why in str(raised.value)
    assert '\n' not in str(raised.value)
    return
  for run in runs_of(apply().config):
    experiment.check(run)
    if said == 'own images':
      assert run.data.kw.path == 'mine.npz'
      assert run.data.classes == run.data.imbalance == run.data.coarse == ''
      assert run.data.concepts in ('class', 'group')
      assert run.data.augment.crop == 0
      assert run.data.augment.resized_crop in (0, -1)
      assert set(run.transfer) <= {'all_classes'}
    elif said == 'evals as a dictionary':
      assert set(run.evals) == {'accuracy', 'remix'}
    elif said == 'an added evaluator':
      assert run.evals.calibration.num_bins == 7
    elif said == 'another network':
      assert run.model.kw.widths is None
    elif said == 'a network as a dictionary':
      assert (run.model.name, run.model.kw.widths) == ('cnn', (8,))


@pytest.mark.fast
@pytest.mark.parametrize('name', [*DEFAULTS, *VARIANTS])
def test_every_config_is_explained_with_its_fields(name):
  stem, _, arg = name.partition(':')
  text = f'configs/{stem}.py' + (f':{arg}' if arg else '')
  command, _ = launch._read(['launch.py', f'--config={text}'])
  said = launch._help_of(command)
  assert said.startswith(command.doc.strip().splitlines()[0])
  for field in ('data.name=', 'model.kw.widths=', 'optim.lr=', 'npz=PATH'):
    assert field in said


@pytest.mark.parametrize('name', ['tarrl', 'hro', 'gr', 'pgd_at'])
def test_a_recipe_on_images_of_one_s_own_is_built_and_traced(name, tmp_path):
  """Of another size, with other channels and classes than the recipe's."""
  rng = np.random.default_rng(0)
  labels = np.arange(60) % 4
  images = rng.integers(0, 256, (60, 14, 10, 3), dtype=np.uint8)
  np.savez(tmp_path / 'mine.npz', images=images, labels=labels)
  given = {'data.name': 'npz', 'data.kw.path': str(tmp_path / 'mine.npz')}
  given |= {'batch_size': '8', 'mesh.data': '1'}
  config = overrides.apply(get_config(name), common.base(), given).config
  built = experiment.build(config)
  assert built.data.train.num_classes == 4
  crop = built.config.data.augment.resized_crop
  assert crop == (10 if get_config(name).data.augment.resized_crop else 0)
  assert [task.name for task in built.tasks] == ['all_classes'] * len(
    config.transfer
  )
  state = jax.eval_shape(built.init, jax.random.key(0))
  shape = (8, 14, 10, 3)
  batch = experiment.abstract_batch(8, shape)
  batch['image'] = jax.ShapeDtypeStruct(shape, jnp.uint8)
  new, _ = jax.eval_shape(built.step, state, batch)
  assert jax.tree.structure(new) == jax.tree.structure(state)


def test_errors_of_a_task_name_what_was_set(tmp_path):
  config = hro.get_config()
  for field, value in (('classes', '77'), ('imbalance', '2'), ('name', 'dig')):
    config.transfer = {'mine': {field: value}}
    with pytest.raises(
      ConfigError, match=rf'^transfer\.mine\.{field}='
    ) as told:
      experiment.build(config)
    assert value in str(told.value)


def test_a_task_of_another_source_has_none_of_the_source_s_settings():
  config = hro.get_config()
  config.data.name = 'mock'
  config.data.kw.num_classes = 7
  config.transfer = {'mine': {'name': 'digits'}}
  (task,) = experiment.build(config).tasks
  assert task.train.num_classes == 10


@pytest.mark.parametrize(
  ('module', 'arg'),
  first(
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
    ]
  ),
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
def test_every_network_trains_in_bfloat16(name, monkeypatch):
  config = on_mock_data(hro.get_config('hro,digits'))
  config.mesh.data = 1
  config.data.kw.image_shape = (32, 32, 3)
  config.model.name = name
  config.model.kw.widths = None
  config.model.kw.dtype = 'bfloat16'
  if name.startswith('vit'):
    config.model.kw.patch_size = 8
  built = experiment.build(shallow(config, monkeypatch))
  state = jax.eval_shape(built.init, jax.random.key(0))
  batch = experiment.abstract_batch(8, (32, 32, 3))
  new, metrics = jax.eval_shape(built.step, state, batch)
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert jax.tree.all(jax.tree.map(same, state, new))
  assert metrics['loss'].dtype == jnp.float32


@pytest.mark.fast
@pytest.mark.parametrize('name', STUDIES)
def test_a_study_is_plain_data_for_each_of_its_arguments(name):
  for variant in variants(name, STUDIES[name]):
    config = STUDIES[name].get_config(variant.partition(':')[2] or None)
    assert json.loads(json.dumps(config.to_dict())) is not None
    assert config.job in config, f'{variant} has no {config.job}'


@pytest.mark.fast
@pytest.mark.parametrize('data', ['digits', 'fashion_mnist'])
@pytest.mark.parametrize(
  'name', [n for n, m in STUDIES.items() if m.get_config().job == 'study']
)
def test_studies_tune_every_method_as_much(name, data):
  study = STUDIES[name].get_config(data).study
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


@pytest.mark.fast
@pytest.mark.parametrize('name', CONFIGS)
def test_no_field_hides_behind_a_method_of_its_class(name):
  """Such a field could not be set from the command line."""
  tree = [get_config(name)]
  while tree:
    config = tree.pop()
    assert not [field for field in config if hasattr(ConfigDict, field)]
    tree += [v for v in config.values() if isinstance(v, ConfigDict)]
