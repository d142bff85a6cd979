"""The report: a self-contained page, figures as files and tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import jinja2

import joulelab
from joulelab.errors import StoreError, UserError
from joulelab.findings.answers import answers
from joulelab.findings.data import Data
from joulelab.findings.files import write_bytes
from joulelab.findings.findings import findings_json
from joulelab.findings.printed import hardware_table, model_table, write_printed
from joulelab.findings.tables import write_tables
from joulelab.report import files
from joulelab.report.drawing import Drawers, processes_for
from joulelab.report.embedded import page_data, policy, scripts
from joulelab.report.figure import Figure
from joulelab.report.figures.catalogue import Missing, drawn
from joulelab.report.files import Picture, Sheet
from joulelab.report.prose import paragraphs
from joulelab.report.scopes import Material, Scope, spoken_setting
from joulelab.report.sections import of_study, results, table_of
from joulelab.report.theme import QUANTITIES
from joulelab.runs.studies import Study, read_studies

PAGE = "report.html"
FINDINGS = "findings.json"


@dataclass(frozen=True, slots=True)
class Written:
    """What a report wrote.

    Attributes:
        page: The HTML file.
        figures: SVG, PNG and PDF of each figure, and its rows as CSV.
        tables: CSV, Parquet and LaTeX, and the findings.
    """

    page: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]


def write_report(directories: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Writes one self-contained HTML page, its figures, its tables and the findings.

    Args:
        directories: Studies, at least one.
        out: The page (a name ending in ``.html``) or the directory for it. Default: that of the
            study; ``joulelab-report`` in the current directory for several. Figures go to
            ``figures`` and tables beside the page.

    Returns:
        The page.

    Raises:
        StoreError: A directory is no study, none of its runs has ended (failed ones count, so
            that their reasons are seen), or the report cannot be written.
    """
    return write_all(directories, out).page


def write_all(
    directories: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    traces: Sequence[str] = (),
) -> Written:
    """As :func:`write_report`, and says what else it wrote.

    Args:
        directories: Studies, at least one.
        out: See :func:`write_report`.
        traces: Ids of the runs whose power is shown; default: the first ones.

    Raises:
        UserError: There is no run of such an id.
        StoreError: See :func:`write_report`.
    """
    if not directories:
        raise UserError("no study to report", hint="name one or several study directories")
    # It takes a second and lets go of the interpreter.
    Thread(target=scripts, daemon=True).start()
    studies = _readable(directories)
    with Drawers(
        files.FORMATS, processes_for(sum(len(study.runs) for study in studies))
    ) as drawers:
        data = Data.of(studies)
        material = Material.of(data, answers(data))
        figures, missing = drawn(material, _known(studies, traces))
        found = files.pictures(_sheets(material, figures), drawers)
    page = _place(studies, out)
    html = _html(material, figures, missing, found)
    figure_files = files.figure_files(page.parent / "figures", figures, found)
    tables = write_tables(data.runs, data.epochs, page.parent)
    tables += write_printed(data, page.parent)
    tables.append(write_bytes(page.parent / FINDINGS, findings_json(material.answers.findings)))
    write_bytes(page, html.encode())
    return Written(page, tuple(figure_files), tuple(tables))


def _html(
    material: Material,
    figures: Sequence[Figure],
    missing: Sequence[Missing],
    found: Sequence[Picture],
) -> str:
    net = bool(material.summary["net_j"].notna().any())
    simulated = bool((material.data.runs["provenance"] == "simulated").any())
    return _render(
        title=", ".join(study.label for study in material.data.studies),
        simulated=simulated,
        version=joulelab.__version__,
        policy=policy(),
        scripts=scripts(),
        data=page_data(material, figures, "net" if net else "gross"),
        quantities=QUANTITIES,
        net=net,
        places=_by_place(material.scopes),
        models=sorted(material.data.summary["model"].unique()),
        phases=sorted(set(material.summary["phase"]), reverse=True),
        figures=figures,
        missing=missing,
        pictures={
            figure.name: [one for one in found if one.sheet.figure == figure.name]
            for figure in figures
        },
        paragraphs=paragraphs(material, figures, detail=False),
        details=paragraphs(material, figures, detail=True),
        results=results(material),
        hardware=table_of(hardware_table(material.data)),
        characteristics=table_of(model_table(material.data)),
        studies=[of_study(study, material) for study in material.data.studies],
    )


def _readable(directories: Sequence[str | Path]) -> list[Study]:
    studies = read_studies(directories)
    for study in studies:
        if not study.readable():
            raise StoreError(
                f"{study.directory} has nothing to report",
                why="no run has ended, or every record is damaged",
                hint="run the study first",
            )
    return studies


def _known(studies: Sequence[Study], run_ids: Sequence[str]) -> Sequence[str]:
    known = {run.run_id for study in studies for run in study.cells()}
    for run_id in run_ids:
        if run_id not in known:
            raise UserError(
                f"no finished run {run_id!r}", hint="see the directories under runs/ of the study"
            )
    return run_ids


def _by_place(scopes: Sequence[Scope]) -> dict[str, list[Scope]]:
    places: dict[str, list[Scope]] = {}
    for scope in scopes:
        places.setdefault(scope.place, []).append(scope)
    return places


def _stem(scope: Scope, leading: Sequence[Scope]) -> str:
    return f"{_slug(scope.place)}-" if len(leading) > 1 else ""


def _sheets(material: Material, figures: Sequence[Figure]) -> list[Sheet]:
    """Those of leading scopes, without what is the same for each, as machines side by side."""
    leading = [scope for scope in material.scopes if scope.leading]
    distinct: dict[str, Sheet] = {}
    for figure in figures:
        for scope in leading:
            for sheet in files.sheets_of(figure, scope, _stem(scope, leading)):
                distinct.setdefault(json.dumps(sheet.specification), sheet)
    return list(distinct.values())


def _render(**values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("joulelab.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spoken"] = spoken_setting
    return environment.get_template("report.html.j2").render(**values)


def _place(studies: Sequence[Study], out: str | Path | None) -> Path:
    if out is None:
        directory = studies[0].directory if len(studies) == 1 else Path("joulelab-report")
        return directory / PAGE
    path = Path(out)
    return path if path.suffix.lower() in (".html", ".htm") and not path.is_dir() else path / PAGE


def _slug(text: str) -> str:
    """Letters, digits and hyphens.

    Example:
        >>> _slug("quick (my study)")
        'quick-my-study'
    """
    kept = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in text)
    return "-".join(kept.lower().split())
