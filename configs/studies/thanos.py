"""Do Thanos features keep what coarse labels do not say?

  python launch.py --config=configs/studies/thanos.py:digits
  python launch.py --config=configs/studies/thanos.py:fashion_mnist,alpha
  python launch.py --config=configs/studies/thanos.py:fashion_mnist,groups

Three questions, each over several seeds:

* ``methods`` (default): the rows of the paper's comparison, each trained on two
  coarse classes; a linear probe of the frozen features tells the ten fine ones.
  Every method is tuned over learning rate and weight decay by the *coarse*
  accuracy on a held-out fifth of the training split: no fine label chooses
  anything. alpha is where theory says that there is room
  (`losses.collapse_threshold`), as in configs/thanos.py.
* ``alpha``: the spread loss, with and without the autoencoder, from an alpha at
  which classes collapse to one at which they merge; nothing is tuned.
* ``groups``: a patch that agrees with the class in 95% of the training images
  (test: half). Worst-group accuracy of ERM, just train twice, group DRO on the
  true groups and on clusters of the features of ERM, SupCon and Thanos, found
  as GEORGE does (``pip install umap-learn``), each also with its last layer
  fitted anew (DFR). Network, batches, steps and augmentation are the same for
  all. Tuned by accuracy on a held-out fifth of the training split, which knows
  no groups; ``worst_group`` tunes by the worst group there, for comparison.

A study that was stopped goes on.
"""

import functools

from configs import common, group_dro, thanos

METHODS = {
  'CE': 'ce',
  'SupCon_one_positive': 'supcon',
  'SupCon_all': 'supcon',
  'SupCon_InfoNCE': 'supcon_infonce',
  'autoencoder': 'autoencoder',
  'spread': 'spread',
  'Thanos': 'thanos',
}
ALPHAS = (0.0, 0.25, 0.5, 0.65, 0.75, 1.0)
PROBE = 'coarse_to_fine/linear_probe_accuracy'
SELECT = {
  'accuracy': 'test/accuracy',
  'worst_group': 'groups/worst_accuracy',
}
GEORGE = {
  'reduce': 'umap',
  'num_components': 2,
  'cluster': 'gaussian_mixture',
  'num_clusters': 0,  # Asks the silhouette.
  'max_clusters': 10,
  'overclustering': 5,
}


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg,
    data=common.Choice(('digits', 'fashion_mnist')),
    question=common.Choice(('methods', 'alpha', 'groups')),
    select=common.Choice(tuple(SELECT)),
    num_seeds=3,
  )
  config = common.base()
  config.job = 'study'
  config.study = {
    'methods': _methods,
    'alpha': _alpha,
    'groups': functools.partial(_groups, select=SELECT[args.select]),
  }[args.question](args.data)
  config.study.seeds = tuple(range(args.num_seeds))
  return config


def _methods(data):
  """Each row of the comparison, tuned alike."""
  methods = {
    name: _recipe(thanos.get_config(f'{data},{variant}'))
    for name, variant in METHODS.items()
  }
  methods['SupCon_all'].objective.kw.denominator = 'all'
  grid = (('optim.lr', (1e-3, 3e-3)), ('optim.weight_decay', (0.0, 1e-3)))
  return _study(
    methods,
    baseline='CE',
    grids=dict.fromkeys(methods, grid),
    metrics=(
      'test/accuracy',
      PROBE,
      'coarse_to_fine/knn_accuracy',
      'coarse_to_fine/linear_probe_within_accuracy',
      'coarse_to_fine/linear_probe_worst_accuracy',
    ),
  )


def _alpha(data):
  """Two methods under one alpha after the other."""
  methods = {
    name: _recipe(thanos.get_config(f'{data},{variant}'))
    for name, variant in (('spread', 'spread'), ('Thanos', 'thanos'))
  }
  study = _study(
    methods,
    baseline='spread',
    grids=dict.fromkeys(methods, ()),
    metrics=('test/accuracy', PROBE, 'coarse_to_fine/knn_accuracy'),
  )
  study['conditions'] = {
    f'alpha_{round(100 * alpha):03}': {'all': (('objective.kw.alpha', alpha),)}
    for alpha in ALPHAS
  }
  return study


