"""Coefficients of a device, and what its data sheet leads to expect of them.

Each coefficient has a log-normal prior: a rule derives its centre from the data sheet, and the
width of the prior reflects how reliable the rule is. A fit to measurements moves a coefficient
only as far as they justify.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from joulelab.arrays import Floats
from joulelab.packaged import packaged_rows

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

GENERIC_WIDTH = 1.0
"""Standard deviation of the logarithm of each limit of a generic data sheet."""

LIMITS = (
    ("vector_flops_per_s", "matrix_flops_per_s", "half_flops_per_s"),
    ("memory_bytes_per_s",),
    ("cache_bytes",),
    ("power_limit_w",),
)
"""Limits of a data sheet; those of a group are wrong by the same factor if it is generic."""


class Datasheet(BaseModel):
    """Limits of a device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str  # name as the driver reports it, or a part of it
    kind: Literal["cuda", "cpu"]  # "cuda" runs asynchronously to the host; "cpu" is the host
    vector_flops_per_s: Positive  # peak of 32-bit floating point without matrix units
    matrix_flops_per_s: Positive  # peak with matrix units on 32-bit numbers (TF32), not sparse
    half_flops_per_s: Positive | None = None  # the same on 16-bit numbers; None if not stated
    memory_bytes_per_s: Positive
    cache_bytes: Positive  # size of the last-level cache
    processors: Annotated[int, Field(gt=0)]  # each processes one tile: multiprocessors, or cores
    power_limit_w: Positive
    memory_bytes: Positive | None = None  # None if not stated
    generic: bool = False  # whether it stands for an unknown device, as a rough guess

    @property
    def half_peak(self) -> float:
        """Peak with matrix units on 16-bit numbers: by default twice that of TF32."""
        if self.half_flops_per_s is not None:
            return self.half_flops_per_s
        has_matrix_units = self.matrix_flops_per_s > self.vector_flops_per_s
        return self.matrix_flops_per_s * (2 if has_matrix_units else 1)

    def without_matrix_units(self) -> Datasheet:
        """Return the sheet for work that may not use them, such as 32-bit numbers without TF32."""
        return self.model_copy(update={"matrix_flops_per_s": self.vector_flops_per_s})


def known_datasheets() -> list[Datasheet]:
    """Return the data sheets that come with JouleLab, the most specific names first."""
    return [
        Datasheet(
            device=row["device"],
            kind="cuda",
            vector_flops_per_s=float(row["vector_tflops_per_s"]) * 1e12,
            matrix_flops_per_s=float(row["matrix_tflops_per_s"]) * 1e12,
            half_flops_per_s=float(row["half_tflops_per_s"]) * 1e12,
            memory_bytes_per_s=float(row["memory_gb_per_s"]) * 1e9,
            cache_bytes=float(row["cache_mb"]) * 1e6,
            processors=int(row["processors"]),
            power_limit_w=float(row["power_limit_w"]),
            memory_bytes=float(row["memory_gb"]) * 1e9,
        )
        for row in packaged_rows("joulelab.predict", "profiles/datasheets.csv")
    ]


def find_datasheet(device: str) -> Datasheet | None:
    """Return the data sheet of a device by the name that its driver reports, if there is one.

    Example:
        >>> find_datasheet("NVIDIA H100 80GB HBM3").memory_bytes_per_s
        3350000000000.0
        >>> find_datasheet("Abacus") is None
        True
    """
    return next((one for one in known_datasheets() if one.device.lower() in device.lower()), None)


def generic_datasheet(device: str) -> Datasheet:
    """Return a stand-in for an unknown device.

    It is a CPU of 8 cores for ``"cpu"``, otherwise a GPU in the middle of the known ones, in logs.
    """
    if device.lower() == "cpu":
        return Datasheet(
            device=device,
            kind="cpu",
            vector_flops_per_s=1e12,
            matrix_flops_per_s=1e12,
            memory_bytes_per_s=50e9,
            cache_bytes=32e6,
            processors=8,
            power_limit_w=100.0,
            generic=True,
        )
    middle = find_datasheet("NVIDIA A100")
    assert middle is not None
    return middle.model_copy(update={"device": device, "memory_bytes": None, "generic": True})


class Coefficient(NamedTuple):
    """One positive number of the device model."""

    name: str  # with its unit
    prior: Callable[[Datasheet], float] | float  # rule for the data sheet, or a fact of PyTorch
    width: float  # standard deviation of the logarithm about the prior

    def expected(self, sheet: Datasheet) -> float:
        """Return the centre of the prior."""
        return self.prior if isinstance(self.prior, float) else self.prior(sheet)


def _product_rate(sheet: Datasheet) -> float:
    return 0.75 * sheet.vector_flops_per_s


def _half_rate(sheet: Datasheet) -> float:
    return 0.6 * sheet.half_peak


def _stream_rate(sheet: Datasheet) -> float:
    return 0.85 * sheet.memory_bytes_per_s


def _product_j(sheet: Datasheet) -> float:
    """Return the joules per FLOP of dense products.

    At full rate they draw about the power limit, half of it for other reasons.
    """
    return 0.45 * sheet.power_limit_w / _product_rate(sheet)


def _half_j(sheet: Datasheet) -> float:
    return 0.45 * sheet.power_limit_w / _half_rate(sheet)


def _stream_j(sheet: Datasheet) -> float:
    """Streaming draws three quarters of the power limit, 40 % of the limit for other reasons."""
    return 0.36 * sheet.power_limit_w / _stream_rate(sheet)


def _depthwise_rate(sheet: Datasheet) -> float:
    return 0.075 * sheet.vector_flops_per_s


