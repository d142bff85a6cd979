"""What a component can draw at most, and must draw while it works. Other sources are not believed.

A wrong unit, a counter that leaps, or a glitch of a driver gives a number like any other. Each
channel therefore has a bound for its mean power over seconds: :attr:`Channel.max_power_w` where the
hardware states a limit, and otherwise that of its kind of component. The bounds leave a margin for
what limits do not cover. They are the only ones, for every sensor and log.

An idle component may draw next to nothing: a laptop's package in its deepest state draws some mW.
One that works cannot, so that :attr:`Channel.least_use_w` times its use is a bound from below.
"""

from __future__ import annotations

import re
from dataclasses import replace

from joulelab.format import number, percent, quantity
from joulelab.sensors.sensor import Channel, Provenance

GPU_LIMIT_MARGIN = 1.5
"""A board's power over seconds follows its power limit. Excursions of up to 3 times are allowed for
0.1 ms, and power supplies need to bear 1.2 times for 0.1 s (PCI Express CEM 5.0; Intel, ATX version
3.0 design guide). Boards read up to 11 % wrong (:mod:`joulelab.sensors.nvml_accuracy`)."""
CPU_TDP_MARGIN = 5.0
"""Packages draw more than their thermal design power while their turbo limits allow: up to 3.7
times on laptops (Intel Core i7-1255U: 15 W base, 55 W maximum turbo power), 3 times on desktops
whose limits are unlocked."""
LEAST_LIMIT_W = {"gpu": 5.0, "cpu": 1.0}
"""A smaller power limit or thermal design power is one in a wrong unit, and bounds nothing. The
least of boards is 10 W (GeForce MX250), that of processors with counters 2.2 W (Atom Z3735F), and
the largest, 1,400 W and 500 W, would be below these in a unit 1,000 times as large."""
LEAST_THREAD_W = 0.02
"""Least power of an x86 package per busy hardware thread. Makers state for all threads at work at
least 0.5 W a thread (Atom Z3735F: scenario power 2.2 W, 4 threads; Core i7-8500Y: 3.5 W at its
lowest configurable power, 4 threads; EPYC 9965: 500 W, 384 threads). At a third of that clock and
two thirds of the voltage, ten times less is left. A package in which any thread works keeps its
shared parts powered on top. No chip draws more than 1,000 times this at full load."""
LEAST_GPU_SHARE = 0.005
"""Least power of a busy board relative to its highest limit. Boards that are on draw more even
without work: 70 of 700 W (H100), 15 of 450 W (GeForce RTX 4090), 3 of 175 W (in laptops)."""
DRAM_MAX_W_PER_GB = 1.5
DRAM_MAX_BASE_W = 50.0
"""Four times what measured DDR4 modules draw (:mod:`joulelab.sensors.estimates`), and at least four
large modules' 12 W."""
DEVICE_W = {
    "gpu": 3000.0,
    "cpu": 2000.0,
    "dram": 1000.0,
    "soc": 3000.0,
    "card": 3000.0,
    "module": 6000.0,
    "socket": 2000.0,
    "psu": 10e3,
    "plug": 25e3,
    "node": 30e3,
}
"""Nothing that is sold draws more: power limits of GPUs end at 1,400 W, and that of a module with
its processor at 2,900 W (NVIDIA GB300); server sockets at 500 W, overclocked workstations at about
1,000 W; a socket's memory at 24 modules of 12 W. Power supplies of servers end at 5.5 kW, three
phases of 32 A at 22 kW, machines at about 15 kW (NVIDIA DGX B300)."""
DEVICES_IN_ONE = 4
"""A component without a number (``gpu``) may be the sum of several devices,"""
DEVICES = ("gpu", "cpu", "dram")
"""if it is one of these."""
WITH_PROCESSORS = ("cpu", "soc", "node")
"""Kinds of components that include the processors. Of redundant power supplies and plugs, one may
deliver next to nothing."""
RACK_W = 1e5
"""Nothing with one meter draws more, a rack of accelerators included."""
_KIND = re.compile(rf"(?:^|:)({'|'.join(DEVICE_W)})(:)?")
_NOUNS = {
    "gpu": "GPU",
    "cpu": "processor package",
    "dram": "socket's memory",
    "soc": "chip",
    "psu": "power supply",
    "node": "machine",
}


