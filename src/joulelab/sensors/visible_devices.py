"""The GPUs that a process may use: ``CUDA_VISIBLE_DEVICES``, read the way CUDA reads it.

AMD's ``ROCR_VISIBLE_DEVICES`` and ``HIP_VISIBLE_DEVICES`` are read the same way (ROCm
documentation, "GPU isolation techniques"): indices or ``GPU-`` UUIDs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """The names by which a GPU can be selected: NVML's index (in PCI bus order) and UUIDs."""

    index: int
    uuid: str
    mig_uuids: tuple[str, ...] = ()
    model: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The GPUs that CUDA lets a process use, by NVML's index in CUDA's order.

    ``reason`` is why some are missing, ``note`` what was assumed; both may be empty.
    """

    indices: tuple[int, ...]
    reason: str = ""
    note: str = ""


def environment_selection() -> tuple[str | None, str | None]:
    """Return ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` of this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")


def visible_gpus(
    value: str | None,
    gpus: Sequence[GpuIdentity],
    device_order: str | None = None,
    variable: str = "CUDA_VISIBLE_DEVICES",
) -> Selection:
    """Select the GPUs that ``CUDA_VISIBLE_DEVICES=value`` leaves visible.

    The rules are those of the CUDA programming guide ("CUDA environment variables") and of the
    driver: all GPUs if the variable is unset; entries are indices, or ``GPU-`` UUIDs or their
    unique beginnings, or ``MIG-`` UUIDs, depending on the first entry; the first invalid entry
    ends the list; a GPU named twice leaves none; a number is read as C's ``strtol`` reads it.

    Args:
        value: The variable's value; ``None`` if it is not set.
        gpus: All GPUs, by ascending NVML index.
        device_order: ``CUDA_DEVICE_ORDER``. CUDA's default is ``FASTEST_FIRST``, an order that
            NVML does not report; PCI order is assumed, with a note if the models differ.
        variable: Its name.

    Example:
        >>> gpus = [GpuIdentity(0, "GPU-aa"), GpuIdentity(1, "GPU-bb"), GpuIdentity(2, "GPU-bc")]
        >>> visible_gpus("2,0", gpus).indices
        (2, 0)
        >>> visible_gpus("GPU-a", gpus).indices
        (0,)
        >>> visible_gpus("", gpus)
        Selection(indices=(), reason='CUDA_VISIBLE_DEVICES is empty', note='')
    """
    if value is None:
        return Selection(tuple(gpu.index for gpu in gpus))
    entries = [entry.strip() for entry in value.split(",")]
    if not any(entries):
        return Selection((), f"{variable} is empty")
    names = _names(entries[0], gpus)
    chosen: list[str] = []
    ended_by = None
    for entry in entries:
        name = _resolve(entry, names)
        if name is None:
            ended_by = entry
            break
        if name in chosen:
            return Selection((), f"{variable}={value} names a GPU twice: CUDA sees none")
        chosen.append(name)
    # Several MIG instances of one board are one board to a power sensor.
    indices = tuple(dict.fromkeys(names[name] for name in chosen))
    reason = _reason(f"{variable}={value}", ended_by)
    return Selection(indices, reason, _order_note(entries[0], gpus, device_order))


def _names(first: str, gpus: Sequence[GpuIdentity]) -> dict[str, int]:
    """Every name of the first entry's kind, with its NVML index."""
    if first.startswith("GPU-"):
        return {gpu.uuid: gpu.index for gpu in gpus}
    if first.startswith("MIG-"):
        return {uuid: gpu.index for gpu in gpus for uuid in gpu.mig_uuids}
    return {str(gpu.index): gpu.index for gpu in gpus}


def _resolve(entry: str, names: dict[str, int]) -> str | None:
    if entry.startswith(("GPU-", "MIG-")):
        if entry in names:
            return entry
        matches = [name for name in names if name.startswith(entry)]
        return matches[0] if len(matches) == 1 else None
    number = re.match(r"[+-]?[0-9]+", entry)
    if number is None:
        return None
    name = str(int(number[0]))
    return name if name in names else None


def _reason(assignment: str, ended_by: str | None) -> str:
    if ended_by is None:
        return ""
    if ended_by.startswith("-1"):
        return f"{assignment}: -1 ends the list"
    return f"{assignment}: there is no GPU {ended_by!r}, which ends the list"


def _order_note(first: str, gpus: Sequence[GpuIdentity], device_order: str | None) -> str:
    differ = len({gpu.model for gpu in gpus}) > 1
    if device_order == "PCI_BUS_ID" or first.startswith(("GPU-", "MIG-")) or not differ:
        return ""
    return (
        "GPUs of different models selected by index: PCI order is assumed, but CUDA may count the "
        "fastest first; export CUDA_DEVICE_ORDER=PCI_BUS_ID"
    )
