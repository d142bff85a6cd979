"""Report of studies: a self-contained page, charts as files, tables and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from joulelab.errors import StoreError, UserError
from joulelab.findings.all import Analysis, analyze
from joulelab.findings.latex import hardware_table, model_table, write_paper_tables
from joulelab.findings.schema import Finding, findings_json, records
from joulelab.findings.tables import StudyTables, csv, write_file, write_results
from joulelab.report import renderer
from joulelab.report.charts import Drawing, all_charts, drawings, write_charts
from joulelab.report.charts.chart import Chart
from joulelab.report.charts.style import PHASES, QUANTITIES
from joulelab.report.first_screen import FirstScreen, first_screen
from joulelab.report.page_data import page_data
from joulelab.report.page_template import TABLES, fill_template, page_path, scripts
from joulelab.report.renderer import Renderer, processes_for
from joulelab.report.sections import results, study_section, text_table
from joulelab.report.settings_section import setting_table, settings_sections

SCRIPT = "report.js"
FINDINGS = "findings.json"


@dataclass(frozen=True, slots=True)
class Report:
    """What a report wrote."""

    page: Path  # The HTML file.
    figures: tuple[Path, ...]  # SVG, PNG and PDF of each chart, and its rows as CSV.
    # ``results.parquet``, ``results.csv`` and ``epochs.parquet``, and of studies with factors
    # ``effects.csv`` and ``settings.csv``.
    results: tuple[Path, ...]
    tables: tuple[Path, ...]  # The tables of a paper, and the findings.
    analysis: Analysis  # What they were made from.
    screen: FirstScreen  # What the page shows first.


def write_report(
    directories: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    traces: Sequence[str] = (),
) -> Report:
    """Write the results, the findings, the charts, the tables of a paper and the page.

    The records are read once.

    Args:
        directories: Study directories, at least one.
        out: The page (a name that ends in ``.html``) or its directory. Default: the directory of
            a single study; ``joulelab-report`` in the current directory for several. Charts go to
            ``figures`` and tables next to the page.
        traces: Ids of the runs whose power is shown; default: the first ones.

    Raises:
        UserError: There is no directory, or no finished run of such an id.
        StoreError: A directory is no study, none of its runs has ended (failed ones count, so
            that their reasons are shown), or a file cannot be written.
    """
    if not directories:
        raise UserError("no study to report", hint="name one or more study directories")
    # This takes a second and releases the interpreter.
    Thread(target=scripts, args=[SCRIPT], daemon=True).start()
    tables = _readable(directories)
    studies = tables.studies
    unknown = set(traces) - {run.id for study in studies for run in study.cells()}
    if unknown:
        hint = "see the directories under runs/ of the study"
        raise UserError(f"no finished run {min(unknown)!r}", hint=hint)
    processes = processes_for(sum(len(study.runs) for study in studies))
    with Renderer(renderer.FORMATS, processes) as warm:
        analysis = analyze(tables)
        charts, missing = all_charts(analysis, traces)
        groups = tables.measurements.drop_duplicates("group")
        drawn = drawings(charts, groups[groups["rank"] == 0])
        images = iter(warm.render([one.specification for one in drawn if not one.sentence]))
    drawn = [one if one.sentence else replace(one, images=next(images)) for one in drawn]
    own = studies[0].directory if len(studies) == 1 else Path("joulelab-report")
    page = page_path(own, out)
    screen = first_screen(analysis)
    html = _html(analysis, screen, charts, missing, drawn)
    figures = write_charts(page.parent / "figures", charts, drawn, groups)
    rows = write_results(tables, page.parent)
    if len(analysis.setting_effects):
        effects = {"effects.csv": analysis.factor_effects, "settings.csv": setting_table(analysis)}
        rows += [write_file(page.parent / name, csv(table)) for name, table in effects.items()]
    paper = write_paper_tables(tables, page.parent)
    paper.append(write_file(page.parent / FINDINGS, findings_json(analysis.findings)))
    write_file(page, html.encode())
    return Report(page, tuple(figures), tuple(rows), tuple(paper), analysis, screen)


def _readable(directories: Sequence[str | Path]) -> StudyTables:
    tables = StudyTables.read(directories)
    for study in tables.studies:
        if not study.runs:
            raise StoreError(
                f"{study.directory} has nothing to report",
                why="no run has ended, or every record is damaged",
                hint="run the study first",
            )
    return tables


def _html(
    analysis: Analysis,
    screen: FirstScreen,
    charts: list[Chart],
    missing: dict[str, str],
    drawn: list[Drawing],
) -> str:
    tables = analysis.tables
    measured = tables.measurements
    groups = measured.drop_duplicates("group")
    net = bool(measured["net_j"].notna().any())
    places: dict[str, list[dict[str, Any]]] = {}
    for row in records(groups):
        places.setdefault(f"{row['study']} · {row['machine']}", []).append(row)
    return fill_template(
        "report.html.j2",
        script=SCRIPT if charts else TABLES,
        title=", ".join(study.label for study in tables.studies),
        simulated=bool((tables.runs["provenance"] == "simulated").any()),
        data=page_data(groups, charts, "net" if net else "gross"),
        quantities=QUANTITIES,
        net=net,
        places=places,
        models=sorted(tables.summary["model"].unique()),
        phases={phase: PHASES[phase] for phase in PHASES if (measured["phase"] == phase).any()},
        units=" or ".join(dict.fromkeys(measured["unit"])) or "sample",
        screen=screen,
        charts=charts,
        key_chart=_key_chart(charts, tables),
        missing=missing,
        drawings={
            chart.name: [one for one in drawn if one.chart == chart.name] for chart in charts
        },
        findings=_by_chart(analysis.findings, charts, detail=False),
        details=_by_chart(analysis.findings, charts, detail=True),
        results=results(measured, analysis.model_ratios, "net" if net else "gross"),
        settings=settings_sections(analysis),
        hardware=text_table(hardware_table(tables.studies)),
        characteristics=text_table(model_table(tables.summary)),
        studies=[study_section(study, analysis) for study in tables.studies],
    )


def _by_chart(
    findings: Sequence[Finding], charts: Sequence[Chart], *, detail: bool
) -> dict[str, list[Finding]]:
    """Return the findings of each chart and of the results, and under ``""`` those of none."""
    found: dict[str, list[Finding]] = {
        "": [],
        "results": [],
        **{chart.name: [] for chart in charts},
    }
    for finding in findings:
        if finding.detail is detail:
            found[finding.figure if finding.figure in found else ""].append(finding)
    return found


def _key_chart(charts: Sequence[Chart], tables: StudyTables) -> Chart | None:
    """Return the most telling chart: energy by model, or effects of factors for one model."""
    by_name = {chart.name: chart for chart in charts}
    names = ["energy", "effects"]
    if tables.measurements["model"].nunique() == 1:
        names.reverse()
    return next((by_name[name] for name in names if name in by_name), None)
