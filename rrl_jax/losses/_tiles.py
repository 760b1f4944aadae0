"""Contrastive sums over all pairs of rows, a tile of pairs at a time.

Everything here runs on rows that are sorted by label and cut into ``n`` tiles
of ``T`` rows. A pair of tiles whose labels do not overlap holds negatives
alone, so that it needs no mask; sorting makes most pairs such pairs. The
similarity is symmetric, so that tiles (i, j) and (j, i) are visited together
and computed once.

Symbols: ``s_ij = <z_i, z_j> / tau``; N(i) are the rows of other classes, P(i)
the other rows of the anchor's class, V(i) the rows of P(i) with the anchor's
instance id; LN, LP and LA are logsumexps over N, P and both; G_ij is the
derivative of the losses with respect to s_ij as it enters the loss of i.
"""

import dataclasses
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

UNLABELLED = -1  # Such a row is a class of its own views.
FLOOR = -1e30  # The logarithm of an empty sum; below every similarity.
LARGEST = 1e24  # Similarities are held below this: sums of them stay finite.
SMALL = 40.0  # e^(2 * 40) is well within float32.


@dataclasses.dataclass(frozen=True)
class Terms:
  """What is summed; static.

  Attributes:
    denominator: all, one_positive, negatives_only, in, or None for no
      supervised term.
    conditional: Whether the class-conditional term is wanted.
    numerator_clip: Largest positive similarity in the supervised numerator,
      or None.
  """

  denominator: str | None
  conditional: bool = False
  numerator_clip: float | None = None

  @property
  def mixed(self) -> bool:
    """Whether positives and negatives share the denominator's logsumexp."""
    return self.denominator in ('all', 'in')


class Block(NamedTuple):
  """Rows in tiles; ``low`` and ``high`` bound the labels of a tile."""

  z: jax.Array  # [n, T, D]
  label: jax.Array  # [n, T]
  ident: jax.Array  # [n, T]
  valid: jax.Array  # [n, T], False for masked rows and padding.
  low: jax.Array  # [n]
  high: jax.Array  # [n]
  full: jax.Array  # [n], whether all rows of the tile are valid.


class Scale(NamedTuple):
  """Scalars that hold for all pairs.

  Where no similarity exceeds ``SMALL`` in size, one exponential against a
  common shift serves both rows of a pair and no maximum has to be found.
  """

  inverse: jax.Array  # 1 / tau.
  shift: jax.Array  # No similarity is above it, if small.
  small: jax.Array  # bool


class Masks(NamedTuple):
  """Of the pairs in a tile, ``[T, T]``; symmetric in the two rows."""

  both: jax.Array  # Valid and not one row twice.
  pos: jax.Array
  view: jax.Array


def cut(x, tile_size: int):
  """``[n * T, ...] -> [n, T, ...]``."""
  return x.reshape(-1, tile_size, *x.shape[1:])


def make_block(z, label, ident, valid, tile_size: int) -> Block:
  """Cuts sorted rows, whose number is a multiple of the tile, into tiles."""
  label, valid = cut(label, tile_size), cut(valid, tile_size)
  return Block(
    z=cut(z, tile_size),
    label=label,
    ident=cut(ident, tile_size),
    valid=valid,
    low=jnp.min(label, axis=1),
    high=jnp.max(label, axis=1),
    full=jnp.all(valid, axis=1),
  )


def make_scale(block: Block, tau, axis_name: str | None) -> Scale:
  """Bounds the similarities by the longest row on any device."""
  squares = jnp.sum(jnp.square(block.z.astype(tau.dtype)), axis=-1)
  longest = jnp.max(jnp.where(block.valid, squares, 0))
  if axis_name is not None:
    longest = lax.pmax(lax.stop_gradient(longest), axis_name)
  shift = lax.stop_gradient(longest / tau)
  return Scale(1 / tau, shift, shift <= SMALL)


# What is known of the anchors: a dict of arrays [n, T], from two passes.


