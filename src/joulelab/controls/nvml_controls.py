"""Power limit and clocks of an NVIDIA GPU, through NVML.

Setting them needs root (NVML: "Requires root/admin permissions"). They last until the driver lets
go of the GPU, which without persistence mode is when the last program closes it: NVML stays open in
every process that has such controls.

A clock is an upper limit here, so that the GPU still saves power while idle. NVML does not report
whether and how clocks are locked: what was found is unknown, and restoring it is releasing the
lock (``nvmlDeviceResetGpuLockedClocks``), after which the driver chooses clocks by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from joulelab.controls.control import Control
from joulelab.errors import ControlError
from joulelab.format import number
from joulelab.sensors.nvml import VGPU_REASON, Board, list_boards, nvml_absence
from joulelab.sensors.nvml_binding import (
    CLOCK_GRAPHICS,
    CLOCK_MEMORY,
    FUNCTION_NOT_FOUND,
    NO_PERMISSION,
    NOT_SUPPORTED,
    NvmlError,
    call,
)
from joulelab.sensors.sensor import Absence

RIGHTS_REASON = "only root may set it"
RIGHTS_HINT = (
    "run as root, for example with sudo; in a container, as its root with "
    "docker run --gpus all --cap-add SYS_ADMIN"
)


@dataclass(frozen=True, slots=True)
class NvmlPowerLimit(Control):
    """The power limit of a board, in watts."""

    def check_rights(self) -> None:
        """Raise :class:`ControlError` without the right to set it, or if the driver cannot."""
        _set_limit_again(self)

    def read(self) -> float:
        """Return the limit, also if another program set it."""
        return float(_call(self, "nvmlDeviceGetPowerManagementLimit")) / 1e3

    def restore(self, found: float | None) -> None:
        """Set the limit that was found."""
        if found is not None:
            self.set(found)

    def _write(self, value: float) -> None:
        _call(self, "nvmlDeviceSetPowerManagementLimit", round(value * 1e3))


@dataclass(frozen=True, slots=True)
class NvmlClock(Control):
    """The highest clock of a GPU or of its memory, in MHz."""

    # ``"GpuLockedClocks"`` or ``"MemoryLockedClocks"``, as in the names of functions.
    lock: str = "GpuLockedClocks"

    def check_rights(self) -> None:
        """Raise :class:`ControlError` without the right to set limits, which clocks need, too."""
        try:
            _set_limit_again(self)
        except ControlError as error:
            if error.why == RIGHTS_REASON:
                raise

    def read(self) -> None:
        """Return ``None``: NVML does not report locks."""

    def restore(self, found: float | None) -> None:
        """Release the lock; the value is always ``None``."""
        _call(self, f"nvmlDeviceReset{self.lock}")

    def _write(self, value: float) -> None:
        _call(self, f"nvmlDeviceSet{self.lock}", int(self.low), int(value))


def find_nvml_controls() -> tuple[list[Control], list[Absence]]:
    """Find the controls of every NVIDIA GPU of this machine, and why others are absent."""
    try:
        boards = list_boards()
        call("nvmlInit")  # See the module's docstring.
    except NvmlError as error:
        return [], [nvml_absence(error)]
    controls: list[Control] = []
    absences: list[Absence] = []
    finders = {"power_limit": _power_limit, "clock": _clock, "memory_clock": _memory_clock}
    for board in boards:
        for name, find in finders.items():
            source = f"nvml.{name}"
            try:
                handle = call("nvmlDeviceGetHandleByUUID", board.identity.uuid)
                controls.append(find(board, handle))
            except NvmlError as error:
                reason, hint = _why(error)
                if board.virtual:
                    reason = f"{VGPU_REASON} and has no limits"
                absences.append(Absence(board.component, source, reason, hint))
            except ControlError as error:
                absences.append(Absence(board.component, source, error.what))
    return controls, absences


def _power_limit(board: Board, handle: Any) -> Control:
    call("nvmlDeviceGetPowerManagementLimit", handle)
    low_mw, high_mw = call("nvmlDeviceGetPowerManagementLimitConstraints", handle)
    if low_mw >= high_mw:
        raise ControlError(f"this GPU allows no power limit but {number(high_mw / 1e3)} W")
    return NvmlPowerLimit(
        "power_limit", board.component, board.identity.uuid, "W", low_mw / 1e3, high_mw / 1e3
    )


def _clock(board: Board, handle: Any) -> Control:
    memory_mhz = call("nvmlDeviceGetMaxClockInfo", handle, CLOCK_MEMORY)
    most_mhz = call("nvmlDeviceGetMaxClockInfo", handle, CLOCK_GRAPHICS)
    clocks_mhz = call("nvmlDeviceGetSupportedGraphicsClocks", handle, memory_mhz)
    # Some boards also list clocks that they never reach.
    reached_mhz = [clock_mhz for clock_mhz in clocks_mhz if clock_mhz <= most_mhz]
    return _clock_control(board, "clock", "GpuLockedClocks", reached_mhz)


def _memory_clock(board: Board, handle: Any) -> Control:
    clocks_mhz = call("nvmlDeviceGetSupportedMemoryClocks", handle)
    return _clock_control(board, "memory_clock", "MemoryLockedClocks", clocks_mhz)


def _clock_control(board: Board, name: str, lock: str, clocks_mhz: Sequence[int]) -> Control:
    levels = tuple(float(clock_mhz) for clock_mhz in sorted(set(clocks_mhz)))
    if len(levels) < 2:
        raise ControlError("this GPU does not offer several of these clocks")
    return NvmlClock(
        name, board.component, board.identity.uuid, "MHz", levels[0], levels[-1], levels, lock
    )


def _set_limit_again(control: Control) -> None:
    """Set the power limit to what it is: no change, but refused without the right."""
    limit_mw = _call(control, "nvmlDeviceGetPowerManagementLimit")
    low_mw, high_mw = _call(control, "nvmlDeviceGetPowerManagementLimitConstraints")
    if low_mw <= limit_mw <= high_mw:
        _call(control, "nvmlDeviceSetPowerManagementLimit", limit_mw)


def _call(control: Control, function: str, *arguments: int) -> Any:
    try:
        handle = call("nvmlDeviceGetHandleByUUID", control.device)
        return call(function, handle, *arguments)
    except NvmlError as error:
        doing = "read" if "Get" in function else "set"
        reason, hint = _why(error)
        raise ControlError(f"cannot {doing} {control.title}", why=reason, hint=hint) from error


def _why(error: NvmlError) -> tuple[str, str]:
    """Return why a call failed, and the hint."""
    if error.code == NO_PERMISSION:
        return RIGHTS_REASON, RIGHTS_HINT
    if error.code in (NOT_SUPPORTED, FUNCTION_NOT_FOUND):
        return f"this GPU or its driver does not support it ({error})", error.hint
    return f"NVML: {error}", error.hint or "check that `nvidia-smi` works"
