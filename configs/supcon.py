"""Supervised contrastive learning on two augmented views.

  python launch.py --config=configs/supcon.py

Arguments: a data set as in configs/tarrl.py. The loss is that of Khosla et al.;
the one that Thanos compares itself with, beside cross entropy and on coarse
labels, is configs/thanos.py:supcon.
"""

from configs import simclr


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  return simclr.get_config(','.join(filter(None, [arg, 'supcon'])))
