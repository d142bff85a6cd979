"""The channels of a GPU that are one call to NVML and one number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import pynvml

from joulelab.sensors.nvml_accuracy import GAIN_UNCERTAINTY, INSTANT_WINDOW_S, USUAL_PERIOD_S
from joulelab.sensors.pace import update_periods_s
from joulelab.sensors.sensor import Channel, Provenance, Quantity

SLOW_INTERVAL_S = 1.0
LEAST_INTERVAL_S = 0.02
COUNTER_CPU_SHARE = 0.005
"""Where the counter is the only source it is read as often as this share of a core allows."""
ASSUMED = "update period assumed: the value stood still while it was looked at"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A channel that is one call and one number."""

    channel: Channel
    read: Callable[[Any], float]
    interval_s: float


def update_periods(scalars: Sequence[Scalar], handle: Any) -> list[float | None]:
    """How often each has a new value; ``None`` where the GPU did not show it."""
    try:
        return update_periods_s([partial(one.read, handle) for one in scalars])
    except pynvml.NVMLError:
        return [None] * len(scalars)


def paced(scalar: Scalar, period_s: float | None, handle: Any) -> Scalar:
    """The channel with its update period, read once in that.

    Args:
        scalar: Power, or the counter.
        period_s: As :func:`update_periods` found it.
        handle: The GPU.
    """
    channel = replace(
        scalar.channel,
        update_period_s=period_s or USUAL_PERIOD_S,
        note=scalar.channel.note if period_s else ASSUMED,
    )
    interval_s = max(channel.update_period_s, LEAST_INTERVAL_S)
    if channel.quantity is Quantity.ENERGY:
        call_s = median(_seconds(scalar.read, handle) for _ in range(3))
        interval_s = min(max(call_s / COUNTER_CPU_SHARE, interval_s), SLOW_INTERVAL_S)
    return replace(scalar, channel=channel, interval_s=interval_s)


def counter(component: str) -> Scalar:
    """The energy counter."""
    channel = Channel(
        component=component,
        quantity=Quantity.ENERGY,
        source="nvml.energy_counter",
        provenance=Provenance.MEASURED,
        update_period_s=USUAL_PERIOD_S,
        polled=True,
        resolution=1e-3,
        gain_uncertainty=GAIN_UNCERTAINTY,
        priority=1,
    )
    return Scalar(
        channel,
        lambda handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,
        SLOW_INTERVAL_S,
    )


def polled_power(component: str, handle: Any) -> list[Scalar]:
    """The power fields, for a GPU that has nothing better."""
    instant = Channel(
        component=component,
        quantity=Quantity.POWER,
        source="nvml.power_instant",
        provenance=Provenance.MEASURED,
        update_period_s=USUAL_PERIOD_S,
        polled=True,
        window_s=INSTANT_WINDOW_S,
        resolution=1e-3,
        gain_uncertainty=GAIN_UNCERTAINTY,
        priority=2,
    )
    usage = replace(
        instant, source="nvml.power_usage", window_s=_usage_window_s(handle), priority=3
    )
    return [
        Scalar(instant, _instant_power_w, USUAL_PERIOD_S),
        Scalar(usage, lambda h: pynvml.nvmlDeviceGetPowerUsage(h) / 1e3, USUAL_PERIOD_S),
    ]


def _usage_window_s(handle: Any) -> float:
    """1 s on Ampere and newer, but not GA100 (NVML API reference, nvmlDeviceGetPowerUsage)."""
    try:
        capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    except pynvml.NVMLError:
        return 0.0
    return 1.0 if capability > (8, 0) else 0.0


def _instant_power_w(handle: Any) -> float:
    field = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field.nvmlReturn)
    return float(field.value.uiVal) / 1e3


def telemetry(component: str) -> list[Scalar]:
    """What a GPU tells of itself beside power."""

    def scalar(
        quantity: Quantity, source: str, read: Callable[[Any], float], note: str = ""
    ) -> Scalar:
        channel = Channel(
            component=component,
            quantity=quantity,
            source=f"nvml.{source}",
            provenance=Provenance.MEASURED,
            update_period_s=SLOW_INTERVAL_S,
            note=note,
        )
        return Scalar(channel, read, SLOW_INTERVAL_S)

    return [
        scalar(
            Quantity.UTILIZATION,
            "utilization",
            lambda h: float(pynvml.nvmlDeviceGetUtilizationRates(h).gpu),
            "share of time with a kernel running",
        ),
        scalar(
            Quantity.MEMORY_UTILIZATION,
            "utilization",
            lambda h: float(pynvml.nvmlDeviceGetUtilizationRates(h).memory),
            "share of time with memory read or written",
        ),
        scalar(
            Quantity.MEMORY_USED,
            "memory",
            lambda h: float(pynvml.nvmlDeviceGetMemoryInfo(h).used),
        ),
        scalar(
            Quantity.TEMPERATURE,
            "temperature",
            lambda h: float(pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU)),
        ),
        scalar(
            Quantity.SM_CLOCK,
            "sm_clock",
            lambda h: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_SM) * 1e6,
        ),
        scalar(
            Quantity.MEMORY_CLOCK,
            "memory_clock",
            lambda h: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_MEM) * 1e6,
        ),
    ]


def _seconds(read: Callable[[Any], float], handle: Any) -> float:
    start_s = time.perf_counter()
    read(handle)
    return time.perf_counter() - start_s
