"""Blocks of rows that travel around the devices of a mapped axis."""

import jax
from jax import lax


def _next(tree, axis_name):
  """Hands every device the tree of its predecessor."""
  size = lax.axis_size(axis_name)
  pairs = [(i, (i + 1) % size) for i in range(size)]
  return jax.tree.map(lambda x: lax.ppermute(x, axis_name, pairs), tree)


def visit(block, step, state, axis_name):
  """Shows every device the blocks of all others, one after another.

  Args:
    block: This device's tree of arrays.
    step: ``(visitor, state) -> state``.
    state: What stays on the device.
    axis_name: The mapped axis.

  Returns:
    The state after all visits.
  """

  def hop(_, carry):
    visitor, state = carry
    visitor = _next(visitor, axis_name)
    return visitor, step(visitor, state)

  hops = lax.axis_size(axis_name) - 1
  return lax.fori_loop(0, hops, hop, (block, state))[1]


def visit_and_return(block, luggage, step, state, axis_name):
  """As ``visit``; each block carries luggage that its hosts add to.

  Args:
    block: This device's tree of arrays.
    luggage: What travels with it and comes home changed.
    step: ``(visitor, luggage, state) -> (luggage, state)``.
    state: What stays on the device.
    axis_name: The mapped axis.

  Returns:
    ``(luggage, state)``, the luggage of this device's own block.
  """

  def hop(_, carry):
    visitor, luggage, state = carry
    visitor, luggage = _next((visitor, luggage), axis_name)
    return (visitor, *step(visitor, luggage, state))

  hops = lax.axis_size(axis_name) - 1
  carry = lax.fori_loop(0, hops, hop, (block, luggage, state))
  return _next(carry[1], axis_name), carry[2]
