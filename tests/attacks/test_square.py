"""Square: windows by the schedule, margins that only fall, its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks
from rrl_jax.attacks import _square
from tests.tiers import first

ORDER = {'linf': np.inf, 'l2': 2, 'l1': 1}
RNG = np.random.default_rng(11)
X = RNG.uniform(size=(6, 7, 6, 2)).astype('f')
W = RNG.normal(size=(84, 3)).astype('f')


def net(x):
  w = jnp.asarray(W, x.dtype)
  return x.reshape(x.shape[0], -1) @ w


Y = np.asarray(net(X).argmax(axis=1))


def attack(logits_fn=net, x=X, y=Y, **kw):
  kw = {'epsilon': 0.05, 'num_queries': 30, 'key': jax.random.key(0)} | kw
  key = kw.pop('key')
  run = lambda x, y: attacks.square(logits_fn, key, x, y, **kw)
  return jax.jit(run)(x, y)


def program(norm, **kw):
  return _square.Program(net, norm=norm, num_queries=5000, box=(0.0, 1.0), **kw)


def margin(x, y=Y):
  logits = np.array(net(x))
  own = logits[np.arange(len(y)), y].copy()
  logits[np.arange(len(y)), y] = -np.inf
  return own - logits.max(axis=1)


@pytest.mark.fast
def test_windows_shrink_by_the_published_schedule():
  sides = program('linf')._sides((1, 32, 32, 3))
  assert sides[:8, 0].tolist() == [29, 20, 14, 10, 7, 5, 4, 3]
  limits = program('linf')._limits(5000)
  assert limits.tolist()[:4] == [10, 50, 200, 500]
  stretched = program('linf', rescale=True)._limits(5000)
  assert stretched.tolist()[:4] == [5, 25, 100, 250]


@pytest.mark.fast
@pytest.mark.parametrize('norm', ['l2', 'l1'])
def test_a_bump_is_two_opposite_pyramids_of_unit_norm(norm):
  bump = _square._bump(7, 7, norm)
  np.testing.assert_allclose(
    np.linalg.norm(bump.ravel(), ORDER[norm]), 1, rtol=1e-12
  )
  assert (bump[:3] > 0).all()
  assert (bump[3:] < 0).all()
  assert bump.argmin() == 5 * 7 + 3  # The middle of the lower one.


@pytest.mark.parametrize('dtype', first(['float32', 'bfloat16'], 3))
@pytest.mark.parametrize('norm', first(ORDER))
def test_lowers_the_margin_within_ball_and_bounds(norm, dtype):
  x = jnp.asarray(X, dtype)
  epsilon = {'linf': 0.01, 'l2': 0.1, 'l1': 0.5}[norm]
  result = attack(x=x, norm=norm, epsilon=epsilon)
  assert result.best_inputs.dtype == dtype
  delta = np.asarray(result.best_inputs, float) - np.asarray(x, float)
  size = np.linalg.norm(delta.reshape(6, -1), ORDER[norm], axis=1)
  assert size.max() <= epsilon
  assert size.min() > 0.5 * epsilon
  assert float(result.best_inputs.min()) >= 0
  assert float(result.best_inputs.max()) <= 1
  if dtype == 'float32':
    assert margin(result.best_inputs).mean() < margin(X).mean()
    wrong = net(result.adv_inputs).argmax(axis=1) != Y
    np.testing.assert_array_equal(wrong, ~result.robust)


def test_more_queries_never_raise_the_margin():
  values = [
    margin(attack(num_queries=n, epsilon=0.01).best_inputs) for n in (0, 5, 50)
  ]
  assert (values[1] <= values[0]).all()
  assert (values[2] <= values[1]).all()
  assert (values[2] < values[0]).all()


@pytest.mark.full
def test_an_example_is_the_same_alone_and_in_any_batch():
  for norm in ('linf', 'l2'):
    whole = attack(norm=norm)
    alone = attack(norm=norm, x=X[[3]], y=Y[[3]], example_ids=np.array([3]))
    np.testing.assert_allclose(
      alone.best_inputs[0], whole.best_inputs[3], atol=1e-6
    )


def test_an_example_stops_once_broken():
  result = attack(epsilon=0.5, num_queries=60)
  assert not result.robust.any()
  assert (result.num_queries < 60).all()


@pytest.mark.parametrize('norm', first(ORDER))
@pytest.mark.parametrize('shape', [(84,), (12, 7), (3, 4, 7), (1, 1, 84)])
def test_inputs_of_any_shape_are_taken(shape, norm):
  x = X.reshape(6, *shape)
  result = attack(x=x, norm=norm, epsilon=0.3, num_queries=8)
  assert result.best_inputs.shape == x.shape
  assert np.isfinite(result.best_inputs).all()


def test_draws_cover_the_image_and_both_signs():
  seen = _square.Program(
    net, norm='linf', num_queries=1, box=(0.0, 1.0)
  )._window(jax.random.uniform(jax.random.key(1), (400, 2)), 6, (400, 7, 6, 2))
  share = np.asarray(seen, float).mean(axis=0)
  assert (share[:-1, :-1] > 0).all()
  # As in the authors' code, never at the last row and column.
  assert share[-1].max() == 0
  assert share[:, -1].max() == 0


def test_nan_logits_count_as_misclassified():
  result = attack(lambda x: net(x) * jnp.nan)
  assert not result.robust.any()
  assert np.isfinite(result.adv_inputs).all()


def test_wrong_arguments_are_named():
  for kwargs, error, words in (
    ({'norm': 'linfty'}, ValueError, 'norm must be one of'),
    ({'num_queries': -1}, ValueError, 'num_queries must be at least 0'),
    ({'init_share': 1.5}, ValueError, 'init_share must lie in'),
    ({'labels': Y + 3}, ValueError, 'labels must lie in 0..2'),
  ):
    args = {'inputs': X, 'labels': Y, 'epsilon': 0.1} | kwargs
    with pytest.raises(error, match=words):
      attacks.square(net, None, args.pop('inputs'), args.pop('labels'), **args)
