"""Auto-PGD: its schedule, its optima, its contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks
from rrl_jax.attacks import _apgd, _logit_losses
from tests.tiers import first

ORDER = {'linf': np.inf, 'l2': 2, 'l1': 1}
RNG = np.random.default_rng(3)
W = RNG.normal(size=(12, 8)).astype('f')
V = RNG.normal(size=(8, 5)).astype('f')
X = RNG.uniform(size=(6, 12)).astype('f')


def net(x):
  w, v = (jnp.asarray(a, x.dtype) for a in (W, V))
  return jnp.tanh(x.reshape(x.shape[0], -1) @ w) @ v


Y = np.asarray(net(X).argmax(axis=1))


def attack(logits_fn=net, key=None, x=X, y=Y, **kw):
  kw = {'epsilon': 0.1, 'num_steps': 20} | kw
  run = lambda x, y: attacks.apgd(logits_fn, key, x, y, **kw)
  return jax.jit(run)(x, y)


@functools.cache
def plain(norm):
  return attack(norm=norm, key=jax.random.key(0))


@pytest.mark.fast
def test_checkpoints_of_a_hundred_steps_are_the_published_ones():
  found = [step + 1 for step, _ in _apgd.checkpoints(100, 'linf')]
  assert found == [22, 41, 57, 70, 80, 87, 93, 99]
  assert [since for _, since in _apgd.checkpoints(100, 'l2')] == [
    22, 19, 16, 13, 10, 7, 6, 6,
  ]  # fmt: skip
  assert _apgd.checkpoints(100, 'l1') == [(4 * k + 3, 4) for k in range(25)]


@pytest.mark.parametrize(
  ('norm', 'epsilon'), first([('linf', 0.1), ('l2', 0.3), ('l1', 0.9)])
)
def test_reaches_the_optimum_of_a_linear_model(norm, epsilon):
  w = W[:, 0]
  x = 0.2 + 0.6 * X  # For l1: room for 0.2 in each coordinate at least.
  linear = lambda x: jnp.stack([0 * x[:, 0], x @ w], axis=1)
  result = attack(
    linear, x=x, y=np.zeros(6, int), norm=norm, epsilon=epsilon,
    loss='margin', num_steps=100,
  )  # fmt: skip
  gain = (np.asarray(result.best_inputs, float) - x) @ w
  size = np.abs(w)
  if norm == 'linf':
    best = np.full(6, epsilon * size.sum())
  elif norm == 'l2':
    best = np.full(6, epsilon * np.linalg.norm(w))
    inside = np.abs(w) / np.linalg.norm(w) * epsilon < 0.2
    assert inside.all()
  else:  # Spend the radius on the largest weights, each as far as it goes.
    best = []
    for row in x:
      room, left, total = np.where(w > 0, 1 - row, row), epsilon, 0.0
      for i in np.argsort(-size):
        move = min(left, room[i])
        total, left = total + move * size[i], left - move
      best.append(total)
  np.testing.assert_allclose(gain, best, rtol=0.02 if norm == 'l1' else 1e-4)
  assert (gain <= np.asarray(best) * (1 + 1e-5)).all()


@pytest.mark.parametrize('norm', first(ORDER))
def test_result_is_consistent(norm):
  result = plain(norm)
  assert 0 < int(result.robust.sum()) < 6 or norm != 'linf'
  wrong = net(result.adv_inputs).argmax(axis=1) != Y
  np.testing.assert_array_equal(wrong, ~result.robust)
  np.testing.assert_array_equal(
    result.adv_inputs[result.robust], X[np.asarray(result.robust)]
  )
  loss = _logit_losses.evaluate('ce', net(result.best_inputs), Y, None)
  np.testing.assert_allclose(result.best_losses, loss, rtol=1e-5)


@pytest.mark.parametrize(
  ('norm', 'dtype'),
  first(
    [
      ('linf', 'bfloat16'),
      ('l2', 'bfloat16'),
      ('l1', 'bfloat16'),
      ('linf', 'float16'),
      ('l2', 'float32'),
    ],
    3,
  ),
)
def test_stays_in_ball_and_bounds_exactly(norm, dtype):
  x = jnp.asarray(X, dtype).at[:2].set(0).at[2:4].set(1)
  epsilon = {'linf': 8 / 255, 'l2': 0.5, 'l1': 2.0}[norm]
  result = attack(x=x, norm=norm, epsilon=epsilon, loss='dlr', num_steps=10)
  for points in (result.best_inputs, result.adv_inputs):
    assert points.dtype == dtype
    delta = np.asarray(points, float) - np.asarray(x, float)
    assert np.linalg.norm(delta, ord=ORDER[norm], axis=1).max() <= epsilon
    assert float(points.min()) >= 0
    assert float(points.max()) <= 1
  moved = np.asarray(result.best_inputs, float) - np.asarray(x, float)
  assert np.abs(moved).max() > 0.01


@pytest.mark.parametrize('norm', first(ORDER))
def test_an_example_is_the_same_alone_and_in_any_batch(norm):
  with jax.enable_x64(True):
    run = jax.jit(
      lambda x, y, ids: attacks.apgd(
        net, jax.random.key(0), x, y, epsilon=0.1, norm=norm, example_ids=ids
      )
    )
    ids, x = np.arange(6), X.astype(float)
    whole = run(x, Y, ids)
    alone = run(x[[4, 1]], Y[[4, 1]], ids[[4, 1]])
    np.testing.assert_allclose(
      alone.best_inputs, whole.best_inputs[jnp.array([4, 1])], atol=1e-6
    )
    np.testing.assert_array_equal(alone.robust, whole.robust[jnp.array([4, 1])])


def test_the_l1_schedule_of_radii_ends_inside_the_ball():
  result = attack(norm='l1', epsilon=0.5, epsilon_schedule=True)
  assert float(jnp.abs(result.best_inputs - X).sum(axis=1).max()) <= 0.5


def test_a_robust_example_gets_its_clean_input_back():
  result = attack(epsilon=1e-4)
  assert result.robust.all()
  np.testing.assert_array_equal(result.adv_inputs, X)


def test_a_misclassified_clean_input_is_not_robust():
  result = attack(y=(Y + 1) % 5, epsilon=0.0)
  assert not result.robust.any()
  np.testing.assert_array_equal(result.adv_inputs, X)


def test_restarts_break_no_fewer_examples_and_raise_no_lower_loss(key):
  once = attack(key=key, num_steps=3, epsilon=0.05)
  more = attack(key=key, num_steps=3, epsilon=0.05, num_restarts=3)
  assert (more.best_losses >= once.best_losses).all()
  assert (more.best_losses > once.best_losses).any()
  assert not (more.robust & ~once.robust).any()


def test_a_targeted_run_moves_towards_its_target():
  targets = (Y + 1) % 5
  for loss in ('ce', 'dlr', 'margin'):
    result = attack(loss=loss, targets=targets, epsilon=0.5)
    value = lambda x, loss=loss: _logit_losses.evaluate(
      loss, net(x), Y, targets
    )
    assert (value(result.best_inputs) > value(X)).all()


@pytest.mark.full
def test_averaging_over_keys_finds_the_mean_gradient(key):
  noisy = lambda x, keys: (
    net(x)
    + 30
    * jax.vmap(
      lambda k, row: (
        jax.random.normal(k, (5,)) @ jnp.outer(jnp.ones(5), row[:5])
      )
    )(keys, x)
  )
  assert attack(noisy, key=key, num_samples=3, num_steps=2).robust.shape == (6,)
  shifted = lambda x, keys: (
    net(x) + jax.vmap(lambda k: jax.random.normal(k, ()))(keys)[:, None]
  )
  a = attack(shifted, key=key, num_samples=2, loss='margin')
  b = attack(key=key, loss='margin')
  np.testing.assert_allclose(a.best_losses, b.best_losses, atol=1e-4)


@pytest.mark.full
def test_flat_or_broken_losses_give_finite_points():
  for f in (
    lambda x: 0 * x[:, :3],
    lambda x: jnp.log(x[:, :3] - 0.5),
    lambda x: 1e30 * x[:, :3] ** 5,
  ):
    result = attack(
      f, init=X, y=np.zeros(6, int), norm='l2', epsilon=0.5, num_steps=5
    )
    assert np.isfinite(result.best_inputs).all()
    assert not np.isnan(result.best_losses).any()


@pytest.mark.fast
def test_cross_entropy_rises_from_the_label_and_to_the_target():
  logits = jnp.array([[5.0, 1.0, 2.0, 4.0], [0.0, 9.0, 3.0, 1.0]])
  labels, targets = jnp.array([0, 2]), jnp.array([2, 1])
  log_p = np.array(jax.nn.log_softmax(logits))
  value = _logit_losses.evaluate('ce', logits, labels, None)
  np.testing.assert_allclose(value, -log_p[[0, 1], labels], rtol=1e-5)
  value = _logit_losses.evaluate('ce', logits, labels, targets)
  np.testing.assert_allclose(value, log_p[[0, 1], targets], rtol=1e-3)


def test_dlr_is_the_published_ratio():
  logits = jnp.array([[5.0, 1.0, 2.0, 4.0], [0.0, 9.0, 3.0, 1.0]])
  value = _logit_losses.evaluate('dlr', logits, jnp.array([0, 2]), None)
  np.testing.assert_allclose(value, [-(5 - 4) / (5 - 2), -(3 - 9) / (9 - 1)])
  value = _logit_losses.evaluate(
    'dlr', logits, jnp.array([0, 2]), jnp.array([2, 1])
  )
  np.testing.assert_allclose(
    value, [-(5 - 2) / (5 - 1.5), -(3 - 9) / (9 - 0.5)]
  )


@pytest.mark.parametrize('seed', range(3))
def test_the_kth_largest_is_found_exactly(seed):
  rng = np.random.default_rng(seed)
  x = np.abs(rng.standard_cauchy((5, 40)).astype('f'))
  x[0] = 0
  x[1, ::2] = 1
  count = rng.integers(1, 41, 5)
  found = _apgd._kth_largest(jnp.asarray(x), jnp.asarray(count))
  expected = -np.sort(-x, axis=1)[np.arange(5), count - 1]
  np.testing.assert_array_equal(found[:, 0], expected)


@pytest.mark.parametrize(
  ('kwargs', 'error', 'words'),
  [
    ({'norm': 'l0'}, ValueError, 'norm must be one of'),
    ({'loss': 'cw'}, ValueError, 'loss must be one of'),
    ({'epsilon': -0.1}, ValueError, 'epsilon must be non-negative'),
    ({'num_steps': 2.0}, TypeError, 'num_steps must be a Python integer'),
    ({'labels': np.zeros(5, int)}, ValueError, 'labels must have shape'),
    ({'labels': np.zeros(6)}, TypeError, 'labels must have an integer'),
    ({'labels': np.full(6, 5)}, ValueError, 'labels must lie in 0..4'),
    ({'targets': np.full(6, -1)}, ValueError, 'targets must lie in'),
    ({'init': X[:2]}, ValueError, 'differ in shape'),
    ({'init': X, 'num_restarts': 2}, ValueError, 'needs a random start'),
    ({'logits_fn': lambda x: x[:, 0]}, ValueError, 'logits_fn must return'),
    ({'logits_fn': lambda x: x[:, :2], 'loss': 'dlr', 'labels': Y % 2},
     ValueError, 'dlr needs at least 3 classes'),
    ({'logits_fn': lambda x: x[:, :3], 'loss': 'dlr', 'targets': Y % 2,
      'labels': Y % 3}, ValueError, 'targeted dlr needs at least 4'),
  ],
)  # fmt: skip
def test_wrong_arguments_are_named(kwargs, error, words):
  args = {'logits_fn': net, 'key': None, 'inputs': X, 'labels': Y}
  args |= {'epsilon': 0.1} | kwargs
  with pytest.raises(error, match=words) as caught:
    attacks.apgd(**args)
  assert '\n' not in str(caught.value)
