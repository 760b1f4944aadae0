"""DeACL, a rival of TARRL: learn without attacks, then distil robustly.

  python launch.py --config=configs/deacl.py

Argument: a data set as in configs/tarrl.py. Half of the steps train the
teacher, on cifar10 ten elevenths as published (1,000 and 100 epochs), where it
was compiled and stepped on random images, not trained.
"""

from configs import common, tarrl


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(arg, data=common.Choice(tarrl.DATA_SETS))
  config = tarrl.rival(
    args.data,
    'deacl',
    base='simclr',  # Of the teacher: simclr, byol, supcon, cross_entropy.
    temperature=0.5,
    momentum=0.99,  # Of byol.
    teacher_steps=0,
    beta=2.0,  # Weight of the attacked images.
  )
  if args.data == 'cifar10':  # 98 steps of 512 images an epoch.
    config.total_steps = 1100 * 98
    config.objective.kw.teacher_steps = 1000 * 98
    config.optim.weight_decay = 5e-4
  else:
    if config.total_steps is None:  # 1,251 steps of 1,024 images an epoch.
      config.total_steps = round(config.total_epochs) * 1251
    config.objective.kw.teacher_steps = config.total_steps // 2
  return config
