"""Multicuts against enumeration, identities and an independent solver."""

import itertools

import numpy as np
import pytest

from rrl_jax import indicators
from rrl_jax.errors import DataError
from rrl_jax.indicators import _klj
from tests.tiers import first


def random_costs(rng, n, bias=0.0):
  c = rng.normal(size=(n, n)) + bias
  return np.triu(c, 1) + np.triu(c, 1).T


def classes(rng, n=60, dim=16, num_classes=4, noise=0.5):
  y = rng.integers(0, num_classes, size=n)
  return rng.normal(size=(num_classes, dim))[y] + noise * rng.normal(
    size=(n, dim)
  ), y


def partitions(n):
  """All set partitions as labels [P, n], by restricted growth strings."""
  rows = [[0]]
  for _ in range(n - 1):
    rows = [row + [k] for row in rows for k in range(max(row) + 2)]
  return np.array(rows)


def graph(costs):
  """The complete graph of a matrix of costs."""
  i, j = np.triu_indices(len(costs), 1)
  return np.stack([i, j], axis=1), costs[i, j]


def naive_gaec(costs):
  """Contraction by a search through all pairs of clusters at every step."""
  clusters = [[v] for v in range(len(costs))]
  while len(clusters) > 1:
    weight, a, b = max(
      (costs[np.ix_(clusters[a], clusters[b])].sum(), -a, -b)
      for a, b in itertools.combinations(range(len(clusters)), 2)
    )
    if weight <= 0:
      break
    clusters[-a] += clusters.pop(-b)
  labels = np.empty(len(costs), int)
  for k, nodes in enumerate(clusters):
    labels[nodes] = k
  return labels


@pytest.mark.parametrize('n', first([5, 9]))
def test_the_optimum_of_small_instances_is_found(rng, n):
  labels = partitions(n)
  i, j = np.triu_indices(n, 1)
  cut = labels[:, i] != labels[:, j]
  found = 0
  instances = 40
  for _ in range(instances):
    costs = random_costs(rng, n, bias=rng.uniform(-0.5, 0.5))
    least = np.min(cut @ costs[i, j])
    a = indicators.klj(costs, indicators.gaec(costs))
    energy = indicators.multicut_energy(costs, a)
    assert energy >= least - 1e-9
    found += energy <= least + 1e-9
  assert found >= 0.95 * instances


def test_new_starts_on_small_instances_never_end_higher(rng):
  lower = 0
  for _ in range(20):
    costs = random_costs(rng, 12)
    start = indicators.gaec(costs)
    plain = indicators.klj(costs, start, kick_nodes=0)
    gain = indicators.multicut_energy(costs, plain)
    gain -= indicators.multicut_energy(costs, indicators.klj(costs, start))
    assert gain > -1e-9
    lower += gain > 1e-9
  assert lower


@pytest.mark.fast
def test_contraction_equals_a_search_through_all_pairs(rng):
  for n in (2, 7, 25):
    costs = random_costs(rng, n)
    np.testing.assert_array_equal(indicators.gaec(costs), naive_gaec(costs))


@pytest.mark.parametrize('n', [90, 200])
def test_all_forms_of_contraction_agree(rng, n):
  z, _ = classes(rng, n)
  dense = indicators.gaec(indicators.cosine_costs(z, 0.3))
  sums = indicators.gaec_features(z, threshold=0.3)
  sparse = indicators.gaec_graph(*graph(indicators.cosine_costs(z, 0.3)), n)
  assert 1 < dense.max() + 1 < n
  np.testing.assert_array_equal(sums, dense)
  np.testing.assert_array_equal(sparse, dense)
  np.testing.assert_array_equal(
    indicators.multicut(z, threshold=0.3, refine=False), dense
  )


