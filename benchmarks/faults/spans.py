"""Flood the recorder with spans, count those that arrive, and measure what they cost.

A process that never sleeps runs next to each flood. Times are seconds of a clock and, in brackets,
of the processor: on a busy machine only the latter can be compared.

Usage: ``python -m benchmarks.faults.spans [--spans 100000 300000 1000000] [--seed 1]``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import joulelab
from benchmarks.watch import Recording
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.span_blocks import Block
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_format import EVENTS_FILE
from joulelab.runs.record import measure
from joulelab.sensors.simulated import SimulatedMachine

NAMES = ["step", *(f"part {i}" for i in range(49))]
THREADS = CHILDREN = 4
STOPPED_S = 2.0
DAY_S = 86_400
_SPIN = "while True: pass"

Mark = Callable[[int], None]
"""Make a number of spans."""


def one_thread(_: joulelab.Meter, mark: Mark, n: int) -> int:
    """Make all spans in one thread."""
    mark(n)
    return n


def four_threads(_: joulelab.Meter, mark: Mark, n: int) -> int:
    """Make the spans in several threads at a time."""
    threads = [threading.Thread(target=mark, args=(n // THREADS,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return n // THREADS * THREADS


def forked_children(_: joulelab.Meter, mark: Mark, n: int) -> int:
    """Make most spans in this process, and a tenth in children that end without notice."""
    for _ in range(CHILDREN):
        if os.fork() == 0:
            mark(n // 10 // CHILDREN)
            os._exit(0)
    mark(n - n // 10)
    for _ in range(CHILDREN):
        os.wait()
    return n - n // 10 + n // 10 // CHILDREN * CHILDREN


def stopped_recorder(meter: joulelab.Meter, mark: Mark, n: int) -> int:
    """Stop the recorder for a while, and let children make spans in the meantime."""
    os.kill(meter.recorder_pid, signal.SIGSTOP)
    waking = threading.Timer(STOPPED_S, os.kill, (meter.recorder_pid, signal.SIGCONT))
    waking.start()
    made = forked_children(meter, mark, n)
    waking.join()
    return made


CASES = {
    case.__name__.replace("_", " "): case
    for case in (one_thread, four_threads, forked_children, stopped_recorder)
}


def program(case: str, n: int, seed: int, directory: str | None) -> dict[str, Any]:
    """Flood a meter with spans. Without a directory, it joins that of ``joulelab run``."""
    choices = random.Random(seed)
    names = choices.choices(NAMES, k=1000)

    def mark(count: int) -> None:
        for i in range(count):
            with meter.span(names[i % 1000], index=i, loss=0.5):
                pass

    if directory is None:
        meter = joulelab.Meter()
    else:
        meter = joulelab.Meter(sensors=SimulatedMachine.default(), directory=directory)
    found: dict[str, Any] = {}
    epoch = meter.begin("epoch")
    with _timed(found, "burst"):
        made = CASES[case](meter, mark, n)
    epoch.end()
    with _timed(found, "energy"):
        meter.energy("step")
    with _timed(found, "close"):
        meter.close()
    peak_mb = _peak_mb()
    return {**found, "made": made + 1, "failure": meter.failure, "peak_mb": peak_mb}


@contextlib.contextmanager
def _timed(found: dict[str, Any], name: str) -> Iterator[None]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    found[name] = time.perf_counter() - wall_s, time.process_time() - cpu_s


def flood(case: str, n: int, seed: int, *, wrapped: bool) -> dict[str, Any]:
    """Run a program next to one that never sleeps; count its spans in the trace."""
    with tempfile.TemporaryDirectory() as scratch, _spinning():
        directory = Path(scratch, "run")
        command = [sys.executable, "-m", "benchmarks.faults.spans", "--program", case]
        command += ["--spans", str(n), "--seed", str(seed)]
        environment = {**os.environ, "JOULELAB_HOME": str(Path(scratch, "home"))}
        environment["JOULELAB_SENSORS"] = ""
        if wrapped:
            options = ["--quiet", "--sensors", "simulated", "--out", str(directory)]
            command = [sys.executable, "-m", "joulelab", "run", *options, "--", *command]
        else:
            command += ["--directory", str(directory)]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        ended_s = time.perf_counter()
        found: dict[str, Any] = json.loads(done.stdout)
        spans = read_trace(directory).finished_spans
        run = joulelab.open_run(directory)
    counted = sum(one.count for one in run.spans)
    return {
        **found,
        "lost": found["made"] - len(spans),
        "table": counted - len(spans),
        "after": ended_s - found["ended"],
    }


@contextlib.contextmanager
def _spinning() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", _SPIN]) as spinning:
        yield
        spinning.kill()


def day(n: int, directory: Path) -> dict[str, Any]:
    """Measure what follows a day's job with n spans: reading, and the energy of each name."""
    Recording(directory, DAY_S / 3600).grow()
    start_ns = np.linspace(1, DAY_S * 1e9 - 1e9, n).astype(np.int64).tolist()
    length_ns = round(0.8 * DAY_S * 1e9 / n)
    rows = [
        (i, None, 1, NAMES[i % len(NAMES)], {"index": i}, start, start + length_ns)
        for i, start in enumerate(start_ns)
    ]
    with (directory / EVENTS_FILE).open("wb") as file:
        for first in range(0, n, 1024):
            line = Block.of(1, rows[first : first + 1024]).line()
            assert line is not None
            file.write(line)
    command = [sys.executable, "-m", "benchmarks.faults.spans", "--day", str(directory)]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    return found


