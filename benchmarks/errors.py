"""Errors of tools on windows of known energy, by waveform and window length."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import standin
from benchmarks.standin import ROUGH, Sensor
from benchmarks.tool_environments import ToolEnvironment
from joulelab.sensors.simulated import Waveform

Truth = Callable[[int, int], float]
"""The true energy in J between two times on CLOCK_MONOTONIC in ns."""


EXACT = Sensor()
PERIOD_S = 0.2003
"""Period of the waveforms named 0.2 s: 0.3 ms more, so that they drift through every phase of the
sensor's 20 and 100 ms."""
BURST_S = 0.06
SPREAD = 0.1
"""Lengths of windows vary by this share: a counter that updates each 100 ms is right by chance over
whole multiples of 100 ms."""
IMPORT_S = 1.5
"""Time to import, for each process that starts at the same time; windows begin after it."""


@dataclass(frozen=True)
class Case:
    """A waveform, how the sensor sees it, and the windows to measure."""

    name: str  # Name in the tables.
    waveform: Waveform  # True power.
    plan: tuple[tuple[float, int], ...]  # ``(window_s, count)``.
    burst_period_s: float = 0.0  # Windows begin with each period of the waveform; 0: anywhere.
    sensor: Sensor = EXACT  # The sensor; its phases are drawn at random.


def cases(count: int) -> list[list[Case]]:
    """Return the cases, with ``count`` windows of each length; a group runs at the same time."""
    plan = tuple((window_s, count) for window_s in (0.05, 0.1, 0.3, 1.0))
    long_plan = (*plan, (10.0, 1))
    steady = Waveform.constant(350)
    square = Waveform.square(low_w=100, high_w=600, period_s=PERIOD_S)
    ramps = Waveform.ramp(low_w=100, high_w=600, period_s=2.0)
    bursts = Waveform.square(low_w=100, high_w=600, period_s=PERIOD_S, duty=BURST_S / PERIOD_S)
    burst_plan = ((BURST_S, 2 * count),)
    return [
        [
            Case("steady 350 W", steady, long_plan),
            Case("square 100/600 W, 0.2 s", square, long_plan),
            Case("ramps 100 to 600 W, 2 s", ramps, long_plan),
        ],
        [
            Case("bursts 60 ms each 200 ms", bursts, burst_plan, PERIOD_S),
            Case("rough: square 100/600 W, 0.2 s", square, plan, sensor=ROUGH),
            Case("rough: bursts 60 ms each 200 ms", bursts, burst_plan, PERIOD_S, ROUGH),
        ],
    ]


def measure(
    environments: Mapping[str, ToolEnvironment], library: Path, cases: Sequence[Case], seed: int = 1
) -> list[dict[str, Any]]:
    """Measure every case with every tool at the same time; one row for each window length.

    Args:
        environments: The environments of the tools.
        library: The folder of the stand-in.
        cases: The cases to play.
        seed: Seed of the windows' order and pauses, and of the sensors' phases.
    """
    rng = random.Random(seed)
    workers = len(environments) * len(cases)
    after_ns = time.monotonic_ns() + int(IMPORT_S * workers * 1e9)
    jobs = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        for position, case in enumerate(cases):
            sensor = replace(
                case.sensor,
                update_phase_s=rng.uniform(0.0, 0.1),
                ring_phase_s=rng.uniform(0.0, 0.02),
            )
            path = Path(folder) / f"waveform-{position}.txt"
            environment = standin.environment(library, standin.write(path, case.waveform, sensor))
            for name, tool in environments.items():
                job = pool.submit(
                    tool.run,
                    name,
                    "windows",
                    environment,
                    plan=case.plan,
                    seed=rng.randrange(2**32),
                    burst_period_s=case.burst_period_s,
                    spread=SPREAD,
                    after_ns=after_ns,
                )
                jobs.append((name, case, job))
    return [
        row
        for name, case, job in jobs
        for row in summarise(name, case.name, job.result()["windows"], truth_of(case.waveform))
    ]


def truth_of(waveform: Waveform) -> Truth:
    """Return the exact energy of a waveform."""
    return lambda start_ns, stop_ns: waveform.energy_j(start_ns * 1e-9, stop_ns * 1e-9)


def summarise(
    tool: str, case: str, windows: Sequence[Sequence[Any]], truth: Truth
) -> list[dict[str, Any]]:
    """Return one row for each window length.

    Args:
        tool: Name of the tool.
        case: Name of the waveform.
        windows: ``(window_s, start_ns, stop_ns, energy_j or None)`` each.
        truth: The true energy.

    Returns:
        Rows of ``tool, case, window_s, count, given`` (number with an energy), ``zeros``,
        ``median_pct`` and ``p90_pct`` of the error's size, and ``bias_pct``, the mean of the signed
        error; the last three are ``None`` if no window had an energy.
    """
    rows = []
    for window_s in sorted({window[0] for window in windows}):
        chosen = [window[1:] for window in windows if window[0] == window_s]
        given = [window for window in chosen if window[2] is not None]
        error_pct = np.array(
            [100 * (energy_j / truth(start, stop) - 1) for start, stop, energy_j in given]
        )
        known = bool(given)
        rows.append(
            {
                "tool": tool,
                "case": case,
                "window_s": window_s,
                "count": len(chosen),
                "given": len(given),
                "zeros": sum(energy_j == 0 for _, _, energy_j in given),
                "median_pct": float(np.median(np.abs(error_pct))) if known else None,
                "p90_pct": float(np.percentile(np.abs(error_pct), 90)) if known else None,
                "bias_pct": float(np.mean(error_pct)) if known else None,
            }
        )
    return rows
