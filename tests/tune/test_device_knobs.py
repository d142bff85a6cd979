"""Knobs of the devices that a job uses."""

import itertools
from dataclasses import dataclass

import pytest
from energy_parts import make_channel

from joulelab.errors import UserError
from joulelab.recording import device_clock
from joulelab.recording.launcher import Launch
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Provenance
from joulelab.tune import device_knobs
from joulelab.tune.device_knobs import device_knob, gpus_in_use


@dataclass
class Limit:
    found: float | None
    low: float = 100.0
    high: float = 300.0
    levels: tuple[float, ...] = ()
    name: str = "power_limit"

    def read(self):
        return self.found


def test_levels_are_round_and_not_above_what_is_set():
    knob = device_knob([Limit(250.0)])
    assert knob.levels == (100.0, 120.0, 140.0, 160.0, 180.0, 200.0, 220.0, 240.0, 250.0)
    assert (knob.baseline, knob.is_limit) == (250.0, True)


@pytest.mark.parametrize(
    ("low", "high", "count", "step"),
    [
        (100, 300, 11, 20),
        (200, 700, 11, 50),
        (100, 250, 9, 20),
        (300, 300, 1, None),
        (60, 72, 7, 2),
    ],
)
def test_the_number_of_levels_is_limited(low, high, count, step):
    levels = device_knob([Limit(float(high), low=float(low))]).levels
    assert len(levels) == count <= device_knobs.MOST_LEVELS
    assert levels[-1] == high
    if step is not None:
        assert {b - a for a, b in itertools.pairwise(levels[:-1])} == {step}


def test_several_devices_get_levels_that_all_allow():
    knob = device_knob([Limit(300.0), Limit(250.0, low=150.0)])
    assert knob.levels[0] >= 150
    assert knob.baseline == knob.levels[-1] == 250


def test_a_clock_that_the_driver_chooses_begins_at_the_highest_and_keeps_to_its_levels():
    allowed = tuple(float(clock) for clock in range(210, 1981, 15))
    clock = Limit(None, 210.0, 1980.0, allowed, "clock")
    knob = device_knob([clock])
    assert set(knob.levels) <= set(allowed)
    assert knob.baseline == 1980


@pytest.mark.parametrize("level", [50, 310, "full"])
def test_levels_that_cannot_be_set_or_exceed_what_is_set_are_user_errors(level):
    with pytest.raises(UserError, match=f"cannot be {level} W: it may be 100 W to 300 W"):
        device_knob([Limit(300.0)], [200, level])


UUIDS = {"gpu:0": ["GPU-aa-bb"], "gpu:1": ["GPU-cc-dd"]}


def trace(*events):
    channels = tuple(
        make_channel(name, source="nvml", provenance=Provenance.MEASURED)
        for name in (*UUIDS, "cpu:0")
    )
    return Trace(channels, (), header={"gpus": UUIDS}, events=events)


def test_a_program_without_pytorch_uses_all_gpus_that_are_recorded():
    assert gpus_in_use(trace()) == {"gpu:0", "gpu:1"}


def test_a_program_with_pytorch_uses_those_with_a_context(monkeypatch):
    monkeypatch.setattr(device_knobs, "gpus_with_context", lambda: ["ccdd"])
    assert gpus_in_use(trace()) == {"gpu:1"}


def test_the_processes_of_a_job_use_their_gpus_together(monkeypatch):
    monkeypatch.setattr(device_knobs, "gpus_with_context", lambda: ["aabb"])
    launch = {"launcher": "torchrun", "job": "1", "rank": 0}
    launches = [Launch(**(launch | {"rank": rank})) for rank in (0, 1)]
    joined = [
        {"event": "joined", "t_ns": 1, "pid": pid, "launch": launch, "gpus": [*UUIDS]}
        for pid, launch in enumerate(launches, 10)
    ]
    used = [
        {"event": "cuda", "pid": 10 + index, "gpus": [(0, uuid)]}
        for index, uuid in enumerate(("aa-bb", "cc-dd"))
    ]
    assert gpus_in_use(trace(*joined, *used[:1])) == {"gpu:0", "gpu:1"}
    assert gpus_in_use(trace(*joined, *used)) == {"gpu:0", "gpu:1"}
    assert gpus_in_use(trace(joined[0], used[0])) == {"gpu:0"}


def test_contexts_are_unknown_before_cuda_is_started():
    assert device_clock.gpus_with_context() == []
