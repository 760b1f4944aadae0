"""The results of a run as a table on the terminal."""

from collections.abc import Mapping

import rich.box
import rich.console
import rich.table

from rrl_jax.evals import Measurement


def print_results(
  measurements: Mapping[str, Measurement],
  console: rich.console.Console | None = None,
) -> None:
  """Prints name, value, interval and protocol of every measurement.

  Where the terminal is too narrow for the protocol beside the numbers, it
  stands below them.

  Args:
    measurements: What an evaluation found, by name.
    console: Where to print; None for standard output.
  """
  console = console or rich.console.Console()
  table = rich.table.Table(
    box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False
  )
  table.add_column('result', overflow='fold')
  table.add_column('value', justify='right', no_wrap=True)
  table.add_column('95% interval', justify='center', no_wrap=True)
  wide = console.width >= 110
  if wide:
    table.add_column('protocol', style='dim', overflow='fold')
  for name, found in measurements.items():
    cells = [
      name,
      f'{found.value:.4f}',
      f'{found.low:.4f} .. {found.high:.4f}',
    ]
    table.add_row(*cells, *([found.protocol] if wide else []))
  console.print(table)
  if not wide and measurements:
    console.print('how each number was made: protocols.json', style='dim')
