"""``joulelab import --hosts``: one energy report from the logs of many hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from joulelab.cli.output import output_console, print_json, progress, value_table, write_csv
from joulelab.format import (
    count,
    duration,
    joules,
    number,
    percent,
    quantity,
    with_ends,
    with_interval,
)
from joulelab.logs.columns import LogOptions
from joulelab.logs.recorded_fleet import (
    Fleet,
    FleetEnergy,
    SupplyLoss,
    by_text,
    describe_missing,
    fleet_energy,
    read_fleet,
    supply_loss,
)
from joulelab.logs.span_energies import ImportedSpan

CSV_COLUMNS = (
    "span", "host", "start_s", "stop_s", "duration_s", "gross_j", "low_j", "high_j",
    "mean_power_w", "reason",
)  # fmt: skip


def import_hosts(
    patterns: Sequence[str],
    dc_patterns: Sequence[str],
    windows: Sequence[ImportedSpan],
    options: LogOptions,
    csv_file: Path | None,
    as_json: bool,
) -> None:
    """Report the energy of hosts within each window and over their whole recordings."""
    with progress("reading the logs of the hosts"):
        fleet = read_fleet(patterns, options)
        behind = read_fleet(dc_patterns, options) if dc_patterns else None
    with progress("computing energies"):
        found = [fleet_energy(fleet, window) for window in (*windows, None)]
        losses = None
        if behind is not None:
            losses = [supply_loss(fleet, behind, window) for window in windows or (None,)]
    notes = _notes(fleet, behind)
    if csv_file is not None:
        rows = [{"span": one.window.name, **row} for one in found for row in one.rows]
        write_csv(csv_file, [{name: row[name] for name in CSV_COLUMNS} for row in rows])
    if as_json:
        for note in notes:
            click.echo(note, err=True)
        data: list[dict[str, Any]] = [
            one.to_json() | {"missing": dict(fleet.missing)} for one in found
        ]
        for row, loss in zip(data, losses or (), strict=False):
            row["power_supplies"] = _loss_values(loss)
        print_json(data)
        return
    console = output_console()
    for one in found[: len(windows) or 1]:
        _print_hosts(console, one)
    if windows:
        console.print(f"{found[-1].window.name}: {_energy_text(found[-1].to_json())}")
    for loss in losses or ():
        console.print(_loss_text(loss))
    for note in notes:
        console.print(f"  {note}")


def per_sample_text(row: Mapping[str, Any]) -> str:
    """Return the energy of each sample."""
    low_j, high_j = row["low_j_per_sample"], row["high_j_per_sample"]
    return f"{with_interval(row['gross_j_per_sample'], low_j, high_j, 'J')} per sample"


def _print_hosts(console: Console, found: FleetEnergy) -> None:
    total = found.to_json()
    table = value_table("host", ["duration", "energy (95 % CI)", "mean power"], title=total["name"])
    for row in found.rows:
        table.add_row(row["host"], *_cells(row))
    table.add_section()
    table.add_row(count(len(found.rows), "host"), *_cells(total))
    console.print(table)
    console.print(f"{total['name']}: {_energy_text(total)}")
    for line in by_text((row["host"], row["reason"]) for row in found.rows if row["reason"]):
        console.print(f"  {line}")


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return (
        duration(row["duration_s"]),
        with_interval(row["gross_j"], row["low_j"], row["high_j"], "J", level=""),
        quantity(row["mean_power_w"], "W"),
    )


def _energy_text(row: Mapping[str, Any]) -> str:
    length = "" if row["duration_s"] is None else duration(row["duration_s"])
    text = ", ".join(filter(None, (joules(row["gross_j"], row["low_j"], row["high_j"]), length)))
    return f"{text}; {per_sample_text(row)}" if "gross_j_per_sample" in row else text


def _loss_values(loss: SupplyLoss) -> dict[str, Any]:
    return {
        "ac": loss.ac.to_json(),
        "dc": loss.dc.to_json(),
        "lost_j": loss.lost_j,
        **with_ends("lost_fraction", "", *astuple(loss.fraction)),
        "statement": _loss_text(loss),
    }


def _loss_text(loss: SupplyLoss) -> str:
    """Say what the power supplies lost, or that the two meters do not show it."""
    fraction = loss.fraction
    interval = with_interval(100 * fraction.value, 100 * fraction.low, 100 * fraction.high, "%")
    where = f"{loss.ac.window.name}, {count(loss.hosts, 'host')}"
    if fraction.value < 0:
        excess = -fraction.value
        more = (
            f"{percent(excess)} more than"
            if excess < 1
            else f"{number(1 + excess)} times as much as"
        )
        why = "one of them is wrong, or they are of other hosts"
        if fraction.high >= 0:
            why = "not significant, since it is within the uncertainty of the meters"
        return (
            f"The meters behind the power supplies read {more} those at the wall ({where}): {why}"
        )
    text = (
        f"The power supplies lost {interval} of the energy at the wall, "
        f"{quantity(loss.lost_j, 'J')} ({where})"
    )
    if fraction.low > 0:
        return text
    return f"{text}; not significant, since it is within the uncertainty of the meters"


def _notes(fleet: Fleet, behind: Fleet | None) -> list[str]:
    notes = [describe_missing(fleet.missing)] if fleet.missing else []
    notes += fleet.notes
    if behind is not None:
        notes += [f"--dc: {describe_missing(behind.missing)}"] if behind.missing else []
        notes += [f"--dc: {note}" for note in behind.notes]
        notes += [
            f"{host} has no log with --dc and is left out of the comparison"
            for host in fleet.logs
            if host not in behind.logs
        ]
    return list(dict.fromkeys(notes))
