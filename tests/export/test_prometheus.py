"""The exporter and a job on a simulated machine, as a real Prometheus sees them."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from prometheus_server import Prometheus, why_not
from waiting import wait_for

from joulelab.carbon.site import ENVIRONMENT
from joulelab.energy.estimator import EnergyEstimator
from joulelab.export import counters, machine_recording, service
from joulelab.export import exporter as exporter_module
from joulelab.export.dashboard import dashboard
from joulelab.export.server import MetricsServer
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is there")

GPU = SimulatedSource(
    component="gpu:0", waveform=Waveform.square(low_w=120, high_w=420, period_s=0.7)
)
CPU = SimulatedSource(
    component="cpu:0",
    waveform=Waveform.ramp(low_w=40, high_w=90, period_s=3.0),
    kind="counter",
    update_period_s=0.001,
    interval_s=0.1,
    wrap_j=500.0,
)
NODE = SimulatedSource(
    component="node",
    waveform=Waveform.constant(500),
    kind="power",
    update_period_s=0.5,
    window_s=0.5,
    interval_s=0.5,
    contains=("gpu", "cpu", "dram"),
)
JOB = """
import os, sys, time
from joulelab import Meter
with Meter(directory=sys.argv[1]) as meter:
    for k in range(1000):
        with meter.span("epoch", index=k), meter.span("step"):
            time.sleep(0.3)
        if os.path.exists(sys.argv[1] + ".stop"):
            break
