"""Every field of a config with its default, and the argument of a config file.

A config file has ``get_config(arg)``, where ``arg`` is the text behind the
colon in ``--config=configs/hro.py:el,fashion_mnist``. What follows it on the
command line overrides single fields: ``--config.optim.lr=0.1``.
"""

from collections.abc import Sequence
import dataclasses

from ml_collections import ConfigDict, config_dict


def base() -> ConfigDict:
  """Returns the config from which every config file starts."""
  config = ConfigDict()

  # 'train', 'evaluate' (the last checkpoint), 'study', 'pool'.
  config.job = 'train'
  config.seed = 0  # Of the initial weights, batch order, augmentation.
  config.batch_size = 128  # Over all devices of all processes.
  config.total_epochs = 100.0  # Passes over the training set.
  config.total_steps = optional(int)  # Wins over epochs.
  config.log_steps = 20  # A line of metrics.jsonl every so many steps.
  config.ckpt_steps = 200  # A checkpoint every so many steps, and at the end.
  config.keep_last = 3  # Checkpoints that stay on disk.
  config.micro_batches = 1  # Parts of a batch, one after the other; one update.
  config.interim_steps = 0  # `interim_evals` every so many steps; 0 never.
  config.tracker = 'none'  # 'wandb' sends the metrics there too.

  config.data = ConfigDict()
  config.data.name = 'digits'  # A module of rrl_jax.data.
  config.data.kw = _source_kw()  # Its own arguments; None leaves one out.
  config.data.seed = 0  # Of thinning and of what `validation` holds out.
  config.data.split_seed = 0  # Of the test split, where a set has none.
  config.data.classes = ''  # Which to keep: '' all, '0-5,8', or names.
  config.data.coarse = ''  # '' none, 'source', 'cifar10', ..., 'a=0-3 b=4-6'.
  config.data.concepts = 'class'  # fine, coarse, group, or 'a=0-3 b=4-6'.
  config.data.imbalance = ''  # '1.0,0.25', 'cat=0.1', 'exp:100', 'within:...'.
  config.data.groups = ConfigDict()  # By which a classifier is judged.
  # none, patch, colour, background, attribute, fine.
  config.data.groups.kind = 'none'
  config.data.groups.strength = 0.95  # Share with its class's attribute.
  config.data.groups.test_strength = optional(float)  # None: independent.
  config.data.groups.num_attributes = optional(int)  # None: one a class.
  config.data.groups.seed = 0  # Of which images get which attribute.
  config.data.inferred_groups = optional(str)  # figures.npz of infer_groups.
  config.data.noise = ConfigDict()  # Flips labels of the training split.
  config.data.noise.kind = 'none'  # symmetric, asymmetric, pair, instance, ...
  config.data.noise.rate = 0.0  # Fraction of each class's labels.
  config.data.noise.seed = 0  # Of which labels are flipped, and to what.
  config.data.noise.exact = True  # That many of a class; False draws each.
  config.data.noise.mapping = ''  # Of asymmetric: 'cifar10', '9>1 3<>5', ...
  config.data.noise.confusion = optional(str)  # Of instance: a logits file.
  config.data.abnormal = ConfigDict()  # Images that belong to no class.
  config.data.abnormal.kind = 'none'  # noise, blend, source.
  config.data.abnormal.rate = 0.0  # Fraction of the training split.
  config.data.abnormal.seed = 0  # Of which images are replaced.
  config.data.abnormal.name = optional(str)  # Of source: whose images.
  config.data.abnormal.kw = _source_kw()
  config.data.abnormal.classes = ''  # Of source: which of its classes.
  config.data.validation = 0.0  # Fraction of train that replaces test.
  config.data.sampling = 'uniform'  # Or concept_balanced, class_balanced.
  config.data.device_bytes = 2**30  # Sets up to this size live on the device.
  config.data.num_threads = 8  # Readers of a set that does not.
  config.data.augment = ConfigDict()
  config.data.augment.crop = 0  # Pad by so many pixels, crop back at random.
  config.data.augment.flip = False  # Mirror half of the images.
  config.data.augment.resized_crop = 0  # Output size; 0 is off.
  config.data.augment.scale = (0.08, 1.0)  # Its area, of the image's.
  config.data.augment.ratio = (3 / 4, 4 / 3)  # Its width over its height.
  config.data.augment.jitter = 0.0  # Strength of the colour jitter, to 1.25.
  config.data.augment.jitter_probability = 0.8  # Of jittering an image.
  config.data.augment.grayscale = 0.0  # Probability of losing its colours.
  config.data.augment.blur = 0.0  # Probability of a Gaussian blur.
  config.data.augment.solarize = 0.0  # Probability of inverting bright pixels.
  config.data.augment.decay_stages = 0  # In which it gets weaker; 0 never.
  config.data.augment.final_strength = 0.0  # Approached by then; 1 is full.
  config.data.augment.views = 0  # Augmentations in batch['views']; 0 none.

  config.model = ConfigDict()
  config.model.name = 'mlp'  # A module of rrl_jax.models.
  config.model.kw = ConfigDict(  # Its own arguments; None leaves one out.
    {
      'widths': optional(tuple),  # mlp, cnn.
      'activation': optional(str),
      'stem': optional(str),  # resnet: cifar, imagenet.
      'dual_norm': optional(bool),  # resnet: BatchNorms for attacked images.
      'patch_size': optional(int),  # vit.
      'embedding_dim': optional(int),  # 0: the features.
      'predictor': optional(bool),  # Predicts embeddings, as BYOL does.
      'decoder': optional(str),  # none, mirror, or whose mirror it is.
      'decoder_condition': optional(str),  # The class: encoder, label.
      'decoder_output': optional(str),  # sigmoid, linear.
      'encoders': optional(str),  # one, two, joint.
      'mean': optional(tuple),  # Of the channels, subtracted.
      'std': optional(tuple),  # Divides them.
      'dtype': optional(str),  # float32, bfloat16.
    }
  )

  config.objective = ConfigDict()
  config.objective.name = 'erm'  # A module of rrl_jax.objectives.
  config.objective.kw = ConfigDict()

  config.optim = ConfigDict()
  config.optim.name = 'sgd'  # An optimizer of optax: sgd, adam, adamw, ...
  config.optim.kw = ConfigDict()  # Its own arguments.
  config.optim.momentum = 0.0  # Where the optimizer has it: sgd, rmsprop.
  config.optim.nesterov = False  # Likewise.
  config.optim.lr = 0.1  # Peak learning rate.
  config.optim.schedule = 'cosine'  # 'constant', 'cosine', 'piecewise'.
  config.optim.warmup = 0.0  # Fraction of the run with a rising rate.
  config.optim.boundaries = (0.5, 0.75)  # Of 'piecewise': a tenth from there.
  config.optim.weight_decay = 0.0  # On kernels only, not biases or scales.
  config.optim.grad_clip_norm = 0.0  # Global norm; 0 does not clip.
  config.optim.ema_decay = 0.0  # Of what is evaluated instead; 0 keeps none.

  config.mesh = ConfigDict()
  config.mesh.data = -1  # Devices on the 'data' axis; -1 takes all there are.
  config.mesh.fsdp = 0  # Splits weights of so many numbers or more; 0 none.

  config.evals = ConfigDict()  # Module of rrl_jax.evals -> its arguments.
  config.interim_evals = ConfigDict()  # The same, while training.
  config.eval_batch_size = 512  # Over all devices; changes no number.
  config.features = optional(str)  # An npz file: scored, nothing is trained.
  config.transfer = ConfigDict()  # Target task -> fields of data to change.
  return config


