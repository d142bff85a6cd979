"""Find the controls of this machine."""

from __future__ import annotations

from dataclasses import dataclass

from joulelab.controls.control import Control
from joulelab.controls.nvml_controls import find_nvml_controls
from joulelab.controls.sysfs_controls import find_hwmon_limits, find_package_limits
from joulelab.errors import ControlError
from joulelab.sensors.nvml import visible_components
from joulelab.sensors.sensor import Absence
from joulelab.sensors.visible_devices import environment_selection


@dataclass(frozen=True, slots=True)
class FoundControls:
    """The controls of this machine, and why others are absent.

    They can be read; whether this process may set them is checked when they are borrowed.
    """

    controls: tuple[Control, ...]
    absent: tuple[Absence, ...]

    def named(self, name: str) -> list[Control]:
        """Return the controls of this name, for example ``"power_limit"``.

        Raises:
            ControlError: There are none; the text says why.
        """
        controls = [one for one in self.controls if one.name == name]
        if controls:
            return controls
        kind = "cpu" if name.startswith("cpu") else "gpu"
        sources = ("nvml", "powercap", name)
        for absence in self.absent:
            if absence.component[:3] == kind and absence.source.rpartition(".")[2] in sources:
                reason, hint = absence.reason, absence.hint
                break
        else:
            reason, hint = "no device that is used has one", ""
        raise ControlError(f"no {name.replace('_', ' ')} can be set", why=reason, hint=hint)


def find_controls(*, all_gpus: bool = False) -> FoundControls:
    """Find the power limits and clocks of this machine.

    Args:
        all_gpus: Also those of the GPUs that ``CUDA_VISIBLE_DEVICES`` hides from this process.
    """
    controls, absent = find_nvml_controls()
    nvidia = {one.component for one in controls} | {one.component for one in absent} - {"gpu"}
    visible = None if all_gpus else visible_components(*environment_selection())
    if visible is not None:
        controls = [one for one in controls if one.component in visible]
        absent = [one for one in absent if one.component in (*visible, "gpu")]
    for found, missing in (find_hwmon_limits(len(nvidia)), find_package_limits()):
        controls += found
        absent += missing
    if any(one.component.startswith("gpu") for one in controls):
        absent = [one for one in absent if one.component != "gpu"]
    return FoundControls(tuple(controls), tuple(absent))
