"""The page of the API is what the docstrings say."""

import importlib.util
import pathlib
import re

from rrl_jax import attacks, corruptions, indicators, losses

ROOMS = (losses, attacks, indicators, corruptions)
ROOT = pathlib.Path(__file__).parent.parent


def maker():
  spec = importlib.util.spec_from_file_location(
    'make_api', ROOT / 'docs' / 'make_api.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_committed_page_is_current():
  made = maker()
  assert made.PAGE.read_text() == made.page(), 'run python docs/make_api.py'


def test_every_public_name_is_on_the_page():
  text = (ROOT / 'docs' / 'api.md').read_text()
  for room in ROOMS:
    for name in room.__all__:
      if callable(getattr(room, name)):
        assert f'### {name}\n' in text


def test_every_public_function_says_what_it_takes_gives_and_raises():
  for room in ROOMS:
    for name in room.__all__:
      thing = getattr(room, name)
      if not callable(thing) or isinstance(thing, type):
        continue
      assert 'Args:' in thing.__doc__, f'{name} lacks Args:'
      gives = re.search('Returns:|Yields:', thing.__doc__)
      assert gives, f'{name} lacks Returns: or Yields:'


def test_the_example_of_the_readme_runs():
  text = (ROOT / 'README.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', text, re.S)
  assert blocks
  for block in blocks:
    exec(compile(block, 'README.md', 'exec'), {})  # noqa: S102
