"""Time and energy of steps on a device, from their operators and the device's coefficients.

An operator takes the longer of its arithmetic and its memory traffic (the roofline of Williams,
Waterman, Patterson, CACM 2009), and the start and end of its kernels. A GPU works off what the
host hands out, so that a step takes about the longer of both; a CPU does one after the other.
Energy is idle power over the step's time, busy power over the device's, and a share for each
floating-point operation and byte.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from joulelab.predict.coefficients import NAMES, Floats
from joulelab.predict.devices import Datasheet
from joulelab.predict.operators import KINDS
from joulelab.predict.work import LIBRARY_CONVOLUTIONS, Work

OVERLAP = 4.0
"""Exponent p of (host^p + device^p)^(1/p), for a GPU: 19 % over the longer where both are equal."""

CACHE_SHARPNESS = 2.0
"""Exponent of the share that comes from the cache, 1 / (1 + (bytes / cache_bytes)^2)."""


class Estimate(NamedTuple):
    """What steps take.

    Attributes:
        duration_s: Shape: (steps,).
        energy_j: Gross. Shape: (steps,).
        host_s: The host's part. Shape: (steps,).
        device_s: The device's part. Shape: (steps,).
        operator_s: Of one operator on the device. Shape: (operators,).
        operator_j: Of one operator beyond idle power. Shape: (operators,).
    """

    duration_s: Floats
    energy_j: Floats
    host_s: Floats
    device_s: Floats
    operator_s: Floats
    operator_j: Floats


class Coefficients(NamedTuple):
    """A device's coefficients and how well they are known.

    Attributes:
        logs: Natural logarithms, as :data:`~joulelab.predict.coefficients.NAMES`. Shape:
            (coefficients,).
        covariance: Of these. Shape: (coefficients, coefficients).
    """

    logs: Floats
    covariance: Floats


def estimate(work: Work, logs: Floats, sheet: Datasheet, idle_power_w: Floats | float) -> Estimate:
    """Time and energy of each step.

    Args:
        work: Operators of the steps.
        logs: Natural logarithms, as :data:`~joulelab.predict.coefficients.NAMES`.
        sheet: Kind, processors and power limit are used.
        idle_power_w: Of the device; a number, or one a step.
    """
    value = dict(zip(NAMES, np.exp(logs), strict=True))
    operator_s, copies, cached = _times(work, value, sheet)
    device_s = work.sums(operator_s)
    host_s = work.calls @ [
        value["forward_call_s"],
        value["backward_call_s"],
        value["library_call_s"],
        value["parameter_s"],
    ]
    host_s += value["step_s"]
    if sheet.kind == "cuda":
        duration_s = (device_s**OVERLAP + host_s**OVERLAP) ** (1 / OVERLAP)
    else:
        duration_s = device_s + host_s
    operator_j = (
        value["busy_power_w"] * operator_s
        + _joules_per_flop(work, value) * work.flops
        + (1 + copies)
        * work.bytes
        * (value["memory_j_per_byte"] * (1 - cached) + value["cache_j_per_byte"] * cached)
    )
    dynamic_j = work.sums(operator_j)
    if not sheet.generic:
        # At its power limit a device slows down.
        room_w = np.maximum(sheet.power_limit_w - np.asarray(idle_power_w), 1e-9)
        duration_s = np.maximum(duration_s, dynamic_j / room_w)
    energy_j = idle_power_w * duration_s + dynamic_j
    return Estimate(duration_s, energy_j, host_s, device_s, operator_s, operator_j)


def device_shares(work: Work, found: Estimate) -> list[dict[str, float]]:
    """Of each step, the share of the device's time that goes to each kind of operator."""
    by_kind = {
        kind: work.sums(found.operator_s * work.is_kind(kind)) / found.device_s for kind in KINDS
    }
    return [
        {kind: float(share[step]) for kind, share in by_kind.items()}
        for step in range(len(found.device_s))
    ]


def _times(work: Work, value: dict[str, float], sheet: Datasheet) -> tuple[Floats, Floats, Floats]:
    """Seconds of each operator, how often it copies its tensors, and its share from the cache."""
    library = work.is_kind(*LIBRARY_CONVOLUTIONS)
    waves = work.tiles / sheet.processors
    arithmetic_s = work.flops / _flops_per_s(work, value)
    arithmetic_s *= np.where(library, 1 + value["idle_waves"] / waves, 1.0)
    cached = 1 / (1 + (work.bytes / value["cache_bytes"]) ** CACHE_SHARPNESS)
    memory_s = work.bytes * (
        (1 - cached) / value["memory_bytes_per_s"] + cached / value["cache_bytes_per_s"]
    )
    copies = np.zeros_like(work.bytes)
    copies[work.is_kind("convolution")] = value["convolution_copies"]
    copies[work.is_kind("pointwise_convolution", "grouped_convolution")] = value["pointwise_copies"]
    convolution = library | work.is_kind("depthwise_convolution", "depthwise_weight_gradient")
    launch_s = np.where(convolution, value["convolution_launch_s"], value["launch_s"])
    seconds = np.maximum(arithmetic_s, memory_s) + copies * memory_s + launch_s * work.launches
    return seconds, copies, cached


def _flops_per_s(work: Work, value: dict[str, float]) -> Floats:
    rate = np.full_like(work.flops, value["convolution_flops_per_s"])
    rate[work.unaligned] = value["unaligned_convolution_flops_per_s"]
    rate[work.is_kind("depthwise_convolution")] = value["depthwise_flops_per_s"]
    rate[work.is_kind("depthwise_weight_gradient")] = value["depthwise_gradient_flops_per_s"]
    rate[work.is_kind("matrix_product", "attention")] = value["product_flops_per_s"]
    return rate


def _joules_per_flop(work: Work, value: dict[str, float]) -> Floats:
    found = np.full_like(work.flops, value["convolution_j_per_flop"])
    depthwise = work.is_kind("depthwise_convolution", "depthwise_weight_gradient")
    found[depthwise] = value["depthwise_j_per_flop"]
    found[work.is_kind("matrix_product", "attention")] = value["product_j_per_flop"]
    return found
