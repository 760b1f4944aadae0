"""Compiles a run for TPUs that are not there, and says what it would take.

libtpu has the whole compiler; a topology's name stands for the chips. What is
compiled is what runs: the step that the loop calls and the attack that the
evaluation maps over batches, with their shardings and donations. No data are
read where the source can say what its images look like, see `data.load`.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import re
import time
from typing import Any

import jax
from jax.experimental import topologies
from jax.extend import core
from ml_collections import ConfigDict
import numpy as np

from rrl_jax import attacks, target
from rrl_jax.errors import ConfigError
from rrl_jax.evals import pgd
from rrl_jax.train import chips, evaluation, experiment, hlo, loop, sharding

_ATTACK_SCOPE = 'attack'  # As `attacks` name what they do.
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one run of a compiled program takes on each chip.

  Attributes:
    num_chips: Chips that it runs on.
    num_bytes: Memory: arguments, results and temporaries, what results reuse
      of the arguments counted once.
    flops: Floating-point operations, a loop's body as often as it runs.
    hbm_bytes: Read from and written to main memory, estimated from above.
    collectives: What is sent between chips.
    seconds: That compiling took here.
  """

  num_chips: int
  num_bytes: int
  flops: float
  hbm_bytes: float
  collectives: Sequence[hlo.Collective]
  seconds: float

  def ici_bytes(self) -> float:
    """Bytes that a chip sends, on the best ring."""
    share = (self.num_chips - 1) / self.num_chips
    return sum(
      c.times
      * c.num_bytes
      * {'all-reduce': 2 * share, 'collective-permute': 1}.get(c.kind, share)
      for c in self.collectives
    )

  def bounds(self, chip: chips.Chip) -> dict[str, float]:
    """Seconds that arithmetic, memory and network take at their peaks."""
    return {
      'arithmetic': self.flops / chip.flops_per_s,
      'memory': self.hbm_bytes / chip.hbm_bytes_per_s,
      'network': self.ici_bytes() / chip.ici_bytes_per_s,
    }

  def in_attack(self) -> list[hlo.Collective]:
    """The collectives inside an attack."""
    return [c for c in self.collectives if _is_attack(c)]


class DoesNotFitError(ConfigError):
  """A program needs more memory than a chip has; ``gib`` says how much."""

  def __init__(self, gib: float, chip: chips.Chip):
    super().__init__(
      f'a chip would need {gib:.2f} GiB or more and has'
      f' {chip.hbm_bytes / _GIB:.0f}: a smaller batch_size, more micro_batches'
      ' or model.kw.dtype=bfloat16 may do'
    )
    self.gib = gib


def devices(topology: str) -> Sequence[jax.Device]:
  """The chips of a topology such as ``v5e:4x4``, to compile for.

  Raises:
    ConfigError: libtpu is not installed, or knows no such topology.
  """
  chip = chips.of_topology(topology)
  if importlib.util.find_spec('libtpu') is None:
    raise ConfigError(
      "--aot needs libtpu, the TPU's compiler, which runs on any x86-64 Linux:"
      " pip install -e '.[tpu]' (or libtpu)"
    )
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, **chip.topology_options
    ).devices
  except Exception as error:  # noqa: BLE001 - whatever libtpu has to say.
    text = ' '.join(str(error).split())
    raise ConfigError(f'--aot={topology}: libtpu says {text[:200]}') from error
  return list(found)


def build(config: ConfigDict, topology: str) -> experiment.Experiment:
  """The experiment on the chips of a topology, with black images.

  Raises:
    ConfigError: A field or the topology is wrong.
    DataError: The source must be read to know its shapes, and cannot be; say
      ``data.name=mock`` with ``data.kw.image_shape`` and the like.
  """
  config = config.copy_and_resolve_references()
  return experiment.build(config, devices=devices(topology), shapes_only=True)


def train_step(built: experiment.Experiment, chip: chips.Chip) -> Cost:
  """Compiles the step that the loop runs.

  Raises:
    DoesNotFitError: It needs more memory than a chip has.
  """
  return _compile(loop.jit_step(built), built, chip, *arguments(built))


def arguments(built: experiment.Experiment) -> tuple[Any, Any, Any]:
  """Shapes and shardings of what `loop.jit_step` takes."""
  store = {
    name: _shape(array.shape, array.dtype, sharding.replicated(built.mesh))
    for name, array in loop.resident_arrays(built).items()
  }
  return built.abstract_state(), _batch(built, bool(store)), store


