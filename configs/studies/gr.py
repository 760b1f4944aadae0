"""Where does gradient rescaling lead other cures for label noise?

  python launch.py --config=configs/studies/gr.py:digits
  python launch.py --config=configs/studies/gr.py:fashion_mnist

Fourteen methods under seven kinds of noise. Under each, every method is tuned
over six settings of its own by the accuracy on a fifth of the training split
whose labels are as noisy as the rest; then it is trained on all of it with
other seeds and tested on clean labels, at the end and at the best of six
evaluations. Co-teaching is told the true share of wrong labels, as by its
authors, and ``GR_estimate`` estimates it. The test split is the same for all.
A study that was stopped goes on.

On Fashion-MNIST the training split is 400 images of each class, so that a
small network can memorise it.
"""

from configs import common, gr

METHODS = {
  'CE': 'erm',
  'label_smoothing': 'label_smoothing',
  'GCE': 'gce',
  'SCE': 'sce',
  'MAE': 'mae',
  'IMAE': 'imae',
  'focal': 'focal',
  'bootstrapping': 'bootstrapping',
  'APL': 'apl',
  'ELR': 'elr',
  'mixup': 'mixup',
  'co_teaching': 'co_teaching',
  'GR': 'gr,published',
  'GR_estimate': 'gr,estimate',
}
SYMMETRIC = {f'symmetric_{percent}': percent / 100 for percent in (
  0, 20, 40, 60, 80
)}  # fmt: skip


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg, data=common.Choice(('digits', 'fashion_mnist')), num_seeds=3
  )
  methods = {
    name: _recipe(gr.get_config(f'{text},{args.data},noise=0'), args.data)
    for name, text in METHODS.items()
  }
  config = common.base()
  config.job = 'study'
  config.study = {
    'methods': methods,
    'order': tuple(METHODS),
    'grids': _grids(),
    'conditions': _conditions(args.data),
    'tuning_seeds': (100,),
    'tuning_evals': ('accuracy',),
    'validation': 0.2,
    'select': 'test/accuracy',
    'baseline': 'CE',
    'seeds': tuple(range(args.num_seeds)),
    'metrics': ('test/accuracy', 'test/best_accuracy'),
  }
  return config


def _recipe(config, data):
  """A run short enough to be done 1,764 times, long enough to memorise."""
  config.model.kw.widths = (128, 64)
  if data == 'fashion_mnist':
    config.data.imbalance = ','.join(['0.0667'] * 10)
  config.total_steps = 1200 if data == 'digits' else 1500
  config.ckpt_steps = config.total_steps
  config.keep_last = 1
  config.interim_steps = config.total_steps // 6
  config.interim_evals = {'accuracy': {'train_examples': 0}}
  config.evals = {
    'accuracy': {'train_examples': 0},
    'label_noise': {'num_examples': 0, 'resamples': 0, 'suspicious': 0},
  }
  return config


def _grids():
  """Six points a method: learning rate or decay, and what is its own."""
  rate, decay = 'optim.lr', 'optim.weight_decay'
  own = lambda name: f'objective.kw.{name}'
  rates = (rate, (1e-3, 3e-4))
  return {
    'CE': (rates, (decay, (1e-4, 1e-3, 1e-2))),
    'label_smoothing': (rates, (own('label_smoothing'), (0.1, 0.3, 0.6))),
    'GCE': (rates, (own('q'), (0.4, 0.7, 0.9))),
    'SCE': (
      rates,
      ((own('alpha'), own('beta')), ((0.1, 1.0), (1.0, 1.0), (6.0, 0.1))),
    ),
    'MAE': (rates, (decay, (1e-4, 1e-3, 1e-2))),
    'IMAE': (rates, (own('spread'), (4.0, 8.0, 16.0))),
    'focal': (rates, (own('gamma'), (0.5, 2.0, 5.0))),
    'bootstrapping': (
      rates,
      (
        (own('kind'), own('beta')),
        (('soft', 0.95), ('hard', 0.8), ('hard', 0.5)),
      ),
    ),
    'APL': (
      rates,
      ((own('alpha'), own('beta')), ((1.0, 1.0), (10.0, 0.1), (10.0, 1.0))),
    ),
    'ELR': (
      rates,
      (
        (own('strength'), own('momentum')),
        ((1.0, 0.9), (3.0, 0.7), (7.0, 0.9)),
      ),
    ),
    'mixup': (rates, (own('alpha'), (0.2, 1.0, 4.0))),
    'co_teaching': (rates, (own('ramp_steps'), (50, 150, 450))),
    # Pairs that are published for some rate, at the lower learning rate.
    'GR': (
      (
        (rate, own('focus'), own('spread')),
        (
          (3e-4, 0.0, 2.0),
          (3e-4, 0.5, 8.0),
          (3e-4, 0.5, 12.0),
          (3e-4, 1.0, 16.0),
          (3e-4, 2.0, 12.0),
          (3e-4, 2.0, 24.0),
        ),
      ),
    ),
    'GR_estimate': (rates, (own('warmup_steps'), (50, 150, 300))),
  }


def _conditions(data):
  """Noise by its kind and rate in percent, and what a method is told of it."""
  mapping = {'digits': 'mnist', 'fashion_mnist': 'fashion_mnist'}[data]
  conditions = {
    name: _noise(rate, rate, kind='symmetric')
    for name, rate in SYMMETRIC.items()
  }
  conditions['asymmetric_40'] = _noise(
    0.4, 0.4 * gr.MAPPED[data], kind='asymmetric', mapping=mapping
  )
  abnormal = {'kind': 'blend', 'rate': 0.2}
  conditions['abnormal_20'] = {
    'all': tuple((f'data.abnormal.{k}', v) for k, v in abnormal.items()),
    'co_teaching': (('objective.kw.forget_rate', 0.2),),
  }
  return conditions


def _noise(rate, share, **fields):
  """A condition with label noise that makes that share of all wrong."""
  fields = {'rate': rate} | fields
  return {
    'all': tuple((f'data.noise.{k}', v) for k, v in fields.items()),
    'co_teaching': (('objective.kw.forget_rate', share),),
  }
