"""The corruptions of the benchmark against imagecorruptions-imaug.

  pip install imagecorruptions-imaug==1.1.5
  taskset -c 0 python -m benchmarks.corruptions

Both run in one process on one core, corruption by corruption in turn, at
severity 3 of ImageNet-C's table, which is the one that the peer has, on the
same random images of 32x32x3. Ours takes all images in one call, the peer one
image a call, as it is meant to be used. Compilation is not counted, and told
apart. The first line of each round of the peer, which fills its caches, is
left out by taking the least of the rounds.
"""

import argparse
import os
import time

AIM = 10  # Times as fast as the peer, in the sum of the 15.


def restrict():
  """Leaves the process one core and one thread, before anything is imported."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
  os.environ['JAX_PLATFORMS'] = 'cpu'
  for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMBA_NUM_THREADS'):
    os.environ[name] = '1'


def seconds(fun) -> float:
  """Processor time of a call: other work on the core does not count."""
  start = time.process_time()
  fun()
  return time.process_time() - start


def main():
  """Prints a row a corruption and the sum."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--images', type=int, default=1000)
  parser.add_argument('--peer_images', type=int, default=200)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--severity', type=int, default=3)
  parser.add_argument('--only', default='', help='names with commas')
  parser.add_argument('--extra', action='store_true', help='the other four too')
  args = parser.parse_args()
  restrict()

  import cv2
  import imagecorruptions
  import jax
  import numpy as np

  from rrl_jax import corruptions

  cv2.setNumThreads(1)
  names = corruptions.NAMES + corruptions.EXTRA_NAMES * args.extra
  names = tuple(args.only.split(',')) if args.only else names
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (args.images, 32, 32, 3)).astype(np.uint8)
  floats = jax.numpy.asarray(images, 'float32') / 255
  key = jax.random.key(0)
  print(f'severity {args.severity}, milliseconds of one core an image')
  print('| corruption | ours | imagecorruptions | ratio | compile s |')
  print('|---|---|---|---|---|')
  totals = np.zeros(3)
  for name in names:

    def ours(name=name):
      corruptions.corrupt(
        floats, key, name=name, severity=args.severity, table='imagenet_c'
      ).block_until_ready()

    def theirs(name=name):
      for image in images[: args.peer_images]:
        imagecorruptions.corrupt(image, args.severity, name)

    first = seconds(ours)
    imagecorruptions.corrupt(images[0], args.severity, name)
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(args.rounds)]
    mine, peer = np.min(pairs, axis=0) * 1e3
    row = np.array([mine / len(images), peer / args.peer_images, first])
    totals += row
    print(
      f'| {name} | {row[0]:.3f} | {row[1]:.3f} | {row[1] / row[0]:.1f} |'
      f' {first:.1f} |',
      flush=True,
    )
  print(
    f'| sum | {totals[0]:.3f} | {totals[1]:.3f} |'
    f' {totals[1] / totals[0]:.1f} (aim {AIM}) | {totals[2]:.1f} |'
  )


if __name__ == '__main__':
  main()
