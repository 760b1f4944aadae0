"""A text of the command line becomes a value, and forgets what it replaces."""

import pytest

from configs import (
  acl,
  common,
  erm,
  gr,
  group_dro,
  hro,
  indicators,
  pgd_at,
  tarrl,
  thanos,
)
from configs.studies import gr as gr_study
from configs.studies import hro as hro_study
from rrl_jax.errors import ConfigError
from rrl_jax.train import experiment, overrides, workdir

pytestmark = pytest.mark.fast


def apply(config, *words):
  given = dict(word.split('=', 1) for word in words)
  return overrides.apply(config, common.base(), given)


def applied(config, *words):
  return apply(config, *words).config


# --- Values ------------------------------------------------------------------


@pytest.mark.parametrize(
  ('word', 'value'),
  [
    ('optim.lr=3', 3.0),
    ('optim.lr=1/4', 0.25),
    ('seed=7', 7),
    ('total_steps=7', 7),
    ('total_steps=', None),
    ('optim.nesterov=false', False),
    ('data.classes=0', '0'),
    ('data.classes=', ''),
    ('data.augment.scale=0.5,1', (0.5, 1)),
    ('model.kw.widths=[8, 4]', (8, 4)),
    ('model.kw.widths=8', (8,)),
    ('data.kw.class_names=cat,dog', ('cat', 'dog')),
    ('objective.kw.radius=1', 1.0),
    ('objective.kw.radius=None', None),
    ('optim.kw.accumulator_dtype=bfloat16', 'bfloat16'),
    ('evals.pgd.epsilon=8/255', 8 / 255),
    ('evals.pgd.step_size=1', 1.0),  # Its default is None.
    ('evals.auto_attack.epsilon=1', 1.0),  # An evaluator that is not there.
    ('evals.auto_attack.version=rand', 'rand'),
    ('interim_evals.calibration.num_bins=7', 7),
    ('transfer.mine.classes=3', '3'),  # A task that is not there.
    ('transfer.mine.validation=1/2', 0.5),
    ('transfer.mine.kw.image_size=8', 8),
    ('transfer.mine.groups.strength=1', 1.0),
  ],
)
def test_a_text_gets_the_type_of_its_field(word, value):
  config = applied(hro.get_config(), word)
  for name in word.partition('=')[0].split('.'):
    config = config[name]
  assert config == value
  assert type(config) is type(value)


@pytest.mark.parametrize(
  ('word', 'words'),
  [
    ('seed=1.5', '--config.seed=1.5 is no whole number'),
    ('seed=True', 'seed=True is no whole number'),
    ('batch_size=None', 'batch_size=None is no whole number'),
    ('optim.lr=fast', 'optim.lr=fast is no number'),
    ('optim.nesterov=perhaps', 'neither true nor false'),
    ('lr=1', "config has no field 'lr'; it has batch_size"),
    ('data.noise.rat=1', "config.data.noise has no field 'rat'; it has"),
    ('seed.x=1', "config has no field 'seed'"),
    ('evals=3', '--config.evals=3: a dictionary is wanted'),
    ('evals=pgd', '--config.evals=pgd: a dictionary is wanted'),
    ('transfer=[]', 'a dictionary is wanted'),
    ('evals.pgd=off', '--config.evals.pgd=off: a dictionary is wanted'),
    ("evals={'pgd': 3}", 'evals.pgd=3: a dictionary of its arguments'),
    ("evals={'a.b': {}}", "'a.b' is no name of a field"),
    ("transfer={3: {}}", '3 is no name of a field'),
    ('evals.gpd=', "config.evals has no field 'gpd'; it has accuracy"),
    ('transfer.mine.clases=3', "a task has no field 'clases'"),
    ('optim=', '--config.optim= is empty; it is a group of fields'),
    ("optim={'lrr': 1}", "config.optim has no field 'lrr'"),
    ("optim={'lr': 'x'}", 'optim.lr=x is no number'),
    ("model.kw={'widths': 'x'}", None),
  ],
)  # fmt: skip
def test_what_is_no_value_is_one_line(word, words):
  if words is None:
    assert applied(hro.get_config(), word).model.kw.widths == ('x',)
    return
  with pytest.raises(ConfigError) as raised:
    apply(hro.get_config(), word)
  assert words in str(raised.value)
  assert '\n' not in str(raised.value)


