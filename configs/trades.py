"""TRADES, with labels, a rival of TARRL.

  python launch.py --config=configs/trades.py

Argument: a data set as in configs/tarrl.py. cifar10 has the authors' attack (10
steps of 0.007 in a ball of 0.031), beta 6, optimizer and 76 epochs, not their
WideResNet; it was compiled and stepped on random images, not trained.
"""

from configs import common, pgd_at, tarrl


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(arg, data=common.Choice(tarrl.DATA_SETS))
  config = tarrl.rival(
    args.data,
    'trades',
    beta=6.0,  # Price of the divergence.
    eval_norm='clean',  # Or adversarial, with model.kw.dual_norm.
  )
  pgd_at.supervised(config, args.data)
  if args.data == 'cifar10':
    config.total_epochs = 76.0
    config.optim.weight_decay = 2e-4
    config.optim.momentum = 0.9
    config.objective.kw.epsilon = 0.031
    config.objective.kw.inner_steps = 10
    config.objective.kw.inner_step_size = 0.007
  return config
