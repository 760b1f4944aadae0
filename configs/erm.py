"""Empirical risk minimisation, the baseline.

  python launch.py --config=configs/erm.py

Arguments as in configs/hro.py: a data set, and ``balanced`` for batches drawn
uniformly over concepts.
"""

from configs import common, hro


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg, data=common.Choice(hro.DATA_SETS), balanced=False
  )
  config = hro.get_config(f'{args.data},erm')
  if args.balanced:
    config.data.sampling = 'concept_balanced'
  config.objective.name = 'erm'
  config.objective.kw = {'label_smoothing': 0.0}
  return config
