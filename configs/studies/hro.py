"""Is HRO better than its parts, and than balancing the concepts alone?

  python launch.py --config=configs/studies/hro.py:digits
  python launch.py --config=configs/studies/hro.py:fashion_mnist

Compares ERM, EL (both also concept-balanced), CL and HRO on the source
(unevenly common concepts) and on a target task of classes not seen in
training. Each method is tuned over six settings of its own with three to five
seeds each, by the mean accuracy over concepts on a held-out fifth of the
training split; then it is trained with ten other seeds. The test split is the
same for all. A study that was stopped goes on.
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
    'balanced_EL': hro.get_config(f'{args.data},el'),
    'CL': hro.get_config(f'{args.data},cl'),
    'HRO': hro.get_config(f'{args.data},hro'),
  }
  for name in ('balanced_ERM', 'balanced_EL'):
    methods[name].data.sampling = 'concept_balanced'
  gamma, temperature = 'objective.kw.gamma', 'objective.kw.temperature'
  decay, rate = 'optim.weight_decay', 'optim.lr'
  # On so few digits a strong decay is worth much: nobody should lack it.
  decays = (1e-4, 1e-2) if args.data == 'digits' else (1e-4, 1e-3)
  config = common.base()
  config.job = 'study'
  config.study = {
    'methods': methods,
    'order': ('ERM', 'balanced_ERM', 'EL', 'balanced_EL', 'CL', 'HRO'),
    'grids': {
      'ERM': ((rate, (0.05, 0.2)), (decay, (1e-4, 1e-3, 1e-2))),
      'balanced_ERM': ((rate, (0.05, 0.2)), (decay, (1e-4, 1e-3, 1e-2))),
      'EL': ((gamma, (1.0, 3.0, 10.0)), (decay, decays)),
      'balanced_EL': ((gamma, (1.0, 3.0, 10.0)), (decay, decays)),
      'CL': ((temperature, (0.01, 0.03, 0.3)), (decay, decays)),
      'HRO': ((gamma, (1.0, 3.0, 10.0)), (temperature, (0.03, 0.3))),
    },
    'tuning_seeds': tuple(range(100, 105 if args.data == 'digits' else 103)),
    'tuning_evals': ('remix',),  # All that tuning runs look at.
    'validation': 0.2,
    'select': 'test/balanced_concept_accuracy',
    'baseline': 'balanced_ERM',
    'seeds': tuple(range(args.num_seeds)),
    'metrics': METRICS,
  }
  return config
