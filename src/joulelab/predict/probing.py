"""Limits of a device whose data sheet is not kept, by measuring it for some seconds."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch

from joulelab.machine import Machine
from joulelab.meter import Meter
from joulelab.predict.devices import Datasheet
from joulelab.workloads.devices import synchronize

PROBE_S = 1.5
"""For each probe."""

MATRIX_SIZE = 2048
STREAM_NUMBERS = 1 << 25
"""128 MiB of 4-byte numbers: more than the caches of most devices."""

CPU_CACHE_BYTES = 32e6
"""Where the system does not tell the size of the last-level cache."""


def device_name(device: torch.device, machine: Machine) -> str:
    """As its driver, or the system, names it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return machine.cpu_model or "CPU"


def repeat_for(work: Callable[[], object], duration_s: float, device: torch.device) -> float:
    """Repeats work for about a time, at least twice, the first time unseen.

    Returns:
        Seconds that each takes: the median over stretches of about a tenth of the time, so that a
        stretch in which the machine did something else counts little.
    """
    work()
    synchronize(device)
    stop_s = time.perf_counter() + duration_s
    found: list[float] = []
    while not found or time.perf_counter() < stop_s:
        start_s = time.perf_counter()
        count = 0
        while not count or time.perf_counter() - start_s < duration_s / 10:
            work()
            count += 1
        synchronize(device)
        found.append((time.perf_counter() - start_s) / count)
    return statistics.median(found)


def probed_datasheet(device: torch.device, machine: Machine, meter: Meter) -> Datasheet:
    """Measures matrix products and streaming, and takes the rest from what the system says.

    A sheet's figures are limits, of which products reach about 75 % and streaming 85 %; so the
    measured are divided by these. Nothing is said of matrix units: convolutions will show.
    """
    left = torch.randn((MATRIX_SIZE, MATRIX_SIZE), device=device)
    stream = torch.zeros(STREAM_NUMBERS, device=device)
    with meter.span("probe") as span:
        product_s = repeat_for(lambda: left @ left, PROBE_S, device)
    stream_s = repeat_for(lambda: stream.add_(1.0), PROBE_S, device)
    vector_flops_per_s = 2 * MATRIX_SIZE**3 / product_s / 0.75
    return Datasheet(
        device=device_name(device, machine),
        kind="cuda" if device.type == "cuda" else "cpu",
        vector_flops_per_s=vector_flops_per_s,
        matrix_flops_per_s=vector_flops_per_s,
        memory_bytes_per_s=2 * 4 * STREAM_NUMBERS / stream_s / 0.85,
        cache_bytes=_cache_bytes(device),
        processors=_processors(device),
        power_limit_w=span.energy.mean_power_w,
        generic=True,
    )


def _cache_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).L2_cache_size)
    for name in ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE"):
        if name in os.sysconf_names and (size := os.sysconf(name)) > 0:
            return float(size)
    return CPU_CACHE_BYTES


def _processors(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return torch.get_num_threads()