def test_a_group_after_one_of_its_fields_is_refused():
  with pytest.raises(ConfigError, match='evals comes after --config'):
    apply(hro.get_config(), 'evals.pgd.epsilon=1', 'evals={}')
  both = applied(hro.get_config(), 'evals={}', 'evals.pgd.epsilon=1')
  assert both.evals.to_dict() == {'pgd': {'epsilon': 1.0}}


def test_the_config_that_was_given_stays_as_it_is():
  config = indicators.get_config()
  before = workdir.plain(config)
  applied(config, 'data.name=npz', 'data.kw.path=x', 'pool.models.mlp=')
  assert workdir.plain(config) == before


# --- Dictionaries and named things -------------------------------------------


def test_a_dictionary_replaces_named_things():
  config = applied(
    tarrl.get_config(),
    "evals={'pgd': {'epsilon': 0.1}, 'accuracy': {}}",
    "transfer={'mine': {'classes': '0-3'}}",
    "interim_evals={'calibration': {'num_bins': 5}}",
  )
  assert config.evals.to_dict() == {'pgd': {'epsilon': 0.1}, 'accuracy': {}}
  assert config.transfer.to_dict() == {'mine': {'classes': '0-3'}}
  assert config.interim_evals.calibration.num_bins == 5
  experiment.check(config)


def test_a_dictionary_sets_the_fields_that_it_names_elsewhere():
  config = applied(
    thanos.get_config(),
    "model.kw={'widths': (8, 4)}",
    "objective.kw={'temperature': 1}",
    "optim={'lr': 1, 'schedule': 'constant'}",
    "data={'augment': {'jitter': 0}, 'noise': {'kind': 'pair', 'rate': 0.1}}",
  )
  former = thanos.get_config()
  assert config.model.kw.widths == (8, 4)
  assert config.model.kw.decoder == former.model.kw.decoder == 'mirror'
  assert config.objective.kw.alpha == former.objective.kw.alpha
  assert config.objective.kw.temperature == 1.0
  assert (config.optim.lr, config.optim.schedule) == (1.0, 'constant')
  assert config.optim.name == former.optim.name
  assert config.data.augment.jitter == 0
  assert config.data.augment.resized_crop == 8
  experiment.check(config)


@pytest.mark.parametrize('empty', ['', '{}'])
@pytest.mark.parametrize('group', ['evals', 'transfer', 'objective.kw'])
def test_nothing_empties_a_group(group, empty):
  config = applied(hro.get_config(), f'{group}={empty}')
  for name in group.split('.'):
    config = config[name]
  assert not [value for value in config.values() if value is not None]


def test_a_named_thing_is_left_out_by_nothing():
  config = applied(
    hro.get_config(),
    'evals.pgd=',
    'evals.remix=',
    'evals.calibration={}',
    'transfer.unseen_classes=',
  )
  assert {'pgd', 'remix'}.isdisjoint(config.evals)
  assert config.evals.calibration.to_dict() == {}
  assert not len(config.transfer)
  experiment.check(config)


def test_an_argument_that_no_one_has_is_refused_by_name():
  for word, words in (
    ('evals.calibration.num_bin=3', r'evals.calibration.num_bin is unknown'),
    ('interim_evals.nope.x=3', r'interim_evals.nope is unknown'),
    ('interim_evals.pgd.epsilon=-1', r'interim_evals.pgd.epsilon=-1'),
    ('objective.kw.gama=3', r'objective.kw.gama: hro knows'),
    ('model.kw.depth=3', r"model.kw.depth is unknown to model 'mlp'"),
    ('optim.kw.b1=0.5', r'optim.kw.b1: optax.sgd knows'),
  ):
    with pytest.raises(ConfigError, match=words):
      experiment.check(applied(hro.get_config(), word))


# --- Parts chosen by name ----------------------------------------------------


@pytest.mark.parametrize('name', ['resnet20', 'cnn', 'vit_tiny'])
def test_a_network_forgets_the_widths_of_the_former_one(name):
  config = applied(tarrl.get_config(), f'model.name={name}')
  assert config.model.kw.widths is None
  assert config.model.kw.embedding_dim == 64  # Of the method.
  experiment.check(config)


def test_a_second_set_of_batch_norms_stays_where_there_can_be_one():
  resnet = applied(pgd_at.get_config('cifar10'), 'model.name=resnet50')
  assert resnet.model.kw.stem is None
  assert applied(
    acl.get_config('cifar10'), 'model.name=resnet50'
  ).model.kw.dual_norm
  plain = applied(acl.get_config('cifar10'), 'model.name=vit_tiny')
  assert plain.model.kw.dual_norm is None


