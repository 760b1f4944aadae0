"""Losses and what weighs them: pure functions, one value an example.

The caller reduces. Nothing here knows a model; nothing beyond jax, optax and
chex is imported.
"""

from rrl_jax.losses._adversarial_training import alp, mart, trades
from rrl_jax.losses._armor import (
  ArmorState,
  armor_init,
  armor_risk,
  armor_update,
  armor_weights,
)
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
from rrl_jax.losses._downstream_bound import (
  adversarial_loss_bound,
  head_lipschitz,
  linear_loss_gap,
  margin_certificate,
  pinsker_loss_bound,
)
from rrl_jax.losses._feature_shift import feature_shift
from rrl_jax.losses._group_dro import (
  GroupDROState,
  group_dro,
  group_dro_init,
  group_dro_update,
)
from rrl_jax.losses._importance import importance_weights, step_scale
from rrl_jax.losses._sinkhorn_dro import (
  multilevel_probs,
  sinkhorn_dro,
  sinkhorn_dro_multilevel,
  sinkhorn_dro_samples,
)
from rrl_jax.losses._tail_risk import (
  chi2_dual,
  chi2_risk,
  chi2_weights,
  cvar_dual,
  cvar_risk,
  cvar_weights,
)
from rrl_jax.losses._transport import adapt_gamma, transport_cost
from rrl_jax.losses._virtual_adversarial import virtual_adversarial

__all__ = (
  'ArmorState',
  'ConceptRiskState',
  'GroupDROState',
  'adapt_gamma',
  'adversarial_loss_bound',
  'alp',
  'armor_init',
  'armor_risk',
  'armor_update',
  'armor_weights',
  'chi2_dual',
  'chi2_risk',
  'chi2_weights',
  'concept_best_response',
  'concept_best_response_in_ball',
  'concept_divergence',
  'concept_mirror_ascent',
  'concept_projected_ascent',
  'concept_risk_estimate',
  'concept_risk_init',
  'concept_risk_update',
  'concept_robust_risk',
  'cvar_dual',
  'cvar_risk',
  'cvar_weights',
  'feature_shift',
  'group_dro',
  'group_dro_init',
  'group_dro_update',
  'head_lipschitz',
  'importance_weights',
  'linear_loss_gap',
  'margin_certificate',
  'mart',
  'multilevel_probs',
  'pinsker_loss_bound',
  'sinkhorn_dro',
  'sinkhorn_dro_multilevel',
  'sinkhorn_dro_samples',
  'step_scale',
  'trades',
  'transport_cost',
  'virtual_adversarial',
)
