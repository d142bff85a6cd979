"""Page of the paper's claims next to what studies measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from joulelab.findings.all import analyze
from joulelab.findings.paper import (
    PAPER,
    RULE,
    Agreement,
    Comparison,
    compare_with_paper,
    read_h100,
)
from joulelab.findings.tables import StudyTables, write_file
from joulelab.format import count, join_words
from joulelab.report.page_template import fill_template, page_path

PAGE = "paper.html"
H100 = "16 models on an NVIDIA H100"
"""Title of the comparison that is shipped."""

_SECTIONS: Mapping[str, str] = {
    "V": "Section V: hardware",
    "V-A": "Section V-A: accuracy and time",
    "V-B": "Section V-B: power and energy",
    "VI": "Section VI: discussion",
}


def write_paper_page(
    directories: Sequence[str | Path], out: str | Path | None = None
) -> tuple[Path, list[Comparison]]:
    """Compare studies with the paper and write the page.

    Args:
        directories: Study directories; none for the recording of an H100 that is shipped.
        out: The page (a name that ends in ``.html``) or its directory. Default: the directory of
            a single study, else ``joulelab-report`` in the current directory.

    Returns:
        The page, and a row for each claim and machine, in the paper's order.

    Raises:
        StoreError: A directory is no study, or the page cannot be written.
    """
    title, simulated = H100, False
    if directories:
        tables = StudyTables.read(directories)
        rows = compare_with_paper(analyze(tables))
        title = ", ".join(study.label for study in tables.studies)
        simulated = bool((tables.runs["provenance"] == "simulated").any())
    else:
        rows = read_h100()
    own = Path(directories[0] if len(directories) == 1 else "joulelab-report")
    path = page_path(own, out, PAGE)
    write_file(path, page(rows, title=title, simulated=simulated).encode())
    return path, rows


def page(rows: Sequence[Comparison], *, title: str, simulated: bool = False) -> str:
    """Return the HTML page."""
    of = {one: [row for row in rows if row.agreement is one] for one in Agreement}
    machines = list(dict.fromkeys(row.machine for row in rows if row.machine))
    return fill_template(
        "paper.html.j2",
        title=title,
        simulated=simulated,
        headline=headline(rows),
        facts=[
            ("Agree", len(of[Agreement.YES])),
            ("Disagree", len(of[Agreement.NO])),
            ("Not tested", len(of[Agreement.NOT_TESTED])),
            ("Machine" if len(machines) < 2 else "Machines", join_words(machines) or "–"),
        ],
        lists=[
            ("Where ours disagrees", of[Agreement.NO]),
            ("Where ours agrees", of[Agreement.YES]),
        ],
        rule=RULE,
        sections=[
            (heading, [row for row in rows if row.claim.source.split(",")[0] == section])
            for section, heading in _SECTIONS.items()
        ],
        several=len(machines) > 1,
        paper=PAPER,
    )  # fmt: skip


def headline(rows: Sequence[Comparison]) -> str:
    """Return the result in a sentence."""
    tested = [row for row in rows if row.agreement is not Agreement.NOT_TESTED]
    agree = sum(row.agreement is Agreement.YES for row in tested)
    claims = f"{count(len(rows), 'claim')} of the paper"
    if not tested:
        return f"None of {claims} could be tested with these measurements."
    return (
        f"Of {claims}, {len(tested)} could be tested with these measurements: {agree} "
        f"{'agrees' if agree == 1 else 'agree'} and {len(tested) - agree} "
        f"{'disagrees' if len(tested) - agree == 1 else 'disagree'}."
    )
