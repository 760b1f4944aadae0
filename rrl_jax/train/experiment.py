"""From a config to the parts of a run, every field checked before any work."""

from collections.abc import Callable, Sequence
import contextlib
import copy
import dataclasses
import importlib.util
import math
import re

import jax
from jax.sharding import Mesh, NamedSharding
import ml_collections
import numpy as np
import optax

from rrl_jax import data as data_lib
from rrl_jax import evals, models, objectives, target, typing
from rrl_jax.data import augment, pipeline
from rrl_jax.data import groups as groups_lib
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.train import optim, sharding
from rrl_jax.train import step as step_lib
from rrl_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything of a run that does not change while it trains.

  Attributes:
    config: The config it was built from, with the side of the images as
      ``data.augment.resized_crop`` where that was -1.
    mesh: Devices, with one axis 'data'.
    data: Training and test split of the source.
    tasks: The target tasks.
    apply_fn: The network.
    feature_bounds: Certified bounds of its features, or None, see
      `models.feature_bounds`.
    objective: What is minimised.
    tx: The optimizer.
    total_steps: Steps of the whole run.
    step: ``(state, batch) -> (state, metrics)``, not yet compiled.
    init: ``key -> state`` before the first step.
  """

  config: ml_collections.ConfigDict
  mesh: Mesh
  data: data_lib.Splits
  tasks: tuple[evals.Task, ...]
  apply_fn: typing.ApplyFn
  feature_bounds: Callable[..., tuple[jax.Array, jax.Array]] | None
  objective: typing.Objective
  tx: optax.GradientTransformation
  total_steps: int
  step: step_lib.Step
  init: step_lib.Init

  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the state."""
    state = jax.eval_shape(self.init, jax.random.key(0))
    return jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
      ),
      state,
      sharding.of_state(self.mesh, state, self.config.mesh.fsdp),
    )

  def state_sharding(self) -> TrainState | NamedSharding:
    """Where each array of the state lies between two steps, or all of them."""
    if not self.config.mesh.fsdp:
      return sharding.replicated(self.mesh)
    return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())


def check(config: ml_collections.ConfigDict) -> None:
  """Looks at every field that can be judged without the data.

  Raises:
    ConfigError: Which field, its value, and what would do.
  """
  positive = (
      'batch_size', 'log_steps', 'ckpt_steps', 'keep_last', 'eval_batch_size',
      'data.device_bytes', 'data.num_threads', 'micro_batches',
  )  # fmt: skip
  for field in positive:
    if not _at(config, field) > 0:
      raise ConfigError(f'{field}={_at(config, field)} is not positive')
  length = 'total_epochs' if config.total_steps is None else 'total_steps'
  if not 0 < config[length] < 1e9:
    raise ConfigError(f'{length}={config[length]} is not in (0, 1e9)')
  for name, changes in config.transfer.items():
    for field in changes:
      if field not in config.data:
        raise ConfigError(
          f'transfer.{name}.{field}: known are {", ".join(config.data)}'
        )
  if config.interim_steps < 0:
    raise ConfigError(f'interim_steps={config.interim_steps} is negative')
  if config.mesh.fsdp < 0:
    raise ConfigError(f'mesh.fsdp={config.mesh.fsdp} is negative')
  for field in ('seed', 'data.seed', 'data.split_seed'):
    if not 0 <= _at(config, field) < 2**32:
      raise ConfigError(f'{field}={_at(config, field)} is not in [0, 2^32)')
  if not 0 <= config.data.validation < 1:
    raise ConfigError(
      f'data.validation={config.data.validation} is not in [0, 1)'
    )
  if not 0 <= config.optim.ema_decay < 1:
    raise ConfigError(
      f'optim.ema_decay={config.optim.ema_decay} is not in [0, 1)'
    )
  if config.tracker not in ('none', 'wandb'):
    raise ConfigError(f'tracker={config.tracker!r}; known: none, wandb')
  if config.tracker == 'wandb' and not importlib.util.find_spec('wandb'):
    raise ConfigError(
      "tracker='wandb': not installed; pip install -e '.[wandb]'"
    )
  data_lib.get(config.data.name)
  if config.data.sampling not in pipeline.SAMPLING:
    raise ConfigError(
      f'data.sampling={config.data.sampling!r};'
      f' known: {", ".join(pipeline.SAMPLING)}'
    )
  optim.make(config.optim, total_steps=100)
  for field in ('noise', 'abnormal'):
    if config.data[field].kind == 'none' and config.data[field].rate:
      raise ConfigError(
        f'data.{field}.rate={config.data[field].rate}: data.{field}.kind is'
        ' none'
      )
  data_lib.check_noise(
    _given(config.data.noise.to_dict()), _given(config.data.abnormal.to_dict())
  )
  data_lib.check_groups(_given(config.data.groups.to_dict()))
  if config.data.inferred_groups and config.data.concepts == 'group':
    raise ConfigError(
      "data.concepts='group': these are the true groups, which sampling would"
      " give away to a run with data.inferred_groups; say 'class'"
    )
  evals.check(config.evals.to_dict())
  with _said_of('evals.', 'interim_evals.'):
    evals.check(config.interim_evals.to_dict())
  # Two classes in two concepts stand for the data: names, arguments and ranges
  # do not depend on it.
  model = _model(config, num_classes=2)
  spec = typing.DataSpec(
    class_names=('0', '1'),
    concept_names=('0', '1'),
    concept_counts=np.array([1, 1]),
    sampling_probs=np.array([0.5, 0.5]),
    num_examples=2,
    group_names=('0', '1') if _has_groups(config) else (),
    group_counts=np.array([1, 1]),
  )
  objective = _objective(config, models.apply_fn(model), spec)
  views = config.data.augment.views
  for field, least, most in (
    ('final_strength', 0, 1),
    ('decay_stages', 0, math.inf),
  ):
    value = config.data.augment[field]
    if not least <= value <= most:
      raise ConfigError(
        f'data.augment.{field}={value} is not in [{least}, {most}]'
      )
  if objective.num_views > views:
    raise ConfigError(
      f'data.augment.views={views}: the objective {config.objective.name}'
      f' needs {objective.num_views}'
    )
  if objective.num_views and config.micro_batches > 1:
    raise ConfigError(
      f'micro_batches={config.micro_batches}: the objective'
      f' {config.objective.name} compares all examples of a batch'
    )
  if objective.whole_batch and config.micro_batches > 1:
    raise ConfigError(
      f'micro_batches={config.micro_batches}: the adversary of the objective'
      f' {config.objective.name} answers to a batch as a whole'
    )


