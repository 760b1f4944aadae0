"""What is measured of coarse labels and of groups."""

import dataclasses

import jax
import numpy as np
import pytest

from rrl_jax import errors, evals
from rrl_jax.data import groups as groups_lib
from rrl_jax.data.source import Source, Splits, Truth
from rrl_jax.evals import groups, last_layer, measurement
from tests.evals import toy


def coarsened(split):
  """The toy's five classes as two: a, b against c, d, e."""
  return dataclasses.replace(
    split,
    labels=split.labels // 2 > 0,
    class_names=('low', 'high'),
    fine_labels=split.labels,
    fine_names=split.class_names,
    concepts=None,
  )


def grouped(split, attributes):
  return dataclasses.replace(
    split,
    groups=split.labels * 2 + attributes,
    group_names=tuple(f'{c}:{a}' for c in 'abcde' for a in 'xy'),
  )


@pytest.fixture(scope='module')
def encoder():
  return toy.encoder(batch_size=64)


@pytest.fixture(scope='module')
def splits():
  return toy.source(1, 400), toy.source(2)


@pytest.fixture(scope='module')
def with_groups(splits):
  """Attribute y is rare in training and the second half of the test split."""
  train, test = splits
  return evals.EvalData(
    grouped(train, np.arange(400) % 10 == 0),
    grouped(test, np.arange(203) > 100),
  )


def run(encoder, data, **config):
  return evals.run(encoder, data, config, key=jax.random.key(0))


def right_of(encoder, source):
  return np.argmax(encoder.predict(source.images)[0], axis=-1) == source.labels


def test_groups_are_counted_one_by_one(encoder, with_groups):
  found, figures = run(encoder, with_groups, groups={})
  test = with_groups.test
  right = right_of(encoder, test)
  each = [right[test.groups == k].mean() for k in range(10)]
  for k, name in enumerate(test.group_names):
    assert found[f'groups/accuracy/{name}'].value == pytest.approx(each[k])
  worst = found['groups/worst_accuracy']
  assert worst.value == pytest.approx(min(each))
  assert worst.low <= worst.value <= worst.high
  assert f'true group {test.group_names[np.argmin(each)]} ' in worst.protocol
  assert f'{test.group_counts[np.argmin(each)]} test' in worst.protocol
  assert 'selected by: no group label' in worst.protocol
  assert found['groups/average_accuracy'].value == pytest.approx(right.mean())
  mix = with_groups.train.group_counts / 400
  assert found['groups/reweighted_accuracy'].value == pytest.approx(mix @ each)
  assert figures['figure/group_test_counts'].sum() == 203


def test_equal_mixes_make_both_averages_equal():
  """With one mix in both splits, re-weighting changes nothing."""
  split = grouped(toy.source(2), np.arange(203) % 2)
  right = np.arange(203) % 3 > 0
  found = dict(groups.measure(right, split, split, 'x'))
  assert found['groups/average_accuracy'].value == pytest.approx(
    found['groups/reweighted_accuracy'].value
  )


def test_the_worst_of_many_groups_is_less_sure_than_that_group_alone(
  encoder, with_groups
):
  """Looking for the worst is paid for."""
  found, _ = run(encoder, with_groups, groups={})
  worst = found['groups/worst_accuracy']
  alone = min(
    (m for n, m in found.items() if n.startswith('groups/accuracy/')),
    key=lambda m: m.value,
  )
  assert worst.low < alone.low
  assert worst.value == alone.value


def test_a_group_that_is_empty_in_the_test_split_is_left_out_and_named(
  encoder, with_groups
):
  test = with_groups.test
  test = test.take(np.flatnonzero((test.groups != 3) & (test.groups != 8)))
  found, _ = run(encoder, evals.EvalData(with_groups.train, test), groups={})
  assert 'groups/accuracy/b:y' not in found
  for name in ('worst', 'reweighted'):
    protocol = found[f'groups/{name}_accuracy'].protocol
    assert 'without a test example: b:y, e:x' in protocol
  there = test.group_counts > 0
  mix = with_groups.train.group_counts[there]
  right = right_of(encoder, test)
  each = [right[test.groups == k].mean() for k in np.flatnonzero(there)]
  assert found['groups/reweighted_accuracy'].value == pytest.approx(
    mix @ each / mix.sum()
  )


