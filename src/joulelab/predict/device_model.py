"""Estimate time and energy of steps from their operators and a device's coefficients.

An operator takes its arithmetic, its memory traffic, and the start and end of its kernels. The
first two hardly overlap: a kernel reads before it computes and writes afterwards, and most kernels
of small models do little of each. Products of 16-bit numbers, which are those of language models,
load the next tiles while they multiply and take about the longer of both. A GPU runs asynchronously
to the host, so a step takes about the longer of both; a CPU does one after the other. Energy is
idle power over the step's time, busy power over the time that the device works, and a share for
each floating-point operation and byte. The host of a CPU's step is the CPU, which is then busy. An
inference server schedules steps and their sequences while the device waits; that time is added.

The uncertainty of an estimate has three parts, added as variances of the logarithm:

- what measurements and data sheet leave open about each coefficient, by the covariance of the fit.
  It is large if a prediction depends on operators that the fit has not seen;
- the error of the model itself: the residuals of architectures left out of the fit
  (:mod:`joulelab.predict.profile_fitting`);
- :data:`EXTRAPOLATION` of the device's part for each doubling of the batch, and of the side of the
  images, beyond the fitted range. The host's part depends on neither.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.predict.coefficients import COEFFICIENT_NAMES, Datasheet
from joulelab.predict.steps import LIBRARY_CONVOLUTIONS, OperatorTable

OVERLAP = 3.0
"""Exponent p of (host^p + device^p)^(1/p) for a GPU: 26 % over the longer if both are equal. The
arithmetic and the traffic of products of 16-bit numbers overlap in the same way."""

CACHE_SHARPNESS = 2.0
"""Exponent in the share that comes from the cache, 1 / (1 + (bytes / cache_bytes)^2)."""

UNKNOWN_DISCREPANCY = 0.25
"""Assumed standard deviation of the model's error, in logarithms, where nothing was measured: the
device, the kind of step, or too few models to leave some out of the fit."""

EXTRAPOLATION = 0.03
"""Standard deviation of the logarithm of the device's time and energy for each doubling beyond the
fitted range. It is a judgement: three doublings (batch 128 to 1024, or 32 to 256 pixels a side)
give 9 %, about as much as the residuals of architectures left out of the fit."""


class FittedCoefficients(NamedTuple):
    """A device's coefficients with their uncertainty."""

    logs: Floats  # natural logarithms in the order of COEFFICIENT_NAMES
    covariance: Floats  # of the logarithms


class StepEstimates(NamedTuple):
    """Time and energy of steps, shape (steps,), and of their operators, shape (operators,)."""

    duration_s: Floats
    energy_j: Floats  # gross
    host_s: Floats  # the host's part of the duration, including a server's
    device_s: Floats  # the device's part; on a CPU with the page faults of new memory
    operator_s: Floats  # device time of one operator
    operator_j: Floats  # energy of one operator above idle


def estimate_steps(
    operators: OperatorTable, logs: Floats, sheet: Datasheet, idle_power_w: Floats | float
) -> StepEstimates:
    """Estimate time and energy of each step, given the logarithms of the coefficients."""
    value = dict(zip(COEFFICIENT_NAMES, np.exp(logs), strict=True))
    operator_s, moved, cached = _operator_times(operators, value, sheet)
    fresh_s = operators.fresh_bytes / value["fresh_bytes_per_s"]
    device_s = operators.sum_by_step(operator_s) + fresh_s
    per_call = ("forward_call_s", "backward_call_s", "library_call_s", "parameter_s")
    host_s = operators.calls @ [value[name] for name in per_call] + value["step_s"]
    is_cuda = sheet.kind == "cuda"
    duration_s = _overlap(device_s, host_s) if is_cuda else device_s + host_s
    server_s = operators.served @ [value["server_step_s"], value["sequence_s"]]
    duration_s += server_s
    host_s += server_s
    operator_j = (
        value["busy_power_w"] * operator_s
        + _joules_per_flop(operators, value) * operators.computed_flops
        + moved * (value["memory_j_per_byte"] * (1 - cached) + value["cache_j_per_byte"] * cached)
    )
    dynamic_j = operators.sum_by_step(operator_j)
    if sheet.kind == "cpu":
        dynamic_j += value["busy_power_w"] * (host_s + fresh_s)
    if not sheet.generic:
        # A device slows down at its power limit.
        available_w = np.maximum(sheet.power_limit_w - np.asarray(idle_power_w), 1e-9)
        duration_s = np.maximum(duration_s, dynamic_j / available_w)
    energy_j = idle_power_w * duration_s + dynamic_j
    return StepEstimates(duration_s, energy_j, host_s, device_s, operator_s, operator_j)


