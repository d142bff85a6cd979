"""A load on the processors or the GPUs that is on and off at known times.

It runs in processes of its own: ``python -m joulelab.doctor.load_pattern cpu|gpu`` prints ``ready``
or why there can be no load, reads the times as a line of JSON from standard input, and ends with
the last of them or with the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal, Self

from joulelab.parallel import usable_cpus
from joulelab.sensors.host_hardware import cpu_limit

if TYPE_CHECKING:
    from joulelab.recording.trace_spans import Window

Kind = Literal["cpu", "gpu"]

SHARES = (3, 2, 2, 3, 1, 2, 3, 1)
"""Relative lengths of on, off, on, ...: no shift but none lays the pattern on itself."""
READY = "ready"
READY_S = 60.0
"""Time to import PyTorch and to start CUDA."""
STOP_S = 5.0
NICENESS = 10
"""Other programs on the machine come first."""
LONGEST_SLEEP_S = 0.05


@dataclass(frozen=True)
class LoadPattern:
    """Times at which a load is switched on, off, on, ... on CLOCK_MONOTONIC, s."""

    edges_s: tuple[float, ...]

    @classmethod
    def starting(cls, start_s: float, duration_s: float) -> Self:
        """Spread the pattern over a duration."""
        ends = accumulate(SHARES, initial=0)
        return cls(tuple(start_s + duration_s * end / sum(SHARES) for end in ends))

    def is_on(self, t_s: float) -> bool:
        """Report whether there is a load at a time."""
        return bisect_right(self.edges_s, t_s) % 2 == 1 and t_s < self.edges_s[-1]

    @property
    def on(self) -> list[Window]:
        """The periods with load."""
        return self._windows[::2]

    @property
    def off(self) -> list[Window]:
        """The periods without."""
        return self._windows[1::2]

    @property
    def edges_ns(self) -> list[int]:
        """The times in nanoseconds."""
        return [round(edge_s * 1e9) for edge_s in self.edges_s]

    @property
    def _windows(self) -> list[Window]:
        # NumPy starts threads, next to which a load must not fork.
        from joulelab.recording.trace_spans import Window  # noqa: PLC0415

        return [Window(*pair) for pair in pairwise(self.edges_ns)]


class Load:
    """The processes that make a load.

    Attributes:
        reason: Why there can be none; empty once it is ready.
    """

    def __init__(self, kind: Kind) -> None:
        command = [sys.executable, "-m", "joulelab.doctor.load_pattern", kind]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            answered = selector.select(READY_S)
        line = self._process.stdout.readline().strip() if answered else ""
        self.reason = "" if line == READY else line or "the process that makes it does not start"

    def follow(self, pattern: LoadPattern) -> None:
        """Switch the load at these times."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(pattern.edges_s) + "\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """End the processes."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def usable_threads() -> int:
    """Return how many hardware threads a load of this process can use."""
    limit = cpu_limit()
    return usable_cpus() if limit is None else max(1, min(usable_cpus(), round(limit)))


def main(kind: str) -> None:
    """Make a load in this process and its children."""
    # The process that started this one ends it when the user interrupts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    parent, own = os.getppid(), os.getpid()
    work: Callable[[], None] | None = _multiply
    if kind == "gpu":
        work = _gpu_work()
    if work is None:
        return
    print(READY, flush=True)  # noqa: T201
    line = sys.stdin.readline()
    if not line:
        return
    pattern = LoadPattern(tuple(json.loads(line)))
    if kind == "cpu":
        for _ in range(usable_threads() - 1):
            if not os.fork():
                parent = own
                break
    _follow(pattern, work, parent)


def _gpu_work() -> Callable[[], None] | None:
    """Return what keeps the GPUs busy, or print why nothing does."""
    try:
        from joulelab.workloads.gpu_load import gpu_load  # noqa: PLC0415
    except ImportError:
        print("PyTorch is not installed")  # noqa: T201
        return None
    work = gpu_load()
    if work is None:
        print("PyTorch sees no GPU")  # noqa: T201
    return work


def _multiply() -> None:
    """Keep one hardware thread busy for about a millisecond."""
    value = 1.0
    for _ in range(20_000):
        value *= 1.0000001


def _follow(pattern: LoadPattern, work: Callable[[], None], parent: int) -> None:
    """Work while the pattern is on, until its end or that of the parent, which may be earlier."""
    while (now_s := time.monotonic()) < pattern.edges_s[-1] and os.getppid() == parent:
        if pattern.is_on(now_s):
            work()
        else:
            next_s = pattern.edges_s[bisect_right(pattern.edges_s, now_s)]
            time.sleep(min(next_s - now_s, LONGEST_SLEEP_S))


if __name__ == "__main__":
    main(sys.argv[1])