def test_a_group_that_is_empty_in_training_weighs_nothing(encoder, with_groups):
  train = with_groups.train
  train = train.take(np.flatnonzero(train.groups % 2 == 0))
  found, _ = run(encoder, evals.EvalData(train, with_groups.test), groups={})
  assert ', 0 training images' in found['groups/accuracy/a:y'].protocol
  test = with_groups.test
  right = right_of(encoder, test)
  each = [right[test.groups == k].mean() for k in range(0, 10, 2)]
  mix = train.group_counts[::2] / len(train)
  assert found['groups/reweighted_accuracy'].value == pytest.approx(mix @ each)


def test_fine_classes_are_probed_on_frozen_features(encoder, splits):
  """The probe equals the transfer task with the fine labels."""
  train, test = splits[0].take(np.arange(48)), splits[1]
  data = evals.EvalData(
    coarsened(train), coarsened(test), tasks=(evals.Task('t', train, test),)
  )
  found, _ = run(
    encoder,
    data,
    coarse_to_fine={'num_train': 0},
    transfer={'num_train': 0, 'probes': ('linear_probe', 'knn')},
  )
  for probe in ('linear_probe', 'knn'):
    ours = found[f'coarse_to_fine/{probe}_accuracy']
    assert ours.value == found[f'transfer/t/{probe}_accuracy'].value
    assert ours.low < ours.value < ours.high
  assert 'fine labels (5 classes in 2)' in ours.protocol.lower()
  within = found['coarse_to_fine/linear_probe_within_accuracy'].value
  assert found['coarse_to_fine/linear_probe_accuracy'].value <= within < 1
  assert found['coarse_to_fine/linear_probe_worst_accuracy'].value < within
  counts = np.bincount(test.labels)
  assert found['coarse_to_fine/collapsed_accuracy'].value == pytest.approx(
    (counts[:2].max() + counts[2:].max()) / 203
  )


def test_features_of_the_coarse_class_alone_do_no_better_than_collapse(splits):
  """An encoder that knows nothing else gets at most what is said of it."""
  train, test = (coarsened(split) for split in splits)
  parents = {split.images.tobytes(): split for split in (train, test)}

  class Collapsed:  # Twelve features, as the toy has: one compiled probe.
    def predict(self, images):
      labels = parents[images.tobytes()].labels
      return np.eye(2)[labels], np.eye(12, dtype=np.float32)[labels]

  few = {'num_train': 48}
  data = evals.EvalData(train, test)
  found, _ = run(Collapsed(), data, coarse_to_fine=few)
  best = found['coarse_to_fine/collapsed_accuracy'].value
  for probe in ('linear_probe', 'linear_probe_within', 'knn'):
    assert found[f'coarse_to_fine/{probe}_accuracy'].value <= best


def test_a_coarse_class_with_one_fine_class_is_right_within_it(encoder, splits):
  def one(split):
    return dataclasses.replace(
      coarsened(split), labels=split.labels > 0, class_names=('a', 'rest')
    )

  train, test = (one(split) for split in splits)
  test = test.take(np.flatnonzero(test.fine_labels == 0))
  few = {'num_train': 48}
  found, _ = run(encoder, evals.EvalData(train, test), coarse_to_fine=few)
  assert found['coarse_to_fine/linear_probe_within_accuracy'].value == 1
  assert found['coarse_to_fine/collapsed_accuracy'].value == 1


