"""The runs of a ledger in the format of CodeCarbon's ``emissions.csv``, for tools that read it.

Names and units of the columns are those of CodeCarbon 3 (its documentation, "Output", and its class
``EmissionsData``): kWh, kg of CO2-equivalent, W and s. Like CodeCarbon's, the energies include the
PUE, and the powers do not. What JouleLab does not know stays empty.
"""

from __future__ import annotations

import csv
import io
import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from joulelab.carbon.costs import J_PER_KWH
from joulelab.carbon.factors import country
from joulelab.errors import UserError
from joulelab.format import csv_cell
from joulelab.ledger.entries import Entry
from joulelab.machine import Machine
from joulelab.uncertain import UncertainValue

COLUMNS = (
    "timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions",
    "emissions_rate", "cpu_power", "gpu_power", "ram_power", "cpu_energy", "gpu_energy",
    "ram_energy", "energy_consumed", "water_consumed", "country_name", "country_iso_code", "region",
    "cloud_provider", "cloud_region", "os", "python_version", "codecarbon_version", "cpu_count",
    "cpu_model", "gpu_count", "gpu_model", "longitude", "latitude", "ram_total_size",
    "tracking_mode", "cpu_utilization_percent", "gpu_utilization_percent",
    "ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue",
)  # fmt: skip

_KINDS = {"cpu": "cpu", "gpu": "gpu", "ram": "dram"}
"""CodeCarbon's name of a kind of component, and JouleLab's."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "joulelab")


def emissions_csv(entries: Sequence[Entry], existing: str = "", *, own_share: bool = False) -> str:
    """Return the content of ``emissions.csv`` with a row for each measured run.

    Args:
        entries: Runs with their energy and costs.
        existing: Content of the file. Its columns and rows stay, except that rows of the same runs
            are replaced.
        own_share: Whether the energies are the runs' own shares of their machines'.

    Raises:
        UserError: The existing file is not of this format.
    """
    rows = [
        {name: csv_cell(value) for name, value in _row(one, own_share=own_share).items()}
        for one in entries
        if one.energy is not None
    ]
    reader = csv.DictReader(io.StringIO(existing))
    columns = reader.fieldnames or COLUMNS
    if not {"timestamp", "run_id", "duration", "energy_consumed"} <= set(columns):
        raise UserError(
            "the existing file is not an emissions.csv",
            why="it has other columns than CodeCarbon's",
            hint="choose another file",
        )
    own = {row["run_id"] for row in rows}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in reader if row["run_id"] not in own)
    writer.writerows(rows)
    return text.getvalue()


def _row(entry: Entry, *, own_share: bool) -> Mapping[str, Any]:
    run, costs, energy = entry.run, entry.costs, entry.energy
    assert energy is not None
    pue = 1.0 if costs is None else costs.pue
    kwh = pue / J_PER_KWH
    parts = {
        kind: UncertainValue.total(found).value
        for kind, name in _KINDS.items()
        if (found := entry.component_energies(name, own_share=own_share))
    }
    values: dict[str, Any] = {
        "timestamp": "",
        "project_name": run.project or run.name,
        # A record has the same id in every file, whatever directory it is read from.
        "run_id": str(uuid.uuid5(_NAMESPACE, repr(entry.key))),
        "duration": run.duration_s,
        "energy_consumed": energy.value * kwh,
        "tracking_mode": "process" if own_share else "machine",
        "pue": pue,
        **{f"{kind}_energy": value * kwh for kind, value in parts.items()},
        **{f"{kind}_power": value / run.duration_s for kind, value in parts.items()
           if run.duration_s > 0},
        **_location(entry),
    }  # fmt: skip
    if not math.isnan(run.ended_unix_s):
        # Local time without a zone, which is what CodeCarbon writes.
        ended = datetime.fromtimestamp(run.ended_unix_s, UTC).astimezone()
        values["timestamp"] = f"{ended:%Y-%m-%dT%H:%M:%S}"
    if entry.carbon is not None:
        values["emissions"] = entry.carbon.value / 1000
        if run.duration_s > 0:
            values["emissions_rate"] = entry.carbon.value / 1000 / run.duration_s
    if run.machine is not None:
        values |= _hardware(run.machine)
    known = {
        name: value
        for name, value in values.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }
    return dict.fromkeys(COLUMNS, "") | known


def _location(entry: Entry) -> dict[str, str]:
    """Return the country; a location that is not in the table has a name and no code."""
    name = entry.site.country
    if name is None:
        return {}
    try:
        found = country(name)
    except UserError:
        return {"country_name": name}
    return {"country_name": found.name, "country_iso_code": found.alpha3}


def _hardware(machine: Machine) -> dict[str, Any]:
    models = [gpu.name for gpu in machine.gpus]
    memory = machine.dram_bytes
    return {
        "os": machine.os,
        "python_version": machine.python,
        "cpu_count": machine.cpu_threads,
        "cpu_model": machine.cpu_model,
        "gpu_count": len(models) or None,
        "gpu_model": count_models(models) or None,
        # In units of 2^30 bytes, as CodeCarbon computes its "GB".
        "ram_total_size": None if memory is None else memory / 2**30,
    }


def count_models(models: Sequence[str]) -> str:
    """Count equal models of devices.

    Example:
        >>> count_models(["NVIDIA H100", "NVIDIA L4", "NVIDIA H100"])
        '2 x NVIDIA H100, 1 x NVIDIA L4'
    """
    return ", ".join(f"{models.count(one)} x {one}" for one in dict.fromkeys(models))
