"""Reads compiled programs as XLA prints them: loops, products, collectives.

XLA's own cost analysis counts the body of a loop once, however often it runs;
here it counts as often as it does.
"""

import dataclasses
import functools
import math
import re

COLLECTIVES = (
    'all-reduce', 'all-gather', 'reduce-scatter', 'collective-permute',
    'all-to-all', 'ragged-all-to-all', 'collective-broadcast',
)  # fmt: skip
_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
# They move nothing, or what they call does.
_FREE = (
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
    'conditional', 'call', 'after-all', 'partition-id', 'replica-id',
)  # fmt: skip
_INSTRUCTION = re.compile(r'\s*(?:ROOT )?%?([\w.\-]+) = ')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](?:\{[^}]*\})?')
_CALLED = re.compile(
  r'(?:calls|body|condition|to_apply|true_computation|false_computation)='
  r'%?([\w.\-]+)'
)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: Its name.
    opcode: What it does.
    shape: Of its result, as printed.
    operands: Names of what it reads.
    rest: Everything behind the operands.
    inside: What stands between the brackets behind the opcode.
  """

  name: str
  opcode: str
  shape: str
  operands: tuple[str, ...]
  rest: str
  inside: str

  @property
  def scope(self) -> str:
    """Where in the traced code it is from."""
    found = re.search(r'op_name="([^"]*)"', self.rest)
    return found[1] if found else ''


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation of a program.

  Attributes:
    kind: One of `COLLECTIVES`.
    num_bytes: What a device holds of it before or after, the larger.
    times: How often it runs in a run of the program.
    scope: Where in the traced code it is from.
  """

  kind: str
  num_bytes: int
  times: int
  scope: str


