"""Clusters of a class's features stand in for groups that nobody labelled."""

import dataclasses
from importlib import machinery
import sys
import types

import jax
import numpy as np
import pytest
from sklearn import metrics

from rrl_jax import evals
from rrl_jax.data import groups
from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import infer_groups

pytestmark = pytest.mark.fast


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
  assert set(found) == {'groups/inferred_worst_accuracy'}
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


class Rows:
  """Features and logits that are given, for images that hold their place."""

  def __init__(self, features, logits=None):
    self.features = np.asarray(features, np.float32)
    self.logits = np.zeros((len(features), 2)) if logits is None else logits

  def predict(self, images):
    place = images[:, 0, 0, 0]
    return self.logits[place], self.features[place]


def of_rows(labels, true_groups=None, **kw):
  """A source of images that hold their place."""
  labels = np.asarray(labels)
  images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
  if true_groups is not None:
    names = [f'g{k}' for k in range(max(true_groups) + 1)]
    kw |= {'groups': np.asarray(true_groups), 'group_names': names}
  return Source(images, labels, ('a', 'b'), **kw)


def infer_rows(encoder, source, test=None, **kw):
  return evals.run(
    encoder,
    evals.EvalData(source, source if test is None else test),
    {'infer_groups': kw},
    key=jax.random.key(0),
  )


def test_agreement_is_that_of_scikit_learn_and_of_the_counts():
  """Clusters 0000 11 of class a and 22 33 of b, against three groups."""
  where = np.array([0, 0, 0, 0, 10, 10, 0, 0, 10, 10])[:, None]
  truth = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
  labels = np.repeat([0, 1], (6, 4))
  found, figures = infer_rows(Rows(where), of_rows(labels, truth))
  clusters = figures['figure/inferred_groups']
  assert len(np.unique(clusters)) == 4
  index = metrics.adjusted_rand_score
  expected = {
    'inferred_purity': 0.9,
    'class_purity': 0.7,
    'inferred_adjusted_rand_index': index(truth, clusters),
    'class_adjusted_rand_index': index(truth, labels),
    'inferred_adjusted_rand_index/a': index(truth[:6], clusters[:6]),
    'inferred_adjusted_rand_index/b': 0,  # One group, cut in two.
    'inferred_within_adjusted_rand_index': (
      0.6 * index(truth[:6], clusters[:6])
    ),
    'inferred_recall/g0': 1,
    'inferred_purity/g0': 3 / 4,
    'inferred_recall/g1': 2 / 3,
    'inferred_purity/g1': 1,
    'inferred_recall/g2': 1 / 2,
    'inferred_purity/g2': 1,
  }
  found.pop('groups/inferred_worst_accuracy')
  assert set(found) == {f'groups/{name}' for name in expected}
  for name, value in expected.items():
    assert found[f'groups/{name}'].value == pytest.approx(value), name
  assert 'true group' in found['groups/inferred_purity'].protocol


def test_fine_classes_are_the_truth_where_there_are_no_groups():
  where = np.repeat([0, 10, 0], (4, 4, 4))[:, None]
  fine = np.repeat([0, 1, 2], (4, 4, 4))
  source = of_rows(fine == 2, fine_labels=fine, fine_names=('x', 'y', 'z'))
  found, _ = infer_rows(Rows(where), source)
  assert found['groups/inferred_purity'].value == 1
  assert found['groups/inferred_adjusted_rand_index'].value == 1
  assert found['groups/inferred_recall/y'].value == 1
  assert 'fine class' in found['groups/inferred_recall/y'].protocol


