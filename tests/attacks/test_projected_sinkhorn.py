"""Pixel transport: plans that are plans, against SciPy's own solutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rrl_jax import attacks
from rrl_jax.attacks import _pixel_transport as lib
from tests.tiers import first

RNG = np.random.default_rng(5)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def problem(rows=2, height=3, width=4, channels=1, seed=0):
  """Normalised images, some pixels empty and some full, and targets."""
  rng = np.random.default_rng(seed)
  x = rng.uniform(0.1, 1, size=(rows, height, width, channels))
  x[rng.uniform(size=x.shape) < 0.25] = 0
  x[rng.uniform(size=x.shape) < 0.15] = 1
  mass = x.sum((1, 2, 3), keepdims=True)
  y = x + 0.5 * rng.normal(size=x.shape)
  return x / mass, y / mass, 1 / mass


@functools.cache
def compiled(size, power, num_iterations):
  return jax.jit(
    functools.partial(
      lib.project, window=lib.window(size, power), num_iterations=num_iterations
    )
  )


def project(y, x, high, *, radius, sharpness, size=3, power=2.0, n=400):
  column = lambda v: jnp.full((x.shape[0], 1, 1, 1), v, x.dtype)
  return compiled(size, power, n)(
    jnp.asarray(y),
    jnp.asarray(x),
    radius=column(radius),
    sharpness=column(sharpness),
    high=jnp.asarray(np.broadcast_to(high, column(0).shape), x.dtype),
    log_scale=jnp.zeros_like(x),
    price=column(1),
  )


def pairs(height, width, size, power):
  """Every pair of pixels in one window, and its cost."""
  spots = [(i, j) for i in range(height) for j in range(width)]
  found = []
  for a, (i, j) in enumerate(spots):
    for b, (k, l) in enumerate(spots):
      if max(abs(i - k), abs(j - l)) <= size // 2:
        found.append((a, b, np.hypot(i - k, j - l) ** power))
  return found


def distance(x, z, size=3, power=2.0):
  """Least transport cost between two images, by linear programming."""
  height, width, channels = x.shape
  links = pairs(height, width, size, power)
  total = 0.0
  for c in range(channels):
    pixels = height * width
    matrix = np.zeros((2 * pixels, len(links)))
    for v, (a, b, _) in enumerate(links):
      matrix[a, v] = matrix[pixels + b, v] = 1
    marginals = np.concatenate([x[..., c].ravel(), z[..., c].ravel()])
    found = optimize.linprog(
      [cost for *_, cost in links], A_eq=matrix[:-1], b_eq=marginals[:-1]
    )
    assert found.success, found.message
    total += found.fun
  return total


def solve(y, x, high, radius, sharpness, entropy, size=3, power=2.0):
  """The program of one image with one channel, by SLSQP over the plan."""
  height, width, _ = x.shape
  links = pairs(height, width, size, power)
  a, b, costs = (np.array(part) for part in zip(*links, strict=True))
  x, y = x.ravel(), y.ravel()
  alive = x[a] > 0
  a, b, costs = a[alive], b[alive], costs[alive]
  into = (b[None] == np.arange(len(x))[:, None]).astype(float)
  out = (a[None] == np.flatnonzero(x)[:, None]).astype(float)

  def value(p):
    gap = into @ p - y
    total = sharpness / 2 * gap @ gap
    slope = sharpness * gap @ into
    if entropy:
      logs = np.log(np.maximum(p, 1e-300))
      total, slope = total + p @ logs, slope + logs + 1
    return total, slope

  start = np.where(costs == 0, x[a] * 0.9, 0)
  start = start + 0.1 * x[a] / (out.T @ out.sum(1))
  found = optimize.minimize(
    value,
    start,
    jac=True,
    method='SLSQP',
    bounds=[(1e-12 if entropy else 0, None)] * len(a),
    constraints=[
      {'type': 'eq', 'fun': lambda p: out @ p - x[x > 0], 'jac': lambda p: out},
      {
        'type': 'ineq',
        'fun': lambda p: np.append(high - into @ p, radius - costs @ p),
        'jac': lambda p: np.vstack([-into, -costs]),
      },
    ],
    options={'maxiter': 500, 'ftol': 1e-11},
  )
  assert found.status in (0, 8), found.message  # 8: no descent in float64.
  return into @ found.x, found.fun


def costs_of(plan, size=3, power=2.0):
  costs = lib.window(size, power).costs.reshape(-1, 1, 1, 1, 1)
  return np.sum(np.asarray(plan) * costs, axis=(0, 2, 3, 4))


def columns_of(plan, size=3):
  """What arrives at each pixel, pixel by pixel."""
  plan, reach = np.asarray(plan), size // 2
  out = np.zeros(plan.shape[1:])
  height, width = out.shape[1:3]
  for s in range(len(plan)):
    dy, dx = s // size - reach, s % size - reach
    for i in range(height):
      for j in range(width):
        if 0 <= i + dy < height and 0 <= j + dx < width:
          out[:, i + dy, j + dx] += plan[s, :, i, j]
        else:
          assert (plan[s, :, i, j] == 0).all()
  return out


def test_lambert_w_has_no_overflow_and_no_underflow(x64):
  x = jnp.array([-1e30, -700.0, -20, -1, 0, 0.99, 1, 1.01, 5, 800, 1e6])
  w = lib.lambert_w_exp(x)
  assert np.isfinite(w).all()
  np.testing.assert_allclose(
    w[1:] + jnp.log(w[1:]), x[1:], rtol=1e-12, atol=1e-12
  )


@pytest.mark.parametrize('n', first([1, 5, 400]))
@pytest.mark.parametrize('power', first([1.0, 2.0]))
def test_marginals_and_cost_hold_after_any_number_of_iterations(x64, n, power):
  x, y, high = problem(rows=3, channels=2)
  found = project(y, x, high, radius=0.1, sharpness=100.0, power=power, n=n)
  np.testing.assert_allclose(np.sum(found.plan, axis=0), x, atol=1e-15)
  np.testing.assert_allclose(columns_of(found.plan), found.image, atol=1e-15)
  assert (np.asarray(found.plan) >= 0).all()
  assert (costs_of(found.plan, power=power) <= 0.1 + 1e-12).all()
  mass = lambda z: np.sum(z, axis=(1, 2))
  np.testing.assert_allclose(mass(found.image), mass(x), atol=1e-14)


@pytest.mark.full
def test_the_scalings_converge_to_the_same_image(x64):
  x, y, high = problem(rows=3)
  few, many = (
    project(y, x, high, radius=0.1, sharpness=100.0, n=n) for n in (400, 2000)
  )
  np.testing.assert_allclose(few.image, many.image, atol=1e-4)
  # Complementary slackness: what costs something is spent.
  spent = costs_of(many.plan)
  price = np.ravel(many.price)
  np.testing.assert_allclose(spent[price > 1e-6], 0.1, atol=1e-9)
  assert (price > 1e-6).any()
  assert (np.asarray(many.image) <= high * (1 + 1e-9)).all()


@pytest.mark.parametrize(('radius', 'power'), first([(0.05, 2.0), (0.2, 1.0)]))
def test_equals_an_independent_solution_of_the_same_program(x64, radius, power):
  x, y, high = problem(rows=2, height=2, seed=1)
  found = project(
    y, x, high, radius=radius, sharpness=60.0, power=power, n=2000
  )
  for i in range(2):
    image, _ = solve(
      y[i], x[i], high[i, 0, 0, 0], radius, 60.0, entropy=True, power=power
    )
    np.testing.assert_allclose(np.ravel(found.image[i]), image, atol=1e-4)


@pytest.mark.fast
def test_is_near_the_exact_projection_where_it_is_sharp(x64):
  x, y, high = problem(rows=2, height=2, seed=2)
  gaps = []
  for sharpness in (100.0, 3000.0):
    found = project(y, x, high, radius=0.1, sharpness=sharpness, n=2000)
    for i in range(2):
      image, _ = solve(y[i], x[i], high[i, 0, 0, 0], 0.1, 1.0, entropy=False)
      gaps.append(np.abs(np.ravel(found.image[i]) - image).max())
  assert max(gaps[2:]) < 5e-3
  assert max(gaps[2:]) < max(gaps[:2])


def loss_fn(z):
  w = np.random.default_rng(3).normal(size=(int(np.prod(z.shape[1:])), 4))
  z = z.reshape(z.shape[0], -1)
  return jnp.sum(jnp.sin(z @ jnp.asarray(w, z.dtype)), axis=1)


def images(rows=4, channels=2, seed=0):
  x, _, high = problem(rows, 4, 5, channels, seed)
  return (x / high).astype('f')


def attack(x, key=None, *, epsilon=0.05, step_size=0.1, **kw):
  kw = {'num_steps': 3, 'num_iterations': 20, 'window': 3, 'unroll': 1} | kw
  run = jax.jit(
    lambda x, epsilon: attacks.projected_sinkhorn(
      loss_fn,
      key,
      x,
      epsilon=epsilon,
      step_size=step_size,
      random_start=key is not None,
      **kw,
    )
  )
  return run(x, epsilon)


@pytest.mark.parametrize('norm', first(['linf', 'l2', 'l1', 'transport'], 2))
def test_the_attack_stays_in_the_transport_ball(norm):
  x = images()
  radii = np.array([0.0, 0.02, 0.1, 0.5], 'f')
  size = {'l1': 0.8, 'transport': 0.02}.get(norm, 0.1)
  z = attack(x, epsilon=radii, norm=norm, step_size=size)
  np.testing.assert_array_equal(z[0], x[0])
  assert (loss_fn(z)[1:] > loss_fn(x)[1:]).all()
  for clean, moved, radius in zip(x, np.asarray(z), radii, strict=True):
    clean, moved = clean.astype(float), moved.astype(float)
    sums = clean.sum((0, 1)), moved.sum((0, 1))
    np.testing.assert_allclose(*sums, rtol=1e-6)
    moved = moved * (sums[0] / sums[1])  # For the linear program's equality.
    mass = clean.sum()
    assert distance(clean / mass, moved / mass) <= radius + 2e-6
  assert float(z.min()) >= 0
  assert float(z.max()) <= 1


def best_linear(g, x, radius, high=1.0, size=3, power=2.0):
  """Greatest ``<g, Z>`` over the ball and the bound, by linear programming."""
  height, width, channels = x.shape
  mass, pixels = x.sum(), height * width
  links = [
    (c * pixels + a, c * pixels + b, cost)
    for c in range(channels)
    for a, b, cost in pairs(height, width, size, power)
  ]
  a, b, costs = (np.array(part) for part in zip(*links, strict=True))
  flat = lambda v: np.moveaxis(v, -1, 0).ravel()
  out = (a[None] == np.arange(x.size)[:, None]).astype(float)
  into = (b[None] == np.arange(x.size)[:, None]).astype(float)
  found = optimize.linprog(
    -flat(g)[b],
    A_eq=out,
    b_eq=flat(x),
    A_ub=np.vstack([costs, into]),
    b_ub=np.append(radius * mass, np.full(x.size, high)),
  )
  assert found.success, found.message
  return -found.fun


def linear(shape):
  g = np.random.default_rng(8).normal(size=shape[1:])
  return g, lambda z: jnp.sum(z * jnp.asarray(g, z.dtype)[None], axis=(1, 2, 3))


@pytest.mark.parametrize('power', [1.0, 2.0])
def test_a_transport_step_is_the_best_of_its_length(x64, power):
  x, _, _ = problem(rows=3, channels=2)
  g, loss_fn = linear(x.shape)
  g = g / np.abs(g).max()
  column = lambda v: jnp.asarray(v).reshape(-1, 1, 1, 1)
  radii = np.array([0.0, 0.02, 0.3])
  z = jax.jit(functools.partial(lib.ascend, window=lib.window(3, power)))(
    jnp.asarray(x),
    jnp.asarray(np.broadcast_to(g, x.shape)),
    radius=column(radii),
    sharpness=column(np.full(3, 1e4)),
  )
  np.testing.assert_array_equal(z[0], x[0])
  for clean, moved, radius in zip(x, np.asarray(z), radii, strict=True):
    np.testing.assert_allclose(moved.sum((0, 1)), clean.sum((0, 1)), rtol=1e-12)
    assert distance(clean, moved, power=power) <= radius + 1e-9
    best = best_linear(g, clean, radius, high=1e3, power=power)
    np.testing.assert_allclose((g * moved).sum(), best, atol=2e-4)


@pytest.mark.full
@pytest.mark.parametrize(
  ('norm', 'step_size', 'share'),
  first(
    [('linf', 0.1, 0.4), ('l2', 0.3, 0.75), ('l1', 1.0, 0.4)]
    + [('transport', 0.05, 0.95)],
    2,
  ),
)
def test_a_larger_ball_never_has_a_lower_loss_on_a_linear_model(
  norm, step_size, share
):
  x = images(rows=1)
  g, loss_fn = linear(x.shape)
  radii = np.array([0.0, 0.01, 0.03, 0.1, 0.3, 1.0], 'f')
  rows = np.repeat(x, len(radii), axis=0)
  run = jax.jit(
    lambda x, radii: attacks.projected_sinkhorn(
      loss_fn,
      None,
      x,
      epsilon=radii,
      step_size=step_size,
      num_steps=20,
      norm=norm,
      window=3,
      num_iterations=30,
      unroll=1,
    )
  )
  values = np.asarray(loss_fn(run(rows, radii)), float)
  assert (np.diff(values) >= -1e-4).all()
  clean = x[0].astype(float)
  best = np.array([best_linear(g, clean, r) for r in radii])
  assert (values <= best + 1e-4).all()
  gain = (values - values[0])[1:4] / (best - values[0])[1:4]
  assert (gain >= share).all(), gain  # Of what a small ball allows.


@pytest.mark.full
def test_a_linear_loss_moves_mass_to_the_better_neighbour():
  image = np.zeros((1, 3, 3, 1), 'f')
  image[0, 1, 1, 0] = 0.8
  z = attacks.projected_sinkhorn(
    lambda z: z[:, 1, 2, 0] - z[:, 0, 0, 0],
    None,
    image,
    epsilon=0.25,
    step_size=0.2,
    num_steps=6,
    unroll=1,
  )
  expected = np.zeros_like(image)
  expected[0, 1, 1:, 0] = 0.6, 0.2
  np.testing.assert_allclose(z, expected, atol=2e-3)


def test_bounds_hold_exactly_in_bfloat16():
  x = jnp.asarray(images(), jnp.bfloat16)
  z = attack(x, epsilon=0.2, step_size=0.3)
  assert z.dtype == x.dtype
  assert float(z.min()) >= 0
  assert float(z.max()) <= 1
  assert float(jnp.abs(z - x).max()) > 0.01


@pytest.mark.full
def test_empty_images_and_full_images_stay_what_they_are(key):
  x = np.stack([np.zeros((4, 5, 2)), np.ones((4, 5, 2))]).astype('f')
  z = np.asarray(attack(x, key))
  np.testing.assert_array_equal(z[0], x[0])
  np.testing.assert_allclose(z[1], x[1], atol=1e-3)
  assert z[1].sum() >= (1 - 1.1e-5) * x[1].sum()


@pytest.mark.full
def test_an_example_is_the_same_alone_and_in_any_batch(key):
  x = images()
  ids = np.array([5, 6, 7, 8])
  whole = attack(x, key, example_ids=ids)
  part = attack(x[[2, 0]], key, example_ids=ids[[2, 0]])
  np.testing.assert_allclose(part, whole[jnp.array([2, 0])], atol=2e-6)


@pytest.mark.full
def test_a_random_start_moves_mass_where_there_is_no_slope(key):
  x = images()
  z = attack(x, key, num_steps=0)
  assert float(jnp.abs(z - x).max()) > 0.01
  np.testing.assert_array_equal(attack(x, num_steps=0), x)


@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'inputs': np.ones((2, 3), 'f')}, r'shape \[B, H, W, C\]'),
    ({'norm': 'lp'}, 'norm must be one of linf, l2, l1, transport'),
    ({'window': 4}, 'window must be odd'),
    ({'bounds': (-1.0, 1.0)}, 'bounds must start at 0'),
    ({'sharpness': 0.0}, 'sharpness must be positive'),
    ({'num_iterations': 0}, 'num_iterations must be at least 1'),
    ({'random_start': True}, 'random_start needs a key'),
  ],
)
def test_wrong_arguments_are_named(kwargs, words):
  kwargs = {'inputs': images(), 'key': None} | kwargs
  with pytest.raises(ValueError, match=words) as caught:
    attacks.projected_sinkhorn(
      loss_fn, epsilon=0.1, step_size=0.1, num_steps=1, **kwargs
    )
  assert '\n' not in str(caught.value)
