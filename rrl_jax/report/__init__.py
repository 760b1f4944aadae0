"""One page that tells what a run did, from the files in its folder alone."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

from rrl_jax.report import _files, _provenance, _results
from rrl_jax.train import active

__all__ = ['build', 'build_pool']

_MAX_ROWS = 60  # Concepts listed one by one.


def build(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes ``report/index.html`` into a run's folder.

  The page is self-contained: styles, figures and pictures are inside, nothing
  is requested, no script runs. It reads config.json, metrics.jsonl,
  results.json, protocols.json, provenance.json and figures.npz; what is missing
  or unreadable leaves its section out, and the page says so. The same files
  give the same page, byte for byte.

  Args:
    workdir: The run's folder.

  Returns:
    Path of the page.
  """
  workdir = pathlib.Path(workdir)
  return _write(workdir, 'page.html', _content(workdir))


def build_pool(root: str | os.PathLike) -> pathlib.Path:
  """Writes ``report/index.html`` into the folder of a pool of models.

  The page is self-contained, as that of a run; it reads table.json and
  provenance.json.

  Args:
    root: The pool's folder.

  Returns:
    Path of the page.
  """
  from rrl_jax.report import _pool

  root = pathlib.Path(root)
  table, gap = _files.read_json(root / 'table.json')
  record, no_record = _files.read_json(root / 'provenance.json')
  content = _pool.content(table, gap, root.resolve().name) | {
    'made': _provenance.summary(record),
    'origin': _provenance.rows(record),
    'origin_gap': _no_origin(no_record),
  }
  return _write(root, 'pool.html', content)


