"""Makes auto_attack.npz: what pyautoattack finds on a small network.

  python -m venv torchvenv
  torchvenv/bin/pip install torch==2.13.0 pyautoattack==0.2.0 numpy
  torchvenv/bin/python tests/golden/make_auto_attack.py

All in float64. pyautoattack casts its inputs and its l1 projection to float32
and counts the support of an l1 perturbation by exact zeros, which its own
rounding destroys. To compare algorithms, not roundings, the cast is made to
give float64 here and the count ignores what is below 1e-10.
"""

import importlib.metadata
import pathlib

import numpy as np
from pyautoattack import AutoAttack, autopgd_base, fab_pt, square
import torch

HEIGHT, WIDTH, CHANNELS, CLASSES = 5, 6, 2, 10
EXAMPLES, SQUARE_EXAMPLES, QUERIES, SEEDS = 16, 6, 60, 5
EPSILON = {'linf': 0.03, 'l2': 0.2, 'l1': 0.7}
THEIRS = {'linf': 'Linf', 'l2': 'L2', 'l1': 'L1'}
TARGET_RANK = 2

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
torch.Tensor.float = torch.Tensor.double
autopgd_base.L0_norm = lambda x: (x.abs() > 1e-10).flatten(1).sum(-1)


def rounded(rng, *shape, scale):
  """Numbers that float32 holds exactly."""
  return (rng.normal(size=shape) * scale).astype(np.float32).astype(float)


def projected_l1(delta, x, radius):
  """Soft threshold and clip by bisection; the l1 ball within the box."""
  low, high = 0.0, np.abs(delta).max()
  for _ in range(100):
    middle = (low + high) / 2
    shrunk = np.sign(delta) * np.maximum(np.abs(delta) - middle, 0)
    fits = np.abs(np.clip(shrunk, -x, 1 - x)).sum() <= radius
    low, high = (low, middle) if fits else (middle, high)
  shrunk = np.sign(delta) * np.maximum(np.abs(delta) - high, 0)
  return np.clip(shrunk, -x, 1 - x)


def starts(rng, x):
  """A start inside ball and box for each norm."""
  found = {}
  for norm, epsilon in EPSILON.items():
    delta = rng.normal(size=x.shape)
    flat = np.abs(delta).reshape(len(x), -1)
    if norm == 'l1':
      pairs = zip(delta, x, strict=True)
      found[norm] = x + np.stack(
        [projected_l1(d, c, epsilon) for d, c in pairs]
      )
      continue
    size = flat.max(1) if norm == 'linf' else np.sqrt((flat**2).sum(1))
    delta = delta * (epsilon / size)[:, None, None, None]
    found[norm] = np.clip(x + delta, 0, 1)
  return found


class Network(torch.nn.Module):
  """One hidden layer over channels-last pixels, given channels-first ones."""

  def __init__(self, w, v):
    super().__init__()
    self.w, self.v = torch.tensor(w), torch.tensor(v)

  def forward(self, x):
    return torch.tanh(x.permute(0, 2, 3, 1).flatten(1) @ self.w) @ self.v


def to_torch(x):
  return torch.tensor(np.moveaxis(x, -1, 1).copy())


def to_numpy(x):
  return np.moveaxis(x.detach().numpy(), 1, -1)


class Recorded:
  """torch.rand whose draws are float32 numbers and are kept."""

  def __init__(self):
    self.draw, self.values = torch.rand, []

  def __call__(self, *shape, **kw):
    value = torch.tensor(np.float32(self.draw(*shape, **kw).numpy())).double()
    self.values.extend(value.flatten().tolist())
    return value


def main():
  rng = np.random.default_rng(0)
  size = HEIGHT * WIDTH * CHANNELS
  out = {
    'w': rounded(rng, size, 24, scale=3 / size**0.5),
    'v': rounded(rng, 24, CLASSES, scale=0.7),
    'x': rng.integers(0, 256, (EXAMPLES, HEIGHT, WIDTH, CHANNELS)) / 255,
  }
  network = Network(out['w'], out['v'])
  x = to_torch(out['x'])
  logits = network(x)
  y = logits.argmax(1)
  target = logits.sort(dim=1)[1][:, -TARGET_RANK]
  out |= {'y': y.numpy(), 'target': target.numpy()}
  init = starts(rng, out['x'])

  for norm, epsilon in EPSILON.items():
    out[f'{norm}/epsilon'] = epsilon
    out[f'{norm}/init'] = init[norm]
    for loss in ('ce', 'dlr', 'dlr-targeted'):
      name = f'{norm}/apgd-{loss}'
      if loss == 'dlr-targeted':
        attack = autopgd_base.APGDAttack_targeted(
          network, norm=THEIRS[norm], eps=epsilon, device='cpu'
        )
        attack.y_target = target
      else:
        attack = autopgd_base.APGDAttack(
          network, norm=THEIRS[norm], eps=epsilon, loss=loss, device='cpu'
        )
      attack.init_hyperparam(x)
      best, robust, highest, adv = attack.attack_single_run(
        x, y, x_init=to_torch(init[norm])
      )
      out[f'{name}/best'] = to_numpy(best)
      out[f'{name}/robust'] = robust.bool().numpy()
      out[f'{name}/highest'] = highest.detach().numpy()
      if loss == 'ce':
        out[f'{name}/adv'] = to_numpy(adv)

    for targeted in (False, True):
      name = f'{norm}/fab-t' if targeted else f'{norm}/fab'
      attack = fab_pt.FABAttack_PT(
        network, norm=THEIRS[norm], eps=epsilon, device='cpu'
      )
      attack.target_class = TARGET_RANK
      adv = attack.attack_single_run(x, y, is_targeted=targeted)
      out[f'{name}/adv'] = to_numpy(adv)

    draws, points = [], []
    for i in range(SQUARE_EXAMPLES):
      attack = square.SquareAttack(
        network,
        norm=THEIRS[norm],
        n_queries=QUERIES,
        eps=epsilon,
        device='cpu',
        resc_schedule=False,
      )
      attack.init_hyperparam(x)
      torch.manual_seed(i)
      recorded = Recorded()
      torch.rand = recorded
      try:
        _, adv = attack.attack_single_run(x[i : i + 1], y[i : i + 1])
      finally:
        torch.rand = recorded.draw
      draws.append(np.array(recorded.values, np.float32))
      points.append(to_numpy(adv)[0])
    length = max(map(len, draws))
    out[f'{norm}/square/draws'] = np.stack(
      [np.pad(d, (0, length - len(d)), constant_values=-1) for d in draws]
    )
    out[f'{norm}/square/best'] = np.stack(points)

    flags = []
    for seed in range(SEEDS):
      attack = AutoAttack(network, norm=THEIRS[norm], eps=epsilon, seed=seed)
      adv, _ = attack.run_standard_evaluation(x, y)
      flags.append((network(adv).argmax(1) == y).numpy())
    out[f'{norm}/standard/robust'] = np.stack(flags)
    print(norm, [int(f.sum()) for f in flags], flush=True)

  for package in ('pyautoattack', 'torch', 'numpy'):
    out[f'version/{package}'] = importlib.metadata.version(package)
  path = pathlib.Path(__file__).with_name('auto_attack.npz')
  np.savez_compressed(path, **out)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