def test_a_test_image_is_in_the_cluster_of_its_nearest_one_of_its_class():
  """Class b has no test image near 0, class a one wrong image near 10."""
  where = np.array([0, 0, 10, 10, 0, 0, 10, 10])[:, None] + np.zeros((8, 2))
  labels = np.repeat([0, 1], 4)
  logits = np.eye(2)[labels]
  logits[3] = logits[3, ::-1]
  source = of_rows(labels)
  test = source.take(np.array([0, 1, 3, 6, 7]))
  found, figures = infer_rows(Rows(where, logits), source, test)
  train_clusters = figures['figure/inferred_groups']
  np.testing.assert_array_equal(
    figures['figure/inferred_test_groups'], train_clusters[[0, 1, 3, 6, 7]]
  )
  worst = found['groups/inferred_worst_accuracy']
  assert worst.value == 0
  assert worst.low == 0 < worst.high
  name = figures['figure/inferred_names'][train_clusters[3]]
  assert name in worst.protocol


def test_a_class_without_a_training_image_has_no_cluster():
  where = np.array([0, 0, 10, 10, 0])[:, None]
  source = of_rows([0, 0, 0, 0, 1])
  train = source.take(np.arange(4))
  found, figures = infer_rows(Rows(where), train, source)
  assert figures['figure/inferred_test_groups'].tolist()[-1] == -1
  assert 'n=2 or more in each' in (
    found['groups/inferred_worst_accuracy'].protocol
  )


def far_and_small(rng):
  """One blob, and beside it one of a twentieth that k = 2 cannot spare."""
  centres = np.array([[0.0, 0.0], [30.0, 0.0], [30.0, 4.0]])
  group = np.repeat(np.arange(3), (100, 95, 5))
  return group, centres[group] + rng.normal(0, 0.3, (200, 2))


@pytest.mark.parametrize('cluster', infer_groups.CLUSTERERS)
def test_overclustering_finds_a_small_group_with_high_loss(rng, cluster):
  group, where = far_and_small(rng)
  logits = np.zeros((200, 2))
  logits[:, 0] = np.where(group == 2, 0, 3)  # The small group fits worse.
  source = of_rows(np.zeros(200, int), group)
  kw = {'cluster': cluster, 'min_size': 4}
  plain, _ = infer_rows(Rows(where, logits), source, **kw)
  cut, figures = infer_rows(Rows(where, logits), source, overclustering=5, **kw)
  assert plain['groups/inferred_purity'].value == 195 / 200
  assert cut['groups/inferred_purity/g2'].value == 1
  assert cut['groups/inferred_recall/g2'].value == 1
  # What is not kept stays together.
  assert len(figures['figure/inferred_names']) <= 5


@pytest.mark.parametrize(
  ('why', 'number'),
  [
    ('too_small', 2),
    ('too_small_a_share', 2),
    ('no_better_apart', 2),
    ('the_rest_fits_worse', 3),  # The rest is kept, though the part is not.
  ],
)
def test_a_part_that_does_not_deserve_it_is_no_cluster(rng, why, number):
  group, where = far_and_small(rng)
  logits = np.zeros((200, 2))
  small = 3 if why == 'the_rest_fits_worse' else 0
  logits[:, 0] = np.where(group == 2, small, 1)
  kw = {'min_size': 6}  # The small group has five images.
  if why == 'too_small_a_share':
    kw = {'min_size': 4, 'min_share': 0.03}
  if why == 'no_better_apart':
    kw = {'min_size': 1, 'min_share': 0}
    where = np.where(group == 0, 0.0, 30.0)[:, None]
  source = of_rows(np.zeros(200, int), group)
  _, figures = infer_rows(Rows(where, logits), source, overclustering=2, **kw)
  assert len(figures['figure/inferred_names']) == number


def test_principal_components_drop_what_varies_little(rng):
  """Three copies of what tells the groups, and noise that k-means prefers."""
  group = np.repeat([0, 1], 100)
  told = np.repeat(np.where(group, 1.0, -1.0)[:, None], 3, axis=1)
  where = np.concatenate([told, rng.choice([-1.0, 1.0], (200, 2))], axis=1)
  source = of_rows(np.zeros(200, int), group)
  reduced, _ = infer_rows(Rows(where), source, reduce='pca', num_components=1)
  name = 'groups/inferred_adjusted_rand_index'
  assert reduced[name].value == 1
  assert '1 principal components' in reduced[name].protocol
  # More than there are: all, which is a rotation.
  every, _ = infer_rows(Rows(where), source, reduce='pca', num_components=99)
  assert '5 principal components' in every[name].protocol


