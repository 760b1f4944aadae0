"""The GR objective has the published gradient, however the batch is cut."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from rrl_jax import losses
from rrl_jax.errors import ConfigError
from rrl_jax.objectives import gr
from rrl_jax.train import optim, sharding
from rrl_jax.train import step as step_lib
from tests.objectives import cases, smooth
from tests.tiers import first

WEIGHTINGS = {
  'normal': (
    {'mode': 0.25, 'spread': 3.0},
    functools.partial(losses.normal_log_weight, mode=0.25, spread=3.0),
  ),
  'exponential': (
    {'spread': -2.0},
    functools.partial(losses.exponential_log_weight, spread=-2.0),
  ),
  'beta': (
    {'alpha': 1.7, 'eta': 2.0},
    functools.partial(losses.beta_log_weight, alpha=1.7, eta=2.0),
  ),
}
# Each weighting and each normalization in the default tier.
CHOICES = [('normal', 'batch'), ('exponential', 'integral'), ('beta', 'none')]
CHOICES += [
  (weighting, normalization)
  for weighting in WEIGHTINGS
  for normalization in ('batch', 'integral', 'none')
  if (weighting, normalization) not in CHOICES
]
TWO_MODES = np.r_[np.linspace(0.0, 0.3, 18), np.linspace(3.0, 3.3, 6)]
ONE_MODE = -np.log(np.linspace(0.02, 1.0, 24))


def make(**kw):
  return smooth.make('gr', **kw)


def of(objective):
  return functools.partial(smooth.take, objective)


def at(objective, steps):
  """Several steps, each the first one."""
  return lambda params, batch: jax.lax.map(
    lambda step: smooth.take(objective, params, batch, step), jnp.array(steps)
  )


def by_hand(weighting, normalization):
  """The gradient of the loss itself."""

  def grads(params, batch):
    loss = lambda params: losses.derivative_manipulation(
      smooth.logits_of(params, batch),
      batch['label'],
      WEIGHTINGS[weighting][1],
      normalization=normalization,
    ).mean()
    return jax.grad(loss)(params)

  return grads


def train(objective, micro_batches=1, scale=1.0):
  """Parameters after one step of plain SGD, and its metrics."""
  tx = optax.sgd(1.0)
  step = step_lib.make(
    objective,
    tx,
    key=jax.random.key(0),
    prepare=lambda batch, key, step: batch,
    micro_batches=micro_batches,
  )

  def run(params, batch):
    params = jax.tree.map(lambda leaf: scale * leaf, params)
    state = step_lib.init(
      jax.random.key(0),
      model_init=lambda key: (params, {}),
      objective=objective,
      tx=tx,
      batch=batch,
      ema=False,
    )
    state, metrics = step(state, batch)
    return state.params, metrics

  return run


def half_seen(objective):
  """The second step, where the first had half of the examples."""

  def run(params, batch):
    half = {name: rows[:12] for name, rows in batch.items()}
    _, aux_state, _ = smooth.take(objective, params, half, 0)
    return smooth.take(objective, params, batch, 1, aux_state)

  return run


def mixture(objective):
  """The first step, and two more after it had found these losses."""

  def run(params, batch):
    begun = smooth.take(objective, params, batch)[1]
    later = lambda losses: smooth.take_several(
      objective, params, batch, [1, 2], begun | {'losses': losses}
    )
    return begun, jax.lax.map(later, jnp.float32([TWO_MODES, ONE_MODE]))

  return run


def pull(objective):
  """Of each example, and its weight."""

  def run(params, batch):
    logits = smooth.logits_of(params, batch)
    total = lambda z: objective.example_loss(
      z, batch['label'], batch['index'], {}, 0
    ).sum()
    p = losses.label_probability(logits, batch['label'])
    return (
      jnp.abs(jax.grad(total)(logits)).sum(axis=-1),
      losses.emphasis_weight(p, focus=0.5, spread=8.0),
    )

  return run


def one_class(objective):
  """Of a network that predicts the first class for everything."""
  return lambda params, batch: smooth.take(
    objective, params | {'out': jnp.zeros_like(params['out'])}, batch
  )


def estimating(method):
  return make(estimate_noise=method, warmup_steps=1)


def spread_out(normalization):
  return make(focus=0.5, spread=12.0, normalization=normalization)


def make_cases():
  plain = make(focus=0.5, spread=8.0)
  gce = smooth.make('label_loss', loss='gce')
  extreme = make(focus=0.0, spread=2.0)
  found = {
    'erm': of(smooth.make('erm')),
    'plain': of(plain),
    'pull': pull(plain),
    'one class': one_class(plain),
    'warming up': at(make(focus=0.5, spread=8.0, warmup_steps=3), [2, 3]),
    'rate .4': of(make(noise_rate=0.4)),
    'rate .3': of(make(noise_rate=0.3)),
    'rate .4, focus 3': of(make(noise_rate=0.4, focus=3.0)),
    'rate .4, normal': of(make(noise_rate=0.4, weighting='normal')),
    'normal': of(make(weighting='normal')),
    'ramp': at(
      make(
        focus=0.0,
        spread=4.0,
        focus_end=1.0,
        spread_end=8.0,
        ramp_steps=10,
        warmup_steps=5,
      ),
      [4, 5, 10, 99],
    ),
    'schedule': at(
      make(
        focus=optax.linear_schedule(0.0, 1.0, 10, 5),
        spread=optax.linear_schedule(4.0, 8.0, 10, 5),
        warmup_steps=5,
      ),
      [4, 5, 10, 99],
    ),
    'disagreement': functools.partial(
      smooth.take_several, estimating('disagreement'), steps=[0, 1]
    ),
    'half seen': half_seen(estimating('disagreement')),
    'mixture': mixture(estimating('mixture')),
    'gce, 1': train(gce),
    'gce, 4': train(gce, 4),
    # p is 0 in float32 for some: its logarithm is not.
    'extreme, 1': train(extreme, scale=30),
    'extreme, 4': train(extreme, 4, scale=30),
  }
  for normalization in ('batch', 'none'):
    objective = spread_out(normalization)
    found[f'{normalization}, 1'] = train(objective)
    found[f'{normalization}, 4'] = train(objective, 4)
  for weighting, normalization in CHOICES:
    kw = WEIGHTINGS[weighting][0] | {'normalization': normalization}
    objective = make(weighting=weighting, **kw)
    found[f'{weighting}, {normalization}'] = of(objective)
    found[f'{weighting}, {normalization} by hand'] = by_hand(
      weighting, normalization
    )
  return found


REST = ['none, 1', 'none, 4', 'extreme, 1', 'extreme, 4']
REST += [
  f'{weighting}, {normalization}{end}'
  for weighting, normalization in CHOICES[3:]
  for end in ('', ' by hand')
]


@pytest.fixture(scope='module')
def found():
  return cases.together(make_cases(), *smooth.draw(), alone=REST)


@pytest.fixture
def params():
  return smooth.draw()[0]


@pytest.fixture
def batch():
  return smooth.draw()[1]


def published_gradient(logits, labels, focus, spread, guard):
  """Section 1.3, step 3, in float64 NumPy."""
  probs = smooth.softmax(logits)
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
  params = {name: leaf.astype(np.float64) for name, leaf in params.items()}
  batch = batch | {'image': batch['image'].astype(np.float64)}
  with jax.enable_x64(True):
    grads, _, _ = jax.jit(of(objective))(params, batch)
  _, logits = smooth.forward(params, batch)
  slopes = published_gradient(logits, batch['label'], focus, spread, guard)
  expected = smooth.pull_back(params, batch, slopes)
  cases.close(grads, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(('weighting', 'normalization'), first(CHOICES, 3))
def test_other_weightings_are_those_of_the_loss(
  found, weighting, normalization
):
  grads, _, _ = found[f'{weighting}, {normalization}']
  cases.close(grads, found[f'{weighting}, {normalization} by hand'])


def alike(one, other, tolerance=1e-6):
  """Asserts the same parameters and metrics after a step."""
  cases.close(one[0], other[0], atol=tolerance)
  for name in ('loss', 'accuracy', *one[1].keys() & {'log_normalizer'}):
    np.testing.assert_allclose(one[1][name], other[1][name], rtol=1e-5)


@pytest.mark.parametrize('normalization', first(['batch', 'none']))
def test_the_whole_batch_and_micro_batches_agree(found, normalization):
  alike(found[f'{normalization}, 1'], found[f'{normalization}, 4'])


@pytest.mark.parametrize(
  ('normalization', 'number', 'micro_batches'),
  first(
    [
      ('batch', 2, 1),
      ('batch', 8, 1),
      ('batch', 8, 3),
      ('none', 8, 1),
      ('none', 8, 3),
    ]
  ),
)
def test_one_device_and_several_agree(
  found, params, batch, normalization, number, micro_batches
):
  rows = NamedSharding(sharding.make_mesh(number), PartitionSpec('data'))
  step = jax.jit(train(spread_out(normalization), micro_batches))
  several = step(params, jax.device_put(batch, rows))
  alike(found[f'{normalization}, 1'], jax.device_get(several))


@pytest.mark.full
def test_micro_batches_stand_probabilities_of_zero(found):
  (one, metrics), (four, others) = found['extreme, 1'], found['extreme, 4']
  assert np.isfinite(metrics['log_normalizer'])
  cases.close(one, four, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
    metrics['log_normalizer'], others['log_normalizer'], rtol=1e-5
  )


def test_micro_batches_average_what_is_a_mean(found):
  alike(found['gce, 1'], found['gce, 4'])


def test_the_noise_rate_chooses_the_published_emphasis(found):
  _, _, metrics = found['rate .4']
  assert (float(metrics['focus']), float(metrics['spread'])) == (1.0, 16.0)
  _, _, metrics = found['rate .3']
  np.testing.assert_allclose(metrics['focus'], 0.75, rtol=1e-6)
  many = [float(x) for x in gr.published(0.6, num_classes=100)]
  assert many == [0.5, 8.0]


def test_what_is_given_wins_over_the_noise_rate(found):
  _, _, metrics = found['rate .4, focus 3']
  assert (float(metrics['focus']), float(metrics['spread'])) == (3.0, 16.0)
  cases.close(found['rate .4, normal'][0], found['normal'][0])


@pytest.mark.parametrize('kind', ['ramp', 'schedule'])
def test_ramps_and_schedules_move_the_emphasis(found, kind):
  _, _, metrics = found[kind]
  assert np.isnan(metrics['focus'][0])  # Plays no part yet.
  np.testing.assert_allclose(metrics['focus'][1:], [0, 0.5, 1])
  np.testing.assert_allclose(metrics['spread'][1:], [4, 6, 8])


def test_the_warm_up_is_cross_entropy(found):
  before, after = (
    jax.tree.map(lambda leaf, at=at: leaf[at], found['warming up'][0])
    for at in (0, 1)
  )
  cases.close(before, found['erm'][0])
  cases.close(after, found['plain'][0])


def test_the_noise_rate_is_the_share_of_labels_not_predicted(
  found, params, batch
):
  _, aux_state, metrics = found['disagreement']
  assert np.isnan(metrics['noise_rate'][0])
  begun = jax.tree.map(lambda leaf: leaf[0], aux_state)
  assert np.isnan(estimating('disagreement').learned(begun)['noise_rate'])
  assert np.isnan(metrics['focus'][0])
  predicted = smooth.forward(params, batch)[1].argmax(axis=1)
  rate = np.mean(predicted != batch['label'])
  np.testing.assert_allclose(metrics['noise_rate'][1], rate, rtol=1e-6)
  focus = gr.published(rate, smooth.NUM_CLASSES)[0]
  cases.close(metrics['focus'][1], focus)


def test_examples_that_were_not_seen_do_not_count(found, params, batch):
  _, _, metrics = found['half seen']
  predicted = smooth.forward(params, batch)[1].argmax(axis=1)
  rate = np.mean((predicted != batch['label'])[:12])
  np.testing.assert_allclose(metrics['noise_rate'], rate, rtol=1e-6)


def test_what_cannot_be_told_leaves_the_default(found):
  _, _, metrics = found['mixture'][1]
  assert np.isnan(metrics['noise_rate'][1, 0])
  assert (metrics['focus'][1, 0], metrics['spread'][1, 0]) == (0.5, 8.0)


def test_the_noise_rate_is_estimated_once_from_the_losses_of_the_warm_up(
  found, params, batch
):
  begun, (_, aux_state, metrics) = found['mixture']
  cases.close(begun['losses'], smooth.cross_entropy(params, batch))
  # Losses of 18 right and 6 wrong labels.
  np.testing.assert_allclose(metrics['noise_rate'][0, 0], 0.25, atol=1e-3)
  focus, spread = gr.published(0.25, smooth.NUM_CLASSES)
  np.testing.assert_allclose(metrics['focus'][0, 0], focus, rtol=1e-2)
  np.testing.assert_allclose(metrics['spread'][0, 0], spread, rtol=1e-2)
  estimated, later = (
    jax.tree.map(lambda leaf, at=at: leaf[0, at], aux_state) for at in (0, 1)
  )
  cases.close(later, estimated)
  learned = estimating('mixture').learned(estimated)
  assert float(learned['noise_rate']) == pytest.approx(0.25, 0.1)


def test_the_pull_of_an_example_is_its_weight(found):
  pull, weight = found['pull']
  cases.close(pull, weight, 1e-4)


def test_a_net_that_predicts_one_class_is_told(found, batch):
  _, _, metrics = found['one class']
  labels = np.bincount(batch['label'], minlength=smooth.NUM_CLASSES).max() / 24
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
