"""Changes of the colours of one image, by given amounts.

The formulas are those of torchvision, which published recipes mean by the
names. An image is a tuple of one or three planes ``[H, W]`` here, floats in
[0, 1]: on CPU arithmetic on planes is vectorised, on channels that come last
it is not.
"""

import jax
import jax.numpy as jnp

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
Planes = tuple[jax.Array, ...]


def luminance(planes: Planes) -> jax.Array:
  """``0.2989 R + 0.587 G + 0.114 B``, ``[H, W]``; one plane is its own.

  The sum is written out, since a product of matrices loses digits on
  accelerators.
  """
  if len(planes) == 1:
    return planes[0]
  red, green, blue = planes
  return 0.2989 * red + 0.587 * green + 0.114 * blue


def turn_hue(planes: Planes, angle: jax.Array) -> Planes:
  """Adds an angle, in turns, to H in HSV.

  With V the greatest and C the range of a pixel's colours and H its hue in
  sixths of a turn, red is ``V - C clip(min(k, 4 - k), 0, 1)`` for
  ``k = (5 + H) mod 6``; green and blue have 3 and 1 in place of 5. S is not
  needed, nor are the slow remainders that dm-pix takes.
  """
  red, green, blue = planes
  value = jnp.maximum(jnp.maximum(red, green), blue)
  chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
  divisor = jnp.where(chroma > 0, chroma, 1)  # A gray pixel stays in any case.
  hue = jnp.where(
    value == red,
    (green - blue) / divisor,
    jnp.where(
      value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4
    ),
  )
  turns = hue / 6 + angle

  def plane(offset):
    k = turns + offset / 6
    k = 6 * (k - jnp.floor(k))
    return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

  return plane(5), plane(3), plane(1)


def change(planes: Planes, operation: jax.Array, amount: jax.Array) -> Planes:
  r"""One operation of the colour jitter, cut to [0, 1].

  Three of them mix the image x with another, :math:`a x + (1 - a) y`: for
  BRIGHTNESS y = 0, for CONTRAST the mean luminance of the image, for
  SATURATION the luminance of each pixel. HUE turns the hue by a.

  Args:
    planes: The image.
    operation: An integer, which may be a traced one.
    amount: The factor a, at least 0, or the angle a.
  """
  gray = luminance(planes)
  other = jnp.where(operation == CONTRAST, jnp.mean(gray), gray)
  other = jnp.where(operation == BRIGHTNESS, 0, other)
  changed = tuple(amount * plane + (1 - amount) * other for plane in planes)
  if len(planes) == 3:
    changed = tuple(
      jnp.where(operation == HUE, turned, mixed)
      for turned, mixed in zip(turn_hue(planes, amount), changed, strict=True)
    )
  return tuple(jnp.clip(plane, 0, 1) for plane in changed)


def jitter(planes: Planes, order: jax.Array, amounts: jax.Array) -> Planes:
  """The operations one after the other.

  A switch over the 24 orders, or over the four operations at each place,
  computes every branch once examples are mapped over. Here each place computes
  one mixture, whose other image depends on the operation, and one hue, and the
  scan compiles them once for all places.

  Args:
    planes: The image.
    order: Integers ``[n]``, the operation at each place.
    amounts: ``[4]``, of each operation by its number.
  """

  def place(planes, operation):
    return change(planes, operation, amounts[operation]), None

  return jax.lax.scan(place, planes, order)[0]


def draw(
  key: jax.Array, strength: float, num_operations: int, dtype
) -> tuple[jax.Array, jax.Array]:
  """Order and amounts of a jitter.

  Factors are uniform in ``1 -+ 0.8 strength``, the angle is so in
  ``-+ 0.2 strength``.

  Args:
    key: A typed key.
    strength: Of the jitter.
    num_operations: How many of the operations act, from the first on.
    dtype: Of the amounts.

  Returns:
    order: Integers ``[num_operations]``, each order equally likely.
    amounts: ``[4]``.
  """
  order_key, amounts_key = jax.random.split(key)
  order = jnp.argsort(jax.random.uniform(order_key, (num_operations,)))
  spread = jnp.array([0.8, 0.8, 0.8, 0.2], dtype) * strength
  draws = jax.random.uniform(amounts_key, (4,), dtype, minval=-1, maxval=1)
  return order, jnp.array([1, 1, 1, 0], dtype) + spread * draws


def random_jitter(
  key: jax.Array, image: jax.Array, strength: float, probability: float
) -> jax.Array:
  """Jitters the colours of an image ``[H, W, C]`` with a probability.

  The two operations that are nothing on one channel are left out there, which
  leaves both orders of the other two equally likely.
  """
  draw_key, which = jax.random.split(key)
  num_operations = 4 if image.shape[-1] == 3 else 2
  order, amounts = draw(draw_key, strength, num_operations, image.dtype)
  jittered = jitter(_planes(image), order, amounts)
  return jnp.where(
    jax.random.bernoulli(which, probability),
    jnp.stack(jittered, axis=-1),
    image,
  )


def random_grayscale(
  key: jax.Array, image: jax.Array, probability: float
) -> jax.Array:
  """The luminance in every channel of ``[H, W, C]``, with a probability."""
  gray = luminance(_planes(image))[..., None]
  return jnp.where(jax.random.bernoulli(key, probability), gray, image)


def _planes(image: jax.Array) -> Planes:
  """The channels of ``[H, W, C]``."""
  return tuple(image[..., c] for c in range(image.shape[-1]))
