"""TARRL: a representation learned without labels that no attack moves far.

  python launch.py --config=configs/tarrl.py

Arguments, separated by commas behind a colon: the data, ``digits`` (default),
``fashion_mnist``, ``cifar10``, ``imagenet``; ``labels`` for a base loss with
labels (supervised contrastive), ``byol`` for one without negatives; ``free`` for
the attack that costs no pass through the network.

Labels are not used in training; they decide which images there are. Target
tasks are linear probes on the frozen features, with other label spaces than
the source's classes, clean and under attack.

| data | recipe | needs |
|---|---|---|
| digits | MLP, 1,500 steps of 128 | nothing; one to two minutes on 2 cores |
| fashion_mnist | MLP, 3,000 steps of 256 | the Debian package, or its files |
| cifar10 | ResNet-18, 1,000 epochs of 512 | tfds cifar10, cifar100, accelerators |
| imagenet | ResNet-50, 100 epochs of 1,024 | tfds imagenet2012, cifar10, accelerators |

Only the paper's abstract could be read: method and settings are derived from
it. Radius, inner steps, temperature and network of cifar10 are those that its
neighbours (ACL, AdvCL, DynACL, DeACL) share. cifar10 and imagenet were compiled
and stepped on random images, not trained.
"""  # noqa: E501

from configs import common

BASES = ('simclr', 'byol', 'labels')
DATA_SETS = ('digits', 'fashion_mnist', 'cifar10', 'imagenet')


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg, data=common.Choice(DATA_SETS), base=common.Choice(BASES), free=False
  )
  config = common.base()
  config.objective.name = 'tarrl'
  config.objective.kw = {
    # simclr, byol, supcon, cross_entropy.
    'base': 'supcon' if args.base == 'labels' else args.base,
    'temperature': 0.5,  # Of simclr, supcon.
    'momentum': 0.99,  # Of byol's teacher.
    'strength': 1.0,  # lambda; 0 is the base loss alone.
    'distance': 'unit_l2',  # sq_l2, l2, cosine, unit_l2, kl.
    'layer': 'features',  # features, embedding, logits.
    'standardise': 'each',  # whole, none. A probe does so with each.
    # The side without gradient: none, clean, adversarial.
    'stop': 'clean' if args.free else 'none',
    'attack': 'base_gradient' if args.free else 'shift',
    **inner_attack(),
    'eval_norm': 'clean',  # Or adversarial, with model.kw.dual_norm.
    'ramp_steps': 0,
  }
  if args.base == 'byol':
    config.model.kw.predictor = True
  config.data.augment.views = 2
  {
    'digits': _digits,
    'fashion_mnist': _fashion_mnist,
    'cifar10': _cifar10,
    'imagenet': _imagenet,
  }[args.data](config)
  return config


def inner_attack():
  """Arguments that all objectives with an attack share."""
  return {
    'epsilon': 8 / 255,
    'norm': 'linf',  # linf, l2, l1.
    'inner_steps': 5,
    'inner_step_size': common.optional(float),  # 2.5 epsilon / inner_steps.
    'attack_train_mode': False,  # How BatchNorm normalises there.
  }


def rival(data, name, **kw):
  """The same data, network and evaluation for another objective.

  Args:
    data: A data set.
    name: The objective.
    **kw: Its arguments; those that the inner attack has here stay.
  """
  config = get_config(data)
  own = config.objective.kw
  attack = {field: own[field] for field in inner_attack()}
  config.objective.name = name
  config.objective.kw = attack | kw
  return config


def _digits(config):
  """8x8 digits: 0 to 6 without labels; tasks on those, on the rest, on all."""
  config.data.name = 'digits'
  config.data.classes = '0-6'
  config.data.augment.resized_crop = 8
  config.data.augment.scale = (0.5, 1.0)
  config.data.augment.jitter = 0.5
  config.model.name = 'mlp'
  config.model.kw.widths = (256, 128)
  config.model.kw.embedding_dim = 64
  config.batch_size = 128
  config.total_steps = 1500
  config.objective.kw.epsilon = 0.1
  config.objective.kw.strength = 2.0  # This and the rate as tuned.
  config.optim.lr = 1e-2
  _small_images(config, epsilon=0.1)
  config.transfer = {
    'seen_classes': {'classes': '0-6'},
    'unseen_classes': {'classes': '7-9'},
    'all_classes': {'classes': ''},
  }


