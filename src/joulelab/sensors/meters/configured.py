"""The meters of this machine, opened as its file of sensors says."""

from __future__ import annotations

from collections.abc import Collection

from joulelab.errors import UserError
from joulelab.sensors.meters.entries import absence, read_entries
from joulelab.sensors.meters.polling import MeterSensor, channels_of, open_meter
from joulelab.sensors.sensor import Absence


def open_configured(kinds: Collection[str]) -> tuple[list[MeterSensor], list[Absence]]:
    """Open the meters of some kinds of components; state why others are absent."""
    entries, errors = read_entries()
    sensors, absent = [], []
    if "plug" in kinds or "node" in kinds:
        # A broken entry does not say what it would measure.
        absent = [absence(error, f"plug:{name}") for name, error in errors.items()]
    for name, entry in entries.items():
        component = channels_of(name, entry)[0].component
        if component.partition(":")[0] not in kinds:
            continue
        try:
            sensors.append(open_meter(name, entry))
        except UserError as error:
            absent.append(absence(error, component))
    return sensors, absent
