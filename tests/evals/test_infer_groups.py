"""Clusters of a class's features stand in for groups that nobody labelled."""

import dataclasses

import jax
import numpy as np
import pytest

from rrl_jax import evals
from rrl_jax.data import groups
from rrl_jax.data.source import Source
from rrl_jax.errors import DataError


class Spread:
  """Features: three well separated groups of class 0, one of class 1."""

  def predict(self, images):
    centres = 10 * np.eye(4)
    noise = np.random.default_rng(0).normal(0, 0.1, (len(images), 4))
    features = centres[images[:, 0, 0, 0]] + noise
    return features, features.astype(np.float32)


@pytest.fixture
def train():
  group = np.random.default_rng(1).permutation(
    np.repeat(np.arange(4), (60, 5, 20, 50))
  )
  images = group[:, None, None, None].astype(np.uint8)
  return Source(
    images,
    group == 3,
    ('a', 'b'),
    groups=group,
    group_names=('a:x', 'a:y', 'a:z', 'b:x'),
  )


def infer(train, **kw):
  return evals.run(
    Spread(),
    evals.EvalData(train, train),
    {'infer_groups': kw},
    key=jax.random.key(0),
  )


def test_clusters_that_are_apart_are_the_groups(train):
  found, figures = infer(train, num_clusters=3)
  assert found['groups/class_purity'].value == pytest.approx(110 / 135)
  ids = figures['figure/inferred_groups']
  assert len(figures['figure/inferred_names']) == ids.max() + 1
  for group in range(3):  # Each true group of the first class is one cluster.
    assert len(np.unique(ids[train.groups == group])) == 1
  assert found['groups/inferred_purity'].value == 1


def test_the_silhouette_finds_the_number_of_clusters(train):
  _, figures = infer(train, num_clusters=0, max_clusters=5)
  names = figures['figure/inferred_names'].tolist()
  assert sum(name.startswith('a:') for name in names) == 3


def test_images_that_are_all_alike_are_one_cluster(train):
  class Alike:
    def predict(self, images):
      return np.zeros((len(images), 2)), np.ones((len(images), 3), np.float32)

  _, figures = evals.run(
    Alike(),
    evals.EvalData(train, train),
    {'infer_groups': {}},
    key=jax.random.key(0),
  )
  names = figures['figure/inferred_names'].tolist()
  assert names == ['a:cluster_0', 'b:cluster_0']
  np.testing.assert_array_equal(figures['figure/inferred_groups'], train.labels)


def test_without_groups_there_is_no_purity(train):
  plain = dataclasses.replace(train, groups=None, group_names=None)
  found, figures = infer(plain)
  assert not found
  assert 'figure/inferred_groups' in figures


def test_a_later_run_reads_them_and_judges_by_the_true_ones(train, tmp_path):
  _, figures = infer(train, num_clusters=3)
  path = str(tmp_path / 'figures.npz')
  np.savez(path, **figures)
  given = groups.with_inferred(train, path)
  ids = figures['figure/inferred_groups']
  np.testing.assert_array_equal(given.batch_groups, ids)
  assert given.batch_group_names == tuple(figures['figure/inferred_names'])
  np.testing.assert_array_equal(given.groups, train.groups)
  some = given.take(np.array([7, 0]))
  np.testing.assert_array_equal(some.batch_groups, ids[[7, 0]])
  assert train.batch_group_names == train.group_names


def test_groups_of_other_data_are_refused(train, tmp_path):
  _, figures = infer(train)
  path = str(tmp_path / 'figures.npz')
  np.savez(path, **figures)
  with pytest.raises(DataError, match=r'of other training data \(135 labels'):
    groups.with_inferred(train.take(np.arange(100)), path)
  np.savez(path, x=np.zeros(3))
  with pytest.raises(DataError, match='evals.infer_groups writes it'):
    groups.with_inferred(train, path)
