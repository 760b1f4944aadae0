"""Example-level shift: accuracy on noisy, blurred and coarser images."""

from collections.abc import Iterator
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.data import augment
from rrl_jax.evals import measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.prediction import predicted
from rrl_jax.evals.task import EvalData, choose

RULES = {
  'noise_sigma': rules.AT_LEAST_ZERO,
  'blur_sigma': rules.POSITIVE,
  'resolution': (lambda v: 0 < v <= 1, 'in (0, 1]'),
  'num_examples': rules.COUNT,
}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  noise_sigma: float = 0.25,
  blur_sigma: float = 1.0,
  resolution: float = 0.5,
  num_examples: int = 0,
) -> Iterator[tuple[str, Measurement]]:
  """Accuracy on test images that are changed one by one.

  Args:
    encoder: What is evaluated.
    data: ``test`` is changed.
    key: Of the noise, which belongs to an example and not to its batch, and
      of the choice of examples.
    noise_sigma: Standard deviation of Gaussian noise on images in [0, 1].
    blur_sigma: Standard deviation of a Gaussian blur in pixels.
    resolution: Factor in (0, 1] by which height and width shrink before they
      grow back.
    num_examples: Test examples used; 0 for all.

  Yields:
    ``test/noise_accuracy``, ``test/blur_accuracy``,
    ``test/low_resolution_accuracy``.

  Raises:
    ConfigError: A value is out of range.
  """
  values = {
    'noise_sigma': noise_sigma,
    'blur_sigma': blur_sigma,
    'resolution': resolution,
    'num_examples': num_examples,
  }
  rules.check('shift', RULES, values)
  choice_key, noise_key = jax.random.split(key)
  chosen = choose(choice_key, len(data.test), num_examples)
  source = data.test.take(chosen)
  height, width, _ = source.image_shape
  rows, cols = (max(round(side * resolution), 1) for side in (height, width))
  shifts = {
    'noise': (
      functools.partial(add_noise, key=noise_key, sigma=noise_sigma),
      f'Gaussian noise of sigma {noise_sigma:g} on test images in [0, 1], '
      'clipped to them, one draw an example, top-1',
    ),
    'blur': (
      lambda images, ids: blur(images, sigma=blur_sigma),
      f'test images under a Gaussian blur of sigma {blur_sigma:g} pixels, '
      'top-1',
    ),
    'low_resolution': (
      lambda images, ids: coarsen(images, rows=rows, cols=cols),
      f'test images shrunk from {height}x{width} to {rows}x{cols} pixels and '
      'back, linear interpolation, top-1',
    ),
  }
  apply = encoder.apply
  settings = values | {'size': source.image_shape}
  for name, (change, protocol) in shifts.items():

    def predict(variables, images, ids, change=change):
      images = change(augment.to_float(images), ids)
      logits, _ = apply(variables, images)
      return predicted(logits)

    predict = encoder.remembered(f'shift {name}', predict, settings, noise_key)
    found = encoder.map_batches(predict, source.images, chosen)
    right = found == source.labels
    yield (
      f'test/{name}_accuracy',
      measurement.proportion(right.sum(), right.size, protocol),
    )


def add_noise(
  images: jax.Array, ids: jax.Array, *, key: jax.Array, sigma: float
) -> jax.Array:
  """Adds Gaussian noise and clips to [0, 1].

  Args:
    images: ``[B, H, W, C]`` in [0, 1].
    ids: Example ids, ``[B]``; an example's noise depends on its id alone.
    key: Key of the noise.
    sigma: Standard deviation.

  Returns:
    Images of the same shape and dtype.
  """
  draw = lambda i: jax.random.normal(
    jax.random.fold_in(key, i), images.shape[1:], images.dtype
  )
  return jnp.clip(images + sigma * jax.vmap(draw)(ids), 0, 1)


def blur(images: jax.Array, *, sigma: float) -> jax.Array:
  """Gaussian blur to three sigma, the border pixels repeated outwards.

  Args:
    images: ``[B, H, W, C]``.
    sigma: Standard deviation in pixels.

  Returns:
    Images of the same shape and dtype.
  """
  _, height, width, _ = images.shape
  rows, cols = (
    jnp.asarray(_blur_matrix(side, sigma), images.dtype)
    for side in (height, width)
  )
  # Two small matmuls: on a CPU several times quicker than a convolution.
  return jnp.einsum('ih,bhwc,jw->bijc', rows, images, cols)


def _blur_matrix(side, sigma):
  """Weights ``[to, from]`` of a blur along an axis of ``side`` pixels."""
  radius = max(int(np.ceil(3 * sigma)), 1)
  offsets = np.arange(-radius, radius + 1)
  kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
  kernel /= kernel.sum()
  matrix = np.zeros((side, side))
  for to in range(side):
    np.add.at(matrix[to], np.clip(to + offsets, 0, side - 1), kernel)
  return matrix


def coarsen(images: jax.Array, *, rows: int, cols: int) -> jax.Array:
  """Shrinks images with antialiasing and stretches them back, linearly.

  Args:
    images: ``[B, H, W, C]``.
    rows: Height in between, in pixels.
    cols: Width in between, in pixels.

  Returns:
    Images of the same shape and dtype.
  """
  batch, _, _, channels = images.shape
  small = jax.image.resize(images, (batch, rows, cols, channels), 'linear')
  return jax.image.resize(small, images.shape, 'linear')
