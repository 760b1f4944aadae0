"""PNG and JPEG to arrays of one shape, by Pillow on the host."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rrl_jax.errors import DataError

_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
_GRAY = ('1', 'L', 'LA', 'La')
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # Of EXIF.
_DEEP_MODES = ('I;16', 'I;16B', 'I;16L', 'I', 'F')  # More than 8 bits.


class Header(NamedTuple):
  """What the first bytes of an image file say."""

  height: int
  width: int
  channels: int  # 1 for gray, 3 for everything else.
  transparent: bool  # Whether it has an alpha channel or a transparent colour.


def read_header(file: Path) -> Header:
  """Size and colours of an image as it is seen, without decoding it.

  Raises:
    DataError: No image, or one with more than 8 bits a channel.
  """
  from PIL import Image

  try:
    with Image.open(file) as image:
      mode, (width, height) = image.mode, image.size
      # What stands before the pixels; for the rest a PNG would be decoded.
      turned = 'exif' in image.info and (
        image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
      )
      transparent = image.has_transparency_data
  except Exception as error:  # noqa: BLE001 - Pillow raises many kinds.
    raise DataError(f'{file} is no image: {_line(error)}') from error
  if mode in _DEEP_MODES:
    raise DataError(
      f'{file} has more than 8 bits a channel ({mode}); convert it to 8'
    )
  if turned:
    width, height = height, width
  return Header(height, width, 1 if mode in _GRAY else 3, transparent)


def decode(
  file: Path | bytes, *, channels: int, image_size: int, where: str
) -> np.ndarray:
  """Decodes one image, the way up that its EXIF data say.

  With an ``image_size`` the shorter side is resized to it (bilinear, with
  antialiasing) and the middle square is cut out.

  Args:
    file: Path, or the encoded bytes.
    channels: 1 (gray), 3 (RGB) or 4 (RGBA); colours are converted, and what
      is transparent lies on white for 1 and 3.
    image_size: Pixels of height and width, or 0 for the image's own.
    where: The file, for the error.

  Returns:
    uint8 ``[H, W, channels]``.

  Raises:
    DataError: The image cannot be decoded.
  """
  from PIL import Image, ImageOps

  try:
    with Image.open(
      io.BytesIO(file) if isinstance(file, bytes) else file
    ) as image:
      mode = _MODES[channels]
      if not image_size:
        return _array(_opaque(ImageOps.exif_transpose(image), mode))
      width, height = image.size
      scale = image_size / min(width, height)
      # At least image_size whatever the rounding.
      width = max(round(width * scale), image_size)
      height = max(round(height * scale), image_size)
      if mode in ('L', 'RGB'):
        image.draft(mode, (width, height))  # JPEG: decode no more than needed.
      image = _opaque(image, mode).resize(
        (width, height), Image.Resampling.BILINEAR
      )
      image = ImageOps.exif_transpose(image)
      width, height = image.size
      left, top = (width - image_size) // 2, (height - image_size) // 2
      return _array(
        image.crop((left, top, left + image_size, top + image_size))
      )
  except Exception as error:  # noqa: BLE001 - Pillow raises many kinds.
    raise DataError(f'{where} cannot be decoded: {_line(error)}') from error


def _opaque(image, mode):
  """The image in a mode, what is transparent on white."""
  from PIL import Image

  if mode == 'RGBA' or not image.has_transparency_data:
    return image.convert(mode)
  colours = image.convert('RGBA')
  white = Image.new('RGBA', colours.size, (255, 255, 255, 255))
  laid = Image.alpha_composite(white, colours).convert(mode)
  laid.info['exif'] = image.getexif().tobytes()
  return laid


def _array(image) -> np.ndarray:
  array = np.asarray(image, np.uint8)
  return array[..., None] if array.ndim == 2 else array


def _line(error: Exception) -> str:
  return ' '.join(str(error).split()) or type(error).__name__
