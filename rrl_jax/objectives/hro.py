r"""Hierarchically robust optimisation: worst-case examples, worst-case mix.

Two adversaries, each of which can be switched off:

* the *example level* moves every image x to the z that maximises
  ``loss(z) - gamma / 2 |z - x|^2``, the Lagrangian of a Wasserstein ball
  around the law of each concept;
* the *concept level* picks the mix p of concepts that maximises
  ``p . R - temperature D(p, prior)``, R being the robust risk of each concept.

The network then takes a step on ``sum_k p_k R_k`` at the images z. With the
first adversary alone this is EL, with the second alone CL, with neither ERM.

References:
  Qian, Hu, Li, `Hierarchically Robust Representation Learning
  <https://arxiv.org/abs/1911.04047>`_, CVPR 2020. The abstract and the
  introduction are what could be read: the mathematics here is derived from
  them and is not the paper's algorithm. The duality is that of Sinha, Namkoong,
  Duchi, `Certifying Some Distributional Robustness with Principled Adversarial
  Training <https://arxiv.org/abs/1710.10571>`_, 2018; the Sinkhorn form is this
  project's own.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax import attacks, losses, typing
from rrl_jax.objectives import _classification

INNER = ('none', 'wrm', 'sinkhorn')
DIVERGENCES = ('none', 'kl', 'l2', 'ot', 'cvar', 'chi2')
MIX_UPDATES = ('best_response', 'ascent')
PRIORS = ('uniform', 'empirical')
RISKS = ('penalised', 'loss')
COSTS = ('features', 'given')
STEP_SCALES = ('none', 'rms', 'max')


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec,
  inner: str = 'wrm',
  gamma: float = 1.0,
  radius: float | None = None,
  radius_rate: float = 0.05,
  inner_steps: int = 1,
  attack_train_mode: bool = True,
  sinkhorn_epsilon: float = 0.05,
  sinkhorn_tau: float = 1.0,
  sinkhorn_labels: bool = True,
  divergence: str = 'kl',
  temperature: float = 0.3,
  prior: str = 'uniform',
  mix_update: str = 'best_response',
  mix_rate: float = 0.05,
  risk: str = 'penalised',
  risk_rate: float = 0.1,
  cost: str = 'features',
  cost_matrix: tuple[tuple[float, ...], ...] | None = None,
  cost_epsilon: float | None = None,
  step_scale: str = 'none',
) -> typing.Objective:
  """Returns the HRO objective.

  Args:
    apply_fn: The network.
    data: Concepts and how often each is sampled; the importance weight of an
      example is p_k over the probability of its concept in a batch, so that
      the gradient is unbiased under any sampling.
    inner: Example level: 'none', 'wrm' (each image by itself), 'sinkhorn' (the
      whole batch, penalised by the debiased Sinkhorn divergence).
    gamma: Price of moving an image, per squared pixel norm (of 1/2 |z - x|^2
      with pixels in [0, 1]); larger is weaker; with ``radius``, where it
      starts.
    radius: Mean transport cost, of 1/2 |z - x|^2, to which gamma adapts; None
      keeps gamma.
    radius_rate: Rate of that adaptation, per step, on log gamma.
    inner_steps: Gradient steps of the inner maximisation. At the clean batch
      the Sinkhorn divergence has no gradient: with one step, 'sinkhorn' is
      'wrm' to the bit; it differs from two on.
    attack_train_mode: Whether BatchNorm normalises by the batch while the
      images are moved, as in the step that follows, or by its averages.
    sinkhorn_epsilon: Entropic regularisation, in units of |x - x'|^2.
    sinkhorn_tau: Below 1 the divergence is unbalanced: it need not pay for
      transporting outliers. 1 is balanced.
    sinkhorn_labels: Whether mass stays inside its class.
    divergence: Concept level: 'none' (every example weighs 1), 'kl', 'l2',
      'ot', 'cvar', 'chi2'.
    temperature: Price of moving the mix away from the prior, in nats of loss;
      for 'cvar' the level in (0, 1].
    prior: 'uniform' over concepts or the 'empirical' mix.
    mix_update: 'best_response' each step, or 'ascent': mirror ascent for 'kl',
      projected gradient ascent for 'l2'.
    mix_rate: Step size of 'ascent'; times the temperature at most 1 for 'kl'
      and 1/2 for 'l2', where it is the full best response.
    risk: What the concept level sees: the 'penalised' loss
      ``loss(z) - gamma / 2 |z - x|^2``, which is the exact R_k, or ``loss(z)``.
    risk_rate: Weight of the newest batch in the moving average of a concept's
      risk (and mean feature), in (0, 1].
    cost: 'ot' only: concept distances from the moving 'features' means,
      scaled to mean 1, or 'given'.
    cost_matrix: ``[K][K]``, of 'given': from concept j (column) to k (row).
    cost_epsilon: 'ot' only: relative weight of the plan's entropy; None for
      none.
    step_scale: Against the variance of the weights w: scales the update by 1 /
      max(1, rms w) ('rms'), 1 / max(1, max w) ('max'), or not ('none').

  Raises:
    ValueError: A value does not exist or is out of range.
  """
  _choose('inner', inner, INNER)
  _choose('divergence', divergence, DIVERGENCES)
  _choose('mix_update', mix_update, MIX_UPDATES)
  _choose('prior', prior, PRIORS)
  _choose('risk', risk, RISKS)
  _choose('cost', cost, COSTS)
  _choose('step_scale', step_scale, STEP_SCALES)
  _positive('gamma', gamma)
  _positive('temperature', temperature)
  _positive('sinkhorn_epsilon', sinkhorn_epsilon)
  _positive('inner_steps', inner_steps)
  _positive('radius_rate', radius_rate)
  _positive('mix_rate', mix_rate)
  if radius is not None:
    _positive('radius', radius)
  if cost_epsilon is not None:
    _positive('cost_epsilon', cost_epsilon)
  if divergence == 'cvar' and temperature > 1:
    raise ValueError(f'temperature={temperature}: a cvar level is in (0, 1]')
  if not 0 < sinkhorn_tau <= 1:
    raise ValueError(f'sinkhorn_tau={sinkhorn_tau} is not in (0, 1]')
  if not 0 < risk_rate <= 1:
    raise ValueError(f'risk_rate={risk_rate} is not in (0, 1]')
  if mix_update == 'ascent' and divergence not in ('none', 'kl', 'l2'):
    raise ValueError(
      f"mix_update='ascent' is defined for kl and l2, not {divergence}"
    )
  full = 0.5 if divergence == 'l2' else 1.0  # The best response itself.
  if mix_update == 'ascent' and mix_rate * temperature > full:
    raise ValueError(
      f'mix_rate * temperature = {mix_rate * temperature} exceeds {full},'
      ' which is the full best response'
    )

  num_concepts = len(data.concept_names)
  prior_probs = _prior(prior, data.concept_counts)
  given_cost = _given_cost(divergence, cost, cost_matrix, num_concepts)
  sampling_probs = np.asarray(data.sampling_probs, np.float32)
  robust_mix = divergence != 'none'
  feature_cost = divergence == 'ot' and cost == 'features'

  def init(params, model_state, batch, key):
    del key
    aux_state = {}
    if robust_mix:
      aux_state['concept_probs'] = jnp.asarray(prior_probs)
      aux_state['risks'] = losses.concept_risk_init(num_concepts)
    if radius is not None and inner != 'none':
      aux_state['gamma'] = jnp.asarray(gamma, jnp.float32)
    if feature_cost:
      forward = lambda images: apply_fn(
        params, model_state, images, train=False
      )
      (_, out), _ = jax.eval_shape(forward, batch['image'])
      width = out['features'].shape[-1]
      aux_state['concept_features'] = jnp.zeros((num_concepts, width))
    return aux_state

  def move(params, model_state, aux_state, images, labels):
    """The example level: worst-case images, and the price they were at."""
    price = aux_state.get('gamma', gamma)

    def image_losses(z):
      (logits, _), _ = apply_fn(params, model_state, z, train=attack_train_mode)
      return _classification.cross_entropy(logits, labels)

    if inner == 'wrm':
      moved = attacks.wrm(
        image_losses, images, gamma=price, num_steps=inner_steps
      )
    elif inner == 'sinkhorn':
      moved = attacks.sinkhorn(
        image_losses,
        images,
        gamma=price,
        epsilon=sinkhorn_epsilon,
        num_steps=inner_steps,
        labels=labels if sinkhorn_labels else None,
        tau=sinkhorn_tau,
      )
    else:
      moved = images
    return moved, price

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key, step
    images, labels, concepts = (
      batch[name] for name in ('image', 'label', 'concept')
    )
    metrics, new_aux = {}, dict(aux_state)

    # --- Example level: z of each image, a constant to what follows.
    moved, price = move(
      jax.lax.stop_gradient(params), model_state, aux_state, images, labels
    )
    (logits, out), model_state = apply_fn(
      params, model_state, moved, train=True
    )
    example_losses = _classification.cross_entropy(logits, labels)  # [B]
    risks = jax.lax.stop_gradient(example_losses)
    if inner != 'none':
      transport = losses.transport_cost(images, moved)  # [B]
      metrics |= {'transport_cost': jnp.mean(transport), 'gamma': price}
      if risk == 'penalised':
        risks = risks - price * transport
      if radius is not None:
        new_aux['gamma'] = losses.adapt_gamma(
          price, jnp.mean(transport), radius=radius, rate=radius_rate
        )

    # --- Concept level: weigh by the mix so far, then let the mix answer.
    weights = jnp.ones_like(example_losses)
    if robust_mix:
      probs = aux_state['concept_probs']
      weights = losses.importance_weights(probs, sampling_probs, concepts)
      new_aux['risks'] = losses.concept_risk_update(
        aux_state['risks'], risks, concepts, rate=risk_rate
      )
      concept_risks = losses.concept_risk_estimate(new_aux['risks'])
      concept_cost = given_cost
      if feature_cost:
        new_aux['concept_features'] = _follow_features(
          aux_state['concept_features'], out['features'], concepts, risk_rate
        )
        concept_cost = _feature_cost(new_aux['concept_features'])
      new_aux['concept_probs'] = answer(probs, concept_risks, concept_cost)
      metrics |= {
        'concept_weight': probs,
        'concept_risk': concept_risks,
        'step_scale': losses.step_scale(weights, rule=step_scale),
      }
    metrics |= _classification.metrics(logits, labels)
    loss = jnp.mean(jax.lax.stop_gradient(weights) * example_losses)
    return loss, (model_state, new_aux, metrics)

  def answer(probs, concept_risks, concept_cost):
    """The concept level's next mix."""
    if mix_update == 'best_response':
      return losses.concept_best_response(
        concept_risks,
        prior_probs,
        temperature=temperature,
        divergence=divergence,
        cost=concept_cost,
        epsilon=cost_epsilon,
      )
    ascend = (
      losses.concept_mirror_ascent
      if divergence == 'kl'
      else losses.concept_projected_ascent
    )
    return ascend(
      probs,
      concept_risks,
      prior_probs,
      step_size=mix_rate,
      temperature=temperature,
    )

  scaled = robust_mix and step_scale != 'none'
  adapts = inner != 'none' and radius is not None
  # With one step 'sinkhorn' is 'wrm', which moves each image by itself.
  together = inner == 'sinkhorn' and inner_steps > 1
  return typing.Objective(
    loss_fn,
    init,
    step_scale=(lambda metrics: metrics['step_scale']) if scaled else None,
    whole_batch=robust_mix or adapts or together,
  )


