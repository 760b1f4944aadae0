"""AutoAttack: batches, devices, kills and few classes change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import attacks
from rrl_jax.attacks import _auto_attack
from tests.tiers import first

ORDER = {'linf': np.inf, 'l2': 2, 'l1': 1}
RNG = np.random.default_rng(13)
W = RNG.normal(size=(18, 10)).astype('f') / 2
V = RNG.normal(size=(10, 5)).astype('f')
X = RNG.uniform(size=(20, 3, 3, 2)).astype('f')
SHORT = {'num_steps': 6, 'num_queries': 8, 'num_targets': 2}


def net(x, num_classes=5):
  w, v = (jnp.asarray(a, x.dtype) for a in (W, V[:, :num_classes]))
  return jnp.tanh(x.reshape(x.shape[0], -1) @ w) @ v


Y = np.array(net(X).argmax(axis=1))
Y[3] = (Y[3] + 1) % 5  # One is misclassified from the start.


def evaluate(logits_fn=net, x=X, y=Y, **kw):
  kw = {'epsilon': 0.06, 'key': jax.random.key(0)} | SHORT | kw
  return attacks.auto_attack(logits_fn, kw.pop('key'), x, y, **kw)


def same(a, b, atol=1e-8):
  np.testing.assert_array_equal(a.robust, b.robust)
  np.testing.assert_allclose(
    np.asarray(a.adv_inputs, float), np.asarray(b.adv_inputs, float), atol=atol
  )
  assert list(a.by_attack) == list(b.by_attack)
  for name, flags in a.by_attack.items():
    np.testing.assert_array_equal(flags, b.by_attack[name])


@pytest.mark.full
def test_batch_size_and_device_count_change_nothing(mesh):
  with jax.enable_x64(True):
    x = X.astype(float)
    whole = evaluate(x=x, batch_size=64)
    assert 0 < whole.robust.sum() < 19
    for size in (1, 7):
      same(evaluate(x=x, batch_size=size), whole)
    same(evaluate(x=x, batch_size=64, mesh=mesh), whole)


@pytest.mark.full
def test_a_part_of_the_set_gives_the_same():
  with jax.enable_x64(True):
    x = X.astype(float)
    kw = {'version': 'custom', 'attacks': ['apgd-ce', 'square']}
    whole = evaluate(x=x, num_restarts=2, **kw)
    part = np.array([11, 3, 5])
    alone = evaluate(
      x=x[part], y=Y[part], example_ids=part, num_restarts=2, **kw
    )
    np.testing.assert_array_equal(alone.robust, whole.robust[part])
    np.testing.assert_allclose(
      alone.adv_inputs, whole.adv_inputs[part], atol=1e-8
    )


@pytest.mark.parametrize('norm', first(['linf', 'l1']))
def test_what_it_returns_hangs_together(norm):
  epsilon = {'linf': 0.06, 'l2': 0.3, 'l1': 0.9}[norm]
  x = jnp.asarray(X, jnp.bfloat16)
  y = np.asarray(net(x).argmax(axis=1))
  result = evaluate(x=x, y=y, norm=norm, epsilon=epsilon)
  assert result.adv_inputs.dtype == jnp.bfloat16
  points = np.asarray(result.adv_inputs, float)
  delta = (points - np.asarray(x, float)).reshape(20, -1)
  assert np.linalg.norm(delta, ORDER[norm], axis=1).max() <= epsilon
  assert points.min() >= 0
  assert points.max() <= 1
  assert (delta[result.robust] == 0).all()
  assert (np.abs(delta[~result.robust]).max(axis=1) > 0).all()
  names = ['clean', 'apgd-ce', 'apgd-t', 'fab-t', 'square']
  assert list(result.by_attack) == names
  flags = np.stack(list(result.by_attack.values()))
  assert (flags[1:] <= flags[:-1]).all()
  np.testing.assert_array_equal(flags[-1], result.robust)
  assert 0 < result.robust.sum() < 20


def test_each_attack_breaks_what_its_function_breaks(key):
  for name, number in (('apgd-ce', 0), ('square', 5)):
    whole = evaluate(version='custom', attacks=[name], num_restarts=1)
    args = (net, jax.random.fold_in(key, number), X, Y)
    if name == 'square':
      core = attacks.square(*args, epsilon=0.06, num_queries=8)
    else:
      core = attacks.apgd(*args, epsilon=0.06, num_steps=6)
    np.testing.assert_array_equal(core.robust, whole.robust)


@pytest.mark.full
def test_a_model_that_cannot_be_moved_is_robust():
  constant = lambda x: 0 * net(x) + jnp.arange(5.0)[None]
  result = evaluate(constant, y=np.full(20, 4))
  assert result.robust.all()
  np.testing.assert_array_equal(result.adv_inputs, X)
  assert any('zero gradients' in note for note in result.notes)


class Stop(Exception):
  pass


def stop_after(count):
  calls = []

  def progress(state):
    calls.append(state)
    if len(calls) == count:
      raise Stop

  return progress


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
  path = tmp_path / 'state.npz'
  x = jnp.asarray(X, jnp.bfloat16)
  kw = {
    'x': x,
    'version': 'custom',
    'attacks': ['apgd-ce', 'square'],
    'num_restarts': 1,
    'batch_size': 8,
  }
  whole = evaluate(**kw)
  for count in (1, 2, 1):  # Killed three times.
    with pytest.raises(Stop):
      evaluate(
        state_path=path, save_seconds=0, progress=stop_after(count), **kw
      )
  seen = []
  resumed = evaluate(state_path=path, progress=seen.append, **kw)
  same(resumed, whole, atol=0)
  assert seen[0].attack == 'square'
  assert [p.name for p in tmp_path.iterdir()] == ['state.npz']
  seen.clear()
  same(evaluate(state_path=path, progress=seen.append, **kw), whole, atol=0)
  assert not seen  # Nothing was left to do.


@pytest.mark.full
@pytest.mark.parametrize(
  ('kw', 'calls'),
  first(
    [
      ({'attacks': ['square'], 'num_queries': 180}, 4),
      ({'attacks': ['apgd-ce'], 'num_steps': 25}, 3),
      (
        {'version': 'standard', 'norm': 'l1', 'epsilon': 0.5, 'num_steps': 20},
        3,
      ),
    ]
  ),
)
def test_killed_within_a_batch_it_goes_on_from_there(
  tmp_path, monkeypatch, kw, calls
):
  monkeypatch.setitem(_auto_attack.VERSIONS, 'standard', ('apgd-ce',))
  monkeypatch.setitem(SHORT, 'num_restarts', 1)
  kw = {'version': 'custom', 'epsilon': 0.04, 'attacks': None} | kw
  seen = []
  whole = evaluate(progress=seen.append, **kw)
  assert 0 < whole.robust.sum() < 19
  assert len(seen) == calls
  kw |= {'state_path': tmp_path / 'state.npz', 'save_seconds': 0}
  with pytest.raises(Stop):
    evaluate(progress=stop_after(2), **kw)
  stored = kw['state_path'].read_bytes()
  seen.clear()
  same(evaluate(progress=seen.append, **kw), whole, atol=0)
  assert len(seen) == calls - 2
  if kw['attacks'] == ['square']:  # Batches of another size start again.
    kw['state_path'].write_bytes(stored)
    same(evaluate(**(kw | {'batch_size': 16})), whole, atol=1e-5)


def test_a_state_belongs_to_the_arrays_of_its_model(tmp_path):
  kw = {'version': 'custom', 'attacks': ['square']}
  kw |= {'state_path': tmp_path / 'state.npz', 'params': {'w': W, 'v': V}}
  same(evaluate(**kw), evaluate(**kw))
  moved = np.nextafter(W, np.float32(9))
  with pytest.raises(ValueError, match='differs in params;'):
    evaluate(**(kw | {'params': {'w': moved, 'v': V}}))


def test_a_model_that_looks_at_its_batch_is_noted():
  def batch_norm(x):
    flat = x.reshape(len(x), -1)
    flat = flat - flat.mean(axis=0, keepdims=True)
    return net((flat / 9 + 0.5).reshape(x.shape))

  kw = {'version': 'custom', 'attacks': ['square'], 'batch_size': 8}
  (note,) = evaluate(logits_fn=batch_norm, **kw).notes
  assert 'depend on the rest of its batch' in note
  assert note.count('accuracy') == 1
  assert evaluate(**kw).notes == ()


def test_a_constant_output_is_not_taken_for_probabilities():
  constant = lambda x: jnp.tile(jnp.eye(5)[0], (len(x), 1)) + 0 * net(x)
  kw = {'version': 'custom', 'attacks': ['square']}
  assert evaluate(logits_fn=constant, **kw).notes == ()
  halves = lambda x: jax.nn.softmax(net(x).astype(jnp.float16))
  (note,) = evaluate(logits_fn=halves, **kw).notes
  assert 'probabilities' in note


def test_progress_true_tells_where_it_stands(capsys):
  kw = {'version': 'custom', 'attacks': ['apgd-ce'], 'num_restarts': 1}
  result = evaluate(progress=True, **kw)
  line = f'apgd-ce  run 1/1  robust {result.robust.sum()}/20  0 s left\n'
  assert capsys.readouterr().out == line


def test_a_state_of_other_settings_is_refused(tmp_path):
  path = tmp_path / 'state.npz'
  kw = {'version': 'custom', 'attacks': ['square'], 'state_path': path}
  evaluate(**kw)
  for change, words in (
    ({'epsilon': 0.07}, 'epsilon'),
    ({'norm': 'l2', 'num_queries': 9}, 'norm, num_queries'),
    ({'x': X[:, ::-1]}, 'inputs'),
    ({'key': jax.random.key(1)}, 'key'),
    ({'logits_fn': lambda x: 2 * net(x)}, 'the model'),
    # Another step of the same run: one example, and by little.
    (
      {'logits_fn': lambda x: net(x) + 0.01 * (x[:, :1, 0, 0] > 0.9)},
      'the model',
    ),
    ({'params': {'w': W}}, 'params'),
  ):
    with pytest.raises(ValueError, match=f'differs in {words};') as caught:
      evaluate(**(kw | change))
    assert '\n' not in str(caught.value)
  path.write_bytes(b'PK garbage')
  with pytest.raises(ValueError, match='not a readable evaluation state'):
    evaluate(**kw)


@pytest.mark.parametrize('num_classes', first([2, 3, 4]))
def test_few_classes_are_no_obstacle(num_classes):
  logits_fn = lambda x: net(x, num_classes)
  y = np.asarray(logits_fn(X).argmax(axis=1))
  result = evaluate(
    logits_fn, y=y, num_targets=None, version='custom',
    attacks=['apgd-dlr', 'apgd-t', 'fab-t'], num_restarts=1,
  )  # fmt: skip
  assert 0 < result.robust.sum() < 20
  words = ' '.join(result.notes)
  assert f'apgd-t has {num_classes - 1} targets' in words
  assert ('apgd-t raises the difference of logits' in words) == (
    num_classes < 4
  )
  assert ('apgd-dlr raises' in words) == (num_classes < 3)


@pytest.mark.full
def test_versions_list_the_published_attacks():
  seen = []
  evaluate(
    x=X[:2], y=Y[:2], epsilon=0.0, version='plus', num_steps=1, num_queries=1,
    num_targets=None, num_restarts=None, progress=seen.append,
  )  # fmt: skip
  counts = {}
  for state in seen:
    counts[state.attack] = counts.get(state.attack, 0) + 1
  assert counts == {
    'apgd-ce': 5, 'apgd-dlr': 5, 'fab': 5, 'square': 1, 'apgd-t': 4,
    'fab-t': 4,
  }  # fmt: skip
  assert [s.run for s in seen] == list(range(1, 25))
  assert all(s.seconds_left >= 0 for s in seen)
  assert seen[-1].seconds_left == 0


@pytest.mark.full
def test_a_randomised_model_gets_keys_and_is_asked_again(key):
  noisy = lambda x, keys: (
    net(x) + 0.1 * jax.vmap(lambda k: jax.random.normal(k, (5,)))(keys)
  )
  result = evaluate(noisy, version='rand', num_samples=3)
  assert list(result.by_attack) == ['clean', 'apgd-ce', 'apgd-dlr']
  assert 0 < result.robust.sum() < 20
  assert not result.notes
  plain = evaluate(noisy, version='custom', attacks=['square'])
  assert "version='rand'" in plain.notes[0]


@pytest.mark.full
def test_a_convolution_is_stepped_from_the_host_with_the_same_flags():
  kernel = jnp.eye(2)[None, None]

  def convolved(x):
    return net(
      jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
    )

  kw = {'version': 'custom', 'attacks': ['apgd-ce', 'square']}
  same(evaluate(convolved, **kw), evaluate(**kw), atol=1e-5)


def test_signs_of_a_wrong_figure_are_noted():
  result = evaluate(
    lambda x: jax.nn.softmax(net(x)), version='custom', attacks=['apgd-ce'],
    num_restarts=1,
  )  # fmt: skip
  assert any('probabilities' in note for note in result.notes)
  # A staircase hides its gradient from all but the search.
  stairs = lambda x: jnp.round(20 * net(x)) / 20
  result = evaluate(
    stairs,
    num_queries=40,
    version='custom',
    attacks=['apgd-ce', 'square'],
    num_restarts=1,
  )
  gain = (result.by_attack['apgd-ce'] & ~result.by_attack['square']).mean()
  said = f'square broke {gain:.1%} of the examples that the attacks before it'
  assert any(said in note for note in result.notes)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('robust', 'noted'),
  [
    # Of ten, square breaks three that are left by the attack before it.
    ({'clean': 10, 'fab': 8, 'square': 5, 'fab-t': 1}, '30.0%'),
    ({'clean': 10, 'fab': 8, 'fab-t': 5, 'square': 5}, ''),
    ({'clean': 10, 'square': 5, 'fab': 5}, ''),  # None is before it.
    ({'clean': 10, 'fab': 5}, ''),
  ],
)
def test_square_is_compared_with_the_attacks_before_it(robust, noted):
  evaluation = object.__new__(_auto_attack._Evaluation)
  evaluation.inputs, evaluation.notes = np.zeros((10, 1)), []
  evaluation._look_at_square(
    {name: np.arange(10) < number for name, number in robust.items()}
  )
  assert len(evaluation.notes) == bool(noted)
  assert all(f'square broke {noted}' in note for note in evaluation.notes)


def test_wrong_arguments_are_named():
  for kwargs, error, words in (
    ({'version': 'fast'}, ValueError, 'version must be one of'),
    ({'attacks': ['fab']}, ValueError, "attacks goes with version='custom'"),
    ({'version': 'custom'}, ValueError, "version='custom' needs attacks"),
    ({'version': 'custom', 'attacks': ['cw']}, ValueError, "got 'cw'"),
    ({'norm': 'inf'}, ValueError, 'norm must be one of'),
    ({'epsilon': -1.0}, ValueError, 'epsilon must be non-negative'),
    ({'epsilon': np.ones(3)}, ValueError, 'epsilon must be a scalar or'),
    ({'batch_size': 0}, ValueError, 'batch_size must be at least 1'),
    ({'x': 255 * X}, ValueError, 'normalisation belongs inside the model'),
    ({'x': X.astype(int)}, TypeError, 'floating'),
    ({'y': Y[:4]}, ValueError, 'labels must have shape'),
    ({'y': Y + 1}, ValueError, 'labels must lie in 0..4'),
    ({'logits_fn': lambda x: net(x)[0]}, ValueError, 'logits_fn must return'),
  ):
    with pytest.raises(error, match=words) as caught:
      evaluate(**kwargs)
    assert '\n' not in str(caught.value)
  with pytest.raises(TypeError, match='call it outside jit'):
    jax.jit(lambda x: evaluate(x=x).robust)(X)