def max_power_w(channel: Channel) -> float:
    """Return the largest mean power over seconds that a channel may report, W.

    Example:
        >>> from joulelab.sensors.sensor import Quantity
        >>> channel = Channel(component="gpu:0", quantity=Quantity.POWER, source="log",
        ...     provenance=Provenance.MEASURED, update_period_s=1.0)
        >>> max_power_w(channel)
        3000.0
    """
    if channel.max_power_w is not None:
        return channel.max_power_w
    if channel.provenance is Provenance.ESTIMATED:
        return RACK_W
    kind = _KIND.search(channel.component)
    if kind is None:
        return RACK_W
    return DEVICE_W[kind[1]] * (DEVICES_IN_ONE if _is_sum(kind) else 1)


def _is_sum(kind: re.Match[str]) -> bool:
    return kind[1] in DEVICES and not kind[2]


def is_plausible(channel: Channel, power_w: float, use: float = 0.0) -> bool:
    """Report whether a mean power over seconds can be, next to the component's mean use.

    A power of 0 is that of a counter that does not count: it says nothing of the unit.
    """
    return power_w == 0 or use * channel.least_use_w <= power_w <= max_power_w(channel)


def implausible(channel: Channel, power_w: float, use: float = 0.0) -> str:
    """Explain why a mean power over seconds is not believed."""
    text = f"{channel.source} reports {quantity(power_w, 'W')}, "
    if power_w < 0:
        return f"{text}and nothing draws negative power: its sign is probably wrong"
    if power_w > max_power_w(channel):
        return f"{text}{more_than_possible(channel)}: its unit is probably wrong"
    least = quantity(use * channel.least_use_w, "W")
    worked = f"{number(use)} threads at work"
    if channel.component.startswith("gpu"):
        worked = f"{percent(use, 2)} of its time at work"
    return (
        f"{text}less than a {_noun(channel)} draws with {worked} (at least {least}): its unit is "
        "probably wrong"
    )


def more_than_possible(channel: Channel) -> str:
    """Return ``"more than a GPU can draw (at most 1,050 W)"``."""
    most = quantity(max_power_w(channel), "W")
    return f"more than a {_noun(channel)} can draw (at most {most})"


def _noun(channel: Channel) -> str:
    kind = _KIND.search(channel.component)
    return "component" if kind is None or _is_sum(kind) else _NOUNS.get(kind[1], kind[1])


def with_gpu_bounds(channel: Channel, limit_w: float) -> Channel:
    """Return the channel of a GPU with this power limit, which a driver may not know: 0."""
    if limit_w < LEAST_LIMIT_W["gpu"]:
        return channel
    most_w = limit_w * GPU_LIMIT_MARGIN
    if most_w > DEVICE_W["gpu"]:
        return replace(channel, max_power_w=DEVICE_W["gpu"])
    return replace(channel, max_power_w=most_w, least_use_w=LEAST_GPU_SHARE * limit_w)


def with_thread_bound(channel: Channel, parts: int) -> Channel:
    """Return a channel that measures an x86 machine's processors, or one of several such parts.

    Other channels are returned as they are. Machines with several packages are servers, of which
    even an idle package draws more than its part of this bound.
    """
    if channel.component.partition(":")[0] not in WITH_PROCESSORS or not channel.gives_energy:
        return channel
    return replace(channel, least_use_w=LEAST_THREAD_W / parts)


def package_bound_w(rated_w: float) -> float:
    """Return the bound of a processor package with this thermal design power; 0 if unknown."""
    if rated_w < LEAST_LIMIT_W["cpu"]:
        return DEVICE_W["cpu"]
    return min(CPU_TDP_MARGIN * rated_w, DEVICE_W["cpu"])


def memory_bound_w(total_bytes: int) -> float:
    """Return the bound of a machine's memory."""
    return max(DRAM_MAX_BASE_W, DRAM_MAX_W_PER_GB * total_bytes / 1e9)
