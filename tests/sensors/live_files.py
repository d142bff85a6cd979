"""Files of drivers whose numbers are right at the moment at which they are read.

A live file contains ``=`` and an expression of ``t_s``, CLOCK_MONOTONIC in seconds, which the
process that reads it evaluates. Numbers that a thread wrote would be late on a busy machine, as no
driver's are.
"""

import functools
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from joulelab.sensors import cray, hwmon_devices, sysfs_files

_read_text = sysfs_files.read_text


@dataclass(frozen=True)
class Wave:
    """Power that is high for the first half of each period."""

    low_w: float
    high_w: float
    period_s: float
    start_s: float = 0.0

    def power_w(self, t_s):
        return (
            self.high_w if (t_s - self.start_s) % self.period_s < self.period_s / 2 else self.low_w
        )

    def until_j(self, t_s):
        whole, part_s = divmod(t_s - self.start_s, self.period_s)
        high_s = whole * self.period_s / 2 + min(part_s, self.period_s / 2)
        return self.low_w * (t_s - self.start_s) + (self.high_w - self.low_w) * high_s

    def energy_j(self, start_s, stop_s):
        return self.until_j(stop_s) - self.until_j(start_s)


@dataclass(frozen=True)
class Sum:
    """Several waves in one meter, and a constant that only it sees."""

    waves: tuple
    rest_w: float = 0.0

    def power_w(self, t_s):
        return self.rest_w + sum(wave.power_w(t_s) for wave in self.waves)

    def until_j(self, t_s):
        return self.rest_w * t_s + sum(wave.until_j(t_s) for wave in self.waves)

    def energy_j(self, start_s, stop_s):
        return self.until_j(stop_s) - self.until_j(start_s)


def write_file(path, text):
    """Write a file so that no reader sees half of it."""
    aside = path.with_suffix(".next")
    aside.write_text(f"{text}\n")
    aside.replace(path)


def evaluate(expression, t_s=None):
    """Return the value of an expression of ``t_s``, now if no time is given."""
    names = globals() | {"t_s": time.monotonic() if t_s is None else t_s}
    return eval(_compiled(expression), names)


@functools.cache
def _compiled(expression):
    return compile(expression, "live file", "eval")


def read_text(path, directory=None):
    """Read a file as drivers' files are read, and evaluate it if it is live."""
    text = _read_text(path, directory)
    return str(evaluate(text[1:])) if text.startswith("=") else text


def install(replace=setattr):
    """Let this process read live files."""
    replace(sysfs_files, "LONGEST_TEXT", 4096)
    for module in (sysfs_files, cray, hwmon_devices):
        replace(module, "read_text", read_text)


def enable(patch, directory):
    """Let this process, and the recorders that it starts, read live files."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text("import live_files\nlive_files.install()\n")
    here = str(Path(__file__).parent)
    patch.setenv("PYTHONPATH", os.pathsep.join([str(directory), here]))
    install(patch.setattr)


def floor_to(t_s, step_s):
    """Return the last multiple of a step."""
    return math.floor(t_s / step_s) * step_s
