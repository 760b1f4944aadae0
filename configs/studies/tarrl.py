"""Does holding features still make probes robust on any task, and at what cost?

  python launch.py --config=configs/studies/tarrl.py:digits
  python launch.py --config=configs/studies/tarrl.py:fashion_mnist

Compares TARRL and its cheap form with SimCLR, ACL, RoCL, DeACL (no labels) and
supervised adversarial training, each given the same compute: steps are such
that the passes through the network are equally many. Some classes are not seen
in training. Linear probes of three tasks (the classes seen, those not seen,
all) are fitted on clean features and attacked end to end by PGD-20 at four
radii. Each method is tuned over six settings, on Fashion-MNIST four, by
the robust accuracy of a probe on a held-out fifth of the training split of the
classes seen; then it is trained on all of it with other seeds. The test split
is the same for all. A study that was stopped goes on.

Then every encoder's probe of all classes is attacked with more steps and
restarts, by AutoAttack and by the images that fool the other encoders' probes,
to see whether their order was an artefact of the attack.
"""

from configs import acl, common, deacl, pgd_at, rocl, simclr, tarrl

INNER_STEPS = 5
# Passes of an image a step: one forwards is 1, a gradient of the image 2, of
# the weights 3. DeACL's are those of its two stages.
PASSES = {
  'SimCLR': 6,
  'TARRL': 6 + 2 * INNER_STEPS + 3,
  'TARRL_free': 6 + 3,
  'ACL': 2 * 2 * INNER_STEPS + 6 + 6,
  'RoCL': 1 + 2 * INNER_STEPS + 9,
  'DeACL': (6, 1 + 2 * INNER_STEPS + 6),
  'supervised_AT': 2 * INNER_STEPS + 3,
}
BUDGET = {
  'digits': 1500 * PASSES['TARRL'],
  'fashion_mnist': 1000 * PASSES['TARRL'],
}
RATES = {'digits': (1e-3, 3e-3, 1e-2), 'fashion_mnist': (1e-3, 3e-3)}
STRENGTHS = {'digits': (0.5, 2.0), 'fashion_mnist': (2.0, 8.0)}
TASKS = ('seen_classes', 'unseen_classes', 'all_classes')


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg, data=common.Choice(('digits', 'fashion_mnist')), num_seeds=3
  )
  methods = {
    'SimCLR': simclr.get_config(args.data),
    'TARRL': tarrl.get_config(args.data),
    'TARRL_free': tarrl.get_config(f'{args.data},free'),
    'ACL': acl.get_config(args.data),
    'RoCL': rocl.get_config(args.data),
    'DeACL': deacl.get_config(args.data),
    'supervised_AT': pgd_at.get_config(args.data),
  }
  for name, config in methods.items():
    _recipe(config, PASSES[name], BUDGET[args.data])
  epsilon = methods['TARRL'].objective.kw.epsilon
  config = common.base()
  config.job = 'study'
  config.study = {
    'methods': methods,
    'order': tuple(PASSES),
    'grids': _grids(args.data),
    'tuning_seeds': (100,),
    'tuning_evals': ('robust_probe',),
    'tuning_transfer': {
      'seen_classes': {
        'classes': methods['TARRL'].data.classes,
        'validation': 0.2,
      }
    },
    'validation': 0.2,
    'select': 'transfer/linear_probe_pgd20_accuracy',
    'baseline': 'SimCLR',
    'seeds': tuple(range(args.num_seeds)),
    'metrics': _metrics(epsilon),
    'cross_attack': {
      'task': 'all_classes',
      'l2': 1e-4,
      'num_train': 10_000,
      'epsilon': epsilon,
      'norm': 'linf',
      'num_steps': 20,  # As in the table.
      'strong_steps': 100,
      'num_restarts': 5,
      'num_examples': 500,
      'auto_attack_examples': 200,
    },
  }
  return config


def _recipe(config, passes, budget):
  """As many steps as the budget pays for, and the evaluations of the table."""
  if isinstance(passes, tuple):  # Half of the budget for each stage.
    stages = [budget // 2 // each for each in passes]
    config.total_steps = sum(stages)
    config.objective.kw.teacher_steps = stages[0]
  else:
    config.total_steps = budget // passes
  config.ckpt_steps = config.total_steps
  config.keep_last = 1
  attack = config.evals.robust_probe.to_dict()
  epsilon = attack['epsilon']
  config.evals = {
    'transfer': {'probes': ('linear_probe',), 'l2': 1e-4, 'num_train': 10_000},
    'robust_probe': attack | {'epsilons': _radii(epsilon)},
  }


def _radii(epsilon):
  """Radii of the curve, the main one apart."""
  return (0.0, epsilon / 2, 2 * epsilon)


def _metrics(epsilon):
  """A column each: every radius, 0 being clean, and task by task."""
  attacked = 'linear_probe_pgd20_accuracy'
  return (
    *(f'transfer/{attacked}/epsilon={r:g}' for r in _radii(epsilon)[:2]),
    f'transfer/{attacked}',
    f'transfer/{attacked}/epsilon={2 * epsilon:g}',
    *(
      f'transfer/{task}/{which}'
      for task in TASKS
      for which in ('linear_probe_accuracy', attacked)
    ),
  )


def _grids(data):
  """As many points a method: learning rates, and two of what is its own."""
  rates = ('optim.lr', RATES[data])
  budget = BUDGET[data]
  own = lambda name, *values: (rates, (f'objective.kw.{name}', values))
  steps = budget // PASSES['supervised_AT']
  fewer = budget // (PASSES['supervised_AT'] + 3)
  return {
    'SimCLR': own('temperature', 0.2, 0.5),
    'TARRL': own('strength', *STRENGTHS[data]),
    'TARRL_free': own('strength', *STRENGTHS[data]),
    'ACL': own('temperature', 0.2, 0.5),
    'RoCL': own('temperature', 0.2, 0.5),
    'DeACL': own('beta', 2.0, 8.0),
    # The loss of clean images takes a pass of its own, so fewer steps.
    'supervised_AT': (
      rates,
      (
        ('objective.kw.clean_weight', 'total_steps', 'ckpt_steps'),
        tuple((w, n, n) for w, n in ((0.0, steps), (0.5, fewer))),
      ),
    ),
  }
