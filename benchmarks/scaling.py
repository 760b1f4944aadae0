"""What a training step takes on TPU pods of growing size, none of them there.

  python -m benchmarks.scaling                      # v5e-16 and v5e-256
  python -m benchmarks.scaling --topologies v6e:16x16 --methods hro,erm
  python -m benchmarks.scaling --virtual            # 1 to 8 devices of this CPU

The first compiles the step of each method for each topology by libtpu, as
``launch.py --aot`` does, and prints a row of docs/scaling.md. A fixed number of
images a chip makes a program that is the same on every chip but for what is
sent. Each takes minutes and some 6 GiB of memory here.

The last compiles for the CPU and exits 1 unless FLOPs and bytes a device are
within 2% of each other on 1, 2, 4 and 8 devices.
"""

import argparse
import os
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-1')
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')

import jax  # noqa: E402

from configs import gr, hro, simclr, tarrl, thanos  # noqa: E402
from rrl_jax.train import aot, chips, experiment, loop  # noqa: E402

METHODS = ('erm', 'gr', 'hro', 'simclr', 'tarrl', 'thanos')
# A chip: 128 rows of one view, or 64 of two; thanos has two encoders and a
# decoder besides.
IMAGES = {'erm': 128, 'gr': 128, 'hro': 128, 'simclr': 64, 'tarrl': 64,
          'thanos': 16}  # fmt: skip
TOLERANCE = 0.02
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


def virtual_rows(methods):
  """Yields ``(method, devices, FLOPs, bytes)`` a device at a fixed batch."""
  for method in methods:
    for count in (1, 2, 4, 8):
      config = hro.get_config('digits' if method == 'hro' else 'erm')
      if method == 'gr':
        config.objective = gr.get_config('digits').objective
      config.model.name = 'cnn'
      config.model.kw.widths = None
      config.mesh.data = count
      config.batch_size = 64 * count
      built = experiment.build(config, shapes_only=True)
      compiled = loop.jit_step(built).lower(*aot.arguments(built)).compile()
      cost = aot.cost_of(compiled, count)
      yield method, count, cost.flops, cost.num_bytes


def check_virtual(methods) -> list[str]:
  """Prints the rows; returns the methods that do not stay the same."""
  print('method   devices   MFLOP/device   KiB/device')
  found = {}
  for method, count, flops, num_bytes in virtual_rows(methods):
    print(
      f'{method:8} {count:7} {flops / 1e6:14.2f} {num_bytes / 1024:12.1f}',
      flush=True,
    )
    found.setdefault(method, []).append((flops, num_bytes))
  return [
    method
    for method, costs in found.items()
    if any(
      max(values) > (1 + TOLERANCE) * min(values)
      for values in zip(*costs, strict=True)
    )
  ]


def main():
  """Prints a table; exits 1 where the virtual devices differ."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topologies', default='v5e:4x4,v5e:16x16')
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--images', type=int, help='images a chip')
  parser.add_argument('--dtype', default='float32', help='or bfloat16')
  parser.add_argument('--virtual', action='store_true')
  args = parser.parse_args()
  if args.virtual:
    differ = check_virtual(('erm', 'gr', 'hro'))
    raise SystemExit(f'not constant: {", ".join(differ)}' if differ else 0)
  print(f'jax {jax.__version__}, ResNet-50, 224 pixels, {args.dtype}\n')
  print(f'| {" | ".join(HEADER)} |\n|{"---|" * len(HEADER)}')
  methods = args.methods.split(',')
  topologies = args.topologies.split(',')
  for row in pod_rows(topologies, methods, args.images, args.dtype):
    print(f'| {" | ".join(map(str, row))} |', flush=True)


if __name__ == '__main__':
  main()
