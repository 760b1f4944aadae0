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
from rrl_jax.losses._bootstrapping import bootstrapping
from rrl_jax.losses._collapse import (
  EmbeddingGeometry,
  collapse_threshold,
  embedding_geometry,
  spread_of,
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
from rrl_jax.losses._contrastive import (
  class_conditional_infonce,
  infonce,
  l2_normalize,
  spread,
  supervised_contrastive,
)
from rrl_jax.losses._derivative_manipulation import (
  derivative_manipulation,
  gradient_rescaling,
  improved_mean_absolute_error,
  rescaling_weights,
)
from rrl_jax.losses._downstream_bound import (
  adversarial_loss_bound,
  head_lipschitz,
  linear_loss_gap,
  margin_certificate,
  pinsker_loss_bound,
)
from rrl_jax.losses._early_learning import (
  EarlyLearningState,
  early_learning_init,
  early_learning_regularization,
  early_learning_update,
)
from rrl_jax.losses._emphasis import (
  beta_log_weight,
  emphasis_log_weight,
  emphasis_weight,
  exponential_log_weight,
  normal_log_weight,
)
from rrl_jax.losses._example_ascent import (
  ExampleWeightsState,
  example_weights_init,
  example_weights_update,
)
from rrl_jax.losses._feature_shift import feature_shift
from rrl_jax.losses._grad_cache import grad_cache
from rrl_jax.losses._group_dro import (
  GroupDROState,
  group_dro,
  group_dro_init,
  group_dro_update,
)
from rrl_jax.losses._importance import importance_weights, step_scale
from rrl_jax.losses._label_losses import (
  focal,
  generalized_cross_entropy,
  mean_absolute_error,
  reverse_cross_entropy,
  symmetric_cross_entropy,
  truncated_generalized_cross_entropy,
)
from rrl_jax.losses._label_odds import (
  label_log_probabilities,
  label_probability,
)
from rrl_jax.losses._mixup import (
  mixup_inputs,
  mixup_loss,
  mixup_pairs,
  mixup_targets,
)
from rrl_jax.losses._multilevel_risk import chi2_multilevel, cvar_multilevel
from rrl_jax.losses._noise_rate import NoiseEstimate, estimate_noise_rate
from rrl_jax.losses._normalized_losses import (
  active_passive,
  normalized_cross_entropy,
  normalized_focal,
  normalized_generalized_cross_entropy,
)
from rrl_jax.losses._risk_threshold import (
  RiskThresholdState,
  chi2_threshold_update,
  cvar_threshold_update,
  risk_threshold_init,
)
from rrl_jax.losses._sinkhorn_dro import (
  multilevel_probs,
  sinkhorn_dro,
  sinkhorn_dro_multilevel,
  sinkhorn_dro_samples,
)
from rrl_jax.losses._sinkhorn_dro_price import (
  SinkhornDROState,
  sinkhorn_dro_init,
  sinkhorn_dro_risk,
  sinkhorn_dro_update,
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
  'EarlyLearningState',
  'EmbeddingGeometry',
  'ExampleWeightsState',
  'GroupDROState',
  'NoiseEstimate',
  'RiskThresholdState',
  'SinkhornDROState',
  'active_passive',
  'adapt_gamma',
  'adversarial_loss_bound',
  'alp',
  'armor_init',
  'armor_risk',
  'armor_update',
  'armor_weights',
  'beta_log_weight',
  'bootstrapping',
  'chi2_dual',
  'chi2_multilevel',
  'chi2_risk',
  'chi2_threshold_update',
  'chi2_weights',
  'class_conditional_infonce',
  'collapse_threshold',
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
  'cvar_multilevel',
  'cvar_risk',
  'cvar_threshold_update',
  'cvar_weights',
  'derivative_manipulation',
  'early_learning_init',
  'early_learning_regularization',
  'early_learning_update',
  'embedding_geometry',
  'emphasis_log_weight',
  'emphasis_weight',
  'estimate_noise_rate',
  'example_weights_init',
  'example_weights_update',
  'exponential_log_weight',
  'feature_shift',
  'focal',
  'generalized_cross_entropy',
  'grad_cache',
  'gradient_rescaling',
  'group_dro',
  'group_dro_init',
  'group_dro_update',
  'head_lipschitz',
  'importance_weights',
  'improved_mean_absolute_error',
  'infonce',
  'l2_normalize',
  'label_log_probabilities',
  'label_probability',
  'linear_loss_gap',
  'margin_certificate',
  'mart',
  'mean_absolute_error',
  'mixup_inputs',
  'mixup_loss',
  'mixup_pairs',
  'mixup_targets',
  'multilevel_probs',
  'normal_log_weight',
  'normalized_cross_entropy',
  'normalized_focal',
  'normalized_generalized_cross_entropy',
  'pinsker_loss_bound',
  'rescaling_weights',
  'reverse_cross_entropy',
  'risk_threshold_init',
  'sinkhorn_dro',
  'sinkhorn_dro_init',
  'sinkhorn_dro_multilevel',
  'sinkhorn_dro_risk',
  'sinkhorn_dro_samples',
  'sinkhorn_dro_update',
  'spread',
  'spread_of',
  'step_scale',
  'supervised_contrastive',
  'symmetric_cross_entropy',
  'trades',
  'transport_cost',
  'truncated_generalized_cross_entropy',
  'virtual_adversarial',
)
