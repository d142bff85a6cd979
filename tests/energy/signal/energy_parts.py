"""Channels, energies and idle powers with usual values, and traces of simulated sources."""

import random
from dataclasses import replace

from joulelab.energy.baseline import IdlePoint
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Channel, Provenance, Quantity


def make_channel(component="gpu:0", quantity=Quantity.POWER, **given):
    """A channel that is read each 0.1 s."""
    usual = {"source": "test", "provenance": Provenance.SIMULATED, "update_period_s": 0.1}
    return Channel(component=component, quantity=quantity, **(usual | given))


def component_energy(component, gross_j, **given):
    """A component's energy over 10 s."""
    usual = {"source": "test", "provenance": Provenance.SIMULATED, "duration_s": 10.0}
    return ComponentEnergy(component=component, gross_j=gross_j, **(usual | given))


def energy_of(gross_j, duration_s=10.0, component="gpu:0", **given):
    """The energy of a machine with one component."""
    part = component_energy(component, gross_j, duration_s=duration_s, **given)
    return Energy(duration_s=duration_s, components={component: part})


def idle_point(power_w, uncertainty_w=0.0, source="test", **given):
    """Idle powers by component, with one uncertainty and one source, at the time 0."""
    return IdlePoint(
        power_w=power_w,
        uncertainty_w=dict.fromkeys(power_w, uncertainty_w),
        source=dict.fromkeys(power_w, source),
        **({"time_s": 0.0, "duration_s": 5.0} | given),
    )


def record_simulated(source, start_s, length_s, seed=0):
    """Record a simulated source with the jitter of an ordinary recorder."""
    rng = random.Random(seed)
    readings, last_s = [], start_s
    while last_s < start_s + length_s:
        now_s = last_s + source.interval_s * rng.uniform(1.0, 1.02)
        readings += source.readings(round(last_s * 1e9), round(now_s * 1e9))
        last_s = now_s
    trace = Trace.of([source.channel()], readings)
    return replace(trace, header={"intervals_s": [source.interval_s]})
