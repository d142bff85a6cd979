"""Coverage of energies where readings are missing: ``python -m benchmarks.faults.holes``.

Boards are drawn at random from the uncertainties that their channels state, and record a waveform.
Then a fault takes readings away, or the counter starts again. Of each recording, the energies of
spans that lie inside the fault, across an edge of it, and outside are compared with the truth. A
cell of the table has the coverage of the 95 % intervals, the median of their half widths relative
to the truth, and the number of spans; absent energies are counted, not covered or missed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import boards
from benchmarks.boards import Kind, Power, with_spans
from benchmarks.coverage import stratified
from benchmarks.sensor_kinds import kinds
from joulelab.arrays import Floats
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.incidents import MIN_SILENCE_S
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Quantity

LENGTH_S = 60.0
FAULT_S = 3.0
EDGE_S = 12.0
"""The fault is at least this far from the ends of the recording."""
RING_S = 2.4
"""How far back the ring of an H100 reaches: 120 readings of 20 ms."""
LOW_W, HIGH_W = 100.0, 600.0
WAVES = ("square", "ramps", "telegraph", "steps")
KINDS = {
    "RAPL": "RAPL package, with wraps",
    "counter": "counter, 100 ms",
    "ring": "ring, rough",
    "ring and counter": "ring, rough, and counter",
    "polled power": "instant, 25 of 100 ms",
    "average power": "average over 1 s",
}
GAP_TOLERANCE_S = 0.45
"""A few intervals of a counter: the time at which a polled value was new is uncertain."""
RAPL_WRAP_J = 262_143.3
PLACES = ("inside", "across", "outside")
LEAST, MOST = 93.0, 98.5
"""Bounds of coverage in a cell, %."""


class Cell(NamedTuple):
    """Where a span belongs in the table."""

    fault: str
    kind: str
    wave: str
    place: str


@dataclass
class Outcome:
    """Spans of one cell: whether they were covered, and half widths relative to the truth."""

    covered: list[bool]
    half_width: list[float]
    absent: int = 0
    wrong_gap: int = 0
    without_note: int = 0


def power_of(wave: str, rng: np.random.Generator) -> Power:
    """Return a power between 100 and 600 W with random times."""
    length_s = LENGTH_S + 10
    match wave:
        case "square":
            period_s, duty = rng.uniform(0.3, 4), rng.uniform(0.3, 0.7)
            return boards.square(length_s, LOW_W, HIGH_W, period_s, duty, rng.uniform(0, period_s))
        case "ramps":
            period_s = rng.uniform(1, 10)
            return boards.ramps(length_s, LOW_W, HIGH_W, period_s, rng.uniform(0, period_s))
        case "telegraph":
            levels_w = (LOW_W, (LOW_W + HIGH_W) / 2, HIGH_W)
            return boards.telegraph(length_s, levels_w, rng.uniform(0.05, 1.0), rng)
        case _:
            # A program's phases: long levels, each different.
            times_s = np.append(0.0, np.cumsum(rng.uniform(2, 10, 60)))
            return boards.steps(times_s, rng.uniform(LOW_W, HIGH_W, 60))


def missing_s(fault: str, kind: Kind, start_s: float) -> tuple[float, float]:
    """Return from when to when the component's first source has no readings."""
    stop_s = start_s + FAULT_S
    if fault == "stopped" and _is_ring(kind.sources[0].channel):
        stop_s -= RING_S
    return start_s, math.inf if fault == "ended" else stop_s


def _is_ring(channel: Channel) -> bool:
    return not channel.polled and channel.quantity is Quantity.POWER