def test_umap_has_the_settings_of_george(rng, monkeypatch):
  asked = {}

  class Umap:
    def __init__(self, **kw):
      asked.update(kw)

    def fit_transform(self, rows):
      asked['rows'] = rows.shape
      return rows[:, :2]

  fake = types.ModuleType('umap')
  fake.UMAP, fake.__spec__ = Umap, machinery.ModuleSpec('umap', None)
  monkeypatch.setitem(sys.modules, 'umap', fake)
  group, where = far_and_small(rng)
  source = of_rows(np.zeros(200, int), group)
  found, _ = infer_rows(Rows(where), source, reduce='umap')
  seed = asked.pop('random_state')
  assert 0 <= seed < 2**31
  assert asked == {
    'n_neighbors': 10,
    'min_dist': 0.0,
    'n_components': 2,
    'n_jobs': 1,
    'rows': (200, 2),
  }
  assert found['groups/inferred_purity'].value == 195 / 200
  assert '2 dimensions of UMAP' in found['groups/inferred_purity'].protocol
  few = source.take(np.arange(5))
  infer_rows(Rows(where), few, reduce='umap')
  assert asked['n_neighbors'] == 4  # There are no more.
  with pytest.raises(ConfigError, match='2 training images are too few'):
    infer_rows(Rows(where), source.take(np.arange(2)), reduce='umap')


def test_without_umap_it_is_said_how_to_get_it_before_any_work(monkeypatch):
  monkeypatch.setitem(sys.modules, 'umap', None)
  with pytest.raises(ConfigError, match=r"pip install -e '.\[umap\]'") as e:
    evals.check({'infer_groups': {'reduce': 'umap'}})
  assert '\n' not in str(e.value)


def test_a_umap_that_cannot_be_imported_is_told_in_one_line(monkeypatch):
  def broken(name):
    raise ImportError(f'{name}: no numba\nof this version')

  monkeypatch.setattr(infer_groups.importlib, 'import_module', broken)
  with pytest.raises(ConfigError, match=r'cannot be imported \(umap: no numba'):
    infer_groups._umap()


@pytest.mark.full  # UMAP compiles for minutes.
def test_umap_itself_parts_what_is_apart(rng):
  pytest.importorskip('umap')
  group, where = far_and_small(rng)
  group = np.minimum(group, 1)
  source = of_rows(np.zeros(200, int), group)
  kw = {'reduce': 'umap', 'num_clusters': 6}  # It tears blobs apart too.
  found, figures = infer_rows(Rows(where), source, **kw)
  assert found['groups/class_purity'].value == 0.5
  assert found['groups/inferred_purity'].value == 1
  _, again = infer_rows(Rows(where), source, **kw)
  np.testing.assert_array_equal(
    figures['figure/inferred_groups'], again['figure/inferred_groups']
  )


@pytest.mark.parametrize(
  ('kw', 'words'),
  [
    ({'reduce': 'tsne'}, "reduce='tsne' must be one of none, pca, umap"),
    ({'cluster': 'x'}, "cluster='x' must be one of kmeans, gaussian_mixture"),
    ({'num_components': 0}, 'num_components=0 must be a whole number'),
    ({'overclustering': 0}, 'overclustering=0 must be a whole number'),
    ({'min_share': 1.5}, r'min_share=1.5 must be in \[0, 1\]'),
    ({'min_size': 0}, 'min_size=0 must be a whole number'),
    ({'max_clusters': 1}, 'max_clusters=1 must be a whole number above 1'),
    ({'num_clusters': -1}, 'num_clusters=-1 must be a whole number'),
  ],
)
def test_values_out_of_range_are_told_before_any_work(kw, words):
  with pytest.raises(ConfigError, match=words):
    evals.check({'infer_groups': kw})
