"""Sinkhorn's adversary: where it equals WRM, and where it does not."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks
from rrl_jax.attacks import _sinkhorn
from tests.tiers import first

N, D = 12, 3
RNG = np.random.default_rng(5)
X = RNG.uniform(size=(N, D)).astype('f')
LABELS = np.arange(N) % 3
W = RNG.normal(size=(D, 3)).astype('f')


def by_class(z):
  """A smooth loss that depends on the label only, not on the particle."""
  return jnp.sin(2 * jnp.sum(z * jnp.asarray(W.T)[LABELS], axis=1))


@functools.cache
def compiled(loss_fn, **static):
  return jax.jit(functools.partial(attacks.sinkhorn, loss_fn, **static))


def attack(
  loss_fn, x, *, epsilon, gamma=30.0, labels=None, num_steps=6, **static
):
  """One compilation for all prices, entropies and labels."""
  static = {'bounds': None, 'unroll': 1} | static
  labels = np.zeros(len(x), int) if labels is None else labels
  fun = compiled(loss_fn, num_steps=num_steps, **static)
  return fun(x, gamma=gamma, epsilon=epsilon, labels=labels)


def wrm(loss_fn, x, **kw):
  kw = {'gamma': 30.0, 'num_steps': 6, 'bounds': None, 'unroll': 1} | kw
  return jax.jit(lambda x: attacks.wrm(loss_fn, x, **kw))(x)


def divergence(z, x, epsilon, tau=1.0):
  """ott-jax's own, adversarial points first."""
  from ott.tools import sinkhorn_divergence

  with jax.numpy_rank_promotion('allow'):
    return sinkhorn_divergence.sinkdiv(
      z,
      x,
      epsilon=epsilon,
      static_b=True,
      solve_kwargs={
        'threshold': 1e-6,
        'max_iterations': 5_000,
        'tau_a': tau,
        'tau_b': tau,
      },
    )[0]


@functools.cache
def compiled_drift(tau):
  return jax.jit(
    functools.partial(
      _sinkhorn._transport_drift, tau=tau, threshold=1e-6, max_iterations=5_000
    )
  )


def drift(delta, x, epsilon, *, labels=None, tau=1.0):
  labels = np.zeros(len(x), int) if labels is None else labels
  zero = jnp.zeros(len(x))
  return compiled_drift(tau)(
    delta, x, labels, jnp.float32(epsilon), (zero, zero, zero)
  )[0]


@functools.cache
def compiled_divergence(tau):
  return jax.jit(
    jax.value_and_grad(functools.partial(divergence, tau=tau)),
  )


@pytest.mark.parametrize('tau', first([1.0, 0.7]))
def test_the_drift_is_the_gradient_of_the_debiased_divergence(rng, tau):
  delta = 0.2 * rng.normal(size=X.shape).astype('f')
  for epsilon in (0.02, 0.5):
    _, grad = compiled_divergence(tau)(X + delta, X, epsilon)
    np.testing.assert_allclose(
      drift(delta, X, epsilon, tau=tau), N / 2 * grad, atol=5e-6
    )


def test_the_drift_is_the_slope_of_the_divergence(rng):
  delta = 0.2 * rng.normal(size=X.shape).astype('f')
  move = rng.normal(size=X.shape).astype('f')
  of = lambda t: compiled_divergence(1.0)(X + delta + t * move, X, 0.3)[0]
  slope = (of(0.004) - of(-0.004)) / 0.008
  np.testing.assert_allclose(
    2 / N * np.sum(drift(delta, X, 0.3) * move), slope, rtol=1e-2
  )


@pytest.mark.fast
@pytest.mark.parametrize('tau', [1.0, 0.7])
def test_the_clean_batch_has_no_drift(tau):
  zero = np.zeros_like(X)
  for epsilon in (0.02, 0.5):
    for labels in (None, LABELS):
      np.testing.assert_allclose(
        drift(zero, X, epsilon, labels=labels, tau=tau), 0, atol=2e-5
      )
    _, grad = compiled_divergence(tau)(X, X, epsilon)
    np.testing.assert_allclose(grad, 0, atol=1e-5)


def test_one_step_is_wrm_to_the_bit():
  one = attack(by_class, X, epsilon=0.3, num_steps=1)
  np.testing.assert_array_equal(one, wrm(by_class, X, num_steps=1))


