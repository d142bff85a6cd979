"""What a tool costs: windows, background work, import, disk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from benchmarks.tool_environments import ToolEnvironment, size_bytes
from benchmarks.tools import TOOLS

REPEATS = 5


def measure(
    places: Mapping[str, ToolEnvironment],
    environment: Mapping[str, str],
    *,
    count: int,
    window_s: float,
    background_s: float,
) -> dict[str, dict[str, Any]]:
    """All costs of every tool.

    Args:
        places: Where the tools are.
        environment: In which they see their GPU.
        count: Windows at most, for the cost of one.
        window_s: Seconds at most, for the cost of one.
        background_s: How long the program sleeps while the background work is watched.

    Returns:
        A dictionary a tool, of ``window``, ``background``, ``import_s`` and ``size_bytes``.
    """
    with ThreadPoolExecutor(len(places)) as pool:
        background = {
            name: pool.submit(place.run, name, "background", environment, seconds=background_s)
            for name, place in places.items()
        }
        found: dict[str, dict[str, Any]] = {
            name: {"background": job.result()} for name, job in background.items()
        }
    imports_s = _imports_s(places, environment)
    for name, place in places.items():
        found[name]["window"] = place.run(name, "cost", environment, count=count, seconds=window_s)
        found[name]["import_s"] = imports_s[name]
        found[name]["size_bytes"] = size_bytes(TOOLS[name].distribution)
    return found


def _imports_s(
    places: Mapping[str, ToolEnvironment], environment: Mapping[str, str]
) -> dict[str, float]:
    """Time to import each tool over that of starting its Python, medians, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in places}
    for repeat in range(REPEATS + 1):
        for name, place in places.items():
            took_s = _run_s(place, f"import {TOOLS[name].module}", environment)
            bare_s = _run_s(place, "pass", environment)
            if repeat:
                seconds[name].append(took_s - bare_s)
    return {name: median(values) for name, values in seconds.items()}


def _run_s(place: ToolEnvironment, code: str, environment: Mapping[str, str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(
        [place.python, "-c", code],
        env={**environment, **place.variables},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start_s
