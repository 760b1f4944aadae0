"""The ways in which a run ends early, each with its exit code and one line."""


class ConfigError(ValueError):
  """The command or the config asks for something that does not exist.

  The message is one line: which setting, its value, and what exists.
  """

  exit_code = 2


class DataError(ValueError):
  """Data, features or checkpoints that cannot be used.

  The message is one line: which file, what is wrong with it.
  """

  exit_code = 3


class DivergedError(ArithmeticError):
  """A loss or gradient is NaN or infinite; the message names the step."""

  exit_code = 1


class StoppedError(RuntimeError):
  """The run was asked to stop, has saved, and can be resumed."""

  exit_code = 75
