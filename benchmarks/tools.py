"""The compared tools, each behind the same three calls.

Each tool's virtual environment imports this module. So it needs only the standard library, and
imports a tool only when it is opened.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

JOULES_PER_KWH = 3.6e6
FASTEST_INTERVAL_S = 0.02
"""Interval for tools that poll: a fifth of the driver's update period."""


class Tool(Protocol):
    """The interface of every tool. Windows never overlap."""

    pids: tuple[int, ...]
    """Processes of the tool that are not children of this one."""

    def begin(self) -> None:
        """Open a window."""

    def end(self) -> None:
        """Close the window."""

    def energies_j(self) -> list[float | None]:
        """Return the GPU's energy in every window so far; ``None`` where the tool has none."""

    def close(self) -> None:
        """Stop measuring."""


class JouleLab:
    """``Meter(sensors=["gpu"])``; energies are requested at the end."""

    def __init__(self) -> None:
        self._meter = importlib.import_module("joulelab").Meter(sensors=["gpu"])
        self._spans: list[Any] = []
        self._span: Any = None
        self.pids: tuple[int, ...] = (self._meter.recorder_pid,)

    def begin(self) -> None:
        self._span = self._meter.begin("window")

    def end(self) -> None:
        self._meter.end(self._span)
        self._spans.append(self._span)

    def energies_j(self) -> list[float | None]:
        found: list[float | None] = []
        for energy in self._meter.energies(self._spans):
            gpu = energy.components.get("gpu:0")
            found.append(None if gpu is None else float(gpu.gross_j))
        return found

    def close(self) -> None:
        self._meter.close()


class Zeus:
    """``ZeusMonitor(gpu_indices=[0], cpu_indices=[])``."""

    pids: tuple[int, ...] = ()
    approximate = False

    def __init__(self) -> None:
        self._monitor = importlib.import_module("zeus.monitor").ZeusMonitor(
            gpu_indices=[0], cpu_indices=[], approx_instant_energy=self.approximate
        )
        self._synchronize = _cuda_available()
        self._found: list[float | None] = []

    def begin(self) -> None:
        self._monitor.begin_window("window", sync_execution=self._synchronize)

    def end(self) -> None:
        measured = self._monitor.end_window("window", sync_execution=self._synchronize)
        self._found.append(measured.gpu_energy[0])

    def energies_j(self) -> list[float | None]:
        return self._found

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class ZeusApproximate(Zeus):
    """Zeus with ``approx_instant_energy=True``, its option for windows that read 0."""

    approximate = True


class CodeCarbon:
    """``OfflineEmissionsTracker`` with ``start_task`` and ``stop_task``."""

    pids: tuple[int, ...] = ()

    def __init__(self) -> None:
        self._tracker = importlib.import_module("codecarbon").OfflineEmissionsTracker(
            country_iso_code="DNK",
            measure_power_secs=1,
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
            gpu_ids=[0],
        )
        self._tracker.start_task("warm-up")
        self._tracker.stop_task("warm-up")
        self._found: list[float | None] = []

    def begin(self) -> None:
        self._tracker.start_task(f"window {len(self._found)}")

    def end(self) -> None:
        measured = self._tracker.stop_task(f"window {len(self._found)}")
        self._found.append(measured.gpu_energy * JOULES_PER_KWH)

    def energies_j(self) -> list[float | None]:
        return self._found

    def close(self) -> None:
        self._tracker.stop()


class CarbonTracker:
    """``CarbonTracker(components="gpu")`` with ``epoch_start`` and ``epoch_end``.

    Its energies are those of ``total_energy_per_epoch``, without the data centre's overhead (PUE)
    that it includes.
    """

    pids: tuple[int, ...] = ()
    epochs = 10_000_000
    """More than will occur, because it prints its report and ends at the last epoch."""

    def __init__(self) -> None:
        self._pue = importlib.import_module("carbontracker.constants").PUE_2023
        self._tracker = importlib.import_module("carbontracker.tracker").CarbonTracker(
            epochs=self.epochs,
            epochs_before_pred=0,
            monitor_epochs=-1,
            update_interval=FASTEST_INTERVAL_S,
            components="gpu",
            verbose=0,
        )

    def begin(self) -> None:
        self._tracker.epoch_start()

    def end(self) -> None:
        self._tracker.epoch_end()

    def energies_j(self) -> list[float | None]:
        per_epoch_kwh = self._tracker.tracker.total_energy_per_epoch()
        return [float(kwh) / self._pue * JOULES_PER_KWH for kwh in per_epoch_kwh]

    def close(self) -> None:
        self._tracker.stop()


@dataclass(frozen=True)
class Entry:
    """A tool in the comparison."""

    label: str  # Name in the tables.
    distribution: str  # Name on PyPI.
    version: str  # Pinned version; empty for the working tree.
    module: str  # Module to import.
    open: Callable[[], Tool]  # Starts the tool.
    settings: str  # How the tool is used, for the notes of the tables.


TOOLS = {
    "joulelab": Entry(
        "JouleLab",
        "joulelab",
        "",
        "joulelab",
        JouleLab,
        'Meter(sensors=["gpu"]), begin and end; energies requested after all windows.',
    ),
    "zeus": Entry(
        "Zeus",
        "zeus",
        "0.16.0",
        "zeus.monitor",
        Zeus,
        "ZeusMonitor(gpu_indices=[0], cpu_indices=[]), begin_window and end_window; "
        "sync_execution only if torch sees a GPU.",
    ),
    "zeus-approximate": Entry(
        "Zeus, approximate",
        "zeus",
        "0.16.0",
        "zeus.monitor",
        ZeusApproximate,
        "like Zeus, with approx_instant_energy=True, its option for windows that read 0.",
    ),
    "codecarbon": Entry(
        "CodeCarbon",
        "codecarbon",
        "3.3.2",
        "codecarbon",
        CodeCarbon,
        "OfflineEmissionsTracker(measure_power_secs=1, save_to_file=False), start_task and "
        "stop_task after one warm-up task; gpu_energy of each task.",
    ),
    "carbontracker": Entry(
        "CarbonTracker",
        "carbontracker",
        "2.4.7",
        "carbontracker.tracker",
        CarbonTracker,
        f'CarbonTracker(components="gpu", update_interval={FASTEST_INTERVAL_S}), epoch_start and '
        "epoch_end; total_energy_per_epoch without its data-centre overhead (PUE).",
    ),
}


def installed_version(entry: Entry) -> str:
    """Return the installed version; JouleLab need not be installed."""
    try:
        return importlib.metadata.version(entry.distribution)
    except importlib.metadata.PackageNotFoundError:
        return str(importlib.import_module(entry.distribution).__version__)


def _cuda_available() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    return bool(importlib.import_module("torch").cuda.is_available())
