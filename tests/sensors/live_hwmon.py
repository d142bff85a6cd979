"""Trees of hwmon drivers and of Cray's counters that live: power is a square wave of known energy.

A thread advances the files of all trees. They are laid out as the kernel does (see the modules of
``joulelab.sensors`` for its documentation): devices below ``/sys/devices``, links to them in
``/sys/class/hwmon``.
"""

import itertools
import math
import os
import threading
import time
from dataclasses import dataclass

STEP_S = 0.004
WIDTH = 40


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


class LiveFiles:
    """Files whose text is a function of CLOCK_MONOTONIC seconds.

    Attributes:
        slowest_s: The longest time in which the files did not move: how late a reading may be.
    """

    def __init__(self):
        self.slowest_s = 0.0
        self._texts = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        for descriptor in self._texts:
            os.close(descriptor)

    def add(self, path, text):
        """Add a file; what it says is as long each time, so that no reader sees half of it."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        with self._lock:
            self._texts[descriptor] = text

    def write(self):
        with self._lock:
            now_s = time.monotonic()
            for descriptor, text in self._texts.items():
                os.pwrite(descriptor, f"{text(now_s):<{WIDTH}}\n".encode(), 0)

    def _run(self):
        last_s = time.monotonic()
        while not self._stop.wait(STEP_S):
            self.write()
            now_s = time.monotonic()
            self.slowest_s = max(self.slowest_s, now_s - last_s)
            last_s = now_s


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
        self.live.add(path, lambda t_s: round(load.power_w(t_s) * scale))

    def average(self, path, load, interval_s):
        """Power over the latest whole interval."""

        def text(t_s):
            stop_s = math.floor(t_s / interval_s) * interval_s
            return round(load.energy_j(stop_s - interval_s, stop_s) / interval_s * 1e6)

        self.live.add(path, text)

    def energy(self, path, load, *, start_j=1000.0, wrap_j=math.inf):
        since_s = time.monotonic()

        def text(t_s):
            counted_j = start_j + load.energy_j(since_s, t_s)
            return round((counted_j if math.isinf(wrap_j) else counted_j % wrap_j) * 1e6)

        self.live.add(path, text)

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
        since_s = time.monotonic()
        scan = lambda t_s: math.floor(t_s * 10)  # noqa: E731
        for name, load in loads.items():

            def text(t_s, load=load):
                at_s = scan(t_s) / 10
                joules = math.floor(5000 + load.energy_j(since_s, at_s))
                return f"{joules} J {round((at_s + clock_ahead_s) * 1e6)} us"

            self.live.add(path / name, text)
        self.live.add(path / "freshness", scan)
        return path