def _source_kw() -> ConfigDict:
  """Every argument that some source has."""
  return ConfigDict(
    {
      'path': optional(str),  # idx, npz, folder, fashion_mnist.
      'subset': optional(str),  # idx: a file name's beginning.
      'class_names': optional(tuple),  # idx, folder with a table.
      'num_classes': optional(int),  # idx, npz, mock.
      'data_set': optional(str),  # tfds: 'cifar10', ...
      'data_dir': optional(str),  # tfds, fashion_mnist.
      'train_split': optional(str),  # tfds.
      'test_split': optional(str),  # tfds, folder.
      'image_key': optional(str),  # tfds, folder.
      'label_key': optional(str),  # tfds, folder.
      'attribute_key': optional(str),  # tfds, folder: what groups cross.
      'attribute_names': optional(tuple),  # folder with a table.
      'metadata': optional(str),  # folder: a CSV table.
      'image_size': optional(int),  # tfds, folder.
      'in_memory': optional(bool),  # tfds, folder.
      'image_shape': optional(tuple),  # mock.
      'num_examples': optional(int),  # mock.
      'num_test': optional(int),  # mock.
    }
  )


def celeb_a(config: ConfigDict) -> None:
  """Sets data and network for CelebA: blond or not; most blond are women."""
  config.data.name = 'tfds'
  config.data.kw.data_set = 'celeb_a'
  config.data.kw.label_key = 'attributes/Blond_Hair'
  config.data.kw.attribute_key = 'attributes/Male'
  config.data.kw.image_size = 224
  config.data.groups.kind = 'attribute'
  config.data.augment.flip = True
  config.model.name = 'resnet50'
  config.model.kw.stem = 'imagenet'
  config.batch_size = 128
  config.total_epochs = 50.0


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
  """Reads ``'fashion_mnist,noise=0.4,el'`` against the known arguments.

  Args:
    arg: The text behind the config file's colon, or None. Parts are separated
      by commas; ``name=value`` sets an argument, a bare word sets a boolean
      one to True or chooses the value of a ``Choice`` that contains it.
    **defaults: Each known argument with its default, whose type is kept.

  Returns:
    The arguments by name.

  Raises:
    ValueError: An unknown argument or a value of another type.
  """
  values = {
    name: default.options[0] if isinstance(default, Choice) else default
    for name, default in defaults.items()
  }
  given_by = {}
  for part in filter(None, (arg or '').split(',')):
    name, given, text = part.partition('=')
    if not given:
      name, text = _bare_word(part, defaults)
    if name not in defaults:
      raise ValueError(
        f'unknown config argument {part!r}; known: {_known(defaults)}'
      )
    if name in given_by:
      raise ValueError(f'{given_by[name]!r} and {part!r} are both the {name}')
    given_by[name] = part
    values[name] = _typed(name, text, defaults[name])
  return ConfigDict(values)