@pytest.mark.parametrize('threshold', [0.2, 0.6, 0.9])
def test_pairs_of_clusters_that_cannot_gain_are_passed_over_unharmed(
  rng, threshold, monkeypatch
):
  z, _ = classes(rng, noise=0.8)
  costs = indicators.cosine_costs(z, threshold)
  start = rng.integers(0, 8, size=len(z))
  calls = []
  exchange = _klj._exchange
  monkeypatch.setattr(
    _klj, '_exchange', lambda *args: calls.append(1) or exchange(*args)
  )
  quick = indicators.klj(costs, start)
  few = len(calls)
  everything = lambda pair_costs, nodes, others, labels, count: (
    np.inf,
    np.full(count, np.inf),
  )
  monkeypatch.setattr(_klj, '_hopes', everything)
  np.testing.assert_array_equal(indicators.klj(costs, start), quick)
  assert few < len(calls) - few


@pytest.mark.parametrize('bias', [-0.2, 0.0, 0.2])
def test_exchanges_never_raise_the_energy(rng, bias):
  for n in (1, 2, 12, 40):
    costs = random_costs(rng, n, bias)
    edges, weights = graph(costs)
    starts = [
      indicators.gaec(costs),
      np.arange(n),
      np.zeros(n, int),
      rng.integers(0, 4, size=n),
    ]
    for start in starts:
      before = indicators.multicut_energy(costs, start)
      after = indicators.klj(costs, start)
      energy = indicators.multicut_energy(costs, after)
      assert energy <= before + 1e-9
      # Nothing is left to gain: a second call changes nothing.
      again = indicators.klj(costs, after)
      np.testing.assert_allclose(
        indicators.multicut_energy(costs, again), energy, atol=1e-9
      )
      sparse = indicators.klj_graph(edges, weights, start)
      assert indicators.graph_energy(edges, weights, sparse) <= before + 1e-9


@pytest.mark.fast
def test_no_single_move_and_no_join_gains_after_exchanges(rng):
  costs = random_costs(rng, 30)
  a = indicators.klj(costs, indicators.gaec(costs))
  energy = indicators.multicut_energy(costs, a)
  for v in range(30):
    for k in range(a.max() + 2):
      moved = a.copy()
      moved[v] = k
      assert indicators.multicut_energy(costs, moved) >= energy - 1e-6
  for k, other in itertools.combinations(range(a.max() + 1), 2):
    joined = np.where(a == other, k, a)
    assert indicators.multicut_energy(costs, joined) >= energy - 1e-6


@pytest.mark.fast
def test_exchanges_on_a_graph_keep_clusters_connected(rng):
  edges = np.array([(i, i + 1) for i in range(19)])
  weights = rng.normal(size=19)
  a = indicators.klj_graph(edges, weights, np.zeros(20, int))
  # On a path every positive edge can be kept and every negative one cut.
  np.testing.assert_allclose(
    indicators.graph_energy(edges, weights, a), weights[weights < 0].sum()
  )
  assert len(np.unique(a)) == 1 + np.sum(weights < 0)
  np.testing.assert_array_equal(a, indicators.gaec_graph(edges, weights, 20))


@pytest.mark.fast
def test_scaling_the_costs_changes_nothing(rng):
  costs = random_costs(rng, 40)
  a = indicators.gaec(costs)
  b = indicators.klj(costs, a)
  for scale in (2.0**-30, 2.0**20):
    np.testing.assert_array_equal(indicators.gaec(scale * costs), a)
    np.testing.assert_array_equal(indicators.klj(scale * costs, a), b)


@pytest.mark.fast
def test_energy_of_cosines_is_that_of_the_potts_model(rng):
  z, _ = classes(rng)
  unit = z / np.linalg.norm(z, axis=1, keepdims=True)
  a = rng.integers(0, 5, size=len(z))
  for s0 in (-0.2, 0.4):
    costs = indicators.cosine_costs(z, s0)
    total = costs[np.triu_indices(len(z), 1)].sum()
    n = len(z)
    joined = sum(
      np.sum(unit[a == k].sum(0) ** 2) - s0 * np.sum(a == k) ** 2
      for k in range(5)
    )
    np.testing.assert_allclose(
      indicators.multicut_energy(costs, a),
      total - (joined - n + s0 * n) / 2,
      rtol=1e-9,
    )


