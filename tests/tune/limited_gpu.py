"""A GPU whose power follows its limit, for a recorder and for the program that sets the limit."""

import os
import time
from pathlib import Path

from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading

FILE = "LIMITED_GPU"
FOUND_W = 300.0


class LimitedGpu:
    """The sensor: it draws what the limit in ``$LIMITED_GPU`` allows."""

    interval_s = 0.01
    # Recorders import this file without other modules of the tests.
    channels = (
        Channel(
            component="gpu:0",
            quantity=Quantity.POWER,
            source="limited",
            provenance=Provenance.SIMULATED,
            update_period_s=0.01,
        ),
    )

    def read(self):
        return [Reading(time.monotonic_ns(), 0, limit_w())]

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
    return float(Path(os.environ[FILE]).read_text())


def write_limit(watts):
    path = Path(os.environ[FILE])
    new = path.with_suffix(".new")
    new.write_text(str(watts))
    new.replace(path)


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
