"""The GR objective has the published gradient, however the batch is cut."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from rrl_jax import losses, objectives
from rrl_jax.errors import ConfigError
from rrl_jax.objectives import gr
from rrl_jax.train import optim, sharding
from rrl_jax.train import step as step_lib
from rrl_jax.typing import DataSpec
from tests.tiers import first

NUM_CLASSES, NUM_EXAMPLES = 4, 24


def apply_fn(params, model_state, images, *, train):
  """A smooth two-layer network."""
  del train
  flat = images.reshape(images.shape[0], -1)
  features = jnp.tanh(flat @ params['in'])
  return (features @ params['out'], {'features': features}), model_state


def make(name='gr', num_classes=NUM_CLASSES, **kw):
  spec = DataSpec(
    class_names=tuple(str(k) for k in range(num_classes)),
    concept_names=('a',),
    concept_counts=np.array([NUM_EXAMPLES]),
    sampling_probs=np.array([1.0]),
    num_examples=NUM_EXAMPLES,
  )
  return objectives.make(name, apply_fn, data=spec, kw=kw)


@pytest.fixture
def params(rng):
  return {
    'in': jnp.asarray(rng.normal(size=(16, 8)) / 2, jnp.float32),
    'out': jnp.asarray(rng.normal(size=(8, NUM_CLASSES)), jnp.float32),
  }


@pytest.fixture
def batch(rng):
  labels = jnp.asarray(rng.integers(NUM_CLASSES, size=24), jnp.int32)
  return {
    'image': jnp.asarray(rng.uniform(size=(24, 4, 4, 1)), jnp.float32),
    'label': labels,
    'concept': labels,
    'index': jnp.arange(24, dtype=jnp.int32),
  }


def gradient(objective, params, batch, aux=None, step=0):
  aux = aux or objective.init(params, {}, batch, jax.random.key(0))
  grad_fn = jax.jit(jax.value_and_grad(objective, has_aux=True))
  (_, (_, aux, metrics)), grads = grad_fn(
    params, {}, aux, batch, jax.random.key(1), step
  )
  return grads, aux, metrics


def logits_of(params, batch):
  return apply_fn(params, {}, batch['image'], train=False)[0][0]


def assert_close(a, b, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b
  )


def published_gradient(logits, labels, focus, spread, guard):
  """Section 1.3, step 3, in float64 NumPy."""
  logits = np.asarray(logits, np.float64)
  probs = np.exp(logits - logits.max(axis=1, keepdims=True))
  probs /= probs.sum(axis=1, keepdims=True)
  rows = np.arange(len(labels))
  p = probs[rows, labels]
  w = np.exp(spread * p**focus * (1 - p))
  residual = probs.copy()
  residual[rows, labels] -= 1
  return (w / w.sum() / (2 * (1 - p) + guard))[:, None] * residual


@pytest.mark.parametrize('guard', first([0.0, 1e-6]))
@pytest.mark.parametrize(
  ('focus', 'spread'), first([(0.0, 2.0), (0.5, 8.0), (2, 12)])
)
def test_the_parameter_gradient_is_the_published_one(
  params, batch, focus, spread, guard
):
  objective = make(focus=focus, spread=spread, guard=guard)
  with jax.enable_x64(True):
    params, batch = jax.tree.map(
      lambda x: jnp.asarray(np.asarray(x).astype(
        np.float64 if x.dtype == jnp.float32 else np.int64
      )),
      (params, batch),
    )  # fmt: skip
    grads, _, _ = gradient(objective, params, batch)
    logits, pullback = jax.vjp(lambda q: logits_of(q, batch), params)
    expected = published_gradient(
      logits, np.asarray(batch['label']), focus, spread, guard
    )
    (expected,) = pullback(jnp.asarray(expected))
  assert_close(grads, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.full
@pytest.mark.parametrize(
  ('kw', 'log_weight_fn'),
  first(
    [
      (
        {'weighting': 'normal', 'mode': 0.25, 'spread': 3.0},
        functools.partial(losses.normal_log_weight, mode=0.25, spread=3.0),
      ),
      (
        {'weighting': 'exponential', 'spread': -2.0},
        functools.partial(losses.exponential_log_weight, spread=-2.0),
      ),
      (
        {'weighting': 'beta', 'alpha': 1.7, 'eta': 2.0},
        functools.partial(losses.beta_log_weight, alpha=1.7, eta=2.0),
      ),
    ]
  ),
)
@pytest.mark.parametrize('normalization', first(['batch', 'integral', 'none']))
def test_other_weightings_are_those_of_the_loss(
  params, batch, kw, log_weight_fn, normalization
):
  grads, _, _ = gradient(make(normalization=normalization, **kw), params, batch)
  expected = jax.grad(
    lambda q: losses.derivative_manipulation(
      logits_of(q, batch),
      batch['label'],
      log_weight_fn,
      normalization=normalization,
    ).mean()
  )(params)
  assert_close(grads, expected)


def train_step(objective, batch, micro_batches=1, mesh=None, lr=1.0):
  """Parameters after one step of plain SGD, and its metrics."""
  tx = optax.sgd(lr)
  step = step_lib.make(
    objective,
    tx,
    key=jax.random.key(0),
    prepare=lambda batch, key, step: batch,
    micro_batches=micro_batches,
  )

  def run(params):
    state = step_lib.init(
      jax.random.key(0),
      model_init=lambda key: (params, {}),
      objective=objective,
      tx=tx,
      batch=batch,
      ema=False,
    )
    return step(state, rows)

  rows = batch
  if mesh is not None:
    rows = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))
  return lambda params: jax.jit(run)(params)


@pytest.mark.full
@pytest.mark.parametrize('normalization', ['batch', 'none'])
def test_one_device_eight_devices_and_micro_batches_agree(
  params, batch, normalization
):
  objective = make(focus=0.5, spread=12.0, normalization=normalization)
  one, metrics = train_step(objective, batch)(params)
  for micro_batches, mesh in (
    (4, None),
    (1, sharding.make_mesh(8)),
    (3, sharding.make_mesh(8)),
  ):
    other, others = train_step(objective, batch, micro_batches, mesh)(params)
    assert_close(one.params, other.params)
    for name in ('loss', 'accuracy', *metrics.keys() & {'log_normalizer'}):
      np.testing.assert_allclose(metrics[name], others[name], rtol=1e-5)


@pytest.mark.full
def test_micro_batches_stand_probabilities_of_zero(params, batch):
  # p is 0 in float32 for some: its logarithm is not.
  params = jax.tree.map(lambda x: 30 * x, params)
  objective = make(focus=0.0, spread=2.0)
  one, metrics = train_step(objective, batch)(params)
  four, others = train_step(objective, batch, 4)(params)
  assert np.isfinite(metrics['log_normalizer'])
  assert_close(one.params, four.params, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
    metrics['log_normalizer'], others['log_normalizer'], rtol=1e-5
  )


def test_micro_batches_average_what_is_a_mean(params, batch):
  objective = make('label_loss', loss='gce')
  one, metrics = train_step(objective, batch)(params)
  four, others = train_step(objective, batch, 4)(params)
  assert_close(one.params, four.params)
  for name in ('loss', 'accuracy'):
    np.testing.assert_allclose(metrics[name], others[name], rtol=1e-5)


def test_the_noise_rate_chooses_the_published_emphasis(params, batch):
  _, _, metrics = gradient(make(noise_rate=0.4), params, batch)
  assert (float(metrics['focus']), float(metrics['spread'])) == (1.0, 16.0)
  _, _, metrics = gradient(make(noise_rate=0.3), params, batch)
  np.testing.assert_allclose(metrics['focus'], 0.75, rtol=1e-6)
  many = [float(x) for x in gr.published(0.6, num_classes=100)]
  assert many == [0.5, 8.0]


def test_what_is_given_wins_over_the_noise_rate(params, batch):
  _, _, metrics = gradient(make(noise_rate=0.4, focus=3.0), params, batch)
  assert (float(metrics['focus']), float(metrics['spread'])) == (3.0, 16.0)
  told, _, _ = gradient(make(noise_rate=0.4, weighting='normal'), params, batch)
  plain, _, _ = gradient(make(weighting='normal'), params, batch)
  assert_close(told, plain)


@pytest.mark.full
def test_ramps_and_schedules_move_the_emphasis(params, batch):
  ramp = make(
    focus=0.0, spread=4.0, focus_end=1.0, spread_end=8.0, ramp_steps=10,
    warmup_steps=5,
  )  # fmt: skip
  schedule = make(
    focus=optax.linear_schedule(0.0, 1.0, 10, 5),
    spread=optax.linear_schedule(4.0, 8.0, 10, 5),
    warmup_steps=5,
  )
  _, _, metrics = gradient(ramp, params, batch, step=4)
  assert np.isnan(metrics['focus'])  # Plays no part yet.
  for objective in (ramp, schedule):
    for step, focus, spread in ((5, 0, 4), (10, 0.5, 6), (99, 1, 8)):
      _, _, metrics = gradient(objective, params, batch, step=step)
      np.testing.assert_allclose(metrics['focus'], focus)
      np.testing.assert_allclose(metrics['spread'], spread)


def test_the_warm_up_is_cross_entropy(params, batch):
  objective = make(focus=0.5, spread=8.0, warmup_steps=3)
  expected, _, _ = gradient(make('erm'), params, batch)
  grads, _, _ = gradient(objective, params, batch, step=2)
  assert_close(grads, expected)
  plain, _, _ = gradient(make(focus=0.5, spread=8.0), params, batch)
  grads, _, _ = gradient(objective, params, batch, step=3)
  assert_close(grads, plain)


def test_the_noise_rate_is_the_share_of_labels_not_predicted(params, batch):
  objective = make(estimate_noise='disagreement', warmup_steps=1)
  _, aux, metrics = gradient(objective, params, batch, step=0)
  assert np.isnan(metrics['noise_rate'])
  assert np.isnan(objective.learned(aux)['noise_rate'])
  assert np.isnan(metrics['focus'])
  _, aux, metrics = gradient(objective, params, batch, aux=aux, step=1)
  predicted = jnp.argmax(logits_of(params, batch), axis=-1)
  rate = np.mean(predicted != batch['label'])
  np.testing.assert_allclose(metrics['noise_rate'], rate, rtol=1e-6)
  assert_close(metrics['focus'], gr.published(rate, NUM_CLASSES)[0])


@pytest.mark.full
def test_examples_that_were_not_seen_do_not_count(params, batch):
  objective = make(estimate_noise='disagreement', warmup_steps=1)
  half = {name: rows[:12] for name, rows in batch.items()}
  _, aux, _ = gradient(objective, params, half, step=0)
  _, _, metrics = gradient(objective, params, batch, aux=aux, step=1)
  predicted = jnp.argmax(logits_of(params, half), axis=-1)
  rate = np.mean(predicted != half['label'])
  np.testing.assert_allclose(metrics['noise_rate'], rate, rtol=1e-6)


@pytest.mark.full
def test_what_cannot_be_told_leaves_the_default(params, batch):
  objective = make(estimate_noise='mixture', warmup_steps=1)
  _, aux, _ = gradient(objective, params, batch, step=0)
  aux['losses'] = -jnp.log(jnp.linspace(0.02, 1.0, 24))  # One mode.
  _, aux, metrics = gradient(objective, params, batch, aux=aux, step=1)
  assert np.isnan(metrics['noise_rate'])
  assert (float(metrics['focus']), float(metrics['spread'])) == (0.5, 8.0)


def test_the_noise_rate_is_estimated_once_from_the_losses_of_the_warm_up(
  params, batch
):
  objective = make(estimate_noise='mixture', warmup_steps=1)
  _, aux, metrics = gradient(objective, params, batch, step=0)
  heard = optax.softmax_cross_entropy_with_integer_labels(
    logits_of(params, batch), batch['label']
  )
  assert_close(aux['losses'], heard)
  # Losses of 18 right and 6 wrong labels, say.
  aux['losses'] = jnp.concatenate(
    [jnp.linspace(0.0, 0.3, 18), jnp.linspace(3.0, 3.3, 6)]
  )
  _, aux, metrics = gradient(objective, params, batch, aux=aux, step=1)
  np.testing.assert_allclose(metrics['noise_rate'], 0.25, atol=1e-3)
  focus, spread = gr.published(0.25, NUM_CLASSES)
  np.testing.assert_allclose(metrics['focus'], focus, rtol=1e-2)
  np.testing.assert_allclose(metrics['spread'], spread, rtol=1e-2)
  _, later, _ = gradient(objective, params, batch, aux=aux, step=2)
  assert_close(later, aux)
  assert float(objective.learned(aux)['noise_rate']) == pytest.approx(0.25, 0.1)


def test_the_pull_of_an_example_is_its_weight(params, batch):
  objective = make(focus=0.5, spread=8.0)
  logits = logits_of(params, batch)
  total = lambda z: objective.example_loss(
    z, batch['label'], batch['index'], {}, 0
  ).sum()
  pull = jnp.abs(jax.grad(total)(logits)).sum(axis=-1)
  p = losses.label_probability(logits, batch['label'])
  assert_close(pull, losses.emphasis_weight(p, focus=0.5, spread=8.0), 1e-4)


def test_a_net_that_predicts_one_class_is_told(params, batch):
  params['out'] = jnp.zeros_like(params['out'])
  _, _, metrics = gradient(make(), params, batch)
  labels = np.bincount(batch['label'], minlength=NUM_CLASSES).max() / 24
  np.testing.assert_allclose(metrics['collapse'], 1 - labels, rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'words'),
  [
    ({'focus': -0.1}, 'focus=-0.1 is not in'),
    ({'focus_end': -1.0, 'ramp_steps': 3}, 'focus_end=-1.0'),
    ({'spread': float('nan')}, 'spread=nan'),
    ({'weighting': 'gamma'}, "weighting='gamma'; known: emphasis"),
    ({'normalization': 'sum'}, 'normalization'),
    ({'guard': -1.0}, 'guard'),
    ({'noise_rate': 1.2}, 'noise_rate=1.2 is not in'),
    ({'estimate_noise': 'mixture'}, 'needs warmup_steps'),
    ({'estimate_noise': 'yes'}, "estimate_noise='yes'; known: none"),
    (
      {'noise_rate': 0.4, 'estimate_noise': 'mixture', 'warmup_steps': 1},
      'nothing to do',
    ),
    (
      {'weighting': 'normal', 'estimate_noise': 'mixture', 'warmup_steps': 1},
      'weighting=emphasis',
    ),
    ({'ramp_steps': 5}, 'focus_end or spread_end'),
    ({'focus_end': 1.0}, 'focus_end or spread_end'),
    ({'warmup_steps': -1}, 'warmup_steps=-1 is negative'),
    ({'weighting': 'beta', 'alpha': 0.0}, 'alpha=0.0 is not positive'),
    ({'weighting': 'normal', 'mode': 2.0}, 'mode=2.0'),
    ({'focuss': 1.0}, 'focuss'),
  ],
)
def test_a_wrong_value_is_one_line(kw, words):
  with pytest.raises(ConfigError, match=words) as caught:
    make(**kw)
  assert '\n' not in str(caught.value)


def test_a_step_of_each_network_is_its_own():
  # Clipping by the global norm sees one network at a time.
  tx = optim.per_network(optax.chain(optax.clip_by_global_norm(1.0)))
  grads = {'w': jnp.array([[3.0, 4.0], [0.3, 0.4]])}
  updates, _ = tx.update(grads, tx.init(grads), grads)
  np.testing.assert_allclose(updates['w'], [[0.6, 0.8], [0.3, 0.4]])
