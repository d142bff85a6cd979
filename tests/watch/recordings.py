"""Recordings of simulated machines as their recorder would have written them, at given times."""

from energy_parts import make_channel

from joulelab.recording.trace_format import TraceWriter, pack
from joulelab.sensors.sensor import Gap, Quantity, Reading
from joulelab.sensors.simulated import SimulatedSource, Waveform

BEGIN_S = 1000.0
BEGIN_UNIX_S = 1.8e9
NOTHING = {"component": "gpu", "source": "nvml", "reason": "no driver", "hint": "install it"}
GPU = SimulatedSource(
    component="gpu:0",
    waveform=Waveform.ramp(low_w=100, high_w=400, period_s=37.0),
    gain_uncertainty=0.05,
)
CPU = SimulatedSource(
    component="cpu:0",
    waveform=Waveform.constant(60.0),
    kind="counter",
    update_period_s=0.001,
    interval_s=0.1,
    gain_uncertainty=0.025,
)
HOST = (
    (Quantity.UTILIZATION, "host", 73.0),
    (Quantity.MEMORY_UTILIZATION, "host", 31.0),
    (Quantity.MEMORY_USED, "host", 20e9),
    (Quantity.UTILIZATION, "gpu:0", 98.0),
    (Quantity.TEMPERATURE, "gpu:0", 61.0),
    (Quantity.SM_CLOCK, "gpu:0", 1.755e9),
)


class Recording:
    """A recording that begins at :data:`BEGIN_S` and grows on request.

    Args:
        directory: Where it is written.
        sources: What is simulated.
        gauges: What else is read, as :data:`HOST`.
    """

    def __init__(self, directory, sources=(GPU, CPU), gauges=HOST, absent=(), **header):
        self.directory, self.sources, self.gauges = directory, sources, gauges
        channels = [source.channel() for source in sources]
        channels += [gauge_channel(quantity, component) for quantity, component, _ in gauges]
        self.until_s = BEGIN_S
        self.spans = 0
        directory.mkdir(parents=True, exist_ok=True)
        self.writer = TraceWriter(
            directory,
            {
                "channels": [channel.to_json() for channel in channels],
                "intervals_s": [channel.update_period_s for channel in channels],
                "absent": list(absent),
                "pid": 1,
                "boot_id": "",
                "start_ns": round(BEGIN_S * 1e9),
                "start_unix_s": BEGIN_UNIX_S,
                **header,
            },
        )

    def until(self, elapsed_s):
        """Goes on until so long after the beginning."""
        until_s = BEGIN_S + elapsed_s
        found = []
        while self.until_s < until_s:
            after_s, self.until_s = self.until_s, min(self.until_s + 0.25, until_s)
            found += self._between(round(after_s * 1e9), round(self.until_s * 1e9))
        self.writer.readings(
            pack(one.t_ns, float("nan") if isinstance(one, Gap) else one.value, one.channel)
            for one in sorted(found, key=lambda one: one.t_ns)
        )
        for one in found:
            if isinstance(one, Gap):
                self.writer.event(
                    event="gap", channel=one.channel, t_ns=one.t_ns, reason=one.reason
                )
        return self

    def _between(self, after_ns, until_ns):
        found = [
            one
            for i, source in enumerate(self.sources)
            for one in source.readings(after_ns, until_ns, i)
        ]
        for i, (_, _, value) in enumerate(self.gauges, len(self.sources)):
            found.append(Reading(until_ns, i, value))
        return found

    def span(self, name, start_s, stop_s=None, *, parent=None, pid=7, thread=7, **attributes):
        """A span at times since the beginning; open without a stop. Gives its index."""
        index, self.spans = self.spans, self.spans + 1
        edges = (BEGIN_S + start_s, None if stop_s is None else BEGIN_S + stop_s)
        times = [None if edge is None else round(edge * 1e9) for edge in edges]
        row = (index, parent, thread, name, attributes, *times)
        self.writer.event(event="spans", pid=pid, rows=[row])
        return index

    def stop(self, reason="asked to stop"):
        """Ends it."""
        self.writer.event(event="stop", t_ns=round(self.until_s * 1e9), reason=reason)
        self.writer.close()


def gauge_channel(quantity, component):
    return make_channel(component, quantity, update_period_s=0.5)