def empty_sums(terms: Terms, scale: Scale, shape) -> dict[str, jax.Array]:
  """The state of the first pass before any pair has been seen."""
  names = []
  if terms.denominator:
    names += ['top_neg', 'sum_neg', 'num_pos']
    if terms.denominator != 'in':
      names += ['total_pos']
    if terms.numerator_clip is not None:
      names += ['excess']
  if terms.conditional or terms.mixed:
    names += ['top_pos', 'sum_pos']
  if terms.conditional:
    names += ['num_view', 'total_view']
  zeros = jnp.zeros(shape, scale.shift.dtype)
  tops = zeros + jnp.where(scale.small, scale.shift, FLOOR)
  return {name: tops if name.startswith('top') else zeros for name in names}


def empty_margins(terms: Terms, shape, dtype) -> dict[str, jax.Array]:
  """The state of the second pass, which ``one_positive`` alone needs."""
  if terms.denominator != 'one_positive':
    return {}
  return {name: jnp.zeros(shape, dtype) for name in ('softplus', 'sigmoid')}


def _log_sum(top, total):
  """``log(total) + top``, the floor where the sum is empty."""
  empty = total <= 0
  return jnp.where(empty, FLOOR, top + jnp.log(jnp.where(empty, 1, total)))


def _sum_small(sums, powers, axis):
  """Adds a tile of negatives given ``e^(s - shift)``."""
  added = jnp.sum(powers, axis=axis)
  return sums | {'sum_neg': sums['sum_neg'] + added}


def _sum_plain(sums, s, axis):
  """Adds a tile of negatives; ``axis`` is that of the contrasts."""
  top = jnp.maximum(sums['top_neg'], lax.stop_gradient(jnp.max(s, axis=axis)))
  added = jnp.sum(jnp.exp(s - jnp.expand_dims(top, axis)), axis=axis)
  kept = sums['sum_neg'] * jnp.exp(sums['top_neg'] - top)
  return sums | {'top_neg': top, 'sum_neg': kept + added}


def _sum_mixed(terms, sums, s, masks, axis):
  """Adds a tile of any pairs."""
  out = dict(sums)
  both, pos, view = masks

  def total(x, where):
    return jnp.sum(jnp.where(where, x, 0), axis=axis)

  def add(kind, where):
    top = lax.stop_gradient(jnp.max(jnp.where(where, s, FLOOR), axis=axis))
    top = jnp.maximum(sums[f'top_{kind}'], top)
    powers = jnp.where(where, s - jnp.expand_dims(top, axis), FLOOR)
    kept = sums[f'sum_{kind}'] * jnp.exp(sums[f'top_{kind}'] - top)
    out[f'top_{kind}'] = top
    out[f'sum_{kind}'] = kept + jnp.sum(jnp.exp(powers), axis=axis)

  if 'sum_neg' in sums:
    add('neg', both & ~pos)
  if 'sum_pos' in sums:
    add('pos', pos)
  if 'num_pos' in sums:
    out['num_pos'] += total(1, pos).astype(s.dtype)
  if 'total_pos' in sums:
    out['total_pos'] += total(s, pos)
  if 'excess' in sums:
    out['excess'] += total(s - terms.numerator_clip, pos & over(terms, s))
  if 'num_view' in sums:
    out['num_view'] += total(1, view).astype(s.dtype)
    out['total_view'] += total(s, view)
  return out


def over(terms: Terms, s):
  """Where a similarity exceeds the numerator's clip."""
  return s > terms.numerator_clip


def _sum_margins(margins, log_neg, s, masks, axis):
  """Adds ``log(e^s + e^LN) - s`` and its slope over the positives."""
  gap = jnp.expand_dims(log_neg, axis) - s
  softplus = jnp.where(masks.pos, jax.nn.softplus(gap), 0)
  sigmoid = jnp.where(masks.pos, jax.nn.sigmoid(gap), 0)
  return {
    'softplus': margins['softplus'] + jnp.sum(softplus, axis=axis),
    'sigmoid': margins['sigmoid'] + jnp.sum(sigmoid, axis=axis),
  }


