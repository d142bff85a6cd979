"""``joulelab study``: a plan in, runs, a table and a report out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.errors import UserError

if TYPE_CHECKING:
    from joulelab.study.plan import Plan
    from joulelab.study.runner import Outcome

_NEEDED = ("pydantic", "torch", "torchvision", "sklearn", "pandas", "pyarrow", "jinja2")
_FILE_WIDTH = 400
"""Columns of the table where no terminal limits it."""

_FACTORS = (
    "batch_size",
    "precision",
    "memory_format",
    "compile",
    "optimizer",
    "input_path",
    "device",
    "dataset",
)
_COLUMNS = (
    "model",
    "phase",
    *_FACTORS,
    "n",
    "provenance",
    "gross_j",
    "gross_j_low",
    "gross_j_high",
    "net_j",
    "net_j_low",
    "net_j_high",
    "gross_j_per_sample",
    "mean_power_w",
    "duration_s",
    "accuracy_pct",
)


@click.command(short_help="Measure models on this machine: a plan in, a table and a report out")
@click.argument("plan")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The study's directory. Default: studies/NAME, NAME being the plan's.",
)
@click.option("--list", "only_list", is_flag=True, help="Show the cells and what they will take.")
@click.option("--retry-failed", is_flag=True, help="Run cells again that failed.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the plan, for example --set train.epochs=2. May be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    plan: str,
    out: Path | None,
    only_list: bool,
    retry_failed: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure models on this machine.

    PLAN is a TOML file or one of the presets quick, paper, paper-profile and batch-size.
    Started again on the same directory it runs what is missing, however it ended before.
    Exits with 1 when no cell could be run.

    \b
    Example:
      joulelab study quick                       four models, some minutes
      joulelab study quick --list                what it would run
      joulelab study paper-profile --out mine    the paper's 16 in short windows
    """
    _require_packages()
    from joulelab.study.plan_file import load_plan  # noqa: PLC0415

    chosen = load_plan(plan, overrides=overrides)
    directory = out or Path("studies") / chosen.name
    if only_list:
        _list(chosen, directory, as_json)
        return
    again = f"run `joulelab study {plan} --out {directory}` again to go on"
    from joulelab.study.runner import run_study  # noqa: PLC0415

    try:
        outcome = run_study(directory, chosen, retry_failed=retry_failed)
    except KeyboardInterrupt:
        click.echo(f"\njoulelab: interrupted; finished cells are kept, {again}", err=True)
        click.get_current_context().exit(130)
    _show(outcome, as_json)
    if outcome.failed == outcome.cells:
        click.get_current_context().exit(1)


def _require_packages() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            "a study needs more packages",
            why=f"{', '.join(missing)} cannot be imported",
            hint="run pip install 'joulelab[study]'",
        )


def _show(outcome: Outcome, as_json: bool) -> None:
    from joulelab.findings.summary import summary  # noqa: PLC0415
    from joulelab.findings.tables import run_rows, write_results  # noqa: PLC0415
    from joulelab.report.page import write_report  # noqa: PLC0415
    from joulelab.runs.store import plain  # noqa: PLC0415

    directory = outcome.directory
    paths = [str(path) for path in write_results(directory)]
    report = str(write_report([directory]))
    rows = [
        {name: row.get(name) for name in _COLUMNS}
        for row in plain(summary(run_rows([directory])).to_dict("records"))
    ]
    if as_json:
        _print_json(
            {
                "directory": str(directory),
                "cells": outcome.cells,
                "failed": outcome.failed,
                "results": paths,
                "report": report,
                "rows": rows,
            }
        )
        return
    _print_table(rows)
    if outcome.failed:
        click.echo(
            f"{outcome.failed} of {outcome.cells} cells failed; the reasons are in the report, "
            "--retry-failed runs them again"
        )
    click.echo(f"Results: {', '.join(paths)}")
    click.echo(f"Report:  {report}")


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    varied = [name for name in _FACTORS if len({row[name] for row in rows}) > 1]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("phase", no_wrap=True)
    for title in (*varied, "gross J", "95 %", "net J", "J/sample", "W", "s", "acc %"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        accuracy_pct = row["accuracy_pct"]
        table.add_row(
            row["model"],
            row["phase"],
            *(str(row[name]) for name in varied),
            _number(row["gross_j"]),
            f"{_number(row['gross_j_low'])} to {_number(row['gross_j_high'])}",
            _number(row["net_j"]),
            _number(row["gross_j_per_sample"]),
            _number(row["mean_power_w"]),
            _number(row["duration_s"]),
            "" if accuracy_pct is None else f"{accuracy_pct:.1f}",
        )
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    console.print(table)
    kinds = sorted({str(row["provenance"]) for row in rows if row["provenance"]})
    click.echo(
        f"Means over repeats; energy is {' and '.join(kinds) or 'not measured'}; "
        "empty: not measured."
    )


def _number(value: float | None) -> str:
    """Three significant digits; empty when not measured.

    Example:
        >>> _number(1234.5), _number(0.01234), _number(None)
        ('1,234', '0.0123', '')
    """
    if value is None:
        return ""
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _list(plan: Plan, directory: Path, as_json: bool) -> None:
    from joulelab.runs.store import Store  # noqa: PLC0415
    from joulelab.study.estimate import cost_of, cost_of_all  # noqa: PLC0415
    from joulelab.study.order import blocks  # noqa: PLC0415

    records = Store.open(directory).runs() if (directory / "plan.toml").exists() else []
    status = {record.run_id: record.status for record in records}
    runs = [dict(record.data) for record in records if record.problem is None]
    cells = [cell for block in blocks(plan) for cell in block]
    missing = [cell for cell in cells if cell.run_id not in status]
    lines = [
        {
            "run_id": cell.run_id,
            "status": status.get(cell.run_id, "missing"),
            **cell.factors.to_json(),
            "cost": cost_of(cell, plan, runs),
        }
        for cell in cells
    ]
    total = cost_of_all(missing, plan, runs)
    if as_json:
        _print_json(
            {
                "cells": [line | {"cost": _cost_json(line["cost"])} for line in lines],
                "missing": len(missing),
                "to_go": _cost_json(total),
            }
        )
        return
    width = max(len(cell.run_id) for cell in cells)
    for line in lines:
        click.echo(f"{line['run_id']:{width}}  {line['status']:7}  about {line['cost']}")
    click.echo(
        f"{len(cells)} cells, {len(missing)} missing: about {total}, with "
        f"{plan.idle_s:g} s of idle before and after each of {plan.repeats} blocks"
    )


def _cost_json(cost: Any) -> dict[str, float | None]:
    from joulelab.runs.store import plain  # noqa: PLC0415

    return {"duration_s": plain(cost.duration_s), "energy_j": cost.energy_j}


def _print_json(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data, indent=1, allow_nan=False))
