"""Apple silicon: its energy model, through ``zeus-apple-silicon`` or through ``macmon pipe``.

macOS keeps counters of energy for the parts of the chip (IOReport, group "Energy Model"). The
package zeus-apple-silicon reads them as they are, in mJ. The program macmon (0.5 or newer) prints
the mean power of each interval as a line of JSON, and the power of the whole machine where its
controller reports it. The package is preferred. Both say ``None`` or 0 W of what the machine does
not report; a CPU, memory or machine that is on never draws 0 W, so that 0 is a gap.

``soc`` is the sum of all parts of the chip. It differs from CPU, GPU and memory by the Neural
Engine.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from joulelab.format import duration
from joulelab.sensors.sensor import (
    Absence,
    Channel,
    Gap,
    NothingOpen,
    Provenance,
    Quantity,
    Reading,
)

PACKAGE = "zeus_apple_silicon"
PROGRAM = "macmon"
COUNTER_INTERVAL_S = 0.1
PIPE_INTERVAL_S = 0.5
PIPE_LATENCY_S = 0.02
"""Time from the end of an interval to the arrival of its line; an assumption."""
SILENCE_S = 3.0
RESTART_S = 5.0
GAIN_UNCERTAINTY = 0.2
"""The values are Apple's model: "estimated and may be inaccurate" (manual page of powermetrics).
How wrong they are is not published; this is an assumption."""
NODE_GAIN_UNCERTAINTY = 0.1
"""Of the controller's reading of the whole machine (SMC key PSTR); an assumption, too."""
NOTE = "Apple's model of energy, whose error is not published"
HINT = (
    "pip install zeus-apple-silicon, or brew install macmon (Apple shows the power of its chips "
    "to programs that use a private interface)"
)
PARTS: Mapping[str, tuple[str, ...]] = {
    "cpu:0": ("cpu_total_mj",),
    "gpu:0": ("gpu_mj", "gpu_sram_mj"),
    "dram:0": ("dram_mj",),
}
"""The package's fields of each component."""
ENGINE = "ane_mj"
POWERS: Mapping[str, tuple[str, ...]] = {
    "cpu:0": ("cpu_power",),
    "gpu:0": ("gpu_power", "gpu_ram_power"),
    "dram:0": ("ram_power",),
    "soc": ("cpu_power", "gpu_power", "gpu_ram_power", "ane_power", "ram_power"),
    "node": ("sys_power",),
}
"""macmon's fields of each component."""
NEVER_ZERO = ("cpu_power", "ram_power", "sys_power")
OPTIONAL = ("gpu_ram_power", "ram_power")
"""Parts of a sum that older versions of macmon, or some chips, do not report."""


class AppleCounters(NothingOpen):
    """The chip's counters of energy, through zeus-apple-silicon."""

    interval_s = COUNTER_INTERVAL_S

    def __init__(self, monitor: Any, kinds: Collection[str]) -> None:
        self._monitor = monitor
        now = monitor.get_cumulative_energy()
        parts = {name: fields for name, fields in PARTS.items() if _millijoules(now, fields[:1])}
        if _millijoules(now, (ENGINE,)) is not None and parts:
            parts["soc"] = (*(field for fields in parts.values() for field in fields), ENGINE)
        self._fields = {name: fields for name, fields in parts.items() if _kind(name) in kinds}
        contained = tuple(_kind(name) for name in parts if name != "soc")
        self.channels: Sequence[Channel] = tuple(
            Channel(
                component=name,
                quantity=Quantity.ENERGY,
                source="apple.energy_model",
                provenance=Provenance.MEASURED,
                update_period_s=COUNTER_INTERVAL_S,
                polled=True,
                resolution=1e-3,
                gain_uncertainty=GAIN_UNCERTAINTY,
                contains=contained if name == "soc" else (),
                note=NOTE,
            )
            for name in self._fields
        )

    def read(self) -> list[Reading | Gap]:
        """Read every counter."""
        before_ns = time.monotonic_ns()
        try:
            now = self._monitor.get_cumulative_energy()
        except Exception as error:  # noqa: BLE001  (the binding raises what C++ throws)
            reason = f"zeus-apple-silicon: {error}"
            return [Gap(before_ns, position, reason) for position in range(len(self.channels))]
        t_ns = (before_ns + time.monotonic_ns()) // 2
        readings: list[Reading | Gap] = []
        for position, fields in enumerate(self._fields.values()):
            energy_mj = _millijoules(now, fields)
            if energy_mj is None:
                readings.append(Gap(t_ns, position, "the counter has no value"))
            else:
                readings.append(Reading(t_ns, position, energy_mj / 1e3))
        return readings