def test_the_same_name_forgets_nothing():
  former = gr.get_config('cifar100')
  same = applied(
    gr.get_config('cifar100'),
    'model.name=resnet44',
    'objective.name=gr',
    'optim.name=sgd',
    'optim.schedule=piecewise',
    'data.name=tfds',
    'data.kw.data_set=cifar100',
    'data.noise.kind=symmetric',
  )
  assert workdir.plain(same) == workdir.plain(former)


def test_what_is_set_beside_a_name_holds():
  config = applied(
    hro.get_config(),
    'model.kw.widths=(4,)',
    'model.name=cnn',
    'optim.momentum=0.5',
    'optim.name=rmsprop',
  )
  assert config.model.kw.widths == (4,)
  assert config.optim.momentum == 0.5
  assert not config.optim.nesterov


def test_an_objective_an_optimizer_and_a_schedule_start_from_their_defaults():
  config = applied(
    gr.get_config('cifar100'),
    'objective.name=mixup',
    'optim.name=adam',
    'optim.kw.b1=0.8',
    'optim.schedule=cosine',
  )
  assert config.objective.kw.to_dict() == {}
  assert config.optim.momentum == 0.0
  assert config.optim.kw.to_dict() == {'b1': 0.8}
  assert config.optim.boundaries == common.base().optim.boundaries
  experiment.check(config)


def test_an_adversary_forgets_the_price_of_the_former_one():
  config = hro.get_config('fashion_mnist')
  with pytest.raises(ConfigError, match='inner_steps of at least 2'):
    apply(config, 'objective.kw.inner=sinkhorn')
  found = applied(
    config, 'objective.kw.inner=sinkhorn', 'objective.kw.inner_steps=3'
  )
  assert 'gamma' not in found.objective.kw  # 3.0 was that of wrm.
  assert found.objective.kw.temperature == config.objective.kw.temperature
  losses = applied(gr.get_config('sce,cifar100'), 'objective.kw.loss=gce')
  assert 'alpha' not in losses.objective.kw
  experiment.check(losses)


@pytest.mark.parametrize(
  ('config', 'group'),
  [
    (hro.get_config(), 'evals.pgd'),
    (tarrl.get_config(), 'evals.robust_probe'),
    (tarrl.get_config('cifar10'), 'objective.kw'),
  ],
  ids=['pgd', 'robust_probe', 'objective'],
)
def test_a_norm_asks_for_its_radius(config, group):
  with pytest.raises(ConfigError, match=rf'{group}.epsilon=.* radius of linf'):
    apply(config, f'{group}.norm=l2')
  found = applied(config, f'{group}.norm=l2', f'{group}.epsilon=0.5')
  for name in group.split('.'):
    found = found[name]
  assert found.epsilon == 0.5
  assert not found.get('inner_step_size')  # 2 / 255 was that of linf.
  assert not found.get('epsilons')


def test_kinds_of_noise_and_groups_forget_what_was_the_former_one_s():
  noise = applied(gr.get_config('asymmetric'), 'data.noise.kind=symmetric')
  assert (noise.data.noise.mapping, noise.data.noise.rate) == ('', 0.4)
  clean = applied(gr.get_config(), 'data.noise.kind=none')
  assert clean.data.noise.rate == 0.0
  planted = applied(group_dro.get_config(), 'data.groups.kind=colour')
  assert planted.data.groups.strength == 0.95
  for config in (noise, clean, planted):
    experiment.check(config)


def test_epochs_are_the_length_where_they_are_given():
  config = applied(gr.get_config(), 'total_epochs=2')
  assert (config.total_epochs, config.total_steps) == (2.0, None)


# --- Images of one's own -----------------------------------------------------

OWN = ('data.name=npz', 'data.kw.path=mine.npz')


@pytest.mark.parametrize('words', [OWN, ('data.name=folder', 'data.kw.path=x')])
@pytest.mark.parametrize('arg', ['digits', 'fashion_mnist', 'cifar10'])
def test_other_images_forget_every_fact_about_the_recipe_s(arg, words):
  base = common.base()
  config = applied(hro.get_config(arg), *words)
  for field in ('classes', 'concepts', 'imbalance', 'coarse'):
    assert config.data[field] == base.data[field], field
  assert (config.data.augment.crop, config.data.augment.flip) == (0, False)
  assert config.transfer.to_dict() == {'all_classes': {'classes': ''}}
  assert config.model.name == ('resnet18' if arg == 'cifar10' else 'cnn')
  # What the method is stays.
  assert config.objective == hro.get_config(arg).objective
  assert config.data.sampling == 'concept_balanced'
  experiment.check(config)


