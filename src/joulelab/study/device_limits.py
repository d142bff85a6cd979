"""Power limits and clocks as factors of a study: borrowed for the time of each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from joulelab.controls.borrowing import borrow
from joulelab.controls.control import Control
from joulelab.controls.machine_controls import find_controls
from joulelab.errors import UserError
from joulelab.runs import LIMIT_UNITS
from joulelab.study.plan import FactorsPlan

Levels = Mapping[str, Any]
"""Levels of factors, by their names."""


class DeviceLimits:
    """The controls of the devices on which a plan's cells run.

    Args:
        factors: The plan's factors.
        components: The component of each device of the plan, for example ``"gpu:0"``, or ``"cpu"``.

    Raises:
        UserError: A device has no such control, does not allow a level, or this process may not set
            it.
    """

    def __init__(self, factors: FactorsPlan, components: Mapping[str, str]) -> None:
        limits = {name: levels for name, levels in factors.levels().items() if name in LIMIT_UNITS}
        self._controls: dict[str, dict[str, list[Control]]] = {}
        for device, component in components.items() if limits else ():
            self._controls[device] = {name: _controls(name, component) for name in limits}
            for name, levels in limits.items():
                for control in self._controls[device][name]:
                    control.check_rights()
                    for level in levels:
                        control.check_value(level)

    @contextmanager
    def set(self, device: str, factors: Levels) -> Iterator[None]:
        """Set a cell's limits for a while, and restore what was found.

        Raises:
            JoulelabError: A device refuses, or another process is tuning it.
        """
        wanted = {name: factors[name] for name in LIMIT_UNITS if name in factors}
        if not wanted:
            yield
            return
        controls = [one for name in wanted for one in self._controls[device][name]]
        settings = {
            control.name: level
            for name, level in wanted.items()
            for control in self._controls[device][name]
        }
        with borrow(controls) as borrowed:
            borrowed.set(settings)
            yield


def _controls(factor: str, component: str) -> list[Control]:
    """Find the controls of a factor on one device."""
    name = factor.rpartition("_")[0]
    if component == "cpu":
        if factor != "power_limit_w":
            raise UserError(
                f"cannot set {factor} of the CPU",
                why="JouleLab sets clocks of GPUs alone",
                hint='use power_limit_w, or device = "cuda"',
            )
        return find_controls().named("cpu_power_limit")
    return [one for one in find_controls().named(name) if one.component == component]
