"""Best responses against solvers that know only the objective."""

import functools

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
from scipy import optimize

from rrl_jax import losses
from tests.tiers import first

K = 4
RISKS = np.array([0.3, 1.1, 0.75, 0.6])
PRIOR = np.array([0.4, 0.1, 0.2, 0.3])
COST = np.array(
  [
    [0.0, 0.7, 0.2, 1.3],
    [0.5, 0.0, 0.9, 0.4],
    [0.3, 0.8, 0.0, 0.6],
    [1.1, 0.35, 0.45, 0.0],
  ]
)
SMOOTH = {
  'kl': {},
  'l2': {},
  'chi2': {},
  'ot_entropy': {'cost': COST, 'epsilon': 0.4},
}
ALL = SMOOTH | {'ot': {'cost': COST}, 'cvar': {}}
CASES = [(name, kw) for name, kw in ALL.items()]


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


@functools.cache
def compiled(fun, name):
  return jax.jit(functools.partial(fun, divergence=name))


def respond(name, risks, prior, temperature, fun=None, **kw):
  fun = compiled(
    fun or losses.concept_best_response, name.removesuffix('_entropy')
  )
  return fun(risks, prior, temperature=temperature, **(ALL[name] | kw))


def value_of(name, p, risks, prior, temperature):
  """The objective as its definition says, in NumPy."""
  if name == 'kl':
    distance = np.sum(p * np.log(p / prior))
  elif name == 'l2':
    distance = np.sum((p - prior) ** 2)
  else:
    distance = np.sum((p - prior) ** 2 / prior) / 2
  return p @ risks - temperature * distance


def solve(name, risks, prior, temperature):
  """The maximiser by SLSQP from the definition; returns (p, value)."""
  if name in ('kl', 'l2', 'chi2'):
    shape, start = (K,), prior

    def objective(p):
      return -value_of(name, np.maximum(p, 1e-300), risks, prior, temperature)

    constraints = [{'type': 'eq', 'fun': lambda p: p.sum() - 1}]
  else:
    shape, start = (K, K), np.full((K, K), 1 / K) * prior

    def objective(flat):
      plan = np.maximum(flat, 1e-300).reshape(shape)
      entropy = -np.sum(plan * np.log(plan))
      penalty = np.sum(plan * COST) - 0.4 * entropy
      return -(plan.sum(1) @ risks - temperature * penalty)

    constraints = [
      {'type': 'eq', 'fun': lambda f: f.reshape(shape).sum(0) - prior}
    ]
  result = optimize.minimize(
    objective,
    start.ravel(),
    bounds=[(0, 1)] * start.size,
    constraints=constraints,
    method='SLSQP',
    options={'maxiter': 2000, 'ftol': 1e-15},
  )
  x = result.x.reshape(shape)
  return (x if x.ndim == 1 else x.sum(1)), -result.fun


@pytest.mark.parametrize('temperature', [0.15, 0.6, 3.0])
@pytest.mark.parametrize('name', SMOOTH)
def test_maximises_the_penalised_game(x64, name, temperature):
  p = respond(name, RISKS, PRIOR, temperature)
  reference, value = solve(name, RISKS, PRIOR, temperature)
  np.testing.assert_allclose(p, reference, atol=2e-6)
  robust = respond(
    name, RISKS, PRIOR, temperature, fun=losses.concept_robust_risk
  )
  np.testing.assert_allclose(robust, value, atol=1e-9)


@pytest.mark.parametrize('temperature', [0.1, 0.5, 0.8, 2.0])
def test_transport_solves_the_linear_program(x64, temperature):
  # Variables are the plan; only the sources' marginal is fixed.
  gain = RISKS[:, None] - temperature * COST
  sums = np.tile(np.eye(K), K)
  result = optimize.linprog(-gain.ravel(), A_eq=sums, b_eq=PRIOR)
  p = respond('ot', RISKS, PRIOR, temperature)
  np.testing.assert_allclose(p, result.x.reshape(K, K).sum(1), atol=1e-12)
  robust = respond('ot', RISKS, PRIOR, temperature, losses.concept_robust_risk)
  np.testing.assert_allclose(robust, -result.fun, atol=1e-12)


@pytest.mark.parametrize('level', [0.05, 0.1, 0.35, 0.6, 1.0])
def test_cvar_solves_the_linear_program(x64, level):
  result = optimize.linprog(
    -RISKS,
    A_eq=np.ones((1, K)),
    b_eq=[1.0],
    bounds=[(0, q / level) for q in PRIOR],
  )
  p = respond('cvar', RISKS, PRIOR, level)
  np.testing.assert_allclose(p, result.x, atol=1e-12)


