"""Attacks: pure functions that see a model only as a loss or as logits.

``loss_fn`` maps points ``[B, ...]`` to one loss an example, ``logits_fn`` maps
them to logits ``[B, K]``. Results are constants to an outer gradient and stay
inside ball and bounds in every dtype.
"""

from rrl_jax.attacks._pgd import pgd
from rrl_jax.attacks._projections import project
from rrl_jax.attacks._sinkhorn import sinkhorn
from rrl_jax.attacks._wrm import wrm

__all__ = ('pgd', 'project', 'sinkhorn', 'wrm')
