"""The meter as a user holds it, on the simulated machine, with a real recorder process."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import joulelab
from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.errors import UserError
from joulelab.recording.trace import read_trace
from joulelab.sensors.sensor import Provenance, Quantity
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

MACHINE = SimulatedMachine(
    tuple(replace(source, gain=1.0) for source in SimulatedMachine.default().sources)
)


def busy(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def truth(span, component=None):
    return MACHINE.energy_j(span.start_ns * 1e-9, span.stop_ns * 1e-9, component)


def eventually(condition, timeout_s=20.0):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition never came true"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_kept_baseline(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))


@pytest.fixture
def meter(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path / "run") as meter:
        yield meter


def test_a_span_is_worth_its_true_joules(meter):
    with meter.span("work") as span:
        busy(1.0)
    energy = span.energy
    assert set(energy.components) == {"gpu:0", "cpu:0", "dram:0"}
    for component, part in energy.components.items():
        assert part.gross_j == pytest.approx(truth(span, component), rel=0.01)
        low, high = part.interval_j
        assert low < truth(span, component) < high
    assert energy.provenance is Provenance.SIMULATED
    assert energy.duration_s == pytest.approx((span.stop_ns - span.start_ns) * 1e-9)


def test_spans_nest_carry_attributes_and_add_up(meter):
    with meter.span("fit", model="tiny") as fit:
        for index in range(3):
            with meter.span("epoch", index=index) as epoch:
                busy(0.2)
            assert epoch.parent == fit.index
    assert fit.parent is None
    epochs = meter.energy("epoch")
    assert epochs.gross_j == pytest.approx(
        sum(s.energy.gross_j for s in meter.spans_named("epoch"))
    )
    assert meter.energy("epoch", index=1).gross_j == pytest.approx(
        meter.spans_named("epoch", index=1)[0].energy.gross_j
    )
    assert epochs.gross_j <= fit.energy.gross_j


def test_an_attribute_may_have_any_name(meter):
    with meter.span("load", name="digits", self=1) as span:
        pass
    assert span.attributes == {"name": "digits", "self": 1}
    assert meter.spans_named("load", name="digits") == [span]
    assert meter.energy("load", name="digits").duration_s == span.energy.duration_s


def test_an_unknown_name_is_told_with_the_known_ones(meter):
    with meter.span("epoch"):
        pass
    with pytest.raises(ValueError, match="known: epoch"):
        meter.energy("epok")


def test_an_open_span_has_no_energy_yet_and_a_closed_one_cannot_be_closed_again(meter):
    span = meter.begin("open")
    with pytest.raises(ValueError, match="still open"):
        _ = span.energy
    meter.end(span)
    with pytest.raises(ValueError, match="already ended"):
        meter.end(span)


def test_a_span_begins_once(meter):
    span = meter.span("work")
    with pytest.raises(ValueError, match="has not begun"):
        meter.end(span)
    with span:
        pass
    with pytest.raises(ValueError, match="began already"), span:
        pass


def test_a_span_ends_when_its_block_raises(meter):
    with pytest.raises(ZeroDivisionError), meter.span("fails"):
        _ = 1 / 0
    assert meter.spans_named("fails")


def test_the_trace_holds_every_span(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        for index in range(3000):
            with meter.span("step", index=index, text='with "quotes"\n'):
                pass
    trace = read_trace(tmp_path)
    assert [span.attributes["index"] for span in trace.spans] == list(range(3000))
    assert [span.start_ns for span in trace.spans] == [span.start_ns for span in meter.spans]
    assert [span.stop_ns for span in trace.spans] == [span.stop_ns for span in meter.spans]
    assert trace.events[-1]["event"] == "stop"


def test_attributes_too_long_for_the_trace_stay_on_the_span(tmp_path):
    with (
        joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter,
        meter.span("long", text="x" * 10000) as span,
    ):
        pass
    assert len(span.attributes["text"]) == 10000
    [recorded] = read_trace(tmp_path).spans
    assert recorded.attributes == {"attributes_omitted": True}


def test_energies_can_be_asked_for_after_the_end():
    with joulelab.Meter(sensors=MACHINE) as meter, meter.span("work") as span:
        busy(0.3)
    assert span.energy.gross_j == pytest.approx(truth(span), rel=0.02)
    assert not meter.directory.exists()
    assert meter.alive
    assert meter.failure == ""


def test_measure_is_one_line():
    with joulelab.measure("block", sensors=MACHINE) as span:
        busy(0.3)
    assert span.energy.gross_j == pytest.approx(truth(span), rel=0.02)


def test_net_is_gross_less_idle_over_the_spans_own_length():
    steady = SimulatedMachine(
        (SimulatedSource(component="gpu:0", waveform=Waveform.constant(150.0)),)
    )
    idle = IdlePoint(
        time_s=0.0,
        duration_s=5.0,
        power_w={"gpu:0": 100.0},
        uncertainty_w={"gpu:0": 0.0},
        source={"gpu:0": "simulated.samples"},
    )
    with joulelab.Meter(sensors=steady, baseline=Baseline((idle,))) as meter:
        with meter.span("work") as span:
            busy(0.4)
        energy = span.energy
    assert energy.net_j == pytest.approx(50.0 * energy.duration_s, rel=1e-3)
    assert energy.idle_j == pytest.approx(100.0 * energy.duration_s, rel=1e-6)


def test_idle_power_is_measured_when_asked_for():
    steady = SimulatedMachine(
        (SimulatedSource(component="gpu:0", waveform=Waveform.constant(150.0)),)
    )
    with joulelab.Meter(sensors=steady, baseline=0.5) as meter:
        with meter.span("work") as span:
            busy(0.2)
        assert abs(span.energy.net_j) < 0.1
        assert meter.baseline.points[0].power_w["gpu:0"] == pytest.approx(150.0)


def test_without_a_baseline_net_is_nan(meter):
    with meter.span("work") as span:
        busy(0.2)
    assert math.isnan(span.energy.net_j)


def test_means_of_utilisation_come_from_the_trace():
    with joulelab.Meter(sensors=["simulated", "host"]) as meter:
        with meter.span("work") as span:
            busy(1.2)
        load = meter.mean("host", Quantity.UTILIZATION, [span])
    assert 0 < load <= 100


def test_an_unknown_sensor_is_a_users_error_in_one_line():
    with pytest.raises(UserError) as caught:
        joulelab.Meter(sensors=["gpus"])
    assert "did you mean gpu?" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_to_read_is_said_and_never_zero():
    with joulelab.Meter(sensors=["host"]) as meter, meter.span("work") as span:
        busy(0.1)
    assert math.isnan(span.energy.gross_j)
    assert "no energy was measured" in str(span.energy)


# When things die.


def test_the_recorder_is_killed_and_the_program_goes_on(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        with meter.span("before") as before:
            busy(0.5)
        seen = before.energy.gross_j
        os.kill(meter.recorder_pid, signal.SIGKILL)
        eventually(lambda: not meter.alive)
        with meter.span("after") as after:
            busy(0.5)
        assert "killed by signal 9" in meter.failure
        assert before.energy.gross_j == pytest.approx(seen)
        assert "covers only" in after.energy.absent["gpu:0"]
        assert math.isnan(after.energy.gross_j)
    assert read_trace(tmp_path).size > 10


def test_a_stopped_recorder_does_not_stop_the_program(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        recorder = psutil.Process(meter.recorder_pid)
        recorder.suspend()
        try:
            # More marks than the pipe holds: none of them waits, none is lost.
            for index in range(20000):
                meter.end(meter.begin("step", index=index))
        finally:
            recorder.resume()
        with meter.span("last"):
            busy(0.1)
    steps = [span for span in read_trace(tmp_path).spans if span.name == "step"]
    assert [step.attributes["index"] for step in steps] == list(range(20000))


def test_a_sensor_that_raises_is_a_gap_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "faulty_sensor.py").write_text(
        textwrap.dedent(
            """
            from joulelab.sensors.sensor import Channel, Provenance, Quantity

            class Faulty:
                interval_s = 0.05
                channels = (Channel(component="gpu:0", quantity=Quantity.POWER, source="faulty",
                    provenance=Provenance.MEASURED, update_period_s=0.05),)
                def read(self):
                    raise OSError("driver on fire")
                def close(self):
                    pass
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with joulelab.Meter(sensors=["faulty_sensor:Faulty", "simulated"]) as meter:
        with meter.span("work") as span:
            busy(0.3)
        # The simulated machine gives the GPU too; the faulty one's reason is in the trace.
        assert span.energy.gross_j > 0
        assert meter.trace.gap_reasons("gpu:0") == ["OSError: driver on fire"]


