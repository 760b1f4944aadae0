"""Embeddings of a large batch without the activations of a large batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def grad_cache(
  encode_fn: Callable[[Any, Any], Any],
  params: Any,
  inputs: Any,
  *,
  chunk_size: int,
  unroll: bool = False,
) -> Any:
  """Encodes a batch in chunks and again, chunk by chunk, for the gradient.

  The result is that of ``encode_fn(params, inputs)``. Only the embeddings are
  kept: when a loss of them is differentiated, each chunk is encoded once more
  and pulls its part of the gradient back to ``params`` and ``inputs``. The
  gradient is exact, at the price of one more forward pass, and memory holds
  the activations of one chunk, whatever the batch. The contrastive losses do
  the same for the similarities, so that both together bound a large batch::

    def loss_fn(params):
      z = losses.grad_cache(encode, params, images, chunk_size=128)
      return losses.infonce(z, ids, temperature=0.1).mean()

    grads = jax.grad(loss_fn)(params)

  Args:
    encode_fn: ``(params, chunk) -> embeddings``, pure, rows independent of
      each other: batch statistics would become those of a chunk. Randomness
      comes with the inputs, as a key a row, and is then the same in both
      passes.
    params: Tree of arrays, shared by all chunks.
    inputs: Tree of arrays with a common leading axis of N rows.
    chunk_size: Rows of a chunk; the last one may be smaller.
    unroll: Whether to unroll the loop over chunks. Convolutions in loops are
      slow on CPU; unrolled they are not, but the compiler there may then
      keep the activations of many chunks at once.

  Returns:
    Tree of arrays with leading axis N.

  Raises:
    ValueError: There are no inputs, their leading axes differ, or
      ``chunk_size`` is not positive.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> encode = lambda w, x: jnp.tanh(x @ w)
    >>> x = jnp.arange(6.0).reshape(3, 2) / 6
    >>> z = losses.grad_cache(encode, jnp.eye(2), x, chunk_size=2)
    >>> print(bool(jnp.allclose(z, encode(jnp.eye(2), x))))
    True

  References:
    Gao, Zhang, Han, Callan, `Scaling Deep Contrastive Learning Batch Size
    under Memory Limited Setup <https://arxiv.org/abs/2101.06983>`_, 2021.

  .. note::
    The method is gradient caching; written as rematerialisation it composes
    with any loss and needs no functions of its own for the two passes.
  """
  leaves = jax.tree.leaves(inputs)
  if not leaves or any(jnp.ndim(leaf) == 0 for leaf in leaves):
    raise ValueError('inputs must hold arrays with a leading axis')
  rows = {leaf.shape[0] for leaf in leaves}
  if len(rows) > 1:
    raise ValueError(f'inputs must have one leading axis, got {sorted(rows)}')
  if chunk_size < 1:
    raise ValueError(f'chunk_size must be at least 1, got {chunk_size}')
  (num,) = rows
  encode = jax.checkpoint(encode_fn)
  whole = num // chunk_size
  parts = []
  if whole:
    cut = lambda x: x[: whole * chunk_size].reshape(
      whole, chunk_size, *x.shape[1:]
    )
    _, chunks = jax.lax.scan(
      lambda _, chunk: (None, encode(params, chunk)),
      None,
      jax.tree.map(cut, inputs),
      unroll=whole if unroll else 1,
    )
    parts.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunks))
  if num % chunk_size or not whole:
    rest = jax.tree.map(lambda x: x[whole * chunk_size :], inputs)
    parts.append(encode(params, rest))
  if len(parts) == 1:
    return parts[0]
  return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