def _prior(prior, concept_counts):
  """The mix that the concept level is held to, ``[K]``."""
  counts = np.asarray(concept_counts, np.float32)
  if prior == 'uniform':
    counts = (counts > 0).astype(np.float32)
  return counts / counts.sum()


def _given_cost(divergence, cost, cost_matrix, num_concepts):
  """The concept cost of the config as an array, or None."""
  if divergence != 'ot' or cost != 'given':
    return None
  if cost_matrix is None:
    raise ValueError("cost='given' needs cost_matrix")
  matrix = np.asarray(cost_matrix, np.float32)
  if matrix.shape != (num_concepts, num_concepts):
    raise ValueError(
      f'cost_matrix has shape {matrix.shape}; there are {num_concepts} concepts'
    )
  if not np.all(np.isfinite(matrix)) or np.any(matrix < 0):
    raise ValueError('cost_matrix has a negative or non-finite entry')
  return matrix


def _follow_features(means, features, concepts, rate):
  """Moving average of each concept's mean feature; an absent one stays."""
  features = jax.lax.stop_gradient(features).astype(means.dtype)
  member = jax.nn.one_hot(concepts, means.shape[0], dtype=means.dtype)
  counts = jnp.sum(member, axis=0)[:, None]  # [K, 1]
  batch_means = member.T @ features / jnp.maximum(counts, 1)
  # The first visit sets the mean: until then it is all zeros.
  seen = jnp.any(means != 0, axis=-1, keepdims=True)
  followed = jnp.where(seen, means + rate * (batch_means - means), batch_means)
  return jnp.where(counts > 0, followed, means)


def _feature_cost(means):
  """Squared distances of the concepts' means, scaled to mean 1, ``[K, K]``."""
  squares = jnp.sum(jnp.square(means[:, None, :] - means[None, :, :]), axis=-1)
  num = means.shape[0]
  mean = jnp.sum(squares) / max(num * (num - 1), 1)
  return squares / jnp.where(mean > 0, mean, 1)


def _choose(name, value, options):
  """Raises unless ``value`` is one of ``options``."""
  if value not in options:
    raise ValueError(f'{name}={value!r}; known: {", ".join(options)}')


def _positive(name, value):
  """Raises unless ``value`` is a positive number."""
  if not (isinstance(value, (int, float)) and 0 < value < float('inf')):
    raise ValueError(f'{name}={value!r} is not a positive number')
