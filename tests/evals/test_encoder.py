"""Every row counts once, whatever the batch, the mesh and the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import evals, models
from tests.evals import toy


@pytest.mark.parametrize('batch_size', [7, 64, 203, 1000])
def test_predictions_do_not_depend_on_the_batch_size(batch_size):
  images = toy.source().images
  logits, features = toy.encoder(batch_size=batch_size).predict(images)
  want = toy.apply(toy.variables(), jnp.asarray(images))
  assert logits.shape == (203, 5)
  np.testing.assert_allclose(logits, want[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(features, want[1], rtol=1e-5, atol=1e-5)


def test_predictions_on_eight_devices_are_the_same(mesh):
  images = toy.source().images
  # 20 is rounded up to 24, three rows a device.
  logits, features = toy.encoder(batch_size=20, mesh=mesh).predict(images)
  want = toy.encoder().predict(images)
  np.testing.assert_allclose(logits, want[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(features, want[1], rtol=1e-5, atol=1e-5)


def test_batches_are_sharded_over_the_data_axis(mesh):
  seen = []

  def fn(variables, x):
    jax.debug.inspect_array_sharding(x, callback=seen.append)
    return x

  rows = np.arange(50, dtype=np.float32)
  found = toy.encoder(batch_size=16, mesh=mesh).map_batches(fn, rows)
  np.testing.assert_array_equal(found, rows)
  assert {s.shard_shape((16,)) for s in seen} == {(2,)}


def test_lazy_images_give_what_arrays_give():
  lazy, dense = toy.source(lazy=True), toy.source()
  encoder = toy.encoder(batch_size=64)
  np.testing.assert_array_equal(
    encoder.predict(lazy.images)[0], encoder.predict(dense.images)[0]
  )


def test_bytes_are_scaled_to_unit_interval():
  images = np.arange(4 * 36, dtype=np.uint8).reshape(4, *toy.SHAPE)
  encoder = toy.encoder()
  np.testing.assert_allclose(
    encoder.predict(images)[0],
    encoder.predict(images.astype(np.float32) / 255)[0],
    rtol=1e-5,
    atol=1e-6,
  )


def test_a_function_compiles_once_and_a_set_is_encoded_once():
  traces = []

  def apply(variables, images):
    traces.append(images.shape)
    return toy.apply(variables, images)

  encoder = evals.Encoder(apply, toy.variables(), batch_size=50)
  first, second = toy.source(0, 120), toy.source(1, 77)
  result = encoder.predict(first.images)
  encoder.predict(second.images)
  assert traces == [(50, *toy.SHAPE)]
  assert encoder.predict(first.images) is result
  trained_on = encoder.with_variables(toy.variables())
  assert trained_on.predict(first.images) is not result
  assert len(traces) == 1


@pytest.mark.fast
def test_rows_that_do_not_match_are_refused():
  encoder = toy.encoder()
  fn = lambda variables, x, y: x
  with pytest.raises(ValueError, match=r'rows of lengths \[3, 4\]'):
    encoder.map_batches(fn, np.zeros(3), np.zeros(4))
  with pytest.raises(ValueError, match='rows of lengths'):
    encoder.map_batches(fn, np.zeros(0), np.zeros(0))


def test_a_network_of_this_library_serves(key):
  model = models.make('mlp', num_classes=5, widths=(8,))
  params, state = models.init(model, key, toy.SHAPE)
  apply_fn = models.apply_fn(model)

  def apply(variables, images):
    (logits, out), _ = apply_fn(*variables, images, train=False)
    return logits, out['features']

  encoder = evals.Encoder(apply, (params, state), batch_size=64)
  logits, features = encoder.predict(toy.source().images)
  assert logits.shape == (203, 5)
  assert features.shape == (203, 8)


@pytest.mark.parametrize(
  ('apply', 'words'),
  [
    (lambda v, x: {'logits': x[:, 0, 0], 'probs': x[:, 0, 0]}, 'a dict of log'),
    (lambda v, x: x[:, 0, 0], r'one array of shape \(4, 1\)'),
    (lambda v, x: (x[:, 0, 0], x), r'2 values of shapes .*\(4, 2, 2, 1\)'),
    (lambda v, x: (x[:2, 0, 0], x[:2, 0, 0]), r'shapes \(2, 1\), \(2, 1\)'),
    (lambda v, x: (x[:, 0, 0],) * 3, '3 values'),
  ],
)
def test_a_network_that_returns_something_else_is_told_so(apply, words):
  encoder = evals.Encoder(apply, {}, batch_size=4)
  with pytest.raises(ValueError, match=f'apply must return.*{words}') as error:
    encoder.predict(np.zeros((4, 2, 2, 1), np.float32))
  assert '\n' not in str(error.value)


def test_a_logit_column_too_many_is_told():
  apply = lambda v, x: (jnp.zeros((len(x), 6)), x[:, 0, 0])
  data = evals.EvalData(toy.source(), toy.source())
  with pytest.raises(ValueError, match='6 columns, and there are 5 classes'):
    evals.run(
      evals.Encoder(apply, {}), data, {'accuracy': {}}, key=jax.random.key(0)
    )


def test_all_neighbours_that_there_are_is_what_the_protocol_says():
  source = toy.source().take(np.arange(12))
  task = evals.Task('small', source, source)
  found, _ = evals.run(
    toy.encoder(),
    evals.EvalData(source, source, (task,)),
    {'transfer': {'probes': ('knn',), 'k': 50}},
    key=jax.random.key(0),
  )
  said = found['transfer/small/knn_accuracy'].protocol
  assert '12 nearest neighbours' in said
  assert 'fewer than k=50' in said


def test_evaluations_that_are_repeated_compile_nothing_anew():
  data = toy.data()
  few = {'num_steps': 1, 'num_examples': 8}
  config = {
    'accuracy': {},
    'adversarial_probe': few | {'epochs': 1, 'num_train': 8},
    'pgd': few,
    'robust_probe': few | {'num_train': 8},
    'shift': {'num_examples': 8},
  }
  encoder, key = toy.encoder(batch_size=8), jax.random.key(0)
  counts = []
  for step in range(3):  # Of a network that goes on training.
    moved = jax.tree.map(lambda leaf, step=step: leaf + step, toy.variables())
    evals.run(encoder.with_variables(moved), data, config, key=key)
    counts.append(len(encoder._jitted))
  assert counts[0] == counts[1] == counts[2]