@pytest.mark.fast
def test_equal_costs_go_to_the_lower_node():
  costs = np.ones((4, 4))
  costs[0, 3] = costs[3, 0] = costs[1, 3] = costs[3, 1] = -5
  costs[2, 3] = costs[3, 2] = -5
  assert indicators.gaec(costs).tolist() == [0, 0, 0, 1]
  costs = np.full((4, 4), -9.0)
  for i, j in ((0, 1), (1, 2), (2, 3)):
    costs[i, j] = costs[j, i] = 1
  assert indicators.gaec(costs).tolist() == [0, 0, 1, 1]
  np.testing.assert_array_equal(indicators.gaec(np.zeros((3, 3))), [0, 1, 2])


@pytest.mark.fast
def test_threshold_governs_the_number_of_clusters(rng):
  z, y = classes(rng, noise=0.3)
  count = [
    a.max() + 1 for _, a in indicators.threshold_sweep(z, [-1.01, 0.5, 1.01])
  ]
  assert count == [1, 4, len(z)]
  a = indicators.multicut(z, threshold=0.5)
  assert indicators.clustering_accuracy(a, y) == 1
  near = indicators.multicut(z, threshold=0.5, num_neighbors=20)
  assert indicators.clustering_accuracy(near, y) == 1
  all_pairs = indicators.multicut(z, threshold=0.5, num_neighbors=len(z) - 1)
  np.testing.assert_array_equal(all_pairs, a)


@pytest.mark.fast
def test_float32_features_give_the_same_clusters(rng):
  z, _ = classes(rng)
  for refine in (False, True):
    np.testing.assert_array_equal(
      indicators.multicut(z.astype('f'), threshold=0.35, refine=refine),
      indicators.multicut(z, threshold=0.35, refine=refine),
    )


@pytest.mark.fast
def test_neighbours_are_those_of_largest_cosine(rng):
  z, _ = classes(rng)
  unit = z / np.linalg.norm(z, axis=1, keepdims=True)
  cosines = unit @ unit.T
  np.fill_diagonal(cosines, -np.inf)
  want = set()
  for i in range(len(z)):
    want |= {tuple(sorted((i, j))) for j in np.argsort(-cosines[i])[:5]}
  edges, found = indicators.nearest_neighbor_graph(z, 5)
  assert {tuple(edge) for edge in edges.tolist()} == want
  np.testing.assert_allclose(found, cosines[edges[:, 0], edges[:, 1]])
  equal, _ = indicators.nearest_neighbor_graph(np.ones((5, 2)), 1)
  assert equal.tolist() == [[0, 1], [0, 2], [0, 3], [0, 4]]


@pytest.mark.parametrize('n', [10, 25, 60, 150, 300])
@pytest.mark.parametrize('kind', ['random', 'cosine'])
def test_energies_beside_an_independent_solver(rng, n, kind):
  solver = pytest.importorskip('bioimage_cpp.graph.multicut')
  graphs = pytest.importorskip('bioimage_cpp.graph')
  for _ in range(2):
    costs = random_costs(rng, n)
    if kind == 'cosine':
      costs = indicators.cosine_costs(classes(rng, n, noise=1)[0], 0.2)
    edges, weights = graph(costs)
    peer = graphs.UndirectedGraph.from_unique_edges(n, edges.astype(np.uint64))
    problem = solver.MulticutObjective(peer, weights)
    theirs = solver.GreedyAdditiveMulticut().optimize(problem)
    ours = indicators.gaec(costs)
    np.testing.assert_allclose(
      indicators.multicut_energy(costs, ours),
      indicators.multicut_energy(costs, theirs.astype(np.int64)),
      rtol=1e-12,
      atol=1e-12,
    )


