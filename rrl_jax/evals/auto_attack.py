"""Accuracy under AutoAttack, of the network itself or of linear probes."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from rrl_jax import attacks as attacks_lib
from rrl_jax.data import augment
from rrl_jax.data.source import Source
from rrl_jax.evals import (
  linear_head,
  measurement,
  pgd,
  rules,
  transfer,
)
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import (
  EvalData,
  choose,
  choose_test,
)

HEADS = ('own', 'linear_probe')
VERSIONS = ('standard', 'plus', 'rand')
ATTACKS = ('apgd-ce', 'apgd-dlr', 'apgd-t', 'fab', 'fab-t', 'square')
RULES = {
  **{name: pgd.RULES[name] for name in ('epsilon', 'norm', 'num_examples')},
  **{name: transfer.RULES[name] for name in ('l2', 'tol', 'num_train')},
  'head': (lambda v: v in HEADS, 'own or linear_probe'),
  'version': (lambda v: v in VERSIONS, 'one of ' + ', '.join(VERSIONS)),
  'attacks': (
    lambda v: (
      v is None
      or (
        len(v) > 0
        and not isinstance(v, str)
        and set(v) <= set(ATTACKS)
        and len(set(v)) == len(v)
      )
    ),
    'None or a list out of ' + ', '.join(ATTACKS) + ', each once',
  ),
  'num_steps': rules.POSITIVE_COUNT,
  'num_queries': rules.POSITIVE_COUNT,
  'batch_size': (
    lambda v: v is None or rules.POSITIVE_COUNT[0](v),
    'None or a whole number, at least 1',
  ),
}
FITS_HEADS = lambda kw: kw.get('head') == 'linear_probe'  # On each target task.


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  epsilon: float = 8 / 255,
  norm: str = 'linf',
  version: str = 'standard',
  head: str = 'own',
  num_examples: int = 1000,
  batch_size: int | None = None,
  attacks: Sequence[str] | None = None,
  num_steps: int = 100,
  num_queries: int = 5000,
  l2: float = 1e-4,
  tol: float = 1e-5,
  num_train: int = 10_000,
) -> Iterator[tuple[str, Measurement]]:
  """Attacks held-out images by an ensemble of attacks, end to end.

  An example counts as right if it is right as it is and after each attack, see
  `attacks.auto_attack`. With few classes there are fewer targets, and where the
  targeted loss is not defined (below four classes) the difference of logits
  takes its place; the protocol says so. Each task has programs of its own:
  they hold its head as constants.

  Args:
    encoder: What is evaluated; it stays frozen.
    data: ``test`` is attacked, or with linear probes the test images of each
      of ``tasks``.
    key: Of the attacks' randomness, which belongs to an example and not to its
      batch, and of the choice of examples of ``test``.
    epsilon: Radius of the ball, in units of images in [0, 1].
    norm: linf, l2 or l1.
    version: standard, plus or rand.
    head: ``own`` attacks the network's own classifier, ``linear_probe`` the
      probe of `transfer` on frozen features.
    num_examples: Test examples attacked, of a task see `choose_test`; 0 for
      all.
    batch_size: Examples in a batch; None takes the encoder's.
    attacks: Names of attacks instead of the version's.
    num_steps: Steps of each gradient attack.
    num_queries: Queries of Square.
    l2: Penalty of the linear probe, see `linear_probe.fit`.
    tol: Gradient tolerance of the linear probe.
    num_train: Training examples of each probe, see `choose_training`; 0 for
      all.

  Yields:
    ``robust/auto_attack_accuracy``; with linear probes, that is the mean over
    tasks, after ``transfer/<task>/linear_probe_auto_attack_accuracy`` and
    ``transfer/linear_probe_auto_attack_accuracy``, the same mean. Nothing
    with linear probes and no task.

  Raises:
    ConfigError: A value is out of range, or a task has one class only.

  References:
    Croce and Hein, `Reliable evaluation of adversarial robustness with an
    ensemble of diverse parameter-free attacks
    <https://arxiv.org/abs/2003.01690>`_, 2020.
  """
  values = {
    'epsilon': epsilon,
    'norm': norm,
    'version': version,
    'head': head,
    'num_examples': num_examples,
    'batch_size': batch_size,
    'attacks': attacks,
    'num_steps': num_steps,
    'num_queries': num_queries,
    'l2': l2,
    'tol': tol,
    'num_train': num_train,
  }
  rules.check('auto_attack', RULES, values)
  choice_key, attack_key = jax.random.split(key)
  kw = {
    'epsilon': epsilon,
    'norm': norm,
    'version': version,
    'attacks': attacks,
    'num_steps': num_steps,
    'num_queries': num_queries,
    'batch_size': batch_size,
  }
  if head == 'own':
    ids = choose(choice_key, len(data.test), num_examples)
    yield (
      'robust/auto_attack_accuracy',
      measure(
        encoder,
        data.test,
        ids,
        attack_key,
        "test images, the network's own classifier",
        **kw,
      ),
    )
    return
  fitted = linear_head.training_examples('auto_attack', data.tasks, num_train)
  probed = linear_head.classifier(encoder)
  found = []
  for task, chosen in zip(data.tasks, fitted, strict=True):
    probe = linear_head.fit(
      encoder.predict(task.train.images)[1][chosen],
      task.train.labels[chosen],
      task.train.num_classes,
      l2,
      tol,
    )
    found.append(
      measure(
        probed.with_variables((encoder.variables, probe.w, probe.b)),
        task.test,
        choose_test(task, num_examples),
        attack_key,
        f'test images of task {task.name}, {probe.how} on {len(chosen)} '
        'frozen features',
        **kw,
      )
    )
    yield f'transfer/{task.name}/linear_probe_auto_attack_accuracy', found[-1]
  if found:
    mean = measurement.mean(
      found,
      f'linear probes on frozen features, test images attacked by '
      f'{_words(**kw)}',
    )
    yield 'transfer/linear_probe_auto_attack_accuracy', mean
    yield 'robust/auto_attack_accuracy', mean


def measure(
  classifier: Encoder,
  source: Source,
  ids: np.ndarray,
  key: jax.Array,
  on: str,
  *,
  epsilon: float,
  norm: str,
  version: str = 'standard',
  attacks: Sequence[str] | None = None,
  num_steps: int = 100,
  num_queries: int = 5000,
  batch_size: int | None = None,
) -> Measurement:
  """Accuracy of one classifier under AutoAttack.

  Args:
    classifier: Gives the logits.
    source: Images to choose from.
    ids: Those that are attacked, ``[n]``; they key the randomness.
    key: Of all randomness.
    on: Which images, classified by what, for the protocol.
    epsilon: Radius, as all that follows see `evaluate`.
    norm: Of the ball.
    version: Of AutoAttack.
    attacks: Instead of the version's.
    num_steps: Of gradient attacks.
    num_queries: Of Square.
    batch_size: None takes the classifier's.

  Returns:
    The share that is right before and after all attacks; the protocol tells
    how many each attack broke.
  """
  chosen = source.take(ids)
  images = np.asarray(
    augment.to_float(np.asarray(chosen.images[np.arange(len(ids))]))
  )
  # Processes each do the whole: the driver reads results on its host.
  alone = jax.process_count() > 1
  variables = classifier.variables
  if alone:
    variables = jax.device_get(variables)
  result = attacks_lib.auto_attack(
    lambda x: classifier.apply(variables, x)[0],
    key,
    images,
    chosen.labels,
    epsilon=epsilon,
    norm=norm,
    version=version if attacks is None else 'custom',
    attacks=attacks,
    batch_size=batch_size or classifier.batch_size,
    num_steps=num_steps,
    num_queries=num_queries,
    example_ids=ids,
    mesh=None if alone else classifier.mesh,
  )
  left = [int(right.sum()) for right in result.by_attack.values()]
  broken = ', '.join(
    f'{name} {before - after}'
    for name, before, after in zip(
      list(result.by_attack)[1:], left, left[1:], strict=False
    )
  )
  words = _words(
    epsilon=epsilon,
    norm=norm,
    version=version,
    attacks=attacks,
    num_steps=num_steps,
    num_queries=num_queries,
  )
  clean = result.by_attack['clean'].mean()
  notes = ''.join(f'; {note}' for note in result.notes)
  return measurement.proportion(
    result.robust.sum(),
    len(ids),
    f'{on}, attacked end to end by {words}, right before and after all attacks '
    f'(clean accuracy of the same images {clean:.4f}; broken one after the '
    f'other by {broken}{notes})',
  )


def _words(
  *, epsilon, norm, version, attacks, num_steps, num_queries, batch_size=None
):
  """The attack in words, without what did not run."""
  what = f'AutoAttack {version}'
  if attacks is not None:
    what = f'{", ".join(attacks)} of AutoAttack'
  words = [what, f'{norm} radius {epsilon:.6g} on images in [0, 1]']
  if attacks is None or set(attacks) != {'square'}:
    words.append(f'{num_steps} steps of a gradient attack')
  if version != 'rand' if attacks is None else 'square' in attacks:
    words.append(f'{num_queries} queries of Square')
  return ', '.join(words)
