"""Adversarial contrastive learning, a rival of TARRL: both views attacked.

  python launch.py --config=configs/acl.py

Argument: a data set as in configs/tarrl.py. ResNets have BatchNorms of their
own for attacked images, which the evaluations take too. Published for cifar10:
LARS at 5.0, weight decay 1e-6, 1,000 epochs of 512; compiled and stepped here
on random images, not trained.
"""

from configs import common, tarrl


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(arg, data=common.Choice(tarrl.DATA_SETS))
  config = tarrl.rival(
    args.data,
    'acl',
    temperature=0.5,
    eval_norm='adversarial',  # Or clean.
    weight=1.0,  # Of the attacked pair in the end; the clean one's is 2 - w.
    ramp_steps=0,  # From 1 to there.
    ramp_stages=1,
    momentum=common.optional(float),  # Averages the second view's encoder.
  )
  if args.data in ('cifar10', 'imagenet'):
    config.model.kw.dual_norm = True
    published(config)
  return config


def published(config):
  """The optimizer of ACL and DynACL."""
  config.optim.name = 'lars'
  config.optim.lr = 5.0
  config.optim.weight_decay = 1e-6
  config.optim.warmup = 0.01
