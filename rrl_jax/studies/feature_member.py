"""Features of an encoder that was trained anywhere, as a member of a pool."""

import dataclasses
import math
import os
import pathlib
from typing import Any

from rrl_jax.data import npz
from rrl_jax.errors import DataError
from rrl_jax.evals import Measurement, feature_file, indicators


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMember:
  """A file of features, and what is told of their encoder.

  Attributes:
    path: The npz file.
    file: Its features, labels and perhaps logits.
    robust_accuracy: Accuracy of the encoder's classifier on shifted data, in
      [0, 1], measured elsewhere; None if the file does not say.
  """

  path: pathlib.Path
  file: feature_file.FeatureFile
  robust_accuracy: float | None

  @property
  def name(self) -> str:
    """The file's, without its ending."""
    return self.path.stem

  def measure(
    self, asked: dict[str, Any], *, control: str, target: str
  ) -> tuple[dict[str, Measurement], dict[str, Any]]:
    """Indicators by name, and figures.

    Args:
      asked: Arguments of ``evals.indicators``.
      control: Name that the classifier's accuracy on the file's images gets
        besides.
      target: Name that ``robust_accuracy`` gets.
    """
    found, figures = {}, {}
    for name, value in indicators.evaluate_file(self.file, **asked):
      into = found if isinstance(value, Measurement) else figures
      into[name.removeprefix('figure/')] = value
    clean = found.get('indicators/clean_accuracy')
    if clean is not None:
      found[control] = clean
    if self.robust_accuracy is not None:
      found[target] = Measurement(
        self.robust_accuracy,
        math.nan,
        math.nan,
        f'robust_accuracy of {self.path.name}, as the file says.',
      )
    return found, figures


def read(path: str | os.PathLike) -> FeatureMember:
  """Reads what `feature_file.read` does, and ``robust_accuracy``.

  Raises:
    ConfigError: ``path`` is no text.
    DataError: One line that names the file, the array, and what is wrong.
  """
  file = feature_file.read(path)
  told = npz.read(path).get('robust_accuracy')
  if told is not None:
    if told.size != 1 or told.dtype.kind not in 'fiu':
      raise DataError(
        f'{path}: robust_accuracy has shape {told.shape} of {told.dtype}, not'
        ' one number'
      )
    told = float(told.reshape(()))
    if not 0 <= told <= 1:
      raise DataError(f'{path}: robust_accuracy={told} is not in [0, 1]')
  return FeatureMember(pathlib.Path(path), file, told)
