"""``joulelab doctor``: this machine's hardware and every sensor."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from joulelab.machine import Machine, describe
from joulelab.sensors.discovery import discover
from joulelab.sensors.sensor import (
    Absence,
    Channel,
    Discovery,
    Gap,
    Quantity,
    Reading,
    Sensor,
    SensorEvent,
)
from joulelab.sensors.visible_devices import environment_selection

SETTLE_S = 0.25
"""Between two readings, so that counters and utilisations have moved."""
ALWAYS_S = 1e-5
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
    """What can be measured on this machine, and what cannot, and why.

    \b
    Example:
      joulelab doctor
      CUDA_VISIBLE_DEVICES=1 joulelab doctor --json
    """
    machine = describe(*environment_selection())
    found = discover()
    try:
        rows = _examine(found.sensors)
    finally:
        for sensor in found.sensors:
            sensor.close()
    if as_json:
        click.echo(json.dumps(_as_json(machine, found, rows), indent=2))
    else:
        _print(machine, found, rows)


def _examine(sensors: Sequence[Sensor]) -> list[tuple[Channel, float | None, str]]:
    """Each channel with its power or value now, or in words why there is none."""
    readings = [_numbers(sensor) for sensor in sensors]
    time.sleep(SETTLE_S)
    return [
        (channel, *_now(channel, [r for r in [*before, *after] if r.channel == position]))
        for sensor, before in zip(sensors, readings, strict=True)
        for after in [_numbers(sensor)]
        for position, channel in enumerate(sensor.channels)
    ]


def _numbers(sensor: Sensor) -> list[Reading | Gap]:
    return [one for one in sensor.read() if not isinstance(one, SensorEvent)]


def _now(channel: Channel, readings: Sequence[Reading | Gap]) -> tuple[float | None, str]:
    values = [reading for reading in readings if isinstance(reading, Reading)]
    if not values:
        gaps = [reading.reason for reading in readings if isinstance(reading, Gap)]
        return None, gaps[-1] if gaps else "no reading yet"
    if channel.quantity is not Quantity.ENERGY:
        return values[-1].value, ""
    first, last = values[0], values[-1]
    if last.t_ns == first.t_ns or last.value < first.value:
        return None, "a counter: its power shows in a recording"
    if last.value == first.value:
        return None, f"the counter stood still for {(last.t_ns - first.t_ns) / 1e9:.2g} s"
    return (last.value - first.value) / ((last.t_ns - first.t_ns) / 1e9), ""


def _use(channel: Channel, channels: Sequence[Channel]) -> str | None:
    """What the account of its component takes a channel for."""
    from joulelab.energy.signal import can_scale  # noqa: PLC0415

    if not channel.gives_energy:
        return None
    same = [one for one in channels if one.gives_energy and one.component == channel.component]
    first = min(same, key=lambda one: one.priority)
    if channel is first:
        return "energy"
    return "its scale and gaps" if can_scale(first, channel) else "its gaps"


def _choices(channels: Sequence[Channel]) -> list[str]:
    """Where each component's energy comes from."""
    lines: dict[str, list[str]] = {}
    for channel in sorted(channels, key=lambda one: one.priority):
        use = _use(channel, channels)
        if use is not None:
            window = f" (means of {_seconds(channel.window_s)})" if channel.window_s else ""
            lines.setdefault(channel.component, []).append(f"{use} by {channel.source}{window}")
    return [f"{component}: {', '.join(uses)}" for component, uses in lines.items()]


def _as_json(
    machine: Machine, found: Discovery, rows: Sequence[tuple[Channel, float | None, str]]
) -> dict[str, Any]:
    sensors = []
    channels = [channel for channel, _, _ in rows]
    for channel, value, reason in rows:
        entry = channel.to_json() | {"power_w" if channel.gives_energy else "value": value}
        entry["use"] = _use(channel, channels)
        sensors.append(entry | ({"reason": reason} if reason else {}))
    return {
        "machine": machine.to_json(),
        "hardware_configuration": machine.hardware_configuration(),
        "sensors": sensors,
        "absent": [asdict(absence) for absence in found.absent],
    }


def _print(
    machine: Machine, found: Discovery, rows: Sequence[tuple[Channel, float | None, str]]
) -> None:
    console = Console()
    hardware = _table("Hardware configuration")
    hardware.show_header = False
    for what, text in machine.hardware_configuration().items():
        hardware.add_row(what, escape(text))
    console.print(hardware)

    sensors = _table("Sensors", "component", "source", "quantity", "provenance")
    for heading in ("every", "step", "now"):
        sensors.add_column(heading, justify="right", overflow="fold")
    for channel, value, _ in rows:
        sensors.add_row(
            channel.component,
            channel.source,
            channel.quantity.rpartition("_")[0].replace("_", " "),
            channel.provenance,
            _period(channel.update_period_s),
            _step(channel),
            _value(channel, value),
        )
    console.print("\n", sensors)

    for line in _choices([channel for channel, _, _ in rows]):
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
        absent = _table("Absent", "component", "source", "why, and what to do")
        for (source, why), lacking in _alike(found.absent).items():
            absent.add_row(", ".join(lacking), source, escape(why))
        console.print("\n", absent)


def _alike(absences: Sequence[Absence]) -> dict[tuple[str, str], list[str]]:
    """Components by the source that they lack, and its reason and hint."""
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


def _period(duration_s: float) -> str:
    """What a clock is multiplied by has a new value whenever it is asked."""
    return "always" if duration_s <= ALWAYS_S else _seconds(duration_s)


def _seconds(duration_s: float) -> str:
    return f"{duration_s * 1e3:g} ms" if duration_s < 1 else f"{duration_s:g} s"


def _step(channel: Channel) -> str:
    if not channel.resolution:
        return "?"
    unit = UNITS[channel.quantity]
    for scale, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ")):
        if channel.resolution >= scale:
            return f"{channel.resolution / scale:.4g} {prefix}{unit}"
    return f"{channel.resolution:.1g} {unit}"


def _value(channel: Channel, value: float | None) -> str:
    if value is None:
        return "-"
    if channel.gives_energy:
        return f"{value:.1f} W"
    scale, unit = {
        Quantity.UTILIZATION: (1.0, "%"),
        Quantity.MEMORY_UTILIZATION: (1.0, "%"),
        Quantity.MEMORY_USED: (2.0**30, "GiB"),
        Quantity.TEMPERATURE: (1.0, "°C"),
        Quantity.SM_CLOCK: (1e6, "MHz"),
        Quantity.MEMORY_CLOCK: (1e6, "MHz"),
    }.get(channel.quantity, (1.0, ""))
    return f"{value / scale:.4g} {unit}".rstrip()
