"""The world of a recorder in these tests: a live GPU, and clocks and errors that a test sets.

The recorder's interpreter imports it as it starts (``sitecustomize``). A test sets faults by JSON
files in ``$FAULTS``; times in them are CLOCK_MONOTONIC nanoseconds.
"""

import json
import os
import time
from pathlib import Path

import pynvml
from fake_nvml import FakeGpu, FakeNvml, live

from joulelab.sensors import gpu_processes, processes, sharing

POWER_MW = 200_000
PERIOD_US = 20_000
RING = 120
COUNTER_US = 100_000
USE_US = 166_000
USE_SAMPLES = 100

_REAL_CLOCK_NS = time.clock_gettime_ns


def fault(name):
    """The fault that the test has set, if any."""
    path = Path(os.environ["FAULTS"], name)
    return json.loads(path.read_text()) if path.exists() else None


def shift_ns(step, clock, t_ns):
    """How far a step, if there was one, had moved a clock at a time."""
    moved = step and clock in step["clocks"] and t_ns >= step["at_ns"]
    return round(step["by_s"] * 1e9) if moved else 0


def clock_ns(clock):
    return _REAL_CLOCK_NS(clock) + shift_ns(fault("step"), clock, time.monotonic_ns())


def time_ns():
    return clock_ns(time.CLOCK_REALTIME)


def stamps_us(period_us, count):
    """When the driver had its latest values, by its clock at that time."""
    base_us = (_REAL_CLOCK_NS(time.CLOCK_REALTIME) - time.monotonic_ns()) // 1000
    newest = time.monotonic_ns() // 1000 // period_us
    times_us = (update * period_us for update in range(newest - count + 1, newest + 1))
    step = fault("step")
    return sorted(
        t_us + base_us + shift_ns(step, time.CLOCK_REALTIME, t_us * 1000) // 1000
        for t_us in times_us
    )


class LiveGpu(FakeGpu):
    """A GPU of constant power whose ring and counter advance with time.

    The process that started the recorder uses it.
    """

    @live
    def ring(self):
        return [(t_us, POWER_MW) for t_us in stamps_us(PERIOD_US, RING)]

    @live
    def processes(self):
        return (os.getppid(),)

    @live
    def used(self):
        samples = stamps_us(USE_US, USE_SAMPLES)
        return [(os.getppid(), t_us, self.utilization_pct) for t_us in samples]

    @live
    def energy_mj(self):
        t_us = time.monotonic_ns() // 1000 // COUNTER_US * COUNTER_US
        reset = fault("reset")
        start_us = reset["at_ns"] // 1000 if reset else 0
        return round(POWER_MW * (t_us - start_us) * 1e-6)

    def code(self, name):
        failing = fault("gpu")
        return failing["code"] if failing else super().code(name)


def read_processes(*args):
    """Read processes like the recorder; if scans are costly, with that CPU time."""
    costly = fault("scans")
    until_s = time.thread_time() + (costly["cpu_s"] if costly else 0.0)
    found = processes.read_processes(*args)
    while time.thread_time() < until_s:
        pass
    return found


def install():
    time.clock_gettime_ns = clock_ns
    time.time_ns = time_ns
    pynvml.nvmlLib = FakeNvml([LiveGpu("GPU-live", power_mw=POWER_MW)])
    sharing.read_processes = read_processes
    # The test may run in a container.
    gpu_processes.sees_whole_machine = lambda _: True
