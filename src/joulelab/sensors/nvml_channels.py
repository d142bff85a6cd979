"""The channels of an NVIDIA GPU: the driver's ring of power readings, and single values."""

from __future__ import annotations

import contextlib
import math
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median, quantiles
from struct import Struct
from typing import Any

from joulelab.sensors.host import clock_offset_ns
from joulelab.sensors.nvml_accuracy import (
    COUNTER_TIME_UNCERTAINTY_S,
    GAIN_UNCERTAINTY,
    HOLE_PERIODS,
    INSTANT_WINDOW_S,
    RING_PERIOD_S,
    USUAL_PERIOD_S,
    timestamp_latency,
)
from joulelab.sensors.nvml_binding import (
    CLOCK_MEMORY,
    CLOCK_SM,
    FIELD_POWER_INSTANT,
    NOT_FOUND,
    SAMPLES_TOTAL_POWER,
    SCOPE_MODULE,
    TEMPERATURE_GPU,
    NvmlError,
    call,
    field_value,
)
from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading

RING_S = 3.0
"""More than the ring covers (120 readings of 20 ms are 2.4 s)."""
CLOCK_STEP_S = 0.05
"""Wall and monotonic clock drift apart by at most 500 ppm unless the wall clock is set."""
READ_S = 0.5
"""Of this time are the readings by which the cost of a call is measured."""
SILENCE_S = 1.0
"""No new reading for this long is a gap."""
NO_POWER = "the driver shows 0 W"  # No GPU that is switched on draws that.
_SAMPLES = tuple(
    Struct(f"=Q{value}") for value in ("d", "I4x", "Q", "Q", "q", "i4x", "H6x")
)  # fmt: skip
"""nvmlSample_t by nvmlValueType_t: a time stamp, and a union of eight bytes."""

SLOW_INTERVAL_S = 1.0
LEAST_INTERVAL_S = 0.02
COUNTER_CPU_SHARE = 0.005
"""A counter that is the only source is read as often as this share of a core allows."""
ASSUMED = "update period assumed: the value did not change while it was observed"

SUPERCHIP_NAMES = re.compile(r"\bG[BH]\d+|\bVR\d+|Grace")
MODULE_EXCESS = 1.1
POWER_LIMITS = (
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetPowerManagementDefaultLimit",
)
SAME_STAMP_US = 2_000
"""The driver computes timestamps again for each call, on an H200 up to 0.7 ms later. Those of
different readings are 8 ms apart or more."""
OBSERVE_S = 0.8
"""Longest time for which update periods are observed: eight updates of 100 ms."""
ENOUGH_UPDATES = 7
"""A sensor is observed no longer than this many new values."""
LEAST_UPDATES = 4
POLL_S = 0.001
SAME_PERIOD = 1.5
"""New values less than this many periods apart are one period apart: an update may repeat the
previous value and then goes unnoticed."""