class Program:
  """A compiled program, taken apart."""

  def __init__(self, text: str):
    self._computations, self._entry = _parse(text)
    self._cost = functools.cache(self._cost)

  def flops(self, *, loops: bool = True) -> float:
    """FLOPs of matrix products and convolutions, on one device.

    Args:
      loops: Whether a loop's body counts as often as it runs, or once.
    """
    return self._cost(self._entry, loops)[0]

  def hbm_bytes(self) -> float:
    """Bytes that instructions read from and write to main memory.

    Arrays that stay in a chip's fast memory do not count. An estimate from
    above: an instruction is taken to read all of its operands.
    """
    return self._cost(self._entry, True)[1]

  def collectives(self) -> list[Collective]:
    """All collectives, in no particular order.

    The TPU's compiler takes a collective apart and fuses each piece with what
    is computed meanwhile; the pieces have one channel and are counted once.
    """
    return list(self._collectives(self._entry, 1, set()))

  def _cost(self, name, loops):
    """``(flops, bytes)`` of a computation with all that it calls."""
    flops = num_bytes = 0.0
    known = self._computations[name]
    for instruction in known.values():
      if instruction.opcode not in _FREE:
        num_bytes += _traffic(instruction, known)
      if instruction.opcode == 'convolution':
        flops += _convolution_flops(instruction, known)
      elif instruction.opcode == 'dot':
        flops += _dot_flops(instruction, known)
      elif instruction.opcode == 'while':
        trips = self._trips(instruction, known) if loops else 1
        for part in self._called(instruction):
          cost = self._cost(part, loops)
          flops, num_bytes = (
            flops + trips * cost[0],
            num_bytes + trips * cost[1],
          )
      elif instruction.opcode == 'conditional':
        costs = [self._cost(part, loops) for part in self._called(instruction)]
        flops += max((cost[0] for cost in costs), default=0)
        num_bytes += max((cost[1] for cost in costs), default=0)
      elif instruction.opcode in ('fusion', 'call', 'async-start'):
        for part in self._called(instruction):
          cost = self._cost(part, loops)
          flops += cost[0]
          if instruction.opcode != 'fusion':
            num_bytes += cost[1]
    return flops, num_bytes

  def _collectives(self, name, times, pieces, fused=False):
    """Yields them; ``pieces`` has the channels of those that are in pieces."""
    known = self._computations[name]
    for instruction in known.values():
      kind = instruction.opcode.removesuffix('-start')
      channel = re.search(r'channel_id=(\d+)', instruction.rest)
      if kind in COLLECTIVES and fused and channel:
        if (kind, channel[1]) in pieces:
          continue
        pieces.add((kind, channel[1]))
      if kind in COLLECTIVES:
        read = [known[o] for o in instruction.operands if o in known]
        yield Collective(
          kind,
          max(
            _result_bytes(instruction),
            sum(_bytes(operand.shape) for operand in read),
          ),
          times,
          instruction.scope,
        )
      inner = times
      if instruction.opcode == 'while':
        inner = times * self._trips(instruction, known)
      if instruction.opcode in (
        'while', 'conditional', 'fusion', 'call', 'async-start'
      ):  # fmt: skip
        for part in self._called(instruction):
          yield from self._collectives(
            part, inner, pieces, fused or instruction.opcode == 'fusion'
          )

  def _called(self, instruction):
    """Names of the computations that an instruction runs."""
    names = _CALLED.findall(instruction.rest)
    branches = re.search(r'branch_computations=\{([^}]*)\}', instruction.rest)
    if branches:
      names += re.findall(r'%?([\w.\-]+)', branches[1])
    return [name for name in names if name in self._computations]

  def _trips(self, loop, known):
    """How often a while loop runs; 1 where that cannot be told."""
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if found:
      return int(found[1])
    condition = re.search(r'condition=%?([\w.\-]+)', loop.rest)[1]
    inside = self._computations[condition]
    tests = [i for i in inside.values() if i.opcode == 'compare']
    if len(tests) != 1 or 'direction=LT' not in tests[0].rest:
      return 1
    counter, limit = (inside[name] for name in tests[0].operands)
    stop = _constant(limit, inside)
    if stop is None:
      stop = self._start(limit, loop, known)
    start = self._start(counter, loop, known)
    if stop is None or start is None:
      return 1
    return max(stop - start, 0)

  def _start(self, element, loop, known):
    """The constant with which an element of a loop's state begins."""
    index = re.search(r'index=(\d+)', element.rest)
    state = known.get(loop.operands[0])
    if not index or state is None or state.opcode != 'tuple':
      return None
    return _constant(known[state.operands[int(index[1])]], known)


def _parse(text):
  """Computations by name, each a dict of instructions, and the entry's name."""
  computations, entry, current = {}, '', None
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header and ' = ' not in line.split('(', 1)[0]:
      current = computations.setdefault(header[2], {})
      entry = header[2] if header[1] else entry
      continue
    found = _INSTRUCTION.match(line)
    if current is None or not found:
      continue
    rest = line[found.end() :]
    cut = _closing(rest) if rest.startswith('(') else rest.index(' ')
    shape, rest = rest[:cut], rest[cut:].lstrip()
    opcode, bracket, _ = rest.partition('(')
    if not bracket:
      continue
    end = _closing(rest[len(opcode) :]) + len(opcode)
    inside = rest[len(opcode) + 1 : end - 1]
    current[found[1]] = Instruction(
      found[1],
      opcode,
      shape,
      tuple(re.findall(r'%([\w.\-]+)', inside)),
      rest[end:],
      inside,
    )
  return computations, entry


