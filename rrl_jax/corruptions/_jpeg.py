"""JPEG, without the lossless part: what a decoder makes of an encoder's bytes.

The arithmetic is that of the integer ("islow") transforms of libjpeg 6b, which
libjpeg-turbo and so Pillow keep to the bit: chroma halved in both directions,
8x8 cosine transforms in fixed point, quantisation, and back with smooth
("fancy") upsampling. Huffman coding changes nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Quantisation of luminance and chrominance: ITU-T T.81, tables K.1 and K.2.
_LUMINANCE = np.array([
  [16, 11, 10, 16, 24, 40, 51, 61],
  [12, 12, 14, 19, 26, 58, 60, 55],
  [14, 13, 16, 24, 40, 57, 69, 56],
  [14, 17, 22, 29, 51, 87, 80, 62],
  [18, 22, 37, 56, 68, 109, 103, 77],
  [24, 35, 55, 64, 81, 104, 113, 92],
  [49, 64, 78, 87, 103, 121, 120, 101],
  [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [
  [17, 18, 24, 47],
  [18, 21, 26, 66],
  [24, 26, 56, 99],
  [47, 66, 99, 99],
]  # fmt: skip
_BITS = 13  # Of the fraction of the transform's factors.
_PASS_BITS = 2  # Of the fraction that is kept between the two directions.


def jpeg(image: jax.Array, key: jax.Array, quality: int) -> jax.Array:
  """Encodes and decodes ``[C, H, W]``, rounded to bytes first."""
  del key
  image = jnp.round(255 * image).astype(jnp.int32)
  if len(image) == 1:
    return _codec(image, _quantizer(_LUMINANCE, quality)) / 255
  _, height, width = image.shape
  luminance, *chrominance = _to_ycc(*image)
  luminance = _codec(luminance[None], _quantizer(_LUMINANCE, quality))[0]
  halved = _halve(jnp.stack(chrominance))
  halved = _codec(halved, _quantizer(_CHROMINANCE, quality))
  halved = halved[..., : -(-width // 2)]
  blue, red = _double(halved)[:, :height, :width]
  return jnp.stack(_to_rgb(luminance, blue, red)) / 255


def _quantizer(table: np.ndarray, quality: int) -> np.ndarray:
  """A table scaled to a quality of 1 to 100."""
  scale = 5000 // quality if quality < 50 else 200 - 2 * quality
  return np.clip((table * scale + 50) // 100, 1, 255)


def _fixed(x: float, bits: int = 16) -> int:
  """A factor in fixed point."""
  return int(x * 2**bits + 0.5)


def _to_ycc(r: jax.Array, g: jax.Array, b: jax.Array):
  """Luminance, and the differences of blue and of red from it."""
  half, middle = 1 << 15, 128 << 16
  y = _fixed(0.299) * r + _fixed(0.587) * g + _fixed(0.114) * b
  cb = -_fixed(0.16874) * r - _fixed(0.33126) * g + _fixed(0.5) * b
  cr = _fixed(0.5) * r - _fixed(0.41869) * g - _fixed(0.08131) * b
  shift = middle + half - 1
  return (y + half) >> 16, (cb + shift) >> 16, (cr + shift) >> 16


def _to_rgb(y: jax.Array, cb: jax.Array, cr: jax.Array):
  """The inverse of `_to_ycc`, cut to bytes."""
  half = 1 << 15
  cb, cr = cb - 128, cr - 128
  r = y + ((_fixed(1.402) * cr + half) >> 16)
  g = y + ((half - _fixed(0.34414) * cb - _fixed(0.71414) * cr) >> 16)
  b = y + ((_fixed(1.772) * cb + half) >> 16)
  return tuple(jnp.clip(c, 0, 255) for c in (r, g, b))


def _halve(planes: jax.Array) -> jax.Array:
  """Means over 2x2 pixels; halves go down and up in turn, from left to right.

  To the right the last column repeats for whole blocks; below, only for a
  whole pair of rows.
  """
  _, height, width = planes.shape
  border = ((0, 0), (0, height % 2), (0, -width % 16))
  planes = jnp.pad(planes, border, mode='edge')
  total = planes[:, 0::2] + planes[:, 1::2]
  total = total[..., 0::2] + total[..., 1::2]
  bias = jnp.asarray(1 + np.arange(total.shape[-1]) % 2, jnp.int32)[None, None]
  return (total + bias) >> 2


def _double(planes: jax.Array) -> jax.Array:
  """Each pixel becomes 2x2, with 9, 3, 3 and 1 sixteenths of the nearest."""

  def lines(x, axis):
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
    rest = jax.lax.slice_in_dim(x, 0, -1 % x.shape[axis], axis=axis)
    before = jnp.concatenate([first, rest], axis)
    rest = jax.lax.slice_in_dim(x, 1, None, axis=axis)
    return 3 * x + before, 3 * x + jnp.concatenate([rest, last], axis)

  count, height, width = planes.shape
  tall = jnp.stack(lines(planes, 1), 2).reshape(count, 2 * height, width)
  even, odd = lines(tall, 2)
  wide = jnp.stack([(even + 8) >> 4, (odd + 7) >> 4], 3)
  return wide.reshape(count, 2 * height, 2 * width)


def _codec(planes: jax.Array, quantizer: np.ndarray) -> jax.Array:
  """Transforms and quantises blocks of ``[n, H, W]`` and undoes both."""
  count, height, width = planes.shape
  border = ((0, 0), (0, -height % 8), (0, -width % 8))
  blocks = jnp.pad(planes - 128, border, mode='edge')
  tall, wide = blocks.shape[1] // 8, blocks.shape[2] // 8
  blocks = blocks.reshape(count, tall, 8, wide, 8)
  forward = _transform()
  blocks = _product(forward, blocks, 4, _BITS - _PASS_BITS)
  blocks = _product(forward, blocks, 2, _BITS + _PASS_BITS)
  # Values are 8 times as big here.
  step = jnp.asarray(quantizer, jnp.int32)[None, None, :, None]
  level = (jnp.abs(blocks) + 4 * step) // (8 * step)
  blocks = jnp.sign(blocks) * level * step
  blocks = _product(forward.T, blocks, 2, _BITS - _PASS_BITS)
  blocks = _product(forward.T, blocks, 4, _BITS + _PASS_BITS + 3)
  planes = blocks.reshape(count, 8 * tall, 8 * wide)
  return jnp.clip(planes[:, :height, :width] + 128, 0, 255)


def _product(matrix: np.ndarray, x: jax.Array, axis: int, bits: int):
  """Product along an axis of 8, divided by ``2**bits`` and rounded."""
  lines = [jax.lax.index_in_dim(x, j, axis, keepdims=False) for j in range(8)]
  rows = [
    sum(int(factor) * line for factor, line in zip(row, lines, strict=True))
    for row in matrix
  ]
  return (jnp.stack(rows, axis) + (1 << (bits - 1))) >> bits


def _transform() -> np.ndarray:
  """The cosine transform in fixed point, ``[8, 8]``.

  The exact one times the square root of 8, built from the rounded factors of
  the flow graph of Loeffler, Ligtenberg and Moschytz (1989), whose sums round
  differently from the matrix itself.
  """
  f = lambda x: _fixed(x, _BITS)
  one, c = 1 << _BITS, f(0.541196100)
  a, b = c + f(0.765366865), c - f(1.847759065)
  even = {
    0: (one, one, one, one),
    2: (a, c, -c, -a),
    4: (one, -one, -one, one),
    6: (c, b, -b, -c),
  }
  # The odd half in d = (x3 - x4, x2 - x5, x1 - x6, x0 - x7).
  z5 = f(1.175875602)
  z1, z2 = -f(0.899976223), -f(2.562915447)
  z3, z4 = z5 - f(1.961570560), z5 - f(0.390180644)
  odd = {
    7: (f(0.298631336) + z1 + z3, z5, z3, z1 + z5),
    5: (z5, f(2.053119869) + z2 + z4, z2 + z5, z4),
    3: (z3, z2 + z5, f(3.072711026) + z2 + z3, z5),
    1: (z1 + z5, z4, z5, f(1.501321110) + z1 + z4),
  }
  matrix = np.zeros((8, 8), np.int64)
  for k, row in even.items():
    matrix[k, :4], matrix[k, 4:] = row, row[::-1]
  for k, row in odd.items():
    matrix[k, :4], matrix[k, 4:] = row[::-1], [-value for value in row]
  return matrix
