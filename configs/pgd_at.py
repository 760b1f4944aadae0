"""Adversarial training with labels, a rival of TARRL.

  python launch.py --config=configs/pgd_at.py

Arguments, separated by commas: a data set as in configs/tarrl.py; ``fast`` for
one step from a random start. The probes of the evaluation read its features as
they do TARRL's. cifar10 and imagenet were compiled and stepped on random
images, not trained.
"""

from configs import common, tarrl


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(arg, data=common.Choice(tarrl.DATA_SETS), fast=False)
  config = tarrl.rival(
    args.data,
    'pgd_at',
    clean_weight=0.0,  # Share of the clean images' loss.
    eval_norm='adversarial',  # Or clean, with model.kw.dual_norm.
  )
  supervised(config, args.data)
  kw = config.objective.kw
  if args.fast:
    kw.inner_steps = 1
    kw.inner_step_size = 1.25 * kw.epsilon
  elif args.data == 'cifar10':
    kw.inner_steps = 7
  return config


def supervised(config, data):
  """One view, no projector, the network's own head evaluated as well."""
  config.data.augment.views = 0
  config.model.kw.embedding_dim = None
  attack = config.evals.robust_probe
  config.evals.accuracy = {'train_examples': 10_000}
  config.evals.pgd = {
    'epsilon': attack.epsilon,
    'norm': attack.norm,
    'num_steps': attack.num_steps,
    'num_examples': attack.num_examples,
    'num_pictures': 6,
  }
  if data == 'cifar10':
    config.data.augment.resized_crop = 0
    config.data.augment.crop = 4
    config.data.augment.jitter = 0.0
    config.data.augment.grayscale = 0.0
    config.batch_size = 128
    config.total_epochs = 100.0
    config.optim.lr = 0.1
    config.optim.schedule = 'piecewise'
    config.optim.warmup = 0.0
    config.optim.weight_decay = 5e-4
