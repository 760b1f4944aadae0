"""AutoAttack standard against pyautoattack on one small convolutional network.

  pip install torch==2.13.0 pyautoattack==0.2.0   # in an environment apart
  python -m benchmarks.auto_attack --peer=PATH_OF_THAT_PYTHON

Trains a small network on the digits of scikit-learn, enlarged to 24x24, picks a
radius at which half of the examples are robust, and runs both programs on the
same weights, examples and radius, each in its own process and one after the
other. Times are CPU times (user and system), so that a busy machine matters
less; compiled steps come from a cache from the second repeat on, and what the
first repeat spends on compiling stands apart. The floor is what the passes
through the model alone cost: forward and backward for APGD, twice forward and
once backward for FAB, forward for Square, as many as the ensemble asks for.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

PASSES = {'apgd-ce': 101, 'apgd-t': 909, 'fab-t': 900, 'square': 5001}


def init_params(rng, channels):
  """He-initialised weights of two convolutions and a linear layer."""
  draw = lambda *shape: (
    rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5
  )
  params = {
    'c1': draw(3, 3, 1, channels),
    'c2': draw(3, 3, channels, 2 * channels),
    'w': draw(6 * 6 * 2 * channels, 10),
    'b': np.zeros(10),
  }
  return {k: v.astype(np.float32) for k, v in params.items()}


def jax_net(params, x):
  """The network, channels last."""
  import jax

  numbers = ('NHWC', 'HWIO', 'NHWC')
  conv = lambda x, w, stride: jax.lax.conv_general_dilated(
    x, w, (stride, stride), 'SAME', dimension_numbers=numbers
  )
  x = jax.nn.relu(conv(x, params['c1'], 2))
  x = jax.nn.relu(conv(x, params['c2'], 2))
  return x.reshape(x.shape[0], -1) @ params['w'] + params['b']


def digits(count):
  """Training and test digits in [0, 1]."""
  from sklearn import datasets

  found = datasets.load_digits()
  x = np.kron(found.images / 16, np.ones((1, 3, 3)))
  x = x.astype(np.float32)[..., None]
  y = found.target.astype(np.int32)
  order = np.random.default_rng(0).permutation(len(x))
  x, y = x[order], y[order]
  return (x[count:], y[count:]), (x[:count], y[:count])


def train(params, x, y, epsilon):
  """A few epochs of PGD-3 training with Adam."""
  import jax
  import jax.numpy as jnp
  import optax

  from rrl_jax import attacks

  def loss_of(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(
      jax_net(params, x), y
    )

  tx = optax.adam(2e-3)

  @jax.jit
  def step(params, state, x, y, key):
    adv = attacks.pgd(
      lambda z: loss_of(params, z, y),
      key,
      x,
      epsilon=epsilon,
      step_size=epsilon / 2,
      num_steps=3,
    )
    grads = jax.grad(lambda p: jnp.mean(loss_of(p, adv, y)))(params)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state

  state, rng = tx.init(params), np.random.default_rng(1)
  for i in range(160):
    rows = rng.integers(0, len(x), 128)
    params, state = step(params, state, x[rows], y[rows], jax.random.key(i))
  return {k: np.asarray(v) for k, v in params.items()}


def ours(path):
  """Our time by attack, twice: with compilation and without."""
  import jax

  from rrl_jax import attacks

  data = np.load(path)
  params = {k: data[k] for k in ('c1', 'c2', 'w', 'b')}
  x, y, epsilon = data['x'], data['y'], float(data['epsilon'])
  logits_fn = lambda x: jax_net(params, x)
  spent, mark = {}, [time.process_time()]

  def progress(state):
    now = time.process_time()
    spent[state.attack] = spent.get(state.attack, 0) + now - mark[0]
    mark[0] = now

  start = time.process_time()
  result = attacks.auto_attack(
    logits_fn,
    jax.random.key(0),
    x,
    y,
    epsilon=epsilon,
    norm=str(data['norm']),
    batch_size=int(data['batch_size']),
    progress=progress,
  )
  total = time.process_time() - start
  after = {k: int(v.sum()) for k, v in result.by_attack.items()}

  # The bare passes, at the batch size of most of the work.
  rows = x[: min(int(data['batch_size']), max(int(result.robust.sum()), 1))]
  label = y[: len(rows)]
  forward = jax.jit(logits_fn)
  both = jax.jit(
    jax.grad(lambda z: logits_fn(z)[np.arange(len(z)), label].sum())
  )

  def cost(fun):
    fun(rows).block_until_ready()
    found = []
    for _ in range(7):
      before = time.process_time()
      for _ in range(20):
        fun(rows).block_until_ready()
      found.append((time.process_time() - before) / 20)
    return min(found) / len(rows)

  return {
    'total': total,
    'attacks': spent,
    'after': after,
    'robust': result.robust.tolist(),
    'forward': cost(forward),
    'both': cost(both),
  }


PEER = """
import json, sys, time
import numpy as np, torch
from torch.nn import functional as F
from pyautoattack import AutoAttack
data = np.load(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
c1, c2 = (torch.tensor(data[k].transpose(3, 2, 0, 1).copy())
          for k in ('c1', 'c2'))
w, b = torch.tensor(data['w']), torch.tensor(data['b'])
class Net(torch.nn.Module):
  def forward(self, x):
    # 'SAME' with stride 2 on an even side pads after, not before.
    x = F.relu(F.conv2d(F.pad(x, (0, 1, 0, 1)), c1, stride=2))
    x = F.relu(F.conv2d(F.pad(x, (0, 1, 0, 1)), c2, stride=2))
    return x.permute(0, 2, 3, 1).flatten(1) @ w + b
x = torch.tensor(data['x'].transpose(0, 3, 1, 2).copy())
y = torch.tensor(data['y']).long()
net = Net().eval()
spent, after, adv, robust = {}, {}, x, net(x).argmax(1) == y
after['clean'] = int(robust.sum())
norm = {'linf': 'Linf', 'l2': 'L2', 'l1': 'L1'}[str(data['norm'])]
start = time.process_time()
attack = AutoAttack(net, norm=norm, eps=float(data['epsilon']), seed=0)
for name in list(attack.attacks_to_run):
  before = time.process_time()
  attack.attacks_to_run = [name]
  rows = robust.nonzero().squeeze(1)
  if len(rows):
    adv, _ = attack.run_standard_evaluation(
      x[rows], y[rows], batch_size=int(data['batch_size']))
    robust[rows] = net(adv).argmax(1) == y[rows]
  spent[name] = time.process_time() - before
  after[name] = int(robust.sum())
print(json.dumps({'total': time.process_time() - start, 'attacks': spent,
                  'after': after, 'robust': robust.tolist()}))
"""


def radius_for(params, x, y):
  """A radius at which about half are robust to a short ensemble."""
  import jax

  from rrl_jax import attacks

  low, high = 0.0, 0.5
  for _ in range(6):
    middle = (low + high) / 2
    result = attacks.apgd(
      lambda x: jax_net(params, x),
      jax.random.key(0),
      x,
      y,
      epsilon=middle,
      loss='dlr',
      num_steps=20,
    )
    if float(result.robust.mean()) > 0.5:
      low = middle
    else:
      high = middle
  return (low + high) / 2


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--peer', help='a python with torch and pyautoattack')
  parser.add_argument('--examples', type=int, default=256)
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--channels', type=int, default=32)
  parser.add_argument('--norm', default='linf')
  parser.add_argument('--epsilon', type=float)
  parser.add_argument('--repeats', type=int, default=2)
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--ours', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.ours:
    print(json.dumps(ours(args.ours)))
    return
  (x, y), (test_x, test_y) = digits(args.examples)
  params = init_params(np.random.default_rng(0), args.channels)
  params = train(params, x, y, 0.1)
  epsilon = args.epsilon or radius_for(params, test_x, test_y)
  env = os.environ | {'JAX_PLATFORMS': 'cpu'}
  if args.threads == 1:
    env['XLA_FLAGS'] = '--xla_cpu_multi_thread_eigen=false'
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'data.npz'
    np.savez(
      path,
      x=test_x,
      y=test_y,
      epsilon=epsilon,
      norm=args.norm,
      batch_size=args.batch_size,
      **params,
    )

    def call(command):
      out = subprocess.run(
        command, env=env, check=True, capture_output=True, text=True
      )
      return json.loads(out.stdout.splitlines()[-1])

    env |= {
      'JAX_COMPILATION_CACHE_DIR': str(pathlib.Path(folder) / 'cache'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    runs = {'ours': [], 'peer': []}
    for _ in range(args.repeats):
      command = [sys.executable, '-m', 'benchmarks.auto_attack', '--ours', path]
      runs['ours'].append(call(command))
      if args.peer:
        command = [args.peer, '-c', PEER, path, str(args.threads)]
        runs['peer'].append(call(command))
  report(runs, args, epsilon)


def report(runs, args, epsilon):
  """Prints minima over the repeats."""
  best = lambda who: min(runs[who], key=lambda r: r['total'])
  mine = best('ours')
  theirs = best('peer') if runs['peer'] else None
  print(
    f'{args.examples} digits, {args.channels}-{2 * args.channels} channels, '
    f'{args.norm} {epsilon:.4f}, batches of {args.batch_size}, CPU seconds, '
    f'least of {args.repeats}'
  )
  print('attack    robust after  ours s  ms/example  floor ms  peer s  ratio')
  before = mine['after']['clean']
  forward, both = mine['forward'], mine['both']
  for name, passes in PASSES.items():
    each = {'fab-t': forward + both, 'square': forward}.get(name, both)
    spent = mine['attacks'].get(name, 0.0)
    peer = theirs['attacks'][name] if theirs else float('nan')
    print(
      f'{name:9} {mine["after"][name]:12} {spent:7.2f}'
      f' {spent / max(before, 1) * 1e3:11.2f} {passes * each * 1e3:9.2f}'
      f' {peer:7.2f} {peer / max(spent, 1e-9):6.2f}'
    )
    before = mine['after'][name]
  compiling = runs['ours'][0]['total'] - mine['total']
  if theirs:
    differ = np.sum(np.array(mine['robust']) != np.array(theirs['robust']))
    print(
      f'all       {mine["after"]["square"]:12} {mine["total"]:7.2f}'
      f' {"":21} {theirs["total"]:7.2f} {theirs["total"] / mine["total"]:6.2f}'
    )
    print(f'robust flags that differ: {differ} of {args.examples}')
  print(f'compiling, once: {compiling:.2f} s more')


if __name__ == '__main__':
  main()
