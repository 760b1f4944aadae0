"""Pages of runs, taken apart; and names that would like to be more."""

import html.parser

from rrl_jax import report

HOSTILE = (
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  "' onmouseover='alert(1)",
  '--><b>bold</b>',
  r'$\frac{1}{$ {{ 7 * 7 }} {% raw %}',
  'https://example.org/' + 'long' * 60,
)
TAGS = """
  html head meta title link style body a header h1 h2 p code dl div dt dd nav
  ul li main section table caption thead tbody tr th td small span i b figure
  figcaption strong details summary pre img footer svg g path defs clippath
  rect use text
"""
VOID = {'meta', 'link', 'img', 'br', 'path', 'use'}


class Page(html.parser.HTMLParser):
  """Elements with their attributes, and the text outside of styles."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.words, self._open = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag, f'{tag} closes another element'

  def handle_data(self, data):
    if 'style' not in self._open:
      self.words.append(data)

  @property
  def text(self):
    return ' '.join(' '.join(self.words).split())

  def all(self, *tags):
    return [attrs for tag, attrs in self.elements if tag in tags]


def build(folder):
  return report.build(folder).read_text('utf-8')


def words(text):
  """The words of a page, all spaces alike."""
  return Page(text).text.replace('\N{NO-BREAK SPACE}', ' ')
