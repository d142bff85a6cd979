"""Measure what scanning processes costs the recorder on a machine with many processes.

``python -m benchmarks.sharing`` starts sleeping processes until there are 500, records this
machine, and prints the recorder's CPU time over wall time, with and without scans of processes.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

import joulelab
from joulelab.sensors.processes import read_processes
from joulelab.sensors.sensor import Quantity

SETTLE_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=500, help="number of processes")
    parser.add_argument("--duration", type=float, default=30.0, help="seconds of each measurement")
    options = parser.parse_args()
    with sleeping(options.processes - len(read_processes())):
        count = len(read_processes())
        for sensors in (["cpu", "dram", "host"], ["host"]):
            share, scans = recorder_share(sensors, options.duration)
            print(
                f"{count} processes, {scans} scans in {options.duration:.0f} s: "
                f"{100 * share:.2f} % of a core ({', '.join(sensors)})"
            )


def recorder_share(sensors: list[str], duration_s: float) -> tuple[float, int]:
    """Return the recorder's CPU time over wall time, and the number of scans of processes.

    Args:
        sensors: Sensors to read; with only ``host``, the recorder scans no processes.
        duration_s: Duration of the measurement.
    """
    with joulelab.Meter(sensors=sensors) as meter:
        recorder = psutil.Process(meter.recorder_pid)
        time.sleep(SETTLE_S)
        start_s, before_s = time.monotonic(), sum(recorder.cpu_times()[:2])
        time.sleep(duration_s)
        used_s = sum(recorder.cpu_times()[:2]) - before_s
        share = used_s / (time.monotonic() - start_s)
        trace = meter.trace
    scans = [
        int((readings.t_ns > start_s * 1e9).sum())
        for channel, readings in zip(trace.channels, trace.series, strict=True)
        if (channel.component, channel.quantity) == ("cpu", Quantity.USE)
    ]
    return share, sum(scans)


@contextmanager
def sleeping(count: int) -> Iterator[None]:
    """Run a number of processes that do nothing."""
    started = []
    try:
        for _ in range(count):
            pid = os.fork()
            if not pid:
                signal.pause()
                os._exit(0)
            started.append(pid)
        yield
    finally:
        for pid in started:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
