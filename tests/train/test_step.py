"""Steps in parts are the batch's where that is promised; averages follow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import group_dro, hro
from rrl_jax import objectives
from rrl_jax.errors import ConfigError
from rrl_jax.train import experiment
from rrl_jax.train import step as step_lib
from rrl_jax.typing import DataSpec

KEY = jax.random.key(0)
SPEC = DataSpec(
  class_names=('0', '1', '2'),
  concept_names=('a', 'b'),
  concept_counts=np.array([16, 8]),
  sampling_probs=np.array([2 / 3, 1 / 3]),
  num_examples=24,
)


def apply_fn(params, model_state, images, *, train, **kw):
  """One linear map, of images whose pixels never vary together."""
  flat = images.reshape(images.shape[0], -1)
  return (flat @ params['w'], {'features': flat}), model_state


@pytest.fixture
def batch(rng):
  rows = jnp.arange(24, dtype=jnp.int32)
  return {
    'image': jnp.asarray(rng.random((24, 2, 2, 1)), jnp.float32),
    'label': rows % 3,
    'concept': rows % 2,
    'index': rows,
  }


def one_step(objective, batch, micro_batches):
  tx = optax.sgd(1.0)
  params = {'w': jnp.linspace(-1, 1, 12).reshape(4, 3)}
  state = step_lib.init(
    KEY,
    model_init=lambda key: (params, {}),
    objective=objective,
    tx=tx,
    batch=batch,
    ema=False,
  )
  step = step_lib.make(
    objective,
    tx,
    key=KEY,
    prepare=lambda batch, key, step: batch,
    micro_batches=micro_batches,
  )
  return jax.jit(step)(state, batch)


# What the config may cut: no adversary that answers to a batch.
CUT = (
  {'inner': 'wrm', 'divergence': 'none'},
  {'inner': 'wrm', 'inner_steps': 3, 'divergence': 'none'},
  {'inner': 'sinkhorn', 'inner_steps': 1, 'divergence': 'none'},
  {'inner': 'none', 'radius': 0.1, 'divergence': 'none'},
)
WHOLE = (
  {'inner': 'none', 'divergence': 'kl'},
  {'inner': 'wrm', 'divergence': 'cvar'},
  {'inner': 'wrm', 'radius': 0.1, 'divergence': 'none'},
  {'inner': 'sinkhorn', 'inner_steps': 2, 'divergence': 'none'},
)


def test_parts_of_a_batch_are_the_batch_to_an_adversary_of_examples(batch):
  kw = {'inner': 'wrm', 'divergence': 'none'}
  objective = objectives.make('hro', apply_fn, data=SPEC, kw=kw)
  whole, metrics = one_step(objective, batch, 1)
  parts, others = one_step(objective, batch, 2)
  np.testing.assert_allclose(
    whole.params['w'], parts.params['w'], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(metrics['loss'], others['loss'], rtol=1e-5)


def config_of(kw):
  config = hro.get_config()
  config.objective.kw.update(kw)
  config.micro_batches = 2
  return config


@pytest.mark.fast
@pytest.mark.parametrize('kw', WHOLE)
def test_no_batch_is_cut_for_an_adversary_of_batches(kw):
  with pytest.raises(ConfigError, match='micro_batches=2: the adv.* hro') as e:
    experiment.check(config_of(kw))
  assert '\n' not in str(e.value)


def test_a_config_is_cut_where_that_changes_nothing():
  for kw in CUT:
    experiment.check(config_of(kw))
  config = group_dro.get_config('erm')
  config.micro_batches = 2
  experiment.check(config)
  config = group_dro.get_config('group_dro')
  experiment.check(config)
  config.micro_batches = 2
  with pytest.raises(ConfigError, match='micro_batches=2.*group_dro answers'):
    experiment.check(config)


def counted(params, model_state, images, *, train, **kw):
  """The linear map with a statistic of its outputs and a count of calls."""
  (logits, out), _ = apply_fn(params, model_state, images, train=train)
  if train:
    model_state = {
      'mean': 0.5 * (model_state['mean'] + jnp.mean(logits, axis=0)),
      'calls': model_state['calls'] + 1,
    }
  return (logits, out), model_state


@pytest.mark.parametrize('decay', [0.0, 0.3, 0.999])
def test_weights_and_statistics_are_averaged_alike(decay, batch):
  objective = objectives.make('erm', counted, data=SPEC, kw={})
  tx = optax.sgd(1.0)
  params = {'w': jnp.linspace(-1, 1, 12).reshape(4, 3)}
  model_state = {'mean': jnp.ones(3), 'calls': jnp.int32(0)}
  init = lambda ema: step_lib.init(
    KEY,
    model_init=lambda key: (params, model_state),
    objective=objective,
    tx=tx,
    batch=batch,
    ema=ema,
  )
  step = jax.jit(
    step_lib.make(
      objective,
      tx,
      key=KEY,
      prepare=lambda batch, key, step: batch,
      ema_decay=decay,
    )
  )
  state, plain = init(bool(decay)), init(False)
  weights, means = np.asarray(params['w'], np.float64), np.ones(3)
  for t in range(6):
    state, _ = step(state, batch)
    plain, _ = step(plain, batch)
    share = 1 - min(decay, (1 + t) / (10 + t))
    weights += share * (np.asarray(plain.params['w']) - weights)
    means += share * (np.asarray(plain.model_state['mean']) - means)
  assert plain.ema_params is None
  assert plain.eval_model_state is plain.model_state
  np.testing.assert_allclose(state.eval_params['w'], weights, rtol=1e-5)
  found = state.eval_model_state
  np.testing.assert_allclose(found['mean'], means, rtol=1e-5)
  assert found['calls'].dtype == jnp.int32
  assert found['calls'] == 6  # Counts are not averaged.
