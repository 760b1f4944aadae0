"""What a training step takes on TPU pods of growing size, none of them there.

  python -m benchmarks.scaling                      # v5e-16 and v5e-256
  python -m benchmarks.scaling --topologies v6e:16x16 --methods hro,erm
  python -m benchmarks.scaling --virtual            # devices of this CPU

The first compiles the step of each method for each topology by libtpu, as
``launch.py --aot`` does, and prints a row of docs/scaling.md. A fixed number of
images a chip makes a program that is the same on every chip but for what is
sent. Each takes minutes and some 6 GiB of memory here.

The last compiles for the CPU, on 1, 2, 4 and 8 devices of one process and in 1,
2 and 4 processes with a device each, and exits 1 unless FLOPs and bytes a
device are within 2% of each other; it takes three minutes of a core. SimCLR
compares each image with those of all devices, so that its FLOPs must grow; of
its ring the bytes may not, from four devices on.
"""

import argparse
import json
import os
import socket
import subprocess
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-1')
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')

import jax  # noqa: E402

from configs import gr, hro, simclr, tarrl, thanos  # noqa: E402
from rrl_jax.train import aot, chips, experiment, loop, multihost  # noqa: E402

METHODS = ('erm', 'gr', 'hro', 'simclr', 'tarrl', 'thanos')
VIRTUAL = ('erm', 'gr', 'hro', 'simclr')  # Those that --virtual compiles.
# A chip: 128 rows of one view, or 64 of two; thanos has two encoders and a
# decoder besides.
IMAGES = {'erm': 128, 'gr': 128, 'hro': 128, 'simclr': 64, 'tarrl': 64,
          'thanos': 16}  # fmt: skip
TOLERANCE = 0.02
_RING = 4  # Devices of a ring with a block on each, and one on the way.
HEADER = (
  'method', 'topology', 'chips', 'images/chip', 'GiB/chip', 'TFLOP/step/chip',
  'over erm', 'over model', 'sent/step', 'in attack', 'images/s at most',
  'bound by', 'compile s',
)  # fmt: skip


def pod_config(method: str, dtype: str):
  """A method on ResNet-50 and images of 224 pixels."""
  if method == 'tarrl':
    config = tarrl.get_config('imagenet')
  elif method == 'simclr':
    config = simclr.get_config('imagenet')
  elif method == 'thanos':
    config = thanos.get_config('celeb_a')
  else:
    config = hro.get_config('imagenet' if method == 'hro' else 'erm,imagenet')
    config.model.name = 'resnet50'
  if method == 'erm':
    config.objective = {'name': 'erm', 'kw': {}}
  if method == 'gr':
    config.objective = gr.get_config('cifar100').objective
  config.model.kw.dtype = dtype
  return config


def pod_rows(topologies, methods, images, dtype):
  """Yields a row a method and topology."""
  for topology in topologies:
    chip, erm = chips.of_topology(topology), None
    for method in methods:
      config = pod_config(method, dtype)
      per_chip = images or IMAGES[method]
      config.batch_size = per_chip * len(aot.devices(topology))
      built = aot.build(config, topology)
      row = [method, topology, built.mesh.size, per_chip]
      try:
        cost = aot.train_step(built, chip)
      except aot.DoesNotFitError as error:
        yield [*row, f'{error.gib:.2f}: too much', *['-'] * 8]
        continue
      if method == 'erm':
        erm = cost.flops / per_chip
      bounds = cost.bounds(chip)
      slowest = max(bounds, key=bounds.get)
      sent = sum(c.times * c.num_bytes for c in cost.collectives)
      attack = sum(c.times * c.num_bytes for c in cost.in_attack())
      for line in aot.collective_lines(cost):
        print(f'  {line}', file=sys.stderr, flush=True)
      yield [
        *row,
        f'{cost.num_bytes / 2**30:.2f}',
        f'{cost.flops / 1e12:.3f}',
        f'{cost.flops / per_chip / erm:.2f}' if erm else '-',
        f'{cost.flops / aot.model_flops(built):.2f}',
        f'{sent / 2**20:.1f} MiB',
        f'{attack / 2**20:.1f} MiB' if attack else 'nothing',
        f'{config.batch_size / bounds[slowest]:,.0f}',
        slowest,
        f'{cost.seconds:.0f}',
      ]