class PowerRing:
    """Reads what is new in the ring of power readings of one GPU."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._last_stamp_us = 0
        self._last_new_ns = time.monotonic_ns()
        self._offset_ns: int | None = None
        self._unsettled_until_ns = 0

    @classmethod
    def open(cls, handle: Any, component: str) -> PowerRing:
        """Open the ring of a GPU. Its own timestamps give its update period."""
        stamps_us = [stamp_us for stamp_us, _ in _samples(handle, 0)]
        return cls(ring_channel(component, stamps_us))

    def cpu_s(self, handle: Any) -> float:
        """Return the processor time of a call for a few readings."""
        newest_us = _samples(handle, 0)[-1][0]
        since_us = newest_us - int(READ_S * 1e6)
        return cpu_s(lambda handle: _samples(handle, since_us)[-1][1], handle)

    def read(self, handle: Any, channel: int) -> list[Reading | Gap]:
        """Return the readings since the last call, oldest first; at first, the whole ring.

        If readings are missing in between, there is a :class:`Gap` where the first of them would
        be. After a step of the wall clock the ring is ignored until it has no timestamp of before.
        """
        offset_ns = clock_offset_ns(time.CLOCK_REALTIME)
        try:
            samples = _samples(handle, self._last_stamp_us)
        except NvmlError as error:
            if error.code != NOT_FOUND:
                raise
            samples = []
        now_ns = time.monotonic_ns()
        if self._offset_ns is not None and abs(offset_ns - self._offset_ns) > CLOCK_STEP_S * 1e9:
            self._unsettled_until_ns = now_ns + int(RING_S * 1e9)
        self._offset_ns = offset_ns
        if now_ns < self._unsettled_until_ns:
            self._last_stamp_us = (now_ns + offset_ns) // 1000
            return [Gap(now_ns, channel, "the wall clock jumped: the ring's times are unreliable")]
        if not samples:
            if now_ns - self._last_new_ns < SILENCE_S * 1e9:
                return []
            return [Gap(now_ns, channel, "the driver's power ring has nothing new")]
        readings: list[Reading | Gap] = []
        hole_us = HOLE_PERIODS * self.channel.update_period_s * 1e6
        last_us = self._last_stamp_us or samples[0][0]
        for stamp_us, power_mw in samples:
            if stamp_us - last_us > hole_us:
                missing_us = last_us + int(self.channel.update_period_s * 1e6)
                reason = "readings are missing from the driver's power ring"
                readings.append(Gap(missing_us * 1000 - offset_ns, channel, reason))
            t_ns = stamp_us * 1000 - offset_ns
            shown = Reading(t_ns, channel, power_mw / 1e3) if power_mw else None
            readings.append(shown or Gap(t_ns, channel, NO_POWER))
            last_us = stamp_us
        self._last_stamp_us, self._last_new_ns = last_us, now_ns
        return readings


def ring_channel(
    component: str, stamps_us: Sequence[int], gain_uncertainty: float = GAIN_UNCERTAINTY
) -> Channel:
    """Describe the ring as a channel, timed by the timestamps of its readings.

    Example:
        >>> channel = ring_channel("gpu:0", [20_000 * i for i in range(120)])
        >>> channel.update_period_s, channel.delay_s, round(channel.time_uncertainty_s, 4)
        (0.02, 0.0, 0.0029)
    """
    steps_us = [later - earlier for earlier, later in pairwise(stamps_us)]
    forward_us = [step for step in steps_us if step > 0]
    period_s = RING_PERIOD_S
    if len(forward_us) >= 10:
        period_s = round(median(forward_us) / 1e6, 3) or RING_PERIOD_S
    delay_s, time_uncertainty_s = timestamp_latency([step * 1e-6 for step in steps_us], period_s)
    return Channel(
        component=component,
        quantity=Quantity.POWER,
        source="nvml.samples",
        provenance=Provenance.MEASURED,
        update_period_s=period_s,
        window_s=period_s,
        delay_s=delay_s,
        time_uncertainty_s=time_uncertainty_s,
        resolution=1e-3,
        gain_uncertainty=gain_uncertainty,
        priority=0,
    )


def _samples(handle: Any, since_us: int) -> list[tuple[int, float]]:
    """(wall-clock microseconds, milliwatts) after a time, oldest first."""
    kind, samples = call("nvmlDeviceGetSamples", handle, SAMPLES_TOTAL_POWER, since_us)
    # A field of a ctypes structure takes ten times as long, and there are 400 samples a second.
    found = sorted(_SAMPLES[kind].iter_unpack(b"".join(samples)))
    return found[bisect_right(found, (since_us + SAME_STAMP_US, math.inf)) :]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A channel that is one call and one number."""

    channel: Channel
    read: Callable[[Any], float]
    interval_s: float


