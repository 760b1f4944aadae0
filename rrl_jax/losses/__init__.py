"""Losses and what weighs them: pure functions, one value an example.

The caller reduces. Nothing here knows a model; nothing beyond jax, optax and
chex is imported.
"""

from rrl_jax.losses._concept_response import concept_best_response
from rrl_jax.losses._concept_response import concept_best_response_in_ball
from rrl_jax.losses._concept_response import concept_divergence
from rrl_jax.losses._concept_response import concept_robust_risk
from rrl_jax.losses._concept_risk import concept_risk_estimate
from rrl_jax.losses._concept_risk import concept_risk_init
from rrl_jax.losses._concept_risk import concept_risk_update
from rrl_jax.losses._concept_risk import ConceptRiskState
from rrl_jax.losses._importance import importance_weights
from rrl_jax.losses._importance import step_scale
from rrl_jax.losses._transport import adapt_gamma
from rrl_jax.losses._transport import transport_cost

__all__ = (
  'ConceptRiskState',
  'adapt_gamma',
  'concept_best_response',
  'concept_best_response_in_ball',
  'concept_divergence',
  'concept_risk_estimate',
  'concept_risk_init',
  'concept_risk_update',
  'concept_robust_risk',
  'importance_weights',
  'step_scale',
  'transport_cost',
)
