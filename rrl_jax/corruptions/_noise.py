"""Noise in each value of each channel of an image ``[C, H, W]``."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


def gaussian(image: jax.Array, key: jax.Array, sigma: float) -> jax.Array:
  """Adds ``sigma`` times a standard normal number."""
  return image + sigma * jax.random.normal(key, image.shape)


def speckle(image: jax.Array, key: jax.Array, sigma: float) -> jax.Array:
  """Multiplies by 1 plus ``sigma`` times a standard normal number."""
  return image * (1 + sigma * jax.random.normal(key, image.shape))


def impulse(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
  """A value is 0 with probability ``amount / 2``, and 1 with the same."""
  u = jax.random.uniform(key, image.shape)
  return jnp.where(u < amount / 2, 0, jnp.where(u < amount, 1, image))


def shot(image: jax.Array, key: jax.Array, photons: int) -> jax.Array:
  r"""Poisson(``photons`` x) / ``photons``.

  Values are rounded to the 256 levels of bytes, which images are. Each level
  then has one distribution, from which one uniform number u draws by Walker's
  alias method: with n outcomes, ``k = floor(n u)`` is kept if ``n u - k`` is
  below a threshold of k, else k has one alias. `jax.random.poisson` loops
  until its last value is accepted.
  """
  threshold, alias = _alias_tables(photons)
  levels, outcomes = alias.shape
  level = jnp.round(image * (levels - 1)).astype(jnp.int32)
  u = outcomes * jax.random.uniform(key, image.shape)
  k = jnp.minimum(u.astype(jnp.int32), outcomes - 1)
  row = level * outcomes + k
  take = lambda table: (
    jnp.asarray(table.ravel()).at[row].get(mode='promise_in_bounds')
  )
  return jnp.where(u - k < take(threshold), k, take(alias)) / photons


@functools.cache
def _alias_tables(photons: int) -> tuple[np.ndarray, np.ndarray]:
  """Thresholds and aliases, ``[256, outcomes]``, of Poisson(photons i / 255).

  Outcomes end ten standard deviations and ten above the greatest mean.
  """
  outcomes = math.ceil(photons + 10 * photons**0.5 + 10)
  mean = photons * np.arange(256)[:, None] / 255
  k = np.arange(outcomes)
  log_factorial = np.cumsum(np.log(np.maximum(k, 1)))
  log_mean = np.log(np.maximum(mean, 1e-300))  # Black has no photons at all.
  weights = np.exp(k * log_mean - mean - log_factorial)
  weights *= outcomes / weights.sum(axis=1, keepdims=True)
  threshold = np.ones(weights.shape, np.float32)
  alias = np.broadcast_to(k, weights.shape).astype(np.int32)
  rows, done = np.arange(256), np.zeros(weights.shape, bool)
  for _ in range(outcomes - 1):  # The scarcest is filled up by the fullest.
    least = np.where(done, np.inf, weights).argmin(axis=1)
    most = np.where(done, -np.inf, weights).argmax(axis=1)
    threshold[rows, least] = weights[rows, least]
    alias[rows, least] = most
    weights[rows, most] -= 1 - weights[rows, least]
    done[rows, least] = True
  # What is below the spacing of n u in float32 would be met by chance alone.
  threshold[threshold < np.spacing(np.float32(outcomes))] = 0
  return threshold, alias
