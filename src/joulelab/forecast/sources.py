"""Build profiles from spans, recorded runs and tables of epochs.

Spans named ``epoch`` are what a run repeats. Spans outside epochs, and spans that each epoch
contains at most once, for example ``validate`` or ``checkpoint``, are phases of their own. While
few epochs are finished, their ``step`` spans are merged to sections, which are the pieces.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.errors import UserError, nearest
from joulelab.forecast.profile import MAIN, Profile, Row
from joulelab.format import nan_if_none
from joulelab.logs.cells import number
from joulelab.logs.csv_table import open_table
from joulelab.recording.trace import Trace, read_trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.runs.selection import open_run
from joulelab.runs.shared_machine import Sharing
from joulelab.runs.study_part import StudyPart

EPOCH, STEP, IDLE, ATTEMPT = "epoch", "step", "idle", "attempt"

ENOUGH_EPOCHS = 3
"""With fewer finished epochs, the steps carry more information."""

SECTIONS = 20
"""Number of sections made of all steps: between 10 and 30, as Schmeiser, *Batch Size Effects in the
Analysis of Simulation Output*, Operations Research 30 (1982), advises for batch means. More and
shorter sections would hide slow changes of the run in the scatter of single steps."""

MAIN_NAMES = {"", "epoch", "train", "training"}
"""Names of the phase that makes up a run, in tables."""

EnergiesOf = Callable[[Sequence[Window]], Sequence[Energy]]


class _Piece(NamedTuple):
    """A window of the run, its phase, and its size relative to a typical piece."""

    phase: str
    window: Window
    work: float = 1.0


class Source(NamedTuple):
    """A profile, the accuracy after each epoch in percent (NaN if not measured), and caveats."""

    profile: Profile
    accuracy_pct: tuple[float, ...] = ()
    caveats: tuple[str, ...] = ()


def read_source(path: Path, phase: str | None = None, steps_per_epoch: int | None = None) -> Source:
    """Read a profile from a run, as ``open_run`` takes it, or from a CSV file.

    A CSV file has the columns ``epoch, duration_s, gross_j`` and optionally ``phase`` and
    ``accuracy_pct``, in order of time. See :func:`profile_of` for the options.
    """
    if path.is_file():
        return _of_table(path)
    run = open_run(path)
    sharing = Sharing.of_runs([run])
    caveats = () if sharing is None else (sharing.caveat,)
    if run.study is not None:
        return _of_study_run(run.study, phase)._replace(caveats=caveats)
    trace, since_ns = read_trace(run.inside or run.directory), run.start_ns or 0
    options: dict[str, Any] = {"phase": phase, "steps_per_epoch": steps_per_epoch}
    return Source(profile_of_trace(trace, since_ns=since_ns, **options), caveats=caveats)


def profile_of_trace(
    trace: Trace, *, since_ns: int = 0, pid: int | None = None, **options: Any
) -> Profile:
    """Build the profile of a live, finished or killed run from its trace.

    Spans that began before ``since_ns`` (CLOCK_MONOTONIC) or in other processes than ``pid`` are
    ignored. See :func:`profile_of` for the options.
    """
    spans = [
        span for span in trace.spans if span.start_ns >= since_ns and pid in (None, span.key[0])
    ]
    return profile_of(spans, EnergyEstimator(trace).energies, **options)


def profile_of(
    spans: Sequence[TraceSpan],
    energies: EnergiesOf,
    *,
    phase: str | None = None,
    steps_per_epoch: int | None = None,
) -> Profile:
    """Build the profile of a list of spans.

    Args:
        spans: Spans in the order in which they began.
        energies: Function that returns the energy of each window.
        phase: Ignore spans whose attribute ``phase`` differs. Default: the phase of the first
            epoch.
        steps_per_epoch: Needed if the first epoch has not ended.

    Raises:
        UserError: No epoch or step has ended, or the number of steps per epoch is unknown.
    """
    epochs = [span for span in spans if span.name == EPOCH]
    if phase is None and epochs:
        phase = epochs[0].phase
    spans = [span for span in spans if span.phase is None or phase in (None, span.phase)]
    epochs = [span for span in spans if span.name == EPOCH]
    pid = epochs[0].key[0] if epochs else None
    # Attempts of a training that were repeated are no part of what a run repeats.
    begun = (span.start_ns for span in spans if span.name == ATTEMPT and span.key[0] == pid)
    begin_ns = max(begun, default=0)
    spans = [span for span in spans if span.start_ns >= begin_ns]
    epochs = [span for span in spans if span.name == EPOCH and span.key[0] == pid]
    finished = [span for span in epochs if span.stop_ns is not None]
    keys = {epoch.key for epoch in epochs}
    inside: dict[str, list[TraceSpan]] = {}
    for span in spans:
        if span.parent in keys and span.stop_ns is not None:
            inside.setdefault(span.name, []).append(span)
    steps = inside.pop(STEP, [])
    pieces_per_epoch = 1.0
    if len(finished) >= ENOUGH_EPOCHS or not steps:
        main = [_Piece(MAIN, span.window) for span in finished]
    else:
        main, pieces_per_epoch = _sections(epochs, steps, steps_per_epoch)
    others = _outside(spans, epochs)
    for found in inside.values():
        if max(Counter(span.parent for span in found).values()) == 1:
            others += found
    pieces = [*main, *(_Piece(span.name, span.window) for span in others)]
    return Profile(_rows(pieces, energies), pieces_per_epoch)


def _outside(spans: Sequence[TraceSpan], epochs: Sequence[TraceSpan]) -> list[TraceSpan]:
    """List the outermost finished spans that overlap no epoch, except idle ones."""
    starts = np.array([epoch.start_ns for epoch in epochs])
    stops = np.array([math.inf if e.stop_ns is None else e.stop_ns for e in epochs])
    # The latest end of the epochs that began before a time.
    ended = np.concatenate(([-math.inf], np.maximum.accumulate(stops)))
    found: list[TraceSpan] = []
    free_ns = 0
    for span in spans:
        if span.stop_ns is None or span.name in (EPOCH, IDLE) or span.start_ns < free_ns:
            continue
        if ended[np.searchsorted(starts, span.stop_ns)] <= span.start_ns:
            found.append(span)
            free_ns = span.stop_ns
    return found


def _sections(
    epochs: Sequence[TraceSpan], steps: Sequence[TraceSpan], steps_per_epoch: int | None
) -> tuple[list[_Piece], float]:
    """Merge steps to sections of about equal size, and count the sections per epoch.

    Each section lasts until the next one begins, because waiting for data is part of the run too.
    """
    of_epoch: dict[tuple[int, int] | None, list[TraceSpan]] = {epoch.key: [] for epoch in epochs}
    for step in steps:
        of_epoch[step.parent].append(step)
    counts = [len(of_epoch[epoch.key]) for epoch in epochs if epoch.stop_ns is not None]
    in_epoch = steps_per_epoch or (float(np.median(counts)) if counts else None)
    if not in_epoch:
        hint = "give the steps per epoch"
        raise UserError("the steps per epoch are unknown", why="no epoch has ended", hint=hint)
    size = max(1.0, len(steps) / SECTIONS)
    pieces = []
    for epoch in epochs:
        own = of_epoch[epoch.key]
        if not own:
            continue
        edges = [(step.start_ns, step.device_start_ns) for step in own]
        edges[0] = (epoch.start_ns, own[0].device_start_ns)
        # In an open epoch the last step is dropped, because what follows it has not ended.
        if epoch.stop_ns is not None or len(own) == 1:
            end = own[0] if epoch.stop_ns is None else epoch
            assert end.stop_ns is not None
            edges.append((end.stop_ns, end.device_stop_ns))
        uncertainty_ns = max(step.device_uncertainty_ns for step in own)
        count = len(edges) - 1
        cuts = np.linspace(0, count, max(1, round(count / size)) + 1).round().astype(int)
        for first, last in pairwise(cuts.tolist()):
            (start_ns, device_start_ns), (stop_ns, device_stop_ns) = edges[first], edges[last]
            window = Window(start_ns, stop_ns, device_start_ns, device_stop_ns, uncertainty_ns)
            pieces.append(_Piece(MAIN, window, (last - first) / size))
    return pieces, in_epoch / size


def _rows(pieces: Iterable[_Piece], energies: EnergiesOf) -> list[Row]:
    """Measure the pieces in order of time, each main one without the others within it."""
    pieces = sorted(pieces, key=lambda piece: (piece.window.start_ns, piece.phase != MAIN))
    of_windows = energies([piece.window for piece in pieces])
    rows: list[Row] = []
    main = -1
    for piece, energy in zip(pieces, of_windows, strict=True):
        rows.append(Row.of(piece.phase, energy, piece.work))
        if piece.phase == MAIN:
            main = len(rows) - 1
        elif main >= 0 and piece.window.stop_ns <= pieces[main].window.stop_ns:
            rows[main] = rows[main].less(rows[-1])
    return rows


def _of_study_run(study: StudyPart, phase: str | None) -> Source:
    """Use the recorded energies. Incomplete epochs count only if there are no others."""
    phases = list(dict.fromkeys(epoch.phase for epoch in study.epochs))
    if phase is not None and phase not in phases:
        raise UserError(f"the run has no epoch of phase {phase!r}", hint=nearest(phase, phases))
    phase = phase or next(iter(phases), None)
    epochs = [epoch for epoch in study.epochs if epoch.phase == phase]
    incomplete = {epoch.index for epoch in epochs if not epoch.complete}
    ignored = incomplete if len(incomplete) < len(epochs) else set()
    # An epoch's validation has the index of the epoch.
    measured = [span for span in study.spans if span.attributes.get("index") not in ignored]
    energies = {(span.start_ns, span.stop_ns): span.energy for span in measured}
    spans = [
        TraceSpan(span.name, span.start_ns, span.stop_ns, (0, i), attributes=span.attributes)
        for i, span in enumerate(measured)
    ]
    profile = profile_of(
        spans, lambda windows: [energies[one.start_ns, one.stop_ns] for one in windows], phase=phase
    )
    if incomplete and not ignored:
        images = study.data["train_count" if phase == "train" else "test_count"]
        work = iter([epoch.values["samples"] / images for epoch in epochs])
        profile = Profile(
            [row._replace(work=next(work)) if row.phase == MAIN else row for row in profile.rows]
        )
    return Source(profile, tuple(nan_if_none(epoch.values["accuracy_pct"]) for epoch in epochs))


def _of_table(path: Path) -> Source:
    table = open_table(path)
    names = [name.strip().lower() for name in table.names]
    missing = [name for name in ("epoch", "duration_s", "gross_j") if name not in names]
    if missing:
        why, hint = (
            f"it has {', '.join(table.names)}",
            "give epoch,duration_s,gross_j with a header",
        )
        raise UserError(f"{path} has no column {missing[0]}", why=why, hint=hint)
    positions = {name: names.index(name) for name in ("duration_s", "gross_j")}
    numbers = {name: table.numbers(i) for name, i in positions.items()}
    cells = [dict(zip_longest(names, map(str.strip, row), fillvalue="")) for row in table.rows()]
    phases = [cell.get("phase", "").lower() for cell in cells]
    main = MAIN_NAMES if MAIN_NAMES.intersection(phases) or not phases else {phases[0]}
    rows, accuracy, seen = [], [], set()
    for cell in cells:
        phase = cell.get("phase", "")
        key = (cell["epoch"], phase)
        if key in seen:
            epoch = f"epoch {cell['epoch']} of {phase}" if phase else f"epoch {cell['epoch']}"
            raise UserError(f"{path} has {epoch} twice", why="it may contain several runs")
        seen.add(key)
        name = MAIN if phase.lower() in main else phase
        duration_s, gross_j = (
            numbers[name].one(cell[name], table.cells(i)) for name, i in positions.items()
        )
        if gross_j < 0:
            why = "a gross energy cannot be negative"
            raise UserError(f"{path} has {gross_j:g} J in epoch {cell['epoch']}", why=why)
        rows.append(Row(phase=name, duration_s=duration_s, gross_j=gross_j))
        if name == MAIN:
            accuracy.append(math.nan)
        if accuracy and (found := number(cell.get("accuracy_pct", ""))) == found:
            accuracy[-1] = found
    return Source(Profile(rows), tuple(accuracy))
