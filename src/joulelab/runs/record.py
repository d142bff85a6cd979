"""The record of a run: what ran, where and when, and the energy it used.

Wrapped commands, programs with a meter and the runs of a study all write one record::

    RUN/run.json       the record (schema "joulelab-run-2"), appears whole and is replaced whole
    RUN/trace.bin      every reading
    RUN/events.jsonl   spans, gaps and processes

``joulelab run`` writes ``run.json`` when the command starts, with status "unfinished", and again
when it ends. A directory with a trace and no record is an unfinished run of a meter. The energy of
an unfinished run is computed from its trace, up to the last reading.

Open runs with :mod:`joulelab.runs.selection`, which also reads records of older versions::

    from joulelab.runs.selection import open_run, open_runs

    run = open_run("latest")            # or a directory, a name, an id, "previous", "7d"
    run.energy.gross_j                  # Energy of the whole run
    run.duration_s, run.status          # "done", "failed" or "unfinished"
    [(span.name, span.gross_j) for span in run.spans]      # totals by name
    for run in open_runs("results/"):   # all runs in a directory, oldest first
        if run.study:                   # only runs of a study have this part
            run.study.results["train"].energy.net_j        # net of the study's own idle runs
            run.study.spans, run.study.epochs, run.factors["batch_size"]

Whoever needs a whole study (its plan, damaged runs, a label) reads it with
:func:`joulelab.runs.studies.read_study`.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import ComponentEnergy, Energy, sensor_of
from joulelab.energy.estimator import EnergyEstimator, energy_of_spans
from joulelab.energy.saved_baseline import load_baseline
from joulelab.errors import UserError
from joulelab.format import finite_or_none, nan_if_none
from joulelab.machine import Machine, describe, machine_identity
from joulelab.recording.trace import Trace, read_trace
from joulelab.recording.trace_format import READINGS_FILE, boot_id
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.runs import PHASES, name_of, new_run_id, phase_name
from joulelab.runs.old_schemas import STARTED_FILE, is_old, upgrade
from joulelab.storage import home, write_whole, writing

SCHEMA = "joulelab-run-2"
RUN_FILE = "run.json"

Kind = Literal["command", "meter", "study"]
Status = Literal["done", "failed", "unfinished"]

WHOLE_SPANS = ("idle", "warmup", "epoch", "validate")
"""Spans of a study run that do not lie within one another; together they are the whole run."""
UNFINISHED = "its end was not recorded: values go up to the last reading"
_NS = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTotal:
    """All spans of one name in a run. Values that were not measured are NaN.

    Attributes:
        name: Name of the spans.
        count: Number of finished spans.
        duration_s: Total duration.
        gross_j: Total gross energy.
        low_j: Lower end of the 95 % interval of ``gross_j``.
        high_j: Upper end.
        net_j: Gross less idle energy; NaN without a baseline.
    """

    name: str
    count: int
    duration_s: float
    gross_j: float
    low_j: float
    high_j: float
    net_j: float

    @classmethod
    def of(cls, name: str, count: int, energy: Energy) -> Self:
        """Make the total of ``count`` spans from the sum of their energies."""
        low_j, high_j = energy.interval_j
        return cls(
            name=name,
            count=count,
            duration_s=energy.duration_s,
            gross_j=energy.gross_j,
            low_j=low_j,
            high_j=high_j,
            net_j=energy.net_j,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`Run.to_json` wrote."""
        values: dict[str, Any] = {
            name: math.nan if value is None else value for name, value in data.items()
        }
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """One measured span of a study run; times are CLOCK_MONOTONIC."""

    name: str
    attributes: Mapping[str, Any]
    start_ns: int
    stop_ns: int
    energy: Energy


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRecord:
    """A phase of a study run, warm-up and validation excluded.

    Attributes:
        energy: Energy of its epochs; net of the idle power that its study measured.
        values: Everything else that was recorded: ``samples``, ``steps``, ``epochs``, ``loss``,
            ``accuracy_pct``, ``vram_peak_bytes``, ``gpu_utilization_pct``, ``forecast`` ...
            Values that were not measured are ``None`` or missing.
    """

    energy: Energy
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """An epoch of a study run.

    Attributes:
        phase: ``"train"`` or ``"infer"``.
        index: From 0.
        energy: Net of the idle power that its study measured.
        complete: Whether it covered the whole data set.
        values: ``duration_s``, ``samples``, ``steps``, ``loss``, ``accuracy_pct``,
            ``train_accuracy_pct``; ``None`` if not measured.
    """

    phase: str
    index: int
    energy: Energy
    complete: bool
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPart:
    """The part of a record that only runs of a study have.

    Attributes:
        name: Name of the study.
        is_idle: Whether the run measured idle power, not a cell of the plan.
        block: Block of the randomised design, from 0.
        order: Position in the block; ``None`` for idle runs.
        repeat: Repeat of the cell, from 0.
        seed: Seed of the run, if known.
        phases: Planned phases.
        characteristics: Parameters, MACs and sizes of the model; empty if unknown.
        data: The data set.
        results: By phase.
        epochs: In order of time.
        spans: Every measured span, in order of time; energies are gross.
    """

    name: str
    is_idle: bool
    block: int
    order: int | None
    repeat: int
    seed: int | None
    phases: tuple[str, ...]
    characteristics: Mapping[str, Any]
    data: Mapping[str, Any]
    results: Mapping[str, PhaseRecord]
    epochs: tuple[EpochRecord, ...]
    spans: tuple[SpanRecord, ...]

    def spans_of(self, phase: str, index: int | None = None) -> list[SpanRecord]:
        """Return the epoch spans of a phase, or of one epoch of it."""
        return [
            span
            for span in self.spans
            if span.name == "epoch"
            and span.attributes["phase"] == phase
            and index in (None, span.attributes.get("index"))
        ]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A measured run. Unknown values are ``None`` or NaN.

    Attributes:
        directory: Directory of the record.
        id: Unique; sorts by time for wrapped commands.
        kind: ``"command"`` (``joulelab run``), ``"meter"`` (a program with
            ``Meter(directory=...)``) or ``"study"``.
        name: Name of the run, by default that of its program; ``STUDY/ID`` for study runs.
        command: Program and arguments.
        project: Project that it belongs to.
        phase: One of :data:`joulelab.runs.PHASES`, set by the user.
        tags: Further labels set by the user.
        model: Model that was trained or queried.
        factors: Level of each factor of a study run, with ``model``; empty for other runs.
        host: Host that it ran on.
        machine: Hardware and software.
        boot_id: Boot of the host, within which CLOCK_MONOTONIC is one clock; empty if unknown.
        pid: Process that was measured.
        settings: How it was measured; for study runs, the settings of each phase.
        started_unix_s: Wall-clock time of the start.
        ended_unix_s: Wall-clock time of the end, or of the last reading.
        duration_s: Monotonic time between the two.
        start_ns: Start, CLOCK_MONOTONIC.
        status: ``"done"``, ``"failed"`` (a command with another exit code than 0, a failed
            cell) or ``"unfinished"`` (still running or killed).
        failure: ``{"kind": ..., "reason": ...}`` of a failed study run.
        exit_code: Exit code of the command; ``None`` if a signal ended it.
        signal: Signal that ended the command.
        energy: Energy of the whole run. For study runs, the sum of its measured spans.
        spans: Totals of the spans that the program marked, by name.
        baseline: Idle power that was subtracted.
        inside: Recording of the run that this one ran inside, which contains its energy, too.
        notes: Remarks for the user, in addition to those of ``energy``.
        study: Only for study runs.
    """

    directory: Path
    id: str
    kind: Kind
    name: str
    command: tuple[str, ...] = ()
    project: str | None = None
    phase: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    factors: Mapping[str, Any] = field(default_factory=dict)
    host: str
    machine: Machine | None = None
    boot_id: str = ""
    pid: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    started_unix_s: float = math.nan
    ended_unix_s: float = math.nan
    duration_s: float = math.nan
    start_ns: int | None = None
    status: Status = "unfinished"
    failure: Mapping[str, str] | None = None
    exit_code: int | None = None
    signal: int | None = None
    energy: Energy = field(default_factory=lambda: not_measured("recording had not begun"))
    spans: tuple[SpanTotal, ...] = ()
    baseline: Baseline | None = None
    inside: Path | None = None
    notes: tuple[str, ...] = ()
    study: StudyPart | None = None

    @property
    def finished(self) -> bool:
        """Whether its end was recorded."""
        return self.status != "unfinished"

    @property
    def samples(self) -> float:
        """Number of samples or requests, from the tag ``samples``; NaN if unknown."""
        try:
            return float(self.tags["samples"])
        except (KeyError, ValueError):
            return math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``run.json`` of a command or a meter."""
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        del data["directory"], data["study"]
        data |= {
            "schema": SCHEMA,
            "machine": self.machine and self.machine.to_json(),
            "energy": self.energy.to_json() if self.finished else None,
            "spans": [
                {one.name: getattr(span, one.name) for one in fields(span)} for span in self.spans
            ],
            "baseline": None if self.baseline is None else self.baseline.to_json(),
            "inside": None if self.inside is None else str(self.inside),
        }
        return {"schema": data.pop("schema"), **finite_or_none(data)}


