"""A run's folder as a trainer leaves it, with made-up contents."""

import json

import numpy as np

CLASSES = ('T-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal')
CONCEPTS = ('clothes', 'dresses', 'shoes & more')


def write(folder, *, classes=CLASSES, concepts=CONCEPTS, side=14, channels=1):
  """Writes the files that a report reads."""
  rng = np.random.default_rng(0)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(
    json.dumps(
      {
        'job': 'train',
        'seed': 0,
        'batch_size': 128,
        'total_epochs': 20,
        'data': {
          'name': 'fashion_mnist',
          'kw': {},
          'concepts': 'clothes=0,2,4 dresses=1,3 shoes=5',
          'imbalance': '1.0,0.25,0.08',
        },
        'model': {'name': 'mlp', 'kw': {'widths': [256, 256]}},
        'objective': {
          'name': 'hro',
          'kw': {'inner': 'wrm', 'gamma': 1.0, 'divergence': 'kl', 'tau': 0.1},
        },
        'optim': {'name': 'sgd', 'lr': 0.05, 'schedule': 'cosine'},
      }
    )
  )
  steps = np.arange(20, 1020, 20)
  weights = np.exp(np.cumsum(rng.normal(0, 0.06, (50, len(concepts))), axis=0))
  weights /= weights.sum(axis=1, keepdims=True)
  with (folder / 'metrics.jsonl').open('w') as lines:
    for i, step in enumerate(steps):
      fall = np.exp(-step / 250)
      line = {
        'step': int(step),
        'time': float(i),
        'train/loss': 0.2 + 1.9 * fall + 0.05 * rng.random(),
        'train/accuracy': 0.93 - 0.75 * fall + 0.02 * rng.random(),
        'train/images_per_sec': 18_000 + 900 * rng.random(),
        'train/learning_rate': 0.025 * (1 + np.cos(np.pi * step / 1000)),
        'train/grad_norm': 1.5 * fall + 0.3 * rng.random(),
        'train/transport_cost': 0.1 + 0.02 * rng.random(),
      }
      for k, concept in enumerate(concepts):
        line[f'train/concept_weight/{concept}'] = weights[i, k]
        line[f'train/concept_risk/{concept}'] = (0.2 + 0.1 * k) + fall
      lines.write(json.dumps(line) + '\n')
  numbers = {
    'test/accuracy': 0.91,
    'test/worst_concept_accuracy': 0.78,
    'test/noise_accuracy': 0.83,
    'test/blur_accuracy': 0.86,
    'test/low_resolution_accuracy': 0.84,
    'test/balanced_concept_accuracy': 0.87,
    'test/reversed_mix_accuracy': 0.82,
    'test/worst_mix_accuracy': 0.8,
    'test/pgd20_accuracy': 0.41,
    'train/accuracy': 0.95,
    'transfer/digits/linear_probe_accuracy': 0.88,
    'transfer/digits/svm_accuracy': 0.87,
    'transfer/digits/knn_accuracy': 0.85,
    'transfer/linear_probe_accuracy': 0.88,
    'transfer/svm_accuracy': 0.87,
    'transfer/knn_accuracy': 0.85,
  }
  for k, concept in enumerate(concepts):
    numbers[f'test/accuracy/{concept}'] = 0.95 - 0.17 * k / len(concepts)
  results, protocols = {'step': 1000}, {'config': 'abc'}
  for name, value in numbers.items():
    results |= {
      name: value,
      f'{name}.low': value - 0.021,
      f'{name}.high': value + 0.019,
    }
    protocols[name] = (
      'Gaussian noise of sigma 0.25 on test images in [0, 1], clipped to '
      'them, one draw an example, top-1; n=2000, 95% Wilson interval.'
    )
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'protocols.json').write_text(json.dumps(protocols))
  clean = rng.random((6, side, side, channels)).astype(np.float32)
  grid = np.linspace(-1, 1, side)
  for i in range(6):
    blob = np.exp(-6 * (grid[:, None] ** 2 + (grid - 0.2 * i + 0.5) ** 2))
    clean[i] = 0.15 * clean[i] + 0.8 * blob[:, :, None]
  adv = clean + 0.06 * np.sign(rng.normal(size=clean.shape))
  labels = np.arange(6) % len(classes)
  map_labels = rng.integers(0, len(classes), 800)
  centres = rng.normal(0, 3, (len(classes), 2))
  np.savez_compressed(
    folder / 'figures.npz',
    **{
      'figure/examples_clean': clean,
      'figure/examples_adv': np.clip(adv, 0, 1).astype(np.float32),
      'figure/examples_labels': labels,
      'figure/examples_clean_preds': labels,
      'figure/examples_adv_preds': (labels + 1) % len(classes),
      'figure/examples_class_names': np.array(classes),
      'figure/map': centres[map_labels] + rng.normal(0, 0.9, (800, 2)),
      'figure/map_labels': map_labels,
      'figure/map_class_names': np.array(classes),
      'figure/map_explained': np.array([0.41, 0.22]),
      'figure/concept_names': np.array(concepts),
      'figure/concept_train_counts': 6000 // (1 + np.arange(len(concepts))),
    },
  )
  return folder


