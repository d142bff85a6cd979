"""A table of figures on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def figures_table(first: str, figures: Sequence[str], title: str | None = None) -> Table:
    """Names in the first column, which fold where there is no room, and figures beside them.

    Args:
        first: Its heading.
        figures: Those of the figures.
        title: Above the table.

    Example:
        >>> table = figures_table("model", ["MACs"])
        >>> [(column.header, column.justify) for column in table.columns]
        [('model', 'left'), ('MACs', 'right')]
    """
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
