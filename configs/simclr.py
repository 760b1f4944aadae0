"""SimCLR on two augmented views, the baseline of TARRL.

  python launch.py --config=configs/simclr.py

Arguments: a data set as in configs/tarrl.py; ``byol`` for learning without
negatives, ``supcon`` for supervised contrastive learning and ``cross_entropy``
for a classifier, on the same augmentation.
"""

from configs import common, tarrl

BASES = ('simclr', 'byol', 'supcon', 'cross_entropy')


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg, data=common.Choice(tarrl.DATA_SETS), base=common.Choice(BASES)
  )
  config = tarrl.get_config(args.data)
  config.objective.name = 'simclr'
  config.objective.kw = {
    'base': args.base,
    'temperature': 0.5,  # Of simclr, supcon.
    'momentum': 0.99,  # Of byol's teacher.
  }
  if args.base == 'byol':
    config.model.kw.predictor = True
  return config
