"""Thanos: features from coarse labels that still tell the classes inside.

  python launch.py --config=configs/thanos.py

Arguments, separated by commas behind a colon:

* the data, ``digits`` (default), ``fashion_mnist``, ``cifar10``, ``cifar100``,
  ``celeb_a``;
* what is minimised, the rows of the paper's comparison, each beside coarse
  cross entropy: ``thanos`` (default: spread loss and autoencoder), ``ce``
  (nothing), ``supcon``, ``supcon_infonce``, ``spread``, ``autoencoder``;
* for ``thanos``, who learns what: ``two`` encoders that learn apart, one by
  each loss, their features concatenated (default, the paper's method), ``one``
  encoder, or ``joint``, two under one classifier;
* ``released``: weights, batches and mistakes of the released code, see
  `rrl_jax.objectives.thanos`.

Training sees coarse labels. The fine ones measure what the features still know:
a linear probe on them.

| data | coarse, fine | recipe | needs |
|---|---|---|---|
| digits | below 5 or not, 10 | MLP, 1,500 steps of 128 | nothing; 1 minute on 2 cores |
| fashion_mnist | clothes or not, 10 | MLP, 3,000 steps of 256 | the Debian package, or its files |
| cifar10 | animals or vehicles, 10 | ViT, 600 epochs of 128 | tfds cifar10, an accelerator |
| cifar100 | 20, 100 | ViT, 600 epochs of 128 | tfds cifar100, an accelerator |
| celeb_a | blond or not, by sex | ResNet-50, 50 epochs of 128 | tfds celeb_a, an accelerator |

alpha lies within the room that theory leaves at the batch and temperature of
digits and fashion_mnist; the others have the released 0.5, and the run says
where that lies. cifar10 and cifar100 have the released code's settings as far
as they are known: no dropout here, one cosine over the run instead of three,
decay of kernels only. celeb_a has those of the authors' earlier code, cross
entropy added. The three were traced at full size, not trained.
"""  # noqa: E501

from configs import common

DATA_SETS = ('digits', 'fashion_mnist', 'cifar10', 'cifar100', 'celeb_a')
VARIANTS = (
  'thanos', 'ce', 'supcon', 'supcon_infonce', 'spread', 'autoencoder'
)  # fmt: skip
ENCODERS = ('two', 'one', 'joint')
_DECODED = ('thanos', 'autoencoder')


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg,
    data=common.Choice(DATA_SETS),
    variant=common.Choice(VARIANTS),
    encoders=common.Choice(ENCODERS),
    released=False,
  )
  config = common.base()
  config.data.coarse = 'source'
  config.data.augment.views = 2
  config.data.sampling = 'class_balanced'
  config.objective.name = 'thanos'
  config.objective.kw = {
    'variant': args.variant,
    'alpha': 0.5,  # Weight of the class-conditional term.
    'class_alpha': common.optional(tuple),  # The same of each class,
    'alpha_margin': common.optional(float),  # or this above its threshold.
    'temperature': 0.5,
    'denominator': 'one_positive',  # all, negatives_only, in.
    'cross_entropy': 1.0,  # Weights.
    'contrastive': 1.0,
    'infonce': 1.0,
    'autoencoder': 1.0,
    'view_pairs': 'all',  # one: a view meets the other, as released.
    'numerator_clip': common.optional(float),  # 1.0 as released.
    'column_norms': False,  # True as released.
    'pixel_std': common.optional(tuple),  # Divides the autoencoder's error.
  }
  config.model.kw.encoders = 'one'
  if args.variant in _DECODED:
    config.model.kw.decoder = 'mirror'
  if args.variant == 'thanos':
    config.model.kw.encoders = args.encoders
  {
    'digits': _digits,
    'fashion_mnist': _fashion_mnist,
    'cifar10': _cifar,
    'cifar100': _cifar,
    'celeb_a': _celeb_a,
  }[args.data](config)
  if args.data.startswith('cifar'):
    config.data.kw.data_set = args.data
  if args.released:
    _released(config)
  config.evals = _evals(args.data)
  return config