@pytest.mark.full
def test_it_is_the_same_without_labels_as_with_one_class():
  z = compiled(by_class, num_steps=3, unroll=1)(X, gamma=30.0, epsilon=0.3)
  one = attack(by_class, X, epsilon=0.3, num_steps=3, bounds=(0.0, 1.0))
  np.testing.assert_allclose(z, one, atol=1e-6)


@pytest.mark.full
def test_with_labels_and_exact_transport_it_agrees_with_wrm():
  z = attack(by_class, X, epsilon=1e-3, labels=LABELS, num_steps=12)
  paired = wrm(by_class, X, num_steps=12)
  np.testing.assert_allclose(z, paired, atol=2e-4)
  # The bounds leave the theorem as it is.
  z = attack(
    by_class, X, epsilon=1e-3, labels=LABELS, num_steps=12, bounds=(0.0, 1.0)
  )
  paired = wrm(by_class, X, num_steps=12, bounds=(0.0, 1.0))
  np.testing.assert_allclose(z, paired, atol=2e-4)


@pytest.mark.full
def test_at_image_size_it_agrees_with_wrm_at_a_tenth_of_the_distances(rng):
  x = rng.uniform(size=(8, 3072)).astype('f')
  u = rng.normal(size=(3072,)).astype('f') / 8
  loss_fn = lambda z: jnp.sin(z @ u)
  between = np.mean(np.sum((x[:, None] - x[None]) ** 2, axis=-1))
  z = attack(loss_fn, x, epsilon=0.05 * between, num_steps=4, gamma=20.0)
  paired = wrm(loss_fn, x, num_steps=4, gamma=20.0)
  moved = np.linalg.norm(paired - x)
  assert moved > 0.1
  assert np.linalg.norm(z - paired) < 1e-3 * moved


def test_a_label_of_its_own_pins_a_particle_whatever_the_entropy(rng):
  own = np.arange(N)
  slopes = rng.normal(size=X.shape).astype('f')
  loss_fn = lambda z: jnp.sum(jnp.sin(z * slopes), axis=1)
  z = attack(loss_fn, X, epsilon=5.0, labels=own, num_steps=5)
  np.testing.assert_allclose(z, wrm(loss_fn, X, num_steps=5), atol=1e-5)


def test_no_mass_crosses_classes():
  # Alone, or beside another class at the same place: the same result.
  y = np.repeat([0, 1], N)
  both = np.concatenate([X, X + 1e-3])
  slopes = np.concatenate([np.ones((N, D)), -np.ones((N, D))]).astype('f')
  loss_fn = lambda z: jnp.sum(jnp.sin(z * slopes), axis=1)
  kw = {'epsilon': 0.4, 'num_steps': 4, 'threshold': 1e-6}
  together = attack(loss_fn, both, labels=y, **kw)
  alone = attack(lambda z: jnp.sum(jnp.sin(z), axis=1), X, **kw)
  np.testing.assert_allclose(together[:N], alone, atol=2e-5)
  mixed = attack(loss_fn, both, **kw)
  assert np.abs(mixed[:N] - alone).max() > 1e-2


@pytest.mark.full
@pytest.mark.parametrize('epsilon', [1e-6, 1e-10])
def test_what_float32_cannot_solve_is_a_step_of_wrm(rng, epsilon):
  inputs = jnp.asarray(rng.random((6, 4)), jnp.float32)
  slope = jnp.asarray(rng.normal(size=4), jnp.float32)
  loss_fn = lambda z: jnp.tanh(z @ slope)
  kw = {'gamma': 3.0, 'num_steps': 5}
  found = attacks.sinkhorn(loss_fn, inputs, epsilon=epsilon, **kw)
  expected = attacks.wrm(loss_fn, inputs, **kw)
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_large_entropy_in_low_dimension_differs_from_wrm():
  # A blurred plan sees means only: spreading the points about their mean is
  # free under it and priced by WRM.
  loss_fn = lambda z: 2 * jnp.sum(jnp.square(z - 0.5), axis=1)
  kw = {'gamma': 8.0, 'num_steps': 8}
  z = attack(loss_fn, X, epsilon=50.0, **kw)
  paired = wrm(loss_fn, X, **kw)
  assert np.std(z, axis=0).min() > 1.2 * np.std(paired, axis=0).max()