@pytest.mark.full
def test_transport_with_entropy_matches_ott_at_its_own_marginal(x64):
  from ott.geometry import geometry
  from ott.solvers import linear

  p = respond('ot_entropy', RISKS, PRIOR, 0.6)
  with jax.numpy_rank_promotion('allow'):
    out = linear.solve(
      geometry.Geometry(cost_matrix=jnp.asarray(COST), epsilon=0.4),
      a=p,
      b=jnp.asarray(PRIOR),
      threshold=1e-12,
      max_iterations=20_000,
    )
  # The penalty of the closed form is the cost of the best plan between the
  # two marginals, so that the value is the penalised game's.
  robust = respond('ot_entropy', RISKS, PRIOR, 0.6, losses.concept_robust_risk)
  np.testing.assert_allclose(
    robust, p @ RISKS - 0.6 * out.ent_reg_cost, atol=1e-10
  )
  distance = losses.concept_divergence(
    p, PRIOR, divergence='ot', cost=COST, epsilon=0.4
  )
  np.testing.assert_allclose(distance, out.ent_reg_cost, atol=1e-10)


@pytest.mark.parametrize('name', [n for n in ALL if n != 'cvar'])
def test_a_low_temperature_gives_the_worst_concept(name):
  p = respond(name, RISKS.astype('f'), PRIOR.astype('f'), 1e-6)
  np.testing.assert_allclose(p, np.eye(K)[1], atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize('name', ['kl', 'l2', 'chi2', 'ot'])
def test_a_high_temperature_gives_the_prior(name):
  p = respond(name, RISKS.astype('f'), PRIOR.astype('f'), 1e6)
  np.testing.assert_allclose(p, PRIOR, atol=1e-5)


@pytest.mark.fast
def test_the_whole_level_of_cvar_gives_the_prior():
  np.testing.assert_allclose(respond('cvar', RISKS, PRIOR, 1.0), PRIOR, 1e-6)


@pytest.mark.fast
@pytest.mark.parametrize('name', ['kl', 'chi2', 'cvar'])
def test_a_concept_without_prior_stays_without_weight(name):
  prior = np.array([0.5, 0.0, 0.3, 0.2], 'f')
  for temperature in (1e-6, 0.1, 1.0):
    p = respond(name, RISKS.astype('f'), prior, temperature)
    assert p[1] == 0
    np.testing.assert_allclose(p.sum(), 1, atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize('name', ['kl', 'chi2', 'cvar'])
def test_equal_risks_share_in_proportion_to_the_prior(name):
  risks = np.array([0.1, 2.0, 2.0, 0.5], 'f')
  p = respond(name, risks, PRIOR.astype('f'), 1e-3)
  np.testing.assert_allclose(p, [0, 1 / 3, 2 / 3, 0], atol=1e-6)


def test_a_source_splits_equally_between_its_best_targets():
  p = losses.concept_best_response(
    jnp.array([0.0, 1.0, 1.0]),
    jnp.array([1.0, 0.0, 0.0]),
    temperature=1.0,
    divergence='ot',
    cost=jnp.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]),
  )
  np.testing.assert_array_equal(p, [0.0, 0.5, 0.5])


def test_small_costs_decide_between_large_equal_risks():
  # 1000 - 1e-6 * cost rounds to 1000 in float32.
  cost = jnp.asarray(COST, jnp.float32)
  p = losses.concept_best_response(
    jnp.full((K,), 1000.0),
    jnp.asarray(PRIOR, jnp.float32),
    temperature=1e-6,
    divergence='ot',
    cost=cost,
  )
  np.testing.assert_allclose(p, PRIOR, rtol=1e-6)


@pytest.mark.full
def test_an_infinite_cost_forbids_a_move():
  cost = jnp.where(jnp.eye(K) > 0, 0, jnp.inf)
  for epsilon in (None, 0.5):
    value = jax.value_and_grad(
      lambda v, e=epsilon: respond(
        'ot', v, jnp.asarray(PRIOR, 'f'), 0.3, cost=cost, epsilon=e
      )[1]
    )
    p, grad = value(jnp.asarray(RISKS, 'f'))
    np.testing.assert_allclose(p, PRIOR[1], rtol=1e-6)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
