"""Profiles from spans, on readings of a known power and on a live meter."""

import numpy as np
import pytest
from energy_parts import component_energy

from joulelab import Meter
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.forecast.sources import profile_of, profile_of_trace
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_spans import TraceSpan
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

POWER_W = 200.0


def energies(windows):
    """Return constant power over every window, on the clock of the GPU if it has one."""
    made = []
    for window in windows:
        start_s, stop_s = window.of("gpu:0")
        part = component_energy("gpu:0", POWER_W * (stop_s - start_s), duration_s=stop_s - start_s)
        duration_s = (window.stop_ns - window.start_ns) * 1e-9
        made.append(Energy(duration_s=duration_s, components={"gpu:0": part}))
    return made


class Script:
    """Makes spans one after another, in seconds."""

    def __init__(self):
        self.now_s, self.spans, self.open = 0.0, [], []

    def add(self, name, length_s, **further):
        begun = self.begin(name, **further)
        self.now_s += length_s
        self.end(begun)

    def begin(self, name, **further):
        parent = self.open[-1] if self.open else None
        key = (1, len(self.spans))
        self.spans.append([name, self.now_s, None, key, parent, further])
        self.open.append(key)
        return key

    def end(self, key):
        self.spans[key[1]][2] = self.now_s
        self.open.remove(key)

    def read_spans(self):
        return [
            TraceSpan(
                name=name,
                start_ns=round(start_s * 1e9),
                stop_ns=None if stop_s is None else round(stop_s * 1e9),
                key=key,
                parent=parent,
                **further,
            )
            for name, start_s, stop_s, key, parent, further in self.spans
        ]


def test_attempts_that_were_repeated_are_ignored():
    script = Script()
    fit = script.begin("fit")
    for length_s, epochs in ((3.0, 2), (2.0, 1), (5.0, 4)):
        attempt = script.begin("attempt")
        for _ in range(epochs):
            script.add("epoch", length_s)
        script.end(attempt)
    script.end(fit)
    profile = profile_of(script.read_spans(), energies)
    assert profile.epochs_seen == 4
    assert profile.forecast(100).gross_j == pytest.approx(100 * 5.0 * POWER_W)


def test_nested_spans_are_not_counted_twice():
    script = Script()
    script.add("idle", 100.0)
    whole = script.begin("training")
    script.add("compile", 30.0)
    for i in range(6):
        epoch = script.begin("epoch")
        for _ in range(4):
            step = script.begin("step")
            script.add("forward", 1.0)
            script.add("backward", 1.5)
            script.end(step)
        if i % 2:
            script.add("validate", 2.0)
        script.end(epoch)
        checkpoint = script.begin("checkpoint")
        script.add("write", 0.5)
        script.end(checkpoint)
    script.end(whole)
    profile = profile_of(script.read_spans(), energies)
    forecast = profile.forecast(100)
    counts = {phase.phase: phase.count for phase in forecast.phases}
    assert counts == {"epoch": 100, "validate": 50, "checkpoint": 100}
    expected_s = 30 + 100 * 10 + 50 * 2 + 100 * 0.5
    assert forecast.duration_s == pytest.approx(expected_s, rel=1e-3)
    assert forecast.gross_j == pytest.approx(POWER_W * expected_s, rel=1e-3)


def test_steps_of_an_open_epoch_make_a_profile():
    script = Script()
    script.begin("epoch")
    script.add("step", 9.0)
    for i in range(199):
        script.add("step", 0.1 + 0.001 * (i % 2))
        script.now_s += 0.02  # Waiting for data is part of the run.
    profile = profile_of(script.read_spans(), energies, steps_per_epoch=2000)
    assert profile.epochs_seen == pytest.approx(199 / 2000)  # What follows the last step is open.
    forecast = profile.forecast(30)
    expected_s = 9 + 30 * 2000 * 0.1205
    assert forecast.duration_s == pytest.approx(expected_s, rel=0.005)
    assert forecast.startup >= 1
    assert forecast.duration_low_s < expected_s < forecast.duration_high_s


def test_the_number_of_steps_is_not_guessed():
    script = Script()
    script.begin("epoch")
    script.add("step", 1.0)
    with pytest.raises(UserError, match="steps per epoch"):
        profile_of(script.read_spans(), energies)
    epoch = script.open[0]
    script.end(epoch)
    assert profile_of(script.read_spans(), energies).forecast(10).duration_s == pytest.approx(10)


@pytest.mark.parametrize("steps", [1, 7, 63, 97, 1563])
def test_sections_leave_no_time_out(steps):
    rng = np.random.default_rng(steps)
    script = Script()
    for _ in range(2):
        epoch = script.begin("epoch")
        script.now_s += 0.5
        for _ in range(steps):
            script.add("step", rng.uniform(0.09, 0.11))
            script.now_s += 0.01
        script.now_s += 0.3
        script.end(epoch)
    profile = profile_of(script.read_spans(), energies)
    assert profile.epochs_seen == pytest.approx(2)
    assert sum(row.duration_s for row in profile.rows) == pytest.approx(script.now_s)
    assert len(profile.rows) <= 130


def test_a_gpu_is_measured_on_its_own_clock():
    script = Script()
    for i in range(3):
        script.add("epoch", 1.0, device_start_ns=i * 4 * 10**9, device_stop_ns=(i + 1) * 4 * 10**9)
    row = profile_of(script.read_spans(), energies).rows[0]
    assert row.gross_j == pytest.approx(4 * POWER_W)
    assert row.duration_s == pytest.approx(1.0)


def test_the_phase_of_the_first_epoch_is_the_default():
    script = Script()
    for _ in range(3):
        script.add("epoch", 10.0, attributes={"phase": "train"})
        script.add("validate", 1.0, attributes={"phase": "train"})
    for _ in range(3):
        script.add("epoch", 2.0, attributes={"phase": "infer"})
    spans = script.read_spans()
    assert profile_of(spans, energies).forecast(10).duration_s == pytest.approx(110, rel=1e-3)
    infer = profile_of(spans, energies, phase="infer").forecast(10)
    assert infer.duration_s == pytest.approx(20, rel=1e-3)


def test_a_run_without_epochs_is_refused():
    script = Script()
    script.add("step", 1.0)
    with pytest.raises(UserError, match="no epoch was measured"):
        profile_of(script.read_spans(), energies)


def test_a_live_meter_and_its_directory_agree(tmp_path):
    steady = SimulatedSource(component="gpu:0", waveform=Waveform.constant(POWER_W))
    with Meter(sensors=SimulatedMachine((steady,)), directory=tmp_path) as meter:
        for i in range(4):
            with meter.span("epoch", index=i):
                sum(range(500_000))
        live = meter.forecast(20)
    after = profile_of_trace(read_trace(tmp_path)).forecast(20)
    assert after.duration_s == live.duration_s
    assert after.gross_j == pytest.approx(live.gross_j, rel=0.01)
    assert meter.forecast(20).gross_j == pytest.approx(after.gross_j)


def test_a_meter_without_epochs_is_refused():
    with (
        Meter(sensors=SimulatedMachine.default()) as meter,
        pytest.raises(UserError, match="no epoch"),
    ):
        meter.forecast(10)