def coefficient_variance(
    operators: OperatorTable,
    coefficients: FittedCoefficients,
    sheet: Datasheet,
    idle_power_w: Floats,
) -> Floats:
    """Propagate the coefficients' covariance to the logarithms of duration and energy.

    To first order (GUM, section 5.2.2), by central differences. Shape: (2, steps).
    """

    def logarithms(logs: Floats) -> Floats:
        found = estimate_steps(operators, logs, sheet, idle_power_w)
        return np.log(np.stack([found.duration_s, found.energy_j]))

    at, step = coefficients.logs, 1e-4
    slopes = np.stack(
        [
            (logarithms(at + step * unit) - logarithms(at - step * unit)) / (2 * step)
            for unit in np.eye(len(at))
        ],
        axis=-1,
    )
    variance: Floats = np.einsum("qsi,ij,qsj->qs", slopes, coefficients.covariance, slopes)
    return variance


def extrapolation_variance(
    found: StepEstimates, sheet: Datasheet, idle_power_w: Floats, doublings: Floats
) -> Floats:
    """Return the variance of the logarithms of duration and energy due to extrapolation.

    ``doublings`` has those of batch and side beyond the fitted range, shape (steps, 2).
    """
    exponent = OVERLAP if sheet.kind == "cuda" else 1.0
    of_duration = np.minimum(found.device_s / found.duration_s, 1.0) ** exponent
    idle_share = idle_power_w * found.duration_s / found.energy_j
    of_energy = 1 - idle_share + idle_share * of_duration
    device = np.sum((EXTRAPOLATION * doublings) ** 2, axis=1)
    variance: Floats = np.stack([of_duration, of_energy]) ** 2 * device
    return variance


def _operator_times(
    operators: OperatorTable, value: dict[str, float], sheet: Datasheet
) -> tuple[Floats, Floats, Floats]:
    """Return each operator's seconds, bytes moved with all copies, and share from the cache."""
    library = operators.is_kind(*LIBRARY_CONVOLUTIONS)
    arithmetic_s = operators.computed_flops / _flops_per_s(operators, value)
    if sheet.kind == "cuda":
        waves = operators.tiles / sheet.processors
        # Few tiles take as long as one for each processor, unless processors share sums.
        needed = np.maximum(waves + value["idle_waves"], np.where(operators.is_split, 0.0, 1.0))
        arithmetic_s *= np.where(library, needed / waves, 1.0)
    arithmetic_s += operators.elements / np.where(
        operators.is_kind("pooling"),
        value["window_elements_per_s"],
        value["function_elements_per_s"],
    )

    def cached_share(size: Floats) -> Floats:
        found: Floats = 1 / (1 + (size / value["cache_bytes"]) ** CACHE_SHARPNESS)
        return found

    # Weights are in the cache if those of the whole step are.
    weights = operators.sum_by_step(operators.weight_bytes)[operators.step]
    share = operators.weight_bytes / np.maximum(operators.bytes, 1.0)
    cached = (1 - share) * cached_share(operators.bytes) + share * cached_share(weights)
    copies = np.zeros_like(operators.bytes)
    copies[operators.is_kind("convolution")] = value["convolution_copies"]
    copied = operators.is_kind("pointwise_convolution", "grouped_convolution")
    copies[copied] = value["pointwise_copies"]
    if sheet.kind == "cpu":
        copies[operators.is_product] = value["product_copies"]
        copies[operators.is_product & operators.is_vector] = 0.0
    moved = (1 + copies) * operators.bytes
    moved += (value["weight_copies"] - copies) * operators.laid_bytes
    memory_s = moved * (
        (1 - cached) / value["memory_bytes_per_s"] + cached / value["cache_bytes_per_s"]
    )
    convolution = library | operators.is_kind("depthwise_convolution", "depthwise_weight_gradient")
    launch_s = np.where(convolution, value["convolution_launch_s"], value["launch_s"])
    work_s = arithmetic_s + memory_s
    if sheet.kind == "cuda":
        work_s = np.where(operators.is_half, _overlap(arithmetic_s, memory_s), work_s)
    return work_s + launch_s * operators.launches, moved, cached


def _overlap(one_s: Floats, other_s: Floats) -> Floats:
    """Return the time that two parts take that overlap: about the longer one's."""
    found: Floats = (one_s**OVERLAP + other_s**OVERLAP) ** (1 / OVERLAP)
    return found


def _flops_per_s(operators: OperatorTable, value: dict[str, float]) -> Floats:
    rate = np.full_like(operators.flops, value["convolution_flops_per_s"])
    rate[operators.unaligned] = value["unaligned_convolution_flops_per_s"]
    rate[operators.is_kind("depthwise_convolution")] = value["depthwise_flops_per_s"]
    gradient = operators.is_kind("depthwise_weight_gradient")
    rate[gradient] = value["depthwise_gradient_flops_per_s"]
    rate[operators.is_product] = value["product_flops_per_s"]
    rate[operators.is_half] = value["half_flops_per_s"]
    return rate


def _joules_per_flop(operators: OperatorTable, value: dict[str, float]) -> Floats:
    found = np.full_like(operators.flops, value["convolution_j_per_flop"])
    depthwise = operators.is_kind("depthwise_convolution", "depthwise_weight_gradient")
    found[depthwise] = value["depthwise_j_per_flop"]
    found[operators.is_product] = value["product_j_per_flop"]
    found[operators.is_half] = value["half_j_per_flop"]
    return found
