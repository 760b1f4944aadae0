"""Losses and what weighs them: pure functions, one value an example.

The caller reduces. Nothing here knows a model; nothing beyond jax, optax and
chex is imported.
"""

from rrl_jax.losses._concept_ascent import (
  concept_mirror_ascent,
  concept_projected_ascent,
)
from rrl_jax.losses._concept_response import (
  concept_best_response,
  concept_best_response_in_ball,
  concept_divergence,
  concept_robust_risk,
)
from rrl_jax.losses._concept_risk import (
  ConceptRiskState,
  concept_risk_estimate,
  concept_risk_init,
  concept_risk_update,
)
from rrl_jax.losses._importance import importance_weights, step_scale
from rrl_jax.losses._transport import adapt_gamma, transport_cost

__all__ = (
  'ConceptRiskState',
  'adapt_gamma',
  'concept_best_response',
  'concept_best_response_in_ball',
  'concept_divergence',
  'concept_mirror_ascent',
  'concept_projected_ascent',
  'concept_risk_estimate',
  'concept_risk_init',
  'concept_risk_update',
  'concept_robust_risk',
  'importance_weights',
  'step_scale',
  'transport_cost',
)