def attack_step(
  built: experiment.Experiment, chip: chips.Chip
) -> tuple[str, Cost]:
  """Compiles the attack that the evaluation maps over batches.

  It is that of ``evals.pgd``, with or without those settings; or of
  ``evals.auto_attack``, APGD on the cross entropy, where that alone is asked
  for.

  Returns:
    Its name, and what a batch of ``eval_batch_size`` takes.
  """
  asked = built.config.evals.to_dict()
  state = built.abstract_state()
  encoder = evaluation.Evaluator(built).abstract_encoder(state)
  test, num_chips = built.data.test, built.mesh.size
  size = -(-encoder.batch_size // num_chips) * num_chips
  rows = sharding.by_rows(built.mesh)
  labels = _shape((size,), np.int32, rows)
  shape = (size, *test.image_shape)
  key = jax.random.key(0)
  if 'auto_attack' in asked and 'pgd' not in asked:
    kw = asked['auto_attack']
    num_steps = kw.get('num_steps', 100)

    def apgd(variables, images, labels, ids):
      return attacks.apgd(
        lambda x: encoder.apply(variables, x)[0],
        key,
        images,
        labels,
        epsilon=kw.get('epsilon', 8 / 255),
        norm=kw.get('norm', 'linf'),
        num_steps=num_steps,
        example_ids=ids,
      ).robust

    images = _shape(shape, np.float32, rows)
    fn = jax.jit(apgd, out_shardings=rows)
    args = (encoder.variables, images, labels, labels)
    return f'apgd{num_steps}', _compile(fn, built, chip, *args)
  kw = asked.get('pgd', {})
  num_steps = kw.get('num_steps', 20)
  step_size = kw.get('step_size')
  if step_size is None:
    step_size = 2.5 * kw.get('epsilon', 8 / 255) / num_steps
  fn = encoder.mapped(
    pgd.program(
      encoder,
      key,
      step_size=step_size,
      num_steps=num_steps,
      norm=kw.get('norm', 'linf'),
    )
  )
  images = _shape(shape, test.images.dtype, rows)
  radius = _shape((size,), np.float32, rows)
  margin = _shape((size,), np.bool_, rows)
  args = (encoder.variables, images, labels, labels, radius, margin)
  return f'pgd{num_steps}', _compile(fn, built, chip, *args)


def erm_config(config: ConfigDict) -> ConfigDict:
  """Empirical risk minimisation by the same network on the same batch."""
  config = config.copy_and_resolve_references()
  config.objective = ConfigDict({'name': 'erm', 'kw': {}})
  config.data.augment.views = 0
  return config


def model_flops(built: experiment.Experiment) -> float:
  """Analytic FLOPs of a training step on one chip: thrice a forward pass.

  Matrix products and convolutions of one view of the batch, two operations for
  each multiplication, padding included.
  """
  state = jax.eval_shape(built.init, jax.random.key(0))
  params = state.params, state.model_state
  if built.objective.num_networks > 1:
    params = jax.eval_shape(
      lambda tree: jax.tree.map(lambda leaf: leaf[0], tree), params
    )
  size = built.config.data.augment.resized_crop
  height, width, channels = built.data.train.image_shape
  images = jax.ShapeDtypeStruct(
    (built.config.batch_size, size or height, size or width, channels),
    np.float32,
  )
  forward = lambda params, model_state, images: built.apply_fn(
    params, model_state, images, train=False
  )[0][0]
  jaxpr = jax.make_jaxpr(forward)(*params, images)
  return 3 * _products(jaxpr.jaxpr) / built.mesh.size


def report(config: ConfigDict, topology: str) -> None:
  """Compiles and prints what ``launch.py --aot`` says.

  Raises:
    ConfigError: Something is wrong with the config or the topology, or the
      step does not fit into a chip's memory.
    DataError: As `build`.
  """
  chip = chips.of_topology(topology)
  built = build(config, topology)
  print(f'chips: {built.mesh.size}', flush=True)
  batch_size = built.config.batch_size
  try:
    step = train_step(built, chip)
  except DoesNotFitError as error:
    print(f'bytes/chip: {error.gib:.4g} GiB of {chip.hbm_bytes / _GIB:.0f} GiB')
    raise
  _print_cost('', step, chip, batch_size, 'flops/step')
  model = model_flops(built)
  print(f'flops/step over model flops: {step.flops / model:.3f}', flush=True)
  if built.config.objective.name != 'erm':
    erm = train_step(build(erm_config(config), topology), chip)
    print(f'flops/step over erm: {step.flops / erm.flops:.3f}', flush=True)
  name, attack = attack_step(built, chip)
  size = -(-built.config.eval_batch_size // built.mesh.size) * built.mesh.size
  _print_cost(f'evaluation {name} ', attack, chip, size, 'flops/batch')


def _print_cost(name, cost, chip, num_images, what):
  """Prints a program's lines, with its name before each."""
  say = lambda line: print(f'{name}{line}', flush=True)
  say(
    f'bytes/chip: {cost.num_bytes / _GIB:.4g} GiB of'
    f' {chip.hbm_bytes / _GIB:.0f} GiB'
  )
  say(f'{what}: {cost.flops * cost.num_chips:.4g}')
  say(f'{what}/chip: {cost.flops:.4g}')
  for line in collective_lines(cost):
    say(line)
  if not cost.collectives:
    say('collectives: none')
  bounds = cost.bounds(chip)
  slowest = max(bounds, key=bounds.get)
  say(
    f'images/s (roofline): {num_images / bounds[slowest]:.0f}'
    f' (at most; {slowest} bound)'
  )
  say(f'compile seconds: {cost.seconds:.0f}')


def collective_lines(cost: Cost) -> list[str]:
  """One line a kind of collective of one size, the largest first."""
  groups = {}
  for c in cost.collectives:
    where = 'attack' if _is_attack(c) else 'step'
    key = (c.num_bytes * c.times, c.kind, c.num_bytes, c.times, where)
    groups[key] = groups.get(key, 0) + 1
  lines = []
  for (_, kind, size, times, where), count in sorted(groups.items())[::-1]:
    runs = count * times
    lines.append(
      f'{kind}: {runs} of {_readable(size)}, {_readable(runs * size)} a run,'
      f' in {where}' + (f', in a loop of {times}' if times > 1 else '')
    )
  return lines


def _is_attack(collective):
  return _ATTACK_SCOPE in collective.scope.split('/')


def _readable(size):
  for unit in ('B', 'KiB', 'MiB'):
    if size < 1024:
      return f'{size:.4g} {unit}'
    size /= 1024
  return f'{size:.4g} GiB'


def _compile(fn, built, chip, *args) -> Cost:
  """Compiles for the mesh of an experiment and reads what comes out."""
  platform = built.mesh.devices.flat[0].platform
  began = time.monotonic()
  try:
    with target.traced_for(platform):
      compiled = fn.lower(*args).compile()
  except jax.errors.JaxRuntimeError as error:
    gib = needed_gib(str(error))
    if gib is None:
      raise
    raise DoesNotFitError(gib, chip) from error
  seconds = time.monotonic() - began
  return cost_of(compiled, built.mesh.size, seconds)


def needed_gib(message: str) -> float | None:
  """How much memory the compiler says it lacks room for, or None.

  The first size that it names is that of the program or of its temporaries.

  Args:
    message: Of the compiler's error.
  """
  named = re.search(r'([\d.]+)([KMGT])\b', message)
  if 'RESOURCE_EXHAUSTED' not in message or not named:
    return None
  return float(named[1]) * 1024.0 ** ('KMGT'.index(named[2]) - 2)


def cost_of(compiled: jax.stages.Compiled, num_chips: int, seconds=0.0) -> Cost:
  """Reads a compiled program."""
  memory = compiled.memory_analysis()
  program = hlo.Program(compiled.as_text())
  # XLA's count has elementwise operations too, but a loop's body only once.
  loops = program.flops() - program.flops(loops=False)
  return Cost(
    num_chips=num_chips,
    num_bytes=(
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes
    ),
    flops=compiled.cost_analysis()['flops'] + loops,
    hbm_bytes=program.hbm_bytes(),
    collectives=program.collectives(),
    seconds=seconds,
  )


def _batch(built, lookup):
  """Shapes of what `loop.read_batches` yields."""
  train, rows = built.data.train, sharding.by_rows(built.mesh)
  size = built.config.batch_size
  names = ['label', 'concept', 'index']
  if train.batch_groups is not None:
    names.append('group')
  batch = {name: _shape((size,), np.int32, rows) for name in names}
  if not lookup:
    shape = (size, *train.image_shape)
    batch['image'] = _shape(shape, train.images.dtype, rows)
  return batch


def _shape(shape, dtype, where):
  dtype = jax.dtypes.canonicalize_dtype(dtype)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _products(jaxpr) -> float:
  """FLOPs of the matrix products and convolutions of a jaxpr."""
  total = 0.0
  for equation in jaxpr.eqns:
    out = equation.outvars[0].aval
    if equation.primitive.name == 'dot_general':
      (contracting, _), _ = equation.params['dimension_numbers']
      lhs = equation.invars[0].aval.shape
      total += 2.0 * out.size * np.prod([lhs[i] for i in contracting])
    elif equation.primitive.name == 'conv_general_dilated':
      kernel = equation.invars[1].aval
      features = equation.params['dimension_numbers'].rhs_spec[0]
      total += 2.0 * out.size * kernel.size / kernel.shape[features]
    times = equation.params.get('length', 1)
    for inner in core.jaxprs_in_params(equation.params):
      total += times * _products(inner)
  return total
