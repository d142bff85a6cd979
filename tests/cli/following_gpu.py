"""A sensor of a GPU that reads 5 % low and 4 W high, for a load that a fake meter has, too."""

import os
import time

from fake_meters import square

from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading

START = "FOLLOWED_START_S"
WAVE = (90.0, 300.0, 2.0)


class FollowingGpu:
    """Power of a square wave since a time in the environment."""

    interval_s = 0.05
    channels = (
        Channel(
            component="gpu:0",
            quantity=Quantity.POWER,
            source="nvml.power_instant",
            provenance=Provenance.MEASURED,
            update_period_s=0.05,
        ),
    )

    def read(self):
        t_ns = time.monotonic_ns()
        true_w = square(*WAVE)[0](t_ns * 1e-9 - float(os.environ[START]))
        return [Reading(t_ns, 0, 0.95 * true_w + 4.0)]

    def close(self):
        pass
