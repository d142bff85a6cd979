"""Measure what the recorder costs on a node with many sensors.

``python -m benchmarks.recorder_cost`` simulates a node with 8 NVIDIA GPUs (the stand-in for NVML,
whose calls take as long as on an H100), two packages with memory (RAPL), a power meter of the
server (hwmon) and a plug (HTTP on loopback), records it, and prints the recorder's CPU time over
wall time and its memory. Needs gcc.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

import joulelab
from benchmarks import standin
from joulelab.recording.trace import Trace
from joulelab.sensors.simulated import Waveform

SETTLE_S = 5.0
PLUG = """
[plug]
kind = "tasmota"
address = "{address}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=8, help="number of GPUs")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of the measurement")
    parser.add_argument(
        "--asleep", action="store_true", help="the driver's calls wait, and use no processor"
    )
    options = parser.parse_args()
    with node(gpus=options.gpus, busy=not options.asleep):
        found = measure(options.duration)
    print(json.dumps(found, indent=1))


@contextmanager
def node(*, gpus: int, busy: bool) -> Iterator[None]:
    """Make this process and its children see the sensors of the simulated node."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sensors"))
    from fake_meters import constant, served, tasmota  # noqa: PLC0415
    from live_hwmon import LiveFiles, Tree, Wave  # noqa: PLC0415
    from live_sysfs import LiveRapl  # noqa: PLC0415

    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        library = standin.build(root / "nvml")
        wave = Waveform.square(low_w=90, high_w=600, period_s=0.7)
        sensor = standin.Sensor(gpus=gpus, busy=busy, stamp_jitter_s=0.005)
        waveform = standin.write(root / "waveform", wave, sensor)
        sysfs, home = root / "sys", root / "home"
        home.mkdir()
        rapl = stack.enter_context(LiveRapl(sysfs))
        for package in range(2):
            rapl.zone(f"intel-rapl:{package}", f"package-{package}", 150.0)
            rapl.zone(f"intel-rapl:{package}:0", "dram", 20.0)
        live = stack.enter_context(LiveFiles())
        Tree(sysfs, live).meter("ACPI000D:00", Wave(900, 5000, 0.7), interval_s=1.0)
        plug = stack.enter_context(served(tasmota, constant(4000.0)))
        (home / "sensors.toml").write_text(PLUG.format(address=plug.address))
        os.environ |= standin.environment(library, waveform) | {
            "JOULELAB_SYSFS": str(sysfs),
            "JOULELAB_HOME": str(home),
        }
        yield


def measure(duration_s: float) -> dict[str, Any]:
    """Measure the recorder's CPU time over wall time, and its memory.

    Returns:
        ``cpu_share, memory_bytes`` (resident), ``memory_growth_bytes``, ``trace_bytes_per_h`` and
        ``sources``.
    """
    with joulelab.Meter(own_recorder=True) as meter:
        recorder = psutil.Process(meter.recorder_pid)
        time.sleep(SETTLE_S)
        start_s, before_s, before = time.monotonic(), _cpu_s(recorder), _bytes(meter.directory)
        memory_bytes = recorder.memory_info().rss
        time.sleep(duration_s)
        took_s = time.monotonic() - start_s
        found = {
            "cpu_share": (_cpu_s(recorder) - before_s) / took_s,
            "memory_bytes": recorder.memory_info().rss,
            "memory_growth_bytes": recorder.memory_info().rss - memory_bytes,
            "trace_bytes_per_h": (_bytes(meter.directory) - before) / took_s * 3600,
        }
        return found | {"sources": sources(meter.trace)}


def sources(trace: Trace) -> dict[str, int]:
    """Return how many components each source of energy has."""
    counted: dict[str, int] = {}
    for channel in trace.channels:
        if channel.gives_energy:
            counted[channel.source] = counted.get(channel.source, 0) + 1
    return counted


def _cpu_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


if __name__ == "__main__":
    main()