@dataclasses.dataclass(frozen=True)
class Choice:
  """An argument with a fixed set of values, the first being the default."""

  options: Sequence[str]


def _bare_word(word, defaults):
  """The argument that a word without '=' stands for."""
  for name, default in defaults.items():
    if isinstance(default, Choice) and word in default.options:
      return name, word
  return word, 'true' if defaults.get(word) is False else ''


def _typed(name, text, default):
  """``text`` as a value of the default's type."""
  if isinstance(default, Choice):
    if text in default.options:
      return text
    raise ValueError(f'{name}={text!r}: known are {", ".join(default.options)}')
  if isinstance(default, bool):
    if text.lower() in ('true', 'false'):
      return text.lower() == 'true'
    raise ValueError(f'{name}={text!r} is neither true nor false')
  try:
    return type(default)(text)
  except ValueError:
    kind = type(default).__name__
    raise ValueError(f'{name}={text!r} is no {kind}') from None


def _known(defaults):
  """The arguments as a user would write them."""
  words = []
  for name, default in defaults.items():
    if isinstance(default, Choice):
      words += default.options
    elif isinstance(default, bool):
      words.append(name)
    else:
      words.append(f'{name}={default!r}')
  return ', '.join(words)


def optional(kind: type):
  """A field of this type that is None until it is given."""
  return config_dict.placeholder(kind)
