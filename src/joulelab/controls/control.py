"""What a control is: a limit or clock of a device, its constraints, and how it is set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from joulelab.errors import ControlError
from joulelab.format import number


@dataclass(frozen=True, slots=True)
class Control(ABC):
    """A setting of a device. It holds no state: the driver or the kernel does."""

    # ``"power_limit"``, ``"clock"`` or ``"memory_clock"`` of a GPU, or ``"cpu_power_limit"``.
    # Controls of several devices have the same name.
    name: str
    component: str  # What it belongs to, for example ``"gpu:0"``.
    device: str  # Identifies the device on this machine: a UUID, or a path of sysfs.
    unit: str  # ``"W"`` or ``"MHz"``.
    low: float  # The lowest value that can be set.
    high: float  # The highest value that can be set.
    # The only settable values, ascending; empty if all are possible.
    levels: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """The control for people, for example ``"the power limit of gpu:0"``."""
        return f"the {self.name.removeprefix('cpu_').replace('_', ' ')} of {self.component}"

    @abstractmethod
    def check_rights(self) -> None:
        """Raise :class:`ControlError` if this process may not set it. Changes nothing."""

    @abstractmethod
    def read(self) -> float | None:
        """Return the value that is set; ``None`` if the driver does not report it.

        Raises:
            ControlError: The device does not answer.
        """

    def set(self, value: float) -> None:
        """Set the value. One that the device does not allow is not sent to it.

        Raises:
            ControlError: The value is not allowed, or the device refuses.
        """
        self.check_value(value)
        self._write(value)

    def check_value(self, value: float) -> None:
        """Raise :class:`ControlError` for a value that the device does not allow.

        Clocks between two levels are refused, since the driver would choose another one.
        """
        failure = f"cannot set {self.title} to {number(value, 4)} {self.unit}"
        if not self.low <= value <= self.high:
            allowed = f"{number(self.low, 4)} to {number(self.high, 4)} {self.unit}"
            raise ControlError(failure, why=f"it allows {allowed}")
        if self.levels and value not in self.levels:
            nearest = min(self.levels, key=lambda level: abs(level - value))
            hint = f"the nearest one is {number(nearest, 4)} {self.unit}"
            raise ControlError(failure, why="it is not one of its levels", hint=hint)

    @abstractmethod
    def restore(self, found: float | None) -> None:
        """Set what :meth:`read` returned earlier; for ``None``, what the driver does by itself.

        Raises:
            ControlError: The device refuses.
        """

    @abstractmethod
    def _write(self, value: float) -> None:
        """Send an allowed value to the device."""
