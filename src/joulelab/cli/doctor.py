"""``joulelab doctor``: this machine's hardware and every sensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from joulelab.cli.output import output_console
from joulelab.energy.signal import channel_role
from joulelab.format import ABSENT, duration, quantity
from joulelab.machine import Machine, describe
from joulelab.sensors.discovery import ChannelNow, discover, read_now
from joulelab.sensors.sensor import Absence, Channel, Discovery, Quantity
from joulelab.sensors.visible_devices import environment_selection

ALWAYS_S = 1e-5
"""A channel with a shorter update period is calculated when it is read."""
UNITS = {
    Quantity.POWER: "W",
    Quantity.ENERGY: "J",
    Quantity.UTILIZATION: "%",
    Quantity.MEMORY_UTILIZATION: "%",
    Quantity.MEMORY_USED: "B",
    Quantity.TEMPERATURE: "°C",
    Quantity.SM_CLOCK: "Hz",
    Quantity.MEMORY_CLOCK: "Hz",
    Quantity.CLOCK_OFFSET: "s",
    Quantity.USE: "s",
    Quantity.JOB_USE: "s",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what can be measured on this machine, what cannot, and why.

    \b
    Example:
      joulelab doctor
      CUDA_VISIBLE_DEVICES=1 joulelab doctor --json
    """
    machine = describe(*environment_selection())
    found = discover()
    try:
        rows = read_now(found.sensors)
    finally:
        for sensor in found.sensors:
            sensor.close()
    if as_json:
        click.echo(json.dumps(_as_json(machine, found, rows), indent=2))
    else:
        _print(machine, found, rows)


def _as_json(machine: Machine, found: Discovery, rows: Sequence[ChannelNow]) -> dict[str, Any]:
    sensors = []
    channels = [row.channel for row in rows]
    for channel, value, reason in rows:
        entry = channel.to_json() | {"power_w" if channel.gives_energy else "value": value}
        entry["use"] = channel_role(channel, channels)
        sensors.append(entry | ({"reason": reason} if reason else {}))
    return {
        "machine": machine.to_json(),
        "hardware_configuration": machine.hardware_configuration(),
        "sensors": sensors,
        "absent": [absence.to_json() for absence in found.absent],
    }


def _print(machine: Machine, found: Discovery, rows: Sequence[ChannelNow]) -> None:
    console = output_console()
    hardware = _table("Hardware configuration")
    hardware.show_header = False
    for name, text in machine.hardware_configuration().items():
        hardware.add_row(name, escape(text))
    console.print(hardware)

    sensors = _table("Sensors", "component", "source", "quantity", "provenance")
    for heading in ("every", "step", "now"):
        sensors.add_column(heading, justify="right", overflow="fold")
    for channel, value, _ in rows:
        unit = UNITS[channel.quantity]
        sensors.add_row(
            channel.component,
            channel.source,
            channel.quantity.rpartition("_")[0].replace("_", " "),
            channel.provenance,
            "always" if channel.update_period_s <= ALWAYS_S else duration(channel.update_period_s),
            quantity(channel.resolution, unit) if channel.resolution else ABSENT,
            quantity(value, "W" if channel.gives_energy else unit),
        )
    console.print("\n", sensors)

    for line in _roles([row.channel for row in rows]):
        console.print(f"  {escape(line)}", highlight=False)
    notes: dict[str, dict[str, None]] = {}
    for channel, _, _ in rows:
        if channel.note:
            notes.setdefault(channel.note, {})[channel.component] = None
    for note, components in notes.items():
        console.print(f"  {', '.join(components)}: {escape(note)}", highlight=False)
    for reason in dict.fromkeys(f"{c.component} {c.source}: {r}" for c, _, r in rows if r):
        console.print(f"  no value now: {escape(reason)}", highlight=False)
    if found.absent:
        absent = _table("Absent", "component", "source", "why, and how to fix it")
        for (source, reason), components_of in _grouped(found.absent).items():
            absent.add_row(", ".join(components_of), source, escape(reason))
        console.print("\n", absent)


def _roles(channels: Sequence[Channel]) -> list[str]:
    """Where each component's energy comes from."""
    lines: dict[str, list[str]] = {}
    for channel in sorted(channels, key=lambda one: one.priority):
        text = channel_role(channel, channels)
        if text is not None:
            window = f" (means of {duration(channel.window_s)})" if channel.window_s else ""
            lines.setdefault(channel.component, []).append(f"{text} by {channel.source}{window}")
    return [f"{component}: {', '.join(texts)}" for component, texts in lines.items()]


def _grouped(absences: Sequence[Absence]) -> dict[tuple[str, str], list[str]]:
    """Components by the source that they lack, with reason and hint."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in absences:
        why = f"{one.reason}\n-> {one.hint}" if one.hint else one.reason
        found.setdefault((one.source, why), []).append(one.component)
    return found


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