def default_directory() -> Path:
    """Return where ``joulelab run`` saves runs unless told otherwise. It may not exist yet."""
    return home() / "runs"


def saved_run_directories() -> list[Path]:
    """Return the existing directories of saved runs; older versions wrote to ``jobs``."""
    return [path for path in (home() / "jobs", default_directory()) if path.is_dir()]


def is_run(directory: str | os.PathLike[str]) -> bool:
    """Report whether a directory has the record of a run, damaged or not."""
    return any(_is_record(Path(directory) / name) for name in (RUN_FILE, STARTED_FILE))


def _is_record(path: Path) -> bool:
    """Other programs write files of that name, too; what cannot be parsed may be ours."""
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return isinstance(data, dict) and (data.get("schema") == SCHEMA or is_old(data))


def is_recording(directory: str | os.PathLike[str]) -> bool:
    """Report whether a directory has a trace of its own; a link leads to another recording."""
    path = Path(directory) / READINGS_FILE
    return path.is_file() and not path.is_symlink()


def read_run(directory: str | os.PathLike[str]) -> Run:
    """Read the run in a directory. Net energies of study runs need :mod:`~joulelab.runs.studies`.

    Raises:
        UserError: The directory has no run, or its record is damaged.
        TraceError: The run is unfinished and its trace is damaged.
    """
    path = Path(directory)
    data = read_record(path)
    if data is None and (path / READINGS_FILE).is_file():
        return _of_trace(path)
    if data is None:
        raise UserError(
            f"{path} is not a run",
            why=f"it has no {RUN_FILE}",
            hint="give the directory that `joulelab run` printed",
        )
    try:
        run = run_of_record(path, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path / RUN_FILE} is damaged", why=f"{type(error).__name__}: {error}"
        ) from error
    return run if run.finished or run.study else _until_last_reading(run)


