"""The worst distribution over concepts for given risks, in closed form."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _concept_transport, _simplex

DIVERGENCES = ('kl', 'l2', 'ot', 'cvar', 'chi2')
_FORBIDDEN = 1e30  # Stands for an infinite cost; finite in float32 with room.


def concept_best_response(
  risks: ArrayLike,
  prior: ArrayLike,
  *,
  temperature: ArrayLike,
  divergence: str = 'kl',
  cost: ArrayLike | None = None,
  epsilon: ArrayLike | None = None,
) -> jax.Array:
  r"""The adversary's distribution over concepts, one weight a concept.

  With risks :math:`v`, prior :math:`p^0`, temperature :math:`\tau` and
  divergence :math:`D`, the maximiser over the simplex of

  .. math:: p \cdot v - \tau D(p, p^0).

  ========  ===================================  ==============================
  name      :math:`D(p, p^0)`                    maximiser
  ========  ===================================  ==============================
  ``kl``    :math:`\sum_k p_k \log(p_k/p^0_k)`   :math:`p^0_k e^{v_k/\tau}`,
                                                 normalised
  ``l2``    :math:`\|p-p^0\|^2`                  projection of
                                                 :math:`p^0 + v/(2\tau)`
  ``chi2``  :math:`\frac12\sum_k                 :math:`p^0_k (1 +
            (p_k-p^0_k)^2/p^0_k`                 (v_k-\mu)/\tau)_+`
  ``cvar``  0 if :math:`p_k\le p^0_k/\tau`,      mass filled from the highest
            else infinite                        risk down
  ``ot``    transport cost from :math:`p^0` to   each source j to
            :math:`p`, minus epsilon times the   :math:`\arg\max_k v_k-\tau
            entropy of the plan                  c_{kj}`, or its softmax at
                                                 :math:`\tau\epsilon`
  ========  ===================================  ==============================

  A temperature that goes to infinity gives the prior (``ot`` with an entropy:
  the smoothed prior, :math:`\sum_j p^0_j\,\mathrm{softmax}_k(-c_{kj}/
  \epsilon)`), one that goes to zero the concept of highest risk. Concepts of
  equal risk are treated alike: ``kl``, ``cvar`` and ``chi2`` share mass in
  proportion to the prior, ``ot`` splits a source equally between its best
  targets, which is its limit for a vanishing entropy. Differentiable in all
  array arguments; a training loss holds the result constant (Danskin).

  Args:
    risks: Risk of each concept, shape ``[K]``, finite, float.
    prior: Reference distribution, shape ``[K]``, non-negative; it is scaled
      to sum one. A concept with zero prior stays at zero for ``kl``, ``cvar``
      and ``chi2``; ``l2`` and ``ot`` may give it mass.
    temperature: Positive scalar in the unit of the risks; for ``cvar`` the
      level in (0, 1], the fraction of the prior that is kept.
    divergence: One of kl, l2, ot, cvar, chi2.
    cost: For ``ot``: ``cost[k, j]`` of moving unit mass from concept j to k,
      shape ``[K, K]``, non-negative, zero on the diagonal; inf forbids a
      move.
    epsilon: For ``ot``: positive weight of the plan's entropy in the unit of
      ``cost``; None for none.

  Returns:
    Probabilities, shape ``[K]``, dtype of ``risks``.

  Raises:
    TypeError: ``risks`` or ``prior`` are not floating.
    ValueError: Shapes differ, a static value is out of range, the divergence
      is unknown, or ``cost`` is missing for ot or given without need.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> prior = jnp.array([0.5, 0.25, 0.25])
    >>> risks = jnp.array([0.0, 1.0, 1.0])
    >>> probs = losses.concept_best_response(risks, prior, temperature=1e9)
    >>> print(probs.round(3))
    [0.5  0.25 0.25]
    >>> probs = losses.concept_best_response(risks, prior, temperature=1e-9)
    >>> print(probs.round(3))
    [0.  0.5 0.5]

  References:
    Qian, Hu, Li, `Hierarchically Robust Representation Learning
    <https://arxiv.org/abs/1911.04047>`_, 2020, for the game over concepts.

  .. note::
    The closed forms are derived here from that objective; the paper's own
    choice of divergence is not known to us. ``ot`` needs no Sinkhorn loop as
    only the prior's marginal is fixed.
  """
  risks, prior, cost = check_concepts(
    risks, prior, divergence=divergence, cost=cost, epsilon=epsilon
  )
  check_temperature(temperature, divergence)
  probs, _ = respond(risks, prior, temperature, divergence, cost, epsilon)
  return probs.astype(risks.dtype)


def concept_best_response_in_ball(
  risks: ArrayLike,
  prior: ArrayLike,
  *,
  radius: ArrayLike,
  divergence: str = 'kl',
  cost: ArrayLike | None = None,
  epsilon: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
  r"""The worst distribution over concepts within a hard divergence radius.

  The maximiser of :math:`p \cdot v` over the simplex subject to
  :math:`D(p, p^0) \le \rho`. The multiplier of the constraint is the
  temperature: it is found by bisection of its logarithm, and the responses on
  both sides of it are mixed so that the radius is used up and not passed,
  also where the response jumps (``ot`` without entropy). Where the ball holds
  the concepts of highest risk themselves, the result is (nearly) those. No
  gradient flows: the weights are constants of the training loss (Danskin).

  Args:
    risks: Risk of each concept, shape ``[K]``, finite, float.
    prior: Reference distribution, shape ``[K]``.
    radius: Non-negative scalar, in the unit of ``concept_divergence``; for
      ``cvar`` that is ``-log(level)``.
    divergence: One of kl, l2, ot, cvar, chi2.
    cost: For ``ot``, as in ``concept_best_response``.
    epsilon: For ``ot``, as there. The least divergence is then that of the
      smoothed prior and may be negative; a radius below it gives that.

  Returns:
    ``(probs [K], temperature [])``; for ``cvar`` the level.

  Raises:
    TypeError: As ``concept_best_response``.
    ValueError: As there, or a negative static radius.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> probs, _ = losses.concept_best_response_in_ball(
    ...   jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5]), radius=0.02,
    ...   divergence='l2')
    >>> print(probs.round(3))
    [0.4 0.6]
  """
  risks, prior, cost = check_concepts(
    risks, prior, divergence=divergence, cost=cost, epsilon=epsilon
  )
  _checks.in_range('radius', radius, -jnp.inf if divergence == 'ot' else 0.0)
  dtype = _simplex.compute_dtype(risks)
  risks_, prior_, radius = jax.lax.stop_gradient(
    (risks.astype(dtype), prior.astype(dtype), jnp.asarray(radius, dtype))
  )
  cost, epsilon = jax.lax.stop_gradient((cost, epsilon))
  if divergence == 'cvar':
    level = jnp.exp(-radius)
    probs, _ = respond(risks_, prior_, level, divergence, cost, epsilon)
    return probs.astype(risks.dtype), level.astype(risks.dtype)

  def at(log_temperature):
    return respond(
      risks_, prior_, jnp.exp(log_temperature), divergence, cost, epsilon
    )

  # The response is a function of risks / temperature alone, so that the
  # bracket has to follow the spread of the risks.
  spread = jnp.clip(jnp.max(risks_) - jnp.min(risks_), 1e-28, 1e28)
  octaves = 30 * jnp.log(jnp.asarray(2, dtype))
  low, high = jnp.log(spread) - octaves, jnp.log(spread) + octaves

  def halve(_, bracket):
    low, high = bracket
    centre = (low + high) / 2
    _, distance = at(centre)
    outside = distance > radius
    return jnp.where(outside, centre, low), jnp.where(outside, high, centre)

  low, high = jax.lax.fori_loop(0, 50, halve, (low, high))
  outer, outer_distance = at(low)
  inner, inner_distance = at(high)
  room = outer_distance - inner_distance
  share = jnp.where(
    room > 0, (radius - inner_distance) / jnp.where(room > 0, room, 1), 1
  )
  share = jnp.clip(share, 0, 1)
  probs = share * outer + (1 - share) * inner
  return probs.astype(risks.dtype), jnp.exp(high).astype(risks.dtype)


def concept_divergence(
  probs: ArrayLike,
  prior: ArrayLike,
  *,
  divergence: str = 'kl',
  cost: ArrayLike | None = None,
  epsilon: ArrayLike | None = None,
) -> jax.Array:
  r"""How far a distribution over concepts is from the prior, a scalar.

  The :math:`D` of ``concept_best_response``. For ``cvar`` it is the Renyi
  divergence of infinite order :math:`\max_k \log (p_k / p^0_k)`: a level of
  :math:`\alpha` is a ball of radius :math:`-\log \alpha` in it. For ``ot``
  with an entropy it is :math:`\min_P \langle P, c\rangle - \epsilon H(P)`
  over plans with the two given marginals.

  Args:
    probs: Distribution, shape ``[K]``, float, non-negative.
    prior: Reference distribution, shape ``[K]``; scaled to sum one.
    divergence: One of kl, l2, ot, cvar, chi2.
    cost: For ``ot``: ``cost[k, j]`` from source j to target k, ``[K, K]``.
    epsilon: For ``ot``: positive weight of the entropy.

  Returns:
    A scalar in float32 or wider; inf for ``kl``, ``chi2`` and ``cvar`` where
    ``probs`` has mass and ``prior`` has none.

  Raises:
    TypeError: ``probs`` or ``prior`` are not floating.
    ValueError: As ``concept_best_response``.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> prior = jnp.array([0.5, 0.5])
    >>> print(losses.concept_divergence(prior, prior))
    0.0
  """
  probs, prior, cost = check_concepts(
    probs,
    prior,
    divergence=divergence,
    cost=cost,
    epsilon=epsilon,
    name='probs',
  )
  dtype = _simplex.compute_dtype(probs)
  probs, prior = probs.astype(dtype), _simplex.normalize(prior.astype(dtype))
  if divergence == 'ot':
    if epsilon is None:
      raise ValueError("divergence 'ot' between given marginals needs epsilon")
    return _concept_transport.entropic_cost(probs, prior, cost, epsilon)
  return _distance(probs, prior, divergence)


def concept_robust_risk(
  risks: ArrayLike,
  prior: ArrayLike,
  *,
  temperature: ArrayLike,
  divergence: str = 'kl',
  cost: ArrayLike | None = None,
  epsilon: ArrayLike | None = None,
) -> jax.Array:
  r"""The value of the game over concepts at its best response, a scalar.

  .. math:: \max_p\; p \cdot v - \tau D(p, p^0)

  For ``kl`` this is :math:`\tau \log \sum_k p^0_k e^{v_k/\tau}`. The gradient
  in the risks is the best response and that in the temperature is minus the
  divergence (Danskin), exact at any scale; second derivatives follow the
  response. The prior, the cost and epsilon are constants: no gradient.

  Args:
    risks: Risk of each concept, shape ``[K]``, float.
    prior: Reference distribution, shape ``[K]``.
    temperature: As in ``concept_best_response``; ``cvar``: the level, whose
      gradient is zero here.
    divergence: One of kl, l2, ot, cvar, chi2.
    cost: For ``ot``, as there.
    epsilon: For ``ot``, as there.

  Returns:
    A scalar in the dtype of ``risks``.

  Raises:
    TypeError: As ``concept_best_response``.
    ValueError: As there.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> prior = jnp.array([0.5, 0.5])
    >>> value = lambda v: losses.concept_robust_risk(v, prior, temperature=1.)
    >>> print(jax.grad(value)(jnp.array([2.0, 2.0])))
    [0.5 0.5]
  """
  risks, prior, cost = check_concepts(
    risks, prior, divergence=divergence, cost=cost, epsilon=epsilon
  )
  check_temperature(temperature, divergence)
  dtype = _simplex.compute_dtype(risks)
  prior, cost, epsilon = jax.lax.stop_gradient((prior, cost, epsilon))

  @jax.custom_jvp
  def value(v, tau, prior, cost, epsilon):
    # Against the largest risk, or a large common offset would cost digits.
    top = jnp.max(v)
    if divergence == 'kl':
      return _log_mean_exp(v, prior, tau)
    probs, distance = respond(v, prior, tau, divergence, cost, epsilon)
    penalty = 0 if divergence == 'cvar' else tau * distance
    return top + jnp.sum(probs * (v - top)) - penalty

  @value.defjvp
  def value_jvp(primals, tangents):
    v, tau, prior, cost, epsilon = primals
    probs, distance = respond(v, prior, tau, divergence, cost, epsilon)
    tangent = jnp.sum(probs * tangents[0])
    if divergence != 'cvar':
      tangent = tangent - distance * tangents[1]
    return value(*primals), tangent

  out = value(
    risks.astype(dtype), jnp.asarray(temperature, dtype), prior, cost, epsilon
  )
  return out.astype(risks.dtype)


def respond(risks, prior, temperature, divergence, cost, epsilon):
  """Best response and its divergence, ``(probs [K], scalar)``; no checks."""
  dtype = _simplex.compute_dtype(risks)
  risks = risks.astype(dtype)
  prior = _simplex.normalize(prior.astype(dtype))
  temperature = jnp.asarray(temperature, dtype)
  if divergence == 'ot':
    return _transport_response(risks, prior, temperature, cost, epsilon)
  if divergence == 'kl':
    probs = _simplex.soft_argmax(risks, temperature, prior)
  elif divergence == 'l2':
    # Entries two below the top are outside the support for sure.
    shift = _simplex.scaled_gap(risks, 2 * temperature, 4.0)
    probs = _simplex.water_level(prior + shift, jnp.ones_like(prior))
  elif divergence == 'chi2':
    shift = _simplex.scaled_gap(risks, temperature, 1e30, prior > 0)
    probs = _simplex.water_level(shift, prior)
  else:
    probs = _tail(risks, prior, temperature)
  return probs, _distance(probs, prior, divergence)


def _log_mean_exp(risks, prior, temperature):
  """``tau log sum_k prior_k exp(risks_k / tau)``, accurate at both ends."""
  prior = _simplex.normalize(prior.astype(risks.dtype))
  top = jnp.max(risks, initial=-jnp.inf, where=prior > 0)
  gap = _simplex.scaled_gap(risks, temperature, 1e4, prior > 0)
  # For a high temperature the sum is 1 + something small.
  below = jnp.sum(prior * jnp.expm1(gap))
  hot = below > -0.5
  direct = jax.scipy.special.logsumexp(gap, b=prior)
  log_mean = jnp.where(hot, jnp.log1p(jnp.where(hot, below, 0)), direct)
  return top + temperature * log_mean


def _tail(risks, prior, level):
  """The worst ``level`` of the prior's mass, scaled to one."""
  level = jnp.minimum(level, 1)
  above = jnp.sum(
    jnp.where(risks[:, None] > risks[None, :], prior[:, None], 0), axis=0
  )
  beside = jnp.sum(
    jnp.where(risks[:, None] == risks[None, :], prior[:, None], 0), axis=0
  )
  # Ties share what the concepts above them leave.
  left = level - above
  partial = (left > 0) & (left < beside)
  share = jnp.where(partial, left, 1) / jnp.where(partial, beside, 1)
  filled = jnp.where(left > 0, share, 0)
  return _simplex.normalize(prior * filled)


