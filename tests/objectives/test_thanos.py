"""Thanos is the sum of its parts, each as its equation says."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from rrl_jax import losses, objectives
from rrl_jax.errors import ConfigError
from rrl_jax.objectives import _collapse_window, _one_pair
from rrl_jax.train import sharding
from rrl_jax.typing import DataSpec
from tests.objectives import cases
from tests.tiers import first

LABELS = (0, 1, 2, 0, 1, 2, 0, 1)
ALPHA = (0.2, 0.5, 0.9)
# The parts of each row of the comparison beside cross entropy.
TERMS = {
  'ce': (),
  'supcon': ('supervised',),
  'supcon_infonce': ('supervised', 'infonce'),
  'spread': ('mixed',),
  'autoencoder': ('reconstruction',),
  'thanos': ('mixed', 'reconstruction'),
}
# Embeddings change places within their class: 0 -> 3 -> 6 -> 0, 1 -> 4 -> 7.
ORDER = np.array([3, 4, 5, 6, 7, 2, 0, 1])


def apply_fn(params, model_state, images, *, train, labels=None):
  """Linear features and decoder; what labels it saw is in the state."""
  del train
  features = images.reshape(len(images), -1) @ params['in']
  decoded = jax.nn.sigmoid(features @ params['back'])
  out = {
    'features': features,
    'embedding': features,
    'reconstruction': decoded.reshape(images.shape),
  }
  if labels is not None:
    model_state = {'labels': labels}
  return (features @ params['out'], out), model_state


def branching(params, model_state, images, *, train, labels=None):
  """Two of these side by side, as a network of two encoders has them."""
  call = functools.partial(apply_fn, train=train, labels=labels)
  (first, out), state = call(params['a'], model_state, images)
  (second, other), _ = call(params['b'], model_state, images)
  branches = jnp.stack([first, second])
  out = out | {
    'reconstruction': other['reconstruction'],
    'branch_logits': branches,
  }
  return (jnp.mean(branches, axis=0), out), state


def shuffled(params, model_state, images, *, train, labels=None):
  """Embeddings change places within their class; decoded images stay put."""
  (_, out), state = apply_fn(
    params, model_state, images, train=train, labels=labels
  )
  rows = np.concatenate([ORDER, ORDER + 8])
  features = out['features'][rows]
  decoded = jax.nn.sigmoid(features @ params['back']).reshape(images.shape)
  out = {
    'features': features,
    'embedding': features,
    'reconstruction': decoded,
  }
  return (features @ params['out'], out), state


def spec(num_classes=3, class_probs=None):
  return DataSpec(
    class_names=tuple('abcdefghijklmnopqrstuvwxyz'[:num_classes]),
    concept_names=('all',),
    concept_counts=np.array([8]),
    sampling_probs=np.array([1.0]),
    num_examples=8,
    class_probs=class_probs,
  )


def make(network=apply_fn, data=None, **kw):
  return objectives.make('thanos', network, data=data or spec(), kw=kw)


def draw_params(rng):
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {'in': draw(16, 5), 'back': draw(5, 16), 'out': draw(5, 3)}


def draw():
  """``(params, batch)``, the same ones each time."""
  rng = np.random.default_rng(0)
  params = draw_params(rng)
  views = rng.uniform(size=(8, 2, 4, 4, 1)).astype(np.float32)
  return params, {
    'image': views[:, 0],
    'views': views,
    'label': np.array(LABELS, np.int32),
    'index': np.arange(8, dtype=np.int32),
  }


@pytest.fixture
def params():
  return draw()[0]


@pytest.fixture
def batch():
  return draw()[1]


def take(objective, params, batch):
  """``(loss, gradient, model_state, metrics)`` of a step."""
  (loss, (state, _, metrics)), grads = jax.value_and_grad(
    objective, has_aux=True
  )(
    params,
    {'labels': jnp.zeros(16, jnp.int32)},
    {},
    batch,
    jax.random.key(0),
    0,
  )
  return loss, grads, state, metrics


def reference(params, batch, *, alpha, temperature):
  """The parts from their equations in float64, one anchor after the other."""
  params = {name: np.asarray(p, np.float64) for name, p in params.items()}
  views = np.asarray(batch['views'], np.float64)
  x = np.concatenate([views[:, 0], views[:, 1]]).reshape(16, -1)
  y = np.tile(LABELS, 2)
  image = np.tile(np.arange(8), 2)
  z = x @ params['in']
  unit = z / np.linalg.norm(z, axis=1, keepdims=True)
  s = unit @ unit.T / temperature
  parts = {'supervised': 0, 'class_conditional': 0, 'infonce': 0, 'mixed': 0}
  for i in range(16):
    others = [j for j in range(16) if j != i]
    positives = [j for j in others if y[j] == y[i]]
    negatives = np.exp(s[i, y != y[i]]).sum()
    own = next(j for j in others if image[j] == image[i])
    supervised = np.mean(
      [-s[i, p] + np.log(np.exp(s[i, p]) + negatives) for p in positives]
    )
    conditional = -s[i, own] + np.log(np.exp(s[i, positives]).sum())
    plain = -s[i, own] + np.log(np.exp(s[i, others]).sum())
    share = alpha[y[i]]
    mixed = (1 - share) * supervised + share * conditional
    for name, value in zip(
      parts, (supervised, conditional, plain, mixed), strict=True
    ):
      parts[name] += value / 16
  logits = z @ params['out']
  log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  parts['cross_entropy'] = -log_probs[np.arange(16), y].mean()
  decoded = 1 / (1 + np.exp(-z @ params['back']))
  parts['reconstruction'] = np.mean((decoded - x) ** 2)
  return parts


def of(*args, **kw):
  return functools.partial(take, make(*args, **kw))


def both_views(params, batch):
  """Embeddings of the first views, then of the second ones."""
  views = batch['views']
  rows = jnp.concatenate([views[:, 0], views[:, 1]]).reshape(16, -1)
  return rows @ params['in']


def spread_loss(params, batch):
  """The mean of the spread loss of the library."""
  rows = losses.l2_normalize(both_views(params, batch))
  each = losses.spread(
    rows,
    jnp.tile(batch['label'], 2),
    jnp.tile(jnp.arange(8), 2),
    alpha=0.3,
    temperature=0.5,
  )
  return jnp.mean(each)


def geometry(params, batch):
  rows = both_views(params, batch)
  return losses.embedding_geometry(
    rows, jnp.tile(batch['label'], 2), num_classes=3
  )


def constant(params, batch):
  """Of images that are all alike."""
  views = jnp.full((8, 2, 4, 4, 1), 0.5)
  return take(make(variant='ce'), params, batch | {'views': views})


def two_encoders(params, batch):
  """Two encoders in one network, and each by itself."""
  both = {'a': params, 'b': draw_params(np.random.default_rng(1))}
  return (
    take(make(branching), both, batch),
    take(make(variant='spread'), both['a'], batch),
    take(make(variant='autoencoder'), both['b'], batch),
  )


def one_pair(by_column=False, clip=None):
  """The terms of an anchor, whose positives are in the other view."""

  def run(anchors, contrasts, labels):
    cosines = _one_pair.similarities(anchors, contrasts, by_column=by_column)
    return _one_pair.terms(cosines / 0.5, labels, numerator_clip=clip)

  return run


def mistaken(**kw):
  """A step, and the contrastive part by hand."""
  terms = one_pair(kw.get('column_norms', False), kw.get('numerator_clip'))

  def run(params, batch):
    views = batch['views'].reshape(8, 2, -1)
    first, second = views[:, 0] @ params['in'], views[:, 1] @ params['in']
    supervised, conditional, _ = terms(second, first, batch['label'])
    found = take(make(view_pairs='one', variant='spread', **kw), params, batch)
    return found, jnp.mean(supervised + conditional) / 2

  return run


def alike(variant, view_pairs):
  """Of one class and equal images, whose features are zero."""
  return lambda params, batch: take(
    make(variant=variant, view_pairs=view_pairs),
    params,
    batch | {'label': jnp.zeros(8, int), 'views': jnp.zeros((8, 2, 4, 4, 1))},
  )


def alone(**kw):
  """Of three images, each of a class of its own."""
  return lambda params, batch: take(
    make(**kw), params, jax.tree.map(lambda leaf: leaf[:3], batch)
  )


UNBALANCED = spec(3, class_probs=np.array([0.5, 0.25, 0.25]))
MISTAKES = {
  'one pair': {},
  'clipped': {'numerator_clip': 1.0},
  'by column': {'column_norms': True},
}
WEIGHTS = {'cross_entropy': 0.5, 'contrastive': 2.0, 'autoencoder': 3.0}


def thresholds():
  return _collapse_window.collapse_thresholds(
    16 * np.asarray(UNBALANCED.class_probs), 0.5
  )


CASES = {
  'one alpha': of(alpha=0.3),
  'spread loss': spread_loss,
  'geometry': geometry,
  'constant': constant,
  'shuffled': of(shuffled, alpha=0.3),
  'weights': of(alpha=0.3, **WEIGHTS),
  'infonce alone': of(variant='supcon_infonce', infonce=0.25, contrastive=0.0),
  'two encoders': two_encoders,
  'autoencoder': of(variant='autoencoder'),
  'autoencoder, scaled': of(variant='autoencoder', pixel_std=(0.5,)),
  'margin': of(data=UNBALANCED, alpha_margin=0.1),
  'margin, by hand': of(data=UNBALANCED, class_alpha=tuple(thresholds() + 0.1)),
}
CASES |= {
  f'row {variant}': of(variant=variant, class_alpha=ALPHA, temperature=0.4)
  for variant in TERMS
}
CASES |= {name: mistaken(**kw) for name, kw in MISTAKES.items()}
CASES |= {
  f'clipped at {clip}, {view_pairs}': of(
    variant='supcon_infonce', numerator_clip=clip, view_pairs=view_pairs
  )
  for clip in (0.3, 1.0)
  for view_pairs in ('all', 'one')
}
CASES |= {
  f'alike, {variant}, {view_pairs}': alike(variant, view_pairs)
  for variant in ('supcon_infonce', 'thanos')
  for view_pairs in ('all', 'one')
}
CASES |= {
  f'alone, {variant}, {view_pairs}': alone(
    variant=variant, view_pairs=view_pairs
  )
  for variant in ('supcon_infonce', 'thanos')
  for view_pairs in ('all', 'one')
}
# Products of settings, of which the default tier has the first.
REST = [
  'alike, supcon_infonce, all',
  'alike, thanos, one',
  'alone, supcon_infonce, one',
  'alone, thanos, one',
]


@pytest.fixture(scope='module')
def found():
  return cases.together(CASES, *draw(), alone=REST)


@pytest.mark.parametrize('variant', TERMS)
def test_each_row_of_the_comparison_is_the_sum_of_its_parts(
  found, params, batch, variant
):
  terms = TERMS[variant]
  parts = reference(params, batch, alpha=ALPHA, temperature=0.4)
  loss, _, _, metrics = found[f'row {variant}']
  expected = parts['cross_entropy'] + sum(parts[term] for term in terms)
  np.testing.assert_allclose(loss, expected, rtol=2e-6)
  logged = [name for name in parts if name in metrics]
  cases.close({n: metrics[n] for n in logged}, {n: parts[n] for n in logged})
  assert set(logged) == {
    'cross_entropy',
    *terms,
    *(('supervised', 'class_conditional') if 'mixed' in terms else ()),
  } - {'mixed'}


def test_weights_multiply_their_parts(found, params, batch):
  parts = reference(params, batch, alpha=(0.3,) * 3, temperature=0.5)
  expected = (
    0.5 * parts['cross_entropy']
    + 2 * parts['mixed']
    + 3 * parts['reconstruction']
  )
  np.testing.assert_allclose(found['weights'][0], expected, rtol=2e-6)
  expected = parts['cross_entropy'] + 0.25 * parts['infonce']
  np.testing.assert_allclose(found['infonce alone'][0], expected, rtol=2e-6)


@pytest.mark.parametrize('view_pairs', ['all', 'one'])
@pytest.mark.parametrize('clip', [0.3, 1.0])
def test_a_clipped_numerator_is_that_of_infonce_too(
  found, params, batch, clip, view_pairs
):
  views = np.asarray(batch['views'], np.float64).reshape(8, 2, -1)
  first, second = (
    z / np.linalg.norm(z, axis=1, keepdims=True)
    for z in (views[:, v] @ params['in'] for v in (0, 1))
  )
  if view_pairs == 'one':
    s = second @ first.T / 0.5
    own = np.diagonal(s)
    log_sums = np.log(np.exp(s).sum(axis=1))
  else:
    rows = np.concatenate([first, second])
    s = rows @ rows.T / 0.5
    own = s[np.arange(16), (np.arange(16) + 8) % 16]
    log_sums = np.log((np.exp(s) * (1 - np.eye(16))).sum(axis=1))
  assert (own > clip).any()
  expected = np.mean(log_sums - np.minimum(own, clip))
  _, _, _, metrics = found[f'clipped at {clip}, {view_pairs}']
  np.testing.assert_allclose(metrics['infonce'], expected, rtol=2e-6)


def test_one_alpha_is_the_spread_loss(found):
  _, _, _, metrics = found['one alpha']
  got = 0.7 * metrics['supervised'] + 0.3 * metrics['class_conditional']
  cases.close(got, found['spread loss'])


def test_permuting_images_inside_a_class_changes_the_autoencoder_alone(found):
  assert (np.asarray(LABELS)[ORDER] == LABELS).all()
  before, after = found['one alpha'][3], found['shuffled'][3]
  for name in (
    'supervised',
    'class_conditional',
    'cross_entropy',
    'class_spread',
  ):
    np.testing.assert_allclose(after[name], before[name], rtol=1e-5)
  assert abs(after['reconstruction'] / before['reconstruction'] - 1) > 0.01


def test_geometry_of_the_embeddings_is_logged(found):
  _, _, _, metrics = found['row ce']
  expected = found['geometry']
  cases.close(metrics['class_spread'], expected.spread)
  for name in ('within_cosine', 'between_cosine'):
    cases.close(metrics[name], getattr(expected, name))
  cases.close(
    [metrics[f'class_spread/{c}'] for c in 'abc'], list(expected.class_spread)
  )
  assert metrics['total_collapse'] == 0
  assert found['constant'][3]['total_collapse'] == 1


def test_two_encoders_learn_nothing_from_each_other(found):
  (loss, grads, _, _), one, other = found['two encoders']
  cases.close(loss, one[0] + other[0])
  cases.close(grads, {'a': one[1], 'b': other[1]}, rtol=1e-4)


def test_the_network_sees_the_labels_of_both_views(found):
  _, _, state, _ = found['one alpha']
  np.testing.assert_array_equal(state['labels'], np.tile(LABELS, 2))


@pytest.mark.parametrize('number', first([2, 8]))
def test_one_device_equals_several(found, params, batch, number):
  rows = NamedSharding(sharding.make_mesh(number), PartitionSpec('data'))
  step = jax.jit(CASES['row thanos'])
  several = step(params, jax.device_put(batch, rows))
  (loss, grads, _, metrics), one = jax.device_get(several), found['row thanos']
  cases.close((loss, metrics), (one[0], one[3]))
  cases.close(grads, one[1], rtol=1e-4, atol=1e-5)


def test_the_loss_of_one_view_pair_is_the_equation_of_section_1(rng):
  # The self view counts as a positive; other rows of its view do not appear.
  anchors, contrasts = rng.normal(size=(2, 9, 4))
  labels = np.array([0, 1, 0, 1, 1, 0, 2, -1, -1])
  unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
  settings = {'plain': (False, None), 'column': (True, None)}
  settings['clip'] = False, 1.0
  got = cases.together(
    {name: one_pair(*kw) for name, kw in settings.items()},
    anchors.astype(np.float32),
    contrasts.astype(np.float32),
    labels,
  )
  for name, (by_column, clip) in settings.items():
    s = np.zeros((9, 9))
    for i in range(9):
      for j in range(9):
        lengths = np.linalg.norm(anchors[j if by_column else i])
        lengths *= np.linalg.norm(contrasts[j])
        s[i, j] = anchors[i] @ contrasts[j] / lengths / 0.5
    if not by_column:
      np.testing.assert_allclose(s, unit(anchors) @ unit(contrasts).T / 0.5)
    want = np.zeros((3, 9))
    for i in range(9):
      same = (labels == labels[i]) & (labels[i] >= 0)
      same[i] = True
      negatives = np.exp(s[i, ~same]).sum()
      top = s[i] if clip is None else np.minimum(s[i], clip)
      each = -top + np.log(np.exp(s[i]) + negatives)
      want[0, i] = each[same].mean()
      want[1, i] = np.log(np.exp(s[i, same]).sum()) - s[i, i]
      want[2, i] = np.log(np.exp(s[i]).sum()) - top[i]
    np.testing.assert_allclose(np.stack(got[name]), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_of_the_release_are_settings(found, name):
  (loss, grads, _, metrics), expected = found[name]
  cases.close(loss - metrics['cross_entropy'], expected)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_pixels_may_be_divided_by_their_standard_deviation(found):
  plain, scaled = found['autoencoder'][3], found['autoencoder, scaled'][3]
  cases.close(scaled['reconstruction'], 4 * plain['reconstruction'])


@pytest.mark.parametrize(
  ('variant', 'view_pairs'),
  first(
    [
      ('supcon_infonce', 'one'),
      ('thanos', 'all'),
      ('supcon_infonce', 'all'),
      ('thanos', 'one'),
    ],
    2,
  ),
)
def test_a_batch_of_one_class_and_equal_images_is_finite(
  found, variant, view_pairs
):
  loss, grads, _, metrics = found[f'alike, {variant}, {view_pairs}']
  assert np.isfinite(loss)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  assert all(np.isfinite(m) for m in metrics.values())


@pytest.mark.parametrize('view_pairs', first(['all', 'one']))
def test_an_image_alone_in_its_class_has_its_other_view(found, view_pairs):
  """Its class spreads nothing then, and its supervised term is InfoNCE."""
  _, _, _, metrics = found[f'alone, supcon_infonce, {view_pairs}']
  cases.close(metrics['supervised'], metrics['infonce'])
  loss, grads, _, metrics = found[f'alone, thanos, {view_pairs}']
  cases.close(metrics['class_conditional'], 0.0)
  assert np.isfinite(loss)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


# --- Where alpha lies.


def test_a_margin_sets_each_class_above_its_own_threshold(found):
  assert np.ptp(thresholds()) > 0.01
  cases.close(found['margin'][:2], found['margin, by hand'][:2])


@pytest.mark.full
def test_free_embeddings_spread_as_far_as_the_table_says():
  # Two classes of 64 points in 16 dimensions, both views alike.
  table = {
    0.50: 0.0, 0.52: 0.002, 0.54: 0.042, 0.56: 0.087, 0.58: 0.137,
    0.60: 0.194, 0.64: 0.346, 0.667: 0.502, 0.68: 0.611, 0.70: 1.0,
  }  # fmt: skip
  labels, steps = jnp.repeat(jnp.arange(2), 64), 600
  nothing = jnp.zeros((128, 2, 1, 1, 1))
  batch = {'image': nothing[:, 0], 'views': nothing, 'label': labels}
  tx = optax.adam(optax.cosine_decay_schedule(0.05, steps))

  def free(params, model_state, images, *, train, labels):
    del images, train
    rows = jnp.concatenate([params, params])
    out = {'features': rows, 'embedding': rows}
    return (jax.nn.one_hot(labels, 2), out), model_state

  objective = make(free, data=spec(2), variant='spread', view_pairs='one')
  key = jax.random.key(0)
  measure = lambda rows: objective(rows, {}, {}, batch, key, 0)[1][2]

  def loss(rows, alpha):
    parts = measure(rows)
    return (1 - alpha) * parts['supervised'] + alpha * parts[
      'class_conditional'
    ]

  def optimise(alpha):
    def step(carry, _):
      rows, state = carry
      updates, state = tx.update(jax.grad(loss)(rows, alpha), state)
      return (optax.apply_updates(rows, updates), state), None

    rows = jax.random.normal(key, (128, 16))
    (rows, _), _ = jax.lax.scan(step, (rows, tx.init(rows)), length=steps)
    return measure(rows)['class_spread']

  spreads = jax.jit(jax.vmap(optimise))(jnp.asarray(list(table)))
  np.testing.assert_allclose(spreads, list(table.values()), atol=0.02)


@pytest.mark.fast
def test_thresholds_of_classes_are_the_known_ones():
  thresholds = _collapse_window.collapse_thresholds
  for num_classes, contrasts in ((2, 64), (2, 8), (3, 64), (10, 16)):
    for denominator in ('one_positive', 'all'):
      got = thresholds(num_classes * [contrasts], 0.5, denominator=denominator)
      want = losses.collapse_threshold(
        num_classes, contrasts, 0.5, denominator=denominator
      )
      np.testing.assert_allclose(got, want, rtol=1e-9)
  # Found by optimisation: the minority collapses longer; the clip of the
  # release at three batch sizes.
  np.testing.assert_allclose(
    thresholds([96, 32], 0.5), [0.398, 0.602], atol=1e-3
  )
  for contrasts, want in ((64, 0.073), (32, 0.0), (128, 0.287)):
    got = thresholds([contrasts] * 2, 0.5, clipped=True)
    np.testing.assert_allclose(got, want, atol=5e-4)


@pytest.mark.fast
def test_a_class_of_three_spreads_above_its_own_threshold():
  # Second variation of the loss with one class moved, in float64.
  sizes, temperature = (12, 6, 4), 0.5
  rng = np.random.default_rng(0)
  y = np.repeat(np.arange(3), sizes)
  vertices = np.eye(8)[:3] - 1 / 3 * (np.arange(8) < 3)
  vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
  same = y[:, None] == y[None, :]

  def loss(z, alpha, c):
    s = z @ z.T / temperature
    log_sum = lambda where: np.log(np.where(where, np.exp(s), 0).sum(1))
    each = np.logaddexp(log_sum(~same)[:, None], s) - s
    supervised = np.where(same, each, 0).sum(1) / same.sum(1)
    conditional = log_sum(same) - np.diag(s)
    share = np.where(y == c, alpha, 0.0)
    # Every anchor's supervised term counts alike, as if alpha were one.
    return np.sum((1 - alpha) * supervised + share * conditional)

  thresholds = _collapse_window.collapse_thresholds(sizes, temperature)
  for c in range(3):
    noise = rng.normal(size=(len(y), 8)) * (np.arange(8) >= 3)
    noise[y != c] = 0
    noise[y == c] -= noise[y == c].mean(axis=0)
    moved = vertices[y] + 1e-3 * noise
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    for offset, sign in ((-0.02, 1), (0.02, -1)):
      alpha = thresholds[c] + offset
      change = loss(moved, alpha, c) - loss(vertices[y], alpha, c)
      assert np.sign(change) == sign


@pytest.mark.fast
def test_classes_merge_where_optimisation_found_them_merged():
  # On free embeddings: spread .61 at .68 and 1 from .70 on; .90 at .60 and 1
  # at .667.
  merging = _collapse_window.merging_threshold
  assert 0.67 < merging(2, 64, 0.5) < 0.70
  assert 0.60 < merging(10, 16, 0.5) < 0.667
  assert merging(2, 64, 0.1) > 0.99
  for denominator in ('all', 'in', 'negatives_only'):
    alpha = merging(2, 64, 0.5, denominator=denominator)
    spreads = np.linspace(0, 1, 201)
    best = {
      offset: spreads[
        np.argmin(
          [
            (1 - alpha - offset) * sup + (alpha + offset) * cond
            for sup, cond in (
              _collapse_window.ideal_terms(s, 2, 64, 0.5, denominator)
              for s in spreads
            )
          ]
        )
      ]
      for offset in (-0.03, 0.01)
    }
    assert best[-0.03] < 1
    assert best[0.01] == 1


@pytest.mark.fast
def test_alpha_outside_of_its_window_is_remarked():
  said = lambda batch=128, **kw: list(make(data=spec(2), **kw).remarks(batch))
  (low,) = said(alpha=0.5)
  assert 'alpha=0.5 lies below 0.584 (temperature 0.5, 2 classes' in low
  assert 'collapsed' in low
  assert 'room is from 0.584 to 0.676' in low
  (high,) = said(alpha=0.9)
  assert 'alpha=0.9 lies above 0.676' in high
  assert 'merged' in high
  assert all('\n' not in line for line in (low, high))
  assert said(alpha=0.62) == []
  assert said(alpha=0.5, temperature=0.1) == []
  assert said(alpha=0.5, view_pairs='one', numerator_clip=1.0) == []
  assert said(alpha=0.5, variant='supcon') == []
  assert said(alpha_margin=0.02) == []


@pytest.mark.fast
def test_classes_that_differ_in_size_are_remarked():
  data = spec(2, class_probs=np.array([0.75, 0.25]))
  make_one = functools.partial(make, data=data, view_pairs='one')
  *_, balance = make_one(alpha=0.5).remarks(128)
  assert '32 to 96 contrasts' in balance
  assert 'class_balanced' in balance
  low, _ = make_one(alpha=0.5).remarks(128)
  assert "alpha=0.5 of class 'b' lies below 0.602" in low


@pytest.mark.fast
@pytest.mark.parametrize(
  ('kw', 'words'),
  [
    ({'variant': 'sup'}, "variant='sup'; known: ce, supcon"),
    ({'alpha': 1.5}, r'alpha=1.5 is not in \[0, 1\]'),
    ({'alpha': -0.1}, 'alpha=-0.1 is not in'),
    ({'alpha': float('nan')}, 'alpha=nan is not in'),
    ({'class_alpha': (0.5, -1.0)}, 'class_alpha=.* is not in'),
    ({'alpha_margin': 3.0}, 'alpha_margin=3.0'),
    ({'class_alpha': (0.5,) * 3, 'alpha_margin': 0.1}, 'one of both'),
    ({'temperature': 0.0}, 'temperature=0.0 is not positive'),
    ({'denominator': 'none'}, "denominator='none'; known: one_positive"),
    ({'denominator': 'all', 'view_pairs': 'one'}, "denominator='all'"),
    ({'view_pairs': 'two'}, "view_pairs='two'; known: all, one"),
    ({'autoencoder': -1.0}, 'autoencoder=-1.0 is not in'),
    ({'cross_entropy': float('nan')}, 'cross_entropy=nan'),
    ({'numerator_clip': 1.0, 'denominator': 'in'}, 'numerator_clip=1.0'),
    ({'column_norms': True}, 'column_norms=True is for view_pairs=one'),
    ({'pixel_std': (0.0,)}, 'pixel_std='),
    ({'gamma': 1.0}, 'objective.kw.gamma: thanos knows'),
  ],
)
def test_a_wrong_value_is_one_line(kw, words):
  with pytest.raises(ConfigError, match=words) as caught:
    make(**kw)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('network', 'kw', 'words'),
  [
    (apply_fn, {'class_alpha': (0.5, 0.5)}, 'class_alpha=.*one a class, of 3'),
    (apply_fn, {'pixel_std': (0.5, 0.5)}, 'pixel_std=.*one number, or 1'),
    (None, {}, "variant='thanos' needs a decoder: model.kw.decoder=mirror"),
  ],
)
def test_what_does_not_fit_data_or_network_is_refused_before_work(
  params, batch, network, kw, words
):
  def undecoded(*args, **kw):
    (logits, out), state = apply_fn(*args, **kw)
    del out['reconstruction']
    return (logits, out), state

  objective = make(network or undecoded, **kw)
  with pytest.raises(ConfigError, match=words) as caught:
    objective.init(params, {}, batch, jax.random.key(0))
  assert '\n' not in str(caught.value)
