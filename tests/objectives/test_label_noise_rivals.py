"""What gradient rescaling is compared with is what its papers say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrl_jax import losses
from rrl_jax.errors import ConfigError
from tests.objectives import cases, smooth
from tests.objectives.smooth import make

LABEL_LOSSES = {
  'gce': ({'q': 0.5}, losses.generalized_cross_entropy),
  'sce': ({'alpha': 0.2, 'beta': 2.0}, losses.symmetric_cross_entropy),
  'mae': ({}, losses.mean_absolute_error),
  'focal': ({'gamma': 1.0}, losses.focal),
  'bootstrapping': ({'kind': 'hard'}, losses.bootstrapping),
  'apl': ({'passive': 'mae', 'alpha': 2.0}, losses.active_passive),
}
SHUFFLED = np.random.default_rng(3).permutation(24)


def example_losses(objective, params, batch):
  logits = smooth.logits_of(params, batch)
  return objective.example_loss(logits, batch['label'], batch['index'], {}, 0)


def label_loss(name):
  """``((gradient, losses of the examples), the same by hand)``."""
  kw, loss_fn = LABEL_LOSSES[name]

  def run(params, batch, two):
    del two
    objective = make('label_loss', loss=name, **kw)
    by_hand = lambda params: loss_fn(
      smooth.logits_of(params, batch), batch['label'], **kw
    )
    mean = lambda params: by_hand(params).mean()
    return (
      smooth.take(objective, params, batch)[0],
      example_losses(objective, params, batch),
    ), (jax.grad(mean)(params), by_hand(params))

  return run


def smoothing(params, batch, two):
  """The gradient, and that of the losses of the examples."""
  del two
  objective = make('erm', label_smoothing=0.2)
  mean = lambda params: example_losses(objective, params, batch).mean()
  return smooth.take(objective, params, batch)[0], jax.grad(mean)(params)


def elr_by_hand(params, batch, two):
  del two
  probs = jax.nn.softmax(smooth.logits_of(params, batch))

  def loss(params):
    logits = smooth.logits_of(params, batch)
    agreement = jnp.sum(probs / 2 * jax.nn.softmax(logits), axis=-1)
    plain = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )
    return jnp.mean(plain + 2.0 * jnp.log1p(-agreement))

  return probs, jax.grad(loss)(params)


def mixup_by_hand(params, batch, two):
  del two
  partners, weights = losses.mixup_pairs(jax.random.key(1), 24, alpha=2.0)
  mu = weights[0]
  image = mu * batch['image'] + (1 - mu) * batch['image'][partners]
  one_hot = jax.nn.one_hot(batch['label'], smooth.NUM_CLASSES)
  target = mu * one_hot + (1 - mu) * one_hot[partners]
  loss = lambda params: optax.softmax_cross_entropy(
    smooth.logits_of(params, {'image': image}), target
  ).mean()
  return jax.grad(loss)(params)


def forgetting(params, batch, two):
  """The share that is kept at several steps."""
  del params
  objective = make('co_teaching', forget_rate=0.5, ramp_steps=4)
  return jax.lax.map(
    lambda step: smooth.take(objective, two, batch, step)[2]['kept_share'],
    jnp.array([0, 1, 2, 4, 40]),
  )


def of(name, rows=slice(None), **kw):
  """A step of the objective, on the batch in this order."""

  def run(params, batch, two):
    del two
    batch = {name: leaf[rows] for name, leaf in batch.items()}
    return smooth.take(make(name, **kw), params, batch)

  return run


CASES = {name: label_loss(name) for name in LABEL_LOSSES} | {
  'smoothing': smoothing,
  'elr': of('elr', strength=2.0, momentum=0.5),
  'elr, by hand': elr_by_hand,
  'elr, shuffled': of('elr', SHUFFLED, strength=2.0, momentum=0.5),
  'mixup': of('mixup', alpha=2.0),
  'mixup, by hand': mixup_by_hand,
  # A Beta law this narrow puts all weight on one of the two.
  'no mixup': of('mixup', alpha=1e-6),
  'co_teaching': lambda params, batch, two: smooth.take(
    make('co_teaching', forget_rate=0.25), two, batch
  ),
  'co_teaching, all': lambda params, batch, two: smooth.take(
    make('co_teaching', forget_rate=0.0), two, batch
  ),
  'forgetting': forgetting,
}


def draw():
  """``(params, batch, parameters of two different networks)``."""
  params, batch = smooth.draw()
  two = {name: np.stack([leaf, -leaf[::-1]]) for name, leaf in params.items()}
  return params, batch, two


@pytest.fixture(scope='module')
def found():
  return cases.together(CASES, *draw())


@pytest.fixture
def params():
  return draw()[0]


@pytest.fixture
def batch():
  return draw()[1]


@pytest.mark.parametrize('name', LABEL_LOSSES)
def test_a_label_loss_is_the_mean_of_the_function(found, name):
  ours, by_hand = found[name]
  cases.close(ours, by_hand)


def test_elr_pulls_towards_the_memory_of_each_example(found):
  grads, aux_state, _ = found['elr']
  probs, expected = found['elr, by hand']
  cases.close(aux_state.targets, probs / 2, rtol=1e-4)
  cases.close(grads, expected, rtol=1e-3, atol=1e-5)


def test_elr_finds_its_examples_by_index(found):
  cases.close(found['elr'][1], found['elr, shuffled'][1])


def test_mixup_without_mixing_is_cross_entropy(found, params, batch):
  expected = smooth.pull_back(
    params, batch, smooth.residual(params, batch) / 24
  )
  cases.close(found['no mixup'][0], expected, rtol=1e-3, atol=1e-5)


def test_mixup_blends_images_and_labels(found):
  cases.close(found['mixup'][0], found['mixup, by hand'], rtol=1e-4)


def test_each_of_two_networks_learns_what_the_other_finds_easy(found, batch):
  objective = make('co_teaching', forget_rate=0.25)
  grads, _, metrics = found['co_teaching']
  assert objective.num_networks == 2
  assert objective.example_loss is None  # Who is chosen, the batch decides.
  np.testing.assert_allclose(metrics['kept_share'], 0.75)
  _, _, two = draw()
  single = lambda k: {name: leaf[k] for name, leaf in two.items()}
  for k in (0, 1):
    easy = np.argsort(smooth.cross_entropy(single(1 - k), batch))[:18]
    kept = np.isin(np.arange(24), easy) / 18
    slopes = kept[:, None] * smooth.residual(single(k), batch)
    expected = smooth.pull_back(single(k), batch, slopes)
    ours = {name: leaf[k] for name, leaf in grads.items()}
    cases.close(ours, expected, rtol=1e-4)


def test_each_network_learns_as_fast_as_one_alone(found):
  """The whole gradient of cross entropy, if nothing is forgotten."""
  _, batch, two = draw()
  grads, _, _ = found['co_teaching, all']
  for k in (0, 1):
    single = {name: leaf[k] for name, leaf in two.items()}
    slopes = smooth.residual(single, batch) / 24
    expected = smooth.pull_back(single, batch, slopes)
    cases.close({n: leaf[k] for n, leaf in grads.items()}, expected, rtol=1e-4)


def test_co_teaching_forgets_gradually(found):
  np.testing.assert_allclose(
    found['forgetting'], [1.0, 21 / 24, 0.75, 0.5, 0.5]
  )


def test_label_smoothing_has_no_closed_weight_but_pulls(found):
  ours, by_hand = found['smoothing']
  cases.close(ours, by_hand)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'kw', 'words'),
  [
    ('label_loss', {'loss': 'gcee'}, "loss='gcee'; known: gce"),
    ('label_loss', {'loss': 'gce', 'q': 1.5}, 'q'),
    ('label_loss', {'loss': 'gce', 'beta': 1.0}, 'gce has no such argument'),
    ('elr', {'strength': -1.0}, 'strength=-1.0'),
    ('elr', {'momentum': 1.5}, 'momentum=1.5'),
    ('mixup', {'alpha': 0.0}, 'alpha=0.0'),
    ('co_teaching', {'forget_rate': 1.0}, 'forget_rate=1.0'),
    ('co_teaching', {'ramp_steps': -1}, 'ramp_steps=-1'),
  ],
)
def test_a_wrong_value_is_one_line(name, kw, words):
  with pytest.raises(ConfigError, match=words):
    make(name, **kw)
