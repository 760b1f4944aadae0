"""Applies forty mutations to the package and asks whether the tests see them.

  python tests/mutants.py
  python tests/mutants.py --only=3,7 --tests=../an/older/checkout

Each mutation is applied alone, to a copy of the package in a temporary folder,
and the default tier of the files that mirror the mutated one is run until the
first failure. A mutant that survives asks for a test. The last line counts;
the exit code is 1 if any survived, 2 if the unmutated tests fail.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
COPIED = ('rrl_jax', 'configs', 'launch.py')  # What may be mutated.
TESTS = (
  'tests',
  'docs',
  'scripts',
  'benchmarks',
  'pyproject.toml',
  'README.md',
)


@dataclasses.dataclass(frozen=True)
class Mutant:
  """One fault.

  Attributes:
    file: Below ``rrl_jax/``, without its suffix.
    old: Text that stands once in the file.
    new: What takes its place.
    tests: Files below ``tests/``, without their suffix.
  """

  file: str
  old: str
  new: str
  tests: tuple[str, ...]


def _m(file, old, new, *tests):
  return Mutant(file, old, new, tests)


MUTANTS = (
  # numerics and losses
  _m(
    'numerics',
    'return (total / count)',
    'return (total / x.size)',
    'test_numerics',
  ),
  _m(
    'losses/_feature_shift',
    'out = jnp.sum(jnp.square(_direction(moved) - _direction(clean)), -1) / 2',
    'out = jnp.sum(jnp.square(_direction(moved) - _direction(clean)), -1)',
    'losses/test_feature_shift',
  ),
  _m(
    'losses/_feature_shift',
    '_rows.keep(rows, _rows.flat(x).astype(dtype)) for x in (clean, moved)',
    '_rows.flat(x).astype(dtype) for x in (clean, moved)',
    'losses/test_feature_shift',
  ),
  _m(
    'losses/_group_dro',
    'weights = jax.lax.stop_gradient(q).astype(dtype)',
    'weights = q.astype(dtype)',
    'losses/test_group_dro',
  ),
  _m(
    'losses/_group_dro',
    'root = jnp.sqrt(jnp.maximum(counts, 1))',
    'root = jnp.maximum(counts, 1)',
    'losses/test_group_dro',
  ),
  _m(
    'losses/_emphasis',
    'jnp.exp(focus * log_p + log_rest)',
    'jnp.exp(focus * log_p - log_rest)',
    'losses/test_gradient_rescaling',
  ),
  _m(
    'losses/_concept_risk',
    'norms=state.norms + rates * (1 - state.norms)',
    'norms=state.norms + rates',
    'losses/test_importance',
  ),
  _m(
    'losses/_importance',
    'ratios = jnp.where(q > 0, p / jnp.where(q > 0, q, 1), 0)',
    'ratios = jnp.where(q > 0, q / jnp.where(p > 0, p, 1), 0)',
    'losses/test_importance',
  ),
  _m(
    'losses/_mixup',
    'return weights * own + (1 - weights) * other',
    'return (1 - weights) * own + weights * other',
    'losses/test_mixup',
  ),
  _m(
    'losses/_early_learning',
    'new = momentum * old + (1 - momentum) * probs',
    'new = (1 - momentum) * old + momentum * probs',
    'losses/test_early_learning',
  ),
  _m(
    'losses/_pairs',
    'd_tau = -power * scale.inverse * scale.inverse',
    'd_tau = -power * scale.inverse',
    'losses/test_contrastive',
  ),
  _m(
    'losses/_tail_risk',
    'return _rows.keep(rows, eta + jnp.maximum(gap, 0) / level)',
    'return _rows.keep(rows, eta + jnp.maximum(gap, 0))',
    'losses/test_tail_risk',
  ),
  _m(
    'losses/_transport',
    'ratio = mean_cost.astype(dtype) / jnp.asarray(radius, dtype)',
    'ratio = jnp.asarray(radius, dtype) / mean_cost.astype(dtype)',
    'losses/test_transport',
  ),
  _m(
    'losses/_label_losses',
    'modulator = jax.lax.stop_gradient(modulator)',
    'modulator = modulator * 1',
    'losses/test_label_losses',
  ),
  _m(
    'losses/_concept_response',
    'return top + jnp.sum(probs * (v - top)) - penalty',
    'return top + jnp.sum(probs * (v - top)) + penalty',
    'losses/test_concept_response',
  ),
  # attacks
  _m(
    'attacks/_pgd',
    'delta = project(delta + radius * noise)',
    'delta = project(delta + noise)',
    'attacks/test_pgd',
  ),
  _m(
    'attacks/_pgd',
    'grads = velocity = momentum * velocity + _ascent.unit_l1(grads)',
    'grads = velocity = momentum * velocity + grads',
    'attacks/test_pgd',
  ),
  _m(
    'attacks/_wrm',
    'delta = delta + size * (grads - price * delta)',
    'delta = delta + size * (grads + price * delta)',
    'attacks/test_wrm',
  ),
  _m(
    'attacks/_logit_losses',
    'value = value / (ranks[0] - third + GUARD)',
    'value = value / (ranks[1] - third + GUARD)',
    'attacks/test_apgd',
    'attacks/test_golden',
  ),
  _m(
    'attacks/_logit_losses',
    'value = pick(logits, targets) - total',
    'value = total - pick(logits, targets)',
    'attacks/test_apgd',
  ),
  # indicators and corruptions
  _m(
    'indicators/_agreement',
    'return float(table.max(axis=1).sum() / table.sum())',
    'return float(table.max(axis=0).sum() / table.sum())',
    'indicators/test_agreement',
  ),
  _m(
    'indicators/_agreement',
    'return float(np.clip(2 * information / entropies, 0, 1))',
    'return float(np.clip(information / entropies, 0, 1))',
    'indicators/test_agreement',
  ),
  _m(
    'corruptions/_noise',
    'return jnp.where(u < amount / 2, 0, jnp.where(u < amount, 1, image))',
    'return jnp.where(u < amount, 0, jnp.where(u < 2 * amount, 1, image))',
    'corruptions/test_noise',
  ),
  _m(
    'corruptions/_noise',
    'return image * (1 + sigma * jax.random.normal(key, image.shape))',
    'return image + sigma * jax.random.normal(key, image.shape)',
    'corruptions/test_noise',
    'corruptions/test_oracle',
  ),
  # models
  _m(
    'models/_layers',
    'images = (images.astype(jnp.float32) - mean) / std',
    'images = (images.astype(jnp.float32) - mean) * std',
    'models/test_models',
  ),
  _m(
    'models/_layers',
    'first = jnp.where(window > best, jnp.int8(k), first)',
    'first = jnp.where(window >= best, jnp.int8(k), first)',
    'models/test_models',
  ),
  # data
  _m(
    'data/noise',
    'result[k] *= 1 - rate',
    'result[k] *= rate',
    'data/test_noise',
  ),
  _m(
    'data/pipeline',
    'return np.random.default_rng((seed, epoch)).permutation(n)',
    'return np.random.default_rng(seed).permutation(n)',
    'data/test_pipeline',
  ),
  _m(
    'data/pipeline',
    "axis = 1 if sampling == 'class_balanced' else 0",
    "axis = 0 if sampling == 'class_balanced' else 1",
    'data/test_pipeline',
  ),
  _m(
    'data/groups',
    'groups=known_truth(split).labels * len(names) + attributes,',
    'groups=split.labels * len(names) + attributes,',
    'data/test_groups',
  ),
  # objectives
  _m(
    'objectives/hro',
    'loss = jnp.mean(jax.lax.stop_gradient(weights) * example_losses)',
    'loss = jnp.mean(example_losses)',
    'objectives/test_hro',
  ),
  _m(
    'objectives/hro',
    'risks = risks - price * transport',
    'risks = risks + price * transport',
    'objectives/test_hro',
  ),
  _m(
    'objectives/tarrl',
    'weight = strength * jnp.minimum(step / ramp_steps, 1.0)',
    'weight = strength * step / ramp_steps',
    'objectives/test_tarrl',
  ),
  _m(
    'objectives/tarrl',
    'norm = jnp.sqrt(clean.shape[-1] * variance + 1e-12)',
    'norm = jnp.sqrt(variance + 1e-12)',
    'objectives/test_tarrl',
  ),
  # evals
  _m(
    'evals/measurement',
    'centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)',
    'centre = share',
    'evals/test_measurement',
  ),
  _m(
    'evals/calibration',
    'bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)',
    'bins = np.minimum((confidence * num_bins).astype(int) + 1, num_bins - 1)',
    'evals/test_calibration',
  ),
  # train and studies
  _m(
    'train/step',
    'share = jnp.maximum(1 - ema_decay, 9 / (10 + state.step))',
    'share = jnp.maximum(ema_decay, 9 / (10 + state.step))',
    'train/test_step',
  ),
  _m(
    'train/optim',
    'drops[drop_step] = 0.1 * drops.get(drop_step, 1.0)',
    'drops[drop_step] = 0.1',
    'train/test_optim',
  ),
  _m(
    'studies/association',
    'least = max(least, min((len(given) - k) * p, 1.0))',
    'least = max(least, min(len(given) * p, 1.0))',
    'studies/test_association',
  ),
  _m(
    'studies/ranking',
    'if abs(difference) <= half_width:',
    'if abs(difference) >= half_width:',
    'studies/test_ranking',
  ),
)


def main() -> int:
  """Runs the mutants that are asked for; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', help='Numbers of mutants, as 3,7.')
  parser.add_argument(
    '--tests', default=ROOT, type=pathlib.Path, help='Checkout of the tests.'
  )
  args = parser.parse_args()
  numbers = range(1, len(MUTANTS) + 1)
  if args.only:
    numbers = [int(number) for number in args.only.split(',')]
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder)
    for names, root in ((TESTS, args.tests), (COPIED, ROOT)):
      for name in names:
        _copy(root / name, copy / name)
    chosen = sorted({test for n in numbers for test in MUTANTS[n - 1].tests})
    failed, seconds = _first_failure(copy, chosen)
    print(f'unmutated: {failed or "passed"} ({seconds:.0f} s)', flush=True)
    if failed:
      return 2
    survivors = [number for number in numbers if not _is_caught(copy, number)]
  caught = len(numbers) - len(survivors)
  print(f'{caught} of {len(numbers)} mutants were caught')
  return 1 if survivors else 0