def losses_of(terms: Terms, sums, margins):
  """``(supervised, class-conditional)`` of each anchor; None if not wanted."""
  supervised = conditional = None
  log_neg, log_pos = _logs(sums)
  if terms.denominator:
    num = sums['num_pos']
    safe = jnp.maximum(num, 1)
    if terms.denominator == 'one_positive':
      value = margins['softplus'] / safe
    elif terms.denominator == 'all':
      value = jnp.logaddexp(log_neg, log_pos) - sums['total_pos'] / safe
    elif terms.denominator == 'negatives_only':
      value = log_neg - sums['total_pos'] / safe
    else:
      value = jnp.logaddexp(log_neg, log_pos) - log_pos + jnp.log(safe)
    if terms.numerator_clip is not None:
      value = value + sums['excess'] / safe
    supervised = jnp.where(_counted(terms, sums), value, 0)
  if terms.conditional:
    num = sums['num_view']
    value = log_pos - sums['total_view'] / jnp.maximum(num, 1)
    conditional = jnp.where(num > 0, value, 0)
  return supervised, conditional


def log_of_negatives(sums):
  """LN of each anchor, the floor for one without negatives."""
  return _log_sum(sums['top_neg'], sums['sum_neg'])


def _logs(sums):
  log_neg = log_pos = None
  if 'sum_neg' in sums:
    log_neg = log_of_negatives(sums)
  if 'sum_pos' in sums:
    log_pos = _log_sum(sums['top_pos'], sums['sum_pos'])
  return log_neg, log_pos


def _counted(terms, sums):
  """Anchors whose supervised term has a numerator and a denominator."""
  counted = sums['num_pos'] > 0
  if terms.denominator == 'negatives_only':
    counted = counted & (sums['sum_neg'] > 0)
  return counted


def slopes(terms: Terms, sums, margins, g_supervised, g_conditional):
  """Per-anchor numbers from which a tile's G follows, dict of ``[n, T]``.

  Args:
    terms: What is summed.
    sums: Result of the first pass.
    margins: Result of the second pass.
    g_supervised: Cotangent of the supervised losses, zero for masked rows.
    g_conditional: Cotangent of the class-conditional losses, likewise.
  """
  log_neg, log_pos = _logs(sums)
  out = {}
  if terms.denominator:
    g = jnp.where(_counted(terms, sums), g_supervised, 0)
    share = g / jnp.maximum(sums['num_pos'], 1)
    out['share'] = share  # Weight of one positive in the numerator.
    if terms.denominator == 'one_positive':
      out['neg'] = share * margins['sigmoid']
      out['log_neg'] = out['ref'] = log_neg
    elif terms.denominator == 'negatives_only':
      out['neg'], out['ref'] = g, log_neg
    else:
      out['neg'], out['ref'] = g, jnp.logaddexp(log_neg, log_pos)
  if terms.conditional:
    num = sums['num_view']
    out['own'] = jnp.where(num > 0, g_conditional, 0)
    out['view'] = out['own'] / jnp.maximum(num, 1)
  if log_pos is not None:
    out['log_pos'] = log_pos
  return out


def _power(s, ref):
  # Never above one but for rounding; the cap holds where that is coarse.
  return jnp.exp(jnp.minimum(s - ref, 1))


def _slope_small(slope, scale, axis):
  """G of a tile of negatives over ``e^(s - shift)``, to broadcast."""
  # An anchor without negatives has the floor for ref and meets none here.
  most = jnp.minimum(scale.shift - slope['ref'], 2 * SMALL)
  return jnp.expand_dims(slope['neg'] * jnp.exp(most), axis)


def _slope_plain(slope, s, axis):
  """G of a tile of negatives; ``axis`` is that of the contrasts."""
  row = lambda name: jnp.expand_dims(slope[name], axis)
  return row('neg') * _power(s, row('ref'))


def _slope_mixed(terms, slope, s, masks, axis):
  """G of a tile of any pairs."""
  row = lambda name: jnp.expand_dims(slope[name], axis)
  both, pos, view = masks
  out = jnp.zeros_like(s)
  if terms.denominator:
    denominator = both if terms.mixed else both & ~pos
    powers = _power(jnp.where(denominator, s - row('ref'), FLOOR), 0)
    out = row('neg') * powers
    share = row('share')
    if terms.denominator == 'one_positive':
      pull = share * jax.nn.sigmoid(row('log_neg') - s)
    elif terms.denominator == 'in':
      powers = _power(jnp.where(pos, s - row('log_pos'), FLOOR), 0)
      pull = row('neg') * powers
    else:
      pull = share
    if terms.numerator_clip is not None:
      pull = jnp.where(over(terms, s), pull - share, pull)
    out = out - jnp.where(pos, pull, 0)
  if terms.conditional:
    powers = _power(jnp.where(pos, s - row('log_pos'), FLOOR), 0)
    out = out + row('own') * powers - jnp.where(view, row('view'), 0)
  return out


