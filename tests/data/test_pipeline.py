import dataclasses
import functools
import itertools

import numpy as np
from PIL import Image
import pytest

from rrl_jax.data import (
  abnormal,
  concepts,
  folder,
  mock,
  noise,
  pipeline,
  source,
)
from rrl_jax.errors import ConfigError, DataError


@pytest.fixture(scope='module')
def train():
  """100 examples in concepts of 60, 30 and 10."""
  splits = mock.load(num_examples=100, num_classes=10, image_shape=(2, 2, 1))
  return concepts.select(splits, concepts='a=0-5 b=6-8 c=9').train


def walk(batches, steps):
  return np.concatenate([batches[step] for step in range(steps)])


@pytest.mark.fast
@pytest.mark.parametrize('batch_size', [1, 8, 100, 150])
def test_every_epoch_is_another_permutation(train, batch_size):
  batches = pipeline.index_batches(train, batch_size=batch_size, seed=3)
  assert batches[0].shape == (batch_size,)
  assert batches[0].dtype == np.int64
  indices = walk(batches, -(-300 // batch_size))[:300].reshape(3, 100)
  for epoch in indices:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(100))
  assert not np.array_equal(indices[0], indices[1])
  assert not np.array_equal(indices[1], indices[2])


@pytest.mark.fast
def test_epochs_of_one_seed_are_not_those_of_the_next(train):
  orders = [
    tuple(indices)
    for seed in range(4)
    for indices in walk(
      pipeline.index_batches(train, batch_size=100, seed=seed), 4
    ).reshape(4, 100)
  ]
  assert len(set(orders)) == 16


@pytest.mark.fast
def test_orders_are_as_good_as_random(train):
  # Over many epochs each example stands equally often in each tenth.
  batches = pipeline.index_batches(train, batch_size=10, seed=0)
  counts = np.zeros((10, 100))
  for step in range(4000):
    counts[step % 10, batches[step]] += 1
  statistic = ((counts - 40) ** 2 / 40).sum()
  assert abs(statistic - 891) < 5 * np.sqrt(2 * 891)


@pytest.mark.fast
@pytest.mark.parametrize('batch_size', [2, 7, 9, 128])
def test_concept_balanced_batches_are_equal_within_one(train, batch_size):
  batches = pipeline.index_batches(
    train, batch_size=batch_size, seed=0, sampling='concept_balanced'
  )
  total = np.zeros(3)
  for step in range(60):
    counts = np.bincount(train.concepts[batches[step]], minlength=3)
    assert counts.max() - counts.min() <= 1
    total += counts
  np.testing.assert_allclose(
    total / total.sum(),
    pipeline.sampling_probs(train, 'concept_balanced'),
    atol=0.5 / total.sum() * 3,
  )


@pytest.mark.fast
def test_concept_balanced_uses_up_a_concept_before_repeating(train):
  batches = pipeline.index_batches(
    train, batch_size=30, seed=0, sampling='concept_balanced'
  )
  indices = walk(batches, 6)  # 180 examples: 60 of each concept.
  for concept, size in enumerate([60, 30, 10]):
    of_concept = indices[train.concepts[indices] == concept]
    rounds = of_concept.reshape(-1, size)
    for members in rounds:
      np.testing.assert_array_equal(
        np.sort(members), np.flatnonzero(train.concepts == concept)
      )
    assert len({tuple(members) for members in rounds}) == len(rounds)


@pytest.mark.fast
def test_concepts_that_share_a_batch_change():
  # More concepts than rows: no concept may be tied to another for good.
  train = mock.load(num_examples=200, num_classes=20).train
  batches = pipeline.index_batches(
    train, batch_size=5, seed=0, sampling='concept_balanced'
  )
  partners = {
    frozenset(pair)
    for step in range(400)
    for pair in itertools.combinations(train.concepts[batches[step]], 2)
  }
  assert len(partners) == 20 * 19 / 2


@pytest.mark.fast
def test_an_empty_concept_is_never_drawn():
  train = mock.load(num_examples=40, num_classes=4).train
  train = source.Source(train.images, train.labels % 2, 'abc')
  probs = pipeline.sampling_probs(train, 'concept_balanced')
  np.testing.assert_allclose(probs, [0.5, 0.5, 0])
  batches = pipeline.index_batches(
    train, batch_size=6, seed=0, sampling='concept_balanced'
  )
  np.testing.assert_array_equal(
    np.bincount(train.labels[walk(batches, 10)]), [30, 30]
  )


@pytest.mark.fast
def test_class_balanced_batches_hold_as_many_of_each_given_label(train):
  # Classes that lie across the concepts: 0.45, 0.55 of the examples.
  labels = np.arange(100) % 20 >= 9
  mixed = source.Source(
    train.images,
    labels.astype(int),
    'ab',
    concepts=train.concepts,
    concept_names='xyz',
  )
  batches = pipeline.index_batches(
    mixed, batch_size=10, seed=0, sampling='class_balanced'
  )
  for step in range(20):
    assert np.bincount(mixed.labels[batches[step]]).tolist() == [5, 5]
  shares = np.bincount(mixed.concepts[walk(batches, 500)], minlength=3) / 5000
  probs = pipeline.sampling_probs(mixed, 'class_balanced')
  np.testing.assert_allclose(probs, shares, atol=0.01)
  by = functools.partial(pipeline.class_probs, mixed)
  np.testing.assert_allclose(by('class_balanced'), [0.5, 0.5])
  np.testing.assert_allclose(by('uniform'), [0.45, 0.55])
  of_concept = [labels[mixed.concepts == k].mean() for k in range(3)]
  np.testing.assert_allclose(by('concept_balanced')[1], np.mean(of_concept))


@pytest.mark.fast
@pytest.mark.parametrize('sampling', ['class_balanced', 'concept_balanced'])
def test_a_batch_smaller_than_the_classes_has_one_of_each_at_most(sampling):
  """And all come round: 7 batches of 3 hold each of 7 classes three times."""
  train = mock.load(num_examples=70, num_classes=7).train
  batches = pipeline.index_batches(
    train, batch_size=3, seed=0, sampling=sampling
  )
  labels = train.labels[walk(batches, 14)].reshape(14, 3)
  assert all(len(set(row)) == 3 for row in labels.tolist())
  for block in (labels[:7], labels[7:]):
    np.testing.assert_array_equal(np.bincount(block.ravel()), [3] * 7)


@pytest.mark.fast
def test_uniform_probabilities_are_the_shares(train):
  np.testing.assert_allclose(
    pipeline.sampling_probs(train, 'uniform'), [0.6, 0.3, 0.1]
  )


@pytest.mark.parametrize('sampling', pipeline.SAMPLING)
@pytest.mark.parametrize('num_threads', [0, 3])
def test_any_number_of_processes_reads_the_same_batches(
  train, sampling, num_threads
):
  def read(process_count):
    streams = [
      pipeline.stream(
        train,
        pipeline.index_batches(train, batch_size=12, seed=5, sampling=sampling),
        start=0,
        stop=20,
        rows=rows,
        num_threads=num_threads,
      )
      for rows in np.split(np.arange(12), process_count)
    ]
    return [
      {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
      for parts in zip(*streams, strict=True)
    ]

  alone = read(1)
  assert len(alone) == 20
  for process_count in (2, 4):
    for one, several in zip(alone, read(process_count), strict=True):
      for key in one:
        np.testing.assert_array_equal(one[key], several[key])


@pytest.mark.fast
@pytest.mark.parametrize('sampling', pipeline.SAMPLING)
def test_resuming_at_a_step_gives_the_tail(train, sampling):
  def read(start):
    batches = pipeline.index_batches(
      train, batch_size=16, seed=1, sampling=sampling
    )
    stream = pipeline.stream(train, batches, start=start, stop=30)
    return [batch['index'] for batch in stream]

  whole = read(0)
  for start in (1, 6, 29):
    np.testing.assert_array_equal(read(start), whole[start:])
  assert read(30) == []


@pytest.mark.fast
def test_a_batch_holds_the_rows_its_index_names(train):
  batches = pipeline.index_batches(train, batch_size=8, seed=0)
  for batch in pipeline.stream(train, batches, start=0, stop=5):
    index = batch['index']
    np.testing.assert_array_equal(batch['image'], train.images[index])
    np.testing.assert_array_equal(batch['label'], train.labels[index])
    np.testing.assert_array_equal(batch['concept'], train.concepts[index])
    assert {batch[k].dtype for k in ('index', 'label', 'concept')} == {
      np.dtype(np.int32)
    }


@pytest.mark.fast
def test_images_are_left_out_on_demand(train):
  batches = pipeline.index_batches(train, batch_size=8, seed=0)
  stream = pipeline.stream(train, batches, start=2, stop=3, images=False)
  (batch,) = stream
  assert set(batch) == {'label', 'concept', 'index'}
  np.testing.assert_array_equal(batch['index'], batches[2])


@pytest.mark.fast
def test_a_stream_may_be_left_before_its_end(train):
  batches = pipeline.index_batches(train, batch_size=8, seed=0)
  stream = pipeline.stream(train, batches, start=0, stop=10**9)
  np.testing.assert_array_equal(next(stream)['index'], batches[0])
  np.testing.assert_array_equal(batches[10**9].shape, (8,))


@pytest.mark.fast
def test_steps_far_away_are_found_at_once(train):
  for sampling in pipeline.SAMPLING:
    batches = pipeline.index_batches(
      train, batch_size=8, seed=0, sampling=sampling
    )
    np.testing.assert_array_equal(batches[10**12], batches[10**12])
    assert set(batches[10**12]) <= set(range(100))


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'message'),
  [
    ({'batch_size': 0}, 'batch_size=0'),
    ({'seed': -1}, 'seed=-1'),
    ({'sampling': 'fair'}, "'fair': known are uniform, concept_balanced"),
  ],
)
def test_settings_out_of_range_are_told(train, kw, message):
  with pytest.raises(ConfigError, match=message):
    pipeline.index_batches(train, **({'batch_size': 4, 'seed': 0} | kw))


