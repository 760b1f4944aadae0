"""The memory of early predictions, and the pull towards it."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

N, B, K = 40, 16, 4
RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(B, K))
LABELS = RNG.integers(0, K, B)
IDS = RNG.permutation(N)[:B]


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def clipped(z):
  p = np.clip(softmax(z), 1e-4, 1 - 1e-4)
  return p / p.sum(-1, keepdims=True)


def test_memory_is_the_running_mean_of_predictions(x64):
  state = losses.early_learning_init(N, K, jnp.float64)
  wanted = np.zeros((N, K))
  update = jax.jit(
    functools.partial(losses.early_learning_update, momentum=0.6)
  )
  for step in range(3):
    logits = LOGITS * (step + 1)
    state, targets = update(state, logits, IDS)
    wanted[IDS] = 0.6 * wanted[IDS] + 0.4 * clipped(logits)
    np.testing.assert_allclose(targets, wanted[IDS], rtol=1e-12)
  np.testing.assert_allclose(state.targets, wanted, rtol=1e-12)


def test_masked_rows_and_unknown_examples_are_not_remembered():
  where = np.arange(B) % 2 == 0
  ids = np.where(np.arange(B) == 2, -1, IDS)
  ids = np.where(np.arange(B) == 4, N, ids)
  logits = np.where(where[:, None], LOGITS, np.nan)
  counts = where & (ids == IDS)
  start = losses.EarlyLearningState(jnp.full((N, K), 0.2))
  state, targets = losses.early_learning_update(start, logits, ids, where=where)
  changed = (np.asarray(state.targets) != 0.2).any(-1)
  np.testing.assert_array_equal(np.sort(IDS[counts]), np.flatnonzero(changed))
  np.testing.assert_array_equal(targets[~counts], 0)
  np.testing.assert_allclose(targets[counts], state.targets[IDS[counts]])


def test_memory_takes_no_gradient():
  start = losses.early_learning_init(N, K)

  def total(logits):
    state, targets = losses.early_learning_update(start, logits, IDS)
    return state.targets.sum() + targets.sum()

  np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(LOGITS)), 0)


def test_memory_over_devices_is_that_of_one(x64, mesh):
  start = losses.EarlyLearningState(jnp.full((N, K), 0.1))
  wanted, targets = losses.early_learning_update(start, LOGITS, IDS)
  # The memory returns from a gather, the same on all devices.
  fun = jax.shard_map(
    lambda z, i: losses.early_learning_update(start, z, i, axis_name='data'),
    mesh=mesh,
    in_specs=(P('data'), P('data')),
    out_specs=(P(), P('data')),
    check_vma=False,
  )
  out = jax.jit(fun)(LOGITS, IDS)
  np.testing.assert_allclose(out[0].targets, wanted.targets, rtol=1e-6)
  np.testing.assert_allclose(out[1], targets, rtol=1e-6)


def test_loss_is_its_equation(x64):
  targets = softmax(RNG.normal(size=(B, K))) * 0.9
  fun = lambda z, **kw: losses.early_learning_regularization(
    z, LABELS, targets, **kw
  )
  p = softmax(LOGITS)
  inner = (np.clip(p, 1e-4, 1 - 1e-4) * targets).sum(-1)
  cross_entropy = -np.log(p[np.arange(B), LABELS])
  np.testing.assert_allclose(
    fun(LOGITS, strength=7.0),
    cross_entropy + 7 * np.log(1 - inner),
    rtol=1e-11,
    atol=1e-13,
  )
  np.testing.assert_allclose(fun(LOGITS, strength=0.0), cross_entropy, 1e-12)
  check_grads(fun, (jnp.asarray(LOGITS),), order=1, modes=['rev'], eps=1e-6)


@pytest.mark.full
@pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))
def test_extreme_logits_and_targets_are_finite(dtype):
  where = np.arange(B) != 5
  for targets in (np.eye(K)[LABELS], np.ones((B, K)), np.zeros((B, K))):
    targets[5] = np.nan
    for size in (1.0, 1e4):
      logits = jnp.asarray(size * LOGITS, dtype).at[5].set(jnp.inf)
      fun = lambda z, targets=targets: losses.early_learning_regularization(
        z, LABELS, targets.astype('f'), where=where
      )
      out, back = jax.vjp(fun, logits)
      assert np.isfinite(out).all()
      (grad,) = back(jnp.ones_like(out))
      assert np.isfinite(np.asarray(grad, 'f')).all()
      assert out[5] == 0
      np.testing.assert_array_equal(np.asarray(grad[5], 'f'), 0)


@pytest.mark.fast
def test_wrong_arguments_are_named():
  state = losses.early_learning_init(N, K)
  with pytest.raises(ValueError, match='do not fit logits'):
    losses.early_learning_update(state, LOGITS, IDS[:3])
  with pytest.raises(ValueError, match='momentum must lie'):
    losses.early_learning_update(state, LOGITS, IDS, momentum=1.5)
  with pytest.raises(ValueError, match='num_examples must lie'):
    losses.early_learning_init(0, K)
  with pytest.raises(ValueError, match='shapes must be equal'):
    losses.early_learning_regularization(LOGITS, LABELS, LOGITS[:3])
