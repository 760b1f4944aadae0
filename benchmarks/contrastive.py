"""Time and memory of contrastive losses beside those of others.

  python -m benchmarks.contrastive
  python -m benchmarks.contrastive --torch_python=PATH --sup_contrast=losses.py
    --thanos=contrastive_loss.py

Prints value-and-gradient time (least of several rounds, in which all take
turns) and temporaries of our tiled losses and of the same loss over a dense
matrix. With the Python of an environment that has PyTorch it also times
SupConLoss of pytorch-metric-learning, and, given the files, SupConLoss of
HobbitLong/SupContrast and ContrastiveLoss of HazyResearch/thanos-code.

The floor: the N x N similarities cost 2 N^2 D FLOPs, a dense gradient twice
that, 6 N^2 D in all. Using their symmetry the tiled loss needs N^2 D forward
and 3 N^2 D backward, where it computes them again: 4 N^2 D.
"""

import argparse
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import losses

TORCH = r"""
import importlib.util, sys, time, types
import numpy as np, torch
num, dim, classes, rounds, tau, sup_contrast, thanos = sys.argv[1:]
num, dim, classes, rounds = map(int, (num, dim, classes, rounds))
tau = float(tau)
rng = np.random.default_rng(0)
z = rng.normal(size=(num, dim)).astype('f')
z /= np.linalg.norm(z, axis=1, keepdims=True)
half = torch.tensor(rng.integers(0, classes, size=num // 2))
both, z = torch.cat([half, half]), torch.tensor(z, requires_grad=True)
def load(path, name):
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
runs = {}
try:
  from pytorch_metric_learning.losses import SupConLoss
  pml = SupConLoss(temperature=tau)
  runs['pytorch-metric-learning SupConLoss'] = lambda: pml(z, both)
except ImportError:
  pass
if sup_contrast:
  hobbit = load(sup_contrast, 'hobbit').SupConLoss(tau, base_temperature=tau)
  views = lambda: torch.stack([z[:num // 2], z[num // 2:]], 1)
  runs['HobbitLong SupConLoss'] = lambda: hobbit(views(), half)
if thanos:
  base = types.ModuleType('unagi.tasks.loss_fns.base_loss')
  base.UnagiLoss = torch.nn.Module
  for name in ('unagi', 'unagi.tasks', 'unagi.tasks.loss_fns'):
    sys.modules[name] = types.ModuleType(name)
  sys.modules[base.__name__] = base
  spread = load(thanos, 'thanos').ContrastiveLoss(2, temp=tau)
  pairs = lambda: torch.stack([half, half], 1).reshape(-1)
  runs['thanos-code spread'] = lambda: spread(
    z[:num // 2], z[num // 2:], pairs())
for name, run in runs.items():
  times = []
  for _ in range(1 if 'thanos' in name else rounds):
    z.grad = None
    start = time.perf_counter()
    run().backward()
    times.append(time.perf_counter() - start)
  print(f'{name}\t{min(times)}', flush=True)
"""


def dense(z, labels, temperature):
  """Supervised contrastive loss as one would write it down."""
  s = z @ z.T / temperature
  off = ~jnp.eye(z.shape[0], dtype=bool)
  pos = off & (labels[:, None] == labels[None, :])
  log_all = jax.nn.logsumexp(jnp.where(off, s, -jnp.inf), axis=1)
  num = jnp.maximum(jnp.sum(pos, 1), 1)
  return log_all - jnp.sum(jnp.where(pos, s, 0), 1) / num


def main():
  """Prints one table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num', type=int, default=4096)
  parser.add_argument('--dim', type=int, default=128)
  parser.add_argument('--classes', type=int, default=10)
  parser.add_argument('--temperature', type=float, default=0.1)
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--torch_python', default='')
  parser.add_argument('--sup_contrast', default='')
  parser.add_argument('--thanos', default='')
  args = parser.parse_args()
  rng, num, tau = np.random.default_rng(0), args.num, args.temperature
  z = rng.normal(size=(num, args.dim)).astype('f')
  z = jnp.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))
  labels = jnp.tile(rng.integers(0, args.classes, size=num // 2), 2)
  ids = jnp.tile(jnp.arange(num // 2), 2)
  losses_ = {
    'ours, supervised_contrastive': lambda z, y, i: (
      losses.supervised_contrastive(z, y, i, temperature=tau)
    ),
    'ours, spread': lambda z, y, i: losses.spread(
      z, y, i, alpha=0.5, temperature=tau
    ),
    'ours, infonce': lambda z, y, i: losses.infonce(z, i, temperature=tau),
    'dense supervised_contrastive': lambda z, y, i: dense(z, y, tau),
    'similarities alone': None,
  }
  compiled, times = {}, {name: [] for name in losses_}
  for name, fun in losses_.items():
    if fun is None:
      program = jax.jit(lambda z, y, i: z @ z.T)
    else:
      program = jax.jit(
        jax.value_and_grad(lambda z, y, i, fun=fun: fun(z, y, i).mean())
      )
    compiled[name] = program.lower(z, labels, ids).compile()
  for _ in range(args.rounds):
    for name, program in compiled.items():
      start = time.perf_counter()
      jax.block_until_ready(program(z, labels, ids))
      times[name].append(time.perf_counter() - start)
  rows = [
    (
      name,
      min(times[name]),
      program.memory_analysis().temp_size_in_bytes / 2**20,
    )
    for name, program in compiled.items()
  ]
  if args.torch_python:
    sizes = [num, args.dim, args.classes, args.rounds, tau]
    command = [args.torch_python, '-c', TORCH, *map(str, sizes)]
    out = subprocess.run(
      [*command, args.sup_contrast, args.thanos],
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    ).stdout
    for line in out.splitlines():
      name, seconds = line.split('\t')
      rows.append((name, float(seconds), None))
  print(f'N={num} D={args.dim}, {args.classes} classes, float32')
  print('| value and gradient | ms | over ours | temporaries, MiB |')
  print('|---|---|---|---|')
  reference = {'spread': rows[1][1]}
  for name, seconds, memory in rows:
    ratio = seconds / (reference['spread'] if 'spread' in name else rows[0][1])
    text = '' if memory is None else f'{memory:.1f}'
    print(f'| {name} | {seconds * 1e3:.0f} | {ratio:.2f} | {text} |')


if __name__ == '__main__':
  main()