def counter(component: str) -> Scalar:
    """Return the energy counter."""
    channel = Channel(
        component=component,
        quantity=Quantity.ENERGY,
        source="nvml.energy_counter",
        provenance=Provenance.MEASURED,
        update_period_s=USUAL_PERIOD_S,
        polled=True,
        time_uncertainty_s=COUNTER_TIME_UNCERTAINTY_S,
        resolution=1e-3,
        gain_uncertainty=GAIN_UNCERTAINTY,
        priority=1,
    )
    return Scalar(
        channel,
        lambda handle: call("nvmlDeviceGetTotalEnergyConsumption", handle) / 1e3,
        SLOW_INTERVAL_S,
    )


def polled_power(component: str, handle: Any) -> list[Scalar]:
    """Return the power fields, for a GPU that has nothing better."""
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
    read = partial(field_value, field=FIELD_POWER_INSTANT)
    return [
        Scalar(instant, lambda h: read(h) / 1e3, USUAL_PERIOD_S),
        average_power(component, handle, USUAL_PERIOD_S),
    ]


def average_power(component: str, handle: Any, interval_s: float) -> Scalar:
    """Return the power that every GPU and driver has."""
    channel = Channel(
        component=component,
        quantity=Quantity.POWER,
        source="nvml.power_usage",
        provenance=Provenance.MEASURED,
        update_period_s=USUAL_PERIOD_S,
        polled=True,
        window_s=_usage_window_s(handle),
        resolution=1e-3,
        gain_uncertainty=GAIN_UNCERTAINTY,
        priority=3,
    )
    return Scalar(channel, lambda h: call("nvmlDeviceGetPowerUsage", h) / 1e3, interval_s)


def module_power(component: str, handle: Any, interval_s: float) -> list[Scalar]:
    """Return the power of the module that a GPU is on, to compare its counter with.

    Raises:
        NvmlError: The driver does not report it.
    """
    read = partial(field_value, field=FIELD_POWER_INSTANT, scope=SCOPE_MODULE)
    read(handle)
    instant, _ = polled_power(component, handle)
    channel = replace(instant.channel, source="nvml.module_power")
    return [Scalar(channel, lambda h: read(h) / 1e3, interval_s)]


def is_superchip(model: str, handle: Any) -> bool:
    """Report whether a GPU shares a module with its processor, whose energy its counter counts.

    On a GH200 the counter is the whole module's (Zeus, pull request 172). Such modules have their
    name, or a power of the module that is not the GPU's; drivers that know no scopes give the same.
    """
    if SUPERCHIP_NAMES.search(model):
        return True
    try:
        return all(
            field_value(handle, FIELD_POWER_INSTANT, SCOPE_MODULE)
            > MODULE_EXCESS * field_value(handle, FIELD_POWER_INSTANT)
            for _ in range(2)
        )
    except NvmlError:
        return False


def power_limit_w(handle: Any) -> float:
    """Return the highest power limit that a board can have; 0 if it is unknown."""
    limits_mw: list[float] = []
    for function in POWER_LIMITS:
        with contextlib.suppress(NvmlError):
            found = call(function, handle)
            limits_mw.append(found if isinstance(found, int) else max(found))
    return max(limits_mw, default=0.0) / 1e3


def _usage_window_s(handle: Any) -> float:
    """1 s on Ampere and newer, but not GA100 (NVML API reference, nvmlDeviceGetPowerUsage)."""
    try:
        capability = tuple(call("nvmlDeviceGetCudaComputeCapability", handle))
    except NvmlError:
        return 0.0
    return 1.0 if capability > (8, 0) else 0.0


