"""Adversarial training and TRADES have closed forms on a linear network."""

import jax
import numpy as np
import pytest
from scipy import special

from rrl_jax.errors import ConfigError
from tests.objectives import linear


@pytest.fixture
def params(rng):
  params = linear.draw_params(rng)
  # Two classes: the worst image is at a corner of the ball.
  return params | {'out': params['out'].at[:, 2].set(0.0)}


@pytest.fixture
def batch(rng):
  batch = linear.draw_batch(rng)
  return batch | {'label': batch['label'] % 2}


def two_classes(params):
  """The network without its third class."""
  return params | {'out': params['out'][:, :2]}


def margins(params, batch):
  """Logit of the label minus the other, and the slope's L1 norm."""
  weights = np.asarray(params['in'] @ params['out'], np.float64)
  slope = weights[:, 1] - weights[:, 0]
  sign = 2 * np.asarray(batch['label']) - 1
  images = np.asarray(batch['image'], np.float64).reshape(8, -1)
  return sign * (images @ slope), np.abs(slope).sum()


def test_adversarial_training_is_cross_entropy_in_the_worst_corner(
  params, batch
):
  params = two_classes(params)
  margin, norm = margins(params, batch)
  objective = linear.make('pgd_at', epsilon=0.05, inner_steps=5)
  loss, _, state, _, metrics = linear.run(objective, params, batch)
  worst = margin - 0.05 * norm
  linear.close(loss, np.mean(np.logaddexp(0, -worst)), rtol=1e-4)
  linear.close(metrics['adversarial_accuracy'], np.mean(worst > 0))
  assert (state['clean'], state['adversarial']) == (0, 1)


def test_the_clean_loss_has_its_share(params, batch):
  params = two_classes(params)
  margin, norm = margins(params, batch)
  objective = linear.make('pgd_at', epsilon=0.05, clean_weight=0.25)
  loss, _, state, _, metrics = linear.run(objective, params, batch)
  clean = np.mean(np.logaddexp(0, -margin))
  worst = np.mean(np.logaddexp(0, 0.05 * norm - margin))
  linear.close(loss, 0.25 * clean + 0.75 * worst, rtol=1e-4)
  linear.close(metrics['accuracy'], np.mean(margin > 0))
  assert (state['clean'], state['adversarial']) == (1, 1)


def test_trades_pays_for_the_largest_divergence_found(params, batch):
  params = two_classes(params)
  margin, norm = margins(params, batch)
  objective = linear.make('trades', epsilon=0.05, beta=3.0)
  loss, _, _, _, metrics = linear.run(objective, params, batch)
  clean = np.mean(np.logaddexp(0, -margin))
  linear.close(metrics['clean_loss'], clean, rtol=1e-4)

  def divergence(move):
    p, q = special.expit(margin), special.expit(margin + move)
    return special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)

  corners = [divergence(move) for move in (-0.05 * norm, 0.05 * norm)]
  # From a random start an ascent may end in the lower of the two corners.
  least, most = np.minimum(*corners).mean(), np.maximum(*corners).mean()
  found = (float(loss) - clean) / 3.0
  assert least - 1e-4 <= found <= most + 1e-4
  nothing = linear.run(linear.make('trades', beta=0.0), params, batch)
  linear.close(nothing[0], clean, rtol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize('name', ['pgd_at', 'trades', 'acl', 'tarrl'])
def test_evaluations_take_the_batch_norms_that_are_asked_for(name):
  for eval_norm in ('clean', 'adversarial'):
    objective = linear.make(name, eval_norm=eval_norm)
    assert objective.eval_adversarial == (eval_norm == 'adversarial')


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'kw', 'words'),
  [
    ('pgd_at', {'epsilon': 1.5}, 'epsilon=1.5 is not in'),
    ('pgd_at', {'clean_weight': 1.5}, 'clean_weight=1.5 is not in'),
    ('pgd_at', {'eval_norm': 'both'}, "eval_norm='both'"),
    ('trades', {'beta': -1.0}, 'beta=-1.0 is not in'),
    ('trades', {'norm': 'l0'}, "norm='l0'"),
    ('trades', {'eval_norm': 'both'}, "eval_norm='both'"),
  ],
)
def test_a_wrong_value_is_one_line(name, kw, words):
  with pytest.raises(ConfigError, match=words) as caught:
    linear.make(name, **kw)
  assert '\n' not in str(caught.value)


def test_adversarial_training_sees_no_other_example(params, batch):
  """The loss of a batch is the mean over its halves."""
  params = two_classes(params)
  objective = linear.make('pgd_at', epsilon=0.05, inner_steps=5)
  whole = linear.run(objective, params, batch)
  halves = [
    linear.run(
      objective,
      params,
      jax.tree.map(lambda rows, part=part: rows[part], batch),
    )
    for part in (slice(0, 4), slice(4, 8))
  ]
  linear.close(whole[0], (halves[0][0] + halves[1][0]) / 2, rtol=1e-4)
