"""Measure the growth of the recorder's memory, with all sensors many times as fast.

``python -m benchmarks.growth SETTINGS`` with SETTINGS in JSON prints the result as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import joulelab
from joulelab.sensors.simulated import SimulatedMachine

SETTLE_S = 5.0
SAMPLE_S = 0.5


def main(arguments: list[str]) -> None:
    print(json.dumps(measure(**json.loads(arguments[0]))), flush=True)


def measure(*, duration_s: float, speed: float) -> dict[str, Any]:
    """Measure the recorder's resident memory on a simulated machine.

    Args:
        duration_s: Duration of the measurement.
        speed: Factor on the rates at which sensors update and are read.

    Returns:
        ``duration_s, speed, start_bytes`` and ``stop_bytes`` (resident, means of the first and
        last fifth), ``growth_bytes_per_s`` (least squares) and ``trace_bytes``.
    """
    machine = SimulatedMachine.default()
    fast = SimulatedMachine(
        tuple(
            replace(
                source,
                update_period_s=source.update_period_s / speed,
                window_s=source.window_s / speed,
                interval_s=source.interval_s / speed,
            )
            for source in machine.sources
        )
    )
    times_s, resident_bytes = [], []
    with joulelab.Meter(sensors=fast) as meter:
        recorder = psutil.Process(meter.recorder_pid)
        time.sleep(SETTLE_S)
        start_s = time.monotonic()
        while (now_s := time.monotonic() - start_s) < duration_s:
            times_s.append(now_s)
            resident_bytes.append(recorder.memory_info().rss)
            time.sleep(SAMPLE_S)
        trace_bytes = sum(file.stat().st_size for file in Path(meter.directory).iterdir())
    fifth = max(1, len(times_s) // 5)
    return {
        "duration_s": duration_s,
        "speed": speed,
        "start_bytes": float(np.mean(resident_bytes[:fifth])),
        "stop_bytes": float(np.mean(resident_bytes[-fifth:])),
        "growth_bytes_per_s": float(np.polyfit(times_s, resident_bytes, 1)[0]),
        "trace_bytes": trace_bytes,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
