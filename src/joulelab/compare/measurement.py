"""The measurements to compare: runs, phases of study runs, or spans, in two groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator, energy_of_spans
from joulelab.energy.uncertainty import find_boards
from joulelab.errors import JoulelabError, UserError, nearest
from joulelab.format import join_words
from joulelab.machine import Gpu
from joulelab.recording.trace import read_trace
from joulelab.runs import FACTORS
from joulelab.runs.record import Run, is_recording
from joulelab.runs.selection import select, split_levels

BASELINE, CANDIDATE = "baseline", "candidate"

Kind = Literal["runs", "studies"]
Facts = Mapping[str, Mapping[str, str]]
"""What a run's energy depends on besides what is compared: values by group and name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """One measurement: a run, a phase of a study run, or the spans of one name in a run."""

    name: str  # of the run, with the phase in a study
    directory: Path  # of the run's record
    levels: Mapping[str, str]  # model, phase and factors, or a run's name, project and tags
    energy: Energy
    samples: float  # number of samples processed; NaN if unknown
    started_unix_s: float
    boards: Mapping[str, Hashable]  # the piece of hardware of each component
    block: Hashable  # runs of one block share an error
    idle_baseline: Hashable  # the measurement of idle power that was subtracted
    facts: Facts
    pieces: int = 1  # number of spans that the energy is the sum of
    caveats: tuple[str, ...] = ()  # why it may not be a fair measurement

    @property
    def key(self) -> tuple[Path, str]:
        """What is measured: the directory and the phase."""
        return self.directory.resolve(), self.levels.get("phase", "")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The baseline or the candidate of a comparison."""

    label: str  # as the user named it
    role: str  # BASELINE or CANDIDATE
    kind: Kind
    measurements: tuple[Measurement, ...]  # oldest first; at least one
    span: str | None = None  # name of the measured spans; None for whole runs
    failed: int = 0  # number of runs of its studies that failed or are damaged
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)  # levels that the user named

    @property
    def runs(self) -> int:
        """Number of runs; one of a study may have a measurement for each phase."""
        return len({one.directory for one in self.measurements})

    @property
    def kind_of_measurement(self) -> str:
        """What is counted, in the plural."""
        return "runs" if self.runs == len(self.measurements) else "phases of runs"

    @property
    def started_unix_s(self) -> tuple[float, float]:
        """When its first and its last run started."""
        times = [one.started_unix_s for one in self.measurements]
        return min(times), max(times)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return {
            "label": self.label,
            "kind": self.kind,
            "span": self.span,
            "started_unix_s": list(self.started_unix_s),
            "runs": [one.name for one in self.measurements],
        }


def read_group(name: str, role: str, span: str | None = None) -> Group:
    """Read the runs or studies of a name, see :func:`joulelab.runs.selection.select`.

    Of studies, levels of factors, models and phases may be named, see
    :func:`joulelab.runs.selection.split_levels`: only what has these is read.

    With ``span``, the spans of that name are measured instead of whole runs.
    """
    damaged: list[JoulelabError] = []
    path, chosen = split_levels(name)
    runs = select(path, on_error=damaged.append, with_failed_cells=True)
    in_studies = [run for run in runs if run.study is not None]
    if not in_studies and damaged:
        raise damaged[0]
    if chosen and len(in_studies) < len(runs):
        raise UserError(f"{path} is not a study", why="only the runs of studies have levels")
    if not in_studies:
        measured = [_of_run(run, role) for run in runs]
        if span is not None:
            measured = [_of_spans(run, one, span) for run, one in zip(runs, measured, strict=True)]
        return Group(name, role, "runs", tuple(measured), span)
    if len(in_studies) < len(runs):
        raise UserError(
            f"{name} contains both single runs and studies", hint="name either of them on each side"
        )
    if span is not None:
        raise UserError(f"{name} is a study, whose spans cannot be compared", hint="omit --span")
    done = [run for run in runs if run.status == "done"]
    measured = [one for run in done for one in _of_study_run(run)]
    if not measured:
        raise UserError(f"{path} has no finished run", hint="run joulelab study on it first")
    _check_levels(path, chosen, [one.levels for one in measured])
    measured = [one for one in measured if _has_levels(one.levels, chosen)]
    if not measured:
        raise UserError(f"no finished run of {path} has all these levels", why=name)
    failed = sum(run.status != "done" and _has_levels(_levels(run), chosen) for run in runs)
    return Group(name, role, "studies", tuple(measured), None, failed + len(damaged), chosen)


def _check_levels(
    path: str, chosen: Mapping[str, Sequence[str]], found: Sequence[Mapping[str, str]]
) -> None:
    known: dict[str, dict[str, None]] = {}
    for levels in found:
        for name, level in levels.items():
            known.setdefault(name, {})[level] = None
    for name, wanted in chosen.items():
        if name not in known:
            varying = [one for one, levels in known.items() if len(levels) > 1]
            hint = f"choose from {', '.join(varying)}" if varying else "none varies in this study"
            raise UserError(f"{path} has no factor {name!r}", hint=hint)
        for level in wanted:
            if not any(_is_level(level, one) for one in known[name]):
                raise UserError(
                    f"{path} has no {name} {level!r}", hint=f"choose from {', '.join(known[name])}"
                )


def _has_levels(levels: Mapping[str, str], chosen: Mapping[str, Sequence[str]]) -> bool:
    """Report whether a run or its phase has a chosen level of each factor that it has."""
    return all(
        any(_is_level(level, levels[name]) for level in wanted)
        for name, wanted in chosen.items()
        if name in levels
    )


def _is_level(text: str, level: str) -> bool:
    """Report whether a text names a level.

    Example:
        >>> _is_level("lenet", "LeNet"), _is_level("250", "250.0"), _is_level("8", "16")
        (True, True, False)
    """
    try:
        return float(text) == float(level)
    except ValueError:
        return text.lower() == level.lower()


def _of_run(run: Run, role: str) -> Measurement:
    """Measure a run. Which idle baseline it has is unknown: it is one error of its group."""
    named = {"name": run.name, "project": run.project, "phase": run.phase}
    tags = {f"tag {key}": value for key, value in run.tags.items() if key != "samples"}
    caveats = list(run.notes)
    if run.status == "failed":
        how = f"signal {run.signal}" if run.signal else f"exit code {run.exit_code}"
        caveats.insert(0, f"ended with {how}")
    return Measurement(
        name=run.id,
        directory=run.directory,
        levels={key: value for key, value in named.items() if value is not None} | tags,
        energy=run.energy,
        samples=run.samples,
        started_unix_s=run.started_unix_s,
        boards=find_boards(run.machine, run.host, run.energy),
        block=run.directory.resolve(),
        idle_baseline=role,
        facts={"command": {"command": " ".join(run.command)}}
        | _facts(run, run.energy, run.settings),
        caveats=tuple(caveats),
    )


def _of_spans(run: Run, whole: Measurement, name: str) -> Measurement:
    """Measure the spans of a name in a run, as their mean.

    They are not repeats: what one run has in common, all of its spans have.
    """
    if not is_recording(run.directory):
        raise UserError(
            f"{run.directory} has no readings of its own",
            why="it was recorded by the run that it ran in",
            hint="compare the outer runs",
        )
    trace = read_trace(run.directory)
    spans = trace.finished_spans
    chosen = [span for span in spans if span.name == name]
    if not chosen:
        known = dict.fromkeys(span.name for span in spans)
        hint = nearest(name, known) if known else "mark spans with joulelab.Meter in the program"
        raise UserError(f"{run.id} has no span {name!r}", hint=hint)
    energy = energy_of_spans(EnergyEstimator(trace, run.baseline), chosen)
    # All ranks of a launch are in one span together, whose time and energy count once.
    by_process = Counter(pid for pid, _ in (span.key for span in chosen))
    return replace(whole, energy=energy, pieces=max(by_process.values()))


def _of_study_run(run: Run) -> list[Measurement]:
    study = run.study
    assert study is not None
    block = (run.directory.resolve().parent.parent, study.block)
    measured = []
    for phase, result in study.results.items():
        settings = dict(run.settings.get(phase) or {}) | {
            "epochs": result.values.get("epochs"),
            "resolved_device": run.factors.get("resolved_device"),
            "data": study.data.get("name"),
        }
        samples = result.values.get("samples")
        one = Measurement(
            name=f"{run.id} ({phase})",
            directory=run.directory,
            levels={"phase": phase} | _levels(run),
            energy=result.energy,
            samples=math.nan if samples is None else float(samples),
            started_unix_s=run.started_unix_s,
            boards=find_boards(run.machine, run.host, result.energy),
            block=block,
            idle_baseline=block,
            facts=_facts(run, result.energy, settings),
        )
        measured.append(one)
    return measured


def _levels(run: Run) -> dict[str, str]:
    return {"model": str(run.model)} | {name: str(run.factors.get(name)) for name in FACTORS}


def _facts(run: Run, energy: Energy, settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    hardware, software, packages = {}, {}, {}
    machine = run.machine
    if machine is not None:
        hardware = machine.comparable | {"gpus": [_describe_gpu(gpu) for gpu in machine.gpus]}
        software = {"system": machine.os, "kernel": machine.kernel, "python": machine.python}
        packages = machine.packages
    parts = energy.components.items()
    return {
        "machine": {"host": run.host} | {name: _text(value) for name, value in hardware.items()},
        "software": {name: _text(value) for name, value in software.items()} | packages,
        "sensors": {name: f"{part.source} ({part.provenance})" for name, part in parts},
        "settings": {
            key: str(value)
            for key, value in sorted(settings.items())
            if value is not None and value is not False
        },
    }


def _describe_gpu(gpu: Gpu) -> str:
    memory = "" if gpu.memory_bytes is None else f" {gpu.memory_bytes / 2**30:.0f} GiB"
    return f"{gpu.name}{memory}{' with MIG' if gpu.mig else ''}"


def _text(value: Any) -> str:
    """Format a value of a machine's description.

    Example:
        >>> _text([350.0, None]), _text([]), _text(16)
        ('350.0 and unknown', 'none', '16')
    """
    if isinstance(value, list):
        return join_words([_text(one) for one in value]) or "none"
    return "unknown" if value is None else str(value)
