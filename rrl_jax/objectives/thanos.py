r"""Thanos: features that tell coarse classes and keep what lies inside them.

.. math:: L_{\mathrm{CE}} + (1 - \alpha) L_{\mathrm{sup}}
          + \alpha L_{\mathrm{cNCE}} + L_{\mathrm{AE}}

Supervised contrastive learning is least where every class is a point. The
class-conditional term spreads a class, but any permutation of its images is as
good; the autoencoder, or whatever ties features to images, is not indifferent.

References:
  Chen, Fu et al., `Perfectly Balanced: Improving Transfer and Robustness of
  Supervised Contrastive Learning <https://arxiv.org/abs/2204.07596>`_, 2022,
  of which the abstract and the released code could be read.
"""

from collections.abc import Sequence
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import losses, typing
from rrl_jax.errors import ConfigError
from rrl_jax.objectives import (
  _classification,
  _collapse_window,
  _contrast,
  _one_pair,
)

# The runs of the released code, and what each has beside cross entropy.
VARIANTS = {
  'ce': (),
  'supcon': ('supervised',),
  'supcon_infonce': ('supervised', 'infonce'),
  'spread': ('spread',),
  'autoencoder': ('autoencoder',),
  'thanos': ('spread', 'autoencoder'),
}
DENOMINATORS = ('one_positive', 'all', 'negatives_only', 'in')
VIEW_PAIRS = ('all', 'one')
_MAX_NAMED = 20  # Classes whose spread is logged one by one.
_IMBALANCED = 1.5  # Largest over smallest class of a batch.


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec,
  variant: str = 'thanos',
  alpha: float = 0.5,
  class_alpha: Sequence[float] | None = None,
  alpha_margin: float | None = None,
  temperature: float = 0.5,
  denominator: str = 'one_positive',
  cross_entropy: float = 1.0,
  contrastive: float = 1.0,
  infonce: float = 1.0,
  autoencoder: float = 1.0,
  view_pairs: str = 'all',
  numerator_clip: float | None = None,
  column_norms: bool = False,
  pixel_std: Sequence[float] | None = None,
) -> typing.Objective:
  """Returns the Thanos objective on two views (``data.augment.views=2``).

  Whether one encoder learns all terms or two learn some each is the network's
  affair (``model.kw.encoders``): contrastive terms read ``out['embedding']``,
  the autoencoder's ``out['reconstruction']``, and cross entropy every head
  that ``out['branch_logits']`` holds, or the one there is.

  Args:
    apply_fn: The network; ``model.kw.decoder`` gives it a decoder.
    data: Classes, and how common each is in a batch.
    variant: One of `VARIANTS`, the rows of the paper's comparison: 'ce',
      'supcon', 'supcon_infonce', 'spread', 'autoencoder', 'thanos'.
    alpha: Weight of the class-conditional term in [0, 1]; 0.5 is the released
      one.
    class_alpha: The same of each class, instead.
    alpha_margin: Instead, each class has its own collapse threshold at this
      batch and temperature plus so much.
    temperature: Of all contrastive terms, positive.
    denominator: Of the supervised term: 'one_positive' (theirs, of their
      SupCon too), 'all' (Khosla et al.), 'negatives_only', 'in'.
    cross_entropy: Weight of cross entropy, at least 0, like the next three.
    contrastive: Weight of the supervised term, or of the spread loss.
    infonce: Weight of InfoNCE.
    autoencoder: Weight of the squared error, a mean over pixels and channels.
    view_pairs: 'all', every row of both views is an anchor and meets all
      others; 'one', rows of the second view meet those of the first (the
      released code).
    numerator_clip: Beyond this, similarities over the temperature no longer
      attract, in the supervised term and in InfoNCE, but do in the
      class-conditional term; 1.0 is what the released code does, by mistake.
      Not for ``denominator='in'``.
    column_norms: Whether similarities are divided by the norms of their
      column, another mistake of the released code; of ``view_pairs='one'``.
    pixel_std: Divides the error of each channel: the released code
      reconstructs normalised channels. None is 1.

  Raises:
    ValueError: A value does not exist or is out of range, or two of them
      contradict each other.
  """
  for name, value, known in (
    ('variant', variant, VARIANTS),
    ('denominator', denominator, DENOMINATORS),
    ('view_pairs', view_pairs, VIEW_PAIRS),
  ):
    if value not in known:
      raise ValueError(f'{name}={value!r}; known: {", ".join(known)}')
  if not 0 < temperature < math.inf:
    raise ValueError(f'temperature={temperature} is not positive')
  weights = {
    'cross_entropy': cross_entropy,
    'contrastive': contrastive,
    'infonce': infonce,
    'autoencoder': autoencoder,
  }
  for name, value in weights.items():
    if not 0 <= value < math.inf:
      raise ValueError(f'{name}={value} is not in [0, inf)')
  if not 0 <= alpha <= 1:
    raise ValueError(f'alpha={alpha} is not in [0, 1]')
  if not all(0 <= value <= 1 for value in class_alpha or ()):
    raise ValueError(f'class_alpha={tuple(class_alpha)} is not in [0, 1]')
  if alpha_margin is not None and not -1 <= alpha_margin <= 1:
    raise ValueError(f'alpha_margin={alpha_margin} is not in [-1, 1]')
  if class_alpha and alpha_margin is not None:
    raise ValueError('class_alpha and alpha_margin: one of both')
  if numerator_clip is not None and (
    denominator == 'in' or not math.isfinite(numerator_clip)
  ):
    raise ValueError(
      f"numerator_clip={numerator_clip}: a number, not for denominator='in'"
    )
  if view_pairs == 'one' and denominator != 'one_positive':
    raise ValueError(
      f'denominator={denominator!r}: view_pairs=one has one_positive'
    )
  if view_pairs == 'all' and column_norms:
    raise ValueError('column_norms=True is for view_pairs=one')
  if pixel_std is not None and not (
    len(pixel_std) and min(pixel_std) > 0 and max(pixel_std) < math.inf
  ):
    raise ValueError(f'pixel_std={pixel_std} is not positive')

  parts = VARIANTS[variant]
  num_classes = len(data.class_names)
  clipped = numerator_clip is not None and numerator_clip < 1 / temperature

  def contrasts(batch_size):
    """Expected rows of each class that an anchor meets, ``[K]``."""
    probs = data.class_probs
    if probs is None:
      probs = np.full(num_classes, 1 / num_classes)
    return probs * batch_size * (2 if view_pairs == 'all' else 1)

  def thresholds(batch_size):
    """The alpha below which a class collapses, ``[K]``."""
    if num_classes < 2:
      return np.zeros(num_classes)
    return _collapse_window.collapse_thresholds(
      np.maximum(contrasts(batch_size), 1e-3),
      temperature,
      denominator=denominator,
      clipped=clipped,
    )

  def alphas(batch_size):
    """The alpha of each class, ``[K]``."""
    if class_alpha:
      return np.asarray(class_alpha, np.float64)
    if alpha_margin is not None:
      return np.clip(thresholds(batch_size) + alpha_margin, 0, 1)
    return np.full(num_classes, alpha)

  def terms(embeddings, labels):
    """Supervised, class-conditional and InfoNCE term, each ``[anchors]``."""
    if view_pairs == 'one':
      contrast, anchor = _contrast.split(embeddings)
      cosines = _one_pair.similarities(anchor, contrast, by_column=column_norms)
      return _one_pair.terms(
        cosines / temperature, labels, numerator_clip=numerator_clip
      )
    ids = _contrast.instance_ids(embeddings)
    labels = _contrast.join(labels, labels)
    rows = losses.l2_normalize(embeddings)
    supervised = functools.partial(
      losses.supervised_contrastive,
      temperature=temperature,
      denominator=denominator,
      numerator_clip=numerator_clip,
    )
    conditional = functools.partial(
      losses.class_conditional_infonce, temperature=temperature
    )
    if numerator_clip is None:
      plain = _contrast.anchor_infonce(rows, temperature)
    else:  # Every image is a class of its own.
      one = functools.partial(supervised, denominator='one_positive')
      plain = _contrast.compare(one, rows, ids, ids)
    return (
      _contrast.compare(supervised, rows, labels, ids),
      _contrast.compare(conditional, rows, labels, ids),
      plain,
    )

  def contrast_loss(embeddings, labels):
    """The contrastive part and its terms."""
    supervised, conditional, plain = terms(embeddings, labels)
    metrics = {'supervised': jnp.mean(supervised)}
    loss = metrics['supervised']
    if 'spread' in parts:
      by_class = jnp.asarray(alphas(len(labels)), supervised.dtype)
      share = by_class[labels]
      if len(supervised) > len(labels):
        share = _contrast.join(share, share)
      loss = jnp.mean((1 - share) * supervised + share * conditional)
      metrics['class_conditional'] = jnp.mean(conditional)
    loss = contrastive * loss
    if 'infonce' in parts:
      metrics['infonce'] = jnp.mean(plain)
      loss = loss + infonce * metrics['infonce']
    return loss, metrics

  def reconstruction_loss(out, images):
    """Squared error, a mean over pixels and channels of all images."""
    error = out['reconstruction'] - images
    if pixel_std is not None:
      error = error / jnp.asarray(pixel_std, error.dtype).reshape(1, 1, 1, -1)
    return jnp.mean(jnp.square(error))

  def geometry(embeddings, labels):
    """How the embeddings lie, as a whole and class by class."""
    found = losses.embedding_geometry(
      jax.lax.stop_gradient(embeddings), labels, num_classes=num_classes
    )
    metrics = {
      'class_spread': found.spread,
      'within_cosine': found.within_cosine,
      'between_cosine': found.between_cosine,
      'total_collapse': found.total_collapse.astype(jnp.float32),
    }
    if num_classes <= _MAX_NAMED:
      for name, value in zip(data.class_names, found.class_spread, strict=True):
        metrics[f'class_spread/{name}'] = value
    return metrics

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key, step
    images, labels = _contrast.two_views(batch), batch['label']
    both = _contrast.join(labels, labels)
    (logits, out), model_state = apply_fn(
      params, model_state, images, train=True, labels=both
    )
    branches = out.get('branch_logits', logits[None])
    plain = sum(
      jnp.mean(_classification.cross_entropy(branch, both))
      for branch in branches
    )
    metrics = _classification.metrics(logits, both)
    metrics |= geometry(out['embedding'], both) | {'cross_entropy': plain}
    loss = cross_entropy * plain
    if {'supervised', 'spread'} & set(parts):
      contrast, found = contrast_loss(out['embedding'], labels)
      loss, metrics = loss + contrast, metrics | found
    if 'autoencoder' in parts:
      metrics['reconstruction'] = reconstruction_loss(out, images)
      loss = loss + autoencoder * metrics['reconstruction']
    return loss, (model_state, aux_state, metrics)

  def init(params, model_state, batch, key):
    """Looks at what only data and network tell."""
    del key
    if class_alpha and len(class_alpha) != num_classes:
      raise ConfigError(
        f'objective.kw.class_alpha={tuple(class_alpha)}: one a class, of'
        f' {num_classes}'
      )
    if 'autoencoder' in parts:
      _, out = jax.eval_shape(
        lambda *args: apply_fn(*args, train=False)[0],
        params,
        model_state,
        batch['image'],
      )
      if 'reconstruction' not in out:
        raise ConfigError(
          f'objective.kw.variant={variant!r} needs a decoder:'
          ' model.kw.decoder=mirror'
        )
      channels = out['reconstruction'].shape[-1]
      if pixel_std is not None and len(pixel_std) not in (1, channels):
        raise ConfigError(
          f'objective.kw.pixel_std={tuple(pixel_std)}: one number, or'
          f' {channels} for images of {channels} channels'
        )
    return {}

  def remarks(batch_size):
    """Where alpha lies against the window that theory leaves, and balance."""
    rows = contrasts(batch_size)
    if 'spread' not in parts or num_classes < 2 or rows.min() <= 0:
      return []
    said = _collapse_window.remarks(
      alphas(batch_size),
      rows,
      temperature,
      class_names=data.class_names,
      denominator=denominator,
      clipped=clipped,
    )
    if rows.max() > _IMBALANCED * rows.min():
      said.append(
        f'a batch holds {rows.min():.3g} to {rows.max():.3g} contrasts of a'
        " class: data.sampling='class_balanced' evens them out, and"
        ' objective.kw.alpha_margin gives each class an alpha of its own'
      )
    return said

  return typing.Objective(loss_fn, init=init, num_views=2, remarks=remarks)