def _fashion_mnist(config):
  """28x28 clothes: the garments that look alike are not seen."""
  config.data.name = 'fashion_mnist'
  config.data.classes = '0,1,3,5,7-9'
  config.data.augment.resized_crop = 28
  config.data.augment.scale = (0.3, 1.0)
  config.data.augment.flip = True
  config.data.augment.jitter = 0.5
  config.model.name = 'mlp'
  config.model.kw.widths = (256, 128)
  config.model.kw.embedding_dim = 64
  config.batch_size = 256
  config.total_steps = 3000
  config.objective.kw.epsilon = 0.05
  config.objective.kw.strength = 8.0  # This and the rate as tuned.
  config.optim.lr = 3e-3
  _small_images(config, epsilon=0.05)
  config.transfer = {
    'seen_classes': {'classes': '0,1,3,5,7-9'},
    'unseen_classes': {'classes': '2,4,6'},
    'all_classes': {'classes': ''},
  }


def _small_images(config, epsilon):
  """What digits and fashion_mnist share."""
  config.optim.name = 'adam'
  config.log_steps = 20
  config.ckpt_steps = config.total_steps // 5
  config.evals = _evals(epsilon)
  config.evals.adversarial_probe.batch_size = 64  # More steps of few images.
  config.evals.adversarial_probe.lr = 0.1
  config.evals.fine_tune.lr = 0.01  # 0.1 ends in one class for everything.
  config.evals.auto_attack.num_examples = 100


def _cifar10(config):
  """32x32 photographs, the neighbours' shared settings."""
  config.data.name = 'tfds'
  config.data.kw.data_set = 'cifar10'
  config.data.augment.resized_crop = 32
  config.data.augment.flip = True
  config.data.augment.jitter = 0.5
  config.data.augment.grayscale = 0.2
  config.model.name = 'resnet18'
  config.model.kw.stem = 'cifar'
  config.model.kw.embedding_dim = 128
  config.batch_size = 512
  config.total_epochs = 1000.0
  config.log_steps = 100
  config.ckpt_steps = 2000
  config.objective.kw.inner_step_size = 2 / 255
  _sgd(config)
  config.evals = _evals(8 / 255)
  config.transfer = {
    'cifar10': {},
    'cifar100': {'kw': {'data_set': 'cifar100'}},
  }


def _imagenet(config):
  """224x224 photographs."""
  config.data.name = 'tfds'
  config.data.kw.data_set = 'imagenet2012'
  config.data.kw.image_size = 256
  config.data.augment.resized_crop = 224
  config.data.augment.flip = True
  config.data.augment.jitter = 1.0
  config.data.augment.grayscale = 0.2
  config.data.augment.blur = 0.5
  config.model.name = 'resnet50'
  config.model.kw.stem = 'imagenet'
  config.model.kw.embedding_dim = 128
  config.batch_size = 1024
  config.total_epochs = 100.0
  config.log_steps = 100
  config.ckpt_steps = 2000
  config.objective.kw.epsilon = 4 / 255
  _sgd(config)
  config.evals = _evals(4 / 255)
  config.transfer = {
    'imagenet': {},
    'cifar10': {'kw': {'data_set': 'cifar10', 'image_size': 256}},
  }


def _sgd(config):
  """What the residual networks share."""
  config.optim.name = 'sgd'
  config.optim.momentum = 0.9
  config.optim.lr = 0.5
  config.optim.warmup = 0.01
  config.optim.weight_decay = 1e-4


def _evals(epsilon):
  """Probes and fine-tuning on every task, clean and attacked."""
  attack = {
    'epsilon': epsilon,
    'norm': 'linf',
    'num_steps': 20,
    'num_examples': 1000,  # 0 for all.
  }
  return {
    'transfer': {
      'probes': ('linear_probe', 'knn'),
      'l2': 1e-4,
      'k': 20,
      'num_train': 10_000,  # 0 for all.
    },
    'robust_probe': {
      **attack,
      'epsilons': (0.0, epsilon / 2, 2 * epsilon),  # More radii.
      'num_restarts': 1,
      'num_pictures': 6,
    },
    'adversarial_probe': {  # The head alone trained under attack.
      **attack,
      'train_steps': 10,
      'epochs': 25,
      'batch_size': 512,
      'lr': 0.01,
      'num_train': 10_000,
    },
    'fine_tune': {  # All of the network, from these weights.
      **attack,
      'loss': 'trades',  # Or pgd.
      'beta': 6.0,
      'train_steps': 10,
      'epochs': 25,
      'batch_size': 128,
      'lr': 0.1,
      'num_train': 10_000,
    },
    'auto_attack': {
      'head': 'linear_probe',  # Or own, the network's classifier.
      'epsilon': epsilon,
      'norm': 'linf',
      'version': 'standard',
      'num_examples': 1000,
    },
    'features_map': {'num_examples': 2000},
  }
