"""What is said to have been set is what had an effect."""

import inspect

import jax
from jax.interpreters import partial_eval
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, gr, hro
from rrl_jax import objectives, typing
from rrl_jax.objectives.gr import make as make_gr
from rrl_jax.objectives.hro import make as make_hro
from rrl_jax.train import active, workdir

pytestmark = pytest.mark.fast


def plain(config=None, **changes):
  config = config or common.base()
  config.update_from_flattened_dict(changes)
  return workdir.plain(config)


def test_what_is_off_is_not_listed():
  parts = active.settings(plain())
  assert parts['data'] == {'name': 'digits', 'kw': {}}
  assert set(parts['optim']) == {'name', 'kw', 'lr', 'schedule'}
  assert active.words(parts['model']) == 'mlp'


@pytest.mark.parametrize(
  ('changes', 'words', 'missing'),
  [
    ({'data.augment.jitter': 0.5}, 'jitter probability 0.8', 'ratio'),
    ({'data.augment.resized_crop': 8}, 'scale 0.08 1', 'jitter'),
    (
      {'data.noise.kind': 'pair', 'data.noise.rate': 0.4},
      'noise kind pair, noise rate 0.4',
      'exact',
    ),
    (
      {
        'data.noise.kind': 'asymmetric',
        'data.noise.rate': 0.4,
        'data.noise.mapping': '9>1',
        'data.noise.exact': False,
      },
      'noise exact off, noise mapping 9>1, noise rate 0.4',
      'abnormal',
    ),
    (
      {
        'data.abnormal.kind': 'source',
        'data.abnormal.rate': 0.1,
        'data.abnormal.name': 'mock',
        'data.abnormal.kw.num_examples': 9,
      },
      'abnormal name mock, abnormal rate 0.1, abnormal num examples 9',
      'noise',
    ),
    ({'data.groups.kind': 'background'}, 'strength 0.95', 'abnormal'),
    ({'data.validation': 0.1}, 'validation 0.1', 'device'),
    ({'data.concepts': 'a=0-4 b=5-9'}, 'concepts a=0-4 b=5-9', 'threads'),
  ],
)
def test_what_is_on_is_listed_with_what_goes_with_it(changes, words, missing):
  said = active.words(active.settings(plain(**changes))['data'])
  assert words in said
  assert missing not in said


def test_boundaries_belong_to_the_piecewise_schedule():
  said = lambda **c: active.words(active.settings(plain(**c))['optim'])
  assert 'boundaries' not in said()
  assert 'boundaries 0.5 0.75' in said(**{'optim.schedule': 'piecewise'})


def test_a_zero_of_an_objective_is_a_value():
  config = gr.get_config('gr')
  config.objective.kw.focus = 0.0
  assert 'focus 0,' in active.words(active.settings(plain(config))['objective'])


def test_a_config_of_anything_is_no_error():
  assert active.settings({}) == {}
  assert active.settings({'data': 'x', 'optim': {}}) == {'optim': {}}
  damaged = {'data': {'noise': {'kind': 'none'}, 'groups': 3}}
  assert active.settings(damaged) == {'data': {'groups': 3}}


def program(name, kw):
  """The training step's loss, traced: equal text, equal computation."""
  spec = typing.DataSpec(
    class_names=('0', '1', '2'),
    concept_names=('0', '1', '2'),
    concept_counts=np.array([3, 2, 1]),
    sampling_probs=np.full(3, 1 / 3),
    num_examples=6,
  )

  def apply_fn(params, model_state, images, *, train, **rest):
    # BatchNorm in short: what the mode of the network changes.
    scale = jnp.mean(images) if train else 1.0
    features = jnp.tanh(images.reshape(len(images), -1) @ params / scale)
    return (features[:, :3], {'features': features}), model_state

  objective = objectives.make(name, apply_fn, data=spec, kw=kw)
  batch = {
    'image': jnp.ones((6, 2, 2, 1)),
    'label': jnp.array([0, 0, 0, 1, 1, 2]),
    'concept': jnp.array([0, 0, 0, 1, 1, 2]),
    'index': jnp.arange(6),
  }
  params, key = jnp.ones((4, 5)), jax.random.key(0)
  state = jax.eval_shape(lambda: objective.init(params, {}, batch, key))
  made = jax.make_jaxpr(
    lambda p, s: objective.loss_fn(p, {}, s, batch, key, 0)
  )(params, state)
  outputs = [True] * len(made.jaxpr.outvars)
  kept, _ = partial_eval.dce_jaxpr(made.jaxpr, outputs)  # Without dead code.
  return str(kept), str(made.consts)


OTHER = {  # Another value of each argument; numbers are doubled.
  'prior': 'empirical',
  'risk': 'loss',
  'step_scale': 'rms',
  'mix_update': 'ascent',
  'cost': 'given',
}
MADE = {
  'hro': [
    {'inner': inner, 'divergence': divergence}
    for inner in ('none', 'wrm')
    for divergence in ('none', 'kl')
  ],
  'gr': [
    {'weighting': weighting}
    for weighting in ('emphasis', 'normal', 'exponential', 'beta')
  ],
}


@pytest.mark.parametrize(
  ('name', 'choice'), [(name, kw) for name in MADE for kw in MADE[name]]
)
def test_what_is_left_out_of_an_objective_changes_no_computation(name, choice):
  source = hro if name == 'hro' else gr
  kw = source.get_config(None).objective.kw.to_dict()
  if name == 'gr':
    kw = {'focus': 0.5, 'spread': 8.0, 'mode': 0.5, 'alpha': 1.0, 'eta': 2.0}
  kw = {k: v for k, v in (kw | choice).items() if v is not None}
  listed = active.settings({'objective': {'name': name, 'kw': kw}})
  left_out = [k for k in kw if k not in listed['objective']['kw']]
  assert bool(left_out)
  before = program(name, kw)
  for field in left_out:
    value = kw[field]
    if field in OTHER:
      changed = OTHER[field]
    elif isinstance(value, bool):
      changed = not value
    else:
      changed = value / 2 if field == 'sinkhorn_tau' else 2 * value
    other = kw | {field: changed}
    if field == 'cost':
      other['cost_matrix'] = ((0.0, 1.0, 1.0),) * 3
    try:
      after = program(name, other)
    except ValueError:
      continue  # Refused: it has not been used either.
    assert after == before, field


def test_the_arguments_with_conditions_are_arguments():
  for name, needs in active.NEEDS.items():
    make = inspect.signature({'hro': make_hro, 'gr': make_gr}[name])
    assert set(needs) <= set(make.parameters)
    assert {k for one in needs.values() for k in one} <= set(make.parameters)
