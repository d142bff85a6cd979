"""The meter, on the simulated machine, with a real recorder process."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from energy_parts import idle_point
from waiting import wait_for

import joulelab
from joulelab.energy.baseline import Baseline
from joulelab.errors import UserError
from joulelab.recording.trace import read_trace
from joulelab.runs.record import read_run
from joulelab.sensors.sensor import Provenance, Quantity
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

MACHINE = SimulatedMachine(
    tuple(replace(source, gain=1.0) for source in SimulatedMachine.default().sources)
)
STEADY = SimulatedMachine((SimulatedSource(component="gpu:0", waveform=Waveform.constant(150.0)),))


def assert_covers_truth(span, machine=MACHINE):
    """The true energy of every component lies within its interval."""
    components = span.energy.components
    assert set(components) == {source.component for source in machine.sources}
    for name, part in components.items():
        low_j, high_j = part.interval_j
        assert low_j < machine.energy_j(span.start_ns * 1e-9, span.stop_ns * 1e-9, name) < high_j


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOULELAB_HOME", str(tmp_path_factory.mktemp("home")))
        with joulelab.Meter(sensors=MACHINE) as meter:
            yield meter


def test_the_interval_of_a_span_covers_its_true_energy(meter):
    with meter.span("work") as span:
        time.sleep(1.0)
    assert_covers_truth(span)
    energy = span.energy
    for name, part in energy.components.items():
        truth_j = MACHINE.energy_j(span.start_ns * 1e-9, span.stop_ns * 1e-9, name)
        assert part.gross_j == pytest.approx(truth_j, rel=0.01)
    assert energy.provenance is Provenance.SIMULATED
    assert energy.duration_s == pytest.approx((span.stop_ns - span.start_ns) * 1e-9)
    assert math.isnan(energy.net_j), "there is no baseline"
    data = json.loads(json.dumps(energy.to_json(), allow_nan=False))
    assert data["provenance"] == "simulated"
    assert set(data["components"]) == {"gpu:0", "cpu:0", "dram:0"}


def test_spans_nest_have_attributes_and_add_up(meter):
    with meter.span("fit", model="tiny") as fit:
        for index in range(3):
            with meter.span("epoch", index=index) as epoch:
                time.sleep(0.1)
            assert epoch.parent == fit.index
    assert fit.parent is None
    fit_j = fit.energy.gross_j
    epochs = meter.energy("epoch")
    spans = meter.spans_named("epoch")
    assert epochs.gross_j == pytest.approx(sum(span.energy.gross_j for span in spans))
    assert meter.energy("epoch", index=1).gross_j == pytest.approx(spans[1].energy.gross_j)
    assert epochs.gross_j <= fit_j


def test_time_in_several_spans_of_a_name_counts_once(meter):
    def recurse(depth):
        with meter.span("recursion"):
            time.sleep(0.05)
            if depth:
                recurse(depth - 1)

    def work():
        with meter.span("thread"):
            time.sleep(0.1)

    recurse(2)
    spans = meter.spans_named("recursion")
    outermost = max(spans, key=lambda span: span.stop_ns - span.start_ns)
    assert len(spans) == 3
    assert meter.energy("recursion").gross_j == pytest.approx(outermost.energy.gross_j)
    threads = [threading.Thread(target=work) for _ in range(3)]
    with meter.span("threads") as whole:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert meter.energy("thread").gross_j < 1.001 * whole.energy.gross_j
    assert len(meter.spans_named("thread")) == 3


def test_spans_that_did_not_end_are_stated_in_the_record(tmp_path):
    def generate():
        with meter.span("generator"):
            yield

    with joulelab.Meter(sensors=MACHINE, directory=tmp_path / "run") as meter:
        meter.begin("begun")
        unfinished = generate()
        next(unfinished)
        with meter.span("block"):
            pass
    assert (
        "2 spans without an end left out: begun and generator" in read_run(tmp_path / "run").notes
    )
    unfinished.close()


def test_an_attribute_may_have_any_name(meter):
    with meter.span("load", name="digits", self=1) as span:
        pass
    assert span.attributes == {"name": "digits", "self": 1}
    assert meter.spans_named("load", name="digits") == [span]
    assert meter.energy("load", name="digits").duration_s == span.energy.duration_s


def test_an_unknown_name_is_refused_with_the_known_ones(meter):
    with meter.span("evaluate"):
        pass
    with pytest.raises(ValueError, match=r"known: .*evaluate"):
        meter.energy("evaluat")
    with meter.span("open"), pytest.raises(ValueError, match="span 'open' is still open"):
        meter.energy("open")


def test_a_span_begins_and_ends_once_and_has_an_energy_afterwards(meter):
    span = meter.span("once")
    with pytest.raises(ValueError, match="has not begun"):
        meter.end(span)
    with span, pytest.raises(ValueError, match="still open"):
        _ = span.energy
    with pytest.raises(ValueError, match="began already"), span:
        pass
    with pytest.raises(ValueError, match="already ended"):
        meter.end(span)


def test_a_span_ends_when_its_block_raises(meter):
    with pytest.raises(ZeroDivisionError), meter.span("fails"):
        _ = 1 / 0
    assert meter.spans_named("fails")


def test_every_span_is_in_the_trace_and_energies_remain_available_after_the_end(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        for index in range(3000):
            with meter.span("step", index=index, text='with "quotes"\n'):
                pass
        with meter.span("long", text="x" * 10000) as long:
            time.sleep(0.3)
    trace = read_trace(tmp_path)
    *steps, recorded = trace.spans
    assert [span.attributes["index"] for span in steps] == list(range(3000))
    assert [span.start_ns for span in trace.spans] == [span.start_ns for span in meter.spans]
    assert [span.stop_ns for span in trace.spans] == [span.stop_ns for span in meter.spans]
    assert recorded.attributes == {"attributes_omitted": True}
    assert len(long.attributes["text"]) == 10000
    assert trace.events[-1]["event"] == "stop"
    assert meter.alive
    assert meter.failure == ""
    assert_covers_truth(long)


def test_a_temporary_trace_is_removed_and_energies_remain_available():
    with joulelab.measure("block", sensors=STEADY) as span:
        time.sleep(0.3)
    assert_covers_truth(span, STEADY)


def test_net_energy_is_gross_energy_without_idle_power_times_duration():
    idle = idle_point({"gpu:0": 100.0}, source="simulated.samples")
    with joulelab.Meter(sensors=STEADY, baseline=Baseline((idle,))) as meter:
        with meter.span("work") as span:
            time.sleep(0.4)
        energy = span.energy
        assert energy.net_j == pytest.approx(50.0 * energy.duration_s, rel=1e-3)
        assert energy.idle_j == pytest.approx(100.0 * energy.duration_s, rel=1e-6)
        meter.baseline = None
        assert meter.measure_idle(0.5).points[0].power_w["gpu:0"] == pytest.approx(150.0)
        assert abs(span.energy.net_j) < 0.1


def test_means_of_utilisation_come_from_the_trace():
    with joulelab.Meter(sensors=["simulated", "host"]) as meter:
        with meter.span("work") as span:
            until_s = time.process_time() + 0.2
            while time.process_time() < until_s:
                pass
            time.sleep(1.0)
        load = meter.mean("host", Quantity.UTILIZATION, [span])
        assert math.isnan(meter.mean("host", Quantity.UTILIZATION, []))
    assert 0 < load <= 100


def test_an_unknown_sensor_is_an_error_of_one_line():
    with pytest.raises(UserError) as caught:
        joulelab.Meter(sensors=["gpus"])
    assert "did you mean gpu?" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_sensors_energy_is_unknown_and_never_zero():
    with joulelab.Meter(sensors=["host"]) as meter, meter.span("work") as span:
        pass
    assert math.isnan(span.energy.gross_j)
    assert "no energy was measured" in str(span.energy)


def test_the_program_goes_on_when_the_recorder_is_killed(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        with meter.span("before") as before:
            time.sleep(0.5)
        gross_j = before.energy.gross_j
        os.kill(meter.recorder_pid, signal.SIGKILL)
        wait_for(lambda: not meter.alive)
        with meter.span("after") as after:
            time.sleep(0.5)
        assert "killed by signal 9" in meter.failure
        assert before.energy.gross_j == pytest.approx(gross_j)
        assert "covers only" in after.energy.absent["gpu:0"]
        assert math.isnan(after.energy.gross_j)
    assert read_trace(tmp_path).size > 10


def test_a_stopped_recorder_does_not_stop_the_program(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        recorder = psutil.Process(meter.recorder_pid)
        recorder.suspend()
        try:
            # More lines than the pipe takes: none of them waits, none is lost.
            for index in range(20000):
                meter.end(meter.begin("step", index=index))
        finally:
            recorder.resume()
        with meter.span("last"):
            pass
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
            time.sleep(0.3)
        # The simulated machine has the same GPU; the faulty sensor's reason is in the trace.
        assert span.energy.gross_j > 0
        assert meter.trace.gap_reasons("gpu:0") == ["OSError: driver on fire"]


def test_a_sensor_that_is_lost_for_a_while_widens_the_interval():
    for lead_s in (0.8, 3.0, 12.0):
        begin_s = time.monotonic() + lead_s
        gpu = SimulatedSource(
            component="gpu:0",
            waveform=Waveform.square(low_w=100, high_w=400, period_s=0.3),
            kind="power",
            update_period_s=0.02,
            interval_s=0.02,
            lost_s=((begin_s, begin_s + 0.5),),
        )
        machine = SimulatedMachine((gpu,))
        with joulelab.Meter(sensors=machine) as meter, meter.span("work") as span:
            time.sleep(0.3)
            was_read = time.monotonic() < begin_s
            while time.monotonic() < begin_s + 2.0:
                time.sleep(0.05)
        if was_read:
            break
    # On a busy machine the sensor is also read late, which is a gap as well.
    readings = meter.trace.series[0]
    read_s = readings.t_ns[np.isfinite(readings.value)] * 1e-9
    assert not np.any((read_s > begin_s) & (read_s < begin_s + 0.5))
    late = np.flatnonzero(np.diff(read_s) > 2.5 * 0.02)
    # Each reading stands for the 10 ms before it and after it.
    first_s = np.maximum(read_s[late] + 0.01, span.start_ns * 1e-9)
    last_s = np.minimum(read_s[late + 1] - 0.01, span.stop_ns * 1e-9)
    gaps_s = np.maximum(last_s - first_s, 0.0).sum()
    assert gaps_s > 0.45
    assert span.energy.components["gpu:0"].gap_s == pytest.approx(gaps_s, abs=0.03)
    assert_covers_truth(span, machine)
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
def test_the_recorder_ends_with_its_program_and_leaves_a_complete_trace(tmp_path, number):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        recorder = psutil.Process(int(program.stdout.readline()))
        wait_for(lambda: b"forever" in (tmp_path / "events.jsonl").read_bytes())
        killed_ns = time.monotonic_ns()
        program.send_signal(number)
        program.wait()
        wait_for(lambda: not recorder.is_running() or recorder.status() == "zombie")
    trace = read_trace(tmp_path)
    assert trace.spans[0].name == "forever"
    assert trace.spans[0].stop_ns is None
    assert trace.events[-1]["event"] == "stop"
    assert max(t_ns[-1] for t_ns, _ in trace.series if t_ns.size) > killed_ns - 10**9


HEAVY = ["torch", "pandas", "matplotlib", "pyarrow", "scipy", "numpy", "rich", "psutil"]


def test_importing_the_package_is_light():
    code = f"import sys, joulelab; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_the_recorder_imports_little(meter):
    maps = Path(f"/proc/{meter.recorder_pid}/maps").read_text()
    assert "numpy" not in maps
    assert "torch" not in maps
    assert psutil.Process(meter.recorder_pid).memory_info().rss < 40e6


AT_EXIT = """
import atexit, sys
import joulelab
from joulelab.parallel import each

closed = joulelab.Meter()
left_open = joulelab.Meter(directory=sys.argv[1], own_recorder=True)

def ask():
    closed.close()
    print(closed.energy("work").gross_j > 0, each(abs, [-1, -2]))

atexit.register(ask)
with left_open.span("outer"), closed.span("work"):
    pass
"""


def test_spans_and_energies_survive_the_exit_of_the_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, tmp_path / "run"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True [1, 2]\n", "")
    events = tmp_path / "run" / "events.jsonl"
    wait_for(lambda: '"stop"' in events.read_text())
    [outer] = read_trace(tmp_path / "run").spans
    assert outer.stop_ns is not None
