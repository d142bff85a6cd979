"""``joulelab doctor`` names sources of one component that contradict each other."""

import json

import pytest
from click.testing import CliRunner

from joulelab.cli import doctor
from joulelab.sensors import discovery
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

    def __init__(self, clock, ratio, scope):
        self.clock, self.ratio = clock, ratio
        self.channels = tuple(
            Channel(
                component="gpu:0",
                quantity=quantity,
                source=source,
                provenance=Provenance.MEASURED,
                update_period_s=0.1,
                window_s=window_s,
                priority=priority,
                scope=scope if quantity is Quantity.ENERGY else "",
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
    ("ratio", "scope", "text"),
    [(1.6, "", "superchip"), (1.6, "module", "the whole module's"), (1.0, "", None)],
)
def test_doctor_names_a_contradiction(monkeypatch, ratio, scope, text):
    sensor = Gpu(Clock(monkeypatch), ratio, scope)
    monkeypatch.setattr(doctor, "discover", lambda: Discovery((sensor,), ()))
    notes = json.loads(CliRunner().invoke(doctor.command, ["--json"]).stdout)["notes"]
    if text is None:
        assert notes == []
        return
    [note] = notes
    assert "gpu:0: counter counted 1.60 times what ring reports" in note
    assert text in note
    assert "1.60 times" in CliRunner().invoke(doctor.command).stdout