def _closing(text):
  """The place behind the bracket that closes the first one."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return i + 1
  return len(text)


def _arrays(shape):
  """``(dtype, dims, whether in main memory)`` of each array of a shape."""
  for found in _ARRAY.finditer(shape):
    dims = tuple(int(size) for size in found[2].split(',') if size)
    yield found[1], dims, not re.search(r'S\([1-9]', found[0])


def _size(dtype, dims):
  """Bytes of an array."""
  bits = _BITS.get(dtype)
  if bits is None:
    digits = re.search(r'\d+', dtype)
    bits = int(digits[0]) if digits else 32
  return math.prod(dims) * bits // 8


def _bytes(shape):
  return sum(_size(dtype, dims) for dtype, dims, _ in _arrays(shape))


def _result_bytes(instruction):
  """Bytes of a collective's result, once even if it starts now, ends later."""
  shape = instruction.shape
  if instruction.opcode in ('all-gather-start', 'collective-permute-start'):
    # Operand, result and flags; both are tuples where several are sent at once.
    first = shape.find('(', 1)
    if first > 0:
      second = shape.index('(', first + _closing(shape[first:]))
      return _bytes(shape[second : second + _closing(shape[second:])])
    return max(_size(dtype, dims) for dtype, dims, _ in _arrays(shape))
  return _bytes(shape)


def _traffic(instruction, known):
  """Bytes between main memory and the chip."""
  if instruction.opcode.endswith('-done'):
    return 0
  shapes = [instruction.shape]
  if not instruction.opcode.endswith('-start'):  # Its result has the operand.
    shapes += [known[o].shape for o in instruction.operands if o in known]
  return sum(
    _size(dtype, dims)
    for shape in shapes
    for dtype, dims, in_main in _arrays(shape)
    if in_main
  )


def _constant(instruction, known):
  """The integer that an instruction gives, or None."""
  while instruction.opcode in ('copy', 'bitcast', 'reshape'):
    instruction = known.get(instruction.operands[0])
    if instruction is None:
      return None
  number = re.fullmatch(r'-?\d+', instruction.inside)
  return int(number[0]) if instruction.opcode == 'constant' and number else None


def _dims(name, known):
  return next(_arrays(known[name].shape))[1]


def _dot_flops(instruction, known):
  dims = _dims(instruction.operands[0], known)
  summed = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.rest)
  inner = [dims[int(i)] for i in summed[1].split(',') if i] if summed else []
  (_, out, _), *_ = _arrays(instruction.shape)
  return 2.0 * math.prod(out) * math.prod(inner)


def _convolution_flops(instruction, known):
  """Products with padding and with the zeros of a dilation do not count."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.rest)
  left, right, result = labels.groups()
  lhs = dict(zip(left, _dims(instruction.operands[0], known), strict=True))
  rhs = dict(zip(right, _dims(instruction.operands[1], known), strict=True))
  (_, dims, _), *_ = _arrays(instruction.shape)
  out = dict(zip(result, dims, strict=True))
  window = dict(
    part.split('=')
    for part in _braces(instruction.rest, 'window').split()
    if '=' in part
  )
  groups = re.search(r'batch_group_count=(\d+)', instruction.rest)
  products = lhs['b'] * rhs['i'] * rhs['o'] / int(groups[1] if groups else 1)
  spatial = sorted(label for label in left if label.isdigit())
  for axis, label in enumerate(spatial):
    value = lambda key, default, axis=axis: (
      window[key].split('x')[axis] if key in window else default
    )
    products *= _pairs(
      lhs[label],
      out[label],
      rhs[label],
      int(value('stride', 1)),
      int(value('pad', '0_0').split('_')[0]),
      int(value('lhs_dilate', 1)),
      int(value('rhs_dilate', 1)),
    )
  return 2.0 * products


def _braces(text, key):
  found = re.search(rf'\b{key}=\{{([^}}]*)\}}', text)
  return found[1] if found else ''


@functools.cache
def _pairs(inputs, outputs, kernel, stride, pad, dilation, kernel_dilation):
  """Pairs of an output and a kernel's entry that meet an input."""
  last = (inputs - 1) * dilation
  return sum(
    0 <= place <= last and place % dilation == 0
    for i in range(outputs)
    for k in range(kernel)
    for place in [i * stride - pad + k * kernel_dilation]
  )
