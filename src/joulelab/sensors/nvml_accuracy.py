"""Accuracy and timing of NVIDIA's power sensors. Imports no driver, so that logs can use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import pstdev

GAIN_UNCERTAINTY = 0.065
"""k = 1. NVIDIA states ±5 % (NVML API reference, nvmlDeviceGetPowerUsage), but against external
meters boards commonly read -1 to -6 % and up to -11 % (Yang, Adámek, Armour, "Part-time power
measurements: nvidia-smi's lack of attention", SC24). Truth is 12.4 % above a reading that is 11 %
low, the edge of the 95 % interval: 12.4 % / 1.96. Boards that read high exist too, so no mean
correction is made; ``joulelab calibrate`` makes one for a board."""

USUAL_PERIOD_S = 0.1
"""Most boards since Turing update power and the energy counter this often (Yang et al.). Older
boards, which update power every 20 ms, are recognised by their readings."""
COUNTER_TIME_UNCERTAINTY_S = 0.015
"""Besides the age of a polled value: next to the ring's readings, the updates of an H100's counter
showed the energy of 0 to 25 ms before, and those of an H200's that of 20 to 40 ms before. With
this, intervals from the H100's counter alone, polled each 0.1 to 2 s, hold the ring's energy of
95 % of spans of 0.5 to 4 s; without it, of 92 to 95 %."""
INSTANT_WINDOW_S = 0.025
"""Averaging window of an H100's instant power (driver 580); a guess for other boards."""

RING_PERIOD_S = 0.02
"""Usual distance between two readings in the driver's ring of power readings."""
HOLE_PERIODS = 2.5
"""Timestamps jitter by more than a period (8 to 45 ms around 20 ms on an H100), so a wait of up to
this many periods is not a hole."""
LATEST_S = 0.005
"""Against a known on/off load, an H100's timestamps lay 0 to 5 ms after the end of their window."""
EXACT_S = 0.001
"""A driver whose timestamps stay this close (standard deviation) to a regular grid is assumed to
write them when a window ends; one whose timestamps jitter, 0 to :data:`LATEST_S` later."""


def timestamp_latency(steps_s: Sequence[float], period_s: float) -> tuple[float, float]:
    """Estimate from their jitter how late the ring's timestamps are.

    The latency lies between 0 and :data:`LATEST_S`. Its uncertainty is the root mean square
    distance from the estimate.

    Args:
        steps_s: Distances between consecutive timestamps.
        period_s: Update period of the readings.

    Returns:
        The latency and its standard uncertainty (k = 1), in seconds.

    Example:
        >>> delay_s, uncertainty_s = timestamp_latency([0.015, 0.025] * 60, 0.02)
        >>> delay_s, round(uncertainty_s, 4)
        (0.0025, 0.0014)
    """
    steps_s = [step_s for step_s in steps_s if step_s < HOLE_PERIODS * period_s]
    # The distance of two timestamps that jitter independently varies twice as much as one.
    jitter_s = pstdev(steps_s, period_s) / math.sqrt(2) if steps_s else 0.0
    delay_s = LATEST_S / 2 if jitter_s > EXACT_S else 0.0
    return delay_s, math.hypot(LATEST_S / math.sqrt(12), LATEST_S / 2 - delay_s)
