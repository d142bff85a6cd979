"""What data sheets say of devices: it stands in for what one table of measurements cannot tell."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Literal, NamedTuple

from joulelab.errors import UserError, nearest


class Datasheet(NamedTuple):
    """Limits of a device.

    Attributes:
        device: Its name, as the driver gives it or a part of that.
        kind: ``"cuda"`` works while the host goes on; ``"cpu"`` is the host.
        vector_flops_per_s: Most 32-bit floating-point operations without matrix units.
        matrix_flops_per_s: Most with matrix units on 32-bit numbers (TF32), without sparsity.
        memory_bytes_per_s: Bandwidth of the main memory.
        cache_bytes: Size of the last-level cache.
        processors: Units that take one tile of work each: streaming multiprocessors, or cores.
        power_limit_w: Most power that the device may draw.
        generic: Whether it stands for a device that is not known: it then says little.
    """

    device: str
    kind: Literal["cuda", "cpu"]
    vector_flops_per_s: float
    matrix_flops_per_s: float
    memory_bytes_per_s: float
    cache_bytes: float
    processors: int
    power_limit_w: float
    generic: bool = False


def without_matrix_units(sheet: Datasheet) -> Datasheet:
    """The sheet for work that may not use them, as with 32-bit numbers where TF32 is forbidden."""
    return sheet._replace(matrix_flops_per_s=sheet.vector_flops_per_s)


def known_devices() -> list[Datasheet]:
    """The devices whose data sheets are kept, the most specific names first.

    Example:
        >>> known_devices()[0].device
        'NVIDIA H100 80GB HBM3'
    """
    text = files("joulelab.predict").joinpath("profiles", "datasheets.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return [
        Datasheet(
            row["device"],
            "cuda",
            float(row["vector_tflops_per_s"]) * 1e12,
            float(row["matrix_tflops_per_s"]) * 1e12,
            float(row["memory_gb_per_s"]) * 1e9,
            float(row["cache_mb"]) * 1e6,
            int(row["processors"]),
            float(row["power_limit_w"]),
        )
        for row in rows
    ]


def datasheet_of(device: str) -> Datasheet | None:
    """The data sheet of a device by the name that its driver gives it, if it is kept.

    Example:
        >>> datasheet_of("NVIDIA H100 80GB HBM3").memory_bytes_per_s
        3350000000000.0
        >>> datasheet_of("Abacus") is None
        True
    """
    return next((one for one in known_devices() if one.device.lower() in device.lower()), None)


def require_datasheet(device: str) -> Datasheet:
    """As :func:`datasheet_of`.

    Raises:
        UserError: It is not kept.
    """
    found = datasheet_of(device)
    if found is None:
        names = [one.device for one in known_devices()]
        raise UserError(f"no data sheet of {device!r}", hint=nearest(device, names))
    return found


def generic_datasheet(device: str) -> Datasheet:
    """Stands for a device that is not known: a GPU in the middle of those that are, in logs."""
    middle = require_datasheet("NVIDIA A100")
    return middle._replace(device=device, generic=True)
