"""The fast gradient method: one step as long as the radius."""

from collections.abc import Callable

import jax
from jax.typing import ArrayLike

from rrl_jax.attacks import _pgd


def fgsm(
  loss_fn: Callable[[jax.Array], jax.Array],
  inputs: ArrayLike,
  *,
  epsilon: ArrayLike,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
) -> jax.Array:
  r"""Examples moved once, as far as the ball goes, along their gradient.

  .. math:: z = \mathrm{clip}\big(x + \epsilon\, d(\nabla_x \ell(x)), l, u\big)

  with d the sign (linf) or the unit gradient (l2). In l1 the radius is spent
  on the coordinates of largest gradient, each as far as the bounds let it.
  Losses are summed inside; the result is under stop_gradient, and what
  ``loss_fn`` closes over is held constant.

  Args:
    loss_fn: Maps points ``[B, ...]`` of the dtype of ``inputs`` to one loss
      an example, ``[B]``.
    inputs: Clean examples within the bounds, shape ``[B, ...]``, float.
    epsilon: Radius of the ball, non-negative: a scalar or one an example. A
      Python number is rounded down to the dtype, a traced one taken as it is.
    norm: One of linf, l2, l1.
    bounds: Least and greatest value of a coordinate, or None.

  Returns:
    Adversarial examples, shape and dtype of ``inputs``; within the ball and
    the bounds in exact arithmetic, in every dtype.

  Raises:
    TypeError: Inputs are not floating.
    ValueError: Unknown norm, bad rank, negative static radius, bounds out of
      order, or a ``loss_fn`` that does not return ``[B]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import attacks
    >>> adv = attacks.fgsm(lambda x: x @ jnp.array([1.0, -2.0]),
    ...                    jnp.array([[0.5, 0.125]]), epsilon=0.25)
    >>> print(adv)
    [[0.75 0.  ]]

  References:
    Goodfellow, Shlens, Szegedy, `Explaining and Harnessing Adversarial
    Examples <https://arxiv.org/abs/1412.6572>`_, 2015.

  .. note::
    For the variant with a random start call ``pgd`` with ``num_steps=1`` and
    ``step_size=1.25 * epsilon``. What the bounds clip off an l2 step is not
    spent elsewhere.
  """
  return _pgd.pgd(
    loss_fn,
    None,
    inputs,
    epsilon=epsilon,
    step_size=epsilon,
    num_steps=1,
    norm=norm,
    bounds=bounds,
    random_start=False,
  )