def _transport_response(risks, prior, temperature, cost, epsilon):
  """Each source chooses its target alone: only its marginal is fixed."""
  cost = jnp.minimum(cost.astype(risks.dtype), _FORBIDDEN)
  # Against the largest risk, so that small costs decide between equal risks.
  gap = risks - jax.lax.stop_gradient(jnp.max(risks))
  scores = gap[:, None] - temperature * cost  # [target, source]
  if epsilon is None:
    best = scores == jnp.max(scores, axis=0, keepdims=True)
    plan = best / jnp.sum(best, axis=0, keepdims=True).astype(risks.dtype)
  else:
    epsilon = jnp.asarray(epsilon, risks.dtype)
    plan = _simplex.soft_argmax(scores, temperature * epsilon)
  plan = plan * prior[None, :]
  distance = jnp.sum(plan * cost)
  if epsilon is not None:
    distance = distance + epsilon * jnp.sum(jax.scipy.special.xlogy(plan, plan))
  return jnp.sum(plan, axis=1), distance


def _distance(probs, prior, divergence):
  """Divergences that need no plan; ``prior`` is normalised."""
  has_prior, has_mass = prior > 0, probs > 0
  safe_prior = jnp.where(has_prior, prior, 1)
  escaped = jnp.any(has_mass & ~has_prior)
  ratio = probs / safe_prior
  if divergence == 'l2':
    return jnp.sum(jnp.square(probs - prior))
  if divergence == 'kl':
    # p log(p/q) - p + q is never negative, so that rounding stays harmless.
    terms = jnp.where(
      has_mass,
      probs * jnp.log(jnp.where(has_mass, ratio, 1)) - probs,
      0,
    )
    value = jnp.maximum(jnp.sum(terms + prior), 0)
  elif divergence == 'chi2':
    value = jnp.sum(jnp.where(has_prior, prior * jnp.square(ratio - 1), 0)) / 2
  else:
    value = jnp.maximum(jnp.log(jnp.max(jnp.where(has_prior, ratio, 0))), 0)
  return jnp.where(escaped, jnp.inf, value)


