"""What a component can draw at most. A source that reports more is not believed.

A wrong unit, a counter that leaps, or a glitch of a driver gives a number like any other. Each
channel therefore has a bound for its mean power over seconds: :attr:`Channel.max_power_w` where the
hardware states a limit, and otherwise that of its kind of component. The bounds leave a margin for
what limits do not cover. They are the only ones, for every sensor and log.
"""

from __future__ import annotations

import re

from joulelab.format import quantity
from joulelab.sensors.sensor import Channel, Provenance

GPU_LIMIT_MARGIN = 1.5
"""A board's power over seconds follows its power limit. Excursions of up to 3 times are allowed for
0.1 ms, and power supplies need to bear 1.2 times for 0.1 s (PCI Express CEM 5.0; Intel, ATX version
3.0 design guide). Boards read up to 11 % wrong (:mod:`joulelab.sensors.nvml_accuracy`)."""
CPU_TDP_MARGIN = 5.0
"""Packages draw more than their thermal design power while their turbo limits allow: up to 3.7
times on laptops (Intel Core i7-1255U: 15 W base, 55 W maximum turbo power), 3 times on desktops
whose limits are unlocked."""
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


def implausible(channel: Channel, power_w: float) -> str:
    """Explain why a mean power over seconds is not believed."""
    text = f"{channel.source} reports {quantity(power_w, 'W')}, "
    if power_w < 0:
        return f"{text}and nothing draws negative power: its sign is probably wrong"
    return f"{text}{more_than_possible(channel)}: its unit is probably wrong"


def more_than_possible(channel: Channel) -> str:
    """Return ``"more than a GPU can draw (at most 1,050 W)"``."""
    kind = _KIND.search(channel.component)
    noun = "component" if kind is None or _is_sum(kind) else _NOUNS.get(kind[1], kind[1])
    return f"more than a {noun} can draw (at most {quantity(max_power_w(channel), 'W')})"


def gpu_bound_w(limit_w: float | None) -> float | None:
    """Return the bound of a GPU with this power limit, which a driver may not know, either."""
    return min(limit_w * GPU_LIMIT_MARGIN, DEVICE_W["gpu"]) if limit_w else None


def package_bound_w(rated_w: float | None) -> float:
    """Return the bound of a processor package with this thermal design power."""
    return min(CPU_TDP_MARGIN * rated_w if rated_w else DEVICE_W["cpu"], DEVICE_W["cpu"])


def memory_bound_w(total_bytes: int) -> float:
    """Return the bound of a machine's memory."""
    return max(DRAM_MAX_BASE_W, DRAM_MAX_W_PER_GB * total_bytes / 1e9)
