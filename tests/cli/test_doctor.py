"""``joulelab doctor`` names sources of one component that contradict each other."""

import json

import pytest

from joulelab.cli import doctor
from joulelab.format import memory_size
from joulelab.machine import describe
from joulelab.sensors import discovery
from joulelab.sensors.estimates import (
    CpuEstimate,
    CpuModel,
    DramEstimate,
    PowerEstimate,
    dram_power,
)
from joulelab.sensors.sensor import (
    Channel,
    Discovery,
    Provenance,
    Quantity,
    Reading,
)

OWN_W = 400.0


class Clock:
    """Time that passes by sleeping."""

    def __init__(self, monkeypatch):
        self.now_s = 100.0
        monkeypatch.setattr(discovery, "time", self)

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


class Gpu:
    """A GPU that draws 400 W, with a counter that counts ``ratio`` times as much."""

    interval_s = 0.25

    def __init__(self, clock, ratio, counted):
        self.clock, self.ratio = clock, ratio
        self.channels = tuple(
            Channel(
                component=counted if quantity is Quantity.ENERGY else "gpu:0",
                quantity=quantity,
                source=source,
                provenance=Provenance.MEASURED,
                update_period_s=0.1,
                window_s=window_s,
                priority=priority,
                contains=("gpu:0",) if counted == "module:0" else (),
            )
            for priority, (quantity, source, window_s) in enumerate(
                [(Quantity.POWER, "ring", 0.1), (Quantity.ENERGY, "counter", 0.0)]
            )
        )

    def read(self):
        t_ns = round(self.clock.now_s * 1e9)
        return [
            Reading(t_ns, 0, OWN_W),
            Reading(t_ns, 1, self.ratio * OWN_W * self.clock.now_s),
        ]

    def close(self):
        pass


@pytest.mark.parametrize(
    ("ratio", "counted", "text"),
    [
        (1.6, "gpu:0", "counter counted 1.60 times what ring reports"),
        (0.5, "module:0", "reports less than gpu:0, which it contains"),
        (1.6, "module:0", None),
        (1.0, "gpu:0", None),
    ],
)
def test_doctor_names_a_contradiction(monkeypatch, printed, ratio, counted, text):
    sensor = Gpu(Clock(monkeypatch), ratio, counted)
    monkeypatch.setattr(doctor, "discover", lambda: Discovery((sensor,), ()))
    found = json.loads(printed("doctor", "--json"))
    notes = found["notes"]
    nesting = "around gpu:0, not added" if counted == "module:0" else ""
    assert [one["nesting"] for one in found["sensors"]] == ["", nesting]
    assert nesting in printed("doctor")
    if text is None:
        assert notes == []
        return
    [note] = notes
    assert text in note
    assert text.partition(",")[0] in printed("doctor")


def test_what_a_sensor_computes_when_read_is_new_as_often_as_it_is_read(monkeypatch, printed):
    """The kernel's tick of 10 ms is not how often processor time becomes a reading."""
    sensors = [CpuEstimate(CpuModel(1.0, 7.0, "")), DramEstimate(PowerEstimate(1.0, 3.0, ""))]
    monkeypatch.setattr(doctor, "discover", lambda: Discovery(sensors, []))
    rows = [line.split() for line in printed("doctor").splitlines() if "estimate." in line]
    assert [row[4:6] for row in rows if "estimated" in row] == [["500", "ms"], ["1.00", "s"]]


def test_memory_has_one_unit():
    machine = describe("")
    size = memory_size(machine.dram_bytes)
    assert size.endswith(" GiB")
    assert size in dram_power([], machine.dram_bytes).note
    if not machine.dimms:
        assert machine.hardware_configuration()["DRAM"].startswith(size)