def _digits(config):
  """8x8 digits: below 5 or not, then which."""
  config.data.name = 'digits'
  config.data.augment.resized_crop = 8
  config.data.augment.scale = (0.5, 1.0)
  config.data.augment.jitter = 0.5
  config.model.name = 'mlp'
  config.model.kw.widths = (256, 128, 32)
  config.batch_size = 128
  config.total_steps = 1500
  config.objective.kw.alpha = 0.62
  _small_images(config)


def _fashion_mnist(config):
  """28x28 clothes: worn on the body or not, then which."""
  config.data.name = 'fashion_mnist'
  config.data.augment.resized_crop = 28
  config.data.augment.scale = (0.3, 1.0)
  config.data.augment.flip = True
  config.data.augment.jitter = 0.5
  config.model.name = 'mlp'
  config.model.kw.widths = (256, 128, 32)
  config.batch_size = 256
  config.total_steps = 3000
  config.objective.kw.alpha = 0.65
  _small_images(config)


def _small_images(config):
  """What digits and fashion_mnist share."""
  config.optim.name = 'adam'
  config.optim.lr = 1e-3
  config.log_steps = 20
  config.ckpt_steps = config.total_steps // 5
  config.objective.kw.autoencoder = 10.0


def _cifar(config):
  """32x32 photographs."""
  config.data.name = 'tfds'
  config.data.augment.resized_crop = 32
  config.data.augment.scale = (0.2, 1.0)
  config.data.augment.flip = True
  config.data.augment.jitter = 0.5
  config.data.augment.grayscale = 0.2
  config.model.name = 'vit_lite'
  config.model.kw.patch_size = 4
  if config.model.kw.decoder:
    config.model.kw.decoder = 'resnet18'
  config.batch_size = 128
  config.total_epochs = 600.0
  config.log_steps = 100
  config.ckpt_steps = 5000
  config.optim.name = 'adamw'
  config.optim.lr = 3e-4
  config.optim.weight_decay = 0.01


def _celeb_a(config):
  """Faces: blond or not; most blond ones are women."""
  common.celeb_a(config)
  config.data.coarse = ''
  config.data.augment.resized_crop = 224
  config.data.augment.scale = (0.7, 1.0)
  config.model.kw.embedding_dim = 128
  config.log_steps = 100
  config.ckpt_steps = 5000
  config.objective.kw.temperature = 0.1
  config.optim.name = 'sgd'
  config.optim.momentum = 0.9
  config.optim.lr = 1e-4
  config.optim.weight_decay = 1e-4


def _released(config):
  """Weights, batches and mistakes of the released code."""
  config.data.sampling = 'uniform'
  config.model.kw.decoder_output = 'linear'
  config.objective.kw.alpha = 0.5
  config.objective.kw.autoencoder = 1.0
  config.objective.kw.view_pairs = 'one'
  config.objective.kw.numerator_clip = 1.0
  config.objective.kw.column_norms = True
  config.objective.kw.pixel_std = (0.5,)


def _evals(data):
  """Accuracy as trained, and what the features know beyond that."""
  found = {'accuracy': {'train_examples': 10_000}}
  if data == 'celeb_a':
    found['groups'] = {}
    found['last_layer'] = {'fit_on': 'test_half', 'num_fits': 10}
  else:
    found['coarse_to_fine'] = {
      'l2': 1e-4,
      'k': 20,
      'num_train': 10_000,  # 0 for all.
    }
  found['reconstruction'] = {'num_examples': 1000, 'num_pictures': 12}
  found['infer_groups'] = {
    'reduce': 'none',  # pca, umap.
    'num_components': 2,  # Of these two.
    'cluster': 'kmeans',  # gaussian_mixture.
    'num_clusters': 2 if data == 'celeb_a' else 5,  # Of a class; 0: silhouette.
    'max_clusters': 10,
    'overclustering': 1,  # 5 in GEORGE.
  }
  found['features_map'] = {'num_examples': 2000}
  return found
