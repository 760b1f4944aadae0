"""PGD-20 in linf against torchattacks, on the same weights and images.

  pip install torch==2.13.0 torchattacks==3.5.1   # in an environment apart
  python -m benchmarks.pgd --peer=PATH_OF_THAT_PYTHON

Three rows: a small convolutional network with pooling on one core, the same on
two, and ResNet-18 with the CIFAR stem on one. On two cores the batch is spread
over two host devices by its sharding and nothing else changes; the peer has two
threads. Weights are random, labels are the clean predictions, and the radius is
the one at which about half of the images fall, with a step of a quarter of it
and no random start, so that both programs should walk the same way but for
rounding. Each program sits in a process of its own, pinned to as many cores,
and they take turns call by call. The floor is what 20 bare forward and
backward passes through the network cost us.
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

STEPS = 20
ROWS = (('cnn', 1), ('cnn', 2), ('resnet18', 1))
BATCH = {'cnn': 64, 'resnet18': 16}
# What is aimed at: our wall time over the peer's.
AIMS = {('cnn', 1): 1 / 1.7, ('cnn', 2): 0.5, ('resnet18', 1): 1.1}


def digits(count):
  """Handwritten digits in [0, 1] as 32x32 images of three channels."""
  from sklearn import datasets

  images = datasets.load_digits().images[:count] / 16
  images = np.kron(images, np.ones((1, 4, 4)))[..., None]
  return np.repeat(images, 3, axis=3).astype(np.float32)


def weights(name):
  """Random weights, by name."""
  rng = np.random.default_rng(0)
  if name == 'cnn':
    shapes = {
      'c1': (3, 3, 3, 32),
      'c2': (3, 3, 32, 64),
      'd': (8 * 8 * 64, 128),
      'w': (128, 10),
    }
    return {
      k: (rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5).astype(
        np.float32
      )
      for k, shape in shapes.items()
    }
  import jax

  from rrl_jax import models

  model = models.make(name, num_classes=10, zero_init_last=False)
  params, state = models.init(model, jax.random.key(0), (32, 32, 3))
  found = {}
  for tree in (params, state['batch_stats']):
    for path, leaf in jax.tree.leaves_with_path(tree):
      found['/'.join(part.key for part in path)] = np.asarray(leaf)
  return found


def jax_net(name, flat):
  """The network as images to logits, channels last."""
  import jax
  import jax.numpy as jnp

  from rrl_jax import models
  from rrl_jax.models import _layers

  if name == 'cnn':

    def conv(x, w):
      return jax.lax.conv_general_dilated(
        x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )

    def net(x):
      x = _layers.max_pool(jax.nn.relu(conv(x, flat['c1'])), 2, 2)
      x = _layers.max_pool(jax.nn.relu(conv(x, flat['c2'])), 2, 2)
      x = jax.nn.relu(x.reshape(x.shape[0], -1) @ flat['d'])
      return x @ flat['w']

    return net
  params, stats = {}, {}
  for path, leaf in flat.items():
    *parents, last = path.split('/')
    tree = stats if last in ('mean', 'var') else params
    for part in parents:
      tree = tree.setdefault(part, {})
    tree[last] = jnp.asarray(leaf)
  model = models.make(name, num_classes=10, zero_init_last=False)
  apply = models.apply_fn(model)
  state = {'batch_stats': stats}
  return lambda x: apply(params, state, x, train=False)[0][0]


def losses(net, y):
  """Cross-entropy of each image."""
  import optax

  return lambda x: optax.softmax_cross_entropy_with_integer_labels(net(x), y)


def ours(path, cores):
  """Serves ``attack`` and ``floor`` calls, one a line of standard input."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])

  import jax
  from jax.sharding import AxisType, NamedSharding
  from jax.sharding import PartitionSpec as P

  from rrl_jax import attacks

  data = dict(np.load(path))
  x, y, epsilon = (data.pop(k) for k in ('x', 'y', 'epsilon'))
  net = jax_net(str(data.pop('name')), data)
  epsilon = float(epsilon)
  mesh = jax.make_mesh((cores,), ('data',), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P('data'))
  x, y = jax.device_put((x, y), rows)

  def pgd(x, y):
    return attacks.pgd(
      losses(net, y),
      None,
      x,
      epsilon=epsilon,
      step_size=epsilon / 4,
      num_steps=STEPS,
      random_start=False,
    )

  start = time.perf_counter()
  attack = jax.jit(pgd, out_shardings=rows).lower(x, y).compile()
  say({'compile': time.perf_counter() - start})
  grad = jax.jit(
    jax.grad(lambda x, y: losses(net, y)(x).sum()), out_shardings=rows
  )
  grad(x, y).block_until_ready()
  adv = attack(x, y)
  wrong = np.asarray(net(adv).argmax(axis=1) != y)
  np.savez(pathlib.Path(path).with_suffix('.ours.npz'), adv=adv, wrong=wrong)

  def floor():
    for _ in range(STEPS):
      found = grad(x, y)
    found.block_until_ready()

  serve({'attack': lambda: attack(x, y).block_until_ready(), 'floor': floor})