def read_record(directory: Path) -> dict[str, Any] | None:
    """Read the record in a directory as JSON in this version's schema; ``None`` without one.

    Raises:
        UserError: The record is damaged or of an unknown schema.
    """
    for path in (directory / RUN_FILE, directory / STARTED_FILE):
        try:
            data = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}", why=str(error)) from error
        try:
            return data if data["schema"] == SCHEMA else {"schema": SCHEMA, **upgrade(data, path)}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged", why=f"{type(error).__name__}: {error}") from error
    return None


def write_record(directory: Path, data: Mapping[str, Any]) -> None:
    """Write ``run.json``, whole or not at all.

    Args:
        directory: Directory of the run.
        data: What :meth:`Run.to_json` or :func:`read_record` returned.

    Raises:
        StoreError: It cannot be written.
    """
    path = directory / RUN_FILE
    with writing(path):
        write_whole(path, json.dumps(data, indent=1, allow_nan=False).encode() + b"\n")


def write_meter_record(
    directory: Path,
    trace: Trace,
    estimator: EnergyEstimator,
    *,
    started_unix_s: float,
    start_ns: int,
    stop_ns: int,
    settings: Mapping[str, Any],
    error: BaseException | None,
    notes: tuple[str, ...],
) -> None:
    """Write the record of a program with a meter.

    Args:
        directory: Directory of the run.
        trace: What was recorded.
        estimator: Of the trace and the baseline.
        started_unix_s: When the meter started.
        start_ns: The same, CLOCK_MONOTONIC.
        stop_ns: When it closed.
        settings: How it was measured.
        error: Exception that ended the program, if one did.
        notes: Remarks for the user.

    Raises:
        StoreError: It cannot be written.
    """
    energy, spans = measure(trace, start_ns, stop_ns, estimator=estimator)
    failure = None if error is None else {"kind": type(error).__name__, "reason": str(error)}
    phase = phase_name(os.environ.get("JOULELAB_PHASE"))
    outer = os.environ.get("JOULELAB_RECORDING")
    name = name_of(sys.orig_argv)
    run = Run(
        directory=directory,
        id=new_run_id(name),
        kind="meter",
        name=name,
        command=tuple(sys.orig_argv),
        project=os.environ.get("JOULELAB_PROJECT") or None,
        phase=phase if phase in PHASES else None,
        host=str(trace.header["host"]),
        machine=describe(),
        boot_id=boot_id(),
        pid=os.getpid(),
        settings=settings,
        started_unix_s=started_unix_s,
        ended_unix_s=started_unix_s + (stop_ns - start_ns) * _NS,
        duration_s=(stop_ns - start_ns) * _NS,
        start_ns=start_ns,
        status="done" if error is None else "failed",
        failure=failure,
        energy=energy,
        spans=spans,
        baseline=estimator.baseline,
        inside=None if outer is None else Path(outer),
        notes=notes,
    )
    write_record(directory, run.to_json())