def test_a_crop_takes_the_side_of_the_images():
  config = applied(tarrl.get_config('cifar10'), *OWN)
  assert config.data.augment.resized_crop == -1
  assert config.data.augment.jitter == 0.5


def test_what_is_said_of_other_images_holds_whatever_the_order():
  words = (
    'data.classes=0-3',
    'data.imbalance=1.0,0.5',
    'data.concepts=a=0,1 b=2,3',
    'data.augment.resized_crop=12',
    'model.kw.widths=(8,)',
    'transfer.mine.classes=4-6',
  )
  for both in ((*words, *OWN), (*OWN, *words)):
    config = applied(tarrl.get_config(), *both)
    assert config.data.classes == '0-3'
    assert config.data.concepts == 'a=0,1 b=2,3'
    assert config.data.imbalance == '1.0,0.5'
    assert config.data.augment.resized_crop == 12
    assert (config.model.name, config.model.kw.widths) == ('mlp', (8,))
    assert 'seen_classes' not in config.transfer
    assert config.transfer.mine.classes == '4-6'


@pytest.mark.parametrize(
  ('config', 'needed', 'answer'),
  [
    (thanos.get_config(), 'data.coarse', 'data.coarse=a=0-4 b=5-9'),
    (thanos.get_config(), 'data.coarse', 'data.coarse='),
    (
      group_dro.get_config('fine'),
      'data.coarse',
      'data.coarse=a=0-4 b=5-9',
    ),
    (
      group_dro.get_config('waterbirds'),
      'data.groups.kind',
      'data.groups.kind=patch',
    ),
    (
      group_dro.get_config('celeb_a,balanced'),
      'data.groups.kind',
      'data.kw.attribute_key=folder',
    ),
    (
      gr.get_config('asymmetric,erm'),
      'data.noise.mapping',
      'data.noise.mapping=0>1',
    ),
    (
      gr.get_config('symmetric_inclusive'),
      'objective.kw.noise_rate',
      'objective.kw.noise_rate=0.2',
    ),
    (
      gr.get_config('co_teaching,symmetric_inclusive'),
      'objective.kw.forget_rate',
      'objective.kw.forget_rate=0.2',
    ),
  ],
)  # fmt: skip
def test_what_other_images_need_is_asked_for_in_one_line(
  config, needed, answer
):
  with pytest.raises(ConfigError, match=f'^{needed}') as raised:
    apply(config, *OWN)
  assert '\n' not in str(raised.value)
  experiment.check(applied(config, *OWN, answer))


def test_evaluators_for_want_of_what_the_images_lack_are_left_out():
  planted = applied(group_dro.get_config(), *OWN)
  assert 'coarse_to_fine' not in planted.evals
  assert {'groups', 'last_layer'} <= set(planted.evals)
  assert planted.data.concepts == 'group'
  plain = applied(group_dro.get_config('erm,celeb_a'), *OWN)
  assert plain.data.groups.kind == 'none'
  assert {'groups', 'last_layer'}.isdisjoint(plain.evals)
  assert plain.model.name == 'resnet50'


def test_another_set_of_the_same_source_is_other_data():
  words = ('data.kw.data_set=svhn_cropped',)
  config = applied(tarrl.get_config('cifar10'), *words)
  assert list(config.transfer) == ['all_classes']
  assert config.data.kw.data_set == 'svhn_cropped'
  faces = applied(thanos.get_config('celeb_a'), 'data.kw.data_set=svhn_cropped')
  assert faces.data.kw.label_key is None
  assert faces.data.groups.kind == 'none'


def test_the_path_of_the_recipe_s_own_images_changes_nothing_else():
  former = group_dro.get_config('waterbirds')
  config = applied(former, 'data.kw.path=x')
  former.data.kw.path = 'x'
  assert workdir.plain(config) == workdir.plain(former)


def test_random_images_stand_for_the_recipe_s_own():
  config = applied(gr.get_config('clothing1m'), 'data.name=mock')
  assert config.data.augment == gr.get_config('clothing1m').data.augment
  assert config.data.kw.image_size is None


def test_what_is_forgotten_and_what_is_kept_is_said():
  said = ' '.join(' '.join(apply(hro.get_config(), *OWN).remarks).split())
  assert "forgotten: data.classes='0-6', data.concepts='common=0-2" in said
  assert "transfer.unseen_classes.classes='7-9'" in said
  assert "now: data.classes='', data.concepts='class'" in said
  kept = said.partition('kept: ')[2]
  for field in ('evals.pgd.epsilon=0.1', 'total_epochs=300', 'optim.lr=0.05'):
    assert field in kept
  assert 'data.kw.path' not in said
  assert all(len(line) <= 80 for line in apply(erm.get_config(), *OWN).remarks)
  assert apply(hro.get_config(), 'optim.lr=1', 'seed=3').remarks == []


