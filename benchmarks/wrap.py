"""Measure what ``joulelab run`` costs the command that it wraps, interleaved with the bare command.

A script does a fixed amount of work on one processor and prints on the monotonic clock when its
work began and ended. Each round therefore measures the whole time, and the times before, during and
after the work.

``python -m benchmarks.wrap [--seconds 10] [--rounds 20] [--sleep]`` prints a table;
ratios are medians over rounds with their 95 % intervals by the percentile bootstrap.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.slowdown import interval

WORK = """
import sys, time
begin = time.monotonic()
total = 0
for n in range(int(sys.argv[1])):
    total += n * n
print(begin, time.monotonic(), flush=True)
"""
SLEEP = """
import sys, time
begin = time.monotonic()
time.sleep(float(sys.argv[1]))
print(begin, time.monotonic(), flush=True)
"""
CALIBRATION = 2_000_000
JOULELAB = str(Path(sys.executable).with_name("joulelab"))
WRAPPERS: Mapping[str, Sequence[str]] = {
    "nothing": (),
    "nothing again": (),
    "joulelab run": (JOULELAB, "run", "--"),
    "joulelab run --wait": (JOULELAB, "run", "--wait", "--"),
}
PARTS = ("whole", "before", "work", "after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="approximate duration of the script"
    )
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds")
    parser.add_argument(
        "--sleep",
        action="store_true",
        help="let the script sleep, to measure the time before and after it",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        script = Path(home) / "work.py"
        script.write_text(SLEEP if options.sleep else WORK)
        environment = {**os.environ, "JOULELAB_HOME": home}
        amount = options.seconds
        if not options.sleep:
            command = [sys.executable, str(script), str(CALIBRATION)]
            amount = round(CALIBRATION * options.seconds / _once(command, environment)[2])
        found = measure([sys.executable, str(script), str(amount)], environment, options.rounds)
    for line in table(found):
        print(line)


def measure(
    command: Sequence[str], environment: Mapping[str, str], rounds: int
) -> dict[str, np.ndarray]:
    """Return the seconds of the :data:`PARTS`, one row per round, by wrapper."""
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in WRAPPERS}
    order = random.Random(1)
    for _ in range(rounds):
        for name in order.sample(list(WRAPPERS), len(WRAPPERS)):
            seconds[name].append(_once([*WRAPPERS[name], *command], environment))
    return {name: np.array(rows) for name, rows in seconds.items()}


def table(seconds: Mapping[str, np.ndarray]) -> list[str]:
    """Format a Markdown table of each wrapper relative to none."""
    base = seconds["nothing"]
    lines = [
        f"{len(base)} rounds of a script of {np.median(base[:, 0]):.2f} s",
        "",
        "| | time, ratio | before (ms) | work, ratio | after (ms) |",
        "|---|---|---|---|---|",
    ]
    for name, rows in seconds.items():
        if name == "nothing":
            continue
        whole, work = (interval(rows[:, i] / base[:, i]) for i in (0, 2))
        before_ms, after_ms = (1e3 * np.median(rows[:, i] - base[:, i]) for i in (1, 3))
        ratios = [
            f"{one['ratio']:.4f} ({one['low']:.4f} to {one['high']:.4f})" for one in (whole, work)
        ]
        lines.append(f"| {name} | {ratios[0]} | {before_ms:.0f} | {ratios[1]} | {after_ms:.0f} |")
    return lines


def _once(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, ...]:
    begin_s = time.monotonic()
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    end_s = time.monotonic()
    first_s, last_s = (float(word) for word in done.stdout.split())
    return end_s - begin_s, first_s - begin_s, last_s - first_s, end_s - last_s


if __name__ == "__main__":
    main()