def say(message):
  """Writes one line of JSON."""
  print(json.dumps(message), flush=True)


def serve(calls):
  """Times the calls that standard input names."""
  say({'ready': True})
  for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    calls[line.strip()]()
    say([time.perf_counter() - wall, time.process_time() - cpu])


PEER = r"""
import json, os, pathlib, sys, time
path, cores = sys.argv[1], int(sys.argv[2])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
import numpy as np, torch, torchattacks
from torch.nn import functional as F
torch.set_num_threads(cores)
data = dict(np.load(path))
x = torch.tensor(data.pop('x').transpose(0, 3, 1, 2).copy())
y = torch.tensor(data.pop('y')).long()
name, epsilon = str(data.pop('name')), float(data.pop('epsilon'))
p = {k: torch.tensor(v.transpose(3, 2, 0, 1).copy() if v.ndim == 4 else v)
     for k, v in data.items()}
def conv(x, name, stride=1):  # Pads as XLA does: all on one side if odd.
  w = p[name + '/kernel']
  return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)
def norm(x, name):
  return F.batch_norm(x, *(p[f'{name}/{k}'] for k in (
    'mean', 'var', 'scale', 'bias')), False, 0, 1e-5)
class Net(torch.nn.Module):
  def cnn(self, x):
    x = F.max_pool2d(F.relu(F.conv2d(x, p['c1'], padding=1)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, p['c2'], padding=1)), 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    return F.relu(x @ p['d']) @ p['w']
  def resnet18(self, x):
    x = F.relu(norm(conv((x - 0.5) / 0.5, 'stem_conv'), 'stem_norm'))
    for i in range(4):
      for j in range(2):
        block, stride = f'stage{i}_block{j}/', 2 if i and not j else 1
        z = F.relu(norm(conv(x, block + 'conv0', stride), block + 'norm0'))
        z = norm(conv(z, block + 'conv1'), block + 'norm1')
        if stride > 1:
          x = norm(conv(x, block + 'shortcut_conv', stride),
                   block + 'shortcut_norm')
        x = F.relu(x + z)
    return x.mean((2, 3)) @ p['head/kernel'] + p['head/bias']
  def forward(self, x):
    return getattr(self, name)(x)
net = Net().eval()
attack = torchattacks.PGD(net, eps=epsilon, alpha=epsilon / 4, steps=STEPS,
                          random_start=False)
run = lambda: attack(x, y)
adv = run()
with torch.no_grad():
  wrong = (net(adv).argmax(1) != y).numpy()
np.savez(pathlib.Path(path).with_suffix('.peer.npz'),
         adv=adv.numpy().transpose(0, 2, 3, 1), wrong=wrong)
print(json.dumps({'ready': True}), flush=True)
for line in sys.stdin:
  wall, cpu = time.perf_counter(), time.process_time()
  run()
  print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]),
        flush=True)
"""


