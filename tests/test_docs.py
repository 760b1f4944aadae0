"""The documentation is what the code says and does."""

import contextlib
import importlib.util
import inspect
import io
import pathlib
import re

import jax
import pytest

from configs import common
from rrl_jax import attacks, corruptions, indicators, losses
from rrl_jax.errors import ConfigError
from rrl_jax.studies import pool, study
from rrl_jax.train import experiment

# They look at no argument.
CHECKS_NOTHING = (
  'concept_risk_estimate',
  'enlargement',
  'graph_energy',
  'risk_threshold_init',
)
# Definitions of this library, or too elementary to have a source.
WITHOUT_SOURCE = (
  'adapt_gamma',
  'calibrate_threshold',
  'class_distances',
  'concept_risk_estimate',
  'concept_risk_init',
  'concept_risk_update',
  'corrupted_sets',
  'enlargement',
  'graph_energy',
  'importance_weights',
  'label_log_probabilities',
  'label_probability',
  'multicut_energy',
  'nearest_neighbor_accuracy',
  'project',
  'step_scale',
  'threshold_sweep',
  'transport_cost',
)
ROOMS = (losses, attacks, indicators, corruptions)
ROOT = pathlib.Path(__file__).parent.parent
PAGES = (
  ROOT / 'README.md',
  ROOT / 'CONTRIBUTING.md',
  *sorted((ROOT / 'docs').rglob('*.md')),
)


def script(name):
  """A script of docs/ as a module."""
  spec = importlib.util.spec_from_file_location(
    name, ROOT / 'docs' / f'{name}.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def blocks(page, language):
  """The code blocks of a page in one language."""
  pattern = rf'^```{language}\n(.*?)^```$'
  return re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.fast
def test_the_page_of_settings_is_current():
  made = script('make_settings')
  assert made.PAGE.read_text() == made.page(), 'run docs/make_settings.py'


OUTSIDE = {  # A value that is not what it must be.
  'at least 1': 0,
  'at least 0': -1,
  'at least -1': -2,
  'in [0, 2^32)': -1,
  'in (0, 1e9)': 0,
  'empty or in (0, 1e9)': 0,
  'in [0, 1)': 1.0,
  'in [0, 1]': 1.5,
  'empty or in [0, 1]': 1.5,
  'empty or at least 2': 1,
  'in [0, 1.25]': 1.5,
  'positive': 0.0,
  'each in (0, 1)': (1.0,),
  '0 < least <= greatest <= 1': (0.5, 0.1),
  '0 < least <= greatest': (0.5, 0.1),
  '-1 or at most the number of devices': 10_000,
}


@pytest.mark.fast
@pytest.mark.parametrize(
  'words', script('make_settings').MUST_BE.items(), ids=lambda w: w[1][:40]
)
def test_what_a_field_must_be_is_checked_before_a_run(words):
  fields, must_be = words
  value = (
    'of no such name' if must_be.startswith('one of ') else OUTSIDE[must_be]
  )
  for field in fields.split():
    if field == 'job':  # tests/test_launch.py
      continue
    config = common.base()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=field.rpartition('.')[2]):
      experiment.build(config)


@pytest.mark.fast
def test_the_fields_of_studies_and_pools_are_those_that_there_are():
  made = script('make_settings')
  assert tuple(made.POOL) == pool.FIELDS
  found = set()
  for path in (ROOT / 'configs' / 'studies').glob('*.py'):
    module = importlib.import_module(f'configs.studies.{path.stem}')
    if hasattr(module, 'get_config'):
      found |= {*module.get_config().get('study', ())}
  assert found <= set(made.STUDY)
  source = inspect.getsource(study)
  for field in made.STUDY:
    assert re.search(rf"study(\.{field}\b|\.get\('{field}')", source), field


@pytest.mark.fast
@pytest.mark.parametrize(
  ('field', 'section'), [('model', 'Networks'), ('data', 'Data sources')]
)
def test_the_page_has_each_argument_of_networks_and_sources(field, section):
  text = (ROOT / 'docs' / 'settings.md').read_text()
  text = text.partition(f'\n## {section}\n')[2].partition('\n## ')[0]
  for name in common.base()[field].kw:
    assert f'\n| `{name}` |' in text, name


