"""Robust contrastive learning, a rival of TARRL: the attack is a third view.

  python launch.py --config=configs/rocl.py

Argument: a data set as in configs/tarrl.py. Published for cifar10: 7 steps of
0.007 in a ball of 0.0314, LARS, 1,000 epochs; compiled and stepped here on
random images, not trained.
"""

from configs import acl, common, tarrl


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(arg, data=common.Choice(tarrl.DATA_SETS))
  config = tarrl.rival(
    args.data,
    'rocl',
    temperature=0.5,
    beta=1 / 256,  # Weight of the attacked pair alone.
  )
  if args.data == 'cifar10':
    acl.published(config)
    config.optim.lr = 1.5
    config.objective.kw.epsilon = 0.0314
    config.objective.kw.inner_steps = 7
    config.objective.kw.inner_step_size = 0.007
  return config
