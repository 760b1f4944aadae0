"""The threshold of collapse, found again by optimisation; diagnostics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrl_jax import losses
from tests.tiers import first


@pytest.mark.fast
def test_published_numbers_of_the_threshold():
  threshold = losses.collapse_threshold
  for args, want in {
    (2, 64, 0.5): 0.51906,
    (2, 8, 0.5): 0.20357,
    (3, 64, 0.5): 0.56456,
    (10, 16, 0.5): 0.51081,
    (10, 64, 0.5): 0.52235,
    (2, 64, 1.0): 0.64196,
  }.items():
    assert threshold(*args) == pytest.approx(want, abs=6e-6)
  assert threshold(2, 10**9, 0.5) == pytest.approx(2 / 3, abs=1e-6)
  assert threshold(10, 10**9, 0.5) == pytest.approx(10 / 19, abs=1e-6)
  assert threshold(2, 64, 0.01) == pytest.approx(0, abs=1e-12)
  assert threshold(2, 64, 0.5, denominator='all') < threshold(2, 64, 0.5)
  for wrong in ((1, 8, 0.5), (2, 0, 0.5), (2, 8, 0.0)):
    with pytest.raises(ValueError):
      threshold(*wrong)
  with pytest.raises(ValueError, match='denominator'):
    threshold(2, 8, 0.5, denominator='in')


def ideal(z, y, ids, *, alpha, denominator, temperature=0.5):
  """The loss of one view against the other, the derivation's setting.

  The tiled loss has a row for each view; with identical views an anchor's
  sums hold every other instance twice and its own view once. The derivation
  has each instance once, which is the loss of an anchor whose own row counts.
  """
  s = z @ z.T / temperature
  same = y[:, None] == y[None, :]
  log_neg = jax.nn.logsumexp(jnp.where(same, -1e30, s), axis=1)
  log_pos = jax.nn.logsumexp(jnp.where(same, s, -1e30), axis=1)
  if denominator == 'all':
    term = jnp.logaddexp(log_neg, log_pos)[:, None] - s
  else:
    term = jax.nn.softplus(log_neg[:, None] - s)
  sup = jnp.sum(jnp.where(same, term, 0), 1) / jnp.sum(same, 1)
  return jnp.mean((1 - alpha) * sup + alpha * (log_pos - jnp.diag(s)))


def collapsed(classes, per_class, dim):
  vertices = np.eye(dim)[:classes] - np.eye(dim)[:classes].mean(0)
  vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
  y = np.repeat(np.arange(classes), per_class)
  return vertices[y], jnp.asarray(y)


@pytest.mark.parametrize('denominator', first(['one_positive', 'all']))
@pytest.mark.parametrize(('classes', 'per_class'), first([(2, 8), (3, 16)]))
def test_the_second_variation_changes_sign_at_the_threshold(
  classes, per_class, denominator
):
  with jax.enable_x64(True):
    rng, dim = np.random.default_rng(0), classes + 4
    base, y = collapsed(classes, per_class, dim)
    noise = rng.normal(size=base.shape) * (np.arange(dim) >= classes)
    for c in range(classes):  # Centred in each class.
      noise[y == c] -= noise[y == c].mean(0)

    def change(alpha):
      moved = base + 1e-4 * noise
      moved /= np.linalg.norm(moved, axis=1, keepdims=True)
      value = functools.partial(
        ideal, y=y, ids=None, alpha=alpha, denominator=denominator
      )
      return float(value(jnp.asarray(moved)) - value(jnp.asarray(base)))

    threshold = losses.collapse_threshold(
      classes, per_class, 0.5, denominator=denominator
    )
    assert change(threshold - 0.01) > 0
    assert change(threshold + 0.01) < 0


@functools.cache
def optimise(classes=2, per_class=32, dim=8, steps=600):
  """Minimises spread over free rows; two identical views of each."""
  y = jnp.repeat(jnp.arange(classes), per_class)
  ids = jnp.arange(y.shape[0])
  tx = optax.adam(optax.cosine_decay_schedule(0.05, steps))

  def loss(x, alpha):
    z = losses.l2_normalize(x)
    twice = lambda a: jnp.concatenate([a, a])
    return losses.spread(
      twice(z), twice(y), twice(ids), alpha=alpha, temperature=0.5
    ).mean()

  @jax.jit
  def run(alpha):
    x = jax.random.normal(jax.random.key(0), (y.shape[0], dim))
    # From near collapse, so that few steps suffice.
    x = 0.2 * x + 2 * jax.nn.one_hot(y, dim) - 1 / classes

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(jax.grad(loss)(x, alpha), state)
      return (optax.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), None, length=steps)
    return losses.embedding_geometry(x, y, num_classes=classes)

  return run


@pytest.mark.full
def test_classes_collapse_below_the_threshold_and_spread_above():
  # Each anchor meets 63 rows of its class, 64 of the other.
  threshold = losses.collapse_threshold(2, 64, 0.5)
  below = optimise()(threshold - 0.05)
  assert below.spread < 1e-3
  assert below.within_cosine > 0.999
  assert below.between_cosine < -0.999
  above = optimise()(threshold + 0.05)
  assert 0.03 < above.spread < 0.3
  assert above.between_cosine < -0.5


@pytest.mark.full
def test_the_clip_of_the_released_code_spreads_below_the_threshold():
  z, y = collapsed(2, 16, 6)
  rng = np.random.default_rng(0)
  noise = rng.normal(size=z.shape) * (np.arange(6) >= 2)
  twice = lambda a: jnp.concatenate([a, a])
  ids = jnp.arange(32)

  def value(scale, clip):
    rows = losses.l2_normalize(jnp.asarray(z + scale * noise, 'f'))
    return losses.spread(
      twice(rows),
      twice(y),
      twice(ids),
      alpha=0.2,
      temperature=0.5,
      numerator_clip=clip,
    ).mean()

  assert losses.collapse_threshold(2, 32, 0.5) > 0.2
  assert value(0.1, None) > value(0.0, None)
  assert value(0.1, 1.0) < value(0.0, 1.0)


def test_class_conditional_term_alone_makes_a_simplex_of_each_class():
  points, tau = 4, 0.5
  ids, y = jnp.tile(jnp.arange(points), 2), jnp.zeros(2 * points, int)
  tx = optax.adam(0.05)

  @jax.jit
  def run(x):
    def loss(x):
      z = losses.l2_normalize(jnp.concatenate([x, x]))
      return losses.class_conditional_infonce(z, y, ids, temperature=tau).mean()

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(jax.grad(loss)(x), state)
      return (optax.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), None, length=400)
    return losses.l2_normalize(x)

  z = run(jax.random.normal(jax.random.key(1), (points, 5)))
  off = ~np.eye(points, dtype=bool)
  np.testing.assert_allclose((z @ z.T)[off], -1 / (points - 1), atol=1e-3)


def test_geometry_equals_that_of_all_pairs(rng):
  z = rng.normal(size=(40, 6))
  y = rng.integers(0, 4, size=40)
  y[y == 2] = 3  # An empty class.
  where = rng.random(40) < 0.8
  got = jax.jit(losses.embedding_geometry, static_argnames='num_classes')(
    jnp.asarray(3 * z, 'f'), jnp.asarray(y), num_classes=4, where=where
  )
  unit = (z / np.linalg.norm(z, axis=1, keepdims=True))[where]
  kept = y[where]
  cosine = unit @ unit.T
  same = kept[:, None] == kept[None, :]
  off = ~np.eye(len(kept), dtype=bool)
  means = np.stack(
    [
      unit[kept == c].mean(0) if (kept == c).any() else 0 * unit[0]
      for c in range(4)
    ]
  )
  squares = ((unit - means[kept]) ** 2).sum(1)
  np.testing.assert_allclose(got.spread, squares.mean(), rtol=1e-5)
  np.testing.assert_allclose(
    got.within_cosine, cosine[same & off].mean(), rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(
    got.between_cosine, cosine[~same].mean(), rtol=1e-4, atol=1e-6
  )
  for c in (0, 1, 3):
    np.testing.assert_allclose(
      got.class_spread[c], squares[kept == c].mean(), rtol=1e-5
    )
  assert got.class_spread[2] == 0
  assert not got.total_collapse
  spread = losses.spread_of(
    jnp.asarray(z, 'f'), jnp.asarray(y), num_classes=4, where=where
  )
  np.testing.assert_allclose(spread, squares.mean(), rtol=1e-5)


def test_total_collapse_is_told_from_class_collapse():
  z, y = collapsed(2, 8, 4)
  geometry = losses.embedding_geometry(jnp.asarray(z, 'f'), y, num_classes=2)
  assert not geometry.total_collapse
  np.testing.assert_allclose(geometry.spread, 0, atol=1e-6)
  one = losses.embedding_geometry(jnp.ones((16, 4)), y, num_classes=2)
  assert one.total_collapse
  nothing = losses.embedding_geometry(
    jnp.ones((16, 4)), y, num_classes=2, where=jnp.zeros(16, bool)
  )
  assert not nothing.total_collapse
  for leaf in nothing:
    np.testing.assert_array_equal(leaf, 0)


def test_spread_keeps_its_digits_when_small(rng):
  z, y = collapsed(2, 8, 4)
  moved = jnp.asarray(z + 1e-4 * rng.normal(size=z.shape), 'f')
  spread = losses.spread_of(moved, y, num_classes=2)
  unit = np.asarray(moved, 'd')
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  means = np.stack([unit[y == c].mean(0) for c in range(2)])
  want = ((unit - means[y]) ** 2).sum(1).mean()
  np.testing.assert_allclose(spread, want, rtol=0.05)
