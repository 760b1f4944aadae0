r"""Interval bound propagation: where a layer's output lies for a box of inputs.

Layer by layer, each on its own: an affine layer takes the box by its centre
and radius, :math:`W c + b \pm |W| r`, an activation by its values at the ends.
What holds for every input of the box holds for the bounds; they are loose, for
they forget which corners go together.

Rounding is part of it. Bounds hold for the network in exact arithmetic and for
what a machine computes, provided that it sums products of float32, or of
bfloat16 rounded once per result, in float32 and in any order, without
underflow: a dot product of n terms is then within :math:`\gamma_n = n u /
(1 - n u)`, u = 2^-24, times the sum of its absolute terms, and the bounds are
moved outwards by twice that, their own rounding included. Activations count as
exact to 8 units in the last place of ``|x| + 1``, which the tests look at. Not
covered: products of fewer bits, as accelerators make them of float32 unless
``jax.default_matmul_precision('highest')`` is set, and convolutions by
transforms.

References:
  Gowal et al., `On the Effectiveness of Interval Bound Propagation for Training
  Verifiably Robust Models <https://arxiv.org/abs/1810.12715>`_, 2018, section
  3; Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from rrl_jax.models import _layers

# Where those fall before they rise; the others rise throughout.
_LEAST_AT = {'gelu': -0.75246142, 'silu': -1.27846454}
_ULPS = 8  # Error of an activation in units of |x| + 1.


class Box(NamedTuple):
  """Least and greatest value of each entry, arrays of one shape."""

  lower: jax.Array
  upper: jax.Array


def normalised(
  network: _layers.Network, lower: jax.Array, upper: jax.Array
) -> Box:
  """The box of ``network.normalise``, which rises in every pixel.

  Args:
    network: Its std is positive.
    lower: Least value of each pixel, ``[B, H, W, C]``, float.
    upper: Greatest, same shape.

  Returns:
    Float32 bounds of that shape.

  Raises:
    TypeError: Not floating.
    ValueError: Shapes that differ or are none of images.
  """
  if lower.shape != upper.shape:
    raise ValueError(f'lower has shape {lower.shape}, upper {upper.shape}')
  box = Box(*(network.normalise(x).astype(jnp.float32) for x in (lower, upper)))
  slack = 4 * _unit(network.compute_dtype)
  return Box(
    box.lower - slack * jnp.abs(box.lower),
    box.upper + slack * jnp.abs(box.upper),
  )


def flat(box: Box) -> Box:
  """One row of entries an example, ``[B, ...] -> [B, D]``."""
  return Box(*(x.reshape(x.shape[0], -1) for x in box))


def dense(box: Box, params: Mapping[str, jax.Array], dtype: Any) -> Box:
  """The box of ``nn.Dense``, with entries ``[B, D]``.

  Args:
    box: Of its inputs.
    params: Its ``kernel`` ``[D, E]`` and ``bias`` ``[E]``.
    dtype: Of the network's computation.
  """
  return _affine(
    box,
    params,
    dtype,
    lambda x, kernel: jnp.matmul(x, kernel, precision='highest'),
  )


def convolution(
  box: Box, params: Mapping[str, jax.Array], stride: int, dtype: Any
) -> Box:
  """The box of ``nn.Conv`` with padding SAME, entries ``[B, H, W, C]``.

  Args:
    box: Of its inputs.
    params: Its ``kernel`` ``[h, w, C, E]`` and ``bias`` ``[E]``.
    stride: Of both directions.
    dtype: Of the network's computation.
  """
  return _affine(
    box,
    params,
    dtype,
    lambda x, kernel: lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision='highest',
    ),
  )


def activation(box: Box, name: str, dtype: Any) -> Box:
  """The box of an activation, entry by entry.

  Args:
    box: Of its inputs.
    name: In `_layers.ACTIVATIONS`.
    dtype: Of the network's computation.
  """
  fn = _layers.activation_fn(name)
  lower, upper = fn(box.lower), fn(box.upper)
  if name in _LEAST_AT:
    upper = jnp.maximum(lower, upper)
    lower = fn(jnp.clip(_LEAST_AT[name], box.lower, box.upper))
  if name == 'relu':  # Rounds nothing.
    return Box(lower, upper)
  largest = jnp.maximum(jnp.abs(box.lower), jnp.abs(box.upper))
  # Once for the network, once for the bounds.
  slack = 2 * _ULPS * _unit(dtype) * (largest + 1)
  return Box(lower - slack, upper + slack)


def _affine(
  box: Box,
  params: Mapping[str, jax.Array],
  dtype: Any,
  product: Callable[[jax.Array, jax.Array], jax.Array],
) -> Box:
  """The box of ``product(x, kernel) + bias``, product being linear in both."""
  kernel, bias = (
    params[name].astype(dtype).astype(jnp.float32)
    for name in ('kernel', 'bias')
  )
  bias = bias.reshape((1,) * (box.lower.ndim - 1) + (-1,))
  # Products of the bounds and of the network, bias, ends.
  count = 2 * (kernel.size // kernel.shape[-1]) + 8
  slack = count * _unit(jnp.float32)
  slack = slack / (1 - slack)
  if dtype != jnp.float32:  # The sum and the bias added to it.
    slack += 3 * _unit(dtype)
  centre = (box.lower + box.upper) / 2
  radius = jnp.maximum(box.upper - centre, centre - box.lower)
  radius = radius + slack * (jnp.abs(centre) + radius)
  centre = product(centre, kernel) + bias
  radius = product(radius, jnp.abs(kernel)) + slack * jnp.abs(bias)
  return Box(centre - radius, centre + radius)


def _unit(dtype):
  """Largest relative error of rounding to a dtype."""
  return float(jnp.finfo(dtype).eps) / 2
