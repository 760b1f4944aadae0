"""The two ways in which a user's input can be wrong, one line each."""


class ConfigError(ValueError):
  """The command or the config asks for something that does not exist.

  The message is one line: which setting, its value, and what exists.
  """


class DataError(ValueError):
  """Data, features or checkpoints that cannot be used.

  The message is one line: which file, what is wrong with it.
  """
