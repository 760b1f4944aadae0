"""FLOPs of a compiled training step over those of ERM.

  python -m benchmarks.step_cost

HRO on ResNet-18. The floor: a training step is a forward pass, a gradient to
the inputs of each layer and one to its weights, three passes of about equal
cost. The example level adds a forward pass and a gradient to the inputs: 5
passes for 3. The concept level adds arithmetic on one number an example: none.
The first layer needs no gradient to its input in training, but does under
attack, so that the ratio may lie a little above 5/3.

GR on ResNet-20. Its weights are arithmetic on one number an example, and the
estimate of the noise rate is one short loop in the whole run, counted here as
if it were done at each step.

TARRL over SimCLR on ResNet-18. Two views forward and back are six passes; each
of K steps of the attack on one view is two, and its last image three more:
(6 + 2 K + 3) / 6. One pass is above that floor: the clean features in the
attack's BatchNorm mode. The free form takes the slope of the base loss, which
training computes but for the first layer, 9 / 6. The rivals with K = 1: ACL
attacks both views, 6 + 2 2 K + 6 passes; RoCL embeds the second view once more
for its attack, 6 + 1 + 2 K + 3; adversarial training has one view, 2 K + 3.
"""

import argparse

import jax
import jax.numpy as jnp

from configs import acl, gr, hro, pgd_at, rocl, simclr, tarrl
from rrl_jax.train import experiment

FLOOR = {'erm': 1.0, 'cl': 1.0, 'el': 5 / 3, 'hro': 5 / 3}
LIMIT = {'erm': 1.0, 'cl': 1.02, 'el': 1.70, 'hro': 1.72}
GR_FLOOR = {'erm': 1.0, 'gr': 1.0, 'gr,estimate': 1.0}
GR_LIMIT = {'erm': 1.0, 'gr': 1.02, 'gr,estimate': 1.02}
TARRL_FLOOR = {
  'simclr': 1.0,
  'tarrl, K=1': 11 / 6,
  'tarrl, K=5': 19 / 6,
  'tarrl, free': 9 / 6,
  'acl, K=1': 16 / 6,
  'rocl, K=1': 12 / 6,
  'pgd_at, K=1': 5 / 6,
}
TARRL_LIMIT = {name: 1.1 * floor for name, floor in TARRL_FLOOR.items()}


def hro_config(variant: str):
  """HRO or one of its parts at CIFAR size."""
  config = hro.get_config(f'{variant},cifar10')
  config.data.concepts = 'vehicles=0,1,8,9 animals=2-7'
  return config


def gr_config(method: str):
  """GR or a rival at CIFAR size, on the smallest network of its family."""
  config = gr.get_config(f'{method},cifar10')
  config.model.name = 'resnet20'
  return config


def tarrl_config(name: str):
  """SimCLR, TARRL or a rival with K inner steps, on images as they are."""
  method, _, steps = name.partition(', K=')
  method, _, variant = method.partition(', ')
  files = {
    'simclr': simclr, 'tarrl': tarrl, 'acl': acl, 'rocl': rocl, 'pgd_at': pgd_at
  }  # fmt: skip
  config = files[method].get_config('cifar10' + (variant and f',{variant}'))
  config.data.augment.crop = 0
  config.data.augment.resized_crop = 0
  config.data.augment.flip = False
  config.data.augment.jitter = 0.0
  config.data.augment.grayscale = 0.0
  if steps:
    config.objective.kw.inner_steps = int(steps)
  return config


def flops(config, batch_size: int) -> float:
  """FLOPs of one compiled training step."""
  config.data.name = 'mock'
  config.transfer = {}
  config.data.kw = {'num_classes': 10, 'image_shape': (32, 32, 3)}
  config.batch_size = batch_size
  config.mesh.data = 1
  built = experiment.build(config)
  state = jax.eval_shape(built.init, jax.random.key(0))
  batch = experiment.abstract_batch(batch_size, (32, 32, 3))
  batch['image'] = jax.ShapeDtypeStruct((batch_size, 32, 32, 3), jnp.uint8)
  compiled = jax.jit(built.step, donate_argnums=0).lower(state, batch).compile()
  return compiled.cost_analysis()['flops']


def table(make, floor, limit, batch_size) -> list[str]:
  """Prints a row a variant; returns those above their limit."""
  print('step            GFLOPs over first   floor   limit')
  counts = {variant: flops(make(variant), batch_size) for variant in floor}
  base = next(iter(counts.values()))
  for variant, count in counts.items():
    print(
      f'{variant:13} {count / 1e9:8.2f} {count / base:10.3f}'
      f' {floor[variant]:7.3f} {limit[variant]:7.2f}'
    )
  return [v for v in floor if counts[v] > limit[v] * base]


def main():
  """Prints the tables; exits 1 if a ratio is above its limit."""
  tables = {
    'hro': ('ResNet-18', 'one inner step', hro_config, FLOOR, LIMIT),
    'gr': ('ResNet-20', 'one view', gr_config, GR_FLOOR, GR_LIMIT),
    'tarrl': ('ResNet-18', 'two views', tarrl_config, TARRL_FLOOR, TARRL_LIMIT),
  }
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--only', choices=tables, help='one of the tables')
  args = parser.parse_args()
  over = []
  for name in [args.only] if args.only else tables:
    network, what, *rest = tables[name]
    print(f'{network}, {args.batch_size} images of 32x32x3, {what}')
    over += table(*rest, args.batch_size)
  raise SystemExit(f'above the limit: {", ".join(over)}' if over else 0)


if __name__ == '__main__':
  main()
