"""What two estimates of the noise rate say after a warm-up of cross entropy.

  python -m benchmarks.noise_estimate

On digits after 100 steps and on 4,000 images of Fashion-MNIST after 300, one
seed, evaluation mode: the true share of wrong labels, the share of labels that
the network does not predict, and the mixture of `losses.estimate_noise_rate`.
"""

import argparse

import jax
import numpy as np
import optax

from configs import gr
from rrl_jax import evals, losses
from rrl_jax.data import augment
from rrl_jax.train import experiment, loop

STEPS = {'digits': 100, 'fashion_mnist': 300}
NOISES = (
  'noise=0', 'noise=0.2', 'noise=0.4', 'noise=0.6', 'noise=0.8',
  'asymmetric,noise=0.4', 'pair,noise=0.4', 'abnormal,noise=0.2',
)  # fmt: skip


def estimates(data: str, noise: str, steps: int) -> tuple[float, float, float]:
  """True share of wrong labels, disagreement, and the mixture's rate."""
  config = gr.get_config(f'erm,{data},{noise}')
  if data == 'fashion_mnist':
    config.data.imbalance = ','.join(['0.0667'] * 10)
  config.optim.schedule = 'constant'
  config.total_steps = steps
  config.mesh.data = 1
  built = experiment.build(config)
  state = jax.jit(built.init)(jax.random.key(0))
  store = loop.resident_set(built)
  step = jax.jit(lambda s, b, t: built.step(s, loop.look_up(t, b))[0])
  for batch in loop.read_batches(built, 0, lookup=True):
    state = step(state, batch, store)

  def apply(variables, images):
    images = augment.to_float(images)
    (logits, out), _ = built.apply_fn(*variables, images, train=False)
    return logits, out['features']

  train = built.data.train
  variables = state.params, state.model_state
  logits, _ = evals.Encoder(apply, variables).predict(train.images)
  heard = optax.softmax_cross_entropy_with_integer_labels(logits, train.labels)
  return (
    float(np.mean(train.truth.flipped | train.truth.abnormal)),
    float(np.mean(np.argmax(logits, axis=-1) != train.labels)),
    float(losses.estimate_noise_rate(heard).rate),
  )


def main():
  """Prints a row for each data set and noise."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', choices=STEPS, help='one of the data sets')
  parser.add_argument('--steps', type=int, help='of the warm-up')
  args = parser.parse_args()
  print('data           noise                   true  disagree  mixture')
  for data in [args.only] if args.only else STEPS:
    for noise in NOISES:
      steps = args.steps or STEPS[data]
      true, disagree, mixture = estimates(data, noise, steps)
      print(f'{data:14} {noise:22} {true:5.2f} {disagree:9.2f} {mixture:8.2f}')


if __name__ == '__main__':
  main()
