"""How often GPUs are read, so that the calls of all of them use a small part of a core.

On an H100 a call for the counter takes 4 ms of the processor, and one for the ring 0.6 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from joulelab.sensors.nvml_channels import Scalar
from joulelab.sensors.sensor import Quantity

READ_INTERVAL_S = 0.5
LONGEST_READ_INTERVAL_S = 1.8
"""The ring covers 2.4 s: no reading is lost if the recorder is somewhat late."""
LONGEST_COUNTER_INTERVAL_S = 20.0
"""Of a counter that only determines the scale of a ring's power."""
LONGEST_ONLY_COUNTER_INTERVAL_S = 8.0
"""Of a counter without a ring. It is also read when a program asks for energy."""
LONGEST_TELEMETRY_INTERVAL_S = 5.0
RINGS_CPU_SHARE = 0.0015
CALLS_CPU_SHARE = 0.004
"""Share of a core for the rings, and for rings and counters together, if calls for them can be rare
enough."""
TELEMETRY_CPU_SHARE = 0.0005


def paced(
    ring_s: float, calls: Sequence[tuple[Scalar, float]], gpus: int
) -> tuple[float, list[Scalar]]:
    """Choose how often a GPU is read. Power that is polled is never read less often.

    Args:
        ring_s: Processor time of a call for the ring; 0 if there is none.
        calls: The other channels, with the processor time of a call.
        gpus: Number of GPUs that share the processor time.

    Returns:
        The interval of the GPU, s, and the channels with theirs.
    """
    read_s = min(max(gpus * ring_s / RINGS_CPU_SHARE, READ_INTERVAL_S), LONGEST_READ_INTERVAL_S)
    left = max(CALLS_CPU_SHARE - gpus * ring_s / read_s, CALLS_CPU_SHARE / 4)
    least_s, longest_counter_s = read_s, LONGEST_COUNTER_INTERVAL_S
    if not ring_s:
        least_s, longest_counter_s = 0.0, LONGEST_ONLY_COUNTER_INTERVAL_S
    telemetry_s = math.fsum(call_s for one, call_s in calls if not one.channel.gives_energy)
    scalars = []
    for scalar, call_s in calls:
        wanted_s, longest_s = 0.0, longest_counter_s
        if scalar.channel.quantity is Quantity.ENERGY:
            wanted_s = gpus * call_s / left
        elif not scalar.channel.gives_energy:
            wanted_s = gpus * telemetry_s / TELEMETRY_CPU_SHARE
            longest_s = LONGEST_TELEMETRY_INTERVAL_S
        interval_s = max(min(wanted_s, longest_s), scalar.interval_s, least_s)
        scalars.append(replace(scalar, interval_s=interval_s))
    fastest_s = min((one.interval_s for one in scalars), default=READ_INTERVAL_S)
    return least_s or fastest_s, scalars
