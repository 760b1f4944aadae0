"""What gradient rescaling is compared with is what its papers say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrl_jax import losses
from rrl_jax.errors import ConfigError
from tests.objectives.test_gr import (
  NUM_CLASSES,
  apply_fn,
  assert_close,
  batch,
  gradient,
  logits_of,
  make,
  params,
)
from tests.tiers import first

__all__ = ['batch', 'params']  # Fixtures.


@pytest.mark.parametrize(
  ('kw', 'loss_fn'),
  first(
    [
      ({'loss': 'gce', 'q': 0.5}, losses.generalized_cross_entropy),
      (
        {'loss': 'sce', 'alpha': 0.2, 'beta': 2.0},
        losses.symmetric_cross_entropy,
      ),
      ({'loss': 'mae'}, losses.mean_absolute_error),
      ({'loss': 'focal', 'gamma': 1.0}, losses.focal),
      ({'loss': 'bootstrapping', 'kind': 'hard'}, losses.bootstrapping),
      ({'loss': 'apl', 'passive': 'mae', 'alpha': 2.0}, losses.active_passive),
    ]
  ),
)
def test_a_label_loss_is_the_mean_of_the_function(params, batch, kw, loss_fn):
  objective = make('label_loss', **kw)
  rest = {name: value for name, value in kw.items() if name != 'loss'}
  fun = lambda q: loss_fn(logits_of(q, batch), batch['label'], **rest)
  grads, _, _ = gradient(objective, params, batch)
  assert_close(grads, jax.grad(lambda q: fun(q).mean())(params))
  example = objective.example_loss(
    logits_of(params, batch), batch['label'], batch['index'], {}, 0
  )
  assert_close(example, fun(params))


def test_elr_pulls_towards_the_memory_of_each_example(params, batch):
  objective = make('elr', strength=2.0, momentum=0.5)
  grads, aux, _ = gradient(objective, params, batch)
  probs = jax.nn.softmax(logits_of(params, batch))
  assert_close(aux.targets, probs / 2, rtol=1e-4)

  def loss(q):
    logits = logits_of(q, batch)
    agreement = jnp.sum(probs / 2 * jax.nn.softmax(logits), axis=-1)
    plain = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )
    return jnp.mean(plain + 2.0 * jnp.log1p(-agreement))

  assert_close(grads, jax.grad(loss)(params), rtol=1e-3, atol=1e-5)


def test_elr_finds_its_examples_by_index(params, batch):
  objective = make('elr')
  _, aux, _ = gradient(objective, params, batch)
  order = np.random.default_rng(3).permutation(24)
  shuffled = {name: rows[order] for name, rows in batch.items()}
  _, other, _ = gradient(objective, params, shuffled)
  assert_close(aux, other)


def test_mixup_without_mixing_is_cross_entropy(params, batch):
  # A Beta law this narrow puts all weight on one of the two.
  key_free, _, _ = gradient(make('mixup', alpha=1e-6), params, batch)
  expected, _, _ = gradient(make('erm'), params, batch)
  assert_close(key_free, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.full
def test_mixup_blends_images_and_labels(params, batch):
  grads, _, _ = gradient(make('mixup', alpha=2.0), params, batch)
  partners, weights = losses.mixup_pairs(jax.random.key(1), 24, alpha=2.0)
  mu = weights[0]
  image = mu * batch['image'] + (1 - mu) * batch['image'][partners]
  one_hot = jax.nn.one_hot(batch['label'], NUM_CLASSES)
  target = mu * one_hot + (1 - mu) * one_hot[partners]
  loss = lambda q: optax.softmax_cross_entropy(
    apply_fn(q, {}, image, train=False)[0][0], target
  ).mean()
  assert_close(grads, jax.grad(loss)(params), rtol=1e-4)


@pytest.fixture
def two(params):
  """Parameters of two different networks."""
  return jax.tree.map(lambda x: jnp.stack([x, -x[::-1]]), params)


@pytest.mark.full
def test_each_of_two_networks_learns_what_the_other_finds_easy(two, batch):
  objective = make('co_teaching', forget_rate=0.25)
  grads, _, metrics = gradient(objective, two, batch)
  assert objective.num_networks == 2
  assert objective.example_loss is None  # Who is chosen, the batch decides.
  np.testing.assert_allclose(metrics['kept_share'], 0.75)
  single = lambda k: jax.tree.map(lambda x: x[k], two)
  losses_of = lambda q: optax.softmax_cross_entropy_with_integer_labels(
    logits_of(q, batch), batch['label']
  )
  for k in (0, 1):
    easy = np.argsort(losses_of(single(1 - k)))[:18]
    expected = jax.grad(lambda q, easy=easy: losses_of(q)[easy].mean())(
      single(k)
    )
    found = jax.tree.map(lambda x, k=k: 2 * x[k], grads)
    assert_close(found, expected, rtol=1e-4)


def test_co_teaching_forgets_gradually(two, batch):
  objective = make('co_teaching', forget_rate=0.5, ramp_steps=4)
  for step, kept in ((0, 1.0), (1, 21 / 24), (2, 0.75), (4, 0.5), (40, 0.5)):
    _, _, metrics = gradient(objective, two, batch, step=step)
    np.testing.assert_allclose(metrics['kept_share'], kept)


@pytest.mark.fast
def test_label_smoothing_has_no_closed_weight_but_pulls(params, batch):
  objective = make('erm', label_smoothing=0.2)
  grads, _, _ = gradient(objective, params, batch)
  example = lambda q: objective.example_loss(
    logits_of(q, batch), batch['label'], batch['index'], {}, 0
  )
  assert_close(grads, jax.grad(lambda q: example(q).mean())(params))


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
