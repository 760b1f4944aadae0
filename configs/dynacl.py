"""DynACL, a rival of TARRL: ACL whose augmentation gets weaker.

  python launch.py --config=configs/dynacl.py

Argument: a data set as in configs/tarrl.py. In twenty stages the augmentation
fades and the weight of the attacked pair rises to 5/3; an average of the
weights embeds the second view. DynACL++'s second phase with pseudo-labels is
not here. cifar10 was compiled and stepped on random images, not trained.
"""

from configs import acl, common, tarrl

# Of 512 images out of 50,000, and of 1,024 out of 1,281,167.
STEPS = {'cifar10': 97_656, 'imagenet': 125_114}


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(arg, data=common.Choice(tarrl.DATA_SETS))
  config = acl.get_config(args.data)
  if config.total_steps is None:
    config.total_steps = STEPS[args.data]
  config.objective.kw.weight = 5 / 3
  config.objective.kw.ramp_steps = config.total_steps
  config.objective.kw.ramp_stages = 20
  config.objective.kw.momentum = 0.99
  config.data.augment.decay_stages = 20
  return config