def write_noise(folder, *, classes=CLASSES, side=8, channels=1):
  """Adds what a run on wrong labels has, one in five examples abnormal."""
  rng = np.random.default_rng(1)
  with (folder / 'metrics.jsonl').open('a') as lines:
    for step in range(100, 1100, 100):
      rise = step / 1000
      line = {
        'step': step,
        'fit/clean_accuracy': 0.8 + 0.1 * rise,
        'fit/flipped_accuracy': 0.3 * rise,
        'fit/flipped_true_accuracy': 0.9 - 0.4 * rise,
        'fit/abnormal_accuracy': 0.2 * rise,
        'mass/clean': 0.7 - 0.3 * rise,
        'mass/flipped': 0.2 + 0.2 * rise,
        'mass/abnormal': 0.1 + 0.1 * rise,
        'test/accuracy': 0.9 - (rise - 0.3) ** 2,
        'train/focus': 0.5,
        'train/spread': 8.0,
      }
      lines.write(json.dumps(line) + '\n')
  numbers = {
    'test/best_accuracy': (0.9, 0.88, 0.92),
    'test/calibration_error': (0.06, 0.04, 0.08),
    'test/log_loss': (0.7, 0.5, 0.9),
    'noise/flipped_rate': (0.3, 0.3, 0.3),
    'noise/abnormal_rate': (0.2, 0.2, 0.2),
    'noise/estimated_rate': (0.468, 0.468, 0.468),
    'noise/estimate_error': (-0.032, -0.032, -0.032),
    'fit/clean_accuracy': (0.9, 0.88, 0.92),
    'fit/flipped_accuracy': (0.3, 0.28, 0.32),
    'fit/flipped_true_accuracy': (0.5, 0.4, 0.6),
    'fit/abnormal_accuracy': (0.2, 0.1, 0.3),
    'detect/flipped_loss_auroc': (0.97, 0.96, 0.98),
    'detect/flipped_weight_average_precision': (0.5, 0.4, 0.6),
    'mass/clean': (0.4, None, None),
  }
  results = json.loads((folder / 'results.json').read_text())
  protocols = json.loads((folder / 'protocols.json').read_text())
  for name, (value, low, high) in numbers.items():
    results[name] = value
    if low is not None:
      results |= {f'{name}.low': low, f'{name}.high': high}
    protocols[name] = 'Counted; exact.' if low == high else 'Some examples.'
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'protocols.json').write_text(json.dumps(protocols))
  group = np.repeat([0, 1, 2], [250, 150, 100])
  p = np.clip(rng.beta(4, 2, 500) - 0.3 * group, 0, 1).astype(np.float32)
  count = np.array([0, 2, 10, 20, 68])
  with np.load(folder / 'figures.npz') as found:
    arrays = dict(found)
  np.savez_compressed(
    folder / 'figures.npz',
    **arrays,
    **{
      'figure/label_probability': p,
      'figure/label_group': group,
      'figure/label_weight': np.exp(8 * np.sqrt(p) * (1 - p)),
      'figure/suspicious_images': rng.integers(
        0, 256, (6, side, side, channels), np.uint8
      ),
      'figure/suspicious_given': np.arange(6, dtype=np.int32),
      'figure/suspicious_predicted': (np.arange(6) + 1) % 6,
      'figure/suspicious_true': np.array([1, -1, 3, 4, 4, -1]),
      'figure/suspicious_probability': np.array(
        [0, 1e-60, 1e-9, 0.1, 0.2, 0.3]
      ),
      'figure/class_names': np.array(classes),
      'figure/calibration_count': count,
      'figure/calibration_right': 0.5 * count,
      'figure/calibration_confidence': count * [0.1, 0.3, 0.5, 0.7, 0.9],
    },
  )
  return folder


