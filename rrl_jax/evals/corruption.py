"""Accuracy under the common corruptions, and what would have foretold it."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
import scipy.special

from rrl_jax import corruptions, indicators
from rrl_jax.data import augment
from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.prediction import NONE, predicted
from rrl_jax.evals.task import EvalData, choose

_KNOWN = corruptions.NAMES + corruptions.EXTRA_NAMES
_TABLES = {'cifar10_c': 'CIFAR-10-C', 'imagenet_c': 'ImageNet-C'}
_PICTURED_SIDE = 64  # Above, examples are kept at one severity.
# Top-1 error of the AlexNet that normalises errors on ImageNet-C.
_ALEXNET_CLEAN_ERROR = 0.4348
# Name -> (what it is, whether it estimates an accuracy).
_ESTIMATES = {
  'average_thresholded_confidence': (
    'share of corrupted images whose negative entropy reaches the threshold'
    ' below which as many clean images lie as are wrong (ATC)',
    True,
  ),
  'difference_of_confidences': (
    'clean accuracy plus the change in mean confidence (DoC)',
    True,
  ),
  'nuclear_norm': ('nuclear norm of the softmax matrix over its bound', False),
  'mano': ('entrywise 4-norm of normalised logits (MaNo)', False),
  'dispersion': (
    'log variance between the feature means of predicted classes',
    False,
  ),
  'frechet_distance': (
    'squared Fréchet distance of corrupted features from clean ones',
    False,
  ),
}


def _some_of(known):
  """Whether a value is a sequence of different ones of ``known``."""
  return lambda v: (
    not isinstance(v, str)
    and 0 < len(v) == len(set(v))
    and all(not isinstance(one, bool) and one in known for one in v)
  )


RULES = {
  'names': (
    lambda v: v is None or _some_of(_KNOWN)(v),
    f'None or different ones of {", ".join(_KNOWN)}',
  ),
  'severities': (_some_of((1, 2, 3, 4, 5)), 'different ones of 1, 2, 3, 4, 5'),
  'table': (lambda v: v in _TABLES, f'one of {", ".join(_TABLES)}'),
  'num_examples': rules.COUNT,
  'seed': rules.COUNT,
  'published': (lambda v: isinstance(v, str), 'a folder, or empty'),
  'cache': (lambda v: isinstance(v, str), 'a folder, or empty'),
  'estimates': (lambda v: isinstance(v, bool), 'true or false'),
  'resamples': rules.COUNT,
}


def check_test(
  test: Source,
  *,
  names: Sequence[str] | None = None,
  severities: Sequence[int] = (1, 2, 3, 4, 5),
  published: str = '',
  **kw,
) -> None:
  """Looks whether a test split can be corrupted, or is that of a folder.

  Args:
    test: The test split.
    names: As of `evaluate`.
    severities: As of `evaluate`.
    published: As of `evaluate`.
    **kw: The other arguments of `evaluate`.

  Raises:
    ConfigError: Images of other than 1 or 3 channels.
    DataError: The folder lacks a file or holds another set.
  """
  del kw
  if published:
    for name in corruptions.NAMES if names is None else names:
      _published(test, published, name, severities[0])
    return
  channels = test.image_shape[-1]
  if channels not in (1, 3):
    raise ConfigError(
      f'evals.corruption: images of {channels} channels; corruptions are those'
      ' of 1 or 3'
    )


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  names: Sequence[str] | None = None,
  severities: Sequence[int] = (1, 2, 3, 4, 5),
  table: str = 'cifar10_c',
  num_examples: int = 0,
  seed: int = 0,
  published: str = '',
  cache: str = '',
  estimates: bool = True,
  resamples: int = 200,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  r"""Accuracy under every corruption c at every severity s.

  Which images are corrupted and how follows from ``seed`` and the test split,
  not from the run: all models meet the same corrupted images, and an image is
  corrupted alike in a smaller choice. With A the accuracies,

  .. math::
    \text{mean\_accuracy} = \frac{1}{|C||S|} \sum_{c,s} A_{c,s}

  As the same images appear in every cell, cells are not independent: what has
  an interval is a mean over images, see `measurement.bounded_mean`.

  Args:
    encoder: What is evaluated.
    data: ``test`` is corrupted.
    key: Not used.
    names: Corruptions; None for the 15 of the benchmark.
    severities: Some of 1 to 5.
    table: Whose constants: ``'cifar10_c'`` or ``'imagenet_c'``.
    num_examples: Test images used; 0 for all.
    seed: Chooses the images and draws the corruptions.
    published: A folder of the published files (``fog.npy``, ..., and
      ``labels.npy``) that belong to this test split, read in place of
      corrupting; '' corrupts.
    cache: A folder that keeps the corrupted images for the next model; '' keeps
      none.
    estimates: Whether to ask what needs no labels of the corrupted images.
    resamples: 0 leaves the intervals of means out. They are in closed form, so
      that other numbers are all alike.

  Yields:
    ``corruption/mean_accuracy``, ``corruption/clean_accuracy`` on the same
    images, ``corruption/relative_accuracy`` (their ratio),
    ``corruption/accuracy_drop``, ``corruption/mean_error``,
    ``corruption/mean_corruption_error`` and
    ``corruption/relative_mean_corruption_error``, over AlexNet's with the
    table imagenet_c, all 5 severities and no more than the 15 corruptions,
    plain otherwise; ``corruption/<name>/accuracy`` (mean over severities),
    ``corruption/<name>/accuracy/<severity>``;
    ``shifted/<estimate>``, the mean over all cells, and
    ``shifted/<estimate>_mean_absolute_error`` of those that estimate an
    accuracy; as figures ``figure/corruption_names [C]``, ``_severities [S]``,
    ``_accuracy [C, S]``, ``_predictions [C, S, N]``, ``_labels [N]``,
    ``_index [N]`` (places in the test split), ``_examples [C, S', H, W, ch]``
    of one image, ``figure/clean_predictions [N]``, ``figure/shifted_names
    [E]`` and ``figure/shifted [E, C, S]``.

  Raises:
    ConfigError: A value is out of range.
    DataError: Published files that do not belong to the test split.

  References:
    Hendrycks and Dietterich, `Benchmarking neural network robustness to common
    corruptions and perturbations <https://arxiv.org/abs/1903.12261>`_, 2019.

  .. note::
    Corrupted images are cut to bytes, as the published ones are. Only these
    give numbers to be compared with published ones. Images with a side below
    16 pixels are enlarged first, see `corruptions.corrupted_sets`.
  """
  del key
  names = corruptions.NAMES if names is None else tuple(names)
  severities = tuple(severities)
  rules.check(
    'corruption',
    RULES,
    {
      'names': names,
      'severities': severities,
      'table': table,
      'num_examples': num_examples,
      'seed': seed,
      'published': published,
      'cache': cache,
      'estimates': estimates,
      'resamples': resamples,
    },
  )
  test = data.test
  check_test(test, names=names, severities=severities, published=published)
  draw, rest_draw = jax.random.split(jax.random.key(seed))
  chosen = choose(draw, len(test), num_examples)
  images = np.asarray(test.images[chosen])
  labels = test.labels[chosen]
  logits, features = encoder.predict(test.images)
  clean = predicted(logits[chosen])
  sets = (
    _read(test, published, names, severities, chosen)
    if published
    else corruptions.corrupted_sets(
      images,
      names=names,
      severities=severities,
      table=table,
      seed=seed,
      example_ids=chosen,
      cache=cache,
    )
  )
  source_rows, source_words = _source(chosen, len(test), rest_draw)
  source = logits[source_rows], features[source_rows], test.labels[source_rows]

  cells = len(names), len(severities)
  predictions = np.zeros((*cells, len(chosen)), np.int64)
  found = np.full((len(_ESTIMATES), *cells), np.nan)
  shown = int(np.argmax(clean == labels))  # The first that is right.
  kept = range(cells[1])
  if max(test.image_shape[:2]) > _PICTURED_SIDE:
    kept = [cells[1] // 2]
  examples = np.zeros((cells[0], len(kept), *test.image_shape), np.uint8)
  for cell, (_, _, corrupted) in zip(np.ndindex(cells), sets, strict=True):
    cell_logits, cell_features = encoder.encode(corrupted)
    predictions[cell] = predicted(cell_logits)
    if cell[1] in kept:
      examples[cell[0], list(kept).index(cell[1])] = corrupted[shown]
    if estimates:
      found[(slice(None), *cell)] = _estimate(
        source, cell_logits, cell_features
      )

  right = predictions == labels
  by = f'{_TABLES[table]} constants, seed {seed}, cut to bytes'
  factor = corruptions.enlargement(images.shape)
  if factor > 1:
    by += f', enlarged {factor} times and averaged back'
  if published:
    by = 'published files'
  yield from _accuracies(
    right, clean == labels, names, severities, table, by, published, resamples
  )
  if estimates:
    yield from _estimates(found, right.mean(axis=-1), source_words)
    yield 'figure/shifted_names', np.array(list(_ESTIMATES))
    yield 'figure/shifted', found

  small = np.int16 if logits.shape[1] < 2**15 else np.int32
  yield 'figure/corruption_names', np.array(names)
  yield 'figure/corruption_severities', np.array(severities)
  yield 'figure/corruption_accuracy', right.mean(axis=-1)
  yield 'figure/corruption_predictions', predictions.astype(small)
  yield 'figure/clean_predictions', clean.astype(small)
  yield 'figure/corruption_labels', labels
  yield 'figure/corruption_index', chosen
  yield 'figure/corruption_examples', examples
  yield (
    'figure/corruption_example_severities',
    np.array([severities[k] for k in kept]),
  )
  one = np.asarray(augment.to_float(images[shown]))
  yield 'figure/corruption_example_clean', np.round(255 * one).astype(np.uint8)
  yield (
    'figure/corruption_example_class',
    np.array(test.class_names[labels[shown]]),
  )


def _accuracies(
  right, clean, names, severities, table, by, published, resamples
):
  """Accuracies and errors of cells ``[C, S, N]``, and of clean images [N]."""
  images = right.mean(axis=(0, 1))  # Share of the cells where each is right.
  plural = 's' if len(names) > 1 else ''
  cells = (
    f'mean over {len(names)} corruption{plural} and severities '
    + ', '.join(map(str, severities))
  )
  on = f'test images under common corruptions ({by}), top-1, {cells}'
  over = 'the same images in every cell'

  def mean(values, protocol, bounds=(0.0, 1.0)):
    return shown(measurement.bounded_mean(values, protocol, bounds=bounds))

  def shown(measured):
    if resamples:
      return measured
    return measured._replace(low=np.nan, high=np.nan)

  yield 'corruption/mean_accuracy', mean(images, f'{on}, {over}')
  yield (
    'corruption/clean_accuracy',
    measurement.proportion(
      clean.sum(), clean.size, 'the same test images without corruption, top-1'
    ),
  )
  if clean.any():
    yield (
      'corruption/relative_accuracy',
      shown(
        measurement.ratio_of_means(
          images,
          clean,
          f'{on}, over the accuracy on the same images without, {over}',
        )
      ),
    )
  yield (
    'corruption/accuracy_drop',
    mean(
      clean - images,
      f'accuracy without corruption less that under: {on}, {over}',
      (-1.0, 1.0),
    ),
  )
  yield (
    'corruption/mean_error',
    mean(1 - images, f'error: {on}, {over}'),
  )
  yield from _corruption_errors(
    right, clean, names, severities, table, published, f'{on}, {over}', mean
  )
  for name, of_name in zip(names, right, strict=True):
    yield (
      f'corruption/{name}/accuracy',
      mean(
        of_name.mean(axis=0),
        f'test images under {name} ({by}), top-1, mean over severities'
        f' {", ".join(map(str, severities))}, {over}',
      ),
    )
    for severity, cell in zip(severities, of_name, strict=True):
      yield (
        f'corruption/{name}/accuracy/{severity}',
        measurement.proportion(
          cell.sum(),
          cell.size,
          f'test images under {name} at severity {severity} ({by}), top-1',
        ),
      )


def _corruption_errors(
  right, clean, names, severities, table, published, on, mean
):
  """MCE and relative mCE, over AlexNet's where these belong to the cells."""
  errors = dict(zip(names, 1 - right.mean(axis=(1, 2)), strict=True))
  clean_error = 1 - clean.mean()
  normalised = (
    table == 'imagenet_c'
    and not published
    and set(names) <= set(corruptions.NAMES)
    and len(severities) == 5
  )
  if not normalised:
    images = right.mean(axis=(0, 1))
    yield (
      'corruption/mean_corruption_error',
      mean(
        1 - images,
        f'plain mean error, not over that of another network: {on}',
      ),
    )
    yield (
      'corruption/relative_mean_corruption_error',
      mean(
        clean - images,
        f'plain mean error less the clean error: {on}',
        (-1.0, 1.0),
      ),
    )
    return
  base = {name: corruptions.ALEXNET_ERRORS[name] for name in names}
  # Both are means over images too: of weighted sums of their errors.
  wrong = 1 - right.mean(axis=1).T  # [N, C]
  weights = 1 / np.array(list(base.values())) / len(names)
  over = "over AlexNet's on ImageNet-C"
  found = mean(
    wrong @ weights,
    f'error of each corruption {over}: {on}',
    (0.0, weights.sum()),
  )
  yield (
    'corruption/mean_corruption_error',
    found._replace(value=corruptions.mean_corruption_error(errors, base)),
  )
  weights = 1 / (np.array(list(base.values())) - _ALEXNET_CLEAN_ERROR)
  weights /= len(names)
  found = mean(
    (wrong - (1 - clean)[:, None]) @ weights,
    f'error of each corruption less the clean error, {over} ('
    f'{_ALEXNET_CLEAN_ERROR:g} clean): {on}',
    (-weights.sum(), weights.sum()),
  )
  yield (
    'corruption/relative_mean_corruption_error',
    found._replace(
      value=corruptions.relative_mean_corruption_error(
        errors, clean_error, base, _ALEXNET_CLEAN_ERROR
      )
    ),
  )


def _source(chosen, size, key):
  """Rows of clean test images that estimates may see the labels of."""
  rest = np.setdiff1d(np.arange(size), chosen)
  if len(rest) >= len(chosen):
    rows = rest[choose(key, len(rest), len(chosen))]
    return rows, f'{len(rows)} other test images, clean and labelled'
  return chosen, f'the same {len(chosen)} test images, clean and labelled'


def _estimate(source, logits, features):
  """Each of `_ESTIMATES` for one cell; NaN where it is not defined."""
  source_logits, source_features, labels = source
  softmax = lambda x: scipy.special.softmax(x.astype(np.float64), axis=-1)
  before, after = softmax(source_logits), softmax(logits)
  classes = predicted(logits)
  known = classes != NONE
  given = {
    'average_thresholded_confidence': (before, labels, after),
    'difference_of_confidences': (before, labels, after),
    'nuclear_norm': (after,),
    'mano': (logits,),
    'dispersion': (features[known], classes[known]),
    'frechet_distance': (source_features, features),
  }
  values = []
  for name in _ESTIMATES:
    try:
      values.append(getattr(indicators, name)(*given[name]))
    except DataError:  # One predicted class, say.
      values.append(np.nan)
  return values


def _estimates(found, accuracy, source):
  """Means over cells of what was found, ``[E, C, S]``; no intervals."""
  nothing = (np.nan, np.nan)
  for (name, (what, estimates_accuracy)), values in zip(
    _ESTIMATES.items(), found, strict=True
  ):
    there = np.isfinite(values)
    if not there.any():
      continue
    on = (
      f'mean over {there.sum()} of {there.size} sets of corrupted images'
      f' without their labels, beside {source}; no interval.'
    )
    yield (
      f'shifted/{name}',
      Measurement(
        float(values[there].mean()),
        *nothing,
        f'{what[:1].upper()}{what[1:]}; {on}',
      ),
    )
    if estimates_accuracy:
      error = np.abs(values - accuracy)[there].mean()
      yield (
        f'shifted/{name}_mean_absolute_error',
        Measurement(
          float(error),
          *nothing,
          f'How far from the true accuracy of each set is the {what}; {on}',
        ),
      )


def _read(test, folder, names, severities, chosen):
  """The chosen images of each published set."""
  for name in names:
    for severity in severities:
      images = _published(test, folder, name, severity)
      yield name, severity, images[chosen]


def _published(test, folder, name, severity):
  """Images of one published set, if it is the test split's."""
  images, labels = corruptions.read_published(folder, name, severity=severity)
  if images.shape != (len(test), *test.image_shape):
    raise DataError(
      f'evals.corruption.published={folder}: {name}.npy has images of shape'
      f' {images.shape} a severity, the test split {tuple(test.images.shape)}'
    )
  differ = np.flatnonzero(labels != test.labels)
  if len(differ):
    raise DataError(
      f'evals.corruption.published={folder}: labels.npy differs from the test'
      f' split in {len(differ)} of {len(labels)} labels, first in row'
      f' {differ[0]}'
    )
  return images
