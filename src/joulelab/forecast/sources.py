"""Profiles from files: a run of a study, a meter's directory, or a table of epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joulelab.energy.energy import Energy
from joulelab.errors import UserError, nearest
from joulelab.forecast.from_spans import profile_of, profile_of_trace
from joulelab.forecast.profile import MAIN, Profile, Row
from joulelab.logs.csv_table import number, open_table
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.recording.trace_spans import TraceSpan, Window

RUN_FILE = "run.json"
TRAINING = {"", "epoch", "train", "training"}
"""What tables call the phase that makes up a run."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a file or directory gives.

    Attributes:
        profile: The rows that were seen.
        accuracy_pct: After each epoch, from the first on; NaN where it was not measured.
    """

    profile: Profile
    accuracy_pct: tuple[float, ...] = ()


def read_source(
    path: Path, *, phase: str | None = None, steps_per_epoch: int | None = None
) -> Source:
    """The profile in a run directory or a CSV file.

    Args:
        path: A run of a study (``STUDY/runs/<id>``), the directory of a
            :class:`~joulelab.Meter`, or a CSV file with columns ``epoch, duration_s, gross_j`` and,
            where there are, ``phase`` and ``accuracy_pct``; its rows are in order of time.
        phase: Of a run of several, as ``"infer"``. Default: that of the first epoch.
        steps_per_epoch: For a meter's run whose first epoch is not over.

    Raises:
        UserError: There is nothing to forecast from.
        TraceError: A trace cannot be read.
    """
    if path.is_file():
        return _of_table(path)
    run = _run(path)
    if run is not None:
        return _of_run(run, phase)
    if (path / READINGS_FILE).is_file():
        trace = read_trace(path)
        return Source(profile_of_trace(trace, phase=phase, steps_per_epoch=steps_per_epoch))
    if (path / "runs").is_dir():
        runs = sorted(entry.name for entry in (path / "runs").iterdir() if "idle" not in entry.name)
        raise UserError(
            f"{path} is a study of {len(runs)} runs",
            hint=f"name one of them, as {path / 'runs' / runs[0]}" if runs else "run it first",
        )
    raise UserError(
        f"{path} is no run",
        why=f"it has neither {RUN_FILE} nor {READINGS_FILE}",
        hint="name a run of a study, a meter's directory or a CSV file",
    )


def _run(path: Path) -> dict[str, Any] | None:
    """What ``run.json`` says of a study's run; ``None`` when there is none."""
    try:
        run = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path / RUN_FILE}", why=str(error)) from error
    return run if isinstance(run, dict) and "spans" in run and "epochs" in run else None


def _of_run(run: dict[str, Any], phase: str | None) -> Source:
    """From the energies that the run's record has. Epochs cut short count where no other is."""
    epochs = run["epochs"]
    phases = list(dict.fromkeys(epoch["phase"] for epoch in epochs))
    if phase is not None and phase not in phases:
        raise UserError(f"the run has no epoch of phase {phase!r}", hint=nearest(phase, phases))
    phase = phase or next(iter(phases), None)
    epochs = [epoch for epoch in epochs if epoch["phase"] == phase]
    cut_short = {epoch["index"] for epoch in epochs if not epoch["complete"]}
    alone = len(cut_short) == len(epochs)
    energies: dict[tuple[int, int], Energy] = {}
    spans = []
    for i, span in enumerate(run["spans"]):
        attributes = span["attributes"]
        if span["name"] == "epoch" and attributes.get("index") in cut_short and not alone:
            continue
        energies[span["start_ns"], span["stop_ns"]] = Energy.from_json(span["energy"])
        spans.append(
            TraceSpan(
                name=span["name"],
                start_ns=span["start_ns"],
                stop_ns=span["stop_ns"],
                key=(0, i),
                attributes=attributes,
            )
        )

    def recorded(windows: Sequence[Window]) -> list[Energy]:
        return [energies[window.start_ns, window.stop_ns] for window in windows]

    spans.sort(key=lambda span: span.start_ns)
    profile = profile_of(spans, recorded, phase=phase)
    if alone and epochs:
        images = run["data"]["train_count" if phase == "train" else "test_count"]
        done = iter([epoch["samples"] / images for epoch in epochs])
        rows = [replace(row, work=next(done)) if row.phase == MAIN else row for row in profile.rows]
        profile = Profile(rows)
    return Source(profile, tuple(_or_nan(epoch["accuracy_pct"]) for epoch in epochs))


def _of_table(path: Path) -> Source:
    table = open_table(path)
    places = {name.strip().lower(): i for i, name in enumerate(table.names)}
    for name in ("epoch", "duration_s", "gross_j"):
        if name not in places:
            raise UserError(
                f"{path} has no column {name}",
                why=f"it has {', '.join(table.names)}",
                hint="give epoch,duration_s,gross_j with a header",
            )
    cells = [
        {name: row[i].strip() if i < len(row) else "" for name, i in places.items()}
        for row in table.rows()
    ]
    main = _main_phase([cell.get("phase", "") for cell in cells])
    rows, accuracy = [], []
    seen = set()
    for cell in cells:
        phase = cell.get("phase", "")
        place = (cell["epoch"], phase)
        if place in seen:
            of = f" of {phase}" if phase else ""
            raise UserError(
                f"{path} has epoch {cell['epoch']}{of} twice",
                why="it may hold several runs",
                hint="give one",
            )
        seen.add(place)
        name = MAIN if phase.lower() in main else phase
        rows.append(
            Row(
                phase=name,
                duration_s=number(cell["duration_s"]),
                gross_j=number(cell["gross_j"]),
            )
        )
        if name == MAIN:
            accuracy.append(math.nan)
        if accuracy and (found := number(cell.get("accuracy_pct", ""))) == found:
            accuracy[-1] = found
    return Source(Profile(rows), tuple(accuracy))


def _main_phase(phases: Sequence[str]) -> set[str]:
    """What the phase that makes up the run is called in a table."""
    called = {phase.lower() for phase in phases}
    return TRAINING if called & TRAINING or not phases else {phases[0].lower()}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
