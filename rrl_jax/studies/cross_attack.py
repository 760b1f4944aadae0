"""Whether an order of robustness is an artefact of the attack."""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from rrl_jax import attacks, train
from rrl_jax.data import augment
from rrl_jax.evals import Encoder, auto_attack, linear_head
from rrl_jax.evals import task as task_lib
from rrl_jax.evals.attacked import cross_entropy, is_right


class Probe(NamedTuple):
  """A linear probe on a frozen encoder.

  Attributes:
    classifier: Encoder and head.
    task: What it was fitted on.
  """

  classifier: Encoder
  task: task_lib.Task


def accuracies(
  probes: Mapping[str, Probe],
  key: jax.Array,
  *,
  epsilon: float,
  norm: str,
  num_steps: int,
  num_restarts: int,
  num_examples: int,
) -> dict[str, dict[str, float]]:
  """Accuracy of each probe on images that were made to fool each of them.

  Args:
    probes: Probes of one task by name.
    key: Of the random starts.
    epsilon: Radius of the ball, in units of images in [0, 1].
    norm: linf, l2 or l1.
    num_steps: Gradient steps of PGD; a step is 2.5 epsilon / num_steps.
    num_restarts: Random starts, of which an image's worst counts.
    num_examples: Test images attacked; 0 for all.

  Returns:
    Attacked probe -> 'clean' or the probe that the images were made for ->
    share that is right on the clean images and on those.
  """
  task = next(iter(probes.values())).task
  ids = task_lib.choose_test(task, num_examples)
  source = task.test.take(ids)
  images, labels = source.images, source.labels

  def attack(apply):
    def adversarial(variables, images, labels, ids):
      return attacks.pgd(
        lambda x: cross_entropy(apply(variables, x)[0], labels),
        key,
        augment.to_float(images),
        epsilon=epsilon,
        step_size=2.5 * epsilon / num_steps,
        num_steps=num_steps,
        norm=norm,
        num_restarts=num_restarts,
        example_ids=ids,
        unroll=1 if num_steps > 20 else None,  # Compiling would take longer.
      )

    return adversarial

  moved = {
    name: probe.classifier.map_batches(
      attack(probe.classifier.apply), images, labels, ids
    )
    for name, probe in probes.items()
  }
  found = {}
  for name, probe in probes.items():
    right = {
      made_for: np.asarray(is_right(probe.classifier.predict(x)[0], labels))
      for made_for, x in ({'clean': images} | moved).items()
    }
    found[name] = {
      made_for: float(np.mean(right['clean'] & each))
      for made_for, each in right.items()
    }
  return found


def auto_attacked(
  probe: Probe,
  key: jax.Array,
  *,
  epsilon: float,
  norm: str,
  num_examples: int,
) -> float:
  """Accuracy of a probe under AutoAttack.

  Args:
    probe: The probe.
    key: Of the attacks' randomness.
    epsilon: Radius of the ball, in units of images in [0, 1].
    norm: linf, l2 or l1.
    num_examples: Test images attacked; 0 for all.
  """
  measured = auto_attack.measure(
    probe.classifier,
    probe.task.test,
    task_lib.choose_test(probe.task, num_examples),
    key,
    'test images',
    epsilon=epsilon,
    norm=norm,
  )
  return measured.value


def probe_of(
  config: Any, folder: pathlib.Path, task: str, *, l2: float, num_train: int
) -> Probe:
  """The probe of one task on the encoder of a run's last checkpoint.

  Args:
    config: The run's config.
    folder: Its folder.
    task: Name of one of its target tasks.
    l2: Penalty of the probe.
    num_train: Its training examples; 0 for all.
  """
  encoder, tasks = train.last_encoder(config, folder)
  chosen_task = next(each for each in tasks if each.name == task)
  chosen = task_lib.choose_training(chosen_task, num_train)
  head = linear_head.fit(
    encoder.predict(chosen_task.train.images)[1][chosen],
    chosen_task.train.labels[chosen],
    chosen_task.train.num_classes,
    l2,
    1e-5,
  )
  classifier = linear_head.classifier(encoder)
  return Probe(
    classifier.with_variables((encoder.variables, head.w, head.b)), chosen_task
  )


def summary(
  weak: list[dict[str, dict[str, float]]],
  strong: list[dict[str, dict[str, float]]],
  ensemble: list[dict[str, float]],
) -> dict[str, dict[str, float]]:
  """What is seen of each probe, mean over seeds.

  Args:
    weak: For each seed, `accuracies` under the attack of the table.
    strong: For each seed, those under more steps and restarts.
    ensemble: For each seed, accuracy of each probe under AutoAttack.

  Returns:
    Probe -> ``clean``, ``white_box`` (the table's attack),
    ``strong_white_box``, ``auto_attack`` and ``black_box``, the lowest under
    images made for another probe, with ``black_box_from``, whose images these
    were.
  """
  mean = lambda found, name, made_for: float(
    np.mean([seed[name][made_for] for seed in found])
  )
  rows = {}
  for name in weak[0]:
    others = {
      other: mean(strong, name, other) for other in weak[0] if other != name
    }
    worst = min(others, key=others.get)
    rows[name] = {
      'clean': mean(strong, name, 'clean'),
      'white_box': mean(weak, name, name),
      'strong_white_box': mean(strong, name, name),
      'auto_attack': float(np.mean([seed[name] for seed in ensemble])),
      'black_box': others[worst],
      'black_box_from': worst,
    }
  return rows


def to_markdown(rows: dict[str, dict[str, float]], words: str) -> str:
  """The summary as a table, the orders by each attack, and a verdict.

  Args:
    rows: From `summary`.
    words: What was attacked, and how.
  """
  columns = {
    'clean': 'clean',
    'white_box': 'PGD of the table',
    'strong_white_box': 'more steps, restarts',
    'auto_attack': 'AutoAttack',
    'black_box': 'black box',
  }
  lines = [
    f'| method | {" | ".join(columns.values())} |',
    '|---' * (len(columns) + 1) + '|',
  ]
  for name, row in rows.items():
    cells = ' | '.join(f'{row[column]:.1%}' for column in columns)
    lines.append(f'| {name} | {cells} (made for {row["black_box_from"]}) |')
  orders = {}
  for column in ('white_box', 'strong_white_box', 'auto_attack'):
    order = ' > '.join(sorted(rows, key=lambda name: -rows[name][column]))
    orders.setdefault(order, []).append(columns[column])
  beaten = [
    name
    for name, row in rows.items()
    if row['black_box'] < row['strong_white_box']
  ]
  lines += ['', words, '']
  lines += [f'* Order by {", ".join(by)}: {o}.' for o, by in orders.items()]
  lines += [
    '* Images made for another encoder fool more often than its own: '
    + (', '.join(beaten) or 'none')
    + '.',
    '',
  ]
  return '\n'.join(lines)
