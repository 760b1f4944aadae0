"""Pages without what takes longest to make."""

from markupsafe import Markup, escape
import pytest

from rrl_jax.report import _drawing


@pytest.fixture
def undrawn(monkeypatch):
  """Draws nothing: for pages of which the text alone is looked at."""

  def svg(draw, ident, label, **kw):
    return Markup(f'<svg role="img" aria-label="{escape(label)}"></svg>')

  monkeypatch.setattr(_drawing, 'svg', svg)