def read_day(directory: Path) -> dict[str, Any]:
    """Read a recording and compute what a record has."""
    found: dict[str, Any] = {}
    with _timed(found, "read"):
        trace = read_trace(directory)
    with _timed(found, "energy"):
        spans = measure(trace, EnergyEstimator(trace), 0, DAY_S * 10**9)["spans"]
    peak_mb = _peak_mb()
    return {**found, "arrived": sum(one.count for one in spans), "peak_mb": peak_mb}


def _peak_mb() -> float:
    """Return the most memory that this program had; ``ru_maxrss`` counts that of its parent."""
    status = Path("/proc/self/status").read_text()
    (peak_kb,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak_kb) / 1024


def _show(found: dict[str, Any], *names: str) -> str:
    return " ".join(f"{found[name][0]:6.2f} ({found[name][1]:5.2f})" for name in names)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or be one of its programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "wrapped", "day"])
    parser.add_argument("--program", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    parser.add_argument("--day", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.program:
        found = program(given.program, given.spans[0], given.seed, given.directory)
        print(json.dumps({**found, "ended": time.perf_counter()}))
        return
    if given.day:
        print(json.dumps(read_day(given.day)))
        return
    cases = given.cases or [*CASES, "wrapped", "day"]
    print(f"{'case':<18}{'spans':>9}{'lost':>7}  burst s (CPU)  energy s (CPU) close s (CPU)"
          f"{'peak MB':>9}{'after s':>9}  stated")  # fmt: skip
    for n in given.spans:
        for case in cases:
            if case == "day":
                with tempfile.TemporaryDirectory() as directory:
                    found = day(n, Path(directory))
                print(f"{case:<18}{n:>9}{n - found['arrived']:>7} {_show(found, 'read', 'energy')}"
                      f"{'':15}{found['peak_mb']:>9.0f}", flush=True)  # fmt: skip
                continue
            wrapped = case == "wrapped"
            found = flood("one thread" if wrapped else case, n, given.seed, wrapped=wrapped)
            print(f"{case:<18}{n:>9}{found['lost']:>7} {_show(found, 'burst', 'energy', 'close')}"
                  f"{found['peak_mb']:>9.0f}{found['after']:>9.2f}  {found['failure']}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