def test_a_sensor_lost_for_a_while_widens_the_interval():
    now_s = time.monotonic()
    gpu = SimulatedSource(
        component="gpu:0",
        waveform=Waveform.square(low_w=100, high_w=400, period_s=0.3),
        kind="power",
        update_period_s=0.02,
        interval_s=0.02,
        lost_s=((now_s + 0.8, now_s + 1.3),),
    )
    with joulelab.Meter(sensors=SimulatedMachine((gpu,))) as meter, meter.span("work") as span:
        busy(2.5)
    part = span.energy.components["gpu:0"]
    assert part.gap_s == pytest.approx(0.5, abs=0.15)
    low, high = part.interval_j
    assert low < gpu.waveform.energy_j(span.start_ns * 1e-9, span.stop_ns * 1e-9) < high
    assert "simulated loss of the sensor" in meter.trace.gap_reasons("gpu:0")


SCRIPT = """
import sys, time, joulelab
from joulelab.sensors.simulated import SimulatedMachine
meter = joulelab.Meter(sensors=SimulatedMachine.default(), directory=sys.argv[1])
span = meter.begin("forever", pid=meter.recorder_pid)
print(meter.recorder_pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_recorder_ends_with_its_program_and_leaves_a_whole_trace(tmp_path, number):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        recorder = psutil.Process(int(program.stdout.readline()))
        eventually(lambda: b"forever" in (tmp_path / "events.jsonl").read_bytes())
        killed_ns = time.monotonic_ns()
        program.send_signal(number)
        program.wait()
        eventually(lambda: not recorder.is_running() or recorder.status() == "zombie")
    trace = read_trace(tmp_path)
    assert trace.spans[0].name == "forever"
    assert trace.spans[0].stop_ns is None
    assert trace.events[-1]["event"] == "stop"
    assert max(t_ns[-1] for t_ns, _ in trace.series if t_ns.size) > killed_ns - 10**9


# What it costs.


HEAVY = ["torch", "pandas", "matplotlib", "pyarrow", "scipy", "numpy", "rich", "psutil"]


def test_importing_is_light():
    code = f"import sys, joulelab; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_the_recorder_imports_little(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        maps = Path(f"/proc/{meter.recorder_pid}/maps").read_text()
        resident = psutil.Process(meter.recorder_pid).memory_info().rss
    assert "numpy" not in maps
    assert "torch" not in maps
    assert resident < 80e6


def test_what_the_energy_says_can_be_kept_as_json(meter):
    with meter.span("work") as span:
        busy(0.2)
    data = json.loads(json.dumps(span.energy.to_json(), allow_nan=False))
    assert data["provenance"] == "simulated"
    assert set(data["components"]) == {"gpu:0", "cpu:0", "dram:0"}
