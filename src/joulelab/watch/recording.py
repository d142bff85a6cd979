"""A directory with a trace, as something to watch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import local_costs
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.errors import TraceError
from joulelab.recording.trace import TraceReader
from joulelab.recording.trace_format import READINGS_FILE, boot_id
from joulelab.watch.following import Figures, Following
from joulelab.watch.model import State, View

SILENT_S = 10.0
"""A recorder whose last reading is older, and whose process is not there, is gone."""


class RecordingPlace:
    """A directory with a trace, as a Meter or a run of a study has it.

    Args:
        directory: Holds the trace, or will.
        title: What it is called.
        detail: More of it.
        baseline: Idle power on the trace's clock.
        start_ns: Where what is watched began; ``None``: with the recording.
        epochs: How many there will be, where that is known.

    Attributes:
        is_behind: Whether some of a long recording is still to be read.
    """

    def __init__(
        self,
        directory: Path,
        *,
        title: str,
        detail: str = "",
        baseline: Baseline | None = None,
        start_ns: int | None = None,
        epochs: int | None = None,
    ) -> None:
        self._directory = directory
        self._title, self._detail = title, detail
        self._baseline, self._start_ns, self._epochs = baseline, start_ns, epochs
        self.is_behind = False
        self._following: Following | None = None
        self._costed: Energy | None = None
        self._costs: Costs | None = None

    def look(self) -> View:
        """What it shows now.

        Raises:
            TraceError: The trace is damaged, or was removed.
        """
        try:
            return self._look()
        except OSError as error:
            raise TraceError(
                f"cannot read the trace in {self._directory}", why=error.strerror or str(error)
            ) from error

    def _look(self) -> View:
        following = self._follow()
        if following is None:
            return View(
                title=self._title, detail=self._detail, state="waiting",
                state_words="the recording has not begun",
            )  # fmt: skip
        figures = following.look()
        self.is_behind = figures.read_share < 1
        if self.is_behind:
            return View(
                title=self._title, detail=self._detail, state="waiting",
                state_words=f"reading, {100 * figures.read_share:.0f} %",
            )  # fmt: skip
        state, words = _state(following, figures)
        if state in ("ended", "lost"):
            figures = following.look(final=True)
        return self._view(following, figures, state, words)

    def _follow(self) -> Following | None:
        """What follows the trace, once there is one."""
        if self._following is None:
            path = self._directory / READINGS_FILE
            if not path.exists() or not path.stat().st_size:
                return None
            self._following = Following(
                self._directory,
                baseline=self._baseline,
                start_ns=self._start_ns,
                epochs=self._epochs,
            )
        return self._following

    def _view(self, following: Following, figures: Figures, state: State, words: str) -> View:
        """The figures with what is known beside them."""
        until_ns = figures.until_ns
        live, here = state in ("live", "waiting"), is_this_boot(following.header)
        now_ns = time.monotonic_ns() if live and here else until_ns
        is_alive = psutil.pid_exists if here else _unknown_to_us
        costs = self._costs_of(following, figures)
        absent = {one.component: str(one) for one in following.absent}
        return View(
            title=self._title,
            detail=self._detail,
            state=state,
            state_words=words,
            elapsed_s=(now_ns - following.start_ns) * 1e-9 if now_ns else math.nan,
            components=figures.components,
            power_w=figures.power_w,
            energy=figures.energy,
            job_words=figures.energy.job_text if figures.energy else "",
            gauges=figures.gauges,
            stacks=following.book.stacks(now_ns, is_alive) if live else (),
            ended=figures.ended,
            forecast=figures.outlook.forecast,
            forecast_words=figures.outlook.words if state == "live" else "",
            costs=costs,
            absent=figures.energy.absent if figures.energy else absent,
            notes=figures.energy.notes if figures.energy else (),
        )

    def _costs_of(self, following: Following, figures: Figures) -> Costs | None:
        """What the energy costs, at an intensity that is worked out as seldom as all of it."""
        energy, accounted = figures.energy, figures.accounted
        if energy is None or accounted is None:
            return None
        if self._costs is None or accounted is not self._costed:
            start_unix_s = following.unix_s(following.start_ns)
            self._costs = local_costs(
                accounted,
                started_unix_s=start_unix_s,
                stopped_unix_s=start_unix_s + accounted.duration_s,
            )
            self._costed = accounted
        return replace(self._costs, energy_j=energy.gross_j, interval_j=energy.interval_j)


def _state(following: Following, figures: Figures) -> tuple[State, str]:
    """Whether a recording goes on, and how it ended."""
    stop = following.book.stop
    if stop is not None:
        return "ended", str(stop["reason"])
    quiet_s = silent_s(following.header, figures.newest_ns)
    if quiet_s > SILENT_S and not _recorder_is_there(following.header):
        return "lost", "the recorder is gone"
    return ("live", "") if figures.until_ns else ("waiting", "no reading yet")


def _unknown_to_us(_pid: int) -> bool:
    """A process of another machine may well be there."""
    return True


def is_this_boot(header: Mapping[str, Any]) -> bool:
    """Whether the recording was begun since this machine was started."""
    return bool(header.get("boot_id")) and header["boot_id"] == boot_id()


def silent_s(header: Mapping[str, Any], newest_ns: int) -> float:
    """How long ago the last was read; other machines' clocks are taken to agree with ours."""
    start_ns = int(header.get("start_ns", 0))
    newest_s = max(newest_ns, start_ns) * 1e-9
    if is_this_boot(header):
        return time.monotonic() - newest_s
    return time.time() - (float(header.get("start_unix_s", 0.0)) + newest_s - start_ns * 1e-9)


def _recorder_is_there(header: Mapping[str, Any]) -> bool:
    return is_this_boot(header) and psutil.pid_exists(header.get("pid", -1))


def header_of(directory: Path) -> Mapping[str, Any]:
    """What the recorder said of itself.

    Raises:
        TraceError: There is no trace, or it is not one.
    """
    return TraceReader(directory).read_between(0, 0).header


def is_recording(directory: Path) -> bool:
    """Whether a recorder of this machine writes to that directory."""
    try:
        header = header_of(directory)
    except TraceError:
        return False
    return _recorder_is_there(header)