def stopped(trace: Trace, start_s: float) -> Trace:
    """The recorder was stopped or starved, or the driver hung: no readings, then the ring's."""

    series, events = [], []
    for i, (channel, (t_ns, read)) in enumerate(zip(trace.channels, trace.series, strict=True)):
        value = read
        stop_s = start_s + FAULT_S - (RING_S if _is_ring(channel) else 0.0)
        keep = (t_ns < start_s * 1e9) | (t_ns >= stop_s * 1e9)
        if _is_ring(channel):
            # The recorder sees that readings are missing, and where the first of them would be.
            first = int(np.flatnonzero(~keep)[0])
            keep[first] = True
            value = np.where(np.arange(value.size) == first, math.nan, value)
            reason = "readings are missing from the driver's power ring"
            events.append(_gap(i, int(t_ns[first]), reason))
        series.append(Readings(t_ns[keep], value[keep]))
    return replace(trace, series=tuple(series), events=tuple(events))


def silent(trace: Trace, start_s: float) -> Trace:
    """All sources answer with an error."""
    series = []
    for t_ns, value in trace.series:
        inside = (t_ns * 1e-9 >= start_s) & (t_ns * 1e-9 < start_s + FAULT_S)
        series.append(Readings(t_ns, np.where(inside, math.nan, value)))
    events = tuple(
        _gap(i, int(t_ns[np.searchsorted(t_ns, start_s * 1e9)]), "Unknown Error")
        for i, (t_ns, _) in enumerate(trace.series)
    )
    return replace(trace, series=tuple(series), events=events)


def reset(trace: Trace, start_s: float) -> Trace:
    """The counters start again from 0."""
    series = []
    for channel, (t_ns, counted) in zip(trace.channels, trace.series, strict=True):
        value = counted
        if channel.quantity is Quantity.ENERGY:
            at = int(np.searchsorted(t_ns, start_s * 1e9))
            wrap = channel.wrap or math.inf
            value = np.concatenate((value[:at], (value[at:] - value[at]) % wrap))
        series.append(Readings(t_ns, value))
    return replace(trace, series=tuple(series))


def ended(trace: Trace, start_s: float) -> Trace:
    """The recorder was killed."""
    keep = [t_ns < start_s * 1e9 for t_ns, _ in trace.series]
    pairs = zip(trace.series, keep, strict=True)
    return replace(trace, series=tuple(Readings(t[one], v[one]) for (t, v), one in pairs))


FAULTS: dict[str, Callable[[Trace, float], Trace]] = {
    "stopped": stopped,
    "silent": silent,
    "reset": reset,
    "ended": ended,
}


def _gap(channel: int, t_ns: int, reason: str) -> dict[str, Any]:
    return {"event": "gap", "channel": channel, "t_ns": t_ns, "reason": reason}


def spans_of(fault: str, start_s: float, rng: np.random.Generator) -> dict[str, Floats]:
    """Draw spans for each place. Shapes: (spans, 2)."""
    length_s = 0.2 if fault == "reset" else FAULT_S
    stop_s = start_s + length_s
    inside = np.sort(rng.uniform(start_s + 0.02 * length_s, stop_s - 0.02 * length_s, (2, 2)))
    lengths_s = np.exp(rng.uniform(math.log(0.5), math.log(6.0), 2))
    edges_s = np.array([start_s, stop_s])
    if fault == "ended":
        # Less than half of a span may be missing.
        before_s = rng.uniform(0.5, 5, 2)
        across = np.stack((start_s - before_s, start_s + before_s * rng.uniform(0, 0.9, 2)), axis=1)
        inside = np.zeros((0, 2))
    else:
        starts_s = edges_s - lengths_s * rng.uniform(0.1, 0.9, 2)
        across = np.stack((starts_s, starts_s + lengths_s), axis=1)
    outside_s = rng.uniform(2.0, start_s - 1.5 - lengths_s)
    outside = np.stack((outside_s, outside_s + lengths_s), axis=1)
    return {"inside": inside, "across": across, "outside": outside}


