"""The runs of studies as comparisons take them."""

from __future__ import annotations

from collections.abc import Iterator

from joulelab.compare.measurement import (
    Measurement,
    machine_facts,
    number_or_nan,
    sensor_facts,
)
from joulelab.energy.uncertainty import find_boards
from joulelab.findings.summary import FACTORS
from joulelab.machine import Machine
from joulelab.runs.store import RunRecord
from joulelab.runs.studies import Baselines, Study, phase_energy, understood


def of_study(study: Study) -> Iterator[Measurement]:
    """Each phase of each finished run of a study.

    Raises:
        StoreError: A record lacks what it should have.
    """
    baselines = study.baselines()
    for run in study.cells():
        with understood(run):
            found = [_of_phase(study, run, phase, baselines) for phase in run.data["results"]]
        yield from found


def _of_phase(study: Study, run: RunRecord, phase: str, baselines: Baselines) -> Measurement:
    data = run.data
    energy = phase_energy(run, phase, baselines.around(run))
    machine = Machine.from_json(dict(data["machine"]))
    result = data["results"][phase]
    place = (study.directory.resolve(), data["block"])
    settings = dict(data["settings"].get(phase) or {}) | {"epochs": result.get("epochs")}
    settings |= {"resolved_device": data["factors"].get("resolved_device")}
    settings |= {"data": (data.get("data") or {}).get("name")}
    return Measurement(
        run=f"{run.run_id} ({phase})",
        directory=run.directory,
        levels={"phase": phase}
        | {name: str(data["factors"].get(name)) for name in ("model", *FACTORS)},
        energy=energy,
        samples=number_or_nan(result["samples"]),
        started_unix_s=float(data["started_unix_s"]),
        boards=find_boards(machine, machine.host, energy),
        block=place,
        baseline=place,
        facts={
            **machine_facts(machine, machine.host),
            "sensors": sensor_facts(energy),
            "settings": {key: str(value) for key, value in sorted(settings.items())},
        },
    )