@pytest.mark.fast
def test_every_setting_has_a_meaning():
  rows = (ROOT / 'docs' / 'settings.md').read_text().splitlines()
  assert not [row for row in rows if re.search(r'\| *\|$', row)]


@pytest.mark.fast
def test_every_public_name_is_on_the_page_of_the_api(tmp_path, capsys):
  maker, page = script('make_api'), tmp_path / 'api.md'
  assert maker.main(['make_api.py']) == 2
  assert 'OUT' in capsys.readouterr().err
  assert maker.main(['make_api.py', str(page)]) == 0
  text = page.read_text()
  for room in ROOMS:
    for name in room.__all__:
      if callable(getattr(room, name)):
        assert f'### {name}\n' in text


@pytest.mark.fast
def test_every_public_function_says_what_it_takes_gives_and_raises():
  for room in ROOMS:
    for name in room.__all__:
      thing = getattr(room, name)
      if not callable(thing) or isinstance(thing, type):
        continue
      assert 'Args:' in thing.__doc__, f'{name} lacks Args:'
      gives = re.search('Returns:|Yields:', thing.__doc__)
      assert gives, f'{name} lacks Returns: or Yields:'
      raises = 'Raises:' in thing.__doc__ or name in CHECKS_NOTHING
      assert raises, f'{name} lacks Raises:'


@pytest.mark.fast
def test_every_public_function_says_its_source_itself_or_beside_its_kin():
  for room in ROOMS:
    for name in room.__all__:
      thing = getattr(room, name)
      if inspect.isfunction(thing) and name not in WITHOUT_SOURCE:
        text = inspect.getsource(inspect.getmodule(thing))
        assert 'References:' in text, f'{name} says no source'


@pytest.mark.parametrize('page', ['README.md', 'docs/methods.md'])
def test_the_example_of_a_page_prints_what_it_says(page):
  text = (ROOT / page).read_text()
  found = re.findall(
    r'^```python\n(.*?)^```\n\n```\n(.*?)^```', text, re.S | re.M
  )
  assert len(found) == len(blocks(ROOT / page, 'python')) == 1
  for code, printed in found:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
      exec(compile(code, page, 'exec'), {})  # noqa: S102
    assert said.getvalue() == printed


@pytest.mark.full
def test_the_probe_of_the_pixels_reads_what_the_study_says(
  debian_fashion_mnist, capsys
):
  page = ROOT / 'docs' / 'studies' / 'thanos_digits.md'
  (code,) = blocks(page, 'python')
  with jax.numpy_rank_promotion('allow'):  # As users have it.
    exec(compile(code, page.name, 'exec'), {})  # noqa: S102
  for line in capsys.readouterr().out.splitlines():
    assert f'{100 * float(line.split()[1]):.1f}%' in page.read_text()


@pytest.mark.fast
def test_the_files_of_a_label_loss_are_those_of_focal():
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  recipe = text.partition('## Add a label loss')[2].partition('\n## ')[0]
  files = re.findall(r'^\d+\. `([\w/.]+)`', recipe, re.M)
  assert len(files) == 10
  for file in set(files) - {'CHANGELOG.md'}:
    assert re.search(r'\bfocal\b', (ROOT / file).read_text()), file


@pytest.mark.fast
def test_the_readme_is_short():
  lines = (ROOT / 'README.md').read_text().splitlines()
  assert len(lines) <= 130
  assert len([line for line in lines if line.startswith('|')]) <= 25


@pytest.mark.fast
@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page):
  text = page.read_text()
  links = re.findall(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', text)
  links += re.findall(r'(?:src|srcset)="([^"]+)"', text)
  for link in links:
    if '://' not in link:
      assert (page.parent / link).exists(), link
  folders = 'configs|tests|docs|rrl_jax|benchmarks|scripts'
  for name in re.findall(rf'`((?:{folders})/[\w/.]*)(?::[\w,=.]+)?`', text):
    if 'mine' not in name:  # To be written by the reader.
      assert (ROOT / name).exists(), name
