"""Find the controls of this machine."""

from __future__ import annotations

from dataclasses import dataclass

from joulelab.controls.control import Control
from joulelab.controls.nvml_controls import find_nvml_controls
from joulelab.sensors.nvml import visible_components
from joulelab.sensors.sensor import Absence
from joulelab.sensors.visible_devices import environment_selection


@dataclass(frozen=True, slots=True)
class FoundControls:
    """The controls of this machine, and why others are absent.

    What is here can be read; whether this process may also set it is checked when it is borrowed.
    """

    controls: tuple[Control, ...]
    absent: tuple[Absence, ...]


def find_controls(*, all_gpus: bool = False) -> FoundControls:
    """Find the power limits and clocks that can be set on this machine.

    Args:
        all_gpus: Also those of the GPUs that ``CUDA_VISIBLE_DEVICES`` hides from this process.
    """
    controls, absent = find_nvml_controls()
    if not all_gpus:
        visible = visible_components(*environment_selection())
        if visible is not None:
            controls = [one for one in controls if one.component in visible]
            absent = [one for one in absent if one.component in (*visible, "gpu")]
    return FoundControls(tuple(controls), tuple(absent))