@pytest.mark.parametrize('name', first(ALL))
def test_extremes_stay_finite_in_value_and_gradient(name, dtype):
  prior = jnp.array([0.5, 0.0, 0.5, 1e-30], dtype)
  temperatures = [1e-6, 1e-2, 1.0] + ([] if name == 'cvar' else [1e6])
  rows = jnp.array(
    [
      [0.0, 0.0, 0.0, 0.0],
      [1e4, -1e4, 0.0, 3.0],
      [3e38, -3e38, 3e38, -3e38],
      [0.0, 0.0, 1e-30, 5.0],
    ],
    dtype,
  )

  @jax.jit
  @jax.vmap
  def both(risks):
    def out(temperature):
      fun = lambda v, q, t: respond(name, v, q, t)
      return fun(risks, prior, temperature), jax.jacrev(fun, (0, 1, 2))(
        risks, prior, temperature
      )

    return [out(jnp.float32(t)) for t in temperatures]

  for p, grads in both(rows):
    assert p.dtype == dtype
    p = np.asarray(p, np.float32)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(-1), 1, atol=2e-2)
    for grad in grads[:2]:
      assert np.isfinite(np.asarray(grad, np.float32)).all()


@pytest.mark.parametrize('name', first(SMOOTH))
def test_response_and_value_are_differentiable(x64, name):
  prior = jnp.asarray(PRIOR)
  check_grads(
    lambda v, q, t: respond(name, v, q, t),
    (jnp.asarray(RISKS), prior, 0.9),
    order=1,
    modes=['rev', 'fwd'],
  )
  check_grads(
    lambda v, t: respond(name, v, prior, t, losses.concept_robust_risk),
    (jnp.asarray(RISKS), 0.9),
    order=2,
    modes=['rev'],
  )


@pytest.mark.parametrize('name', ALL)
def test_the_gradient_of_the_robust_risk_is_the_response(name):
  risks, prior = jnp.asarray(RISKS, 'f'), jnp.asarray(PRIOR, 'f')
  for temperature in (1e-6, 0.2, 0.9):
    grad = jax.grad(
      lambda v, t=temperature: respond(
        name, v, prior, t, losses.concept_robust_risk
      )
    )(risks)
    p = respond(name, risks, prior, temperature)
    np.testing.assert_allclose(grad, p, atol=1e-6)


def test_the_robust_risk_of_kl_keeps_its_digits_at_high_temperature():
  prior = jnp.asarray(PRIOR, 'f')
  value = respond(
    'kl', jnp.asarray(RISKS, 'f'), prior, 1e6, losses.concept_robust_risk
  )
  np.testing.assert_allclose(value, PRIOR @ RISKS, rtol=1e-6)


@pytest.mark.parametrize('radius', [0.003, 0.05, 0.2])
@pytest.mark.parametrize('name', ['kl', 'l2', 'chi2'])
def test_the_ball_is_used_up_by_its_worst_member(x64, name, radius):
  p, temperature = losses.concept_best_response_in_ball(
    RISKS, PRIOR, radius=radius, divergence=name
  )
  distance = losses.concept_divergence(p, PRIOR, divergence=name)
  np.testing.assert_allclose(distance, radius, rtol=1e-6)
  again = losses.concept_best_response(
    RISKS, PRIOR, temperature=temperature, divergence=name
  )
  np.testing.assert_allclose(p, again, atol=1e-8)
  result = optimize.minimize(
    lambda x: -x @ RISKS,
    PRIOR,
    bounds=[(1e-12, 1)] * K,
    constraints=[
      {'type': 'eq', 'fun': lambda x: x.sum() - 1},
      {
        'type': 'ineq',
        'fun': lambda x: radius + value_of(name, x, 0 * RISKS, PRIOR, 1.0),
      },
    ],
    method='SLSQP',
    options={'maxiter': 1000, 'ftol': 1e-14},
  )
  np.testing.assert_allclose(p @ RISKS, -result.fun, atol=1e-6)


@pytest.mark.parametrize('radius', [0.0, 0.05, 0.21, 0.5])
def test_the_transport_ball_solves_the_linear_program(x64, radius):
  gain = np.repeat(RISKS[:, None], K, axis=1)
  result = optimize.linprog(
    -gain.ravel(),
    A_eq=np.tile(np.eye(K), K),
    b_eq=PRIOR,
    A_ub=COST.ravel()[None],
    b_ub=[radius],
  )
  p, _ = losses.concept_best_response_in_ball(
    RISKS, PRIOR, radius=radius, divergence='ot', cost=COST
  )
  np.testing.assert_allclose(p @ RISKS, -result.fun, atol=1e-8)
  np.testing.assert_allclose(p.sum(), 1, atol=1e-12)


@pytest.mark.full
@pytest.mark.parametrize('name', ['kl', 'l2', 'chi2', 'cvar'])
def test_balls_of_no_and_of_endless_radius(name):
  risks, prior = jnp.asarray(RISKS, 'f'), jnp.asarray(PRIOR, 'f')
  ball = lambda radius: losses.concept_best_response_in_ball(
    risks, prior, radius=radius, divergence=name
  )[0]
  np.testing.assert_allclose(ball(0.0), PRIOR, atol=2e-4)
  np.testing.assert_allclose(ball(50.0), np.eye(K)[1], atol=1e-6)


