"""Do indicators of clean features tell how robust a classifier is?

  python launch.py --config=configs/studies/indicators.py
  python launch.py --config=configs/studies/indicators.py:train_only

Thirty-four classifiers of Fashion-MNIST that differ in architecture, objective,
augmentation, label noise, number of training images, length of training and
weight decay; then, for each indicator, how it goes with the accuracy on
corrupted images over these models, and how much of that is left once the clean
accuracy is known.

Arguments: ``train_only`` trains the models and stops there (the command without
it evaluates them); ``imagenet_c`` corrupts by the harsher constants of that set
(by those of CIFAR-10-C, the default, these models lose so little that accuracy
on corrupted images is clean accuracy once more); ``num_seeds=2`` trains each
recipe so many times, and the statistics then draw recipes, not models. A
command that was stopped goes on; with other arguments for the evaluation in the
same --workdir, models are evaluated anew and not trained anew.
"""

from configs import common, hro, indicators, pgd_at, thanos, trades

RECIPES = {
  # Architectures.
  'mlp': {},
  'mlp_small': {'model.kw.widths': (32, 16)},
  'mlp_narrow_end': {'model.kw.widths': (256, 8)},
  'mlp_one_layer': {'model.kw.widths': (512,)},
  'mlp_deep': {'model.kw.widths': (256, 256, 256, 256, 128)},
  'mlp_wide_relu': {
    'model.kw.widths': (512, 512), 'model.kw.activation': 'relu',
  },
  'mlp_tanh': {'model.kw.activation': 'tanh'},
  'cnn': {
    'model.name': 'cnn', 'model.kw.widths': (8, 16, 32), 'batch_size': 128,
    'total_steps': 1000,
  },
  'cnn_crop': {
    'model.name': 'cnn', 'model.kw.widths': (8, 16, 32), 'batch_size': 128,
    'total_steps': 1000, 'data.augment.crop': 3, 'data.augment.flip': True,
  },
  # Length of training, weight decay, number of images.
  'steps_30': {'total_steps': 30},
  'steps_200': {'total_steps': 200},
  'steps_6000': {'total_steps': 6000, 'optim.weight_decay': 0.0},
  'sgd': {'optim.name': 'sgd', 'optim.momentum': 0.9, 'optim.lr': 0.05},
  'decay_strong': {'optim.name': 'adamw', 'optim.weight_decay': 1.0},
  'images_3000': {'data.imbalance': ','.join(['0.05'] * 10)},
  'images_300': {'data.imbalance': ','.join(['0.005'] * 10)},
  # Augmentation.
  'crop': {'data.augment.crop': 4},
  'flip_jitter': {'data.augment.flip': True, 'data.augment.jitter': 1.0},
  'blur': {'data.augment.blur': 0.5},
  'resized_crop': {
    'data.augment.resized_crop': 28, 'data.augment.scale': (0.3, 1.0),
  },
  'all_augmented': {
    'data.augment.crop': 3, 'data.augment.flip': True,
    'data.augment.jitter': 1.0, 'data.augment.blur': 0.5,
  },
  # Label noise, and what is meant to help.
  'noise_20': {'data.noise.kind': 'symmetric', 'data.noise.rate': 0.2},
  'noise_40': {'data.noise.kind': 'symmetric', 'data.noise.rate': 0.4},
  'noise_40_long': {
    'data.noise.kind': 'symmetric', 'data.noise.rate': 0.4,
    'data.imbalance': ','.join(['0.1'] * 10), 'optim.weight_decay': 0.0,
  },
  'noise_40_gr': {
    'data.noise.kind': 'symmetric', 'data.noise.rate': 0.4,
    'objective.name': 'gr', 'objective.kw': {'focus': 1.0, 'spread': 16.0},
    'optim.lr': 3e-4,
  },
  'gr': {
    'objective.name': 'gr', 'objective.kw': {'focus': 0.0, 'spread': 2.0},
    'optim.lr': 3e-4,
  },
  # Objectives.
  'label_smoothing': {'objective.kw': {'label_smoothing': 0.3}},
  'mixup': {'objective.name': 'mixup', 'objective.kw': {'alpha': 1.0}},
  'pgd_at_l2': {
    'objective': 'pgd_at', 'objective.kw.epsilon': 1.0,
    'objective.kw.norm': 'l2',
  },
  'pgd_at_linf': {'objective': 'pgd_at', 'objective.kw.epsilon': 0.1},
  'trades': {'objective': 'trades', 'objective.kw.epsilon': 0.05},
  'hro_examples': {'objective': 'hro', 'objective.kw.gamma': 1.0},
  'spread': {'objective': 'thanos'},
  'supcon': {'objective': 'thanos', 'objective.kw.variant': 'supcon'},
}  # fmt: skip


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg,
    table=common.Choice(('cifar10_c', 'imagenet_c')),
    train_only=False,
    num_seeds=1,
  )
  if args.num_seeds < 1:
    raise ValueError(f'num_seeds={args.num_seeds} is not positive')
  config = common.base()
  config.job = 'pool'
  models = {}
  for seed in range(args.num_seeds):
    for recipe, changes in RECIPES.items():
      name = f'{recipe}_seed{seed}' if args.num_seeds > 1 else recipe
      models[name] = _model(changes, seed)
  config.pool = indicators.pool(models, train_only=args.train_only)
  config.pool.evals.corruption.table = args.table
  return config


def _model(changes, seed):
  """The config of one model."""
  config = common.base()
  config.data.name = 'fashion_mnist'
  config.model.kw.widths = (256, 128)
  config.objective.kw = {'label_smoothing': 0.0}
  config.batch_size = 256
  config.total_steps = 3000
  config.optim.name = 'adam'
  config.optim.lr = 1e-3
  config.optim.weight_decay = 1e-4
  changes = dict(changes)
  objective = changes.pop('objective', None)
  if objective is not None:
    config.objective = _objective(objective)
  if objective == 'thanos':
    config.data.augment.views = 2
    config.data.augment.crop = 2
    config.data.sampling = 'class_balanced'
    config.total_steps = 1500
  if objective in ('pgd_at', 'trades'):
    config.total_steps = 2000
  kw = changes.pop('objective.kw', None)
  if kw is not None:
    config.objective.kw = kw
  config.update_from_flattened_dict(changes)
  config.log_steps = max(config.total_steps // 50, 1)
  config.ckpt_steps = max(config.total_steps // 5, 1)
  config.keep_last = 1
  config.seed = seed
  config.data.seed = seed
  config.data.noise.seed = seed
  config.evals = {'accuracy': {'train_examples': 0}}
  return config


def _objective(name):
  """An objective with the settings of its own config on Fashion-MNIST."""
  whose = {
    'pgd_at': (pgd_at, 'fashion_mnist'),
    'trades': (trades, 'fashion_mnist'),
    'hro': (hro, 'fashion_mnist,el'),
    'thanos': (thanos, 'fashion_mnist,spread'),
  }
  module, arg = whose[name]
  found = module.get_config(arg).objective
  if name in ('pgd_at', 'trades'):
    found.kw.inner_steps = 3
    found.kw.inner_step_size = common.optional(float)
  return found