def check_concepts(
  risks, prior, *, divergence='kl', cost=None, epsilon=None, name='risks'
):
  """Checks what all functions over concepts share; returns arrays."""
  _checks.one_of('divergence', divergence, DIVERGENCES)
  risks = _checks.floating(name, risks, rank=1)
  prior = _checks.floating('prior', prior, rank=1)
  _checks.same_shape(**{name: risks, 'prior': prior})
  if risks.size == 0:
    raise ValueError(f'{name} must hold at least one concept')
  if divergence == 'ot':
    if cost is None:
      raise ValueError("divergence 'ot' needs cost, an array [K, K]")
    cost = _checks.floating('cost', cost, rank=2)
    if cost.shape != risks.shape * 2:
      raise ValueError(f'cost must be {risks.shape * 2}, got {cost.shape}')
    _checks.in_range('epsilon', epsilon, 0.0, open_low=True)
  elif cost is not None or epsilon is not None:
    raise ValueError(f"cost and epsilon are for 'ot', not for {divergence!r}")
  return risks, prior, cost


def check_temperature(temperature, divergence):
  """Raises ValueError if a static temperature is out of range."""
  if divergence == 'cvar':
    _checks.in_range(
      'temperature (the level of cvar)', temperature, 0.0, 1.0, open_low=True
    )
  else:
    _checks.in_range('temperature', temperature, 0.0, open_low=True)
