"""How much each component was used until any time of a recording, by all processes."""

from __future__ import annotations

import numpy as np

from joulelab.energy.signal import UsedUntil
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Quantity


def used_until(trace: Trace, component: str) -> UsedUntil | None:
    """Return the use of a GPU, or of the processors for everything else; ``None`` if unknown.

    A process that only has a context does not use a GPU: its utilisation counts.
    """
    is_gpu = component.startswith("gpu")
    wanted = (component, Quantity.UTILIZATION) if is_gpu else ("cpu", Quantity.USE)
    for channel, readings in zip(trace.channels, trace.series, strict=True):
        if (channel.component, channel.quantity) == wanted:
            seen = np.isfinite(readings.value)
            t_s = np.asarray(readings.t_ns[seen] * 1e-9, dtype=np.float64)
            used_s = readings.value[seen]
            if is_gpu:
                used_s = np.cumsum(used_s / 100 * np.diff(t_s, prepend=t_s[:1]))
            if t_s.size < 2:
                return None
            return lambda at_s: np.asarray(np.interp(at_s, t_s, used_s))
    return None
