"""Meters of whole machines: plugs, power supplies and management controllers.

They are configured in ``$JOULELAB_HOME/sensors.toml`` (:mod:`~joulelab.sensors.meters.entries`).
Without this file nothing is asked, and nothing of this package but this module is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection

from joulelab.sensors.sensor import Absence, Sensor
from joulelab.storage import home


def discover_meters(
    kinds: Collection[str], found: Collection[str]
) -> tuple[list[Sensor], list[Absence]]:
    """Open the meters that are configured. Nothing is sent before they are read.

    Args:
        kinds: The kinds of components to open.
        found: Components that other sensors measure; unused.

    Returns:
        The sensors, and why entries of the file are not among them.
    """
    if not (home() / "sensors.toml").exists():
        return [], []
    polling = importlib.import_module("joulelab.sensors.meters.polling")
    sensors, absent = polling.open_configured(kinds)
    return [*sensors], absent