@pytest.mark.fast
def test_an_empty_set_is_told(train):
  with pytest.raises(DataError, match='empty'):
    pipeline.index_batches(train.take([]), batch_size=2, seed=0)


@pytest.mark.fast
def test_an_image_that_turns_out_broken_is_named(tmp_path):
  for name in ('a', 'b'):
    for i in range(5):
      file = tmp_path / name / f'{i}.png'
      file.parent.mkdir(exist_ok=True)
      noise = np.random.default_rng(i).integers(0, 256, (16, 16), np.uint8)
      Image.fromarray(noise).save(file)
  broken = tmp_path / 'a' / '2.png'
  broken.write_bytes(broken.read_bytes()[:120])  # The header is whole.
  train = folder.load(path=str(tmp_path), in_memory=False).train
  if not any('2.png' in str(f) for f in train.images.images.files):
    pytest.fail('the broken file must be among the files')
  everything = source.Source(
    train.images.images, np.zeros(10, int), ('a',)
  )  # The held-out files too.
  batches = pipeline.index_batches(everything, batch_size=10, seed=0)
  for num_threads in (0, 2):
    with pytest.raises(DataError, match=r'a/2.png cannot be decoded'):
      next(
        pipeline.stream(
          everything, batches, start=0, stop=2, num_threads=num_threads
        )
      )


