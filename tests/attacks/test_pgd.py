"""PGD: optimal where the optimum is known, and within its contract."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rrl_jax import attacks
from tests.tiers import first

NORMS = ('linf', 'l2', 'l1')
W = np.random.default_rng(7).normal(size=(12,)).astype('f')
V = np.random.default_rng(8).normal(size=(12, 5)).astype('f')


def linear(z):
  return z @ W


def wavy(z):
  """A smooth loss with several maxima in reach."""
  return jnp.sum(jnp.sin(6 * z @ V) * jnp.arange(1.0, 6.0)[None], axis=1)


@functools.cache
def compiled(loss_fn, **static):
  return jax.jit(functools.partial(attacks.pgd, loss_fn, **static))


def attack(loss_fn, x, key=None, *, epsilon=0.2, step_size=0.05, **kw):
  ids = kw.pop('example_ids', None)
  kw = {
    'num_steps': 5,
    'random_start': key is not None,
    'unroll': 1,  # Compiles in a fraction of the time.
  } | kw
  return compiled(loss_fn, **kw)(
    key, x, epsilon=epsilon, step_size=step_size, example_ids=ids
  )


def inputs(rows=6, seed=0):
  return np.random.default_rng(seed).uniform(size=(rows, 12)).astype('f')


def best_linear(x, epsilon, norm):
  """Maximiser of W @ z over ball and unit box, float64."""
  x, w = x.astype(float), W.astype(float)
  down, up = -x, 1 - x
  if norm == 'linf':
    return np.clip(x + epsilon * np.sign(w), 0, 1)
  if norm == 'l2':  # Stationarity: delta = clip(t * w), t spends the radius.
    low, high = 0.0, 1e3
    for _ in range(200):
      t = (low + high) / 2
      small = np.linalg.norm(np.clip(t * w, down, up)) <= epsilon
      low, high = (t, high) if small else (low, t)
    return x + np.clip(low * w, down, up)
  delta, left = np.zeros_like(x), epsilon  # A fractional knapsack.
  for i in np.argsort(-np.abs(w)):
    move = min(left, up[i] if w[i] > 0 else -down[i])
    delta[i], left = np.sign(w[i]) * move, left - move
  return x + delta


@pytest.mark.parametrize('start', [False, True])
@pytest.mark.parametrize(
  ('norm', 'epsilon'),
  [
    ('linf', 0.1),
    ('linf', 0.6),
    ('l2', 0.3),
    ('l2', 1.2),
    ('l1', 0.5),
    ('l1', 2.5),
  ],
)
def test_reaches_the_optimum_of_a_linear_model(key, norm, epsilon, start):
  x = inputs()
  z = attack(
    linear,
    x,
    key if start else None,
    norm=norm,
    epsilon=epsilon,
    step_size=epsilon / 2,
    num_steps=60,
  )
  expected = np.stack([best_linear(row, epsilon, norm) for row in x])
  np.testing.assert_allclose(linear(z), linear(expected), atol=2e-4)
  np.testing.assert_allclose(z, expected, atol=6e-3)


def test_one_full_step_is_the_fast_gradient_sign_method():
  x = inputs()
  z = attack(wavy, x, epsilon=0.07, step_size=0.07, num_steps=1)
  grads = jax.grad(lambda z: wavy(z).sum())(x)
  expected = np.clip(x + 0.07 * np.sign(grads), 0, 1)
  np.testing.assert_allclose(z, expected, atol=1e-7)


def test_one_l2_step_is_the_unit_gradient():
  x = np.full((3, 12), 0.5, 'f')
  z = attack(wavy, x, norm='l2', epsilon=0.3, step_size=0.1, num_steps=1)
  grads = jax.grad(lambda z: wavy(z).sum())(x)
  unit = grads / np.linalg.norm(grads, axis=1, keepdims=True)
  np.testing.assert_allclose(z - x, 0.1 * unit, atol=1e-6)


def test_one_l1_step_moves_the_steepest_coordinates_with_room():
  x = np.full((1, 12), 0.5, 'f')
  order = np.argsort(-np.abs(W))
  x[0, order[0]] = 1.0 if W[order[0]] > 0 else 0.0  # No room there.
  z = attack(linear, x, norm='l1', epsilon=0.9, step_size=0.8, num_steps=1)
  moved = np.asarray(z - x)[0] * np.sign(W)
  expected = np.zeros(12)
  expected[order[1]], expected[order[2]] = 0.5, 0.3
  np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_an_l1_step_takes_its_excess_where_it_is_worth_least():
  order = np.argsort(-np.abs(W))
  loss_fn = lambda z: jnp.where(
    z[:, order[5]] > 0.55, linear(z), z[:, order[5]]
  )
  x = np.full((1, 12), 0.5, 'f')
  z = attack(loss_fn, x, norm='l1', epsilon=0.5, step_size=0.2, num_steps=4)
  # The first step went to coordinate 5; the later ones took all of it back.
  moved = np.asarray(z - x)[0] * np.sign(W)
  expected = np.zeros(12)
  expected[order[0]] = 0.5
  np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_momentum_follows_the_accumulated_unit_gradient():
  x = inputs()
  grads_of = jax.grad(lambda z: wavy(z).sum())
  for norm in ('linf', 'l2'):
    z, velocity = x, 0.0
    for _ in range(4):
      grads = np.asarray(grads_of(z))
      velocity = 0.8 * velocity + grads / np.abs(grads).sum(1, keepdims=True)
      unit = velocity / np.linalg.norm(velocity, axis=1, keepdims=True)
      z = z + 0.04 * (np.sign(velocity) if norm == 'linf' else unit)
      z = np.asarray(attacks.project(z, x, epsilon=0.1, norm=norm))
    moved = attack(
      wavy, x, norm=norm, epsilon=0.1, step_size=0.04, num_steps=4, momentum=0.8
    )
    np.testing.assert_allclose(moved, z, atol=2e-6)


@pytest.mark.parametrize('norm', NORMS)
def test_no_step_without_random_start_is_the_identity(norm):
  x = inputs()
  z = attack(wavy, x, norm=norm, num_steps=0)
  np.testing.assert_array_equal(z, x)


@pytest.mark.parametrize('norm', first(NORMS))
def test_a_random_start_fills_the_ball(key, norm):
  d, n = 3, 4000
  x = np.full((n, d), 0.5, 'f')
  z = attack(lambda z: z[:, 0], x, key, norm=norm, epsilon=0.4, num_steps=0)
  delta = np.asarray(z - x)
  order = {'linf': np.inf, 'l2': 2, 'l1': 1}[norm]
  size = np.linalg.norm(delta, ord=order, axis=1) / 0.4
  assert size.max() <= 1
  # Uniform in the ball: the radius to the power d is uniform in [0, 1].
  quantiles = np.quantile(size**d, [0.1, 0.5, 0.9])
  np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.04)
  np.testing.assert_allclose(delta.mean(0), 0, atol=0.015)


@pytest.mark.parametrize('dtype', first(['bfloat16', 'float32', 'float16']))
@pytest.mark.parametrize('norm', first(NORMS))
def test_stays_in_ball_and_bounds_exactly(key, norm, dtype):
  x = jnp.asarray(inputs(32), dtype).at[:4].set(0).at[4:8].set(1)
  epsilon = {'linf': 8 / 255, 'l2': 0.5, 'l1': 2.0}[norm]

  def loss_fn(z):
    assert z.dtype == dtype  # The model sees what it would be given.
    return wavy(z.astype(jnp.float32))

  fun = functools.partial(
    attacks.pgd,
    loss_fn,
    epsilon=epsilon,  # A Python number, rounded down to the dtype.
    step_size=epsilon / 2,
    num_steps=3,
    norm=norm,
    unroll=1,
  )
  z = jax.jit(fun)(key, x)
  assert z.dtype == dtype
  delta = np.asarray(z, np.float64) - np.asarray(x, np.float64)
  order = {'linf': np.inf, 'l2': 2, 'l1': 1}[norm]
  assert np.linalg.norm(delta, ord=order, axis=1).max() <= epsilon
  assert float(z.min()) >= 0
  assert float(z.max()) <= 1


@pytest.mark.parametrize('norm', first(NORMS))
def test_an_example_is_the_same_alone_and_in_any_batch(key, norm):
  x = inputs(6)
  ids = jnp.array([10, 11, 12, 13, 14, 15])
  loss_fn = lambda z: jnp.sum(jnp.sin(9 * z), axis=1)
  whole = attack(loss_fn, x, key, norm=norm, example_ids=ids)
  part = attack(
    loss_fn, x[[4, 1]], key, norm=norm, example_ids=np.array([14, 11])
  )
  np.testing.assert_array_equal(part, whole[jnp.array([4, 1])])


@pytest.mark.full
def test_without_ids_a_row_is_keyed_by_its_position(key):
  x = inputs(4)
  by_position = attack(wavy, x, key)
  np.testing.assert_array_equal(
    by_position, attack(wavy, x, key, example_ids=jnp.arange(4))
  )
  same = np.repeat(x[:1], 4, axis=0)
  start = attack(wavy, same, key, num_steps=0)
  assert len(np.unique(np.asarray(start)[:, 0])) == 4


def test_restarts_keep_the_highest_loss_of_each_example(key):
  x = inputs(16)
  runs = [wavy(attack(wavy, x, key, num_restarts=r)) for r in (1, 2, 4)]
  assert (runs[1] >= runs[0]).all()
  assert (runs[2] >= runs[1]).all()
  assert (runs[2] > runs[0]).any()


@pytest.mark.full
def test_written_out_and_rolled_loops_agree(key):
  x = inputs()
  rolled = attack(wavy, x, key, unroll=1)
  for unroll in (None, 2, 99):
    np.testing.assert_allclose(
      attack(wavy, x, key, unroll=unroll), rolled, atol=1e-6
    )


@pytest.mark.fast
def test_the_loop_is_written_out_on_cpu_unless_told_otherwise():
  run = lambda unroll: (
    jax.jit(
      lambda x: attacks.pgd(
        wavy,
        None,
        x,
        epsilon=0.1,
        step_size=0.1,
        num_steps=4,
        random_start=False,
        unroll=unroll,
      )
    )
    .lower(inputs())
    .as_text()
  )
  assert 'while' not in run(None)
  assert 'while' in run(1)


@pytest.mark.parametrize('norm', NORMS)
def test_a_zero_gradient_moves_nothing_and_is_no_nan(norm):
  x = inputs()
  z = attack(lambda z: 0 * z[:, 0], x, norm=norm)
  np.testing.assert_array_equal(z, x)


@pytest.mark.parametrize('norm', first(NORMS))
def test_a_loss_with_nan_or_infinite_slope_gives_finite_points(norm):
  x = np.zeros((3, 4), 'f')
  z = attack(lambda z: jnp.sqrt(z).sum(1), x, norm=norm)  # Slope inf at 0.
  assert np.isfinite(z).all()
  z = attack(lambda z: jnp.linalg.norm(z, axis=1), x, norm=norm)  # NaN at 0.
  assert np.isfinite(z).all()


@pytest.mark.fast
def test_no_gradient_flows_to_parameters_or_inputs():
  def through(w, x):
    z = attacks.pgd(
      lambda z: jnp.sin(z @ w),
      None,
      x,
      epsilon=0.1,
      step_size=0.05,
      num_steps=3,
      random_start=False,
    )
    return jnp.sum(z)

  grads = jax.jit(jax.grad(through, argnums=(0, 1)))(V[:, 0], inputs())
  for grad in grads:
    np.testing.assert_array_equal(grad, 0)


def test_inside_grad_the_loss_need_not_be_differentiable_twice():
  @jax.custom_vjp
  def once(w, z):
    return jnp.sin(z @ w)

  def backward(res, ct):
    # Has no derivative of its own.
    w, z = res
    slope = jax.pure_callback(np.cos, jax.ShapeDtypeStruct((6,), 'f'), z @ w)
    return z.T @ (ct * slope), (ct * slope)[:, None] * w[None, :]

  once.defvjp(lambda w, z: (once(w, z), (w, z)), backward)
  x = inputs()

  def objective(w):
    z = attacks.pgd(
      lambda z: once(w, z),
      None,
      x,
      epsilon=0.1,
      step_size=0.05,
      num_steps=2,
      random_start=False,
    )
    return jnp.sum(once(w, z))

  grad = jax.grad(objective)(V[:, 0])
  assert np.isfinite(grad).all()
  assert np.abs(grad).max() > 0


@pytest.mark.full
def test_eight_devices_equal_one_without_any_communication(key, mesh):
  x = inputs(16)
  run = jax.jit(
    lambda x: attacks.pgd(
      wavy, key, x, epsilon=0.2, step_size=0.05, num_steps=3, norm='l2'
    )
  )
  sharded = jax.device_put(x, NamedSharding(mesh, P('data')))
  np.testing.assert_allclose(run(sharded), run(x), atol=1e-6)
  text = run.lower(sharded).compile().as_text()
  for word in ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute'):
    assert word not in text


@pytest.mark.parametrize(
  ('kwargs', 'error', 'words'),
  [
    ({'norm': 'inf'}, ValueError, 'norm must be one of'),
    ({'epsilon': -1.0}, ValueError, 'epsilon must be non-negative'),
    ({'step_size': -1.0}, ValueError, 'step_size must be non-negative'),
    ({'momentum': -1.0}, ValueError, 'momentum must be non-negative'),
    ({'num_steps': -1}, ValueError, 'num_steps must be at least 0'),
    ({'num_steps': 1.5}, TypeError, 'num_steps must be a Python integer'),
    ({'bounds': (1.0, 0.0)}, ValueError, 'in order'),
    ({'key': None}, ValueError, 'random_start needs a key'),
    (
      {'random_start': False, 'num_restarts': 2},
      ValueError,
      'num_restarts > 1 needs',
    ),
    ({'example_ids': jnp.arange(3)}, ValueError, 'example_ids must have shape'),
    ({'inputs': np.ones((2, 3), int)}, TypeError, 'floating'),
    ({'loss_fn': lambda z: jnp.sum(z)}, ValueError, 'one loss an example'),
    ({'unroll': 0}, ValueError, 'unroll must be at least 1'),
  ],
)
def test_wrong_arguments_are_named(key, kwargs, error, words):
  kwargs = {
    'loss_fn': linear,
    'key': key,
    'inputs': inputs(2),
    'epsilon': 0.1,
    'step_size': 0.1,
    'num_steps': 1,
  } | kwargs
  with pytest.raises(error, match=words) as caught:
    attacks.pgd(
      kwargs.pop('loss_fn'), kwargs.pop('key'), kwargs.pop('inputs'), **kwargs
    )
  assert '\n' not in str(caught.value)
