"""Just train twice: the second network learns more from the first's errors.

  python launch.py --config=configs/jtt.py

Arguments: a data set, what is planted and ``strength=...`` as in
configs/group_dro.py.
"""

from configs import common, group_dro


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg,
    data=common.Choice(group_dro.DATA_SETS),
    kind=common.Choice(group_dro.KINDS),
    strength=0.95,
  )
  return group_dro.get_config(
    f'jtt,{args.data},{args.kind},strength={args.strength}'
  )