def load_data(
  config: ml_collections.ConfigDict, *, shapes_only: bool = False, **changes
) -> data_lib.Splits:
  """The source that ``config.data`` names, with some of its fields changed."""
  fields = config.data.to_dict() | changes
  kw = fields['kw']
  splits = data_lib.load(
    fields['name'],
    classes=fields['classes'],
    coarse=fields['coarse'],
    concepts=fields['concepts'],
    imbalance=fields['imbalance'],
    seed=fields['seed'],
    split_seed=fields['split_seed'],
    groups=_given(fields['groups']),
    noise=_given(fields['noise']),
    abnormal=_given(fields['abnormal']),
    shapes_only=shapes_only,
    **_given(kw),
  )
  if fields['validation']:
    splits = _hold_out(splits.train, fields['validation'], fields['seed'])
  if fields['inferred_groups']:
    train = groups_lib.with_inferred(splits.train, fields['inferred_groups'])
    splits = splits._replace(train=train)
  return splits


def build(
  config: ml_collections.ConfigDict,
  *,
  devices: Sequence[jax.Device] | None = None,
  shapes_only: bool = False,
) -> Experiment:
  """Checks the config, loads the data and puts the parts together.

  Args:
    config: The config.
    devices: What the mesh is made of; None for the devices of this job.
    shapes_only: Whether images of the right shape will do, for programs that
      are compiled and not run; see `data.load`. Target tasks are left out.

  Raises:
    ConfigError: A field is wrong.
    DataError: The data cannot be used.
  """
  check(config)
  mesh = sharding.make_mesh(config.mesh.data, devices)
  if config.batch_size % mesh.size:
    raise ConfigError(
      f'batch_size={config.batch_size} does not divide by'
      f' {mesh.size} devices (mesh.data)'
    )
  if config.batch_size % (mesh.size * config.micro_batches):
    raise ConfigError(
      f'batch_size={config.batch_size} does not divide by {mesh.size} devices'
      f' times micro_batches={config.micro_batches}'
    )
  data = load_data(config, shapes_only=shapes_only)
  config = _sized(config, data.train.image_shape)
  evals.check_data(config.evals, data.train)
  with _said_of('evals.', 'interim_evals.'):
    evals.check_data(config.interim_evals, data.train)
  evals.check_test(config.evals.to_dict(), data.test)
  with _said_of('evals.', 'interim_evals.'):
    evals.check_test(config.interim_evals.to_dict(), data.test)
  tasks = tuple(
    evals.Task(name, *_target(config, name))
    for name in (() if shapes_only else config.transfer)
  )
  train = data.train
  for task in tasks:
    channels = task.train.image_shape[-1]
    if channels != train.image_shape[-1]:
      raise ConfigError(
        f'transfer.{task.name}: images of {channels} channels, those of the'
        f' source have {train.image_shape[-1]}'
      )
  evals.check_tasks(config.evals.to_dict(), tasks)
  per_epoch = len(train) / config.batch_size
  total_steps = config.total_steps or max(
    round(config.total_epochs * per_epoch), 1
  )
  warmup = config.objective.kw.get('warmup_steps', 0)
  if warmup >= total_steps:
    raise ConfigError(
      f'objective.kw.warmup_steps={warmup}: the run has {total_steps} steps'
    )
  model = _model(config, num_classes=train.num_classes)
  apply_fn = models.apply_fn(model)
  objective = _objective(config, apply_fn, data_spec(config, train))
  tx = optim.make(config.optim, total_steps)
  if objective.num_networks > 1:
    tx = optim.per_network(tx)
  augmentation = config.data.augment.to_dict()
  num_views = augmentation.pop('views')
  final_strength = augmentation.pop('final_strength')
  decay_stages = augmentation.pop('decay_stages')
  root = jax.random.key(config.seed)

  def prepare(batch, key, step):
    images = augment.to_float(batch['image'])
    kw = dict(augmentation)
    if decay_stages:
      kw['strength'] = augment.fading(
        step, total_steps, stages=decay_stages, final=final_strength
      )
    if not num_views:
      return batch | {'image': augment.augment(images, key, **kw)}
    views = augment.views(images, key, num_views, **kw)
    return batch | {'image': views[:, 0], 'views': views}

  def init(key):
    return step_lib.init(
      key,
      model_init=lambda key: models.init(model, key, image_shape),
      objective=objective,
      tx=tx,
      batch=abstract_batch(
        config.batch_size, image_shape, num_views, groups=has_groups
      ),
      ema=config.optim.ema_decay > 0,
    )

  has_groups = train.batch_groups is not None
  size = augmentation['resized_crop']
  height, width, channels = train.image_shape
  if size > min(height, width):
    raise ConfigError(
      f'data.augment.resized_crop={size} is larger than the images,'
      f' {height}x{width}: the network would train at one size and be evaluated'
      ' at another'
    )
  image_shape = (size or height, size or width, channels)
  for task in tasks:
    _check_size(task, model, image_shape, size)
  key = jax.random.key(0)
  given = abstract_batch(config.batch_size, train.image_shape)
  try:  # Shapes tell what is wrong with a field before any work.
    jax.eval_shape(prepare, given, key, 0)
    jax.eval_shape(init, key)
  except ConfigError:
    raise
  except (TypeError, ValueError) as error:
    text = ' '.join(str(error).split())
    raise ConfigError(f'images of shape {train.image_shape}: {text}') from error
  step_fn = step_lib.make(
    objective,
    tx,
    key=jax.random.fold_in(root, 1),
    prepare=prepare,
    ema_decay=config.optim.ema_decay,
    micro_batches=config.micro_batches,
    whole=sharding.replicated(mesh) if config.mesh.fsdp else None,
  )

  def step(state, batch):
    with target.spread_over(mesh):
      return step_fn(state, batch)

  return Experiment(
    config=config,
    mesh=mesh,
    data=data,
    tasks=tasks,
    apply_fn=apply_fn,
    feature_bounds=models.feature_bounds(model),
    objective=objective,
    tx=tx,
    total_steps=total_steps,
    step=step,
    init=lambda key: init(jax.random.fold_in(key, 0)),
  )