# Sweeps over pairs of tiles.


def _dot(a, b, contract):
  """A product of matrices, accumulated without shortcuts."""
  return lax.dot_general(
    a, b, (contract, ((), ())), precision=lax.Precision.HIGHEST
  )


def _similarity(a: Block, b: Block, scale: Scale):
  # The rows are scaled, not the products: a compiler that fuses the product
  # with a later sum would round it differently at each use.
  dtype = scale.inverse.dtype
  rows = a.z.astype(dtype) * scale.inverse
  return _dot(rows, b.z.astype(dtype), ((1,), (1,)))


def _masks(a: Block, b: Block, one_tile: bool) -> Masks:
  pairs = lambda x, y: (x[:, None], y[None, :])
  left, right = pairs(a.valid, b.valid)
  both = left & right
  if one_tile:
    both = both & ~jnp.eye(both.shape[0], dtype=bool)
  left, right = pairs(a.label, b.label)
  one_class = left == right
  known = left != UNLABELLED
  left, right = pairs(a.ident, b.ident)
  one_instance = left == right
  pos = both & one_class & (known | one_instance)
  return Masks(both, pos, pos & one_instance)


def _at(tree, i):
  return jax.tree.map(
    lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), tree
  )


def _put(tree, value, i):
  return jax.tree.map(
    lambda x, v: lax.dynamic_update_index_in_dim(x, v, i, 0), tree, value
  )


def _choose(a: Block, b: Block, scale: Scale, skip, idle, small, plain, mixed):
  """Runs what fits a pair of tiles; the last four take no argument.

  Args:
    a: First tile.
    b: Second tile.
    scale: Whether similarities are small.
    skip: Whether to leave the pair out, or None for no.
    idle: For pairs left out.
    small: For negatives alone, of small similarity.
    plain: For negatives alone.
    mixed: For any pairs.

  Returns:
    What the chosen one returns.
  """
  apart = (a.high < b.low) | (b.high < a.low)
  apart = apart & a.full & b.full
  negatives = jnp.where(scale.small, 1, 2)
  case = jnp.where(apart, negatives, 3)
  if skip is not None:
    case = jnp.where(skip, 0, case)
  return lax.switch(case, (idle, small, plain, mixed))