@pytest.mark.full
def test_particles_may_change_places_at_no_price():
  # Each particle wants to be where the next one is.
  x = np.array([[0.2, 0.5], [0.45, 0.3], [0.8, 0.6]], 'f')
  goal = np.roll(x, 1, axis=0)
  loss_fn = lambda z: -3 * jnp.sum(jnp.square(z - goal), axis=1)
  kw = {'gamma': 8.0, 'num_steps': 150}
  z = attack(loss_fn, x, epsilon=0.02, step_size=0.05, **kw)
  paired = wrm(loss_fn, x, step_size=0.05, **kw)
  # WRM pays for the way: it stops at 6 / (6 + 8) of it.
  np.testing.assert_allclose(paired, x + (goal - x) * 6 / 14, atol=1e-4)
  assert np.abs(z - goal).max() < 0.02
  pinned = attack(
    loss_fn, x, epsilon=0.02, step_size=0.05, labels=np.arange(3), **kw
  )
  np.testing.assert_allclose(pinned, paired, atol=1e-4)


@pytest.mark.full
def test_an_unbalanced_ball_gives_outliers_up():
  # One particle is driven far; the others stay. Held by a balanced plan, it
  # goes free under tau < 1: rho = epsilon * tau / (1 - tau) = 0.05.
  slopes = np.where(np.arange(N) == 0, 16.0, 0.1).astype('f')
  loss_fn = lambda z: z[:, 0] * slopes
  kw = {'epsilon': 0.05, 'gamma': 8.0, 'num_steps': 8}
  held = attack(loss_fn, X, **kw)
  free = attack(loss_fn, X, tau=0.5, **kw)
  way = lambda z: np.asarray(z - X)[:, 0]
  np.testing.assert_allclose(way(held)[0], 2.0, atol=0.3)  # slope / gamma.
  assert way(free)[0] > 4 * way(held)[0]
  assert np.abs(way(free)[1:]).max() < 0.5


def test_it_climbs_its_own_objective():
  def objective(z):
    return jnp.mean(by_class(z)) - 15 * compiled_divergence(1.0)(z, X, 0.3)[0]

  values = [
    float(objective(attack(by_class, X, epsilon=0.3, num_steps=t)))
    for t in (0, 1, 3, 6)
  ]
  assert values == sorted(values)
  assert values[-1] > values[0] + 0.01


@pytest.mark.full
def test_repeated_points_and_a_batch_of_one_are_finite():
  same = np.full((4, 2), 0.5, 'f')
  loss_fn = lambda z: jnp.sum(jnp.sin(z), axis=1)
  for x in (same, same[:1]):
    z = attack(loss_fn, x, epsilon=1e-3, num_steps=4)
    assert np.isfinite(z).all()
  np.testing.assert_allclose(z, wrm(loss_fn, same[:1], num_steps=4), atol=1e-5)


@pytest.mark.parametrize('dtype', first(['float32', 'bfloat16']))
def test_bounds_hold_exactly(dtype):
  x = jnp.asarray(X, dtype)
  z = attack(
    by_class, x, epsilon=0.1, gamma=0.5, num_steps=3, bounds=(0.0, 1.0)
  )
  assert z.dtype == dtype
  assert float(z.min()) >= 0
  assert float(z.max()) <= 1


def test_importing_attacks_does_not_import_ott():
  code = (
    'import sys, rrl_jax.attacks; '
    'print([m for m in sys.modules if m.split(".")[0] in ("ott", "flax")])'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == '[]'


@pytest.mark.parametrize(
  ('kwargs', 'error', 'words'),
  [
    ({'epsilon': 0.0}, ValueError, 'epsilon must be positive'),
    ({'gamma': 0.0}, ValueError, 'gamma must be positive'),
    ({'gamma': jnp.ones(N)}, ValueError, 'gamma must be a scalar'),
    ({'tau': 0.0}, ValueError, r'tau must lie in \(0, 1\]'),
    ({'tau': 1.5}, ValueError, r'tau must lie in \(0, 1\]'),
    ({'labels': np.zeros(3, int)}, ValueError, 'labels must have shape'),
    ({'labels': np.zeros(N)}, TypeError, 'labels must be integers'),
    ({'max_iterations': 0}, ValueError, 'max_iterations must be at least'),
    ({'loss_fn': lambda z: z}, ValueError, 'one loss an example'),
  ],
)
def test_wrong_arguments_are_named(kwargs, error, words):
  kwargs = {
    'loss_fn': by_class,
    'gamma': 1.0,
    'epsilon': 0.1,
    'num_steps': 2,
  } | kwargs
  with pytest.raises(error, match=words) as caught:
    attacks.sinkhorn(kwargs.pop('loss_fn'), X, **kwargs)
  assert '\n' not in str(caught.value)