def test_equal_risks_leave_the_ball_at_its_centre():
  p, temperature = losses.concept_best_response_in_ball(
    jnp.ones(K), jnp.asarray(PRIOR, 'f'), radius=0.1
  )
  np.testing.assert_allclose(p, PRIOR, rtol=1e-6)
  assert np.isfinite(temperature)


def test_the_cvar_ball_is_the_level(x64):
  p, level = losses.concept_best_response_in_ball(
    RISKS, PRIOR, radius=np.log(2), divergence='cvar'
  )
  np.testing.assert_allclose(level, 0.5)
  np.testing.assert_allclose(p, respond('cvar', RISKS, PRIOR, 0.5))
  distance = losses.concept_divergence(p, PRIOR, divergence='cvar')
  np.testing.assert_allclose(distance, np.log(2))


@pytest.mark.fast
def test_divergences_equal_their_definitions(x64):
  p = np.array([0.1, 0.2, 0.4, 0.3])
  of = lambda name: losses.concept_divergence(p, PRIOR, divergence=name)
  np.testing.assert_allclose(of('kl'), np.sum(p * np.log(p / PRIOR)))
  np.testing.assert_allclose(of('l2'), np.sum((p - PRIOR) ** 2))
  np.testing.assert_allclose(of('chi2'), np.sum((p - PRIOR) ** 2 / PRIOR) / 2)
  np.testing.assert_allclose(of('cvar'), np.log(np.max(p / PRIOR)))


@pytest.mark.parametrize('name', ['kl', 'l2', 'chi2', 'cvar'])
def test_divergences_vanish_at_the_prior(name):
  prior = jnp.array([0.3, 0.0, 0.7])
  distance = losses.concept_divergence(prior, prior, divergence=name)
  np.testing.assert_allclose(distance, 0, atol=1e-6)


def test_mass_outside_the_prior_is_infinitely_far():
  p, prior = jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])
  for name in ('kl', 'chi2', 'cvar'):
    assert losses.concept_divergence(p, prior, divergence=name) == np.inf


@pytest.mark.full
def test_entropic_transport_is_differentiable(x64):
  p = jnp.array([0.1, 0.2, 0.4, 0.3])

  def distance(logits, cost):
    # Along the simplex, where alone the gradient in p is defined.
    return losses.concept_divergence(
      jax.nn.softmax(logits), PRIOR, divergence='ot', cost=cost, epsilon=0.4
    )

  check_grads(distance, (jnp.log(p), jnp.asarray(COST)), order=1, modes=['rev'])


@pytest.mark.parametrize('name', ALL)
def test_vmap_equals_a_loop(name):
  rows = jnp.stack([jnp.asarray(RISKS, 'f'), jnp.asarray(RISKS[::-1], 'f')])
  prior = jnp.asarray(PRIOR, 'f')
  together = jax.vmap(lambda v: respond(name, v, prior, 0.4))(rows)
  alone = jnp.stack([respond(name, v, prior, 0.4) for v in rows])
  np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(
  ('kwargs', 'error', 'words'),
  [
    ({'temperature': 0.0}, ValueError, 'temperature must lie in'),
    ({'temperature': -1.0}, ValueError, 'temperature must lie in'),
    ({'temperature': 1.5, 'divergence': 'cvar'}, ValueError, 'level of cvar'),
    ({'temperature': 1.0, 'divergence': 'js'}, ValueError, 'one of kl, l2'),
    ({'temperature': 1.0, 'divergence': 'ot'}, ValueError, 'needs cost'),
    (
      {'temperature': 1.0, 'divergence': 'ot', 'cost': np.ones((2, 2))},
      ValueError,
      r'cost must be \(4, 4\)',
    ),
    ({'temperature': 1.0, 'cost': COST}, ValueError, "for 'ot'"),
    ({'temperature': 1.0, 'prior': np.ones(3)}, ValueError, 'equal'),
    ({'temperature': 1.0, 'risks': np.arange(4)}, TypeError, 'floating'),
    ({'temperature': 1.0, 'risks': np.ones((2, 2))}, ValueError, 'rank 1'),
  ],
)
def test_wrong_arguments_are_named(kwargs, error, words):
  kwargs = {'risks': RISKS, 'prior': PRIOR} | kwargs
  with pytest.raises(error, match=words) as caught:
    losses.concept_best_response(
      kwargs.pop('risks'), kwargs.pop('prior'), **kwargs
    )
  assert '\n' not in str(caught.value)
