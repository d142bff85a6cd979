"""``joulelab doctor --add``: try a meter of the whole machine, and save it."""

from __future__ import annotations

from collections.abc import Sequence

from joulelab.cli.output import echo, print_json, progress
from joulelab.errors import UserError
from joulelab.format import ABSENT, duration, join_words, quantity
from joulelab.sensors.meters.adding import Trial, default_name, make_table, save_entry, try_meter
from joulelab.sensors.meters.entries import sensors_file
from joulelab.sensors.sensor import Quantity


def add_meter(
    kind: str,
    address: Sequence[str],
    *,
    name: str | None,
    settings: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Try a meter, print what it gives, and save it unless this is a dry run."""
    fields = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text} has no value", hint="write --set KEY=VALUE")
        fields[key.strip()] = value.strip()
    table = make_table(kind, address, fields)
    with progress("reading the meter"):
        trial = try_meter(name or default_name(kind, table), table)
    path = sensors_file() if dry_run else save_entry(trial.name, trial.table)
    if as_json:
        print_json(
            {
                "name": trial.name,
                "entry": trial.table,
                "channels": [
                    channel.to_json() | {"value": value}
                    for channel, value in zip(trial.channels, trial.latest, strict=True)
                ],
                "update_period_s": trial.update_period_s,
                "kept_in": None if dry_run else str(path),
            }
        )
        return
    _print(trial)
    if dry_run:
        echo(f"Not saved (dry run). It would be [{trial.name}] in {path}")
    else:
        echo(f"Saved as [{trial.name}] in {path}")
        echo("To remove it, delete that table. `joulelab doctor` lists all sensors.")


def _print(trial: Trial) -> None:
    for channel, value in zip(trial.channels, trial.latest, strict=True):
        unit = "W" if channel.quantity is Quantity.POWER else "J"
        label = f"{channel.component} {'power' if unit == 'W' else 'counter'}"
        step = f" in steps of {quantity(channel.resolution, unit)}" if channel.resolution else ""
        echo(f"{label:22} {ABSENT if value is None else quantity(value, unit)}{step}")
    every = trial.update_period_s
    text = "not seen: the value hardly changed" if every is None else f"every {duration(every)}"
    echo(f"{'new values':22} {text}")
    echo(f"{'contains':22} {join_words(trial.channels[0].contains) or 'nothing else'}")
