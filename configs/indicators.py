"""Which number of a classifier's clean features tells how robust it is?

  python launch.py --config=configs/indicators.py
  python launch.py --config=configs/indicators.py \
    --config.pool.folders="('runs/hro','runs/erm')"
  python launch.py --config=configs/indicators.py \
    --config.pool.features="('mine.npz',)"
  python launch.py --config=configs/indicators.py --config.features=mine.npz

A pool of twelve small classifiers of 8x8 digits: trains each, takes the
indicators of its clean features and its accuracy on corrupted images, and says
how the one goes with the other over the pool, clean accuracy held fixed.
configs/studies/indicators.py is the study, with thirty-four on Fashion-MNIST.

Checkpoints of any runs on the same data join by their folders, which stay as
they are. An npz file of another encoder's ``features``, ``labels`` and
``logits`` joins the ranking; with the number ``robust_accuracy`` in it, an
accuracy that was measured elsewhere, it joins the associations too.

``config.features``, the last command, trains nothing: it takes the indicators
of one file.

Argument: ``train_only`` trains the models and stops there. The same command
goes on where it was stopped.
"""

from configs import common, gr, hro, pgd_at

RECIPES = {
  'mlp': {},
  'mlp_small': {'model.kw.widths': (12,)},
  'mlp_deep': {'model.kw.widths': (128, 128, 128, 32)},
  'steps_40': {'total_steps': 40},
  'images_70': {'data.imbalance': ','.join(['0.05'] * 10)},
  'noise_40': {'data.noise.kind': 'symmetric', 'data.noise.rate': 0.4},
  'noise_40_gr': {
    'data.noise.kind': 'symmetric', 'data.noise.rate': 0.4, 'objective': 'gr',
  },
  'label_smoothing': {'objective.kw': {'label_smoothing': 0.3}},
  'mixup': {'objective.name': 'mixup', 'objective.kw': {'alpha': 1.0}},
  'crop': {'data.augment.crop': 1},
  'pgd_at': {'objective': 'pgd_at'},
  'hro_examples': {'objective': 'hro'},
}  # fmt: skip


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(arg, train_only=False)
  config = _digits()
  config.job = 'pool'
  config.pool = pool(
    {name: _model(changes) for name, changes in RECIPES.items()},
    train_only=args.train_only,
  )
  config.pool.evals.corruption.severities = (1, 3, 5)  # Done in minutes.
  return config


def pool(models, *, train_only):
  """What a pool of models is asked."""
  return {
    'train_only': train_only,
    'models': models,  # Name -> config.
    'folders': (),  # Of runs elsewhere: checkpoints that join the pool.
    'features': (),  # npz files, see the file's docstring.
    'evals': {
      'accuracy': {'train_examples': 0},
      'indicators': {},
      'corruption': {'num_examples': 5000, 'table': 'cifar10_c'},
    },
    'targets': ('corruption/mean_accuracy', 'corruption/relative_accuracy'),
    'control': 'test/accuracy',  # Known anyway, held fixed.
    'combination': (  # Fitted together.
      'indicators/kmeans_accuracy',
      'indicators/multicut_accuracy',
      'indicators/overlap',
    ),
    'resamples': 1000,  # Of the bootstrap over models.
    'seed': 0,  # Of resamples and permutations.
  }


def _digits():
  """What the models have in common."""
  config = common.base()
  config.data.name = 'digits'
  config.model.name = 'mlp'
  config.model.kw.widths = (64, 32)
  config.objective.kw = {'label_smoothing': 0.0}
  config.batch_size = 128
  config.total_steps = 600
  config.optim.name = 'adam'
  config.optim.lr = 1e-3
  config.optim.weight_decay = 1e-4
  config.evals = {'accuracy': {'train_examples': 0}}
  return config


def _model(changes):
  """The config of one model."""
  config = _digits()
  changes = dict(changes)
  objective = changes.pop('objective', None)
  if objective is not None:
    module, arg = {
      'gr': (gr, 'digits,noise=0.4'),
      'pgd_at': (pgd_at, 'digits'),
      'hro': (hro, 'digits,el'),
    }[objective]
    config.objective = module.get_config(arg).objective
  kw = changes.pop('objective.kw', None)
  if kw is not None:
    config.objective.kw = kw
  config.update_from_flattened_dict(changes)
  config.log_steps = max(config.total_steps // 50, 1)
  config.ckpt_steps = max(config.total_steps // 5, 1)
  config.keep_last = 1
  return config