def sweep_within(block: Block, step, state):
  """Runs ``step`` over every pair of tiles of one block, each pair once.

  Args:
    block: The rows.
    step: ``(tile, tile, row, col, skip) -> (row, col)``; ``row`` and ``col``
      are the slices of the state. For a tile with itself ``col`` is None.
    state: A tree of arrays ``[n, ...]``.

  Returns:
    The new state.
  """
  count = block.z.shape[0]

  def alone(i, state):
    tile = _at(block, i)
    row, _ = step(tile, tile, _at(state, i), None, None)
    return _put(state, row, i)

  # Tile i meets the next n / 2 tiles, cyclically: each pair once, in loops of
  # static length. For even n opposite tiles meet in the first half alone.
  def beside(i, state):
    def inner(offset, carry):
      row, state = carry
      j = (i + offset) % count
      skip = (2 * offset == count) & (i >= j)
      tiles = _at(block, i), _at(block, j)
      row, col = step(*tiles, row, _at(state, j), skip)
      return row, _put(state, col, j)

    carry = (_at(state, i), state)
    row, state = lax.fori_loop(1, count // 2 + 1, inner, carry)
    return _put(state, row, i)

  state = lax.fori_loop(0, count, alone, state)
  return lax.fori_loop(0, count, beside, state) if count > 1 else state


def sweep_across(anchors: Block, contrasts: Block, step, rows, cols):
  """Runs ``step`` over all pairs of a tile of one block and one of another.

  Args:
    anchors: Rows whose losses are in question.
    contrasts: Rows they are compared with; none is an anchor.
    step: As in ``sweep_within``.
    rows: State of the anchors.
    cols: State of the contrasts.

  Returns:
    ``(rows, cols)``.
  """
  n, m = anchors.z.shape[0], contrasts.z.shape[0]

  def outer(i, carry):
    def inner(j, carry):
      row, cols = carry
      tiles = _at(anchors, i), _at(contrasts, j)
      row, col = step(*tiles, row, _at(cols, j), None)
      return row, _put(cols, col, j)

    rows, cols = carry
    row, cols = lax.fori_loop(0, m, inner, (_at(rows, i), cols))
    return _put(rows, row, i), cols

  return lax.fori_loop(0, n, outer, (rows, cols))


# The three steps. Each serves a tile with itself (col None), two tiles of one
# block (both sides are anchors) and tiles of two blocks (rows are anchors).


def sums_step(terms: Terms, scale: Scale):
  """First pass: the state is that of ``empty_sums``; ``cols`` may be {}."""

  def step(a, b, row, col, skip):
    def idle():
      return row, col

    def small():
      powers = jnp.exp(_similarity(a, b, scale) - scale.shift)
      out = _sum_small(row, powers, 1)
      return out, _sum_small(col, powers, 0) if col else col

    def plain():
      s = _similarity(a, b, scale)
      return _sum_plain(row, s, 1), _sum_plain(col, s, 0) if col else col

    def mixed():
      s = _similarity(a, b, scale)
      masks = _masks(a, b, one_tile=col is None)
      out = _sum_mixed(terms, row, s, masks, 1)
      return out, _sum_mixed(terms, col, s, masks, 0) if col else col

    if col is None:
      return mixed()
    if not terms.denominator:
      small = plain = idle
    return _choose(a, b, scale, skip, idle, small, plain, mixed)

  return step


def margins_step(scale: Scale):
  """Second pass: the state is ``(margins, log_neg)``; ``cols`` may be {}."""

  def step(a, b, row, col, skip):
    def idle():
      return row, col

    def mixed():
      s = _similarity(a, b, scale)
      masks = _masks(a, b, one_tile=col is None)
      add = lambda state, axis: (
        _sum_margins(state[0], state[1], s, masks, axis),
        state[1],
      )
      return add(row, 1), add(col, 0) if col else col

    if col is None:
      return mixed()
    return _choose(a, b, scale, skip, idle, idle, idle, mixed)

  return step


def slopes_step(terms: Terms, scale: Scale, across: bool):
  """Backward: the state is ``(gradient, slopes)``.

  Across blocks that of the contrasts is the gradient alone.
  """

  def step(a, b, row, col, skip):
    grad, slope = row
    if col is None or across:
      other, other_slope = col, None
    else:
      other, other_slope = col

    def both_sides(g_of):
      g = g_of(slope, 1)
      if col is None:
        # Each row is an anchor of the tile and a contrast of its anchors.
        return g + g_of(slope, 0)
      return g if other_slope is None else g + g_of(other_slope, 0)

    def back(g):
      left, right = a.z.astype(g.dtype), b.z.astype(g.dtype)
      new = grad + _dot(g, right, ((1,), (0,)))
      if col is None:
        return new, None
      return new, other + _dot(g, left, ((0,), (0,)))

    def idle():
      return grad, other

    def small():
      powers = jnp.exp(_similarity(a, b, scale) - scale.shift)
      return back(
        powers * both_sides(lambda *x: _slope_small(x[0], scale, x[1]))
      )

    def plain():
      s = _similarity(a, b, scale)
      return back(both_sides(lambda slope, axis: _slope_plain(slope, s, axis)))

    def mixed():
      s = _similarity(a, b, scale)
      masks = _masks(a, b, one_tile=col is None)
      return back(
        both_sides(lambda *x: _slope_mixed(terms, x[0], s, masks, x[1]))
      )

    if col is None:
      return (mixed()[0], slope), None
    if not terms.denominator:
      small = plain = idle
    grad, other = _choose(a, b, scale, skip, idle, small, plain, mixed)
    return (grad, slope), other if across else (other, other_slope)

  return step
