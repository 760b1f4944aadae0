"""Time and energy of multicuts beside those of bioimage-cpp, in one process.

  python -m benchmarks.multicut --nodes=3000 --instances=20 --rows=50000

Prints, where bioimage-cpp is installed: the energies of GAEC on random
instances up to ``--largest`` nodes, which have to be equal; the times of GAEC
on cosine costs with their ratio; energies and times of KLj, each from its own
GAEC. Then, in a process of its own, GAEC in the form of sums, with the most
memory that the process ever held. All on one thread; times are CPU seconds. The
peer's graph is built before its clock starts.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
  os.environ.setdefault(name, '1')

import numpy as np  # noqa: E402

from rrl_jax import indicators  # noqa: E402

THRESHOLD = 0.2


def class_features(rows, dim, classes, seed):
  """Rows around class means, as far from them as the means are apart."""
  rng = np.random.default_rng(seed)
  means = rng.normal(size=(classes, dim)).astype(np.float32)
  noise = rng.normal(size=(rows, dim)).astype(np.float32)
  return means[rng.integers(0, classes, size=rows)] + 1.5 * noise


def cosine_instance(nodes, seed):
  return indicators.cosine_costs(
    class_features(nodes, 128, 20, seed), THRESHOLD
  )


def random_instance(nodes, seed):
  c = np.triu(np.random.default_rng(seed).normal(size=(nodes, nodes)), 1)
  return c + c.T


def clock(solve):
  """Result and CPU seconds of a call."""
  start = time.process_time()
  result = solve()
  return result, time.process_time() - start


def peer_problem(costs):
  """An objective of bioimage-cpp on the complete graph, None without it."""
  try:
    from bioimage_cpp import graph
    from bioimage_cpp.graph import multicut
  except ImportError:
    return None, None
  i, j = np.triu_indices(len(costs), 1)
  edges = np.stack([i, j], axis=1).astype(np.uint64)
  complete = graph.UndirectedGraph.from_unique_edges(len(costs), edges)
  weights = costs[i, j].astype(np.float64)
  return multicut, lambda: multicut.MulticutObjective(complete, weights)


def equal_energies(instances, largest):
  """Energies of GAEC on random instances, ours and the peer's."""
  sizes = np.linspace(50, largest, instances).astype(int)
  equal = 0
  for seed, nodes in enumerate(sizes):
    make = random_instance if seed % 2 else cosine_instance
    costs = make(nodes, seed)
    solvers, problem = peer_problem(costs)
    if solvers is None:
      print('bioimage-cpp is not installed')
      return
    theirs = solvers.GreedyAdditiveMulticut().optimize(problem())
    energies = [
      indicators.multicut_energy(costs, np.asarray(a, np.int64))
      for a in (indicators.gaec(costs), theirs)
    ]
    equal += bool(np.isclose(*energies, rtol=1e-9, atol=1e-9))
  print(
    f'GAEC: equal energies on {equal} of {instances} instances up to'
    f' n={largest}'
  )


def dense(nodes, with_klj):
  """GAEC and KLj on cosine costs."""
  costs = cosine_instance(nodes, 0)
  ours, seconds = clock(lambda: indicators.gaec(costs))
  energy = lambda a: indicators.multicut_energy(costs, np.asarray(a, np.int64))
  solvers, problem = peer_problem(costs)
  print(f'GAEC n={nodes}: {seconds:.3f} s, energy {energy(ours):.6f}', end='')
  print(f', {ours.max() + 1} clusters', flush=True)
  if solvers is not None:
    theirs, peer = clock(
      lambda: solvers.GreedyAdditiveMulticut().optimize(problem())
    )
    print(f'  bioimage-cpp: {peer:.3f} s, energy {energy(theirs):.6f}')
    print(f'  ratio: {peer / seconds:.1f}', flush=True)
  if not with_klj:
    return
  better, seconds = clock(lambda: indicators.klj(costs, ours))
  print(f'KLj n={nodes}: {seconds:.3f} s, energy {energy(better):.6f}')
  if solvers is not None:
    start = problem()
    start.labels = theirs
    theirs, peer = clock(lambda: solvers.KernighanLinMulticut().optimize(start))
    print(f'  bioimage-cpp: {peer:.3f} s, energy {energy(theirs):.6f}')


def sums(rows, dim, classes):
  """GAEC in the form of sums, and the most memory held."""
  z = class_features(rows, dim, classes, 0)
  a, seconds = clock(lambda: indicators.gaec_features(z, threshold=THRESHOLD))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(
    f'GAEC in sums, {rows} x {dim}: {seconds:.1f} s, {a.max() + 1} clusters,'
    f' peak {peak:.2f} GiB of the process'
  )


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--nodes', type=int, default=3000)
  parser.add_argument('--instances', type=int, default=20)
  parser.add_argument('--largest', type=int, default=2000)
  parser.add_argument('--rows', type=int, default=50_000)
  parser.add_argument('--dim', type=int, default=128)
  parser.add_argument('--classes', type=int, default=20)
  parser.add_argument(
    '--klj', action=argparse.BooleanOptionalAction, default=True
  )
  parser.add_argument('--only_sums', action='store_true')
  args = parser.parse_args()
  if args.only_sums:
    sums(args.rows, args.dim, args.classes)
  else:
    if args.nodes:
      dense(args.nodes, args.klj)
    if args.instances:
      equal_energies(args.instances, args.largest)
    if args.rows:
      words = ('rows', 'dim', 'classes')
      options = [f'--{word}={getattr(args, word)}' for word in words]
      command = [sys.executable, '-m', 'benchmarks.multicut', '--only_sums']
      subprocess.run(command + options, check=True)