def measure(
    trace: Trace,
    start_ns: int,
    stop_ns: int,
    baseline: Baseline | None = None,
    estimator: EnergyEstimator | None = None,
) -> tuple[Energy, tuple[SpanTotal, ...]]:
    """Compute the energy between two times, and the totals of the spans within them.

    Args:
        trace: Readings and spans.
        start_ns: CLOCK_MONOTONIC.
        stop_ns: CLOCK_MONOTONIC.
        baseline: Idle power on CLOCK_MONOTONIC seconds.
        estimator: Of that trace and baseline, if there is one already.
    """
    estimator = estimator or EnergyEstimator(trace, baseline)
    by_name: dict[str, list[TraceSpan]] = {}
    for span in trace.spans:
        if span.stop_ns is not None and start_ns <= span.start_ns and span.stop_ns <= stop_ns:
            by_name.setdefault(span.name, []).append(span)
    (energy,) = estimator.energies([Window(start_ns, stop_ns)])
    return energy, tuple(
        SpanTotal.of(name, len(spans), energy_of_spans(estimator, spans))
        for name, spans in by_name.items()
    )


def not_measured(reason: str) -> Energy:
    """Return the energy of a run without readings."""
    return Energy(duration_s=math.nan, absent={"all": reason})


def sum_of_known(energies: Iterable[Energy]) -> Energy:
    """Add up what was measured; a component that some spans lack keeps what the others have.

    :func:`joulelab.energy.energy.total` leaves such a component out.
    """
    parts: dict[str, ComponentEnergy] = {}
    absent: dict[str, str] = {}
    notes: dict[str, None] = {}
    duration_s = 0.0
    for energy in energies:
        duration_s += energy.duration_s
        absent |= energy.absent
        notes |= dict.fromkeys(energy.notes)
        for name, part in energy.components.items():
            if name in parts and sensor_of(part.source) != sensor_of(parts[name].source):
                part = replace(part, source=parts[name].source)  # noqa: PLW2901
            if not math.isnan(part.gross_j):
                parts[name] = parts[name] + part if name in parts else part
    return Energy(
        duration_s=duration_s,
        components=dict(sorted(parts.items())),
        absent={name: why for name, why in absent.items() if name not in parts},
        notes=tuple(notes),
    )


