"""The kinds of boards whose intervals are tested, with the channels of their sensors."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.boards import Kind, Power, Source
from joulelab.energy.signal import AVERAGE_S
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import read_logs
from joulelab.recording.trace import Trace
from joulelab.sensors import estimates, rapl
from joulelab.sensors.nvml_accuracy import (
    GAIN_UNCERTAINTY,
    INSTANT_WINDOW_S,
    LATEST_S,
    RING_PERIOD_S,
)
from joulelab.sensors.nvml_channels import ring_channel
from joulelab.sensors.plausibility import RACK_W
from joulelab.sensors.sensor import Channel, Provenance, Quantity

UPDATE_S = 0.1
"""Update period of an H100's counter and power fields."""
READ_S, SLOW_S, COSTLY_S = 0.5, 1.0, 0.8
"""Intervals at which the ring, a counter next to it, and a counter of 4 ms a call are read."""
OTHER_READ_S, OTHER_WINDOW_S = 0.3, 0.5
"""Assumed values for boards that were not tested."""
NOISE_W = 3.0
RING = 120
JITTER_S = 0.005
SMALL_WRAP_J = 2000.0
"""A small range, so that every recording has wraps."""
MEMORY_BYTES = 64 * 10**9
LOG_BEGIN = datetime(2026, 1, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Logged(Kind):
    """A board logged by ``nvidia-smi``, read back from the log."""

    column: str = "power.draw"  # The field.

    def record(
        self,
        power: Power,
        start_s: float,
        stop_s: float,
        rng: np.random.Generator,
        deviates: tuple[float, float] | None = None,
    ) -> Trace:
        """Return the trace read from the log; its times begin with the log's first second."""
        t_ns, value = super().record(power, start_s, stop_s, rng, deviates).series[0]
        lines = [f"timestamp, {self.column} [W]"]
        for t_s, power_w in zip((t_ns * 1e-9).tolist(), value.tolist(), strict=True):
            stamp = (LOG_BEGIN + timedelta(seconds=t_s)).strftime("%Y/%m/%d %H:%M:%S.%f")[:-3]
            lines.append(f"{stamp}, {power_w:.2f} W")
        uncertainty = self.sources[0].channel.gain_uncertainty
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "smi.csv"
            path.write_text("\n".join([*lines, ""]))
            options = LogOptions(timezone="UTC", gain_uncertainty=uncertainty)
            return read_logs([path], options).trace


def ring(
    jitter_s: float = JITTER_S, noise_w: float = NOISE_W, gain_uncertainty: float = 0.0
) -> Source:
    """Describe the ring of an H100 from the timestamps of one ring."""
    deviates = np.random.default_rng(1).standard_normal(RING)
    stamps_us = 1e6 * (np.arange(RING) * RING_PERIOD_S + jitter_s * deviates)
    channel = ring_channel(
        "gpu:0", sorted(np.rint(stamps_us).astype(int).tolist()), gain_uncertainty
    )
    return Source(
        channel=channel,
        interval_s=READ_S,
        noise_w=noise_w,
        jitter_s=jitter_s,
        late_s=(0.0, LATEST_S),
    )


def kinds() -> list[Kind]:
    """Return every kind of sensor."""
    rough = ring(gain_uncertainty=GAIN_UNCERTAINTY)
    counter = _counter("gpu:0", UPDATE_S, GAIN_UNCERTAINTY)
    slow_counter = replace(counter, interval_s=SLOW_S)
    instant, average = _power(INSTANT_WINDOW_S), _power(AVERAGE_S)
    seconds = [replace(one, interval_s=1.0) for one in (instant, average)]
    return [
        Kind("ring, ideal", (ring(0.0, 0.0, GAIN_UNCERTAINTY),)),
        Kind("ring, rough", (rough,)),
        Kind("ring, rough, and counter", (rough, slow_counter)),
        Kind("counter, 100 ms", (counter,)),
        Kind("counter, read each 0.8 s", (replace(counter, interval_s=COSTLY_S),)),
        Kind("counter, read each 0.3 s", (replace(counter, interval_s=OTHER_READ_S),)),
        Kind("instant, 25 of 100 ms", (instant,)),
        Kind("average over 1 s", (average,)),
        Kind("average over 0.5 s", (_power(OTHER_WINDOW_S),)),
        Kind("RAPL package, with wraps", (_rapl("cpu:0", rapl.GAIN_UNCERTAINTY),)),
        Kind("RAPL DRAM, with wraps", (_rapl("dram:0", rapl.MODELLED_GAIN_UNCERTAINTY),)),
        Kind("CPU estimate", (_cpu_estimate(),)),
        Kind("DRAM estimate", (_dram_estimate(),)),
        Logged("nvidia-smi, instant, 0.1 s", (instant,), column="power.draw.instant"),
        Logged("nvidia-smi, instant, 1 s", (seconds[0],), column="power.draw.instant"),
        Logged("nvidia-smi, average, 0.1 s", (average,), column="power.draw.average"),
        Logged("nvidia-smi, average, 1 s", (seconds[1],), column="power.draw.average"),
        Logged("nvidia-smi, power.draw, 0.1 s", (average,), column="power.draw"),
    ]


def _counter(component: str, period_s: float, gain_uncertainty: float) -> Source:
    channel = Channel(
        component=component,
        quantity=Quantity.ENERGY,
        source="counter",
        provenance=Provenance.SIMULATED,
        update_period_s=period_s,
        polled=True,
        resolution=1e-3,
        gain_uncertainty=gain_uncertainty,
        priority=1,
    )
    return Source(channel=channel, interval_s=UPDATE_S)


def _power(window_s: float) -> Source:
    channel = Channel(
        component="gpu:0",
        quantity=Quantity.POWER,
        source="power",
        provenance=Provenance.SIMULATED,
        update_period_s=UPDATE_S,
        window_s=window_s,
        polled=True,
        resolution=1e-3,
        gain_uncertainty=GAIN_UNCERTAINTY,
    )
    return Source(channel=channel, interval_s=UPDATE_S, noise_w=NOISE_W)


def _rapl(component: str, gain_uncertainty: float) -> Source:
    one = _counter(component, rapl.UPDATE_PERIOD_S, gain_uncertainty)
    channel = replace(one.channel, resolution=rapl.RESOLUTION_J, wrap=SMALL_WRAP_J)
    return Source(channel=channel, interval_s=rapl.READ_INTERVAL_S)


def _cpu_estimate() -> Source:
    one = _counter("cpu:0", estimates.CPU_TICK_S, estimates.CPU_GAIN_UNCERTAINTY)
    return replace(one, interval_s=estimates.CPU_INTERVAL_S)


def _dram_estimate() -> Source:
    """The estimate is not polled: it is the same power at all times."""
    uncertainty = estimates.dram_power([], MEMORY_BYTES).relative_uncertainty
    one = _counter("dram:0", estimates.CLOCK_PERIOD_S, uncertainty)
    # The waveforms are above what memory draws, and the drawn gains have no bound.
    channel = replace(one.channel, polled=False, resolution=0.0, max_power_w=RACK_W)
    return Source(channel=channel, interval_s=estimates.DRAM_INTERVAL_S)
