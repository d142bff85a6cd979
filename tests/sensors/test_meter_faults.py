"""Thirteen faults of whole-machine meters: a gap or a refusal with a reason, never a wrong energy.

In virtual time. The load changes every few seconds; a fault lasts from 50 s to 70 s of 120 s.
"""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.meters.entries import parse_entry
from joulelab.sensors.meters.polling import MeterSensor, channels_of
from joulelab.sensors.meters.replies import MeterError, number_at, parse_reply
from joulelab.sensors.sensor import Gap

START_S, STOP_S = 1000.0, 1120.0
FROM_S, UNTIL_S = 1050.0, 1070.0
SPANS = [(1010.0, 1045.0), (1045.0, 1075.0), (1080.0, 1115.0), (1010.0, 1115.0)]
ENTRY = parse_entry("desk", {"kind": "shelly", "address": "x", "resolution_j": 3.6})
RNG = np.random.default_rng(5)
EDGES_S = np.append(START_S - 10, START_S - 10 + np.cumsum(np.full(300, 0.5)))
POWER_W = np.repeat(RNG.choice([110.0, 180.0, 320.0], 30), 10) + RNG.normal(0, 8, 300)
ENERGY_J = np.append(0.0, np.cumsum(POWER_W * 0.5))


def energy_j(t_s):
    return float(np.interp(t_s, EDGES_S, ENERGY_J))


class Plug:
    """What reads a plug, with a fault; the time is the test's."""

    def __init__(self, clock, fault):
        self.clock, self.fault = clock, fault
        self.frozen = None

    def read(self):
        now_s = self.clock.now_s - 0.3
        power_w, counted_j = energy_j(now_s) - energy_j(now_s - 1.0), 7.2e6 + energy_j(now_s)
        reply = {"apower": round(power_w, 1), "total": round(counted_j / 3600, 3)}
        is_faulty = FROM_S <= self.clock.now_s < UNTIL_S
        self.frozen = reply if self.frozen is None or not is_faulty else self.frozen
        after = self.clock.now_s >= FROM_S
        if self.fault in ("counter reset", "wrap") and after:
            lost_j = 7.2e6 + energy_j(FROM_S) if self.fault == "counter reset" else 7.2e6 + 9000
            reply["total"] = round((counted_j - lost_j) / 3600, 3)
        data = json.dumps(reply).encode()
        if is_faulty and self.fault in FAULTS:
            data = FAULTS[self.fault](self, reply)
        found = parse_reply(data)
        return [number_at(found, "apower"), number_at(found, "total") * 3600]

    def abort(self):
        pass

    def close(self):
        pass


def fails(reason):
    def answer(*_):
        raise MeterError(reason)

    return answer


def changed(**by):
    return lambda plug, reply: json.dumps(
        reply | {key: change(reply[key]) for key, change in by.items()}
    ).encode()


FAULTS = {
    "vanish": fails("127.0.0.1 refuses the connection: is the address right?"),
    "permission": fails("401: wrong user or password"),
    "reset": fails("the connection closed without a reply"),
    "hang": fails("no answer within 5 s"),
    "no data": lambda *_: b'{"apower": null, "total": null}',
    "freeze": lambda plug, _: json.dumps(plug.frozen).encode(),
    "jump": changed(total=lambda wh: wh + 2e5),
    "text": lambda *_: b'{"apower": "NaN", "total": "NaN"}',
    "empty": lambda *_: b"",
    "huge": changed(apower=lambda w: 4e7, total=lambda wh: 1e290),
    "negative": changed(apower=lambda w: -w, total=lambda wh: -wh),
}
REASONS = {
    "vanish": "refuses the connection",
    "permission": "401",
    "reset": "closed without a reply",
    "hang": "no answer",
    "no data": "not a number",
    "freeze": "did not",
    "wrap": "was reset",
    "counter reset": "was reset",
    "jump": "jumped",
    "text": "not a number",
    "empty": "answered with nothing",
    "huge": "more than a",
    "negative": "negative",
}


class Clock:
    def __init__(self, monkeypatch):
        self.now_s = START_S
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "monotonic_ns", lambda: round(self.now_s * 1e9))


def record(clock, fault):
    """Ask a plug each second as its thread does."""
    sensor = MeterSensor(channels_of("desk", ENTRY), Plug(clock, fault), ENTRY)
    readings = []
    while clock.now_s < STOP_S:
        found, wait_s = sensor.ask()
        readings += found
        clock.now_s += max(1.007, min(wait_s or 0.0, 10.0))
    events = [
        {"event": "gap", "channel": one.channel, "t_ns": one.t_ns, "reason": one.reason}
        for one in readings
        if isinstance(one, Gap)
    ]
    trace = Trace.of(sensor.channels, readings)
    return replace(trace, header={"intervals_s": [1.0, 1.0]}, events=events)


@pytest.mark.parametrize("fault", ["none", *REASONS])
def test_no_fault_gives_a_wrong_energy(fault, monkeypatch):
    clock = Clock(monkeypatch)
    trace = record(clock, fault)
    spans = [Window(round(one * 1e9), round(other * 1e9)) for one, other in SPANS]
    energies = EnergyEstimator(trace).energies(spans)
    for (start_s, stop_s), energy in zip(SPANS, energies, strict=True):
        part = energy.components.get("plug:desk")
        if part is None:
            assert energy.absent["plug:desk"]
            continue
        truth_j = energy_j(stop_s) - energy_j(start_s)
        low_j, high_j = part.interval_j
        assert low_j <= truth_j <= high_j, (start_s, part.gross_j / truth_j)
    for clear in (0, 2):
        truth_j = energy_j(SPANS[clear][1]) - energy_j(SPANS[clear][0])
        part = energies[clear].components["plug:desk"]
        assert part.gross_j == pytest.approx(truth_j, rel=0.04)
        assert math.isclose(part.gap_s, 0.0, abs_tol=0.5)
    texts = [note for one in energies for note in (*one.notes, *one.absent.values())]
    if fault != "none":
        assert any(REASONS[fault] in one for one in texts), texts