def _write(
  folder: pathlib.Path, template: str, content: Mapping[str, Any]
) -> pathlib.Path:
  """Renders a template into a folder's report."""
  import jinja2  # With Matplotlib in the drawings, slow to import.

  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('rrl_jax.report', '.'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  page = environment.get_template(template).render(content)
  path = folder / 'report' / 'index.html'
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  partial.write_text(page, encoding='utf-8')
  partial.replace(path)
  return path


def _content(workdir: pathlib.Path) -> dict[str, Any]:
  """Everything the template shows."""
  from rrl_jax.report import (
    _calibration,
    _corruption,
    _figures,
    _groups,
    _indicators,
    _label_noise,
    _maps,
    _robust_probe,
    _thanos,
  )

  config, no_config = _files.read_json(workdir / 'config.json')
  metrics, no_metrics = _files.read_metrics(workdir / 'metrics.jsonl')
  results, no_results = _files.read_json(workdir / 'results.json')
  protocols, no_protocols = _files.read_json(workdir / 'protocols.json')
  record, no_record = _files.read_json(workdir / 'provenance.json')
  arrays, no_arrays = _files.read_arrays(workdir / 'figures.npz')
  measured = _results.measurements(results, protocols)
  fit = _label_noise.fit(metrics)
  spread = _thanos.part(metrics, arrays)
  drawn = ['test/accuracy'] if fit else []
  drawn += _thanos.DRAWN if spread and spread['figures'] else []
  curves, constant = _figures.curves(metrics, without=drawn)
  weights = _figures.concept_lines(
    metrics,
    'train/concept_weight/',
    title='Weight of each concept',
    ident='weights',
  )
  risks = _figures.concept_lines(
    metrics,
    'train/concept_risk/',
    title='Risk of each concept',
    ident='risks',
  )
  pairs, pairs_gap = _figures.pairs(arrays)
  feature_map, map_gap = _maps.feature_map(arrays)
  per_concept = _results.concepts(measured, arrays)
  rates = _label_noise.rates(measured, metrics)
  emphasis, emphasis_gap = _label_noise.emphasis(
    arrays, metrics, known=bool(rates)
  )
  noise = [emphasis, _label_noise.mass(metrics, rates), fit]
  suspicious, suspicious_gap = _label_noise.suspicious(
    arrays, known=bool(rates)
  )
  reliability, reliability_gap = _calibration.diagram(arrays)
  probes, in_probes = _robust_probe.part(measured, arrays)
  by_group, in_groups = _groups.part(measured, arrays, metrics)
  indicators, in_indicators = _indicators.part(measured, arrays)
  corruption, in_corruption = _corruption.part(measured, arrays)
  content = {
    'title': _title(config, workdir),
    'facts': _facts(config, results),
    'made': _provenance.summary(record),
    'origin': _provenance.rows(record),
    'origin_gap': _no_origin(no_record),
    'config': _files.pretty(config),
    'config_gap': no_config,
    'highlights': _results.highlights(measured),
    'groups': _results.groups(
      measured, in_probes | in_groups | in_indicators | in_corruption
    ),
    'results_gap': no_results or _gap(measured, 'results.json', 'number'),
    'protocols_gap': no_protocols,
    'probes': probes,
    'indicators': indicators,
    'corruption': corruption,
    'trained': not _files.dig(config, 'features'),
    'noise': [figure for figure in noise if figure],
    'noise_gap': emphasis_gap,
    'noise_key': _label_noise.key(arrays, rates) if rates else [],
    'suspicious': suspicious,
    'suspicious_gap': suspicious_gap,
    'by_group': by_group,
    'spread': spread,
    'reliability': reliability,
    'reliability_gap': reliability_gap,
    'curves': curves,
    'constant': constant,
    'curves_gap': no_metrics
    or _gap(curves or constant, 'metrics.jsonl', 'curve'),
    'concept_figures': [figure for figure in (weights, risks) if figure],
    'concept_figures_gap': no_metrics
    or _gap(weights, 'metrics.jsonl', 'train/concept_weight/... value'),
    'concepts': per_concept[:_MAX_ROWS],
    'concepts_hidden': len(per_concept[_MAX_ROWS:]),
    'concepts_gap': no_results
    or _gap(per_concept, 'results.json', 'test/accuracy/<concept> value'),
    'pairs': pairs,
    'pairs_gap': no_arrays or pairs_gap,
    'map': feature_map,
    'map_gap': no_arrays or map_gap,
  }
  # What this kind of run does not have needs a line, not a section.
  content['absent'] = {
    part: content[f'{part}_gap']
    for part in ('concepts', 'concept_figures', 'pairs', 'map')
    if ' holds no ' in content[f'{part}_gap'] or not content['trained']
  }
  return content


def _gap(found: Any, file: str, what: str) -> str:
  """Says that a readable file lacks something; '' if it does not."""
  return '' if found else f'{file} holds no {what}'


def _no_origin(gap: str) -> str:
  """What the page cannot tell without a record, which older runs lack."""
  if not gap:
    return ''
  why = gap.replace('is missing', 'is not there')
  return f'command, commit, device and date ({why})'


def _title(config: Mapping[str, Any], workdir: pathlib.Path) -> str:
  """'HRO on digits', or the folder's name."""
  features = _files.dig(config, 'features')
  if features:
    return f'Features of {pathlib.Path(str(features)).name}'
  objective = _files.dig(config, 'objective.name')
  data = _files.dig(config, 'data.name')
  if not objective or not data:
    return workdir.resolve().name
  objective = str(objective)
  return f'{objective.upper() if len(objective) <= 5 else objective} on {data}'


def _facts(
  config: Mapping[str, Any], results: Mapping[str, Any]
) -> list[tuple[str, str]]:
  """The settings that had an effect."""
  rows = []
  features = _files.dig(config, 'features')
  if features:  # Nothing of what a config says of training was looked at.
    return [('Features', str(features))]
  parts = active.settings(config)
  for label, field in (
    ('Objective', 'objective'),
    ('Data', 'data'),
    ('Model', 'model'),
    ('Optimizer', 'optim'),
  ):
    if parts.get(field, {}).get('name'):
      rows.append((label, active.words(parts[field])))
  by_steps = _files.dig(config, 'total_steps') is not None  # It wins.
  for label, field in (
    ('Batch size', 'batch_size'),
    ('Steps', 'total_steps') if by_steps else ('Epochs', 'total_epochs'),
    ('Seed', 'seed'),
  ):
    value = _files.dig(config, field)
    if value is not None:
      rows.append((label, active.scalar(value)))
  if _files.is_number(results.get('step')):
    rows.append(('Evaluated at', f'step {results["step"]:,.0f}'))
  return rows
