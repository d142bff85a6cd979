"""The profile that the spans of a run give.

Spans named ``epoch`` are what a run repeats. What lies beside them, or within each at most once,
as ``validate`` or ``checkpoint``, is a phase of its own. While few epochs are whole their ``step``
spans are taken together to sections, and those are the profile's pieces.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.errors import UserError
from joulelab.forecast.profile import MAIN, Profile, Row
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import TraceSpan, Window

EPOCH, STEP, IDLE = "epoch", "step", "idle"

ENOUGH_EPOCHS = 3
"""With fewer whole epochs their steps tell more."""

SECTIONS = 20
"""About so many sections are made of all steps: between 10 and 30, as Schmeiser, *Batch Size
Effects in the Analysis of Simulation Output*, Operations Research 30 (1982), advises for batch
means. In more and shorter ones the scatter of single steps would hide how a run wanders."""

EnergiesOf = Callable[[Sequence[Window]], Sequence[Energy]]


class _Edge(NamedTuple):
    """A time on the host, and on a GPU where that is known; CLOCK_MONOTONIC nanoseconds."""

    host_ns: int
    device_ns: int | None


@dataclass(slots=True)
class _Piece:
    """A window of the run, its phase, and the windows within it that are of other phases."""

    phase: str
    window: Window
    work: float = 1.0
    inner: list[_Piece] = field(default_factory=list)


def profile_of_trace(
    trace: Trace,
    *,
    phase: str | None = None,
    steps_per_epoch: int | None = None,
    since_ns: int = 0,
) -> Profile:
    """The profile that a trace's spans give, of a run under way, ended or killed.

    Args:
        trace: Readings and spans.
        phase: As for :func:`profile_of`.
        steps_per_epoch: As for :func:`profile_of`.
        since_ns: Spans that began before, on CLOCK_MONOTONIC, are left out.

    Raises:
        UserError: As :func:`profile_of` does.
    """
    accounts = EnergyEstimator(trace)
    spans = [span for span in trace.spans if span.start_ns >= since_ns]
    return profile_of(spans, accounts.energies, phase=phase, steps_per_epoch=steps_per_epoch)


def profile_of(
    spans: Sequence[TraceSpan],
    energies: EnergiesOf,
    *,
    phase: str | None = None,
    steps_per_epoch: int | None = None,
) -> Profile:
    """The profile that spans give.

    Args:
        spans: In the order in which they began.
        energies: Works out the energy of windows.
        phase: Spans whose attribute ``phase`` is another are left out. Default: the phase of the
            first epoch.
        steps_per_epoch: For a run whose first epoch is not over.

    Raises:
        UserError: No epoch is over and no step of one; or it is not known how many steps an epoch
            has.
    """
    epochs = [span for span in spans if span.name == EPOCH]
    if phase is None and epochs:
        phase = epochs[0].phase
    spans = [span for span in spans if span.phase is None or phase in (None, span.phase)]
    epochs = [span for span in spans if span.name == EPOCH]
    epochs = [span for span in epochs if span.key[0] == epochs[0].key[0]]
    whole = [span for span in epochs if span.stop_ns is not None]
    inside = _inside(spans, epochs)
    steps = inside.pop(STEP, [])
    pieces_per_epoch = 1.0
    if len(whole) >= ENOUGH_EPOCHS or not steps:
        main = [_Piece(MAIN, span.window) for span in whole]
    else:
        main, pieces_per_epoch = _sections(epochs, steps, steps_per_epoch)
    others = [span for name in _rare(inside) for span in inside[name]] + _beside(spans, epochs)
    pieces = _nested(main, [_Piece(span.name, span.window) for span in others])
    return Profile(_rows(pieces, energies), pieces_per_epoch)


def _inside(spans: Sequence[TraceSpan], epochs: Sequence[TraceSpan]) -> dict[str, list[TraceSpan]]:
    """The spans directly within epochs that are over, by name."""
    keys = {epoch.key for epoch in epochs}
    found: dict[str, list[TraceSpan]] = {}
    for span in spans:
        if span.parent in keys and span.stop_ns is not None:
            found.setdefault(span.name, []).append(span)
    return found


def _rare(inside: Mapping[str, Sequence[TraceSpan]]) -> list[str]:
    """The names that no epoch has more than once."""
    return [
        name
        for name, found in inside.items()
        if max(Counter(span.parent for span in found).values()) == 1
    ]


def _beside(spans: Sequence[TraceSpan], epochs: Sequence[TraceSpan]) -> list[TraceSpan]:
    """The outermost spans that are over and have no time in common with an epoch; idle aside."""
    starts = np.array([epoch.start_ns for epoch in epochs])
    stops = np.array([math.inf if e.stop_ns is None else e.stop_ns for e in epochs])
    # Of the epochs that began before a time, when the last of them ended.
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
    """Sections of about equally many steps, and how many make an epoch.

    Each goes to the next one's start.
    Nothing between two steps is left out: the wait for data is work of the run too.
    """
    of_epoch: dict[tuple[int, int] | None, list[TraceSpan]] = {epoch.key: [] for epoch in epochs}
    for step in steps:
        of_epoch[step.parent].append(step)
    counts = [len(of_epoch[epoch.key]) for epoch in epochs if epoch.stop_ns is not None]
    in_epoch = steps_per_epoch or (float(np.median(counts)) if counts else None)
    if not in_epoch:
        raise UserError(
            "it is not known how many steps an epoch has",
            why="no epoch is over",
            hint="give the steps of an epoch",
        )
    size = max(1.0, len(steps) / SECTIONS)
    pieces = []
    for epoch in epochs:
        own = of_epoch[epoch.key]
        if not own:
            continue
        edges = _edges(epoch, own)
        unsure_ns = max(step.device_uncertainty_ns for step in own)
        count = len(edges) - 1
        cuts = np.linspace(0, count, max(1, round(count / size)) + 1).round().astype(int)
        for first, last in pairwise(cuts.tolist()):
            begin, end = edges[first], edges[last]
            window = Window(begin.host_ns, end.host_ns, begin.device_ns, end.device_ns, unsure_ns)
            pieces.append(_Piece(MAIN, window, (last - first) / size))
    return pieces, in_epoch / size


def _edges(epoch: TraceSpan, steps: Sequence[TraceSpan]) -> list[_Edge]:
    """Where an epoch's steps begin, from the epoch's start, and where it ends.

    Of an epoch under way the last step is left out, since what follows it is not over; where it is
    alone its own end is taken.
    """
    starts = [_Edge(step.start_ns, step.device_start_ns) for step in steps]
    starts[0] = _Edge(epoch.start_ns, steps[0].device_start_ns)
    if epoch.stop_ns is None and len(steps) > 1:
        return starts
    end = steps[-1] if epoch.stop_ns is None else epoch
    assert end.stop_ns is not None
    return [*starts, _Edge(end.stop_ns, end.device_stop_ns)]


def _nested(main: Sequence[_Piece], others: Sequence[_Piece]) -> list[_Piece]:
    """All pieces in order of time, each main one with the others that lie within it."""
    starts = np.array([piece.window.start_ns for piece in main])
    for other in others:
        place = int(np.searchsorted(starts, other.window.start_ns, side="right")) - 1
        if place >= 0 and other.window.stop_ns <= main[place].window.stop_ns:
            main[place].inner.append(other)
    return sorted([*main, *others], key=lambda piece: (piece.window.start_ns, piece.phase != MAIN))


def _rows(pieces: Sequence[_Piece], energies: EnergiesOf) -> list[Row]:
    worked_out = energies([piece.window for piece in pieces])
    rows = {
        id(piece): Row.of(piece.phase, energy, piece.work)
        for piece, energy in zip(pieces, worked_out, strict=True)
    }
    for piece in pieces:
        for inner in piece.inner:
            rows[id(piece)] = rows[id(piece)].less(rows[id(inner)])
    return list(rows.values())
