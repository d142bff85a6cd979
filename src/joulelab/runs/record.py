"""The record of a run: what ran, where and when, and the energy it used.

Wrapped commands, programs with a meter and the runs of a study all write one record::

    RUN/run.json       the record (schema "joulelab-run-2"), always whole
    RUN/trace.bin      every reading
    RUN/events.jsonl   spans, gaps and processes

``joulelab run`` writes ``run.json`` when the command starts, with status "unfinished", and again
when it ends. A directory with a trace and no record is an unfinished run of a meter. The energy of
an unfinished run comes from its trace, up to the last reading.

Open runs with :mod:`joulelab.runs.selection`; records of older versions open, too::

    run = open_run("latest")            # or a directory, a name, an id, "previous", "7d"
    run.energy.gross_j, run.duration_s, run.status
    [(span.name, span.gross_j) for span in run.spans]      # totals by name
    for run in open_runs("results/"):   # all runs in a directory, oldest first
        if run.study:                   # only runs of a study have this part
            run.study.results["train"].energy.net_j        # net of the study's own idle runs
            run.study.spans, run.study.epochs, run.factors["batch_size"]

:func:`joulelab.runs.study_runs.read_study` reads a whole study: its plan, runs and damaged runs.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from joulelab.energy.baseline import Baseline
from joulelab.energy.data_exchange import DataExchange, data_exchanged
from joulelab.energy.energy import ROLES, ComponentEnergy, Energy, sensor_of
from joulelab.energy.estimator import EnergyEstimator, energies_of_spans
from joulelab.errors import UserError
from joulelab.format import count, finite_or_none, join_words, nan_if_none
from joulelab.machine import Machine, describe
from joulelab.recording.launcher import host_name
from joulelab.recording.span_columns import SpanColumns
from joulelab.recording.trace import Trace, read_trace
from joulelab.recording.trace_format import READINGS_FILE, RUN_FILE, TUNED
from joulelab.recording.trace_spans import TraceSpan
from joulelab.runs import PHASES, command_to_save, name_of, new_run_id, phase_name
from joulelab.runs.old_schemas import STARTED_FILE, upgrade
from joulelab.runs.saved_baseline import load_baseline
from joulelab.runs.stored_records import (
    Kind,
    Status,
    StoredRecord,
    StoredSpanTotal,
    StoredStudyPart,
)
from joulelab.runs.study_part import SpanRecord, StudyPart, study_part
from joulelab.sensors.host import boot_id
from joulelab.storage import home, read_whole, write_whole, writing
from joulelab.validation import InvalidData, convert, parse_json

SCHEMA = "joulelab-run-2"

UNFINISHED = "its end was not recorded: values go up to the last reading"
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class SpanTotal:
    """All finished spans of one name in a run: number, total duration and energies, NaN if unknown.

    ``low_j`` and ``high_j`` are the 95 % interval of ``gross_j``; ``data`` is what was sent,
    received, read and written within them, ``None`` if unknown.
    """

    name: str
    count: int
    duration_s: float
    gross_j: float
    low_j: float
    high_j: float
    net_j: float
    data: DataExchange | None = None

    @classmethod
    def of(cls, name: str, count: int, energy: Energy, data: DataExchange | None = None) -> Self:
        """Make the total of ``count`` spans from the sum of their energies."""
        low_j, high_j = energy.interval_j
        return cls(
            name, count, energy.duration_s, energy.gross_j, low_j, high_j, energy.net_j, data
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; data that is unknown is left out."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        data = values.pop("data")
        return values | ({} if data is None else {"data": data.to_json()})


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
        project, phase, tags: Labels set by the user; the phase is one of
            :data:`joulelab.runs.PHASES`.
        model: Model that was trained or queried.
        factors: Level of each factor of a study run, with ``model``; empty for other runs.
        host, machine: Where it ran.
        boot_id: Boot of the host, within which CLOCK_MONOTONIC is one clock.
        pid: Process that was measured.
        settings: How it was measured; for study runs, the settings of each phase.
        started_unix_s, ended_unix_s: Wall-clock times of its start and end, or last reading.
        duration_s: Monotonic time between the two.
        start_ns: Start, CLOCK_MONOTONIC.
        status: ``"done"``, ``"failed"`` (a command with another exit code than 0, a failed
            cell) or ``"unfinished"`` (still running or killed).
        failure: ``{"kind": ..., "reason": ...}`` of a program or a study run that failed.
        exit_code, signal: How a command ended.
        energy: Energy of the whole run. For study runs, the sum of its measured spans.
        spans: Totals of the spans that the program marked, by name.
        exchanged: Data that was sent, received, read and written; ``None`` if unknown.
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
    exchanged: DataExchange | None = None
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
        return self.number_of("samples")

    def number_of(self, tag: str) -> float:
        """Return the number in a tag; NaN if there is none."""
        try:
            return float(self.tags[tag])
        except (KeyError, ValueError):
            return math.nan

    def ended(self, stop_ns: int, **changes: Any) -> Run:
        """Return the run with its end, CLOCK_MONOTONIC, and other changes."""
        assert self.start_ns is not None
        duration_s = (stop_ns - self.start_ns) * _NS
        ended_unix_s = self.started_unix_s + duration_s
        return replace(self, duration_s=duration_s, ended_unix_s=ended_unix_s, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``run.json``, to which a study run adds its own part."""
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        del data["directory"], data["study"]
        data |= {
            "machine": self.machine and self.machine.to_json(),
            "energy": self.energy.to_json() if self.finished else None,
            "spans": [span.to_json() for span in self.spans],
            "exchanged": None if self.exchanged is None else self.exchanged.to_json(),
            "baseline": None if self.baseline is None else self.baseline.to_json(),
            "inside": None if self.inside is None else str(self.inside),
        }
        return {"schema": SCHEMA, **finite_or_none(data)}