class Worker:
  """A program that times itself when asked, on a few cores."""

  def __init__(self, command, cores, env):
    self.process = subprocess.Popen(
      [*map(str, command), str(cores)],
      env=os.environ | env,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.facts = {}
    while 'ready' not in self.facts:
      self.facts |= self.read()

  def read(self):
    """The next message."""
    for line in self.process.stdout:
      if line[0] in '{[':  # Programs greet, too.
        return json.loads(line)
    raise RuntimeError('the program ended early')

  def call(self, what):
    """Wall and CPU seconds of one call."""
    self.process.stdin.write(what + '\n')
    self.process.stdin.flush()
    return self.read()

  def close(self):
    """Ends the program."""
    self.process.stdin.close()
    self.process.wait()


def problem(name, path):
  """Writes weights, images, labels and the radius at which half fall."""
  import jax
  import jax.numpy as jnp

  from rrl_jax import attacks

  flat, x = weights(name), digits(BATCH[name])
  net = jax.jit(jax_net(name, flat))
  y = np.asarray(net(x).argmax(axis=1)).astype(np.int32)

  @jax.jit
  def fallen(epsilon, x):
    adv = attacks.pgd(
      losses(net, y),
      None,
      x,
      epsilon=epsilon,
      step_size=epsilon / 2,
      num_steps=4,
      random_start=False,
    )
    return jnp.mean(net(adv).argmax(axis=1) != y)

  low, high = 0.0, 0.25
  for _ in range(10):
    middle = (low + high) / 2
    if float(fallen(middle, x)) > 0.5:
      high = middle
    else:
      low = middle
  np.savez(path, x=x, y=y, epsilon=high, name=name, **flat)
  return high


def measure(name, cores, args, folder):
  """One row: both programs, turn by turn."""
  path = pathlib.Path(folder) / f'{name}.npz'
  flags = f'--xla_force_host_platform_device_count={cores}'
  env = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
  command = [sys.executable, '-m', 'benchmarks.pgd', '--ours', path]
  mine = Worker(command, cores, env)
  theirs = None
  if args.peer:
    code = PEER.replace('steps=STEPS', f'steps={STEPS}')
    theirs = Worker([args.peer, '-c', code, path], cores, {})
  found = {'attack': [], 'floor': [], 'peer': []}
  for _ in range(args.rounds):
    found['attack'].append(mine.call('attack'))
    if theirs:
      found['peer'].append(theirs.call('attack'))
    found['floor'].append(mine.call('floor'))
  mine.close()
  text = [f'{name}, {cores} core{"s" * (cores > 1)}', f'{BATCH[name]}']
  best = {k: np.min(v, axis=0) for k, v in found.items() if v}
  show = lambda times: f'{times[0]:.2f} ({times[1]:.2f})'
  text += [show(best['attack']), show(best['floor'])]
  if theirs:
    theirs.close()
    pairs = np.array(found['attack']) / np.array(found['peer'])
    aim = AIMS.get((name, cores))
    text += [
      show(best['peer']),
      show(best['attack'] / best['peer']),
      show(np.median(pairs, axis=0)),
      f'{aim:.2f}' if aim else '',
    ]
    a, b = (np.load(path.with_suffix(f'.{w}.npz')) for w in ('ours', 'peer'))
    gap = np.abs(a['adv'] - b['adv']).reshape(len(a['adv']), -1)
    same = (gap < 1e-6).mean()
    text += [
      f'{(a["wrong"] == b["wrong"]).mean():.3f}',
      f'{same:.4f}',
      f'{1 - a["wrong"].mean():.2f}',
    ]
  text.append(f'{mine.facts["compile"]:.1f}')
  print('| ' + ' | '.join(text) + ' |', flush=True)


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--peer', help='a python with torch and torchattacks')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--only', default='', help='cnn or resnet18')
  parser.add_argument('--ours', nargs=2, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.ours:
    path, cores = args.ours
    ours(path, int(cores))
    return
  head = ['network', 'batch', 'ours s', 'floor s']
  if args.peer:
    head += ['torchattacks s', 'ratio', 'median ratio', 'aim']
    head += ['equal flags', 'equal pixels', 'robust']
  head.append('compile s')
  print('Least of the rounds in wall seconds (CPU seconds); ratio is ours over')
  print('theirs of these, median ratio that of the turns.')
  print('| ' + ' | '.join(head) + ' |\n' + '|---' * len(head) + '|', flush=True)
  with tempfile.TemporaryDirectory() as folder:
    for name, cores in ROWS:
      if args.only and name != args.only:
        continue
      path = pathlib.Path(folder) / f'{name}.npz'
      if not path.exists():
        problem(name, path)
      if cores <= len(os.sched_getaffinity(0)):
        measure(name, cores, args, folder)


if __name__ == '__main__':
  main()
