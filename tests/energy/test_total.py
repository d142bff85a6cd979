"""Spans added up as columns are what their energies come to one by one."""

import random

import pytest

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import total
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading

SECOND = 10**9


def channel(component, quantity, source, **known):
    return Channel(
        component=component,
        quantity=quantity,
        source=source,
        provenance=Provenance.MEASURED,
        update_period_s=0.1,
        **known,
    )


def recording():
    """A GPU, a processor that others use, too, and memory whose sensor is lost for a while."""
    rng = random.Random(1)
    channels = [
        channel("gpu:0", Quantity.POWER, "nvml.samples", window_s=0.1, gain_uncertainty=0.05),
        channel("cpu:0", Quantity.ENERGY, "rapl", offset_uncertainty_w=1.0),
        channel("dram:0", Quantity.POWER, "estimate", window_s=0.1),
        channel("cpu", Quantity.USE, "proc.cpu_time"),
        channel("cpu", Quantity.JOB_USE, "proc.cpu_time"),
    ]
    readings = []
    energy_j = use_s = job_s = 0.0
    for i in range(400):
        t_ns = i * SECOND // 10
        energy_j += rng.uniform(1, 9)
        use_s, job_s = use_s + 0.2, job_s + (0.2 if i < 200 else rng.uniform(0.05, 0.15))
        readings += [Reading(t_ns, 0, rng.uniform(100, 400)), Reading(t_ns, 1, energy_j)]
        lost = 300 <= i < 330
        readings.append(Gap(t_ns, 2, "lost") if lost else Reading(t_ns, 2, 6.0))
        readings += [Reading(t_ns, 3, use_s), Reading(t_ns, 4, job_s)]
    return Trace.of(channels, readings)


IDLE = [
    IdlePoint(
        time_s=time_s,
        duration_s=5.0,
        power_w={"gpu:0": gpu_w, "cpu:0": 20.0, "dram:0": 5.0},
        uncertainty_w={"gpu:0": 0.5, "cpu:0": 0.2, "dram:0": 0.0},
        source={"gpu:0": "nvml.samples", "cpu:0": "rapl", "dram:0": "estimate"},
    )
    for time_s, gpu_w in ((0.0, 119.0), (40.0, 128.0))
]


@pytest.mark.parametrize("baseline", [None, Baseline(tuple(IDLE))])
@pytest.mark.parametrize(("first_s", "last_s"), [(1, 19), (1, 29), (21, 29), (29, 34)])
def test_a_total_is_the_sum_of_its_spans(baseline, first_s, last_s):
    rng = random.Random(2)
    accounts = EnergyEstimator(recording(), baseline)
    windows = []
    for _ in range(30):
        start_ns = round(rng.uniform(first_s, last_s) * SECOND)
        stop_ns = min(start_ns + round(rng.uniform(0, 1) * SECOND), last_s * SECOND)
        device = (start_ns + 1000, stop_ns + 5000, 1000) if rng.random() < 0.5 else ()
        windows.append(Window(start_ns, stop_ns, *device))
    expected, found = total(accounts.energies(windows)), accounts.total(windows)
    assert found.components.keys() == expected.components.keys()
    assert ("dram:0" in found.components) == (last_s < 30)
    assert found.duration_s == pytest.approx(expected.duration_s)
    assert sorted(found.notes) == sorted(expected.notes)
    assert found.absent.keys() == expected.absent.keys()
    for name, part in expected.components.items():
        theirs = found.components[name]
        for field in part.__dataclass_fields__:
            value, other = getattr(part, field), getattr(theirs, field)
            if field == "share" and value is not None:
                for end in ("fraction", "low", "high"):
                    assert getattr(other, end) == pytest.approx(getattr(value, end)), end
            elif isinstance(value, float):
                assert other == pytest.approx(value, nan_ok=True), field
            else:
                assert other == value, field
