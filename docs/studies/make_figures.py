"""Draws the figure of each study's page from the table in that page.

  python docs/studies/make_figures.py

A figure shows one column of one table: a dot and its 95% interval per method.
It holds no number that the page does not, so that the two cannot disagree.
"""

import dataclasses
import pathlib
import re

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Figure:
  """Which column of which table of a page is drawn.

  Attributes:
    page: The page's name without its suffix.
    table: The number of the table in the page, from 0.
    column: The name of the column as its head says it.
    label: What the axis measures.
  """

  page: str
  table: int
  column: str
  label: str


FIGURES = (
  Figure('hro', 0, 'worst concept', 'worst concept, digits: accuracy in %'),
  Figure('hro', 0, 'PGD-20', 'PGD-20, digits: accuracy in %'),
  Figure('gr', 0, 'symmetric 40', '40% symmetric noise: accuracy in %'),
  Figure('gr', 0, 'symmetric 80', '80% symmetric noise: accuracy in %'),
  Figure('tarrl', 0, '0.1', 'digits, radius 0.1: accuracy in %'),
  Figure('tarrl', 1, '0.05', 'Fashion-MNIST, radius 0.05: accuracy in %'),
  Figure('thanos', 0, 'digits, probe', 'digits, fine classes: accuracy in %'),
  Figure('thanos', 1, 'worst group', 'hidden groups, worst: accuracy in %'),
  Figure(
    'indicators',
    0,
    'ImageNet-C constants',
    'rank correlation with accuracy under harsh corruptions',
  ),
  Figure('indicators', 0, 'given accuracy', 'the same, given clean accuracy'),
)


def tables(page: str) -> list[list[list[str]]]:
  """The tables of a page: rows of cells, the head first."""
  found, rows = [], []
  for line in (*(HERE / f'{page}.md').read_text().splitlines(), ''):
    if line.startswith('|'):
      cells = [cell.strip().replace('**', '') for cell in line.split('|')[1:-1]]
      if not re.fullmatch(r'[-:| ]*', ''.join(cells)):
        rows.append(cells)
    elif rows:
      found.append(rows)
      rows = []
  return found


def interval(cell: str) -> tuple[float, float, float] | None:
  """Value, low and high of ``'93.1% ± 1.5% +'`` or ``'0.5 [0.2, 0.7]'``."""
  numbers = [float(n) for n in re.findall(r'-?\d+\.?\d*', cell)]
  if '±' in cell:
    value, half = numbers[:2]
    return value, value - half, value + half
  return tuple(numbers[:3]) if len(numbers) >= 3 else None


def draw(axes, figure: Figure) -> None:
  """One column as dots with intervals, the first method on top."""
  head, *rows = tables(figure.page)[figure.table]
  # The last column of that name: `given accuracy` stands behind each table.
  column = len(head) - 1 - head[::-1].index(figure.column)
  drawn = [(row[0], interval(row[column])) for row in rows]
  drawn = [(name, found) for name, found in drawn if found]
  for i, (_, (value, low, high)) in enumerate(drawn):
    axes.plot([low, high], [-i, -i], color='#5b7da8', linewidth=2)
    axes.plot(value, -i, 'o', color='#1f3c63', markersize=5)
  axes.set_yticks(range(0, -len(drawn), -1), [name for name, _ in drawn])
  axes.set_xlabel(figure.label)
  axes.grid(axis='x', color='#dddddd')
  axes.set_axisbelow(True)
  for side in ('top', 'right', 'left'):
    axes.spines[side].set_visible(False)
  axes.tick_params(axis='y', length=0)


def main() -> None:
  """Writes ``images/<page>.png`` of every page."""
  folder = HERE / 'images'
  folder.mkdir(exist_ok=True)
  plt.rcParams |= {'font.size': 8, 'figure.facecolor': 'white'}
  for page in dict.fromkeys(figure.page for figure in FIGURES):
    chosen = [figure for figure in FIGURES if figure.page == page]
    longest = max(len(tables(page)[f.table]) for f in chosen)
    sheet, panels = plt.subplots(
      1, len(chosen), figsize=(9, 0.8 + 0.22 * longest), layout='constrained'
    )
    for axes, figure in zip(panels, chosen, strict=True):
      draw(axes, figure)
    sheet.savefig(folder / f'{page}.png', dpi=110, metadata={'Software': None})
    plt.close(sheet)


if __name__ == '__main__':
  main()
