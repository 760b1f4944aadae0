"""Is HRO better than its parts, and than balancing the concepts alone?

  python launch.py --config=configs/studies/hro.py:digits
  python launch.py --config=configs/studies/hro.py:fashion_mnist

Compares ERM, concept-balanced ERM, EL, CL and HRO on the source (unevenly
common concepts) and on a target task of classes not seen in training. Each
method is tuned over six settings of its own with three seeds each, by the
mean accuracy over concepts on a held-out fifth of the training split; then it
is trained with ten other seeds. A study that was stopped goes on.
"""

from configs import common, hro

METRICS = (
  'test/accuracy',
  'test/worst_concept_accuracy',
  'test/noise_accuracy',
  'test/pgd20_accuracy',
  'transfer/linear_probe_accuracy',
  'transfer/svm_accuracy',
  'transfer/knn_accuracy',
)


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg, data=common.Choice(('digits', 'fashion_mnist')), num_seeds=10
  )
  methods = {
    'ERM': hro.get_config(f'{args.data},erm'),
    'balanced_ERM': hro.get_config(f'{args.data},erm'),
    'EL': hro.get_config(f'{args.data},el'),
    'CL': hro.get_config(f'{args.data},cl'),
    'HRO': hro.get_config(f'{args.data},hro'),
  }
  methods['balanced_ERM'].data.sampling = 'concept_balanced'
  gamma, temperature = 'objective.kw.gamma', 'objective.kw.temperature'
  decay, rate = 'optim.weight_decay', 'optim.lr'
  config = common.base()
  config.job = 'study'
  config.study = {
    'methods': methods,
    'order': ('ERM', 'balanced_ERM', 'EL', 'CL', 'HRO'),
    'grids': {
      'ERM': ((rate, (0.05, 0.2)), (decay, (1e-4, 1e-3, 1e-2))),
      'balanced_ERM': ((rate, (0.05, 0.2)), (decay, (1e-4, 1e-3, 1e-2))),
      'EL': ((gamma, (1.0, 3.0, 10.0)), (decay, (1e-4, 1e-3))),
      'CL': ((temperature, (0.01, 0.03, 0.3)), (decay, (1e-4, 1e-3))),
      'HRO': ((gamma, (1.0, 3.0, 10.0)), (temperature, (0.03, 0.3))),
    },
    'tuning_seeds': (100, 101, 102),
    'tuning_evals': ('remix',),  # All that tuning runs look at.
    'validation': 0.2,
    'select': 'test/balanced_concept_accuracy',
    'baseline': 'balanced_ERM',
    'seeds': tuple(range(args.num_seeds)),
    'metrics': METRICS,
  }
  return config
