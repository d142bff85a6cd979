"""A GPU whose power follows its limit, for a recorder and for the program that sets the limit."""

import os
import time
from bisect import bisect_right
from pathlib import Path

from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading

FILE = "LIMITED_GPU"
FOUND_W = 300.0


PERIOD_S = 0.01


class LimitedGpu:
    """The sensor: it draws what the limit in ``$LIMITED_GPU`` allows.

    Like a driver's ring it has a reading of every period, however late it is read.
    """

    interval_s = PERIOD_S
    # Recorders import this file without other modules of the tests.
    channels = (
        Channel(
            component="gpu:0",
            quantity=Quantity.POWER,
            source="limited",
            provenance=Provenance.SIMULATED,
            update_period_s=PERIOD_S,
        ),
    )

    def __init__(self):
        self._next_ns = time.monotonic_ns()

    def read(self):
        stamps_ns = range(self._next_ns, time.monotonic_ns(), round(PERIOD_S * 1e9))
        self._next_ns += len(stamps_ns) * stamps_ns.step
        set_ns, limits_w = zip(*_limits(), strict=True)
        return [
            Reading(t_ns, 0, limits_w[max(bisect_right(set_ns, t_ns) - 1, 0)]) for t_ns in stamps_ns
        ]

    def close(self):
        pass


class PowerLimit:
    """Its control."""

    name, component, device, unit, title = "power_limit", "gpu:0", "limited", "W", "the limit"
    low, high, levels = 100.0, 350.0, ()

    def read(self):
        return limit_w()


class Borrowed:
    """What :func:`joulelab.controls.borrowing.borrow` returns, for this control."""

    notes = ()

    def __init__(self, controls):
        self.controls, self.history = controls, []

    def set(self, settings):
        self.history.append(settings["power_limit"])
        write_limit(settings["power_limit"])

    def __enter__(self):
        self.found = limit_w()
        return self

    def __exit__(self, *_):
        write_limit(self.found)


def limit_w():
    return _limits()[-1][1]


def write_limit(watts):
    with Path(os.environ[FILE]).open("a") as limits:
        limits.write(f"{time.monotonic_ns()} {watts}\n")


def _limits():
    """Return when each limit was set, in ns, and the limit in watts."""
    lines = Path(os.environ[FILE]).read_text().splitlines()
    return [(int(t_ns), float(watts)) for t_ns, watts in map(str.split, lines)]


class Clock:
    """The GPU's clock: steps take exactly as long as they would at the limit.

    Spans are to take their times from :meth:`now_ns`, so that a busy machine delays the program but
    changes no duration.
    """

    def __init__(self):
        self.factor = 1.0
        """By how much all work takes longer than at first."""
        self._now_s = time.monotonic()

    def now_ns(self):
        return round(self._now_s * 1e9)

    def work(self, duration_s):
        """Do work that takes this long at the limit that was found."""
        self._now_s += self.factor * duration_s * slowdown(limit_w())
        time.sleep(max(0.0, self._now_s - time.monotonic()))


def slowdown(limit):
    """Return t / t0 = 1 + 2 (1 - limit / 300)², by which steps are slower at a limit in watts."""
    return 1 + 2 * (1 - limit / FOUND_W) ** 2