"""
SAMPLES = 7


class Watched:
    """A machine with an exporter, a Prometheus and a job, until it is closed."""

    def __init__(self, directory, patch):
        # A third sensor fails at first, so that there are failed readings.
        now_s = time.monotonic()
        lost = replace(CPU, component="dram:0", wrap_j=None, lost_s=((now_s - 1, now_s + 4),))
        self.machine = SimulatedMachine((GPU, CPU, lost, NODE))
        for name in ENVIRONMENT.values():
            patch.delenv(name, raising=False)
        patch.setenv("JOULELAB_HOME", str(directory / "home"))
        patch.setenv("JOULELAB_INTENSITY", "300")
        patch.setenv("JOULELAB_PRICE", "0.25")
        patch.setenv("JOULELAB_CURRENCY", "EUR")
        patch.setenv("JOULELAB_SENSORS", self.machine.spec())
        # Each scrape measures.
        patch.setattr(exporter_module, "LEAST_S", 0.0)
        patch.setattr(exporter_module, "LARGEST_SHARE", 1e9)
        patch.setattr(exporter_module, "TICK_S", 0.5)
        # Recorders are replaced every few seconds, instead of once an hour.
        patch.setattr(machine_recording, "ROLL_NS", 2 * 10**9)
        patch.setattr(counters, "MARGIN_NS", 10**9)
        self.directory, self.stop = directory, threading.Event()

    def __enter__(self):
        self._exporting = service.exporting(None, self.stop)
        self.exporter = self._exporting.__enter__()
        self.first_pid = self.exporter._machine._current.client.pid
        self.server = MetricsServer(service.metrics_of(self.exporter), "127.0.0.1", 0)
        self.prometheus = Prometheus(self.directory / "prometheus", self.server.port).__enter__()
        self.job = self.start_job("job")
        return self

    def __exit__(self, *_):
        self.job.kill()
        self.job.wait()
        self.prometheus.__exit__()
        self.server.close()
        self._exporting.__exit__(None, None, None)

    def start_job(self, name):
        return subprocess.Popen([sys.executable, "-c", JOB, str(self.directory / name)])

    def end_job(self, name, job):
        (self.directory / f"{name}.stop").touch()
        job.wait()
        return read_trace(self.directory / name)

    def truth_j(self, component, start_unix_s, stop_unix_s):
        offset_s = time.time() - time.monotonic()
        edges_s = (start_unix_s - offset_s, stop_unix_s - offset_s)
        return self.machine.energy_j(*edges_s, component)

    def query(self, text):
        return self.prometheus.query(text)

    def series(self, text):
        """The samples of the only series of a range selector: pairs of a time and a value."""
        ((_, samples),) = self.query(text)
        return [(float(t_s), float(value)) for t_s, value in samples]


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    with (
        pytest.MonkeyPatch.context() as patch,
        Watched(tmp_path_factory.mktemp("export"), patch) as made,
    ):
        name = 'joulelab_run_energy_joules_total{run="job", component="gpu:0"}'
        wait_for(lambda: made.query(f"count_over_time({name}[1h]) >= {SAMPLES}"))
        wait_for(lambda: made.exporter._machine._current.client.pid != made.first_pid)
        yield made


@pytest.mark.parametrize("component", ["gpu:0", "cpu:0"])
def test_the_increase_of_a_counter_is_the_true_energy(watched, component):
    samples = watched.series(f'joulelab_energy_joules_total{{component="{component}"}}[1h]')
    values = [value for _, value in samples]
    assert values == sorted(values)
    (first_s, first_j), (last_s, last_j) = samples[0], samples[-1]
    true_j = watched.truth_j(component, first_s, last_s)
    # Prometheus notes the time at which it asks; it has the answer, and the value of the time at
    # which the exporter begins to measure, up to a tenth of a second later on a busy machine.
    assert last_j - first_j == pytest.approx(
        true_j, rel=0.01, abs=0.1 * true_j / (last_s - first_s)
    )
    assert len(samples) >= SAMPLES
    assert watched.exporter._machine._current.client.pid != watched.first_pid


def test_the_counter_of_a_run_ends_at_the_energy_of_its_recording(watched):
    job = watched.start_job("short")
    selector = 'sum(joulelab_run_energy_joules_total{run="short", role="part"})'
    wait_for(lambda: watched.query(f"{selector} > 0"))
    trace = watched.end_job("short", job)
    # A busy machine may miss a scrape: then there are no values at all.
    ended = f'{selector} unless on () joulelab_run_power_watts{{run="short"}}'
    ((_, energy_j),) = wait_for(lambda: watched.query(ended))
    start_ns, stop_ns = trace.header["start_ns"], min(int(t_ns[-1]) for t_ns, _ in trace.series[:4])
    (energy,) = EnergyEstimator(trace).energies([Window(start_ns, stop_ns)])
    assert energy_j == pytest.approx(energy.gross_j, rel=0.01)
    for series in (
        'energy_joules_total{run="short", component="gpu:0"}',
        'energy_joules_total{run="short", component="node"}',
        'span_energy_joules_total{run="short", span="epoch"}',
    ):
        assert watched.series(f"joulelab_run_{series}[1h]")[0][1] == 0


def test_a_sum_over_parts_never_adds_what_encloses_them(watched):
    found = watched.query("joulelab_power_watts")
    roles = {labels["component"]: labels["role"] for labels, _ in found}
    assert roles == {"gpu:0": "part", "cpu:0": "part", "dram:0": "part", "node": "enclosing"}
    ((_, total_w),) = watched.query('sum(joulelab_power_watts{role="part"})')
    assert total_w == pytest.approx(
        sum(value for labels, value in found if labels["component"] != "node")
    )


def test_spans_of_a_run_add_up(watched):
    def value(name, span):
        ((_, found),) = watched.query(f'joulelab_run_span_{name}{{run="job", span="{span}"}}')
        return found

    epochs_s = value("seconds_total", "epoch")
    assert epochs_s > 3
    # In one query, so that all are of one scrape. Every step has its own epoch around it.
    span_j = 'sum(joulelab_run_span_energy_joules_total{run="job", span="%s"})'
    run_j = 'sum(joulelab_run_energy_joules_total{run="job", role="part"})'
    ((_, steps),) = watched.query(f"{span_j % 'step'} / {span_j % 'epoch'}")
    assert steps == pytest.approx(1, rel=0.01)
    ((_, epochs),) = watched.query(f"{span_j % 'epoch'} / {run_j}")
    # Of dram:0, which is lost for the first four seconds, spans include an estimate of that time,
    # and the counter of the run begins with its first reading. Its power is 65 of 400 W.
    assert 0.5 < epochs < 1.01 + 65 / 400 * 4 / epochs_s


def test_carbon_and_cost_follow_the_energy(watched):
    per_joule = '/ scalar(sum(joulelab_energy_joules_total{role="part"})) * vector(3.6e6)'
    ((_, g_per_kwh),) = watched.query(f"scalar(joulelab_emissions_grams_total) {per_joule}")
    ((_, price_per_kwh),) = watched.query(f"scalar(joulelab_cost_total) {per_joule}")
    assert g_per_kwh == pytest.approx(300, rel=1e-6)
    assert price_per_kwh == pytest.approx(0.25, rel=1e-6)


def queries():
    return [
        pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}".replace(" ", "-"))
        for panel in dashboard()["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("text", queries())
def test_every_query_of_the_dashboard_returns_data(watched, text):
    ranges = {"$__range": "1m", "$__rate_interval": "10s", "$instance": ".*", "$run": ".*"}
    for name, value in ranges.items():
        text = text.replace(name, value)
    assert "$" not in text
    found = watched.query(text)
    assert any(value >= 0 for _, value in found)
    assert not any(value < 0 for _, value in found)


def test_series_end_when_a_recorder_is_killed(watched):
    selector = 'joulelab_run_energy_joules_total{run="killed"}'
    job = watched.start_job("killed")
    wait_for(lambda: watched.query(selector))
    (recorder,) = (
        one.recorder_pid for one in watched.exporter._runs if one.directory.name == "killed"
    )
    os.kill(recorder, signal.SIGKILL)
    wait_for(lambda: not watched.query(selector))
    job.kill()
    job.wait()
    # The exporter's own recorder: what it read of the machine ends, too.
    machine = watched.exporter._machine
    machine_recording.ROLL_NS = 10**15
    wait_for(lambda: machine._next is None)
    os.kill(machine._current.client.pid, signal.SIGKILL)
    wait_for(lambda: not watched.query("joulelab_energy_joules_total"))
    assert not watched.query("joulelab_power_watts")
    assert {labels["component"]: up for labels, up in watched.query("joulelab_component_up")} == {
        "gpu:0": 0, "cpu:0": 0, "dram:0": 0, "node": 0,
    }  # fmt: skip
    # A minute later there is another one, and the counters go on.
    machine._lost_ns = -(10**15)
    wait_for(lambda: watched.query("joulelab_energy_joules_total"))
    for component in ("gpu:0", "cpu:0"):
        name = f'joulelab_energy_joules_total{{component="{component}"}}[1h]'
        values = [value for _, value in watched.series(name)]
        assert values == sorted(values)
