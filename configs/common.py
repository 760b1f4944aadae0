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

  # What the run does; evaluate measures its last checkpoint anew.
  config.job = 'train'
  config.seed = 0  # Decides initial weights, batch order, augmentation.
  config.batch_size = 128  # Examples, over all devices of all processes.
  config.total_epochs = 100.0  # Passes over the training set.
  config.total_steps = optional(int)  # If given, in place of total_epochs.
  config.log_steps = 20  # A line of metrics.jsonl every so many steps.
  config.ckpt_steps = 200  # A checkpoint every so many steps, and at the end.
  config.keep_last = 3  # Checkpoints that stay on disk.
  # Parts of a batch, computed one after the other for one update.
  config.micro_batches = 1
  # `interim_evals` are run every so many steps; 0 never.
  config.interim_steps = 0
  config.tracker = 'none'  # 'wandb' sends the metrics there too.

  config.data = ConfigDict()
  config.data.name = 'digits'  # The source, a module of rrl_jax.data.
  # The source's own arguments, below; None leaves one out.
  config.data.kw = _source_kw()
  # Decides which examples `imbalance` keeps and `validation` holds out.
  config.data.seed = 0
  # Decides the test split of a set that has none.
  config.data.split_seed = 0
  config.data.classes = ''  # Classes kept: '' all, '0-5,8', or names.
  # Merged classes that training sees: '', 'source', a map, 'a=0-3 b=4-6'.
  config.data.coarse = ''
  # Groups of classes: class, fine, coarse, group, or 'a=0-3 b=4-6'.
  config.data.concepts = 'class'
  # Share of each concept kept: '1.0,0.25', 'cat=0.1', 'exp:100', 'within:1,.5'.
  config.data.imbalance = ''
  # Classes crossed with an attribute, by which a classifier is judged.
  config.data.groups = ConfigDict()
  config.data.groups.kind = 'none'  # What the attribute is.
  # Share of a class's training images that have the attribute of their class.
  config.data.groups.strength = 0.95
  # The same in the test split; None makes it independent of the class.
  config.data.groups.test_strength = optional(float)
  # Values of the attribute; None for one per class.
  config.data.groups.num_attributes = optional(int)
  config.data.groups.seed = 0  # Decides which images get which attribute.
  # A figures.npz of the evaluator infer_groups, in place of true groups.
  config.data.inferred_groups = optional(str)
  config.data.noise = ConfigDict()  # Wrong labels in the training split.
  config.data.noise.kind = 'none'  # How a label is changed.
  config.data.noise.rate = 0.0  # Fraction of each class's labels changed.
  config.data.noise.seed = 0  # Decides which labels change, and to what.
  # Whether exactly that fraction changes; False draws each label by itself.
  config.data.noise.exact = True
  # Of asymmetric, which class becomes which: a map's name, or '9>1 3<>5'.
  config.data.noise.mapping = ''
  # Of instance: an npz file with logits or probs of the training examples.
  config.data.noise.confusion = optional(str)
  config.data.abnormal = ConfigDict()  # Images that belong to no class.
  # Random pixels, means of two images, or images of another source.
  config.data.abnormal.kind = 'none'
  # Fraction of the training split that they replace.
  config.data.abnormal.rate = 0.0
  config.data.abnormal.seed = 0  # Decides which images are replaced.
  config.data.abnormal.name = optional(str)  # Of source: its data.name.
  config.data.abnormal.kw = _source_kw()  # Of source: its data.kw.
  config.data.abnormal.classes = ''  # Of source: which classes, '' all.
  # Fraction of the training split that is held out in place of the test split.
  config.data.validation = 0.0
  config.data.sampling = 'uniform'  # What is equally common in batches.
  # Sets of at most so many bytes stay on the devices.
  config.data.device_bytes = 2**30
  config.data.num_threads = 8  # Threads that read a larger set.
  config.data.augment = ConfigDict()
  config.data.augment.crop = 0  # Pad by so many pixels, crop back at random.
  config.data.augment.flip = False  # Mirror half of the images.
  # Side to which a random crop is resized; 0 is off, -1 the images' shorter.
  config.data.augment.resized_crop = 0
  # Of resized_crop: its area as a share of the image's.
  config.data.augment.scale = (0.08, 1.0)
  # Of resized_crop: its width over its height.
  config.data.augment.ratio = (3 / 4, 4 / 3)
  config.data.augment.jitter = 0.0  # Strength of the colour jitter.
  config.data.augment.jitter_probability = 0.8  # Of jitter for an image.
  config.data.augment.grayscale = 0.0  # Probability of losing its colours.
  config.data.augment.blur = 0.0  # Probability of a Gaussian blur.
  config.data.augment.solarize = 0.0  # Probability of inverting bright pixels.
  # Stages in which all augmentation gets weaker over the run; 0 keeps it.
  config.data.augment.decay_stages = 0
  # Strength that it approaches by the end; 1 is full.
  config.data.augment.final_strength = 0.0
  # Augmented views of an image in a batch, for objectives that compare them.
  config.data.augment.views = 0

  config.model = ConfigDict()
  config.model.name = 'mlp'  # The network, a module of rrl_jax.models.
  # The network's own arguments, below; None leaves one out.
  config.model.kw = ConfigDict(
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
  # What is minimised, a module of rrl_jax.objectives.
  config.objective.name = 'erm'
  config.objective.kw = ConfigDict()  # Its own arguments, below.

  config.optim = ConfigDict()
  config.optim.name = 'sgd'  # An optimizer of optax.
  config.optim.kw = ConfigDict()  # Its own arguments, as optax has them.
  config.optim.momentum = 0.0  # Where the optimizer has it: sgd, rmsprop.
  config.optim.nesterov = False  # Nesterov's momentum, for the same ones.
  config.optim.lr = 0.1  # Peak learning rate.
  config.optim.schedule = 'cosine'  # Of the learning rate, after `warmup`.
  config.optim.warmup = 0.0  # Fraction of the run with a rising rate.
  # Of piecewise: parts of the run after each of which the rate is a tenth.
  config.optim.boundaries = (0.5, 0.75)
  config.optim.weight_decay = 0.0  # Not of biases and scales.
  # Global norm to which gradients are clipped; 0 does not clip.
  config.optim.grad_clip_norm = 0.0
  # Of the average of the weights that is evaluated in their place; 0 for none.
  config.optim.ema_decay = 0.0

  config.mesh = ConfigDict()
  config.mesh.data = -1  # Devices over which a batch is split; -1 takes all.
  # Arrays of so many numbers or more are split over the devices; 0 none.
  config.mesh.fsdp = 0

  config.evals = ConfigDict()  # Evaluator -> its arguments, below.
  config.interim_evals = ConfigDict()  # The same, every `interim_steps`.
  # Examples of a batch in evaluations, over all devices; changes no number.
  config.eval_batch_size = 512
  # An npz file of an encoder's features; scored in place of training.
  config.features = optional(str)
  # Name of a target task -> the fields of `data` in which it differs.
  config.transfer = ConfigDict()
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