def _groups(data, select):
  """The planted patch, with and without knowing where it is."""
  contrastive = {
    name: thanos.get_config(f'{data},{variant}')
    for name, variant in (('SupCon', 'supcon'), ('Thanos', 'thanos'))
  }
  methods = {
    'ERM': group_dro.get_config(f'{data},erm'),
    **contrastive,
    'JTT': group_dro.get_config(f'{data},jtt'),
    'group_DRO': group_dro.get_config(f'{data},group_dro'),
  }
  sources = {
    f'clusters_of_{name}': name for name in ('ERM', 'SupCon', 'Thanos')
  }
  for name in sources:
    methods[name] = group_dro.get_config(f'{data},group_dro')
    methods[name].data.concepts = 'class'
    methods[name].data.sampling = 'uniform'
  for name, config in methods.items():
    _alike(config, contrastive['SupCon'], data)
    config.evals = {
      'accuracy': {'train_examples': 0},
      'groups': {},
      'last_layer': {'fit_on': 'test_half', 'num_fits': 10},
    }
    if name in sources.values():
      config.evals.infer_groups = GEORGE
  grid = (('optim.lr', (1e-3, 3e-3)), ('optim.weight_decay', (0.0, 1e-3)))
  adversary = (
    ('objective.kw.step_size', (0.01, 0.1)),
    ('optim.weight_decay', (0.0, 1e-3)),
  )
  grids = dict.fromkeys(methods, grid)
  grids |= dict.fromkeys(('group_DRO', *sources), adversary)
  grids['JTT'] = (
    ('objective.kw.warmup_steps', (100, 500)),
    ('objective.kw.upweight', (5.0, 20.0)),
  )
  return _study(
    methods,
    baseline='ERM',
    grids=grids,
    metrics=(
      'groups/worst_accuracy',
      'groups/average_accuracy',
      'groups/reweighted_accuracy',
      'groups/dfr_worst_accuracy',
    ),
    tuning_evals=('accuracy', 'groups'),
    select=select,
    # Method -> the method whose run of the same seed clusters its features.
    inferred_groups=sources,
  )


def _alike(config, recipe, data):
  """The same task, network, batches, optimizer and augmentation for all.

  Upper garments that are worn by themselves or over something: unlike clothes
  against the rest, hard enough that the patch is worth reading. No crop or flip
  takes the patch out of its place by more than it is wide.
  """
  config.data.groups.kind = 'patch'
  config.data.groups.strength = 0.95
  config.data.augment.resized_crop = 0
  config.data.augment.flip = False
  config.data.augment.crop = 1
  config.data.augment.jitter = 0.5
  if data == 'fashion_mnist':
    config.data.classes = '0,2,4,6'
    config.data.coarse = 'under=0,6 over=2,4'
  for field in ('batch_size', 'total_steps', 'log_steps'):
    config[field] = recipe[field]
  config.optim = recipe.optim
  config.model.name = recipe.model.name
  config.model.kw.widths = recipe.model.kw.widths
  config.ckpt_steps = config.total_steps
  config.keep_last = 1


def _recipe(config):
  """Only what the tables show, and one checkpoint."""
  config.ckpt_steps = config.total_steps
  config.keep_last = 1
  config.evals = {
    'accuracy': {'train_examples': 0},
    'coarse_to_fine': config.evals.coarse_to_fine.to_dict(),
  }
  return config


def _study(methods, **fields):
  """What the three questions share."""
  return {
    'methods': methods,
    'order': tuple(methods),
    'tuning_seeds': (100,),
    'tuning_evals': ('accuracy',),
    'validation': 0.2,
    'select': 'test/accuracy',
  } | fields