def _convolution_j(sheet: Datasheet) -> float:
    has_matrix_units = sheet.matrix_flops_per_s > sheet.vector_flops_per_s
    return 0.2 * _product_j(sheet) if has_matrix_units else _product_j(sheet)


COEFFICIENTS = (
    # Dense and aligned grouped convolutions, with all processors busy.
    Coefficient("convolution_flops_per_s", lambda sheet: 0.3 * sheet.matrix_flops_per_s, 0.5),
    # Grouped convolutions whose channels per group are no multiple of 4 (of 16 bytes).
    Coefficient(
        "unaligned_convolution_flops_per_s", lambda sheet: 0.2 * sheet.vector_flops_per_s, 0.3
    ),
    # PyTorch's own kernels: one thread per output, and one block per weight for their gradient.
    Coefficient("depthwise_flops_per_s", _depthwise_rate, 0.5),
    Coefficient("depthwise_gradient_flops_per_s", lambda sheet: _depthwise_rate(sheet) / 3, 0.6),
    # 32-bit matrix products and attention.
    Coefficient("product_flops_per_s", _product_rate, 0.15),
    # Waves of tiles that are lost while a convolution starts and ends.
    Coefficient("idle_waves", 0.3, 0.5),
    # Extra passes over the tensors to convert their layout; pointwise also covers grouped.
    Coefficient("convolution_copies", 1.5, 0.4),
    Coefficient("pointwise_copies", 1.0, 0.4),
    # Traffic outside and inside the last-level cache, and its size at which half is inside.
    Coefficient("memory_bytes_per_s", _stream_rate, 0.1),
    Coefficient("cache_bytes_per_s", lambda sheet: 2 * _stream_rate(sheet), 0.2),
    Coefficient("cache_bytes", lambda sheet: 0.8 * sheet.cache_bytes, 0.3),
    # Start and end of a kernel on the device; for a convolution with its auxiliary kernels.
    Coefficient("launch_s", 2.5e-6, 0.3),
    Coefficient("convolution_launch_s", 6e-6, 0.4),
    # Host time: per operator, more per convolution or normalisation from a library, per parameter
    # tensor that the optimiser updates, and for the loop around a step.
    Coefficient("forward_call_s", 25e-6, 0.7),
    Coefficient("backward_call_s", 35e-6, 0.7),
    Coefficient("library_call_s", 12e-6, 0.7),
    Coefficient("parameter_s", 8e-6, 0.7),
    Coefficient("step_s", 60e-6, 1.0),
    # Power above idle whenever the device is busy.
    Coefficient("busy_power_w", lambda sheet: 0.2 * sheet.power_limit_w, 0.4),
    Coefficient("convolution_j_per_flop", _convolution_j, 0.4),
    Coefficient("depthwise_j_per_flop", _product_j, 0.5),
    Coefficient("product_j_per_flop", _product_j, 0.2),
    Coefficient("memory_j_per_byte", _stream_j, 0.3),
    Coefficient("cache_j_per_byte", lambda sheet: 0.45 * _stream_j(sheet), 0.4),
    # Numbers in the windows of pooling, whose loops do little else than index, and in statistics
    # and transcendental functions.
    Coefficient("window_elements_per_s", lambda sheet: sheet.vector_flops_per_s / 50, 1.0),
    Coefficient("function_elements_per_s", lambda sheet: sheet.vector_flops_per_s / 30, 0.8),
    # Matrix products and attention on 16-bit numbers.
    Coefficient("half_flops_per_s", _half_rate, 0.3),
    Coefficient("half_j_per_flop", _half_j, 0.3),
    # Time of an inference server in which the device waits: for each step, and for each sequence
    # in it (scheduling, sampling, detokenising). Servers differ by a factor of ten.
    Coefficient("server_step_s", 3e-3, 1.0),
    Coefficient("sequence_s", 1e-4, 1.2),
    # Extra passes of a CPU over the matrices of products, to pack them (Goto and van de Geijn,
    # "Anatomy of High-Performance Matrix Multiplication", 2008), and over the weights of
    # convolutions, to change their layout with strides.
    Coefficient("product_copies", 1.0, 0.5),
    Coefficient("weight_copies", 2.0, 0.7),
    # Memory that a CPU's program takes from the system: about a page of 4 KiB a microsecond.
    Coefficient("fresh_bytes_per_s", 4e9, 0.7),
)
"""All coefficients. The rules are rounded from published data on GPUs and PyTorch's kernels."""

COEFFICIENT_NAMES = tuple(one.name for one in COEFFICIENTS)
KNOWN_LENGTHS = (24, 26, 30, len(COEFFICIENT_NAMES))
"""Numbers of coefficients in profiles written before pooling was modelled, before language models
were, and now. A profile has the first ones."""


def expect_coefficients(sheet: Datasheet) -> tuple[Floats, Floats]:
    """Return the mean and the covariance of the coefficients' logarithms by the data sheet.

    If the sheet is a rough guess, what is wrong with one of its limits is wrong with all
    coefficients that follow from it.
    """
    logs = np.log([one.expected(sheet) for one in COEFFICIENTS])
    covariance = np.diag(np.square([one.width for one in COEFFICIENTS]))
    for names in LIMITS if sheet.generic else ():
        changed = {name: getattr(sheet, name) * math.e for name in names if getattr(sheet, name)}
        other = sheet.model_copy(update=changed)
        slopes = np.log([one.expected(other) for one in COEFFICIENTS]) - logs
        covariance += GENERIC_WIDTH**2 * np.outer(slopes, slopes)
    return logs, covariance
