"""Programs are dropped before Linux runs out of maps, and not sooner."""

import jax
import pytest

from rrl_jax.studies import programs

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(('many', 'times'), [(0, 1), (10**9, 0)])
def test_programs_are_dropped_when_they_are_many(monkeypatch, many, times):
  calls = []
  monkeypatch.setattr(jax, 'clear_caches', lambda: calls.append(1))
  monkeypatch.setattr(programs, '_MANY', many)
  programs.drop_when_many()
  assert len(calls) == times


def test_where_there_are_no_maps_nothing_is_dropped(monkeypatch, tmp_path):
  monkeypatch.setattr(programs, '_MAPS', tmp_path / 'none')
  monkeypatch.setattr(programs, '_MANY', 0)
  monkeypatch.setattr(jax, 'clear_caches', lambda: pytest.fail('dropped'))
  programs.drop_when_many()