def small_step(method: str, num_devices: int) -> tuple[float, float]:
  """FLOPs and bytes a device of a step on digits, 64 images a device."""
  if method == 'simclr':
    config = simclr.get_config()
    for transform in ('jitter', 'grayscale', 'blur', 'solarize'):
      config.data.augment[transform] = 0.0
  else:
    config = hro.get_config('digits' if method == 'hro' else 'erm')
    config.model.name = 'cnn'
    config.model.kw.widths = None
  if method == 'gr':
    config.objective = gr.get_config('digits').objective
  config.mesh.data = num_devices
  config.batch_size = 64 * num_devices
  built = experiment.build(config, shapes_only=True)
  compiled = loop.jit_step(built).lower(*aot.arguments(built)).compile()
  cost = aot.cost_of(compiled, num_devices)
  return cost.flops, cost.num_bytes


def in_processes(method: str, count: int) -> tuple[float, float]:
  """The same, compiled by so many processes with a device each."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    where = f'127.0.0.1:{probe.getsockname()[1]}'
  command = (sys.executable, '-m', 'benchmarks.scaling', '--methods', method)
  started = [
    subprocess.Popen(
      [*command, '--process', where, str(count), str(index)],
      env=os.environ | {'XLA_FLAGS': ''},
      stdout=subprocess.PIPE,
    )
    for index in range(count)
  ]
  said = [process.communicate()[0] for process in started]
  return tuple(json.loads(said[0].splitlines()[-1]))  # Gloo prints too.


def check_virtual(methods) -> list[str]:
  """Prints the rows; returns the methods that do not stay the same."""
  print('method   devices  processes   MFLOP/device   KiB/device')
  differ = []
  for method in methods:
    found = []
    for devices, processes in ((1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 4)):
      if processes == 1:
        flops, num_bytes = small_step(method, devices)
      else:
        flops, num_bytes = in_processes(method, processes)
      print(
        f'{method:8} {devices:7} {processes:10} {flops / 1e6:14.2f}'
        f' {num_bytes / 1024:12.1f}',
        flush=True,
      )
      if method != 'simclr':
        found.append((num_bytes, flops))
      elif devices >= _RING:
        found.append((num_bytes,))
    if any(max(v) > (1 + TOLERANCE) * min(v) for v in zip(*found, strict=True)):
      differ.append(method)
  return differ


def main():
  """Prints a table; exits 1 where the virtual devices differ."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topologies', default='v5e:4x4,v5e:16x16')
  parser.add_argument('--methods', help=f'some of {",".join(METHODS)}')
  parser.add_argument('--images', type=int, help='images a chip')
  parser.add_argument('--dtype', default='float32', help='or bfloat16')
  parser.add_argument('--virtual', action='store_true')
  parser.add_argument('--process', nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.process:
    where, count, index = args.process
    multihost.join(where, int(count), int(index))
    print(json.dumps(small_step(args.methods, int(count))))
    return
  methods = args.methods.split(',') if args.methods else ()
  if unknown := set(methods) - set(VIRTUAL if args.virtual else METHODS):
    parser.error(f'unknown here: {", ".join(sorted(unknown))}')
  if args.virtual:
    differ = check_virtual(methods or VIRTUAL)
    raise SystemExit(f'not constant: {", ".join(differ)}' if differ else 0)
  print(f'jax {jax.__version__}, ResNet-50, 224 pixels, {args.dtype}\n')
  print(f'| {" | ".join(HEADER)} |\n|{"---|" * len(HEADER)}')
  topologies = args.topologies.split(',')
  for row in pod_rows(topologies, methods or METHODS, args.images, args.dtype):
    print(f'| {" | ".join(map(str, row))} |', flush=True)


if __name__ == '__main__':
  main()