_KERNELS, _MEMORY = "share of time with a kernel running", "share of time with memory accesses"
_TELEMETRY: Mapping[Quantity, tuple[str, Callable[[Any], float], str]] = {
    Quantity.UTILIZATION: (
        "utilization", lambda h: float(call("nvmlDeviceGetUtilizationRates", h).gpu), _KERNELS
    ),
    Quantity.MEMORY_UTILIZATION: (
        "utilization", lambda h: float(call("nvmlDeviceGetUtilizationRates", h).memory), _MEMORY
    ),
    Quantity.MEMORY_USED: (
        "memory", lambda h: float(call("nvmlDeviceGetMemoryInfo", h).used), ""
    ),
    Quantity.TEMPERATURE: (
        "temperature", lambda h: float(call("nvmlDeviceGetTemperature", h, TEMPERATURE_GPU)), ""
    ),
    Quantity.SM_CLOCK: (
        "sm_clock", lambda h: call("nvmlDeviceGetClockInfo", h, CLOCK_SM) * 1e6, ""
    ),
    Quantity.MEMORY_CLOCK: (
        "memory_clock", lambda h: call("nvmlDeviceGetClockInfo", h, CLOCK_MEMORY) * 1e6, ""
    ),
}  # fmt: skip


def telemetry(component: str) -> list[Scalar]:
    """Return what else a GPU reports about itself."""
    return [
        Scalar(
            Channel(
                component=component,
                quantity=quantity,
                source=f"nvml.{source}",
                provenance=Provenance.MEASURED,
                update_period_s=SLOW_INTERVAL_S,
                note=note,
            ),
            read,
            SLOW_INTERVAL_S,
        )
        for quantity, (source, read, note) in _TELEMETRY.items()
    ]


def with_period(scalar: Scalar, period_s: float | None, handle: Any) -> Scalar:
    """Return a channel with its observed update period, to be read once per period."""
    channel = replace(
        scalar.channel,
        update_period_s=period_s or USUAL_PERIOD_S,
        note=scalar.channel.note if period_s else ASSUMED,
    )
    interval_s = max(channel.update_period_s, LEAST_INTERVAL_S)
    if channel.quantity is Quantity.ENERGY:
        call_s = median(_call_s(scalar.read, handle) for _ in range(3))
        interval_s = min(max(call_s / COUNTER_CPU_SHARE, interval_s), SLOW_INTERVAL_S)
    return replace(scalar, channel=channel, interval_s=interval_s)


def _call_s(read: Callable[[Any], float], handle: Any) -> float:
    start_s = time.perf_counter()
    read(handle)
    return time.perf_counter() - start_s


def cpu_s(read: Callable[[Any], float], handle: Any) -> float:
    """Return the median processor time of a call, which may wait without using it."""
    used_s = []
    for _ in range(3):
        start_s = time.thread_time()
        read(handle)
        used_s.append(time.thread_time() - start_s)
    return median(used_s)


def observe_periods(scalars: Sequence[Scalar], handle: Any) -> list[float | None]:
    """Observe how often each value changes; ``None`` if the GPU did not show it."""
    try:
        return update_periods_s([partial(one.read, handle) for one in scalars])
    except NvmlError:
        return [None] * len(scalars)


def update_periods_s(
    reads: Sequence[Callable[[], float]], observe_s: float = OBSERVE_S
) -> list[float | None]:
    """Find each sensor's update period by reading it more often than that, at most so long.

    Returns:
        In the same order, to the millisecond and never 0; ``None`` for a sensor whose value
        changed too rarely.
    """
    values: list[float | None] = [None] * len(reads)
    new_s: list[list[float]] = [[] for _ in reads]
    deadline_s = time.monotonic() + observe_s
    while (
        time.monotonic() < deadline_s
        and min(map(len, new_s), default=ENOUGH_UPDATES) < ENOUGH_UPDATES
    ):
        for i, read in enumerate(reads):
            value = read()
            if values[i] is not None and value != values[i]:
                new_s[i].append(time.monotonic())
            values[i] = value
        time.sleep(POLL_S)
    return [_period_s(times_s) for times_s in new_s]


def _period_s(new_s: Sequence[float]) -> float | None:
    if len(new_s) < LEAST_UPDATES:
        return None
    apart_s = [later - earlier for earlier, later in pairwise(new_s)]
    short_s = quantiles(apart_s, n=4)[0]
    period_s = median(step for step in apart_s if step <= SAME_PERIOD * short_s)
    return max(round(period_s, 3), POLL_S)
