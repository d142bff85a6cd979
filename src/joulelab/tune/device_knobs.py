"""Make knobs of the devices that a job uses, and set them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from joulelab.controls.borrowing import Borrowed, borrow
from joulelab.controls.control import Control
from joulelab.controls.machine_controls import FoundControls, find_controls
from joulelab.energy.attribution import bare_uuid, foreign_gpus
from joulelab.errors import UserError
from joulelab.recording.device_clock import gpus_with_context
from joulelab.recording.trace import Trace
from joulelab.tune.knobs import knob_title, level_text
from joulelab.tune.probes import Knob, Level

MOST_LEVELS = 12
"""Most levels of a knob if none are given: then a V100 has 11, from 100 to 300 W."""


@contextmanager
def borrow_knobs(
    levels: Mapping[str, Sequence[Level]], gpus: Collection[str]
) -> Iterator[tuple[list[Knob], Borrowed | None]]:
    """Borrow the controls of the devices that a job uses.

    Args:
        levels: Levels of each knob; none if they are to be chosen.
        gpus: The GPUs that it uses, for example ``"gpu:0"``.

    Yields:
        The knobs, and what sets them on all devices. What was found is restored at the end.

    Raises:
        ControlError: They cannot be set, or another process has borrowed them.
    """
    if not levels:
        yield [], None
        return
    by_name = device_controls(levels, gpus)
    controls = [one for of_knob in by_name.values() for one in of_knob]
    with borrow(controls) as borrowed:
        yield [device_knob(by_name[name], levels[name]) for name in levels], borrowed


def device_controls(
    names: Collection[str], gpus: Collection[str] | None = None
) -> dict[str, list[Control]]:
    """Find the controls of some knobs.

    Raises:
        ControlError: A knob has none.
    """
    found = find_controls(all_gpus=gpus is not None)
    used = [
        one
        for one in found.controls
        if gpus is None or one.component in gpus or not one.component.startswith("gpu")
    ]
    found = FoundControls(tuple(used), found.absent)
    return {name: found.named(name) for name in names}


def device_knob(controls: Sequence[Control], levels: Sequence[Level] = ()) -> Knob:
    """Make one knob of the same control of several devices.

    The baseline is what is set now, or the highest value if the driver chooses by itself. Levels
    above it are never tried: who set a limit had a reason.

    Args:
        controls: At least one.
        levels: Levels to choose from. Default: at most :data:`MOST_LEVELS` round ones.

    Raises:
        UserError: A given level cannot be set, or is above what is set now.
    """
    low = max(one.low for one in controls)
    found = [one.read() for one in controls]
    high = min(
        one.high if value is None else value for one, value in zip(controls, found, strict=True)
    )
    name = controls[0].name
    for level in levels:
        if isinstance(level, str) or not low <= level <= high:
            why = f"it may be {level_text(name, low)} to {level_text(name, high)}, which is set now"
            raise UserError(f"the {knob_title(name)} cannot be {level_text(name, level)}", why=why)
    chosen = list(levels) or _round_levels(low, high, controls[0].levels)
    return Knob(name, tuple(sorted({*chosen, high})), high, is_limit=True)


def _round_levels(low: float, high: float, allowed: Sequence[float]) -> list[float]:
    """Choose levels below the highest: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    span = (high - low) / (MOST_LEVELS - 1)
    if span <= 0:
        return []
    power = 10.0 ** math.floor(math.log10(span))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= span)
    wanted = [count * step for count in range(math.ceil(low / step), math.ceil(high / step))]
    if not allowed:
        return wanted
    return [min(allowed, key=lambda level: abs(level - one)) for one in wanted]


def gpus_in_use(trace: Trace) -> set[str]:
    """Return the GPUs that a job uses: those with a context of CUDA if PyTorch is used.

    Without PyTorch they are all that its processes may use.
    """
    recorded: Mapping[str, list[str]] = trace.header.get("gpus") or {}
    with_context = set(gpus_with_context())
    own = {name for name, uuids in recorded.items() if with_context & set(map(bare_uuid, uuids))}
    if own and not any(event.get("launch") for event in trace.events):
        return own
    names = {one.component for one in trace.channels if one.component.startswith("gpu")}
    return names - set(foreign_gpus(trace))
