"""Values and gradients stay finite near the largest float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import losses

LARGEST = np.finfo(np.float32).max
HUGE = np.array([3e38, -3e38, 1e38], np.float32)
GROUPS = jnp.array([0, 0, 1])
LABELS = jnp.array([0, 1, 2])
# Functions of values ``[3]`` whose sum is no float32.
RISKS = {
  'cvar_risk': lambda v: losses.cvar_risk(v, level=0.5),
  'cvar_risk, penalty': lambda v: losses.cvar_risk(v, level=0.5, penalty=1.0),
  'chi2_risk': lambda v: losses.chi2_risk(v, penalty=1.0),
  'chi2_risk, radius': lambda v: losses.chi2_risk(v, radius=0.1),
  'armor_risk': lambda v: losses.armor_risk(
    v, 0 * v, losses.armor_init(), cost_weight=1.0, radius=0.1
  ),
  'group_dro_update': lambda v: (
    losses.group_dro_update(losses.group_dro_init(2), v, GROUPS).probs
  ),
  'concept_risk_update': lambda v: losses.concept_risk_estimate(
    losses.concept_risk_update(losses.concept_risk_init(2), v, GROUPS, rate=1.0)
  ),
  'concept_robust_risk': lambda v: losses.concept_robust_risk(
    v, jnp.full(3, 1 / 3), temperature=1.0
  ),
}
# Functions of rows ``[3, 3]`` and others of the opposite sign.
PAIRS = {
  'alp': lambda a, b: losses.alp(a, b, LABELS),
  'trades': lambda a, b: losses.trades(a, b, LABELS, beta=1.0),
  'mart': lambda a, b: losses.mart(a, b, LABELS, beta=1.0),
  'linear_loss_gap': lambda a, b: losses.linear_loss_gap(
    a, b, LABELS, jnp.eye(3), jnp.zeros(3)
  ),
  'transport_cost': losses.transport_cost,
} | {
  f'feature_shift, {distance}': (
    lambda a, b, d=distance: losses.feature_shift(a, b, distance=d)
  )
  for distance in ('sq_l2', 'l2', 'cosine', 'unit_l2', 'kl')
}


def rows():
  return jnp.stack([jnp.roll(HUGE, k) for k in range(3)])


@pytest.fixture(scope='module')
def found():
  """Value and gradient of each, and risks of equal losses; one program."""

  @jax.jit
  def run(v, a, same):
    def both(f, *args):
      out, pull = jax.vjp(f, *args)
      return out, pull(jnp.ones_like(out))

    apart = {name: both(f, v) for name, f in RISKS.items()}
    apart |= {name: both(f, a, -a) for name, f in PAIRS.items()}
    return apart, {name: f(same) for name, f in RISKS.items()}

  return run(jnp.asarray(HUGE), rows(), jnp.full(3, 3e38))


@pytest.mark.parametrize('name', [*RISKS, *PAIRS])
def test_value_and_gradient_are_finite(found, name):
  for leaf in jax.tree.leaves(found[0][name]):
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize('name', [n for n in RISKS if n.endswith('risk')])
def test_equal_losses_have_themselves_as_their_risk(found, name):
  np.testing.assert_allclose(found[1][name], 3e38, rtol=1e-5)


def test_a_direction_does_not_depend_on_the_length(found):
  near = jnp.asarray(np.asarray(rows(), float) / 1e38, jnp.float32)
  for distance in ('cosine', 'unit_l2'):
    expected = losses.feature_shift(near, -near, distance=distance)
    got, _ = found[0][f'feature_shift, {distance}']
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_distance_is_at_most_the_largest_number(found):
  assert (found[0]['feature_shift, sq_l2'][0] == LARGEST).all()
  assert (found[0]['feature_shift, l2'][0] == LARGEST).all()