def _check_size(task, model, image_shape, crop):
  """Raises ConfigError if a network has no weights for a task's images."""
  *sides, channels = task.train.image_shape
  shape = (*(min(side, crop or side) for side in sides), channels)
  weights = lambda shape: jax.tree.map(
    lambda leaf: leaf.shape,
    jax.eval_shape(
      lambda key: models.init(model, key, shape), jax.random.key(0)
    ),
  )
  if shape == image_shape or weights(shape) == weights(image_shape):
    return
  raise ConfigError(
    f'transfer.{task.name}: images of {shape[0]}x{shape[1]}, and the network is'
    f' one of images of {image_shape[0]}x{image_shape[1]} alone'
  )


def _sized(config, image_shape):
  """The config with the side of the images, where it asks for that."""
  if config.data.augment.resized_crop != -1:
    return config
  config = copy.deepcopy(config)
  config.data.augment.resized_crop = min(image_shape[:2])
  return config


def data_spec(config, train: data_lib.Source) -> typing.DataSpec:
  """What an objective may know of the training split."""
  return typing.DataSpec(
    class_names=train.class_names,
    concept_names=train.concept_names,
    concept_counts=train.concept_counts,
    sampling_probs=pipeline.sampling_probs(train, config.data.sampling),
    num_examples=len(train),
    group_names=train.batch_group_names,
    group_counts=np.bincount(
      () if train.batch_groups is None else train.batch_groups,
      minlength=len(train.batch_group_names),
    ),
    class_probs=pipeline.class_probs(train, config.data.sampling),
  )


