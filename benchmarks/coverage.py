"""Coverage of the 95 % intervals: ``python -m benchmarks.coverage``.

Boards of every kind of sensor are drawn at random from the uncertainties that their channels state:
gain, offset, delay, phase, jitter, noise and the drift of idle power. Each records one waveform in
memory, and the energies of random spans of it, from 50 ms to a minute, are estimated like a meter
does. The table has the share of spans whose interval covers the true energy, separately for short
(under 1 s) and long ones, gross and net of idle, with the standard error over boards, and the
median half width of the gross interval. Spans of one board share its gain: gains are drawn one from
each of as many equally likely ranges as there are boards (stratified), so that chance in the gains
does not affect the results.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks import boards
from benchmarks.boards import Kind, Power, with_spans
from benchmarks.sensor_kinds import kinds
from joulelab.arrays import Floats
from joulelab.energy.baseline import UNKNOWN_DRIFT, Baseline, IdlePoint
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace_spans import Window

LENGTH_S = 90.0
IDLE_S = 8.0
SHORTEST_S, LONGEST_S = 0.05, 60.0
SHORT_S = 1.0
"""Shorter spans are short ones."""
SPANS = 6
"""Number of short and of long spans of each board."""
BURSTS = 10
"""Number of spans on bursts, if the waveform has any."""
WAVES = ("steady", "square", "phases", "ramps", "telegraph", "bursts", "walk")


@dataclass(frozen=True)
class Outcome:
    """One board's spans. Shapes: (spans,)."""

    kind: str  # Name of the kind of board.
    wave: str  # Name of the waveform.
    duration_s: Floats  # Length of each span.
    gross: NDArray[np.bool_]  # Whether the interval covers the true energy.
    net: NDArray[np.bool_]  # The same net of idle.
    half_width: Floats  # Half of the gross interval over the true energy.


def wave_of(name: str, rng: np.random.Generator) -> tuple[Power, Floats]:
    """Return a power of random levels after idle, and spans on its bursts. Shape: (spans, 2)."""
    idle_w = rng.uniform(20, 120)
    low_w, high_w = np.sort(rng.uniform(idle_w, 700, 2))
    length_s = LENGTH_S - IDLE_S
    bursts_s = np.zeros((0, 2))
    match name:
        case "steady":
            power = boards.steady(length_s, high_w)
        case "square":
            power = boards.square(length_s, low_w, high_w, rng.uniform(0.1, 0.5), 0.5, 0.0)
        case "phases":
            power = boards.square(
                length_s, low_w, high_w, rng.uniform(2, 20), rng.uniform(0.2, 0.8), 0.0
            )
        case "ramps":
            power = boards.ramps(length_s, low_w, high_w, rng.uniform(1, 10), 0.0)
        case "telegraph":
            levels_w = (low_w, (low_w + high_w) / 2, high_w)
            power = boards.telegraph(length_s, levels_w, rng.uniform(0.05, 2.0), rng)
        case "walk":
            power = boards.walk(length_s, low_w, high_w, rng.uniform(0.02, 0.2), rng)
        case _:
            period_s = rng.uniform(0.15, 1.0)
            burst_s = period_s * rng.uniform(0.2, 0.8)
            power = boards.square(length_s, low_w, high_w, period_s, burst_s / period_s, 0.0)
            starts_s = IDLE_S + period_s * np.arange(1, int(length_s / period_s) - 1)
            bursts_s = np.stack((starts_s, starts_s + burst_s), axis=1)
    return boards.after_idle(power, idle_w, IDLE_S, LENGTH_S), bursts_s


def random_spans(rng: np.random.Generator) -> Floats:
    """Return short and long spans after idle, lengths log-uniform. Shape: (2 SPANS, 2)."""
    bounds = np.log([[SHORTEST_S, SHORT_S], [SHORT_S, LONGEST_S]]).repeat(SPANS, axis=0)
    lengths_s = np.exp(rng.uniform(bounds[:, 0], bounds[:, 1]))
    starts_s = rng.uniform(IDLE_S + 1, LENGTH_S - 2 - lengths_s)
    return np.stack((starts_s, starts_s + lengths_s), axis=1)


def stratified(count: int, rng: np.random.Generator) -> list[float]:
    """Return standard normal deviates, one from each of ``count`` equally likely ranges."""
    share = (np.arange(count) + rng.uniform(size=count)) / count
    return [NormalDist().inv_cdf(one) for one in rng.permutation(share).tolist()]


def outcomes_of(kind: Kind, wave: str, count: int, rng: np.random.Generator) -> list[Outcome]:
    """Return the outcomes of this number of boards."""
    deviates = zip(stratified(count, rng), stratified(count, rng), strict=True)
    return [outcome(kind, wave, rng, pair) for pair in deviates]


