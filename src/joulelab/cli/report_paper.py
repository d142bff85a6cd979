"""``joulelab report --paper``: the paper's claims next to what studies measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from joulelab.cli.output import (
    UNLIMITED_WIDTH,
    echo,
    output_console,
    print_json,
    progress,
    value_table,
)


def report_paper(directories: Sequence[str], out: Path | None, *, as_json: bool) -> None:
    """Write the page, and print every claim as a table or as JSON."""
    from joulelab.report.paper_page import headline, write_paper_page  # noqa: PLC0415

    with progress("comparing with the paper"):
        page, rows = write_paper_page(directories, out)
    if as_json:
        numbers = Counter(str(row.agreement) for row in rows)
        claims = [row.to_json() for row in rows]
        print_json({"page": str(page), "agreement": numbers, "claims": claims})
        return
    machines = {row.machine for row in rows if row.machine}
    table = value_table("Claim", [])
    console = output_console()
    table.add_column("Paper", max_width=12 if console.width < UNLIMITED_WIDTH else None)
    table.add_column("Ours", no_wrap=True)
    table.add_column("Agreement", no_wrap=True)
    for row in rows:
        machine = f", {row.machine}" if len(machines) > 1 and row.machine else ""
        text = f"{row.claim.text} ({row.claim.source}{machine})"
        table.add_row(text, row.claim.paper, row.ours or "–", str(row.agreement))
    console.print(table)
    echo(headline(rows))
    echo(f"Report:  {page}")