def less_idle(energy: Energy, spans: Sequence[SpanRecord], baseline: Baseline | None) -> Energy:
    """Subtract idle power over the stretch from the first to the last of these spans."""
    if not spans or baseline is None:
        return energy
    start_s = min(span.start_ns for span in spans) * _NS
    stop_s = max(span.stop_ns for span in spans) * _NS
    return baseline.subtract(energy, start_s, stop_s)


def idle_points(run: Run) -> list[IdlePoint]:
    """Return the idle power that an idle run of a study measured."""
    assert run.study is not None
    return [
        IdlePoint.from_energy(span.energy, (span.start_ns + span.stop_ns) / 2 * _NS)
        for span in run.study.spans
        if span.name == "idle" and span.energy.components
    ]


def with_baseline(run: Run, baseline: Baseline) -> Run:
    """Return a study run with net energies, from the idle power that its study measured."""
    study = run.study
    assert study is not None
    spans = [span for span in study.spans if span.name in WHOLE_SPANS]
    results = {
        phase: replace(one, energy=less_idle(one.energy, study.spans_of(phase), baseline))
        for phase, one in study.results.items()
    }
    epochs = tuple(
        replace(one, energy=less_idle(one.energy, study.spans_of(one.phase, one.index), baseline))
        for one in study.epochs
    )
    return replace(
        run,
        baseline=baseline,
        energy=less_idle(run.energy, spans, baseline),
        study=replace(study, results=results, epochs=epochs),
    )


def run_of_record(directory: Path, data: Mapping[str, Any]) -> Run:
    """Make a run from what :func:`read_record` returned.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: The record is damaged.
    """
    data = {**_DEFAULTS, **data}
    if data["kind"] not in get_args(Kind) or data["status"] not in get_args(Status):
        raise ValueError(f"its kind is {data['kind']!r} and its status {data['status']!r}")
    study = _study_part(data) if data["kind"] == "study" else None
    if study is None:
        energy = not_measured("recording had not begun")
        if data["energy"] is not None:
            energy = Energy.from_json(data["energy"])
        spans = tuple(SpanTotal.from_json(row) for row in data["spans"])
    else:
        measured = [span for span in study.spans if span.name in WHOLE_SPANS]
        energy = sum_of_known(span.energy for span in measured)
        spans = _totals(study.spans)
    points = data["baseline"]
    return Run(
        directory=directory,
        command=tuple(data["command"]),
        phase=phase_name(data["phase"]),
        machine=_machine(json.dumps(data["machine"])),
        boot_id=data["boot_id"] or "",
        started_unix_s=nan_if_none(data["started_unix_s"]),
        ended_unix_s=nan_if_none(data["ended_unix_s"]),
        duration_s=nan_if_none(data["duration_s"]),
        energy=energy,
        spans=spans,
        baseline=None if points is None else Baseline.from_json(points),
        inside=None if data["inside"] is None else Path(data["inside"]),
        notes=tuple(data["notes"]),
        study=study,
        **{name: data[name] for name in _AS_WRITTEN},
    )


_DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(("project", "phase", "model", "machine", "boot_id", "pid", "failure")),
    **dict.fromkeys(("ended_unix_s", "duration_s", "start_ns", "exit_code", "signal")),
    **dict.fromkeys(("energy", "baseline", "inside")),
    **dict.fromkeys(("command", "spans", "notes"), ()),
    **{name: {} for name in ("tags", "factors", "settings")},
}
"""What a record may leave out."""
_AS_WRITTEN = (
    *("id", "kind", "name", "project", "tags", "model", "factors", "host", "pid", "settings"),
    *("start_ns", "status", "failure", "exit_code", "signal"),
)


