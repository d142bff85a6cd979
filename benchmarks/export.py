"""Measure what exporting costs: ``python -m benchmarks.export`` follows a recording for hours.

A recording of a simulated machine, with epochs and steps, grows by the time between two scrapes and
is counted, as fast as the computer can. The table has the CPU time of counting as a share of one
core, the peak memory, and the counters over the energy of the whole recording.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.own_process import in_own_process
from benchmarks.watch import Recording
from joulelab.energy.estimator import EnergyEstimator
from joulelab.export.counters import EnergyCounters
from joulelab.export.exporter import MOST_SPAN_NAMES
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_spans import Window
from joulelab.watch.follower import TraceFollower


def follow(hours: float, interval_s: float) -> tuple[float, float, float]:
    """Return CPU time over the recording's, peak memory (bytes) and counted over whole energy."""
    with tempfile.TemporaryDirectory() as directory:
        recording = Recording(Path(directory), 0.0)
        recording.grow(1.0)
        trace = TraceFollower(Path(directory))
        counters = EnergyCounters(trace, 0, most_span_names=MOST_SPAN_NAMES)
        spent_s, until_s = 0.0, 1.0
        while until_s < hours * 3600:
            until_s += interval_s
            recording.grow(until_s)
            begin_s = time.thread_time()
            counters.update(round(until_s * 1e9))
            spent_s += time.thread_time() - begin_s
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        whole = Window(0, round(until_s * 1e9))
        (energy,) = EnergyEstimator(read_trace(Path(directory))).energies([whole])
    return spent_s / until_s, peak, counters.total_j / energy.gross_j


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    options = parser.parse_args()
    for interval_s in (5.0, 15.0, 60.0):
        share, peak, ratio = in_own_process(follow, options.hours, interval_s)
        print(
            f"scrapes every {interval_s:2.0f} s: {100 * share:.2f} % of a core, "
            f"{peak / 1e6:.0f} MB, {ratio:.5f} of the energy"
        )


if __name__ == "__main__":
    main()