def outcome(
    kind: Kind, wave: str, rng: np.random.Generator, deviates: tuple[float, float]
) -> Outcome:
    """Record one board, random except for gain and offset, and estimate its spans' energies."""
    power, bursts_s = wave_of(wave, rng)
    spans_s = random_spans(rng)
    trace = kind.record(power, 0.0, LENGTH_S, rng, deviates)
    trace = with_spans(trace, ["span"] * len(spans_s), spans_s[:, 0], spans_s[:, 1])
    if bursts_s.size:
        trace = with_spans(trace, ["burst"] * len(bursts_s), bursts_s[:, 0], bursts_s[:, 1])
        spans_s = np.concatenate((spans_s, rng.choice(bursts_s, min(BURSTS, len(bursts_s)))))
    truth_j = power.energy_j(spans_s[:, 1]) - power.energy_j(spans_s[:, 0])
    duration_s = spans_s[:, 1] - spans_s[:, 0]

    idle_s = (1.0, IDLE_S - 1.0)
    idle = EnergyEstimator(trace).energies(_windows([idle_s]))[0]
    baseline = Baseline((IdlePoint.from_energy(idle, sum(idle_s) / 2),))
    # Idle power drifts after its measurement.
    idle_w = power.power_w[0] * (1 + UNKNOWN_DRIFT * rng.standard_normal())
    net_truth_j = truth_j - idle_w * duration_s

    energies = EnergyEstimator(trace, baseline).energies(_windows(spans_s))
    gross = np.array([energy.interval_j for energy in energies])
    net = np.array([energy.net_interval_j for energy in energies])
    return Outcome(
        kind.name,
        wave,
        duration_s,
        _covers(gross, truth_j),
        _covers(net, net_truth_j),
        (gross[:, 1] - gross[:, 0]) / 2 / truth_j,
    )


def _windows(spans_s: Sequence[tuple[float, float]] | Floats) -> list[Window]:
    return [Window(round(start * 1e9), round(stop * 1e9)) for start, stop in spans_s]


def _covers(interval_j: Floats, truth_j: Floats) -> NDArray[np.bool_]:
    """Allow for the rounding of times to nanoseconds."""
    slack_j = 1e-6 * truth_j
    return (interval_j[:, 0] <= truth_j + slack_j) & (truth_j - slack_j <= interval_j[:, 1])


def coverage(outcomes: Sequence[Outcome], short: bool, quantity: str) -> tuple[float, float]:
    """Return the percentage of covered spans, boards weighted equally, and its standard error."""
    each = [
        float(getattr(one, quantity)[(one.duration_s < SHORT_S) == short].mean())
        for one in outcomes
        if np.any((one.duration_s < SHORT_S) == short)
    ]
    return 100 * float(np.mean(each)), 100 * float(np.std(each)) / math.sqrt(len(each))


def known(kind: Kind) -> Kind:
    """Return the same boards with gain and offset known exactly."""
    sources = tuple(
        replace(
            source,
            channel=replace(source.channel, gain_uncertainty=0.0, offset_uncertainty_w=0.0),
        )
        for source in kind.sources
    )
    return replace(kind, exact=True, sources=sources)


def line(name: str, outcomes: Sequence[Outcome]) -> str:
    """Format a row of the table."""
    cells = [
        "{:5.1f} ({:.1f})".format(*coverage(outcomes, short, quantity))
        for quantity in ("gross", "net")
        for short in (True, False)
    ]
    for short in (True, False):
        widths = [one.half_width[(one.duration_s < SHORT_S) == short] for one in outcomes]
        cells.append(f"{100 * np.nanmedian(np.concatenate(widths)):6.1f}")
    return " | ".join([f"{name:28}", *cells])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--boards", type=int, default=80, help="number of boards of each kind and waveform"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only kinds whose name contains this text")
    parser.add_argument("--waves", action="store_true", help="list each waveform separately, too")
    parser.add_argument("--exact", action="store_true", help="boards with known gain and offset")
    options = parser.parse_args()
    print(
        f"{'covered, %':28} | gross <1 s | gross >1 s | net <1 s   | net >1 s   | ± <1 s | ± >1 s"
    )
    for kind in kinds():
        if options.only not in kind.name:
            continue
        # A kind's boards are the same whichever other kinds are run.
        rng = np.random.default_rng((options.seed, zlib.crc32(kind.name.encode())))
        chosen = known(kind) if options.exact else kind
        found = {wave: outcomes_of(chosen, wave, options.boards, rng) for wave in WAVES}
        print(line(kind.name, [one for outcomes in found.values() for one in outcomes]), flush=True)
        if options.waves:
            for wave, outcomes in found.items():
                print(line(f"  {wave}", outcomes), flush=True)


if __name__ == "__main__":
    main()
