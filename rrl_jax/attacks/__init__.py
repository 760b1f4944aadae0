"""Attacks: pure functions that see a model only as a loss or as logits.

``loss_fn`` maps points ``[B, ...]`` to one loss an example, ``logits_fn`` maps
them to logits ``[B, K]``. Results are constants to an outer gradient and stay
inside ball and bounds in every dtype.
"""

from rrl_jax.attacks._apgd import ApgdResult, apgd
from rrl_jax.attacks._auto_attack import AutoAttackResult, Progress, auto_attack
from rrl_jax.attacks._eot_pgd import eot_pgd
from rrl_jax.attacks._fab import fab
from rrl_jax.attacks._fgsm import fgsm
from rrl_jax.attacks._growing_sinkhorn import (
  GrowingSinkhornResult,
  growing_projected_sinkhorn,
)
from rrl_jax.attacks._interacting_particles import interacting_particles
from rrl_jax.attacks._pgd import pgd
from rrl_jax.attacks._projected_sinkhorn import projected_sinkhorn
from rrl_jax.attacks._projections import project
from rrl_jax.attacks._sinkhorn import sinkhorn
from rrl_jax.attacks._square import square
from rrl_jax.attacks._surrogates import (
  expectation_over_transformation,
  feature_shift_objective,
  kl_objective,
  logit_scale,
  targeted_objective,
  untargeted_objective,
)
from rrl_jax.attacks._udr import UDRState, udr, udr_init, udr_update
from rrl_jax.attacks._wrm import wrm

__all__ = (
  'ApgdResult',
  'AutoAttackResult',
  'GrowingSinkhornResult',
  'Progress',
  'UDRState',
  'apgd',
  'auto_attack',
  'eot_pgd',
  'expectation_over_transformation',
  'fab',
  'feature_shift_objective',
  'fgsm',
  'growing_projected_sinkhorn',
  'interacting_particles',
  'kl_objective',
  'logit_scale',
  'pgd',
  'project',
  'projected_sinkhorn',
  'sinkhorn',
  'square',
  'targeted_objective',
  'udr',
  'udr_init',
  'udr_update',
  'untargeted_objective',
  'wrm',
)
