"""The documentation is what the code says and does."""

import contextlib
import importlib.util
import io
import pathlib
import re

import pytest

from rrl_jax import attacks, corruptions, indicators, losses

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


def test_the_example_of_the_readme_prints_what_it_says():
  text = (ROOT / 'README.md').read_text()
  found = re.findall(r'```python\n(.*?)```\n(.*?)```\n(.*?)```', text, re.S)
  assert len(found) == 1
  for code, _, printed in found:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
      exec(compile(code, 'README.md', 'exec'), {})  # noqa: S102
    assert said.getvalue().split() == printed.split()


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