def _is_caught(copy, number):
  """Applies one mutant, runs its tests, prints a line, takes it back."""
  mutant = MUTANTS[number - 1]
  path = copy / 'rrl_jax' / f'{mutant.file}.py'
  text = path.read_text()
  if text.count(mutant.old) != 1:
    raise SystemExit(f'mutant {number}: its text is not once in {mutant.file}')
  path.write_text(text.replace(mutant.old, mutant.new))
  failed, seconds = _first_failure(copy, mutant.tests)
  path.write_text(text)
  verdict = f'caught by {failed}' if failed else 'SURVIVED'
  print(f'{number:2} {mutant.file}: {mutant.new}', flush=True)
  print(f'   {verdict} ({seconds:.0f} s)', flush=True)
  return bool(failed)


def _first_failure(copy, tests):
  """The first failing test, or None, and the seconds that it took."""
  before = time.monotonic()
  environment = os.environ | {
    'PYTHONPATH': str(copy),
    'PYTHONDONTWRITEBYTECODE': '1',
  }
  environment.setdefault('JAX_COMPILATION_CACHE_DIR', str(copy / 'cache'))
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'pytest', '-x', '-q', '-n', '0'),
      *('-p', 'no:cacheprovider'),
      *(f'tests/{test}.py' for test in tests),
    ],
    cwd=copy,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  seconds = time.monotonic() - before
  found = re.search(r'^(?:FAILED|ERROR) (\S+)', done.stdout, re.MULTILINE)
  if done.returncode and not found:
    raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
  return found and found[1].rpartition('/')[2], seconds


def _copy(source, target):
  if source.is_dir():
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(source, target, ignore=ignored)
  else:
    shutil.copy(source, target)


if __name__ == '__main__':
  sys.exit(main())
