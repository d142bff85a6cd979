"""Trees of hwmon drivers and of Cray's counters that live: power is a square wave of known energy.

Files are laid out as the kernel does (see the modules of ``joulelab.sensors`` for its
documentation): devices below ``/sys/devices``, links to them in ``/sys/class/hwmon``.
"""

import itertools
import math
import os
import time

from live_files import evaluate


class LiveFiles:
    """Files with a number each, which :meth:`go_live` lets change."""

    def __init__(self):
        self._expressions = {}

    def add(self, path, expression):
        """Add a file, which is empty at first, by its expression of ``t_s``."""
        # A test may put something else in its place.
        self._expressions[os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)] = expression

    def write(self):
        """Write what the numbers are now."""
        for descriptor, expression in self._expressions.items():
            _write(descriptor, evaluate(expression))

    def go_live(self):
        """Let processes that can read live files see what the numbers are when they are read."""
        for descriptor, expression in self._expressions.items():
            _write(descriptor, f"={expression}")

    def close(self):
        """Close the files, whose numbers stay."""
        for descriptor in self._expressions:
            os.close(descriptor)
        self._expressions.clear()


def _write(descriptor, text):
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{text}\n".encode(), 0)


class Tree:
    """One machine's ``/sys``."""

    def __init__(self, root, live):
        self.root = root
        self.live = live
        self._numbers = itertools.count(3)

    def device(self, bus, address, name, **texts):
        """Make a device with an hwmon directory, and the link to it; return the directory."""
        device = self.root / "devices" / bus / address
        path = device / "hwmon" / f"hwmon{next(self._numbers)}"
        path.mkdir(parents=True)
        (path / "device").symlink_to(device)
        (path / "name").write_text(f"{name}\n")
        link = self.root / "class" / "hwmon" / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
        for file, text in texts.items():
            (path / file).write_text(f"{text}\n")
        return path

    def power(self, path, load, scale=1e6):
        self.live.add(path, f"round({load}.power_w(t_s) * {scale})")

    def average(self, path, load, interval_s):
        """Power over the latest whole interval."""
        stop_s = f"floor_to(t_s, {interval_s})"
        energy_j = f"{load}.energy_j({stop_s} - {interval_s}, {stop_s})"
        self.live.add(path, f"round({energy_j} / {interval_s} * 1e6)")

    def energy(self, path, load, *, start_j=1000.0, wrap_j=math.inf):
        counted_j = f"({start_j} + {load}.energy_j({time.monotonic()}, t_s))"
        wrapped_j = counted_j if math.isinf(wrap_j) else f"{counted_j} % {wrap_j}"
        self.live.add(path, f"round({wrapped_j} * 1e6)")

    def amdgpu(self, address, load=None, *, file="power1_average", cap_w=300, **texts):
        path = self.device("pci0000:00", address, "amdgpu", power1_cap=cap_w * 10**6, **texts)
        device = path.parents[1]
        (device / "device").write_text("0x740c\n")
        (device / "gpu_busy_percent").write_text("87\n")
        (device / "mem_info_vram_used").write_text(f"{2**34}\n")
        if load:
            self.power(path / file, load)
        return path

    def meter(self, address, load, oem_info="", interval_s=0.05):
        """Make an ACPI power meter: its files are the device's."""
        path = self.device("LNXSYSTM:00", address, "power_meter")
        device = path.parents[1]
        (path / "name").rename(device / "name")
        (device / "power1_average_interval").write_text(f"{round(interval_s * 1e3)}\n")
        (device / "power1_accuracy").write_text("95.0%\n")
        (device / "power1_oem_info").write_text(f"{oem_info}\n")
        self.average(device / "power1_average", load, interval_s)
        return path

    def ina3221(self, address, loads):
        """Make a Jetson's chip, with JetPack 5's files: 5 V on each rail."""
        path = self.device("i2c-1", address, "ina3221", in7_label="sum of shunt voltages")
        (path / "in7_input").write_text("12\n")
        for number, (label, load) in enumerate(loads, 1):
            (path / f"in{number}_label").write_text(f"{label}\n")
            (path / f"in{number}_input").write_text("5000\n")
            self.power(path / f"curr{number}_input", load, 1e3 / 5)
        return path

    def ina3221x(self, address, loads):
        """Make a Jetson's chip, with JetPack 4's files."""
        path = self.root / "bus/i2c/drivers/ina3221x" / address / "iio:device0"
        path.mkdir(parents=True)
        for number, (label, load) in enumerate(loads):
            (path / f"rail_name_{number}").write_text(f"{label}\n")
            self.power(path / f"in_power{number}_input", load, 1e3)
        return path

    def cray(self, loads, clock_ahead_s):
        """Make counters that are measured ten times a second, by a clock of their own."""
        path = self.root / "cray" / "pm_counters"
        path.mkdir(parents=True)
        scanned_s = "floor_to(t_s, 0.1)"
        for name, load in loads.items():
            counted_j = f"5000 + {load}.energy_j({time.monotonic()}, {scanned_s})"
            at_us = f"round(({scanned_s} + {clock_ahead_s}) * 1e6)"
            text = f"'%d J %d us' % ({counted_j}, {at_us})"
            self.live.add(path / name, text)
        self.live.add(path / "freshness", "math.floor(t_s * 10)")
        return path