@pytest.mark.fast
@pytest.mark.parametrize('sampling', pipeline.SAMPLING)
@pytest.mark.parametrize('grouped', [False, True])
def test_batches_hold_nothing_of_the_truth(sampling, grouped):
  # Of 8 examples each of 16 classes, every label is wrong.
  clean = mock.load(num_examples=128, num_classes=16).train
  damaged = abnormal.add(clean, kind='noise', rate=0.25, seed=0)
  damaged = noise.flip(damaged, kind='symmetric', rate=1, seed=0)
  if grouped:  # Concepts that have nothing to do with the labels.
    damaged = dataclasses.replace(
      damaged, concepts=np.arange(128) % 2, concept_names=('a', 'b')
    )
  lies = source.Truth(
    damaged.labels, np.zeros(128, bool), np.roll(damaged.truth.abnormal, 1)
  )

  def read(truth):
    train = dataclasses.replace(damaged, truth=truth)
    batches = pipeline.index_batches(
      train, batch_size=32, seed=0, sampling=sampling
    )
    return list(pipeline.stream(train, batches, start=0, stop=8))

  batches = read(damaged.truth)
  for other in (read(None), read(lies)):
    for batch, same in zip(batches, other, strict=True):
      assert set(batch) == set(same) == {'image', 'label', 'concept', 'index'}
      for name in batch:
        np.testing.assert_array_equal(batch[name], same[name])
  for batch in batches:
    truth = damaged.truth.take(batch['index'])
    for name in ('label', 'concept', 'index'):
      for field in (truth.labels, truth.flipped, truth.abnormal):
        assert not np.array_equal(batch[name], field)
    if not grouped:
      np.testing.assert_array_equal(batch['concept'], batch['label'])
      wrong = batch['concept'][truth.flipped] != truth.labels[truth.flipped]
      assert wrong.all()


@pytest.mark.fast
def test_balanced_batches_of_classes_balance_given_labels():
  clean = mock.load(num_examples=100, num_classes=2).train
  noisy = noise.flip(
    clean, kind='asymmetric', rate=0.5, seed=0, mapping='0>1'
  )  # 25 and 75 given.
  batches = pipeline.index_batches(
    noisy, batch_size=10, seed=0, sampling='concept_balanced'
  )
  indices = walk(batches, 5)
  np.testing.assert_array_equal(np.bincount(noisy.labels[indices]), [25, 25])
  assert np.bincount(noisy.truth.labels[indices])[0] > 25


@pytest.mark.fast
def test_lazy_images_of_no_class_are_streamed():
  clean = mock.load(num_examples=40).train
  images = dataclasses.replace(
    clean, images=source.take_images(_Lazy(clean.images), np.arange(40))
  )
  eager = abnormal.add(clean, kind='blend', rate=0.5, seed=0)
  lazy = abnormal.add(images, kind='blend', rate=0.5, seed=0)
  assert not isinstance(lazy.images, np.ndarray)
  batches = pipeline.index_batches(lazy, batch_size=16, seed=0)
  for batch in pipeline.stream(lazy, batches, start=0, stop=5):
    np.testing.assert_array_equal(batch['image'], eager.images[batch['index']])


class _Lazy(source.LazyImages):
  def __init__(self, images):
    self.images, self.shape, self.dtype = images, images.shape, images.dtype

  def read(self, indices):
    return self.images[indices]