def measure(
    fault: str, kind: Kind, wave: str, count: int, rng: np.random.Generator
) -> dict[str, Outcome]:
    """Return the outcomes of spans of some recordings, by place."""
    outcomes = {place: Outcome([], []) for place in PLACES}
    for deviates in zip(stratified(count, rng), stratified(count, rng), strict=True):
        power = power_of(wave, rng)
        start_s = float(rng.uniform(EDGE_S, LENGTH_S - EDGE_S - FAULT_S))
        if fault == "ended":
            start_s = float(rng.uniform(LENGTH_S / 2, LENGTH_S))
        trace = FAULTS[fault](kind.record(power, 0.0, LENGTH_S, rng, deviates), start_s)
        by_place = spans_of(fault, start_s, rng)
        spans_s = np.concatenate(list(by_place.values()))
        trace = with_spans(trace, ["span"] * len(spans_s), spans_s[:, 0], spans_s[:, 1])
        windows = [Window(round(a * 1e9), round(b * 1e9)) for a, b in spans_s.tolist()]
        energies = EnergyEstimator(trace).energies(windows)
        truths_j = power.energy_j(spans_s[:, 1]) - power.energy_j(spans_s[:, 0])
        places = [place for place, spans in by_place.items() for _ in spans]
        tolerance_s = GAP_TOLERANCE_S + kind.sources[0].channel.window_s
        for span_s, place, energy, truth_j in zip(
            spans_s.tolist(), places, energies, truths_j.tolist(), strict=True
        ):
            found = outcomes[place]
            if not energy.components:
                found.absent += 1
                continue
            low_j, high_j = energy.interval_j
            found.covered.append(low_j <= truth_j * (1 + 1e-6) and truth_j <= high_j * (1 + 1e-6))
            found.half_width.append((high_j - low_j) / 2 / truth_j)
            if fault == "reset":
                continue
            from_s, until_s = missing_s(fault, kind, start_s)
            gap_s = max(0.0, min(span_s[1], until_s) - max(span_s[0], from_s))
            found.wrong_gap += abs(energy.gap_s - gap_s) > tolerance_s
            least_s = MIN_SILENCE_S if fault == "ended" else 0.0
            found.without_note += gap_s > least_s + tolerance_s and not energy.notes
    return outcomes


def table(rows: Sequence[tuple[Cell, Outcome]]) -> str:
    """Format the outcomes as a table of Markdown."""
    lines = [
        "| fault | sensor | waveform | spans | number | coverage, % | median half width, % "
        "| absent | wrong gap_s | no note |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, found in rows:
        covered = 100 * float(np.mean(found.covered)) if found.covered else math.nan
        mark = "" if LEAST <= covered <= MOST else " *"
        width = 100 * float(np.median(found.half_width)) if found.half_width else math.nan
        lines.append(
            f"| {' | '.join(cell)} | {len(found.covered)} | {covered:.1f}{mark} | {width:.1f} "
            f"| {found.absent} | {found.wrong_gap} | {found.without_note} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.holes", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--boards", type=int, default=100, help="number of recordings of each cell")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--waves", nargs="+", choices=WAVES, default=list(WAVES))
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    known = {kind.name: kind for kind in kinds()}
    # With a range as small as in other benchmarks, a hole could hide several wraps.
    [package] = known[KINDS["RAPL"]].sources
    package = replace(package, channel=replace(package.channel, wrap=RAPL_WRAP_J))
    known[KINDS["RAPL"]] = replace(known[KINDS["RAPL"]], sources=(package,))
    rows: list[tuple[Cell, Outcome]] = []
    for fault in options.faults:
        for name in options.kinds:
            if fault == "reset" and all(
                one.channel.quantity is Quantity.POWER for one in known[KINDS[name]].sources
            ):
                continue
            for wave in options.waves:
                rng = np.random.default_rng([options.seed, len(rows)])
                found = measure(fault, known[KINDS[name]], wave, options.boards, rng)
                rows += [
                    (Cell(fault, name, wave, place), one)
                    for place, one in found.items()
                    if one.covered or one.absent
                ]
    text = table(rows)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
