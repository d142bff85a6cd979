"""Run one tool in its own environment and print its measurements as JSON on the last line.

``python -m benchmarks.measure_tool TOOL windows|cost|background SETTINGS`` with SETTINGS in JSON.
Needs only the standard library and the tool.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tools import TOOLS, Tool, installed_version

SETTLE_S = 2.5
"""Pause before the first window, to start a recorder and fill the driver's buffer."""


def main(arguments: list[str]) -> None:
    name, task, settings = arguments
    warnings.simplefilter("ignore")
    tasks: dict[str, Callable[..., dict[str, Any]]] = {
        "windows": windows,
        "cost": cost,
        "background": background,
    }
    result = tasks[task](name, **json.loads(settings))
    print(json.dumps(result | {"version": installed_version(TOOLS[name])}), flush=True)


def windows(
    name: str,
    *,
    plan: list[tuple[float, int]],
    seed: int,
    burst_period_s: float = 0.0,
    spread: float = 0.0,
    after_ns: int = 0,
) -> dict[str, Any]:
    """Open windows and return their times and energies.

    Args:
        name: The tool.
        plan: ``(window_s, count)``; the order of windows is shuffled.
        seed: Seed of the order and the pauses.
        burst_period_s: Windows begin at multiples of this on CLOCK_MONOTONIC; 0 for random times.
        spread: Lengths vary between ``1 - spread`` and ``1 + spread`` of ``window_s``.
        after_ns: No window begins before this time on CLOCK_MONOTONIC, so that all tools are
            imported.

    Returns:
        ``{"windows": [[window_s, start_ns, stop_ns, energy_j or None], ...]}``; a window starts
        when the opening call returns and stops when the closing call is made.
    """
    order = [window_s for window_s, count in plan for _ in range(count)]
    rng = random.Random(seed)
    rng.shuffle(order)
    tool = TOOLS[name].open()
    time.sleep(SETTLE_S)
    _sleep_to(after_ns)
    times = []
    for window_s in order:
        _sleep_to(_next_start_ns(rng, burst_period_s))
        planned_stop_ns = _begin(tool, window_s, on_grid=burst_period_s)
        start_ns = time.monotonic_ns()
        length_ns = int(window_s * rng.uniform(1 - spread, 1 + spread) * 1e9)
        _sleep_to(planned_stop_ns or start_ns + length_ns)
        stop_ns = time.monotonic_ns()
        tool.end()
        times.append((window_s, start_ns, stop_ns))
    time.sleep(1.0)
    energies_j = tool.energies_j()
    tool.close()
    rows = [[*when, energy_j] for when, energy_j in zip(times, energies_j, strict=True)]
    return {"windows": rows}


def _begin(tool: Tool, window_s: float, *, on_grid: float) -> int | None:
    """Open a window. On a grid, return the end of the burst, which a slow opening does not move."""
    now_ns = time.monotonic_ns()
    tool.begin()
    if not on_grid:
        return None
    period_ns = round(on_grid * 1e9)
    return round(now_ns / period_ns) * period_ns + int(window_s * 1e9)


def _next_start_ns(rng: random.Random, burst_period_s: float) -> int:
    now_ns = time.monotonic_ns()
    if not burst_period_s:
        return now_ns + int(rng.uniform(0.01, 0.13) * 1e9)
    period_ns = round(burst_period_s * 1e9)
    return (now_ns // period_ns + rng.randint(1, 2)) * period_ns


def _sleep_to(t_ns: int) -> None:
    """Sleep, but spend the last 0.2 ms in a loop for an exact time."""
    while (left_ns := t_ns - time.monotonic_ns()) > 0:
        if left_ns > 200_000:
            time.sleep((left_ns - 200_000) * 1e-9)


def cost(name: str, *, count: int, seconds: float) -> dict[str, Any]:
    """Measure what opening and closing a window costs the caller.

    ``ready_s`` is the time to import and open the tool.

    Args:
        name: The tool.
        count: Maximum number of windows.
        seconds: Maximum duration.
    """
    start_s = time.perf_counter()
    tool = TOOLS[name].open()
    ready_s = time.perf_counter() - start_s
    time.sleep(SETTLE_S)
    open_s: list[float] = []
    close_s: list[float] = []
    processor_s: list[float] = []
    deadline_s = time.monotonic() + seconds
    while len(open_s) < count and time.monotonic() < deadline_s:
        thread_s, t0 = time.thread_time(), time.perf_counter()
        tool.begin()
        t1 = time.perf_counter()
        tool.end()
        t2 = time.perf_counter()
        open_s.append(t1 - t0)
        close_s.append(t2 - t1)
        processor_s.append(time.thread_time() - thread_s)
        time.sleep(0.002)
    tool.close()
    both_s = sorted(a + b for a, b in zip(open_s, close_s, strict=True))
    return {
        "windows": len(both_s),
        "ready_s": ready_s,
        "open_s": statistics.median(open_s),
        "close_s": statistics.median(close_s),
        "median_s": statistics.median(both_s),
        "p90_s": both_s[int(0.9 * (len(both_s) - 1))],
        "processor_s": statistics.median(processor_s),
    }


def background(name: str, *, seconds: float) -> dict[str, Any]:
    """Measure a tool's work while one window is open and the program sleeps.

    ``own_rss_bytes`` is the memory that importing and opening it added to this process,
    ``process_rss_bytes`` that of its own processes.
    """
    before_bytes = _rss_bytes(os.getpid())
    tool = TOOLS[name].open()
    tool.begin()
    time.sleep(SETTLE_S)
    others = sorted({*tool.pids, *_children(os.getpid())})
    start_s, start = time.monotonic(), _cpu_s(os.getpid()) + sum(map(_cpu_s, others))
    time.sleep(seconds)
    cpu_s = _cpu_s(os.getpid()) + sum(map(_cpu_s, others)) - start
    duration_s = time.monotonic() - start_s
    result = {
        "duration_s": duration_s,
        "cpu_share": cpu_s / duration_s,
        "own_rss_bytes": _rss_bytes(os.getpid()) - before_bytes,
        "process_rss_bytes": sum(map(_rss_bytes, others)) if others else None,
        "processes": len(others),
    }
    tool.end()
    tool.close()
    return result


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_children(int(child))]
    return found


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process, from ``/proc/PID/schedstat`` of its threads, in s."""
    if pid == os.getpid():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) * 1e-9


def _rss_bytes(pid: int) -> int:
    resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return resident_pages * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1:])
