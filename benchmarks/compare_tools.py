"""Compare JouleLab with its peers on the same simulated GPU, or on a real one.

``python -m benchmarks.compare_tools`` prints a table and writes
``benchmarks/results/<date>-<gpu>.md`` and ``.json``. See docs/reference/benchmarks.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import costs, errors, standin
from benchmarks.table import markdown
from benchmarks.tool_environments import (
    ROOT,
    ToolEnvironment,
    create_environments,
    find_environments,
)
from joulelab.sensors.simulated import Waveform

SIMULATED_ROUNDS, REAL_ROUNDS = 60, 20
RESULTS = ROOT / "benchmarks" / "results"
SIMULATED_NOTES = [
    "The GPU is benchmarks/nvml_standin: an exact waveform on CLOCK_MONOTONIC, observed through "
    "the windows, update periods and call costs measured on an H100 80GB HBM3 with driver 580.159, "
    "without noise or gain error, so the errors are those of the tools. Cases named rough have the "
    "timestamps of that H100 (2.5 ms late, 5 ms of jitter) and an assumed noise of 3 W on each "
    "power value.",
    "The tools run at the same time, each in its own process and virtual environment, on the same "
    "waveforms, three at a time. They have no network.",
    "Windows start at random times and are 90 to 110 % as long as named, except those on bursts. "
    "0.2 s means 0.2003 s, so it drifts through every phase of the sensor's updates.",
    "No tool waits for the device here (there is no CUDA). On a real GPU, each window includes a "
    "synchronisation for Zeus and two CUDA events for JouleLab.",
    "The 4 ms per call of the counter are CPU time here; whether they are in the driver was not "
    "measured.",
]
REAL_NOTES = [
    "The truth is the energy counter's mean power over 10 s on either side of a window times the "
    "window's length (benchmarks/real_gpu.py). It assumes that the counter's gain is correct.",
    "The load is bfloat16 matrix products in another process.",
]


def main() -> None:
    options = _options()
    if not options.real:
        create_environments()
    found, missing = find_environments()
    result = _real(found, options) if options.real else _simulated(found, options)
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "about": _about(),
        "tools": {name: result["costs"][name]["window"]["version"] for name in found},
        "missing": missing | result.pop("missing"),
        **result,
    }
    page = markdown(result)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"{result['date']} {result['gpu']}".lower()).strip("-")
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(page)
    print(f"written to {options.out / name}.md and .json", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_tools", description=__doc__)
    parser.add_argument(
        "--real", action="store_true", help="use the first real GPU of this machine"
    )
    parser.add_argument(
        "--windows", type=int, default=40, help="number of windows of each length (default: 40)"
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of the slow-down (default: 60, or 20 on a real GPU)"
    )
    parser.add_argument(
        "--sleep", type=float, default=20.0, help="seconds of background work to measure"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="write the results into this folder"
    )
    return parser.parse_args()


def _simulated(found: Mapping[str, ToolEnvironment], options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        library = standin.build(Path(folder))
        waveform = standin.write(Path(folder) / "waveform.txt", Waveform.constant(350))
        environment = standin.environment(library, waveform)
        _say("costs")
        cost = _costs(found, environment, options)
        _say("slow-down")
        rounds = options.rounds or SIMULATED_ROUNDS
        slow = _slowdown(environment, rounds=rounds, block_s=0.25, sensors=["gpu"])
        _say("errors")
        groups = errors.cases(options.windows)
        rows = [row for group in groups for row in errors.measure(found, library, group)]
    missing = {"parts for a real GPU": "this run is simulated; use `--real`"}
    return {
        "gpu": "simulated",
        "errors": rows,
        "costs": cost,
        "slowdown": slow,
        "notes": SIMULATED_NOTES,
        "missing": missing,
    }


def _real(found: Mapping[str, ToolEnvironment], options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import real_gpu  # noqa: PLC0415 - needs a GPU

    environment = dict(os.environ)
    gpu = real_gpu.gpu_name()
    _say("costs")
    cost = _costs(found, environment, options)
    _say("slow-down")
    slow = _slowdown(environment, rounds=options.rounds or REAL_ROUNDS, block_s=1.0)
    _say("errors")
    return {
        "gpu": gpu,
        "errors": real_gpu.measure(found, options.windows),
        "costs": cost,
        "slowdown": slow,
        "notes": REAL_NOTES,
        "missing": {"bursts and ramps": "their true energy is unknown on a real GPU"},
    }


def _costs(
    found: Mapping[str, ToolEnvironment],
    environment: Mapping[str, str],
    options: argparse.Namespace,
) -> dict[str, dict[str, Any]]:
    return costs.measure(found, environment, count=1000, window_s=5.0, background_s=options.sleep)


def _slowdown(environment: Mapping[str, str], **settings: Any) -> dict[str, Any]:
    """Run :mod:`benchmarks.slowdown` in a separate process and return its result."""
    command = [sys.executable, "-m", "benchmarks.slowdown", json.dumps(settings)]
    environ = {**environment, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _about() -> dict[str, str]:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "JouleLab's commit": commit.stdout.strip() or "unknown",
        "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} threads, "
        f"Linux {platform.release()}",
        "Python": platform.python_version(),
        "command": " ".join(["python -m benchmarks.compare_tools", *sys.argv[1:]]),
    }


def _say(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
