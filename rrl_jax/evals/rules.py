"""What the arguments of an evaluator must be, checked before any work."""

from collections.abc import Callable, Mapping
from typing import Any

from rrl_jax.errors import ConfigError

# Argument -> whether a value is right, and what it must be in words.
Rules = Mapping[str, tuple[Callable[[Any], bool], str]]

AT_LEAST_ZERO = (lambda v: v >= 0, 'at least 0')
POSITIVE = (lambda v: v > 0, 'positive')
COUNT = (lambda v: v >= 0 and v == int(v), 'a whole number, at least 0')
POSITIVE_COUNT = (
  lambda v: v >= 1 and v == int(v),
  'a whole number, at least 1',
)


def check(evaluator: str, rules: Rules, values: Mapping[str, Any]) -> None:
  """Raises ConfigError for a value that breaks its rule.

  Args:
    evaluator: Name of the evaluator.
    rules: Its rules; an argument without one may be anything.
    values: Its arguments.
  """
  for name, value in values.items():
    is_right, words = rules.get(name, (lambda v: True, ''))
    try:
      right = is_right(value)
    except (TypeError, ValueError):
      right = False
    if not right:
      raise ConfigError(f'evals.{evaluator}.{name}={value!r} must be {words}')
    if name in ('epsilon', 'epsilons') and 'norm' in rules:
      _check_radius(evaluator, name, value, values.get('norm', 'linf'))


def _check_radius(evaluator, name, value, norm):
  radii = value if isinstance(value, list | tuple) else (value,)
  if norm == 'linf' and any(radius > 1 for radius in radii):
    raise ConfigError(
      f'evals.{evaluator}.{name}={value!r} must be at most 1 in linf: images'
      ' are in [0, 1], where 8 of 255 levels are 0.0314'
    )
