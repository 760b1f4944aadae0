"""Does computing in bfloat16 change what a study finds?

  python launch.py --config=configs/studies/precision.py:hro,digits
  python launch.py --config=configs/studies/precision.py:gr,fashion_mnist

Takes a study, ``hro``, ``gr`` (under 40% symmetric noise), ``tarrl`` or
``thanos``, with the settings that it chose for each method in float32, and
trains and evaluates every method twice from each seed: with the network in
float32 and in bfloat16 (``model.kw.dtype``; weights, losses and the optimizer
stay in float32). Then it compares the two orders of the methods. Nothing is
tuned again, so that a change of order is due to the arithmetic alone.
"""

from configs import common
from configs.studies import gr, hro, tarrl, thanos

STUDIES = {'hro': hro, 'gr': gr, 'tarrl': tarrl, 'thanos': thanos}
DATA_SETS = ('digits', 'fashion_mnist')
NOISE = 'symmetric_40'
DTYPES = ('float32', 'bfloat16')

_LR, _DECAY = 'optim.lr', 'optim.weight_decay'
_OWN = 'objective.kw.'
_RAMP = f'{_OWN}ramp_steps'
# What each study chose, study and data set by method.
CHOSEN = {
  ('hro', 'digits'): {
    'ERM': {_LR: 0.2, _DECAY: 1e-4},
    'balanced_ERM': {_LR: 0.05, _DECAY: 1e-4},
    'EL': {f'{_OWN}gamma': 1.0, _DECAY: 1e-4},
    'balanced_EL': {f'{_OWN}gamma': 1.0, _DECAY: 1e-4},
    'CL': {f'{_OWN}temperature': 0.3, _DECAY: 1e-4},
    'HRO': {f'{_OWN}gamma': 1.0, f'{_OWN}temperature': 0.3},
  },
  ('hro', 'fashion_mnist'): {
    'ERM': {_LR: 0.2, _DECAY: 1e-4},
    'balanced_ERM': {_LR: 0.05, _DECAY: 1e-4},
    'EL': {f'{_OWN}gamma': 10.0, _DECAY: 1e-4},
    'balanced_EL': {f'{_OWN}gamma': 10.0, _DECAY: 1e-4},
    'CL': {f'{_OWN}temperature': 0.3, _DECAY: 1e-4},
    'HRO': {f'{_OWN}gamma': 10.0, f'{_OWN}temperature': 0.3},
  },
  ('gr', 'digits'): {
    'CE': {_LR: 1e-3, _DECAY: 1e-2},
    'label_smoothing': {_LR: 3e-4, f'{_OWN}label_smoothing': 0.6},
    'GCE': {_LR: 3e-4, f'{_OWN}q': 0.9},
    'SCE': {_LR: 3e-4, f'{_OWN}alpha': 0.1, f'{_OWN}beta': 1.0},
    'MAE': {_LR: 3e-4, _DECAY: 1e-3},
    'IMAE': {_LR: 3e-4, f'{_OWN}spread': 16.0},
    'focal': {_LR: 3e-4, f'{_OWN}gamma': 0.5},
    'bootstrapping': {_LR: 1e-3, f'{_OWN}kind': 'hard', f'{_OWN}beta': 0.5},
    'APL': {_LR: 3e-4, f'{_OWN}alpha': 10.0, f'{_OWN}beta': 1.0},
    'ELR': {_LR: 1e-3, f'{_OWN}strength': 3.0, f'{_OWN}momentum': 0.7},
    'mixup': {_LR: 1e-3, f'{_OWN}alpha': 1.0},
    'co_teaching': {_LR: 1e-3, _RAMP: 150},
    'GR': {_LR: 3e-4, f'{_OWN}focus': 1.0, f'{_OWN}spread': 16.0},
    'GR_estimate': {_LR: 3e-4, f'{_OWN}warmup_steps': 150},
  },
  ('gr', 'fashion_mnist'): {
    'CE': {_LR: 3e-4, _DECAY: 1e-2},
    'label_smoothing': {_LR: 3e-4, f'{_OWN}label_smoothing': 0.6},
    'GCE': {_LR: 3e-4, f'{_OWN}q': 0.9},
    'SCE': {_LR: 3e-4, f'{_OWN}alpha': 0.1, f'{_OWN}beta': 1.0},
    'MAE': {_LR: 1e-3, _DECAY: 1e-3},
    'IMAE': {_LR: 1e-3, f'{_OWN}spread': 16.0},
    'focal': {_LR: 3e-4, f'{_OWN}gamma': 0.5},
    'bootstrapping': {_LR: 3e-4, f'{_OWN}kind': 'hard', f'{_OWN}beta': 0.5},
    'APL': {_LR: 3e-4, f'{_OWN}alpha': 10.0, f'{_OWN}beta': 0.1},
    'ELR': {_LR: 1e-3, f'{_OWN}strength': 3.0, f'{_OWN}momentum': 0.7},
    'mixup': {_LR: 3e-4, f'{_OWN}alpha': 4.0},
    'co_teaching': {_LR: 1e-3, _RAMP: 150},
    'GR': {_LR: 3e-4, f'{_OWN}focus': 0.5, f'{_OWN}spread': 8.0},
    'GR_estimate': {_LR: 1e-3, f'{_OWN}warmup_steps': 300},
  },
  ('tarrl', 'digits'): {
    'SimCLR': {_LR: 1e-2, f'{_OWN}temperature': 0.5},
    'TARRL': {_LR: 1e-2, f'{_OWN}strength': 2.0},
    'TARRL_free': {_LR: 1e-2, f'{_OWN}strength': 0.5},
    'ACL': {_LR: 1e-2, f'{_OWN}temperature': 0.5},
    'RoCL': {_LR: 1e-2, f'{_OWN}temperature': 0.5},
    'DeACL': {_LR: 1e-2, f'{_OWN}beta': 2.0},
    'supervised_AT': {
      _LR: 1e-2,
      f'{_OWN}clean_weight': 0.0,
      'total_steps': 2192,
      'ckpt_steps': 2192,
    },
  },
  ('tarrl', 'fashion_mnist'): {
    'SimCLR': {_LR: 3e-3, f'{_OWN}temperature': 0.5},
    'TARRL': {_LR: 3e-3, f'{_OWN}strength': 8.0},
    'TARRL_free': {_LR: 3e-3, f'{_OWN}strength': 2.0},
    'ACL': {_LR: 3e-3, f'{_OWN}temperature': 0.2},
    'RoCL': {_LR: 3e-3, f'{_OWN}temperature': 0.5},
    'DeACL': {_LR: 3e-3, f'{_OWN}beta': 8.0},
    'supervised_AT': {
      _LR: 3e-3,
      f'{_OWN}clean_weight': 0.5,
      'total_steps': 1187,
      'ckpt_steps': 1187,
    },
  },
  ('thanos', 'digits'): {
    'CE': {_LR: 3e-3, _DECAY: 0.0},
    'SupCon_one_positive': {_LR: 3e-3, _DECAY: 1e-3},
    'SupCon_all': {_LR: 3e-3, _DECAY: 0.0},
    'SupCon_InfoNCE': {_LR: 3e-3, _DECAY: 1e-3},
    'autoencoder': {_LR: 3e-3, _DECAY: 0.0},
    'spread': {_LR: 3e-3, _DECAY: 0.0},
    'Thanos': {_LR: 3e-3, _DECAY: 0.0},
  },
  ('thanos', 'fashion_mnist'): dict.fromkeys(
    thanos.METHODS, {_LR: 3e-3, _DECAY: 0.0}
  ),
}


def get_config(arg: str | None = None):
  """Returns the config; see the file's docstring for ``arg``."""
  args = common.parse_arg(
    arg,
    study=common.Choice(tuple(STUDIES)),
    data=common.Choice(DATA_SETS),
    num_seeds=5,
  )
  config = STUDIES[args.study].get_config(args.data)
  study = config.study
  for name, point in CHOSEN[args.study, args.data].items():
    method = study.methods[name]
    if args.study == 'gr':
      noise = study.conditions[NOISE]
      for who in ('all', name):
        method.update_from_flattened_dict(dict(noise.get(who, ())))
    method.update_from_flattened_dict(point)
  study.grids = dict.fromkeys(study.methods, ())
  study.conditions = {
    dtype: {'all': (('model.kw.dtype', dtype),)} for dtype in DTYPES
  }
  study.same_order = DTYPES[0]
  study.seeds = tuple(range(args.num_seeds))
  if 'cross_attack' in study:  # That of the study in float32 stands.
    del study.cross_attack
  return config
