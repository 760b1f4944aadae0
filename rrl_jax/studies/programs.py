"""Keeps a process that trains many models within the maps Linux allows it."""

import pathlib

import jax

_MAPS = pathlib.Path('/proc/self/maps')
_MANY = 30_000  # Of 65,530; at one more, compiling fails.


def drop_when_many() -> None:
  """Drops compiled programs, each of which maps memory of its own, if many.

  Nothing is compiled again for it but what several runs share: a run's own
  programs serve no other.
  """
  try:
    with _MAPS.open() as maps:
      count = sum(1 for _ in maps)
  except OSError:
    return  # No Linux, no such limit.
  if count > _MANY:
    jax.clear_caches()
