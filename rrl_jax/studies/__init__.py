"""Studies: methods tuned alike, run over seeds, compared in one table."""

from rrl_jax.studies.study import run
from rrl_jax.studies.table import Cell, make_table, to_markdown

__all__ = ('Cell', 'make_table', 'run', 'to_markdown')