class AppleMonitor:
    """The lines that ``macmon pipe`` prints. It is started again if it ends."""

    interval_s = PIPE_INTERVAL_S

    def __init__(self, program: str, kinds: Collection[str]) -> None:
        self._command = [program, "pipe", "-i", str(round(PIPE_INTERVAL_S * 1000))]
        self._fields = {name: fields for name, fields in POWERS.items() if _kind(name) in kinds}
        parts = tuple(_kind(name) for name in PARTS)
        contains = {"soc": parts, "node": (*parts, "soc")}
        self.channels: Sequence[Channel] = tuple(
            Channel(
                component=name,
                quantity=Quantity.POWER,
                source="macmon.system" if name == "node" else "macmon.power",
                provenance=Provenance.MEASURED,
                update_period_s=PIPE_INTERVAL_S,
                window_s=PIPE_INTERVAL_S,
                time_uncertainty_s=PIPE_LATENCY_S,
                gain_uncertainty=NODE_GAIN_UNCERTAINTY if name == "node" else GAIN_UNCERTAINTY,
                contains=contains.get(name, ()),
                note="" if name == "node" else NOTE,
            )
            for name in self._fields
        )
        self._lines: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._latest_ns = self._started_ns = 0
        self._start()

    def read(self) -> list[Reading | Gap]:
        """Return what the new lines state."""
        readings: list[Reading | Gap] = []
        with contextlib.suppress(Empty):
            while True:
                t_ns, line = self._lines.get_nowait()
                self._latest_ns = t_ns
                readings += self._parse(t_ns, line)
        now_ns = time.monotonic_ns()
        silent_s = (now_ns - self._latest_ns) * 1e-9
        reason = ""
        if self._process is None or self._process.poll() is not None:
            code = "" if self._process is None else f" with exit code {self._process.returncode}"
            reason = f"{PROGRAM} ended{code}"
            if (now_ns - self._started_ns) * 1e-9 > RESTART_S:
                self._start()
        elif silent_s > SILENCE_S:
            reason = f"{PROGRAM} has printed nothing for {duration(silent_s)}"
        if reason and not readings:
            return [Gap(now_ns, position, reason) for position in range(len(self.channels))]
        return readings

    def close(self) -> None:
        """End the program."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._latest_ns = self._started_ns = time.monotonic_ns()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
        except OSError:
            self._process = None
            return
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._lines.put((time.monotonic_ns(), line))

    def _parse(self, t_ns: int, line: str) -> list[Reading | Gap]:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            reason = f"{PROGRAM} printed {line.strip()[:60]!r}, not an object of JSON"
            return [Gap(t_ns, position, reason) for position in range(len(self.channels))]
        readings: list[Reading | Gap] = []
        for position, (name, fields) in enumerate(self._fields.items()):
            try:
                power_w = math.fsum(_power_w(found, field, len(fields) > 1) for field in fields)
            except ValueError as error:
                readings.append(Gap(t_ns, position, f"{name}: {error}"))
            else:
                readings.append(Reading(t_ns, position, power_w))
        return readings


def discover_apple(
    kinds: Collection[str], found: Collection[str]
) -> tuple[list[AppleCounters | AppleMonitor], list[Absence]]:
    """Find the counters of an Apple chip, or the program that prints its power.

    Args:
        kinds: Kinds of components.
        found: Components that other sensors measure; if the processor is among them, this is no
            Apple chip.

    Returns:
        At most one sensor, and why there is none on a Mac.
    """
    if "cpu:0" in found or not {"cpu", "gpu", "dram", "soc", "node"} & {*kinds}:
        return [], []
    is_mac = sys.platform == "darwin"
    problems = []
    try:
        monitor = importlib.import_module(PACKAGE).AppleEnergyMonitor()
        counters = AppleCounters(monitor, kinds)
    except ModuleNotFoundError:
        pass
    except Exception as error:  # noqa: BLE001  (a package of that name may fail in any way)
        problems.append(f"zeus-apple-silicon: {error}")
    else:
        if counters.channels:
            return [counters], []
    program = shutil.which(PROGRAM)
    if program is not None:
        return [AppleMonitor(program, kinds)], []
    if not (is_mac or problems):
        return [], []
    reason = "; ".join(problems) or "macOS shows the power of its chip only to special programs"
    return [], [Absence("soc", "apple", reason, HINT)]


def _kind(component: str) -> str:
    return component.partition(":")[0]


def _millijoules(metrics: Any, fields: Sequence[str]) -> float | None:
    """Add up counters; ``None`` without the first. The others may be missing."""
    values = [getattr(metrics, field, None) for field in fields]
    return None if values[0] is None else math.fsum(value or 0 for value in values)


def _power_w(found: Mapping[str, Any], field: str, is_sum: bool) -> float:
    """Return a field of a line. Raise ``ValueError`` with the reason if it states no power."""
    value = found.get(field)
    is_optional = is_sum and field in OPTIONAL
    if value is None and is_optional:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{PROGRAM} states {field} {value!r}, which is no power")
    if value < 0:
        raise ValueError(f"{PROGRAM} states {field} {value:g} W, and nothing draws negative power")
    if value == 0 and field in NEVER_ZERO and not is_optional:
        raise ValueError(f"{PROGRAM} states {field} 0 W: this machine does not report it")
    return float(value)
