"""Measure the errors of windows on a real GPU under a known load.

The true energy of a short window is not known there, but the mean power of a steady load is. So the
truth is the mean power by the driver's energy counter over ten seconds on either side of a window,
times the window's length: for a steady load at any length, and for a load with a period of 0.2 s at
whole periods. This assumes that the counter's gain is correct, and so do all compared tools.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pynvml

from benchmarks.errors import SPREAD, summarise
from benchmarks.tool_environments import ROOT, ToolEnvironment

REACH_S = 10.0
POLL_S = 0.25
WARM_UP_S = 15.0


def measure(
    tools: Mapping[str, ToolEnvironment],
    count: int,
    seed: int = 1,
    *,
    warm_up_s: float = WARM_UP_S,
    reach_s: float = REACH_S,
) -> list[dict[str, Any]]:
    """Measure each tool on a steady and an on/off load; rows as in :func:`errors.summarise`.

    Args:
        tools: The environments of the tools.
        count: Number of windows of each length.
        seed: Seed of their order and pauses.
        warm_up_s: Time for which the load runs before the first window.
        reach_s: The truth is the mean power by the counter over this time on either side; it is
            also the length of the longest window.
    """
    plans = {
        "steady": [(window_s, count) for window_s in (0.05, 0.1, 0.3, 1.0)] + [(reach_s, 1)],
        "square": [(0.2, count), (1.0, count), (reach_s, 1)],
    }
    names = {"steady": "real: steady load", "square": "real: load on/off, 0.2 s"}
    rows = []
    for load, plan in plans.items():
        with run_load(load), Counter(reach_s) as counter, ThreadPoolExecutor(len(tools)) as pool:
            time.sleep(warm_up_s)
            jobs = {
                name: pool.submit(
                    tool.run,
                    name,
                    "windows",
                    dict(os.environ),
                    plan=plan,
                    seed=seed + i,
                    spread=SPREAD if load == "steady" else 0.0,
                )
                for i, (name, tool) in enumerate(tools.items())
            }
            windows = {name: job.result()["windows"] for name, job in jobs.items()}
            time.sleep(reach_s)
        for name, found in windows.items():
            rows += summarise(name, names[load], found, counter.energy_j)
    return rows


def gpu_name() -> str:
    """Return the name of the first GPU; raise an NVMLError if there is no GPU or driver."""
    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    finally:
        pynvml.nvmlShutdown()


class Counter:
    """Records the first GPU's energy counter while it is open."""

    def __init__(self, reach_s: float = REACH_S) -> None:
        self._reach_s = reach_s

    def __enter__(self) -> Counter:
        pynvml.nvmlInit()
        self._stop = threading.Event()
        self._readings: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        pynvml.nvmlShutdown()

    def _follow(self) -> None:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not self._stop.wait(POLL_S):
            energy_j = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            self._readings.append((time.monotonic(), energy_j))

    def energy_j(self, start_ns: int, stop_ns: int) -> float:
        """Return the mean power around a window (by linear least squares) times its length."""
        times_s, energies_j = np.array(self._readings).T
        after_s, before_s = start_ns * 1e-9 - self._reach_s, stop_ns * 1e-9 + self._reach_s
        near = (times_s > after_s) & (times_s < before_s)
        origin_s, origin_j = times_s[near][0], energies_j[near][0]
        power_w = np.polyfit(times_s[near] - origin_s, energies_j[near] - origin_j, 1)[0]
        return float(power_w) * (stop_ns - start_ns) * 1e-9


@contextlib.contextmanager
def run_load(name: str) -> Iterator[None]:
    """Run :mod:`benchmarks.gpu_load` until the block ends; the block begins once it runs."""
    command = [sys.executable, "-m", "benchmarks.gpu_load", name]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise RuntimeError(f"the load ended early with exit code {process.wait()}")
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the load ended early with exit code {process.returncode}")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