def saved_run_directories() -> list[Path]:
    """Return the existing directories of saved runs; older versions wrote to ``jobs``."""
    return [path for path in (home() / "jobs", home() / "runs") if path.is_dir()]


def is_run(directory: str | os.PathLike[str]) -> bool:
    """Report whether a directory has the record of a run, damaged or not."""
    try:
        return read_record(Path(directory)) is not None
    except UserError:
        return True


def is_recording(directory: str | os.PathLike[str]) -> bool:
    """Report whether a directory has a trace, also one that links to another recording."""
    return Path(directory, READINGS_FILE).is_file()


def read_run(directory: str | os.PathLike[str]) -> Run:
    """Read the run in a directory. Energies of study runs are gross.

    Raises:
        UserError: The directory has no run, or its record is damaged.
        TraceError: The run is unfinished and its trace is damaged.
    """
    path = Path(directory)
    return run_of(path, read_record(path))


def run_of(path: Path, data: Mapping[str, Any] | None) -> Run:
    """Return :func:`read_run` of a directory whose record, if any, was read."""
    if data is None and (path / READINGS_FILE).is_file():
        return _of_trace(path)
    if data is None:
        raise UserError(
            f"{path} is not a run",
            why=f"it has no {RUN_FILE}",
            hint="give the directory that `joulelab run` printed",
        )
    run = run_of_record(path, data)
    return run if run.finished or run.study else _until_last_reading(run)


