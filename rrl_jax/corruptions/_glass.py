"""Glass blur: pixels take over the values of near ones."""

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.corruptions import _blur


def glass(
  image: jax.Array, key: jax.Array, sigma: float, reach: int, rounds: int
):
  """Blurs, lets pixels take over their neighbours' values, and blurs again.

  Args:
    image: ``[C, H, W]``.
    key: A typed key.
    sigma: Standard deviation of the Gaussian blurs.
    reach: Greatest shift d.
    rounds: How often pixels move.
  """
  channels, height, width = image.shape
  # To bytes as in the original; rounding in float32 must not lower a byte.
  image = jnp.floor(_blur.gaussian(image, None, sigma) * 255 + 1e-3)
  flat = image.reshape(channels, -1)
  for round_key in jax.random.split(key, rounds):
    shifts = jax.random.randint(round_key, (2, height, width), -reach, reach)
    source = sources(shifts, reach).ravel()
    flat = flat.at[:, source].get(mode='promise_in_bounds')
  image = flat.reshape(image.shape) / 255
  return _blur.gaussian(image, None, sigma)


def sources(shifts: jax.Array, reach: int) -> jax.Array:
  """Index of the pixel whose value each pixel ends up with, ``[H, W]``.

  The authors visit the pixels row by row from the lower right, d or more away
  from the border, and mean to swap each with a random neighbour; since NumPy
  hands out views, the pixel is overwritten and the neighbour stays. A
  neighbour that comes later still has its old value, one that was visited has
  what it took over itself. So each pixel points to another, along chains that
  end in an old value, and every pointer is doubled until all of them do:
  as many steps as the logarithm of the longest chain, in place of a loop over
  pixels. With d = 1 no neighbour was visited.

  Args:
    shifts: Down and right, ``[2, H, W]`` integers in [-d, d - 1].
    reach: d.
  """
  _, height, width = shifts.shape
  index = np.arange(height * width).reshape(height, width)
  row, column = np.divmod(index, width)
  inside = (row > reach) & (row <= height - reach)
  inside &= (column > reach) & (column <= width - reach)
  # Nowhere out of the image, since pixels on its rim do not move.
  pointer = jnp.where(inside, index + width * shifts[0] + shifts[1], index)
  if reach == 1:
    return pointer
  # Odd: still to be followed. Pixels that do not move have their old value.
  pointer = pointer.ravel()
  moved = jnp.asarray(inside.ravel())
  follow = moved & (pointer > jnp.asarray(index.ravel())) & moved[pointer]

  def double(state):
    pointer, follow = state
    ahead, again = (
      x.at[pointer].get(mode='promise_in_bounds') for x in (pointer, follow)
    )
    return jnp.where(follow, ahead, pointer), follow & again

  pointer, _ = jax.lax.while_loop(
    lambda state: jnp.any(state[1]), double, (pointer, follow)
  )
  return pointer.reshape(height, width)