def test_images_of_no_class_do_not_train_the_probe(encoder, splits):
  train, test = toy.source(1, 60), coarsened(splits[1])
  bad = np.arange(60) % 5 == 0
  images = train.images.copy()
  images[bad] = 0.5  # All alike, with labels that follow nothing.
  train = coarsened(dataclasses.replace(train, images=images))
  damaged = dataclasses.replace(
    train, truth=Truth(train.labels, np.zeros(60, bool), bad)
  )
  config = {'coarse_to_fine': {'num_train': 0}}
  found = run(encoder, evals.EvalData(damaged, test), **config)[0]
  left = train.take(np.flatnonzero(~bad))
  alone = run(encoder, evals.EvalData(left, test), **config)[0]
  assert found == alone
  name = 'coarse_to_fine/linear_probe_accuracy'
  assert '48 training images' in found[name].protocol


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('groups', 'evals.groups needs groups: set data.groups.kind'),
    ('last_layer', 'evals.last_layer needs groups: set data.groups.kind'),
    ('coarse_to_fine', 'evals.coarse_to_fine needs coarse labels: set'),
  ],
)
def test_data_without_them_are_refused_in_one_line(
  encoder, splits, name, message
):
  with pytest.raises(errors.ConfigError, match=message) as error:
    run(encoder, evals.EvalData(*splits), **{name: {}})
  assert '\n' not in str(error.value)
  with pytest.raises(errors.ConfigError, match=message):
    evals.check_data([name], splits[0])
  evals.check_data(['accuracy'], splits[0])


class Shortcut:
  """Features: the attribute, loudly, and the class, softly; logits read both.

  Its logits follow the attribute alone, as a network does that learned the
  shortcut.
  """

  def __init__(self, seed=0):
    self.seed = seed

  def predict(self, images):
    rng = np.random.default_rng(self.seed)
    label, attribute = images[:, 0, 0, 0], images[:, 0, 0, 1]
    noise = rng.normal(0, 0.3, (len(images), 2))
    features = np.stack([3.0 * attribute, 1.0 * label], axis=1) + noise
    return np.eye(2)[attribute.astype(int)], features.astype(np.float32)


def shortcut_data():
  """900 of 1000 agree in training, half of 400 in the test split."""

  def split(counts):
    groups = np.repeat(np.arange(4), counts)
    labels, attributes = np.divmod(groups, 2)
    images = np.zeros((len(groups), 1, 1, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = labels, attributes
    return Source(
      images,
      labels,
      ('0', '1'),
      groups=groups,
      group_names=('0:0', '0:1', '1:0', '1:1'),
    )

  return evals.EvalData(split((450, 50, 50, 450)), split((100,) * 4))


@pytest.mark.parametrize('fit_on', ['test_half', 'train'])
def test_the_last_layer_fitted_anew_rescues_the_worst_group(fit_on):
  found, _ = run(
    Shortcut(),
    shortcut_data(),
    groups={},
    last_layer={'fit_on': fit_on, 'num_fits': 3},
  )
  assert found['groups/worst_accuracy'].value == 0
  assert found['groups/average_accuracy'].value == 0.5
  assert found['groups/reweighted_accuracy'].value == pytest.approx(0.9)
  assert found['groups/dfr_worst_accuracy'].value > 0.85
  said = found['groups/dfr_worst_accuracy'].protocol
  assert 'the last layer read group labels' in said
  measured = found['groups/dfr_average_accuracy'].protocol
  assert ('n=400' in measured) == (fit_on == 'train')
  assert '3 draws of 50 from each group' in measured


@pytest.mark.fast
def test_half_of_each_group_is_taken_and_the_rest_left(splits):
  split = grouped(splits[1], np.arange(203) % 3 == 0)
  half = last_layer._half(split, np.random.default_rng(0))
  counts = np.bincount(split.groups[half], minlength=10)
  np.testing.assert_array_equal(counts, split.group_counts // 2)


@pytest.mark.fast
def test_a_test_split_without_a_pair_in_any_group_has_no_half():
  data = shortcut_data()
  first = [np.flatnonzero(data.test.groups == k)[0] for k in range(4)]
  data = evals.EvalData(data.train, data.test.take(np.array(first)))
  with pytest.raises(errors.ConfigError, match='no group has two test'):
    run(Shortcut(), data, last_layer={})


def test_planted_groups_reach_the_evaluator(encoder, splits):
  made = groups_lib.apply(Splits(*splits), kind='background', strength=0.9)
  found, _ = run(encoder, evals.EvalData(*made), groups={})
  names = [n for n in found if n.startswith('groups/accuracy/')]
  assert len(names) == (made.test.group_counts > 0).sum()
  assert isinstance(found['groups/worst_accuracy'], measurement.Measurement)