def read_record(directory: Path) -> dict[str, Any] | None:
    """Read the record in a directory as JSON in this version's schema; ``None`` without one.

    Raises:
        UserError: The record is damaged or of an unknown schema.
    """
    for path in (directory / RUN_FILE, directory / STARTED_FILE):
        try:
            data = parse_json(read_whole(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, InvalidData) as error:
            raise UserError(f"cannot read {path}", why=str(error)) from error
        # Other programs write files of that name, too.
        if isinstance(data, dict) and ("run_id" in data or "joulelab" in str(data.get("schema"))):
            try:
                known = data if data["schema"] == SCHEMA else upgrade(data, path)
                convert(known, StoredRecord)
            except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
                raise _damaged(path, error) from error
            return {**known, "schema": SCHEMA}
    return None


def _damaged(path: Path, error: Exception) -> UserError:
    text = str(error) if isinstance(error, InvalidData) else f"{type(error).__name__}: {error}"
    return UserError(f"{path} is damaged", why=text)


def write_record(directory: Path, data: Mapping[str, Any]) -> None:
    """Write what :meth:`Run.to_json` or :func:`read_record` returned, whole or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    path = directory / RUN_FILE
    with writing(path):
        text = json.dumps(data, indent=1, allow_nan=False)
        write_whole(path, text.encode() + b"\n", private=True)


def meter_record(
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
) -> Run:
    """Make the record of a program with a meter, which may have been ended by an exception."""
    measured = measure(trace, estimator, start_ns, stop_ns)
    phase = phase_name(os.environ.get("JOULELAB_PHASE"))
    outer = os.environ.get("JOULELAB_RECORDING")
    name = name_of(sys.orig_argv)
    run = Run(
        directory=directory,
        id=directory.name if directory.parent == home() / "runs" else new_run_id(name),
        kind="meter",
        name=name,
        command=command_to_save(sys.orig_argv),
        project=os.environ.get("JOULELAB_PROJECT") or None,
        phase=phase if phase in PHASES else None,
        host=str(trace.header.get("host") or host_name()),
        machine=describe(),
        boot_id=boot_id(),
        pid=os.getpid(),
        settings=settings,
        started_unix_s=started_unix_s,
        start_ns=start_ns,
        status="done" if error is None else "failed",
        failure=None if error is None else {"kind": type(error).__name__, "reason": str(error)},
        baseline=estimator.baseline,
        inside=None if outer is None else Path(outer),
        notes=(
            *notes,
            *open_span_notes(trace, start_ns, os.getpid()),
            *tuning_notes(trace, start_ns, stop_ns),
        ),
        **measured,
    )
    return run.ended(stop_ns)


def open_span_notes(trace: Trace, start_ns: int, pid: int | None = None) -> list[str]:
    """State which spans of a process, or of all, began after a time and did not end."""
    spans = SpanColumns.of(trace.spans)
    is_open = ~spans.is_finished & (spans.spans["start_ns"] >= start_ns)
    if pid is not None:
        is_open &= spans.spans["pid"] == pid
    if not is_open.any():
        return []
    found = spans.where(is_open)
    return [
        f"{count(len(found), 'span')} without an end left out: {join_words([*found.positions()])}"
    ]


def tuning_notes(trace: Trace, start_ns: int, stop_ns: int) -> list[str]:
    """Return what loops between two times were tuned to, and what that saves."""
    return [
        event["text"]
        for event in trace.events
        if event.get("event") == TUNED and start_ns <= event["t_ns"] <= stop_ns
    ]


def measure(
    trace: Trace, estimator: EnergyEstimator, start_ns: int, stop_ns: int
) -> dict[str, Any]:
    """Compute what a trace records of the time between two moments.

    Returns:
        The attributes ``energy``, ``spans`` and ``exchanged`` of a :class:`Run`.
    """
    spans = SpanColumns.of(trace.spans).within(start_ns, stop_ns)
    positions = spans.positions()
    whole = TraceSpan("", start_ns, stop_ns, key=(0, 0))
    # One group at a time is copied: a million spans take 60 MB.
    groups = (spans.where(at) for at in positions.values())
    energy, *energies = energies_of_spans(estimator, chain(([whole],), groups))
    return {
        "energy": energy,
        "spans": tuple(
            SpanTotal.of(name, len(at), total, data_exchanged(trace, spans.windows[at]))
            for (name, at), total in zip(positions.items(), energies, strict=True)
        ),
        "exchanged": data_exchanged(trace, [whole.window], is_whole=True),
    }


def not_measured(reason: str) -> Energy:
    """Return the energy of a run without readings."""
    return Energy(duration_s=math.nan, absent={"all": reason})


def sum_of_known(energies: Iterable[Energy]) -> Energy:
    """Add up what was measured; a component that some spans lack keeps what the others have.

    :func:`joulelab.energy.energy.total` leaves such a component out.
    """
    roles: dict[str, dict[str, ComponentEnergy]] = {role: {} for role in ROLES}
    absent: dict[str, str] = {}
    notes: dict[str, None] = {}
    duration_s = 0.0
    for energy in energies:
        duration_s += energy.duration_s
        absent |= energy.absent
        notes |= dict.fromkeys(energy.notes)
        for role, parts in roles.items():
            for name, part in getattr(energy, role).items():
                if name in parts and sensor_of(part.source) != sensor_of(parts[name].source):
                    part = replace(part, source=parts[name].source)  # noqa: PLW2901
                if not math.isnan(part.gross_j):
                    parts[name] = parts[name] + part if name in parts else part
    fields: dict[str, Any] = {role: dict(sorted(parts.items())) for role, parts in roles.items()}
    known = {name for parts in roles.values() for name in parts}
    return Energy(
        duration_s=duration_s,
        absent={name: why for name, why in absent.items() if name not in known},
        notes=tuple(notes),
        **fields,
    )


def run_of_record(directory: Path, data: Mapping[str, Any]) -> Run:
    """Make a run from what :func:`read_record` returned; defaults take the place of nulls.

    Raises:
        UserError: The record is damaged.
    """
    try:
        stored = convert(data, StoredRecord)
        values: dict[str, Any] = {
            name: value for name, value in stored.items() if value is not None
        }
        for name, make in _MAKERS.items():
            if name in values:
                values[name] = make(values[name])
        is_study = stored["kind"] == "study"
        part = study_part(convert(data, StoredStudyPart), data) if is_study else None
    except InvalidData as error:
        raise _damaged(directory / RUN_FILE, error) from error
    if part is not None:
        values |= {
            "study": part,
            "energy": sum_of_known(span.energy for span in part.whole),
            "spans": _totals(part.spans),
        }
    return Run(directory=directory, **values)


def _span_total(stored: StoredSpanTotal) -> SpanTotal:
    values: dict[str, Any] = {
        name: math.nan if value is None else value
        for name, value in stored.items()
        if name != "data"
    }
    data = stored.get("data")
    total = SpanTotal(**values, data=None if data is None else DataExchange.of_stored(data))
    is_unknown = all(map(math.isnan, (total.gross_j, total.low_j, total.high_j)))
    if not (is_unknown or total.low_j <= total.gross_j <= total.high_j):
        raise InvalidData(f"the total of {total.name} is not within its interval")
    return total


_MAKERS: Mapping[str, Callable[[Any], Any]] = {
    "phase": phase_name,
    "energy": Energy.of_stored,
    "spans": lambda rows: tuple(map(_span_total, rows)),
    "exchanged": DataExchange.of_stored,
    "baseline": Baseline,
    "inside": Path,
}


def _totals(spans: Sequence[SpanRecord]) -> tuple[SpanTotal, ...]:
    by_name: dict[str, list[Energy]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span.energy)
    return tuple(
        SpanTotal.of(name, len(energies), sum_of_known(energies))
        for name, energies in by_name.items()
    )


def _of_trace(directory: Path) -> Run:
    """Make the run of a meter that left no record, because it was killed or of an old version."""
    trace = read_trace(directory)
    header = trace.header
    first_ns = min((int(one.t_ns[0]) for one in trace.series if one.t_ns.size), default=0)
    run = Run(
        directory=directory,
        id=directory.resolve().name,
        kind="meter",
        name=directory.resolve().name,
        host=str(header.get("host", "")),
        boot_id=str(header.get("boot_id", "")),
        pid=header.get("parent_pid"),
        started_unix_s=nan_if_none(header.get("start_unix_s")),
        start_ns=int(header.get("start_ns") or first_ns),
        baseline=load_baseline(describe) if header.get("boot_id") == boot_id() else None,
    )
    run = _until_last_reading(run, trace)
    is_closed = any(event.get("event") == "stop" for event in trace.events)
    return replace(run, status="done", notes=()) if is_closed else run


def _until_last_reading(run: Run, trace: Trace | None = None) -> Run:
    """Compute what is known of an unfinished run from its trace."""
    run = replace(run, notes=(UNFINISHED,))
    if run.inside is not None and run.kind == "command":
        reason = f"its readings are in {run.inside}, and when it ended was not recorded"
        return replace(run, energy=not_measured(reason))
    if trace is None and not is_recording(run.directory):
        return run
    trace = trace or read_trace(run.directory)
    start_ns = run.start_ns or 0
    last_ns = max((int(one.t_ns[-1]) for one in trace.series if one.t_ns.size), default=0)
    if last_ns <= start_ns:
        return replace(run, energy=not_measured("there is no reading"))
    estimator = EnergyEstimator(trace, run.baseline)
    run = replace(run, **measure(trace, estimator, start_ns, last_ns))
    duration_s = run.energy.duration_s
    return replace(run, duration_s=duration_s, ended_unix_s=run.started_unix_s + duration_s)
