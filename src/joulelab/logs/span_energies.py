"""Energy of the spans in a CSV file with ``name,start_s,stop_s``, from logs of power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import NESTED, Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.errors import UserError, nearest
from joulelab.format import duration, finite_or_none
from joulelab.logs.cells import is_absent, number
from joulelab.logs.csv_table import Table, open_table
from joulelab.logs.power_log import Log
from joulelab.logs.timestamps import dates, day_first, time_zone, to_time
from joulelab.recording.trace_spans import Window
from joulelab.sensors.calibration import Calibration

TIMES = ("start_s", "stop_s")
SAMPLES = "samples"  # Attribute of a span: how many samples it processed.
NAMES = ("model", "phase")  # Columns that together name a span if there is no column ``name``.
_RESET = "was reset"
_FELL = "was reset, wrapped or has a gap"
"""A log does not state the range of its counters, and those added up from it fall at gaps."""
LISTED_SLACK = 5.0
"""A device is listed for a part of a log if it lacks more than this many of its polls."""
REPORTED_GAP = 0.05  # Gaps are reported from this share of a span on.


@dataclass(frozen=True, slots=True)
class ImportedSpan:
    """One row of a table of spans; ``attributes`` are its other columns, as text."""

    name: str
    start_s: float
    stop_s: float
    attributes: dict[str, str] = field(default_factory=dict)
    row: int = field(default=0, repr=False, compare=False)  # From 1; 0 if it is in no table.


def read_spans(
    path: Path, timezone: str | None = None, renamed: Mapping[str, str] | None = None
) -> list[ImportedSpan]:
    """Read a table of spans: ``start_s`` and ``stop_s`` on the log's clock or as dates, and a name.

    The name is ``name``, or else ``model`` and ``phase``. ``timezone`` is for dates without one;
    ``renamed`` maps columns of the file to what to call them.
    """
    table = open_table(path)
    positions = _positions(table, renamed or {})
    naming = ["name"] if "name" in positions else [name for name in NAMES if name in positions]
    attributes = [name for name in positions if name not in {*TIMES, "name", ""}]
    times = [cell for name in TIMES for cell in table.cells(positions[name])]
    parse_dates = dates(time_zone(timezone), day_first(times, path))

    def seconds(cells: Sequence[str], row: int, column: str) -> float:
        text = cells[positions[column]]
        value = to_time(text, parse_dates)
        if not math.isfinite(value):
            problem = "is empty" if is_absent(text) else f"is {text!r}, which is not a time"
            raise UserError(f"{path}, row {row}: {column} {problem}")
        return value

    spans: list[ImportedSpan] = []
    for row, raw in enumerate(table.rows(), start=1):
        cells = [cell.strip() for cell in raw]
        if len(cells) < len(table.names):
            raise UserError(
                f"{path}, row {row} has {len(cells)} columns, the header {len(table.names)}"
            )
        start_s, stop_s = (seconds(cells, row, column) for column in TIMES)
        if stop_s < start_s:
            raise UserError(
                f"{path}, row {row}: the span stops before it starts",
                why=f"start_s is {start_s:.12g}, stop_s {stop_s:.12g}",
            )
        name = " ".join(filter(None, (cells[positions[column]] for column in naming)))
        others = {column: cells[positions[column]] for column in attributes}
        spans.append(ImportedSpan(name, start_s, stop_s, others, row))
    if not spans:
        raise UserError(f"{path} has a header but no spans")
    return spans


def _positions(table: Table, renamed: Mapping[str, str]) -> dict[str, int]:
    """Map the names of columns, after renaming, to their positions."""
    positions = column_positions(table.path, table.names, renamed)
    missing = [name for name in TIMES if name not in positions]
    if not {"name", *NAMES} & positions.keys():
        missing.insert(0, "name")
    if missing:
        known = f"its columns are {', '.join(table.names)}" if table.header else "it has no header"
        raise UserError(
            f"{table.path} has no column {missing[0]!r}",
            why=known,
            hint="begin it with a line name,start_s,stop_s, or name the columns with --rename",
        )
    return positions


def column_positions(
    path: Path, names: Sequence[str], renamed: Mapping[str, str]
) -> dict[str, int]:
    """Map the names of columns, after renaming, to their positions; each must be there once."""
    for old in renamed:
        if old not in names:
            raise UserError(f"{path} has no column {old!r}", hint=nearest(old, names))
    names = [renamed.get(name, name) for name in names]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two columns {twice!r}", hint="remove one")
    return {name: i for i, name in enumerate(names)}


def idle_spans(text: str, spans: Sequence[ImportedSpan]) -> list[ImportedSpan]:
    """Choose the spans in which the machine was idle: those of a name, or ``START:STOP``."""
    named = [span for span in spans if span.name == text and span.stop_s > span.start_s]
    if named:
        return named
    first, colon, last = text.partition(":")
    start_s, stop_s = number(first), number(last)
    if colon and math.isfinite(start_s) and math.isfinite(stop_s):
        if stop_s > start_s:
            return [ImportedSpan("idle", start_s, stop_s)]
        raise UserError(f"idle {text!r} stops before it starts")
    known = sorted({span.name for span in spans})
    hint = f"{nearest(text, known)}, or give START:STOP" if known else "give START:STOP"
    raise UserError(f"no span is named {text!r} to measure idle power in", hint=hint)


def with_calibration(log: Log, calibration: Calibration) -> Log:
    """Apply the calibration of a sensor to a log; raise an error if it is of another sensor."""
    channels = log.trace.channels
    if not any(calibration.fits(channel) for channel in channels):
        sources = ", ".join(sorted({channel.source for channel in channels}))
        raise UserError(f"the calibration is of {calibration.source}, the log has {sources}")
    applied = tuple(
        calibration.apply(channel) if calibration.fits(channel) else channel for channel in channels
    )
    return replace(log, trace=replace(log.trace, channels=applied))


def energy_rows(
    log: Log, spans: Sequence[ImportedSpan], idle: Sequence[ImportedSpan] = ()
) -> list[dict[str, Any]]:
    """Compute a row for each span (``docs/how-to/import-logs.md``), net of idle power if known."""
    known = [*spans, *idle]
    if not any(log.overlaps(span.start_s, span.stop_s) for span in known):
        raise UserError(
            "no span is within the log",
            why=f"the log goes {log.extent}, the spans go from "
            f"{min(span.start_s for span in known):.12g} to "
            f"{max(span.stop_s for span in known):.12g} s",
            hint="put both on one clock",
        )
    windows = [log.window(span.start_s, span.stop_s) for span in known]
    energies = span_energies(log, known)
    baseline = _baseline(energies[len(spans) :], windows[len(spans) :])
    return [
        energy_row(log, span, baseline.subtract(energy, one.start_ns * 1e-9, one.stop_ns * 1e-9))
        for span, energy, one in zip(spans, energies, windows, strict=False)
    ]


def span_energies(
    log: Log, spans: Sequence[ImportedSpan], *, may_change_at_edges: bool = True
) -> list[Energy]:
    """Compute the energy of each span, of each device only while the log lists it.

    Power may change where a span begins or ends, unless these are the times of another machine, or
    those of the log, which say nothing of power.
    """
    windows = [log.window(span.start_s, span.stop_s) for span in spans]
    whole = log.window(log.start_s, log.stop_s)
    edges_ns = [
        edge
        for one in windows
        for edge in (one.start_ns, one.stop_ns)
        if whole.start_ns < edge < whole.stop_ns
    ]
    estimator = EnergyEstimator(log.trace, change_points_ns=edges_ns if may_change_at_edges else ())
    return _while_listed(log, windows, estimator)


def idle_baseline(log: Log, idle: Sequence[ImportedSpan]) -> Baseline:
    """Measure idle power in spans of a log; times of the baseline are those of its trace."""
    windows = [log.window(span.start_s, span.stop_s) for span in idle]
    return _baseline(span_energies(log, idle), windows)


def _baseline(energies: Sequence[Energy], windows: Sequence[Window]) -> Baseline:
    points = [
        IdlePoint.from_energy(energy, (window.start_ns + window.stop_ns) * 0.5e-9)
        for energy, window in zip(energies, windows, strict=True)
        if energy.components
    ]
    if windows and not points:
        raise UserError("the log does not cover the idle spans")
    return Baseline(tuple(points))


def _while_listed(log: Log, windows: Sequence[Window], estimator: EnergyEstimator) -> list[Energy]:
    """Count a device that ends early, or comes later, only while the log has readings of it.

    It may be lost, or only be used for some time. What it drew otherwise is unknown, and not what
    its nearest reading says.
    """
    found = estimator.energies(windows)
    trace, whole = log.trace, log.window(log.start_s, log.stop_s)
    for channel, readings, interval_s in zip(
        trace.channels, trace.series, trace.header["intervals_s"], strict=True
    ):
        seen_ns = readings.t_ns[np.isfinite(readings.value)]
        if not channel.gives_energy or not seen_ns.size:
            continue
        component, interval_ns = channel.component, round(interval_s * 1e9)
        # A value holds until the poll that lacks the device, or its value.
        first_ns, last_ns = int(seen_ns[0]), int(seen_ns[-1]) + interval_ns
        begins_later = first_ns > whole.start_ns + LISTED_SLACK * interval_ns
        ends_early = last_ns < whole.stop_ns - LISTED_SLACK * interval_ns
        listed = {
            i: Window(
                max(window.start_ns, first_ns if begins_later else window.start_ns),
                min(window.stop_ns, last_ns if ends_early else window.stop_ns),
            )
            for i, window in enumerate(windows)
            if (begins_later and window.start_ns < first_ns < window.stop_ns)
            or (ends_early and window.start_ns < last_ns < window.stop_ns)
        }
        parts = estimator.energies(list(listed.values())) if listed else []
        for i, energy in zip(listed, parts, strict=True):
            if component not in energy.components:
                continue
            note = (
                f"{component}: the log has readings for {duration(energy.duration_s)} of "
                f"{duration(found[i].duration_s)}, and only that is counted"
            )
            found[i] = replace(
                found[i],
                components={**found[i].components, component: energy.components[component]},
                absent={name: why for name, why in found[i].absent.items() if name != component},
                notes=(*found[i].notes, note),
            )
    return found


def energy_row(log: Log, span: ImportedSpan, energy: Energy) -> dict[str, Any]:
    """Return the energy of a span as plain values, ``None`` where it is unknown."""
    (low_j, high_j), (net_low_j, net_high_j) = energy.interval_j, energy.net_interval_j
    values = {
        "gross_j": energy.gross_j,
        "low_j": low_j,
        "high_j": high_j,
        "idle_j": energy.idle_j,
        "net_j": energy.net_j,
        "net_low_j": net_low_j,
        "net_high_j": net_high_j,
        "mean_power_w": energy.gross_j / energy.duration_s if energy.duration_s > 0 else None,
    }
    stored = energy.to_json()
    return {
        "name": span.name,
        "start_s": span.start_s,
        "stop_s": span.stop_s,
        "duration_s": span.stop_s - span.start_s,
        **finite_or_none(values),
        **per_sample(span, energy.gross_j, low_j, high_j),
        "reason": _reason(log, span, energy),
        **{name: stored[name] for name in ("components", *NESTED) if name in stored},
        "attributes": span.attributes,
    }


def per_sample(span: ImportedSpan, gross_j: float, low_j: float, high_j: float) -> dict[str, Any]:
    """Return the energy of each sample of a span that states how many it processed, J."""
    samples = number(span.attributes.get(SAMPLES, ""))
    if not samples > 0:
        return {}
    names = ("gross_j_per_sample", "low_j_per_sample", "high_j_per_sample")
    values = (gross_j / samples, low_j / samples, high_j / samples)
    return dict(zip(names, finite_or_none(values), strict=True))


def _reason(log: Log, span: ImportedSpan, energy: Energy) -> str | None:
    """Explain why a part of a span's energy is missing or uncertain; ``None`` if nothing is."""
    if not log.overlaps(span.start_s, span.stop_s):
        return f"outside the log, which goes {log.extent}"
    reasons = [f"{name}: {why}" for name, why in energy.absent.items()]
    reasons += [
        f"{name}: no readings for {duration(part.gap_s)} of {duration(part.duration_s)}"
        for name, part in energy.components.items()
        if part.gap_s > REPORTED_GAP * part.duration_s
    ]
    reasons += [
        note.replace(_RESET, _FELL)
        for note in energy.notes
        if any(note.startswith(f"{name}: ") for name in energy.components)
    ]
    return "; ".join(filter(None, [*reasons, energy.negative_net])) or None
