"""Time and peak memory of the energies of 10^4 spans in 10^8 readings.

``python -m benchmarks.energy_scale`` writes a trace of one GPU's power to a temporary directory
(24 bytes per reading: 2.4 GB), and reads it and estimates the energies in a separate process, whose
peak memory it prints. The file is in the page cache: this measures the estimation and not the disk.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.own_process import in_own_process
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import RECORD, read_trace
from joulelab.recording.trace_format import (
    CHECK,
    EVENTS_FILE,
    READINGS_FILE,
    RECORD_SIZE,
    pack_header,
)
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity

PERIOD_NS = 20_000_000
CHUNK = 1 << 20
FREE_BYTES = 10e9
LIMIT_S, LIMIT_BYTES = 5.0, 4e9
"""The limits that the documentation states."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.energy_scale", description=__doc__)
    parser.add_argument("--readings", type=int, default=10**8)
    parser.add_argument("--spans", type=int, default=10**4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < max(FREE_BYTES, 2 * options.readings * RECORD_SIZE):
            print(f"not run: only {free_bytes / 1e9:.1f} GB are free in {folder}")
            return
        write(Path(folder), options.readings)
        found = in_own_process(measure, Path(folder), options.readings, options.spans)
    total_s = found["read_s"] + found["prepare_s"] + found["energies_s"]
    print(
        f"{options.readings:.0e} readings, {options.spans:.0e} spans: {total_s:.2f} s "
        f"(read {found['read_s']:.2f}, prepare {found['prepare_s']:.2f}, "
        f"energies {found['energies_s']:.2f}; limit {LIMIT_S:g}), peak resident "
        f"{found['peak_bytes'] / 1e9:.2f} GB (limit {LIMIT_BYTES / 1e9:g}); "
        f"largest error of a span {found['largest_error_pct']:.3f} %"
    )


def write(directory: Path, readings: int) -> None:
    """Write a trace of 300 W plus a slow wave, each reading the mean of its 20 ms."""
    channel = Channel(
        component="gpu:0",
        quantity=Quantity.POWER,
        source="benchmark",
        provenance=Provenance.SIMULATED,
        update_period_s=PERIOD_NS * 1e-9,
        window_s=PERIOD_NS * 1e-9,
    )
    header = {"channels": [channel.to_json()], "absent": []}
    (directory / EVENTS_FILE).touch()
    with (directory / READINGS_FILE).open("wb") as file:
        file.write(pack_header(header))
        for start in range(0, readings, CHUNK):
            records = np.zeros(min(CHUNK, readings - start), dtype=RECORD)
            stamps = np.arange(start + 1, start + 1 + records.size, dtype=np.int64)
            records["t_ns"] = stamps * PERIOD_NS
            edges_s = np.append(stamps[0] - 1, stamps) * (PERIOD_NS * 1e-9)
            records["value"] = np.diff(_energy_j(edges_s)) / (PERIOD_NS * 1e-9)
            words = records.view("<u4").reshape(-1, RECORD_SIZE // 4)
            records["check"] = np.bitwise_xor.reduce(words[:, :-1], axis=1) ^ CHECK
            file.write(records.tobytes())
        os.fsync(file.fileno())


def measure(directory: Path, readings: int, spans: int) -> dict[str, float]:
    """Measure the time to read a trace and to estimate random spans of 0.1 s to 1 h.

    Returns:
        ``read_s, prepare_s, energies_s, peak_bytes`` (of this process) and
        ``largest_error_pct`` of a span's energy against the truth.
    """
    rng = np.random.default_rng(1)
    length_s = readings * PERIOD_NS * 1e-9
    durations_s = np.exp(rng.uniform(np.log(0.1), np.log(min(3600.0, length_s / 4)), spans))
    starts_s = rng.uniform(1.0, length_s - durations_s - 1.0)
    windows = [
        Window(int(start_s * 1e9), int((start_s + duration_s) * 1e9))
        for start_s, duration_s in zip(starts_s, durations_s, strict=True)
    ]
    begin_s = time.perf_counter()
    trace = read_trace(directory)
    read_s = time.perf_counter()
    estimator = EnergyEstimator(trace)
    prepare_s = time.perf_counter()
    energies = estimator.energies(windows)
    end_s = time.perf_counter()
    gross_j = np.array([energy.components["gpu:0"].gross_j for energy in energies])
    truth_j = _energy_j(starts_s + durations_s) - _energy_j(starts_s)
    return {
        "read_s": read_s - begin_s,
        "prepare_s": prepare_s - read_s,
        "energies_s": end_s - prepare_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        "largest_error_pct": float(100 * np.max(np.abs(gross_j / truth_j - 1))),
    }


def _energy_j(t_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integral from 0 of 300 W + 100 W sin(2 pi t / 60 s)."""
    angular = 2 * np.pi / 60
    energy_j: np.typing.NDArray[np.float64] = 300 * t_s + 100 / angular * (
        1 - np.cos(angular * t_s)
    )
    return energy_j


if __name__ == "__main__":
    main()