# --- Studies and pools -------------------------------------------------------


@pytest.mark.parametrize(
  'words',
  [
    OWN,
    ('optim.weight_decay=0.5',),
    ('total_steps=9',),
    ('seed=4',),
    ('model.kw.activation=tanh',),
    ("data={'classes': '0-4', 'validation': 0.3}",),
  ],
)
def test_a_setting_reaches_every_model_of_a_pool(words):
  config = applied(indicators.get_config(), *words)
  for member in [config, *config.pool.models.values()]:
    for word in words:
      name, _, text = word.partition('=')
      if text.startswith('{'):
        assert (member.data.classes, member.data.validation) == ('0-4', 0.3)
        continue
      value = member
      for part in name.split('.'):
        value = value[part]
      assert str(value) == text


def test_a_setting_reaches_every_method_of_a_study():
  config = applied(hro_study.get_config(), 'batch_size=64', *OWN)
  former = hro_study.get_config()
  for name, method in config.study.methods.items():
    assert method.batch_size == 64
    assert method.data.classes == ''
    assert method.data.kw.path == 'mine.npz'
    assert method.model.name == 'mlp'  # What is compared stays the same.
    assert method.objective == former.study.methods[name].objective


def test_one_model_is_changed_or_left_out_by_its_name():
  config = applied(
    indicators.get_config(),
    'pool.models.crop=',
    'pool.models.mlp.optim.lr=1/2',
    "pool.evals={'indicators': {}}",
    'pool.folders=runs/a,runs/b',
    'total_steps=9',
    'pool.models.mlp.total_steps=7',
  )
  assert 'crop' not in config.pool.models
  assert config.pool.models.mlp.optim.lr == 0.5
  assert config.pool.models.mixup.optim.lr == 1e-3
  assert config.pool.models.mlp.total_steps == 7
  assert config.pool.evals.to_dict() == {'indicators': {}}
  assert config.pool.folders == ('runs/a', 'runs/b')


@pytest.mark.parametrize(
  ('config', 'word', 'words'),
  [
    (hro_study.get_config(), 'optim.lr=1', 'optim.lr is tuned by study.grids'),
    (hro_study.get_config(), "optim={'lr': 1}", 'tuned by study.grids'),
    (hro_study.get_config(), 'seed=1', 'is decided by study.seeds'),
    (hro_study.get_config(), 'data.validation=0.5', 'study.validation'),
    (
      hro_study.get_config(),
      'study.methods.CL.optim.weight_decay=1',
      'study.methods.CL: optim.weight_decay: optim.weight_decay is tuned',
    ),
    (
      hro_study.get_config(),
      'study.methods.CLL.optim.momentum=1',
      "config.study.methods has no field 'CLL'; it has CL",
    ),
    (gr_study.get_config(), 'data.noise.rate=0.1', 'study.conditions'),
    (gr_study.get_config(), 'data.name=fashion_mnist', 'data.noise.mapping'),
    (indicators.get_config(), 'evals.pgd.epsilon=0.1', 'see pool.evals'),
    (indicators.get_config(), 'transfer=', 'see pool.evals'),
    (indicators.get_config(), 'pool.models.mlp={}', 'is a whole config'),
    (indicators.get_config(), 'optim.lrr=1', "has no field 'lrr'"),
  ],
)
def test_what_a_study_or_a_pool_decides_is_refused(config, word, words):
  with pytest.raises(ConfigError) as raised:
    apply(config, word)
  assert words in str(raised.value)


def test_models_that_became_alike_are_named():
  remarks = apply(indicators.get_config(), 'total_steps=9').remarks
  assert remarks == ['steps_40 and mlp are now the same recipe']
  own = ' '.join(apply(indicators.get_config(), *OWN).remarks)
  assert 'images_70 and crop are now the same recipe' in own
  assert '(images_70)' in own


def test_beside_features_of_a_file_only_what_is_asked_of_them_applies():
  config = applied(
    indicators.get_config(), 'features=x.npz', 'evals.indicators.resamples=0'
  )
  assert config.features == 'x.npz'
  with pytest.raises(ConfigError, match=r'data.name: with --config.features'):
    apply(indicators.get_config(), 'features=x.npz', 'data.name=npz')