def abstract_batch(
  batch_size: int, image_shape, num_views: int = 0, *, groups: bool = False
) -> typing.Batch:
  """Shapes of the batch that an objective sees."""
  rows = jax.ShapeDtypeStruct((batch_size,), np.int32)
  image = jax.ShapeDtypeStruct((batch_size, *image_shape), np.float32)
  batch = {'image': image, 'label': rows, 'concept': rows, 'index': rows}
  if groups:
    batch['group'] = rows
  if num_views:
    batch['views'] = jax.ShapeDtypeStruct(
      (batch_size, num_views, *image_shape), np.float32
    )
  return batch


def _target(config, name):
  """Training and test split of a target task.

  The task starts from the source's data with fine labels, every class as its
  own concept, nothing thinned and no label flipped; the fields of
  ``config.transfer.<name>`` change that. Errors name these.
  """
  plain = {
    'coarse': '',
    'concepts': 'class',
    'imbalance': '',
    'validation': 0.0,
    'groups': {},
    'inferred_groups': None,
    'noise': {},
    'abnormal': {},
  }
  changes = config.transfer[name].to_dict()
  if changes.get('name', config.data.name) != config.data.name:
    plain |= {'kw': {}, 'classes': ''}  # Those of the source are not its own.
  with _said_of('data.', f'transfer.{name}.', list(changes)):
    return load_data(config, **plain | changes)


@contextlib.contextmanager
def _said_of(prefix, where, fields=('',)):
  """Errors within name the fields that were set, not those they stand for."""
  try:
    yield
  except (ConfigError, DataError) as error:
    text = str(error)
    for field in fields:
      name = re.escape(prefix + field)
      text = re.sub(rf'^{name}\b', f'{where}{field}', text)
    raise type(error)(text) from error


def _hold_out(train, fraction, seed):
  """A seeded fraction of each class of the training split, as test split.

  The true test split is out of reach: this is for choosing settings.
  """
  rng = np.random.default_rng((seed, 0x7E57))
  held_out = np.zeros(len(train), bool)
  for label in range(train.num_classes):
    members = rng.permutation(np.flatnonzero(train.labels == label))
    held_out[members[: round(fraction * len(members))]] = True
  if not held_out.any() or held_out.all():
    raise ConfigError(
      f'data.validation={fraction} leaves no example on one side of'
      f' {len(train)}'
    )
  return data_lib.Splits(
    train=train.take(np.flatnonzero(~held_out)),
    test=train.take(np.flatnonzero(held_out)),
  )


def _model(config, num_classes):
  """The network that ``config.model`` names."""
  kw = {k: v for k, v in config.model.kw.items() if v is not None}
  try:
    return models.make(config.model.name, num_classes=num_classes, **kw)
  except TypeError as error:
    raise ConfigError(f'model.kw: {error}') from error


def _objective(config, apply_fn, spec):
  """The objective that ``config.objective`` names."""
  return objectives.make(
    config.objective.name,
    apply_fn,
    data=spec,
    kw=config.objective.kw.to_dict(),
  )


def _has_groups(config):
  """Whether batches will hold groups."""
  return config.data.groups.kind != 'none' or bool(config.data.inferred_groups)


def _given(fields):
  """The fields that are not None, in groups too."""
  return {
    name: _given(value) if isinstance(value, dict) else value
    for name, value in fields.items()
    if value is not None
  }


def _at(config, dotted):
  """A field by its dotted name."""
  for name in dotted.split('.'):
    config = config[name]
  return config
