"""Losses for noisy labels against their equations, one row at a time."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrl_jax import losses
from tests.tiers import first

B, K = 12, 5
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(B, K))
LABELS = RNG.integers(0, K, B)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def log_softmax(z):
  z = z - z.max()
  return z - np.log(np.exp(z).sum())


def power(p, q):
  return (1 - p**q) / q


def focal_of(log_p, gamma):
  return -((1 - np.exp(log_p)) ** gamma) * log_p


A = -np.log(1e-4)

# name of case -> (function, reference of (log-probabilities [K], label)).
CASES = {
  'label_probability': (losses.label_probability, lambda s, y: np.exp(s[y])),
  'generalized': (
    functools.partial(losses.generalized_cross_entropy, q=0.3),
    lambda s, y: power(np.exp(s[y]), 0.3),
  ),
  'truncated': (
    functools.partial(
      losses.truncated_generalized_cross_entropy, q=0.3, threshold=0.2
    ),
    lambda s, y: (
      (np.exp(s[y]) > 0.2) * (power(np.exp(s[y]), 0.3) - power(0.2, 0.3))
    ),
  ),
  'mean_absolute_error': (
    losses.mean_absolute_error,
    lambda s, y: np.abs(np.exp(s) - np.eye(K)[y]).sum() / 2,
  ),
  'reverse': (
    losses.reverse_cross_entropy,
    lambda s, y: -(np.exp(s) * np.log(np.clip(np.eye(K)[y], 1e-4, 1))).sum(),
  ),
  'symmetric': (
    functools.partial(losses.symmetric_cross_entropy, alpha=0.5, beta=2.0),
    lambda s, y: -0.5 * s[y] + 2 * A * (1 - np.exp(s[y])),
  ),
  'focal': (
    functools.partial(losses.focal, gamma=1.5),
    lambda s, y: focal_of(s[y], 1.5),
  ),
  'normalized_cross_entropy': (
    losses.normalized_cross_entropy,
    lambda s, y: s[y] / s.sum(),
  ),
  'normalized_focal': (
    functools.partial(losses.normalized_focal, gamma=0.5),
    lambda s, y: focal_of(s[y], 0.5) / focal_of(s, 0.5).sum(),
  ),
  'normalized_generalized': (
    losses.normalized_generalized_cross_entropy,
    lambda s, y: (1 - np.exp(0.7 * s[y])) / (K - np.exp(0.7 * s).sum()),
  ),
  'nfl_mae': (
    functools.partial(
      losses.active_passive, active='nfl', passive='mae', alpha=10.0
    ),
    lambda s, y: (
      10 * focal_of(s[y], 0.5) / focal_of(s, 0.5).sum() + 1 - np.exp(s[y])
    ),
  ),
  'ngce_rce': (
    functools.partial(losses.active_passive, active='ngce', beta=0.1, q=0.1),
    lambda s, y: (
      (1 - np.exp(0.1 * s[y])) / (K - np.exp(0.1 * s).sum())
      + 0.1 * A * (1 - np.exp(s[y]))
    ),
  ),
  'bootstrapping_soft': (
    losses.bootstrapping,
    lambda s, y: -0.95 * s[y] - 0.05 * (np.exp(s) * s).sum(),
  ),
  'bootstrapping_hard': (
    functools.partial(losses.bootstrapping, kind='hard'),
    lambda s, y: -0.8 * s[y] - 0.2 * s.max(),
  ),
}


@jax.jit
def everything(logits, labels, where):
  """Gradients and values of all cases, in one compilation."""

  def run(fun):
    total = lambda z: (lambda out: (out.sum(), out))(
      fun(z, labels, where=where)
    )
    return jax.grad(total, has_aux=True)(logits)

  return {name: run(fun) for name, (fun, _) in CASES.items()}


def run(name, logits=LOGITS, labels=LABELS, where=None):
  where = np.ones(B, bool) if where is None else where
  return jax.device_get(everything(logits, labels, where)[name])


@pytest.mark.parametrize('name', CASES)
def test_it_is_its_equation(x64, name):
  grads, out = run(name)
  wanted = [
    CASES[name][1](log_softmax(z), y)
    for z, y in zip(LOGITS, LABELS, strict=True)
  ]
  np.testing.assert_allclose(out, wanted, rtol=1e-12)
  # Probabilities do not know an offset of the logits.
  np.testing.assert_allclose(grads.sum(-1), 0, atol=1e-13)


@pytest.mark.fast
@pytest.mark.parametrize('name', CASES)
def test_gradients_are_slopes_of_the_values(x64, name):
  along = np.random.default_rng(1).normal(size=LOGITS.shape)
  (grads, _), step = run(name), 1e-5
  up, down = (run(name, LOGITS + s * along)[1] for s in (step, -step))
  np.testing.assert_allclose(
    (grads * along).sum(-1), (up - down) / (2 * step), rtol=1e-6, atol=1e-8
  )


@pytest.mark.fast
@pytest.mark.parametrize('name', CASES)
def test_masked_and_unlabelled_rows_are_zero_even_as_nan(x64, name):
  where = np.arange(B) % 3 != 0
  logits = np.where(where[:, None], LOGITS, np.nan)
  labels = np.where(np.arange(B) == 1, -1, LABELS)
  labels = np.where(np.arange(B) == 2, K, labels)
  counts = where & (np.arange(B) > 2)
  grads, out = run(name, logits, labels, where)
  whole_grads, whole = run(name)
  np.testing.assert_array_equal(out[~counts], 0)
  np.testing.assert_array_equal(grads[~counts], 0)
  np.testing.assert_allclose(out[counts], whole[counts], rtol=1e-12)
  np.testing.assert_allclose(
    grads[counts], whole_grads[counts], rtol=1e-10, atol=1e-15
  )


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
@pytest.mark.parametrize('name', CASES)
def test_extreme_logits_are_finite_in_value_and_gradient(name, dtype):
  signs = np.sign(LOGITS)
  signs[0] = 0
  signs[1] = np.where(np.arange(K) == LABELS[1], 1, -1)
  signs[2] = -np.where(np.arange(K) == LABELS[2], 1, -1)
  for size in (20.0, 200.0, 1e4, 3e38):
    grads, out = run(name, jnp.asarray(size * signs, dtype))
    assert out.shape == (B,)
    assert out.dtype == jnp.float32
    assert grads.dtype == dtype
    assert np.isfinite(out).all()
    assert np.isfinite(np.asarray(grads, 'f')).all()


@pytest.mark.full
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_any_batch_has_finite_losses_in_their_range(data):
  number = st.sampled_from([0.0, 1.0, -1.0, 1e-3, 30.0, -88.0, 1e4, -1e4])
  number = number | st.floats(-50, 50, width=32)
  logits = data.draw(
    st.lists(number, min_size=B * K, max_size=B * K).map(
      lambda v: np.asarray(v, 'f').reshape(B, K)
    )
  )
  ints = lambda lo, hi: st.lists(st.integers(lo, hi), min_size=B, max_size=B)
  labels = np.asarray(data.draw(ints(-2, K + 1)))
  where = np.asarray(data.draw(ints(0, 1)), bool)
  logits[~where] = np.inf
  counts = where & (labels >= 0) & (labels < K)
  out = jax.device_get(everything(logits, labels, where))
  for name, (grads, values) in out.items():
    assert np.isfinite(values).all(), name
    assert np.isfinite(grads).all(), name
    assert not values[~counts].any(), name
    assert not grads[~counts].any(), name
    np.testing.assert_allclose(grads.sum(-1), 0, atol=1e-4)
    if name.startswith('normalized'):
      assert values.max() <= 1 + 1e-6, name
    if name != 'truncated':
      assert values.min() >= 0, name


@pytest.mark.full
def test_generalized_cross_entropy_runs_from_cross_entropy_to_error(x64):
  fun = functools.partial(losses.generalized_cross_entropy, LOGITS, LABELS)
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
    jnp.asarray(LOGITS), LABELS
  )
  np.testing.assert_allclose(fun(q=0.0), cross_entropy, rtol=1e-12)
  np.testing.assert_allclose(fun(q=1e-9), cross_entropy, rtol=1e-7)
  np.testing.assert_allclose(
    fun(q=1.0), losses.mean_absolute_error(LOGITS, LABELS), rtol=1e-12
  )
  slope = jax.grad(
    lambda q: losses.generalized_cross_entropy(LOGITS, LABELS, q=q).sum()
  )
  assert np.isfinite([slope(0.0), slope(0.5)]).all()


def test_symmetric_cross_entropy_is_a_scaled_polynomial_loss(x64):
  poly = optax.losses.poly_loss_cross_entropy(
    jnp.asarray(LOGITS), jax.nn.one_hot(LABELS, K), epsilon=A * 2.0 / 0.5
  )
  out = losses.symmetric_cross_entropy(LOGITS, LABELS, alpha=0.5, beta=2.0)
  np.testing.assert_allclose(out, 0.5 * poly, rtol=1e-12)


@pytest.mark.full
def test_limits_of_the_normalised_losses(x64):
  cross_entropy = losses.normalized_cross_entropy(LOGITS, LABELS)
  np.testing.assert_allclose(
    losses.normalized_focal(LOGITS, LABELS, gamma=0.0), cross_entropy, 1e-12
  )
  generalized = functools.partial(
    losses.normalized_generalized_cross_entropy, LOGITS, LABELS
  )
  np.testing.assert_allclose(generalized(q=0.0), cross_entropy, rtol=1e-12)
  np.testing.assert_allclose(
    generalized(q=1.0),
    losses.mean_absolute_error(LOGITS, LABELS) / (K - 1),
    rtol=1e-12,
  )
  # What makes them robust: over all labels of one example they sum to 1.
  for fun in (
    losses.normalized_cross_entropy,
    losses.normalized_focal,
    losses.normalized_generalized_cross_entropy,
  ):
    rows = jnp.broadcast_to(jnp.asarray(LOGITS[0]), (K, K))
    np.testing.assert_allclose(fun(rows, jnp.arange(K)).sum(), 1, rtol=1e-12)


@pytest.mark.fast
def test_norms_of_the_gradients_are_those_of_the_docstrings(x64):
  p = np.exp([log_softmax(z)[y] for z, y in zip(LOGITS, LABELS, strict=True)])
  norm = lambda name: np.abs(run(name)[0]).sum(-1)
  same = functools.partial(np.testing.assert_allclose, rtol=1e-11)
  same(norm('generalized'), 2 * p**0.3 * (1 - p))
  same(norm('mean_absolute_error'), 2 * p * (1 - p))
  same(norm('symmetric'), 2 * (1 - p) * (0.5 + 2 * A * p))
  same(norm('focal'), 2 * (1 - p) ** 1.5 * (1 - p - 1.5 * p * np.log(p)))


def test_a_stopped_factor_has_no_gradient(x64):
  p = np.exp([log_softmax(z)[y] for z, y in zip(LOGITS, LABELS, strict=True)])
  onehot = np.eye(K)[LABELS]
  softmax = np.exp([log_softmax(z) for z in LOGITS])
  grad = lambda fun, **kw: jax.grad(
    lambda z: fun(z, LABELS, stop_modulator=True, **kw).sum()
  )(LOGITS)
  np.testing.assert_allclose(
    grad(losses.focal, gamma=0.5),
    ((1 - p) ** 0.5)[:, None] * (softmax - onehot),
    rtol=1e-11,
    atol=1e-15,
  )
  factor = (1 - softmax) ** 0.5

  def constant(z):
    values = factor * jax.nn.log_softmax(z)
    return ((values * onehot).sum(-1) / values.sum(-1)).sum()

  np.testing.assert_allclose(
    grad(losses.normalized_focal), jax.grad(constant)(LOGITS), 1e-10, 1e-15
  )
  target = 0.95 * onehot + 0.05 * softmax
  out = jax.grad(
    lambda z: losses.bootstrapping(z, LABELS, stop_target=True).sum()
  )(LOGITS)
  np.testing.assert_allclose(out, softmax - target, rtol=1e-10, atol=1e-15)


def test_whole_label_weight_is_cross_entropy(x64):
  wanted = optax.softmax_cross_entropy_with_integer_labels(
    jnp.asarray(LOGITS), LABELS
  )
  for kind in ('soft', 'hard'):
    out = losses.bootstrapping(LOGITS, LABELS, kind=kind, beta=1.0)
    np.testing.assert_allclose(out, wanted, rtol=1e-12)
  out = losses.focal(LOGITS, LABELS, gamma=0.0)
  np.testing.assert_allclose(out, wanted, rtol=1e-12)


@pytest.mark.full
def test_truncation_takes_its_examples_from_elsewhere():
  keep = np.arange(B) % 2 == 0
  fun = functools.partial(
    losses.truncated_generalized_cross_entropy, LOGITS, LABELS
  )
  out = fun(keep=keep)
  plain = losses.generalized_cross_entropy(LOGITS, LABELS)
  edge = (1 - 0.5**0.7) / 0.7
  np.testing.assert_allclose(out, keep * (plain - edge), rtol=1e-5, atol=1e-6)
  confident = losses.label_probability(LOGITS, LABELS) > 0.5
  np.testing.assert_array_equal(fun(), fun(keep=confident))


def test_bad_input_is_told_in_one_line():
  z, y = jnp.zeros((4, 3)), jnp.zeros(4, int)
  for name, (fun, _) in CASES.items():
    with pytest.raises(TypeError, match='integer classes') as caught:
      fun(z, jnp.ones((4, 3)) / 3)
    assert '\n' not in str(caught.value), name
    with pytest.raises(ValueError, match='at least 2 classes'):
      fun(z[:, :1], y)
    with pytest.raises(ValueError, match='where must have shape'):
      fun(z, y, where=jnp.ones(3, bool))
  for message, call in [
    ('q must lie in', lambda: losses.generalized_cross_entropy(z, y, q=2.0)),
    ('gamma must lie', lambda: losses.focal(z, y, gamma=-1.0)),
    ('one of soft, hard', lambda: losses.bootstrapping(z, y, kind='firm')),
    ('beta must lie', lambda: losses.bootstrapping(z, y, beta=1.5)),
    ('one of nce, nfl, ngce', lambda: losses.active_passive(z, y, active='x')),
    ('one of mae, rce', lambda: losses.active_passive(z, y, passive='x')),
    (
      'log_zero must lie',
      lambda: losses.reverse_cross_entropy(z, y, log_zero=1.0),
    ),
  ]:
    with pytest.raises(ValueError, match=message):
      call()
