"""``joulelab study``: a plan in; runs, a table and a report out."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.cli.options import complete_plan
from joulelab.cli.output import echo, output_console, print_json, value_table
from joulelab.errors import UserError, require_packages
from joulelab.format import count, finite_or_none, interval, join_words, number
from joulelab.layout import write_lines
from joulelab.models.registry import check_factory
from joulelab.runs import FACTORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joulelab.study.plan import Plan
    from joulelab.study.progress import Cost
    from joulelab.study.runner import ListedCell, Outcome

_STATUSES = ("done", "missing", "failed", "damaged")
_NEEDED = ("pydantic", "tomli_w", "torch", "torchvision", "sklearn", "pandas", "pyarrow", "jinja2")
_COLUMNS = (
    *("model", "phase", "host", *FACTORS, "n", "provenance"),
    *("gross_j", "gross_j_low", "gross_j_high", "net_j", "net_j_low", "net_j_high"),
    *("gross_j_per_sample", "mean_power_w", "duration_s"),
    *("gross_j_per_token", "net_j_per_token"),
    *("accuracy_pct", "shared_runs"),
)


@click.command()
@click.argument("plan", required=False, metavar="PLAN", shell_complete=complete_plan)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Directory of the study.  [default: studies/NAME, with the name of the plan]",
)
@click.option("--list", "only_list", is_flag=True, help="List the cells and what they will cost.")
@click.option("--retry-failed", is_flag=True, help="Run failed cells again.")
@click.option(
    "--retry-shared",
    is_flag=True,
    help="Run cells again during which other processes used the machine.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the plan, for example --set train.epochs=2; may be given several times.",
)
@click.option(
    "--on",
    "engine",
    type=click.Choice(["local", "slurm", "ray"]),
    default="local",
    show_default=True,
    help="Run the cells on this host, or on those of a Slurm or Ray cluster.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    plan: str | None,
    out: Path | None,
    only_list: bool,
    retry_failed: bool,
    retry_shared: bool,
    overrides: tuple[str, ...],
    engine: str,
    as_json: bool,
) -> None:
    """Measure models on this machine or a cluster, and report the results.

    PLAN is a TOML file or one of the presets quick, paper, paper-profile, batch-size, language and
    language-gpu. Started again on the same directory it runs what is missing, however it ended
    before. Exits with 1 if every cell failed.

    A plan can run code: models and sensors that it names are imported. Read a plan of another
    person before you run it.

    \b
    Example:
      joulelab study quick                       four models, some minutes
      joulelab study quick --list                what it would run
      joulelab study paper-profile --out mine    the paper's 16 models in short windows
      joulelab study paper --on slurm            spread over the nodes of a cluster
    """
    require_packages("cannot run a study", _NEEDED, "study")
    from joulelab.fleet.engines import engine_named  # noqa: PLC0415
    from joulelab.study.plan_file import load_plan, preset_names  # noqa: PLC0415
    from joulelab.study.runner import list_cells, run_study  # noqa: PLC0415

    if plan is None:
        presets = join_words(preset_names(), "or")
        raise UserError("a study needs a plan", hint=f"name a TOML file or a preset: {presets}")
    chosen = load_plan(plan, overrides=overrides)
    directory = out or Path("studies") / chosen.name
    if only_list:
        _print_cells(chosen, *list_cells(chosen, directory), as_json)
        sys.path.append(str(Path.cwd()))  # As the runs do.
        for name in chosen.models:
            check_factory(name)
        return
    context = click.get_current_context()
    try:
        outcome = run_study(
            directory,
            chosen,
            retry_failed=retry_failed,
            retry_shared=retry_shared,
            engine=engine_named(engine),
        )
    except KeyboardInterrupt:
        on = "" if engine == "local" else f" --on {engine}"
        echo(
            "\njoulelab: interrupted; finished cells are saved, "
            f"run `joulelab study {plan} --out {directory}{on}` again to continue",
            err=True,
        )
        context.exit(130)
    _report(outcome, as_json)
    if outcome.failed == outcome.cells:
        context.exit(1)


def _report(outcome: Outcome, as_json: bool) -> None:
    from joulelab.report.page import write_report  # noqa: PLC0415

    report = write_report([outcome.directory])
    paths = [str(path) for path in report.results]
    rows = [
        {name: row.get(name) for name in _COLUMNS}
        for row in finite_or_none(report.analysis.tables.summary.to_dict("records"))
    ]
    if as_json:
        print_json(
            {
                "directory": str(outcome.directory),
                "cells": outcome.cells,
                "failed": outcome.failed,
                "results": paths,
                "report": str(report.page),
                "caveats": list(report.screen.warnings),
                "key_findings": report.screen.to_json(),
                "rows": rows,
            }
        )
        return
    write_lines(report.screen.lines(), sys.stdout)
    echo()
    _print_table(rows)
    if outcome.failed:
        echo(
            f"{outcome.failed} of {count(outcome.cells, 'cell')} failed; the reasons are in the "
            "report, --retry-failed runs them again"
        )
    echo(f"Results: {', '.join(paths)}")
    echo(f"Report:  {report.page}")


def _print_table(rows: list[dict[str, Any]]) -> None:
    varied = [name for name in ("host", *FACTORS) if len({row[name] for row in rows}) > 1]
    unit = "sample" if all(row["gross_j_per_token"] is None for row in rows) else "token"
    headings = ("gross J", "95 % CI", "net J", f"J/{unit}", "W", "s", "acc %")
    shared = ["busy"] if any(row["shared_runs"] for row in rows) else []
    table = value_table("model", ["phase", *varied, *headings, *shared], names=2 + len(varied))
    for row in rows:
        gross = row["gross_j"]
        table.add_row(
            row["model"],
            row["phase"],
            *(str(row[name]) for name in varied),
            number(gross),
            "" if gross is None else interval(row["gross_j_low"], row["gross_j_high"], gross),
            *(number(row[name]) for name in ("net_j", f"gross_j_per_{unit}", "mean_power_w")),
            number(row["duration_s"]),
            number(row["accuracy_pct"]),
            *(f"{row['shared_runs']} of {row['n']}" for _ in shared),
        )
    console = output_console()
    console.print(table)
    kinds = sorted({str(row["provenance"]) for row in rows if row["provenance"]})
    echo(f"Means over repeats; energy is {join_words(kinds) or 'not measured'}.")


def _print_cells(plan: Plan, cells: Sequence[ListedCell], to_go: Cost, as_json: bool) -> None:
    missing = sum(cell.status == "missing" for cell in cells)
    if as_json:
        listed = [
            {
                "run_id": one.cell.run_id,
                "status": one.status,
                "host": one.host,
                **one.cell.factors,
                "cost": one.cost.to_json(),
            }
            for one in cells
        ]
        print_json({"cells": listed, "missing": missing, "to_go": to_go.to_json()})
        return
    from joulelab.study.cells import combinations  # noqa: PLC0415 - imports pydantic

    columns = ["model", *plan.varying_factors]
    settings: dict[tuple[str, ...], list[ListedCell]] = {
        tuple(str(factors[name]) for name in columns): [] for factors in combinations(plan)
    }
    for one in cells:
        settings[tuple(str(one.cell.factors[name]) for name in columns)].append(one)
    found = {one.status for one in cells}
    statuses = [name for name in _STATUSES if name in found or name in _STATUSES[:2]]
    known = [
        name
        for name, value in (("time", "duration_s"), ("energy", "energy_j"))
        if any(not math.isnan(getattr(one.cost, value)) for one in cells)
    ]
    table = value_table("model", [*columns[1:], *statuses, *known], names=len(columns))
    for levels, ones in settings.items():
        counts = Counter(one.status for one in ones)
        cost = {"time": ones[0].cost.time_text, "energy": ones[0].cost.energy_text}
        table.add_row(
            *levels, *(str(counts[name]) for name in statuses), *(cost[name] for name in known)
        )
    output_console().print(table)
    echo(
        f"{count(len(cells), 'cell')} in {count(plan.repeats, 'block')}, {missing} missing"
        + (f": {to_go.estimate}" if to_go.estimate else "")
        + f", and {plan.idle_s:g} s of idle before and after each block."
    )
    hosts = Counter(one.host for one in cells if one.host)
    if len(hosts) > 1:
        ran = [
            f"{count(number, 'cell')} on {host} ({_blocks(cells, host)})"
            for host, number in sorted(hosts.items())
        ]
        echo(f"Finished: {join_words(ran)}.")
    if known:
        echo(f"The {join_words(known)} in the table {_are(known)} expected of one cell.")
    unknown = [name for name in ("time", "energy") if name not in known]
    if unknown:
        echo(f"The {join_words(unknown)} of a cell {_are(unknown)} unknown until one has run.")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _blocks(cells: Sequence[ListedCell], host: str) -> str:
    """Name the blocks of which a host ran cells."""
    blocks = sorted({one.cell.block for one in cells if one.host == host})
    return f"{'block' if len(blocks) == 1 else 'blocks'} {join_words([*map(str, blocks)])}"
