"""Measure what watching costs: ``python -m benchmarks.watch`` follows a long, growing recording.

A recording of a simulated machine, with epochs and steps, is written as its recorder would write it
and grows while it is watched. The table has the CPU time of reading, estimating, laying out and
drawing, as a share of one core, and for comparison that of reading the whole recording.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import RECORD, read_trace
from joulelab.recording.trace_format import CHECK, EVENTS_FILE, READINGS_FILE, pack_header
from joulelab.recording.trace_spans import Window
from joulelab.sensors.host import HostSensor
from joulelab.sensors.simulated import SimulatedMachine
from joulelab.watch.live import FRAME_S
from joulelab.watch.screen import Frame
from joulelab.watch.sources import RecordingSource

EPOCH_S, STEP_S = 60.0, 0.5


class Recording:
    """A recording of the simulated machine that began some hours ago and grows on request.

    Args:
        directory: Directory of the recording.
        hours: Age of the recording.
    """

    def __init__(self, directory: Path, hours: float) -> None:
        self._sources = SimulatedMachine.default().sources
        host = HostSensor()
        self._channels = [*(source.channel() for source in self._sources), *host.channels]
        self._intervals_s = [
            *(source.interval_s for source in self._sources),
            *(host.interval_s for _ in host.channels),
        ]
        self._begin_unix_s = time.time() - hours * 3600
        self._readings = (directory / READINGS_FILE).open("ab", buffering=0)
        self._events = (directory / EVENTS_FILE).open("ab", buffering=0)
        header = {
            "channels": [channel.to_json() for channel in self._channels],
            "intervals_s": self._intervals_s,
            "absent": [],
            "pid": 0,
            "boot_id": "",
            "start_ns": 0,
            "start_unix_s": self._begin_unix_s,
        }
        self._readings.write(pack_header(header))
        self._until_s = 0.0
        self._spans = 0

    def grow(self, until_s: float | None = None) -> None:
        """Write the readings and spans since the last call, up to now or to an age of its own."""
        if until_s is None:
            until_s = time.time() - self._begin_unix_s
        parts = [self._records(i, self._until_s, until_s) for i in range(len(self._channels))]
        records = np.concatenate(parts)
        records = records[np.argsort(records["t_ns"], kind="stable")]
        words = records.view("<u4").reshape(-1, 6)
        records["check"] = np.bitwise_xor.reduce(words, axis=1) ^ CHECK
        self._readings.write(records.tobytes())
        self._events.write(self._ended_spans(self._until_s, until_s))
        self._until_s = until_s

    def _records(self, i: int, after_s: float, until_s: float) -> NDArray[np.void]:
        channel = self._channels[i]
        period_s = self._intervals_s[i] if channel.polled else channel.update_period_s
        first, last = (int(t_s / period_s) for t_s in (after_s, until_s))
        t_s = np.arange(first + 1, last + 1) * period_s
        records = np.zeros(t_s.size, RECORD)
        records["t_ns"] = np.rint(t_s * 1e9).astype(np.int64)
        records["channel"] = i
        if i >= len(self._sources):
            records["value"] = 50 + 30 * np.sin(t_s)
        elif channel.wrap is None:
            records["value"] = 300 + 120 * np.sign(np.sin(t_s * 9))
        else:
            records["value"] = t_s * 60 % channel.wrap
        return records

    def _ended_spans(self, after_s: float, until_s: float) -> bytes:
        """Return the steps and epochs that ended between two times."""
        rows = []
        for name, length_s in (("step", STEP_S), ("epoch", EPOCH_S)):
            for number in range(int(after_s / length_s), int(until_s / length_s)):
                start_ns, stop_ns = (round(edge * length_s * 1e9) for edge in (number, number + 1))
                row = (self._spans, None, 1, name, {"index": number}, start_ns, stop_ns)
                rows.append(row)
                self._spans += 1
        lines = (
            json.dumps({"event": "spans", "pid": 1, "rows": rows[first : first + 50]})
            for first in range(0, len(rows), 50)
        )
        return "".join(f"{one}\n" for one in lines).encode()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, nargs="+", default=[0.1, 1.0, 8.0, 24.0],
        help="ages of the recordings")  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="seconds to watch each recording"
    )
    parser.add_argument("--columns", type=int, default=120, help="width of the terminal")
    given = parser.parse_args()
    print(f"{'hours':>6} {'MB':>6} {'first':>11} {'frame':>9} {'core':>10} {'whole':>9}")
    for hours in given.hours:
        with tempfile.TemporaryDirectory() as directory:
            _watch(Path(directory), hours, given.seconds, given.columns)


def _watch(directory: Path, hours: float, duration_s: float, columns: int) -> None:
    recording = Recording(directory, hours)
    recording.grow()
    whole_s = _whole_s(directory)
    source = RecordingSource(directory, title="bench", epochs=10_000)
    console = Console(file=io.StringIO(), width=columns, height=40, force_terminal=True)
    before_s = time.process_time()
    while source.poll().state == "waiting":
        pass
    first_s = time.process_time() - before_s
    frames_s: list[float] = []
    begin_s = time.monotonic()
    while time.monotonic() - begin_s < duration_s:
        before_s = time.process_time()
        console.print(Frame(source.poll(), "q quits"))
        frames_s.append(time.process_time() - before_s)
        due_s = begin_s + len(frames_s) * FRAME_S
        time.sleep(max(0.0, due_s - time.monotonic()))
        recording.grow()
    size_mb = (directory / READINGS_FILE).stat().st_size / 1e6
    frame_s = sum(frames_s) / len(frames_s)
    share = sum(frames_s) / (time.monotonic() - begin_s)
    print(
        f"{hours:6g} {size_mb:6.1f} {first_s * 1e3:8.0f} ms {frame_s * 1e3:6.1f} ms "
        f"{100 * share:8.2f} % {whole_s * 1e3:6.0f} ms"
    )


def _whole_s(directory: Path) -> float:
    """Return the CPU time of reading the whole recording and estimating its energy."""
    before_s = time.process_time()
    trace = read_trace(directory)
    last_ns = int(trace.series[0].t_ns[-1])
    EnergyEstimator(trace).energies([Window(0, last_ns)])
    return time.process_time() - before_s


if __name__ == "__main__":
    main()
