"""AutoAttack finds what its authors' code finds, on the same weights.

``tests/golden/make_auto_attack.py`` says how the numbers were made.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks
from rrl_jax.attacks import _program, _square
from tests.tiers import first

GOLDEN = dict(
  np.load(
    pathlib.Path(__file__).parents[1] / 'golden' / 'auto_attack.npz',
    allow_pickle=False,
  )
)
X, Y, TARGET = GOLDEN['x'], GOLDEN['y'], GOLDEN['target']
ORDER = {'linf': np.inf, 'l2': 2, 'l1': 1}
# Where rounding decides whether a loss rose, a step is halved or not.
SAME_POINTS = {'linf': 1.0, 'l2': 0.75, 'l1': 1.0}


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def logits_fn(x):
  flat = x.reshape(x.shape[0], -1)
  return jnp.tanh(flat @ GOLDEN['w'].astype(x.dtype)) @ GOLDEN['v'].astype(
    x.dtype
  )


def gap(a, b):
  return np.abs(np.asarray(a) - b).reshape(len(b), -1).max(axis=1)


@pytest.mark.parametrize('loss', first(['ce', 'dlr', 'dlr-targeted']))
@pytest.mark.parametrize('norm', first(ORDER))
def test_apgd_finds_the_same(norm, loss):
  name = f'{norm}/apgd-{loss}'
  targeted = loss == 'dlr-targeted'
  result = jax.jit(
    functools.partial(
      attacks.apgd,
      logits_fn,
      None,
      epsilon=float(GOLDEN[f'{norm}/epsilon']),
      norm=norm,
      loss='dlr' if targeted else loss,
      targets=TARGET if targeted else None,
    )
  )(X, Y, init=GOLDEN[f'{norm}/init'])
  robust = GOLDEN[f'{name}/robust']
  np.testing.assert_array_equal(result.robust, robust)
  assert 0 < robust.sum() < len(robust)
  same = gap(result.best_inputs, GOLDEN[f'{name}/best']) < 1e-8
  assert same.mean() >= SAME_POINTS[norm]
  np.testing.assert_allclose(
    result.best_losses[same], GOLDEN[f'{name}/highest'][same], rtol=1e-6
  )
  if loss == 'ce':
    theirs = np.where(robust[:, None, None, None], X, GOLDEN[f'{name}/adv'])
    assert gap(result.adv_inputs, theirs).max() < 1e-8


@pytest.mark.parametrize('name', first(['fab', 'fab-t']))
@pytest.mark.parametrize('norm', first(ORDER))
def test_fab_finds_the_same(norm, name):
  epsilon = float(GOLDEN[f'{norm}/epsilon'])
  result = jax.jit(
    functools.partial(
      attacks.fab,
      logits_fn,
      None,
      epsilon=epsilon,
      norm=norm,
      targets=TARGET if name == 'fab-t' else None,
    )
  )(X, Y)
  theirs = GOLDEN[f'{norm}/{name}/adv']
  assert gap(result.best_inputs, theirs).max() < 1e-8
  sizes = np.linalg.norm((theirs - X).reshape(len(X), -1), ORDER[norm], axis=1)
  np.testing.assert_allclose(result.distances, sizes, atol=1e-10)
  broken = (np.argmax(logits_fn(theirs), axis=1) != Y) & (sizes <= epsilon)
  np.testing.assert_array_equal(result.robust, ~broken)


@pytest.mark.fast
@pytest.mark.parametrize('norm', first(ORDER))
def test_square_with_the_same_draws_finds_the_same(norm):
  draws = jnp.asarray(GOLDEN[f'{norm}/square/draws'], jnp.float64)
  count = len(draws)
  height, width, channels = X.shape[1:]
  # One draw a column and channel, or one a tile and one more a channel.
  start = (
    width * channels if norm == 'linf' else height * width * (1 + channels)
  )
  each = (2 if norm == 'linf' else 5) + channels

  def draw(keys, query, width):
    query = jnp.asarray(query)
    place = jnp.where(query < 0, 0, start + query * each)
    return jax.lax.dynamic_slice_in_dim(draws, place, width, 1)

  model, rows = _program.prepare(
    logits_fn,
    None,
    X[:count],
    Y[:count],
    None,
    epsilon=float(GOLDEN[f'{norm}/epsilon']),
    norm=norm,
    bounds=(0.0, 1.0),
    example_ids=None,
  )
  program = _square.Program(
    model, norm=norm, num_queries=60, box=(0.0, 1.0), draw=draw
  )
  state = jax.jit(lambda rows: _program.run(program, rows, None))(rows)
  assert gap(state.adv, GOLDEN[f'{norm}/square/best']).max() < 1e-8


@pytest.mark.parametrize('norm', first(ORDER))
def test_the_whole_leaves_the_same_examples_robust(norm):
  theirs = GOLDEN[f'{norm}/standard/robust']  # One row a seed.
  epsilon = float(GOLDEN[f'{norm}/epsilon'])
  result = attacks.auto_attack(
    logits_fn, jax.random.key(0), X, Y, epsilon=epsilon, norm=norm
  )
  sure = (theirs == theirs[0]).all(axis=0)
  np.testing.assert_array_equal(result.robust[sure], theirs[0][sure])
  counts = theirs.sum(axis=1)
  assert counts.min() <= result.robust.sum() <= counts.max()
  delta = (result.adv_inputs - X).reshape(len(X), -1)
  assert np.linalg.norm(delta, ORDER[norm], axis=1).max() <= epsilon
  wrong = np.argmax(logits_fn(result.adv_inputs), axis=1) != Y
  np.testing.assert_array_equal(wrong, ~result.robust)


@pytest.mark.full
@pytest.mark.parametrize('norm', first(['linf', 'l2']))
def test_robust_accuracy_falls_over_a_grid_of_radii(norm, key):
  """True of this model and key, not a law: a search may miss at any radius.

  In l1, where steps are sparse, single examples do come back.
  """
  scales = np.array([0, 0.5, 0.75, 1, 1.25, 1.5, 2, 3])
  grid = len(scales)
  kw = {'epsilon': np.repeat(float(GOLDEN[f'{norm}/epsilon']) * scales, len(X))}
  kw |= {'norm': norm, 'example_ids': np.tile(np.arange(len(X)), grid)}
  x, y = np.tile(X, (grid, 1, 1, 1)), np.tile(Y, grid)
  apgd = jax.jit(functools.partial(attacks.apgd, logits_fn, **kw))(key, x, y)
  ensemble = attacks.auto_attack(
    logits_fn, key, x, y, version='custom', attacks=['apgd-ce', 'square'],
    num_steps=20, num_queries=100, num_restarts=1, **kw,
  )  # fmt: skip
  for robust in (apgd.robust, ensemble.robust):
    flags = np.asarray(robust).reshape(grid, -1)
    assert flags[0].all()
    assert (flags[1:] <= flags[:-1]).all()
    assert flags[-1].sum() < 3