def write_probes(folder, *, tasks=('seen', 'unseen'), classes=CLASSES):
  """Adds what a run has whose target tasks were attacked."""
  rng = np.random.default_rng(2)
  numbers = {}
  for k, task in enumerate((*tasks, '')):
    of = f'transfer/{task}/' if task else 'transfer/'
    numbers |= {
      f'{of}linear_probe_pgd20_accuracy': 0.5 + 0.01 * k,
      f'{of}linear_probe_pgd20_accuracy/epsilon=0': 0.96 + 0.01 * k,
      f'{of}linear_probe_pgd20_accuracy/epsilon=0.05': 0.8 + 0.01 * k,
      f'{of}linear_probe_accuracy': 0.95 + 0.01 * k,
      f'{of}linear_probe_auto_attack_accuracy': 0.45 + 0.01 * k,
      f'{of}adversarial_probe_accuracy': 0.91 + 0.01 * k,
      f'{of}adversarial_probe_pgd20_accuracy': 0.55 + 0.01 * k,
      f'{of}knn_accuracy': 0.87,
    }
    if task:
      numbers |= {
        f'{of}linear_probe_zero_epsilon_agreement': 1.0,
        f'bound/{task}/clean_loss': 0.2,
        f'bound/{task}/adversarial_loss': 1.2 + k,
        f'bound/{task}/feature_shift': 3.0,
        f'bound/{task}/lipschitz': 8.0,
        f'bound/{task}/bound': 24.2,
        f'bound/{task}/slack': 23.0 - k,
        f'bound/{task}/margin_certificate_rate': 0.25,
        f'bound/{task}/violations': 0.0,
        f'bound/{task}/certified_feature_shift': 90.0,
        f'bound/{task}/certified_bound': 1720.2,
        f'bound/{task}/certified_accuracy': 0.0,
      }
  results = json.loads((folder / 'results.json').read_text())
  protocols = json.loads((folder / 'protocols.json').read_text())
  for name, value in numbers.items():
    half = 0 if value in (0, 1) else 0.01
    results |= {
      name: value,
      f'{name}.low': value - half,
      f'{name}.high': value + half,
    }
    protocols[name] = f'How {name} was measured.'
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'protocols.json').write_text(json.dumps(protocols))
  with np.load(folder / 'figures.npz') as found:
    arrays = dict(found)
  clean = rng.random((3, 8, 8, 1)).astype(np.float32)
  labels = np.arange(3)
  arrays |= {
    'figure/probe_epsilon': np.array(0.1),
    'figure/probe_examples_clean': clean,
    'figure/probe_examples_adv': np.clip(clean + 0.1, 0, 1),
    'figure/probe_examples_labels': labels,
    'figure/probe_examples_clean_preds': labels,
    'figure/probe_examples_adv_preds': labels + 1,
    'figure/probe_examples_class_names': np.array(classes),
  }
  for task in tasks:
    arrays[f'figure/bound_shift/{task}'] = np.linspace(2, 4, 101)
    arrays[f'figure/bound_loss_gap/{task}'] = np.linspace(0, 8, 101)
  np.savez_compressed(folder / 'figures.npz', **arrays)
  return folder
