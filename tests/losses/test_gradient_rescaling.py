"""Gradient rescaling against its equations, in every form and everywhere."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from rrl_jax import losses
from rrl_jax.losses import _derivative_manipulation as lib
from rrl_jax.numerics import masked_mean
from tests.tiers import first

B, K = 16, 5
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(B, K))
LABELS = RNG.integers(0, K, B)
SETTINGS = [(0.0, 2.0), (0.5, 12.0), (1.0, 16.0), (2.0, 24.0), (0.3, -2.0)]
# focus, spread: largest weight, integral and variance over uniform p.
TABLE = [
  (0, 0.5, 1.65, 1.297, 0.035),
  (0, 1, 2.72, 1.718, 0.242),
  (0, 2, 7.39, 3.195, 3.195),
  (0.5, 6, 10.07, 5.938, 9.107),
  (0.5, 8, 21.74, 11.408, 50.41),
  (0.5, 12, 101.37, 44.363, 1257.7),
  (0.3, 6.5, 25.04, 12.487, 69.70),
  (1, 2, 1.65, 1.411, 0.040),
  (1, 8, 7.39, 4.420, 4.546),
  (1, 12, 20.09, 10.130, 43.27),
  (1, 16, 54.60, 24.080, 354.1),
  (2, 12, 5.92, 3.221, 2.978),
  (2, 20, 19.36, 8.150, 41.74),
  (2, 24, 35.01, 13.354, 142.7),
]


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def weight(p, focus, spread):
  return np.exp(spread * p**focus * (1 - p))


def softmax(logits):
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def published(w, guard=0.0, where=None):
  """The rule as released, row by row; w is a function of p."""
  p = softmax(LOGITS)
  onehot = np.eye(K)[LABELS]
  own = (p * onehot).sum(-1)
  keep = np.ones(B) if where is None else where
  total = sum(w(own[i]) for i in range(B) if keep[i])
  rows = [
    keep[i]
    * w(own[i])
    / total
    * (p[i] - onehot[i])
    / (2 * (1 - own[i]) + guard)
    for i in range(B)
  ]
  return np.stack(rows)


def gradient(loss, logits=LOGITS, labels=LABELS, where=None, **kw):
  mean = lambda z: masked_mean(loss(z, labels, where=where, **kw), where)
  return np.asarray(jax.jit(jax.grad(mean))(jnp.asarray(logits)))


@functools.partial(jax.jit, static_argnames='normalization')
def rescaled(logits, labels, where, focus, spread, guard, normalization):
  def mean(z):
    out = losses.gradient_rescaling(
      z,
      labels,
      focus=focus,
      spread=spread,
      guard=guard,
      normalization=normalization,
      where=where,
    )
    return masked_mean(out, where), out

  return jax.grad(mean, has_aux=True)(logits)


def gr_gradient(
  logits=LOGITS,
  labels=LABELS,
  where=None,
  *,
  focus=0.5,
  spread=8.0,
  guard=0.0,
  normalization='batch',
):
  where = np.ones(len(logits), bool) if where is None else where
  grad, _ = rescaled(logits, labels, where, focus, spread, guard, normalization)
  return np.asarray(grad)


@pytest.mark.parametrize('guard', [0.0, 1e-6])
@pytest.mark.parametrize(('focus', 'spread'), SETTINGS)
def test_gradient_of_the_mean_is_the_published_rule(x64, focus, spread, guard):
  out = gr_gradient(focus=focus, spread=spread, guard=guard)
  wanted = published(lambda p: weight(p, focus, spread), guard)
  np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-14)
  np.testing.assert_allclose(out.sum(-1), 0, atol=1e-15)
  if not guard:
    np.testing.assert_allclose(np.abs(out).sum(), 1, rtol=1e-13)


@pytest.mark.fast
def test_no_spread_pulls_all_examples_alike(x64):
  out = gr_gradient(spread=0.0)
  others = np.where(np.eye(K)[LABELS] == 1, -np.inf, LOGITS)
  wanted = (softmax(others) - np.eye(K)[LABELS]) / (2 * B)
  np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.full
def test_focus_one_is_improved_mean_absolute_error(x64):
  np.testing.assert_array_equal(
    losses.gradient_rescaling(LOGITS, LABELS, focus=1.0, spread=8.0),
    losses.improved_mean_absolute_error(LOGITS, LABELS),
  )


def test_traced_settings_and_vmap_over_them(x64):
  focus = jnp.array([f for f, _ in SETTINGS])
  spread = jnp.array([s for _, s in SETTINGS])
  mean = lambda z, f, s: losses.gradient_rescaling(
    z, LABELS, focus=f, spread=s
  ).mean()
  out = jax.jit(jax.vmap(jax.grad(mean), (None, 0, 0)))(LOGITS, focus, spread)
  for row, (f, s) in zip(out, SETTINGS, strict=True):
    wanted = published(lambda p, f=f, s=s: weight(p, f, s))
    np.testing.assert_allclose(row, wanted, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize('normalization', ['integral', 'none'])
def test_without_the_batch_sum_the_mean_is_over_examples(x64, normalization):
  fun = lambda p: weight(p, 0.5, 8.0)
  p = (softmax(LOGITS) * np.eye(K)[LABELS]).sum(-1)
  grid = np.polynomial.legendre.leggauss(200)
  nodes = (grid[0] + 1) / 2
  integral = np.sum(grid[1] / 2 * 4 * nodes**3 * fun(nodes**4))
  scale = integral if normalization == 'integral' else 1
  out = gr_gradient(normalization=normalization)
  wanted = published(fun) * fun(p).sum() / scale / B
  np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(('focus', 'spread', 'top', 'mean', 'variance'), TABLE)
def test_weights_have_the_published_size(
  x64, focus, spread, top, mean, variance
):
  p = jnp.linspace(0, 1, 20001)
  w = np.asarray(losses.emphasis_weight(p, focus=focus, spread=spread))
  np.testing.assert_allclose(p[w.argmax()], focus / (1 + focus), atol=5e-5)
  np.testing.assert_allclose(w.max(), top, atol=0.0051)
  np.testing.assert_allclose(w[-1], 1, rtol=1e-12)
  np.testing.assert_allclose(w[0], np.exp(spread) if focus == 0 else 1, 1e-12)
  integral, square = (
    np.exp(
      lib.log_integral(
        functools.partial(
          losses.emphasis_log_weight, focus=focus, spread=times * spread
        ),
        jnp.float64,
      )
    )
    for times in (1, 2)
  )
  np.testing.assert_allclose(integral, mean, atol=6e-4)
  np.testing.assert_allclose(
    square - integral**2, variance, rtol=5e-4, atol=5e-4
  )


@pytest.mark.full
def test_weight_is_finite_with_finite_slope_everywhere():
  p = jnp.array([0.0, 1e-38, 1e-20, 0.5, 1 - 1e-7, 1.0])
  for focus in (0.0, 0.01, 0.5, 1.0, 3.0):
    for spread in (-1e4, 0.0, 8.0, 1e4):
      fun = functools.partial(
        losses.emphasis_weight, focus=focus, spread=spread
      )
      assert np.isfinite(fun(p)).all()
      assert np.isfinite(jax.vmap(jax.grad(fun))(p)).all()
  half = losses.emphasis_weight(p.astype(jnp.bfloat16), focus=0.5, spread=8.0)
  assert half.dtype == jnp.float32


@pytest.mark.fast
def test_the_logged_value_is_the_weighted_cross_entropy(x64):
  out = losses.gradient_rescaling(LOGITS, LABELS, focus=0.5, spread=8.0)
  p = (softmax(LOGITS) * np.eye(K)[LABELS]).sum(-1)
  w = weight(p, 0.5, 8.0)
  np.testing.assert_allclose(out, B * w / w.sum() * -np.log(p), rtol=1e-12)


# Twice p(1-p)|L'(p)| of each loss, as a beta density times a constant.
@pytest.mark.parametrize(
  ('alpha', 'eta', 'factor', 'loss'),
  first(
    [
      (1.0, 2.0, 2.0, lambda p: -jnp.log(p)),
      (2.0, 2.0, 2.0, lambda p: 1 - p),
      (2.0, 3.0, 4.0, lambda p: (1 - p) ** 2),
      (1.7, 2.0, 2.0, lambda p: (1 - p**0.7) / 0.7),
    ]
  ),
)
def test_every_common_loss_is_a_weighting(x64, alpha, eta, factor, loss):
  log_weight = lambda log_p, log_rest: (
    np.log(factor)
    + losses.beta_log_weight(log_p, log_rest, alpha=alpha, eta=eta)
  )
  plain = lambda z, y, where: loss(
    jnp.take_along_axis(jax.nn.softmax(z), y[:, None], 1)[:, 0]
  )
  kw = {'log_weight_fn': log_weight}
  wanted = gradient(plain)
  out = gradient(losses.derivative_manipulation, normalization='none', **kw)
  np.testing.assert_allclose(out, wanted, rtol=1e-11, atol=1e-15)
  # With the batch sum: the loss's own gradient, over the sum of its norms.
  out = gradient(losses.derivative_manipulation, **kw)
  normalized = wanted / np.abs(wanted).sum()
  np.testing.assert_allclose(out, normalized, rtol=1e-11, atol=1e-15)
  fun = lambda z, y: plain(z, y, None)
  c = losses.rescaling_weights(fun, LOGITS, LABELS, guard=0.0)
  out = gradient(lambda z, y, where: c * fun(z, y))
  np.testing.assert_allclose(out, normalized, rtol=1e-11, atol=1e-15)


def test_named_densities_are_members_of_one_family(x64):
  log_p = jnp.log(jnp.linspace(0.01, 0.99, 9))
  log_rest = jnp.log1p(-jnp.exp(log_p))
  emphasis = functools.partial(
    losses.emphasis_log_weight, log_p, log_rest, spread=6.0
  )
  np.testing.assert_allclose(
    losses.exponential_log_weight(log_p, log_rest, spread=6.0),
    emphasis(focus=0.0),
    rtol=1e-12,
  )
  np.testing.assert_allclose(
    losses.normal_log_weight(log_p, log_rest, mode=0.5, spread=6.0),
    emphasis(focus=1.0),
    rtol=1e-12,
  )
  np.testing.assert_allclose(
    6 * jnp.exp(losses.beta_log_weight(log_p, log_rest, alpha=1.4, eta=2.0)),
    emphasis(focus=0.4),
    rtol=1e-12,
  )


@pytest.mark.parametrize(
  ('base', 'normalization'),
  first(
    [
      (optax.softmax_cross_entropy_with_integer_labels, 'batch'),
      (losses.generalized_cross_entropy, 'integral'),
      (losses.mean_absolute_error, 'none'),
      (losses.focal, 'batch'),
    ]
  ),
)
def test_weights_give_any_loss_the_same_gradient(x64, base, normalization):
  where = np.arange(B) % 4 != 1
  labels = np.where(np.arange(B) == 2, -1, LABELS)
  c = losses.rescaling_weights(
    base,
    LOGITS,
    labels,
    functools.partial(losses.emphasis_log_weight, focus=0.5, spread=8.0),
    normalization=normalization,
    guard=0.0,
    where=where,
  )
  out = gradient(
    lambda z, y, where: c * base(z, y), labels=labels % K, where=where
  )
  wanted = gr_gradient(labels=labels, where=where, normalization=normalization)
  np.testing.assert_allclose(out, wanted, rtol=1e-10, atol=1e-15)


def test_weights_with_the_guard_are_the_released_rule(x64):
  c = losses.rescaling_weights(
    optax.softmax_cross_entropy_with_integer_labels,
    LOGITS,
    LABELS,
    functools.partial(losses.emphasis_log_weight, focus=0.5, spread=8.0),
  )
  out = gradient(
    lambda z, y, where: (
      c * optax.softmax_cross_entropy_with_integer_labels(z, y)
    )
  )
  wanted = published(lambda p: weight(p, 0.5, 8.0), 1e-6)
  np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.fast
def test_masked_and_unlabelled_rows_take_no_part(x64):
  where = np.arange(B) % 3 != 0
  bad = np.where(where[:, None], LOGITS, np.nan)
  out = gr_gradient(bad, where=where)
  wanted = published(lambda p: weight(p, 0.5, 8.0), where=where)
  np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-15)
  value = losses.gradient_rescaling(
    bad, LABELS, focus=0.5, spread=8.0, where=where
  )
  assert (np.asarray(value)[~where] == 0).all()
  # A label outside has no share, so the others fill the norm of 1.
  labels = np.where(where, LABELS, np.where(np.arange(B) % 2, -1, K))
  out = gr_gradient(labels=labels)
  np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-15)
  none = gr_gradient(where=np.zeros(B, bool))
  np.testing.assert_array_equal(none, 0)


@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
@pytest.mark.parametrize('normalization', ['batch', 'integral', 'none'])
def test_extreme_logits_are_finite(dtype, normalization):
  where = np.ones(B, bool)
  for size in (200.0, 1e4, 3e38):
    logits = jnp.asarray(size * np.sign(LOGITS), dtype)
    for focus, spread in [(0.0, 8.0), (0.0, 1e4), (0.5, -1e4)]:
      for guard in (0.0, 1e-6):
        grad, value = rescaled(
          logits, LABELS, where, focus, spread, guard, normalization
        )
        assert np.isfinite(value).all()
        assert value.dtype == jnp.float32
        assert np.isfinite(np.asarray(grad, 'f')).all()
        if normalization == 'batch' and size < 1e30 and not guard:
          total = np.abs(np.asarray(grad, 'f')).sum()
          np.testing.assert_allclose(total, 1, rtol=1e-2)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_any_batch_has_a_gradient_of_norm_one(data):
  number = st.sampled_from([0.0, 1.0, -1.0, 1e-3, 30.0, -88.0, 1e4, -1e4])
  number = number | st.floats(-50, 50, width=32)
  logits = data.draw(
    st.lists(number, min_size=B * K, max_size=B * K).map(
      lambda v: np.asarray(v, 'f').reshape(B, K)
    )
  )
  ints = lambda lo, hi: st.lists(st.integers(lo, hi), min_size=B, max_size=B)
  labels = np.asarray(data.draw(ints(-1, K)))
  where = np.asarray(data.draw(ints(0, 1)), bool)
  focus = data.draw(st.floats(0, 10))
  spread = data.draw(st.floats(-100, 100))
  logits[~where] = np.nan
  counts = where & (labels >= 0) & (labels < K)
  grad, value = rescaled(
    logits, labels, where, focus, spread, 0.0, normalization='batch'
  )
  grad = np.asarray(grad)
  np.testing.assert_allclose(np.abs(grad).sum(), counts.any(), rtol=1e-5)
  np.testing.assert_allclose(grad.sum(-1), 0, atol=1e-6)
  assert not grad[~counts].any()
  assert not value[~counts].any()
  assert np.isfinite(value).all()
  assert (np.asarray(value) >= 0).all()


def test_a_fitted_example_keeps_its_pull_unless_guarded():
  logits, labels = jnp.array([[60.0, 0.0, 0.0]]), jnp.array([0])
  out = gr_gradient(logits, labels)
  np.testing.assert_allclose(out, [[-0.5, 0.25, 0.25]], rtol=1e-6)
  out = gr_gradient(logits, labels, guard=1e-6)
  np.testing.assert_allclose(out, 0, atol=1e-15)


@pytest.mark.full
@pytest.mark.parametrize('normalization', ['batch', 'none'])
def test_eight_devices_have_the_gradient_of_one(x64, mesh, normalization):
  where = np.array([i not in (2, 3, 4, 9) for i in range(B)])  # Uneven.
  kw = {
    'focus': 0.5,
    'spread': 8.0,
    'guard': 1e-6,
    'normalization': normalization,
  }
  x = jnp.asarray(RNG.normal(size=(B, 3)))
  theta = jnp.asarray(RNG.normal(size=(3, K)))
  fun = functools.partial(losses.gradient_rescaling, **kw)
  one = lambda t: masked_mean(fun(x @ t, LABELS, where=where), where)
  value, wanted = jax.value_and_grad(one)(theta)

  def local(t, x, y, m):
    out = fun(x @ t, y, where=m, axis_name='data')
    return masked_mean(out, m)

  spread = jax.shard_map(
    lambda *a: jax.lax.pmean(local(*a), 'data'),
    mesh=mesh,
    in_specs=(P(), P('data'), P('data'), P('data')),
    out_specs=P(),
  )
  out = jax.jit(jax.value_and_grad(spread))(theta, x, LABELS, where)
  np.testing.assert_allclose(out[0], value, rtol=1e-12)
  np.testing.assert_allclose(out[1], wanted, rtol=1e-12, atol=1e-15)

  split = [v.reshape(8, 2, *v.shape[1:]) for v in (x, LABELS, where)]
  step = lambda *a: jax.lax.pmean(jax.value_and_grad(local)(*a), 'data')
  out = jax.pmap(step, 'data', in_axes=(None, 0, 0, 0))(theta, *split)
  np.testing.assert_allclose(out[0][3], value, rtol=1e-12)
  np.testing.assert_allclose(out[1][3], wanted, rtol=1e-12, atol=1e-15)


def test_rescaling_weights_over_devices_are_those_of_one(x64, mesh):
  fun = functools.partial(losses.rescaling_weights, losses.focal, guard=1e-6)
  for log_weight_fn in (None, lambda log_p, log_rest: log_p + log_rest):
    per_device = jax.shard_map(
      lambda z, y, w=log_weight_fn: fun(z, y, w, axis_name='data'),
      mesh=mesh,
      in_specs=(P('data'), P('data')),
      out_specs=P('data'),
    )
    out = jax.jit(per_device)(LOGITS, LABELS)
    wanted = fun(LOGITS, LABELS, log_weight_fn)
    np.testing.assert_allclose(out, wanted, rtol=1e-12)


def test_micro_batches_divided_by_their_weights_are_the_batch(x64):
  """Means of gradients and of weights, one division at the end."""
  kw = {'focus': 0.5, 'spread': 8.0}
  x, theta = RNG.normal(size=(B, 3)), jnp.asarray(RNG.normal(size=(3, K)))

  @functools.partial(jax.jit, static_argnums=3)
  def step(t, x, y, normalization):
    p = losses.label_probability(x @ t, y)
    mean = lambda t: losses.gradient_rescaling(
      x @ t, y, normalization=normalization, **kw
    ).mean()
    return jax.grad(mean)(t), losses.emphasis_weight(p, **kw).mean()

  parts = [
    step(theta, x[rows], LABELS[rows], 'none')
    for rows in np.split(np.arange(B), 4)
  ]
  grads, weights = (sum(v) for v in zip(*parts, strict=True))
  wanted, _ = step(theta, x, LABELS, 'batch')
  np.testing.assert_allclose(grads / weights, wanted, rtol=1e-12)


def test_bad_input_is_told_in_one_line():
  kw = {'focus': 0.5, 'spread': 8.0}
  z, y = jnp.zeros((4, 3)), jnp.zeros(4, int)
  fun = losses.gradient_rescaling
  for message, error, call in [
    (
      'focus must lie in',
      ValueError,
      lambda: fun(z, y, focus=-1.0, spread=1.0),
    ),
    ('at least 2 classes', ValueError, lambda: fun(z[:, :1], y, **kw)),
    ('integer classes', TypeError, lambda: fun(z, jax.nn.softmax(z), **kw)),
    ('one class an example', ValueError, lambda: fun(z, z.astype(int), **kw)),
    ('must have rank 2', ValueError, lambda: fun(z[0], y, **kw)),
    (
      'logits must have a floating',
      TypeError,
      lambda: fun(y[:, None], y, **kw),
    ),
    ('guard must lie in', ValueError, lambda: fun(z, y, guard=-1.0, **kw)),
    (
      'one of batch, integral, none',
      ValueError,
      lambda: fun(z, y, normalization='sum', **kw),
    ),
    ('where must have', ValueError, lambda: fun(z, y, where=y[:2] == 0, **kw)),
    (
      'must be batch without log_weight_fn',
      ValueError,
      lambda: losses.rescaling_weights(
        losses.focal, z, y, normalization='none'
      ),
    ),
  ]:
    with pytest.raises(error, match=message) as caught:
      call()
    assert '\n' not in str(caught.value)