@lru_cache(maxsize=64)
def _machine(text: str) -> Machine | None:
    """Runs of one study share their machine."""
    data = json.loads(text)
    return None if data is None else Machine.from_json(data)


def _study_part(data: Mapping[str, Any]) -> StudyPart:
    names = {"phase", "index", "energy", "complete"}
    return StudyPart(
        name=data["study"],
        is_idle=data["idle"],
        phases=tuple(data["phases"]),
        characteristics=data["characteristics"] or {},
        results={
            phase: PhaseRecord(
                energy=_energy(result["energy"]),
                values={name: value for name, value in result.items() if name != "energy"},
            )
            for phase, result in data["results"].items()
        },
        epochs=tuple(
            EpochRecord(
                phase=epoch["phase"],
                index=epoch["index"],
                energy=_energy(epoch["energy"]),
                complete=epoch["complete"],
                values={name: value for name, value in epoch.items() if name not in names},
            )
            for epoch in data["epochs"]
        ),
        spans=tuple(
            SpanRecord(**{**span, "energy": _energy(span["energy"])}) for span in data["measured"]
        ),
        **{name: data[name] for name in ("block", "order", "repeat", "seed", "data")},
    )


def _energy(data: Mapping[str, Any] | None) -> Energy:
    return Energy(duration_s=math.nan) if data is None else Energy.from_json(data)


def _totals(spans: Sequence[SpanRecord]) -> tuple[SpanTotal, ...]:
    by_name: dict[str, list[Energy]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span.energy)
    return tuple(
        SpanTotal.of(name, len(energies), sum_of_known(energies))
        for name, energies in by_name.items()
    )


def _until_last_reading(run: Run) -> Run:
    """Compute what is known of an unfinished run from its trace."""
    if run.inside is not None and run.kind == "command":
        reason = f"its readings are in {run.inside}, and when it ended was not recorded"
        return replace(run, energy=not_measured(reason), notes=(UNFINISHED,))
    if not (run.directory / READINGS_FILE).exists():
        return replace(run, notes=(UNFINISHED,))
    trace = read_trace(run.directory)
    start_ns, last_ns = run.start_ns or 0, _last_reading_ns(trace)
    if last_ns <= start_ns:
        return replace(run, energy=not_measured("there is no reading"), notes=(UNFINISHED,))
    energy, spans = measure(trace, start_ns, last_ns, run.baseline)
    return replace(
        run,
        energy=energy,
        spans=spans,
        duration_s=energy.duration_s,
        ended_unix_s=run.started_unix_s + energy.duration_s,
        notes=(UNFINISHED,),
    )


def _of_trace(directory: Path) -> Run:
    """Make the run of a meter that left no record, because it was killed or of an old version."""
    trace = read_trace(directory)
    header = trace.header
    firsts_ns = (int(one.t_ns[0]) for one in trace.series if one.t_ns.size)
    start_ns = int(header.get("start_ns") or min(firsts_ns, default=0))
    stop_ns = max(start_ns, _last_reading_ns(trace))
    baseline = load_baseline(machine_identity) if header.get("boot_id") == boot_id() else None
    energy, spans = measure(trace, start_ns, stop_ns, baseline)
    is_closed = any(event.get("event") == "stop" for event in trace.events)
    started_unix_s = nan_if_none(header.get("start_unix_s"))
    return Run(
        directory=directory,
        id=directory.resolve().name,
        kind="meter",
        name=directory.resolve().name,
        host=str(header.get("host", "")),
        boot_id=str(header.get("boot_id", "")),
        pid=header.get("parent_pid"),
        started_unix_s=started_unix_s,
        ended_unix_s=started_unix_s + energy.duration_s,
        duration_s=energy.duration_s,
        start_ns=start_ns,
        status="done" if is_closed else "unfinished",
        energy=energy,
        spans=spans,
        baseline=baseline,
        notes=() if is_closed else (UNFINISHED,),
    )


def _last_reading_ns(trace: Trace) -> int:
    return max((int(one.t_ns[-1]) for one in trace.series if one.t_ns.size), default=0)
