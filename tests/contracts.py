"""What holds for every function of a room, compiled as few programs.

A program costs far more than what one small function adds to it: 89 losses
compile together in seven seconds and one by one in a hundred.
"""

import jax
from jax.sharding import AxisType, Mesh


class Results(dict):
  """What each function gives when it is called in one way, by name.

  All are run as one program. Where that fails, each is run by itself as soon
  as it is asked for, so that only the tests of the faulty one fail.
  """

  def __init__(self, names, run):
    """Runs all.

    Args:
      names: The names of the functions.
      run: Takes a tuple of names and gives ``{name: result}``.
    """
    super().__init__()
    self._run = run
    try:
      self.update(jax.device_get(run(tuple(names))))
    except Exception:  # The faulty one raises it again when it is asked for.
      self.clear()

  def __missing__(self, name):
    self[name] = jax.device_get(self._run((name,)))[name]
    return self[name]


def mesh_of(number: int, kind: AxisType = AxisType.Auto) -> Mesh:
  """The first devices on one axis, ``'data'``."""
  devices = jax.devices()[:number]
  return jax.make_mesh(
    (number,), ('data',), axis_types=(kind,), devices=devices
  )
