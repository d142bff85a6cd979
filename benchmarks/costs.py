"""Measure the costs of a tool: windows, background work, import, disk."""

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
    tools: Mapping[str, ToolEnvironment],
    environment: Mapping[str, str],
    *,
    count: int,
    window_s: float,
    background_s: float,
) -> dict[str, dict[str, Any]]:
    """Measure all costs of every tool.

    Args:
        tools: Environments of the tools.
        environment: Environment variables with which they see the GPU.
        count: Maximum number of windows for the cost of one.
        window_s: Maximum duration for the cost of one.
        background_s: Duration of the measurement of background work.

    Returns:
        For each tool ``window``, ``background``, ``import_s`` and ``size_bytes``.
    """
    with ThreadPoolExecutor(len(tools)) as pool:
        background = {
            name: pool.submit(tool.run, name, "background", environment, seconds=background_s)
            for name, tool in tools.items()
        }
        found: dict[str, dict[str, Any]] = {
            name: {"background": job.result()} for name, job in background.items()
        }
    imports_s = _imports_s(tools, environment)
    for name, tool in tools.items():
        found[name]["window"] = tool.run(name, "cost", environment, count=count, seconds=window_s)
        found[name]["import_s"] = imports_s[name]
        found[name]["size_bytes"] = size_bytes(TOOLS[name].distribution)
    return found


def _imports_s(
    tools: Mapping[str, ToolEnvironment], environment: Mapping[str, str]
) -> dict[str, float]:
    """Return the median time to import each tool beyond that of starting Python, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    for repeat in range(REPEATS + 1):
        for name, tool in tools.items():
            took_s = _run_s(tool, f"import {TOOLS[name].module}", environment)
            bare_s = _run_s(tool, "pass", environment)
            if repeat:
                seconds[name].append(took_s - bare_s)
    return {name: median(values) for name, values in seconds.items()}


def _run_s(tool: ToolEnvironment, code: str, environment: Mapping[str, str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(
        [tool.python, "-c", code],
        env={**environment, **tool.variables},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start_s