@pytest.mark.fast
def test_calibration_finds_the_threshold_of_known_odds(rng):
  # Pairs on a circle: the cosine alone decides by p = sigmoid(w (s - s0)).
  from sklearn import linear_model

  z, y = classes(rng, n=80, noise=1.2)
  found = indicators.calibrate_threshold(z, y, prior='natural', l2=1e-6)
  i, j = np.triu_indices(len(z), 1)
  unit = z / np.linalg.norm(z, axis=1, keepdims=True)
  s = np.sum(unit[i] * unit[j], axis=1)
  same = y[i] == y[j]
  model = linear_model.LogisticRegression(
    C=1e6 / len(s), tol=1e-10, max_iter=1000
  ).fit(s[:, None], same)
  want = -model.intercept_[0] / model.coef_[0, 0]
  np.testing.assert_allclose(found.threshold, want, rtol=1e-4)
  np.testing.assert_allclose(found.slope, model.coef_[0, 0], rtol=1e-4)
  assert found.num_pairs == (same.sum(), (~same).sum())
  balanced = indicators.calibrate_threshold(z, y)
  assert balanced.threshold < found.threshold  # Fewer pairs repel.


@pytest.mark.fast
def test_drawn_pairs_calibrate_like_all_pairs(rng):
  z, y = classes(rng, n=200, noise=1.0)
  all_pairs = indicators.calibrate_threshold(z, y)
  drawn = indicators.calibrate_threshold(z, y, max_pairs=4000)
  assert drawn.num_pairs == (4000, 4000)
  np.testing.assert_allclose(drawn.threshold, all_pairs.threshold, atol=0.02)
  again = indicators.calibrate_threshold(z, y, max_pairs=4000)
  assert again == drawn


@pytest.mark.fast
def test_calibration_of_separable_pairs_is_between_them():
  z = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], float)
  found = indicators.calibrate_threshold(z, [0, 0, 1, 1])
  assert 0.3 < found.threshold < 0.7
  assert found.accuracy == 1
  assert np.isfinite(found.slope)


@pytest.mark.fast
def test_bad_input_is_one_clear_line(rng):
  z, y = classes(rng)
  bad = z.copy()
  bad[3, 2] = np.inf
  for call in (
    lambda: indicators.multicut(bad, threshold=0.5),
    lambda: indicators.multicut(bad, threshold=0.5, num_neighbors=3),
    lambda: indicators.gaec_features(bad, threshold=0.5),
    lambda: indicators.calibrate_threshold(bad, y),
  ):
    with pytest.raises(DataError, match='NaN or inf in 1 of 60 rows.*row 3'):
      call()
  with pytest.raises(DataError, match='labels has 59 entries, features has 60'):
    indicators.calibrate_threshold(z, y[:-1])
  with pytest.raises(DataError, match='labels has 1 class'):
    indicators.calibrate_threshold(z, 0 * y)
  with pytest.raises(DataError, match='no two examples of one class'):
    indicators.calibrate_threshold(z, np.arange(60))
  with pytest.raises(DataError, match='no more alike'):
    indicators.calibrate_threshold([[1.0], [-1.0], [1.0], [-1.0]], [0, 0, 1, 1])
  costs = random_costs(rng, 4)
  costs[1, 2] = np.nan
  with pytest.raises(DataError, match=r'costs\[1, 2\] is nan'):
    indicators.gaec(costs)
  costs[1, 2] = 10
  with pytest.raises(DataError, match='symmetric'):
    indicators.gaec(costs)
  with pytest.raises(DataError, match='square'):
    indicators.gaec(costs[:3])
  with pytest.raises(DataError, match='assignments has 3 entries, costs has 4'):
    indicators.klj(random_costs(rng, 4), [0, 0, 1])
  with pytest.raises(ValueError, match='threshold must be a finite number'):
    indicators.multicut(z, threshold=np.nan)
  with pytest.raises(DataError, match=r'edges\[0\] is \[0, 3\]'):
    indicators.gaec_graph([[0, 3]], [1.0], 3)
