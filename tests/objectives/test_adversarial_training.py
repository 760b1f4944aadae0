"""Adversarial training and TRADES have closed forms on a linear network."""

import functools

import jax
import numpy as np
import pytest
from scipy import special

from rrl_jax.errors import ConfigError
from tests.objectives import cases, linear


def draw():
  """Of two classes: the worst image is at a corner of the ball."""
  params, batch = linear.draw()
  weights = params['out'] * np.float32([[1, 1, 0]])
  return (
    params | {'out': weights[:, :2]},
    batch | {'label': batch['label'] % 2},
  )


def of(name, **kw):
  return functools.partial(linear.take, linear.make(name, epsilon=0.05, **kw))


pgd_at = of('pgd_at', inner_steps=3)


def halves(params, batch):
  """The losses of the first and the last four examples."""
  cut = jax.tree.map(lambda rows: rows.reshape(2, 4, *rows.shape[1:]), batch)
  return jax.lax.map(lambda half: pgd_at(params, half)[0], cut)


CASES = {
  'pgd_at': pgd_at,
  'halves': halves,
  'with clean': of('pgd_at', clean_weight=0.25, inner_steps=3),
  'trades': of('trades', beta=3.0, inner_steps=3),
  'no trades': of('trades', beta=0.0, inner_steps=1),
}


@pytest.fixture(scope='module')
def found():
  return cases.together(CASES, *draw())


@pytest.fixture
def margins():
  """Logit of the label minus the other, and the slope's L1 norm."""
  params, batch = draw()
  weights = np.asarray(params['in'] @ params['out'], np.float64)
  slope = weights[:, 1] - weights[:, 0]
  sign = 2 * batch['label'] - 1
  images = np.asarray(batch['image'], np.float64).reshape(8, -1)
  return sign * (images @ slope), np.abs(slope).sum()


def test_adversarial_training_is_cross_entropy_in_the_worst_corner(
  found, margins
):
  margin, norm = margins
  loss, _, state, _, metrics = found['pgd_at']
  worst = margin - 0.05 * norm
  cases.close(loss, np.mean(np.logaddexp(0, -worst)), rtol=1e-4)
  cases.close(metrics['adversarial_accuracy'], np.mean(worst > 0))
  assert (state['clean'], state['adversarial']) == (0, 1)


def test_the_clean_loss_has_its_share(found, margins):
  margin, norm = margins
  loss, _, state, _, metrics = found['with clean']
  clean = np.mean(np.logaddexp(0, -margin))
  worst = np.mean(np.logaddexp(0, 0.05 * norm - margin))
  cases.close(loss, 0.25 * clean + 0.75 * worst, rtol=1e-4)
  cases.close(metrics['accuracy'], np.mean(margin > 0))
  assert (state['clean'], state['adversarial']) == (1, 1)


def test_trades_pays_for_the_largest_divergence_found(found, margins):
  margin, norm = margins
  loss, _, _, _, metrics = found['trades']
  clean = np.mean(np.logaddexp(0, -margin))
  cases.close(metrics['clean_loss'], clean, rtol=1e-4)

  def divergence(move):
    p, q = special.expit(margin), special.expit(margin + move)
    return special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)

  corners = [divergence(move) for move in (-0.05 * norm, 0.05 * norm)]
  # From a random start an ascent may end in the lower of the two corners.
  least, most = np.minimum(*corners).mean(), np.maximum(*corners).mean()
  paid = (float(loss) - clean) / 3.0
  assert least - 1e-4 <= paid <= most + 1e-4
  cases.close(found['no trades'][0], clean, rtol=1e-4)


def test_adversarial_training_sees_no_other_example(found):
  """The loss of a batch is the mean over its halves."""
  cases.close(found['pgd_at'][0], np.mean(found['halves']), rtol=1e-4)


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
