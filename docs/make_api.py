"""Writes one page from the docstrings of the public functions.

  python docs/make_api.py OUT

OUT is a Markdown file. The page is not kept in the repository.
"""

import dataclasses
import inspect
import pathlib
import re
import sys

from rrl_jax import attacks, corruptions, indicators, losses

ROOMS = (losses, attacks, indicators, corruptions)
SECTIONS = ('Args', 'Returns', 'Raises', 'References', 'Attributes', 'Yields')


def page() -> str:
  """The whole page as Markdown."""
  parts = [
    '# API',
    'Made from the docstrings by `python docs/make_api.py OUT`. Shapes: `B`'
    ' examples in a batch, `N` rows, `H, W, C` image sides and channels, `K`'
    ' classes or concepts, `D` feature dimensions. Images are in [0, 1],'
    ' losses in nats.',
  ]
  for room in ROOMS:
    name = room.__name__
    parts.append(f'## {name}')
    parts.append(_dedent(room.__doc__))
    entries = [
      entry
      for entry in sorted(room.__all__, key=str.lower)
      if callable(getattr(room, entry))  # Constants have no docstring.
    ]
    parts.append(
      '\n'.join(
        f'* [`{entry}`](#{entry.lower()}): {_first_line(getattr(room, entry))}'
        for entry in entries
      )
    )
    for entry in entries:
      parts.append(_entry(entry, getattr(room, entry)))
  return '\n\n'.join(parts) + '\n'


def _entry(name, thing):
  """One function or class: signature, then its docstring as Markdown."""
  text = _dedent(thing.__doc__)
  return f'### {name}\n\n{_signature(name, thing)}\n\n{_markdown(text)}'


def _signature(name, thing):
  """The call, one argument a line if it is long."""
  if dataclasses.is_dataclass(thing) or hasattr(thing, '_fields'):
    return f'```python\nclass {name}\n```'
  parameters = inspect.signature(thing).parameters.values()
  words, starred = [], False
  for parameter in parameters:
    if parameter.kind is parameter.KEYWORD_ONLY and not starred:
      words.append('*')
      starred = True
    starred |= parameter.kind is parameter.VAR_POSITIONAL
    prefix = {
      parameter.VAR_POSITIONAL: '*',
      parameter.VAR_KEYWORD: '**',
    }.get(parameter.kind, '')
    default = parameter.default
    word = prefix + parameter.name
    words.append(word if default is parameter.empty else f'{word}={default!r}')
  line = f'{name}({", ".join(words)})'
  if len(line) > 80:
    line = f'{name}(\n' + ''.join(f'  {word},\n' for word in words) + ')'
  return f'```python\n{line}\n```'


def _markdown(text):
  """Docstring sections as bold headings, examples and tables as code."""
  lines, fence, rules = [], '', 0
  for line in text.splitlines():
    stripped = line.strip()
    section = re.fullmatch(r'(\w+):', line)
    if fence == 'table' and rules < 3:
      rules += bool(re.fullmatch(r'=[= ]+=', stripped))
      lines.append(line)
      if rules == 3:
        lines.append('```')
        fence = ''
      continue
    if re.fullmatch(r'=+ [= ]+=', stripped):
      lines += ['```text', line]
      fence, rules = 'table', 1
      continue
    if section and section[1] in (*SECTIONS, 'Example', 'Examples'):
      lines.append(f'**{section[1]}**\n')
      continue
    if stripped.startswith('>>>') and not fence:
      lines.append('```pycon')
      fence = 'code'
    if fence == 'code' and not stripped:
      lines.append('```')
      fence = ''
    indent = len(line) - len(line.lstrip())
    if not fence and indent == 2 and re.match(r'[\w*, ]+: ', stripped):
      field, _, rest = stripped.partition(': ')
      stripped = f'* `{field}`: {rest}'
    lines.append(stripped)
  if fence:
    lines.append('```')
  # What stands between fences is code and stays as it is.
  parts = re.split(r'(```.*?```)', '\n'.join(lines), flags=re.S)
  return ''.join(p if p.startswith('```') else _roles(p) for p in parts)


def _roles(text):
  """Roles and links of reStructuredText as Markdown."""
  text = re.sub(r'(?<!`)``([^`]+)``(?!`)', r'`\1`', text)
  text = re.sub(r':math:`([^`]*)`', r'$\1$', text, flags=re.S)
  text = re.sub(
    r'`([^`<>]+?)\s*<(https?://[^>]+)>`_', r'[\1](\2)', text, flags=re.S
  )
  text = re.sub(r'\.\. note::\n', '**Note**\n\n', text)
  return re.sub(r'\.\. math::(.*?)(\n\n|\Z)', _display, text, flags=re.S)


def _display(found):
  """A block of mathematics."""
  return f'```math\n{found[1].strip()}\n```\n\n'


def _first_line(thing):
  """The docstring's first sentence."""
  return _roles(_dedent(thing.__doc__).split('\n\n')[0].replace('\n', ' '))


def _dedent(text):
  """A docstring without the indent of its function."""
  return inspect.cleandoc(text or '')


def main(argv: list[str]) -> int:
  """Writes the page where the command says; returns the exit code."""
  if len(argv) != 2:
    print(
      'usage: python docs/make_api.py OUT, a Markdown file', file=sys.stderr
    )
    return 2
  pathlib.Path(argv[1]).write_text(page())
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))
