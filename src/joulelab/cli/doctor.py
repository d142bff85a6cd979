"""``joulelab doctor``: this machine's hardware and every sensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click
from rich.table import Table

from joulelab.cli.doctor_add import add_meter
from joulelab.cli.doctor_check import check
from joulelab.cli.output import output_console
from joulelab.energy.estimator import energies_of
from joulelab.energy.nesting import Nesting
from joulelab.energy.signal import channel_role
from joulelab.errors import UserError
from joulelab.format import ABSENT, duration, memory_size, quantity
from joulelab.machine import Machine, describe
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.discovery import SETTLE_S, ChannelNow, discover, present_values, read_moment
from joulelab.sensors.meters.entries import KINDS
from joulelab.sensors.sensor import (
    Absence,
    Channel,
    Discovery,
    Gap,
    Provenance,
    Quantity,
    Reading,
    Sensor,
    SensorEvent,
)
from joulelab.sensors.visible_devices import environment_selection

COMPARE_S = 2.0
"""Time in which what is read each second has two readings, and slow meters answer."""
UNITS = {
    Quantity.POWER: "W",
    Quantity.ENERGY: "J",
    Quantity.UTILIZATION: "%",
    Quantity.MEMORY_UTILIZATION: "%",
    Quantity.TEMPERATURE: "°C",
    Quantity.SM_CLOCK: "Hz",
    Quantity.MEMORY_CLOCK: "Hz",
    Quantity.CLOCK_OFFSET: "s",
    Quantity.USE: "s",
    Quantity.JOB_USE: "s",
}


@click.command("doctor")
@click.option(
    "--check",
    "test",
    is_flag=True,
    help="Test the sensors for a minute with a load of its own: do they agree, and how exact and "
    "how fast are they? Exit with 1 if one contradicts another.",
)
@click.option("--add", "kind", type=click.Choice([*KINDS]), metavar="KIND",
    help=f"Try a meter of the whole machine and save it: {', '.join(KINDS)}.")  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of the meter to add.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Another field of its entry, for example user=admin.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Try the meter to add without saving it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("address", nargs=-1)
@click.pass_context
def command(
    context: click.Context,
    test: bool,
    kind: str | None,
    name: str | None,
    settings: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    address: tuple[str, ...],
) -> None:
    """Show what can be measured on this machine, what cannot, and why.

    With --add, ADDRESS is that of the meter, or the command that prints its reading.

    \b
    Example:
      joulelab doctor
      joulelab doctor --check
      joulelab doctor --add tasmota 192.168.1.20 --name desk
      joulelab doctor --add redfish bmc --set user=root --set password_env=BMC_PASSWORD
      CUDA_VISIBLE_DEVICES=1 joulelab doctor --json
    """
    if test:
        context.exit(check(as_json=as_json))
    if kind is not None:
        add_meter(kind, address, name=name, settings=settings, dry_run=dry_run, as_json=as_json)
        return
    if address or name or settings or dry_run:
        raise UserError("no kind of meter to add", hint=f"--add KIND: {', '.join(KINDS)}")
    machine = describe(*environment_selection())
    found = discover()
    try:
        is_slow = any(
            channel.gives_energy and channel.update_period_s >= 1
            for sensor in found.sensors
            for channel in sensor.channels
        )
        needs_time = is_slow or comparable_components(found.sensors)
        readings = read_moment(found.sensors, COMPARE_S if needs_time else SETTLE_S)
    finally:
        for sensor in found.sensors:
            sensor.close()
    rows = present_values(found.sensors, readings)
    notes = _notes(found.sensors, readings)
    if as_json:
        click.echo(json.dumps(_as_json(machine, found, rows) | {"notes": notes}, indent=2))
    else:
        periods_s = [period_s for one in found.sensors for period_s in _periods_s(one)]
        _print(machine, found, rows, periods_s, notes)
    broken = [one.reason for one in found.absent if one.source == "sensors.toml"]
    if broken:
        raise UserError("some meters are not read", why="; ".join(broken), hint="fix the entry")


def comparable_components(sensors: Sequence[Sensor]) -> set[str]:
    """Return the components of which both power and energy are measured."""
    measured = [
        (channel.component, channel.quantity)
        for sensor in sensors
        for channel in sensor.channels
        if channel.gives_energy
    ]
    powers, energies = (
        {component for component, quantity in measured if quantity is kind}
        for kind in (Quantity.POWER, Quantity.ENERGY)
    )
    return powers & energies


def _notes(
    sensors: Sequence[Sensor], readings: Sequence[Sequence[Reading | Gap | SensorEvent]]
) -> list[str]:
    """Return what the readings show about their sources, such as contradictions."""
    channels: list[Channel] = []
    intervals_s: list[float] = []
    moved: list[Reading | Gap] = []
    for sensor, found in zip(sensors, readings, strict=True):
        own = (one for one in found if not isinstance(one, SensorEvent))
        moved += [one._replace(channel=one.channel + len(channels)) for one in own]
        channels += sensor.channels
        intervals_s += [max(interval_s, SETTLE_S) for interval_s in _intervals_s(sensor)]
    times_ns = [one.t_ns for one in moved if channels[one.channel].gives_energy]
    if not times_ns:
        return []
    window = Window(min(times_ns), max(times_ns))
    trace = replace(Trace.of(channels, moved), header={"intervals_s": intervals_s})
    return list(energies_of(trace, [window])[0].notes)


def _intervals_s(sensor: Sensor) -> list[float]:
    """Return how often each channel of a sensor is read."""
    return list(getattr(sensor, "intervals_s", [sensor.interval_s] * len(sensor.channels)))


def _periods_s(sensor: Sensor) -> list[float]:
    """Return how far apart the values are that a recording gets from each channel.

    A value that is calculated when it is read has no update period of its own.
    """
    return [
        max(channel.update_period_s, interval_s)
        if channel.polled or channel.provenance == Provenance.ESTIMATED
        else channel.update_period_s
        for channel, interval_s in zip(sensor.channels, _intervals_s(sensor), strict=True)
    ]


def _as_json(machine: Machine, found: Discovery, rows: Sequence[ChannelNow]) -> dict[str, Any]:
    sensors = []
    channels = [row.channel for row in rows]
    nesting = Nesting.of(channel for channel in channels if channel.gives_energy)
    for channel, value, reason in rows:
        entry = channel.to_json() | {"power_w" if channel.gives_energy else "value": value}
        entry["use"] = channel_role(channel, channels)
        if channel.gives_energy:
            entry["nesting"] = nesting.describe(channel.component)
        sensors.append(entry | ({"reason": reason} if reason else {}))
    return {
        "machine": machine.to_json(),
        "hardware_configuration": machine.hardware_configuration(),
        "sensors": sensors,
        "absent": [absence.to_json() for absence in found.absent],
    }


def _shown(value: float | None, kind: Quantity) -> str:
    """Format a value of a channel, or its step."""
    return memory_size(value) if kind is Quantity.MEMORY_USED else quantity(value, UNITS[kind])


def _print(
    machine: Machine,
    found: Discovery,
    rows: Sequence[ChannelNow],
    periods_s: Sequence[float],
    warnings: Sequence[str],
) -> None:
    console = output_console()
    hardware = _table("Hardware configuration")
    hardware.show_header = False
    for name, text in machine.hardware_configuration().items():
        hardware.add_row(name, text)
    console.print(hardware)

    sensors = _table("Sensors", "component", "source", "quantity", "provenance")
    for heading in ("every", "step", "now"):
        sensors.add_column(heading, justify="right", overflow="fold")
    for (channel, value, _), period_s in zip(rows, periods_s, strict=True):
        sensors.add_row(
            channel.component,
            channel.source,
            channel.quantity.rpartition("_")[0].replace("_", " "),
            channel.provenance,
            duration(period_s),
            _shown(channel.resolution, channel.quantity) if channel.resolution else ABSENT,
            quantity(value, "W") if channel.gives_energy else _shown(value, channel.quantity),
        )
    console.print("\n", sensors)

    for line in _roles([row.channel for row in rows]):
        console.print(f"  {line}")
    notes: dict[str, dict[str, None]] = {}
    for channel, _, _ in rows:
        if channel.note:
            notes.setdefault(channel.note, {})[channel.component] = None
    for note, components in notes.items():
        console.print(f"  {', '.join(components)}: {note}")
    for reason in dict.fromkeys(f"{c.component} {c.source}: {r}" for c, _, r in rows if r):
        console.print(f"  no value now: {reason}")
    for warning in warnings:
        console.print(f"  {warning}")
    if found.absent:
        absent = _table("Absent", "component", "source", "why, and how to fix it")
        for (source, reason), components_of in _grouped(found.absent).items():
            absent.add_row(", ".join(components_of), source, reason)
        console.print("\n", absent)


def _roles(channels: Sequence[Channel]) -> list[str]:
    """State the source of each component's energy, and what it contains."""
    lines: dict[str, list[str]] = {}
    for channel in sorted(channels, key=lambda one: one.priority):
        text = channel_role(channel, channels)
        if text is not None:
            window = f" (means of {duration(channel.window_s)})" if channel.window_s else ""
            lines.setdefault(channel.component, []).append(f"{text} by {channel.source}{window}")
    nesting = Nesting.of(channel for channel in channels if channel.gives_energy)
    return [
        "; ".join(filter(None, (f"{name}: {', '.join(texts)}", nesting.describe(name))))
        for name, texts in lines.items()
    ]


def _grouped(absences: Sequence[Absence]) -> dict[tuple[str, str], list[str]]:
    """Group components by the source that they lack, with reason and hint."""
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
