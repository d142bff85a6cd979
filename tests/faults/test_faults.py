"""Things go wrong under a real recorder: the work is untouched, the account says what is missing.

In each case: the workload's own result, no exception; in words what happened; an interval that
grew; and nothing is 0.
"""

import math
import os
import resource
import signal
import time

import pynvml
import pytest
from faulty_world import POWER_MW

from joulelab.recording.trace import read_trace
from joulelab.uncertain import COVERAGE_FACTOR

POWER_W = POWER_MW / 1e3
RESULT = sum(range(1000))


def relative_width(energy):
    low, high = energy.interval_j
    return (high - low) / energy.gross_j


def edges_w(energy, component="gpu:0"):
    """The uncertainty that edges and gaps leave, as power."""
    part = energy.components[component]
    return part.edge_uncertainty_j / part.duration_s


def measured(meter, work, seconds):
    with meter.span("work") as span:
        assert work(seconds) == RESULT
    return span


def noted(energy, words):
    return [note for note in energy.notes if words in note]


def eventually(condition, timeout_s=20.0):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition never came true"
        time.sleep(0.01)


def test_nothing_goes_wrong(meter, work):
    energy = measured(meter, work, 1.0).energy
    assert energy.gross_j == pytest.approx(POWER_W * energy.duration_s, rel=0.01)
    assert energy.notes == ()
    assert energy.gap_s == 0


def test_a_look_at_processes_is_costly(world, meter, work):
    """Then they are seldom looked at, and yet whenever it is asked for."""
    world.set("looks", cpu_s=0.02)
    eventually(lambda: any(event["event"] == "looks" for event in meter.trace.events))
    for _ in range(4):
        work(0.3)
        energy = measured(meter, work, 0.2).energy
        assert energy.notes == ()
        assert energy.components["gpu:0"].share.is_whole
    last = measured(meter, work, 0.3)
    meter.close()
    assert last.energy.notes == ()
    assert last.energy.components["gpu:0"].share.is_whole


def test_a_gpu_is_lost_for_good(world, meter, work):
    before = measured(meter, work, 0.5).energy
    with meter.span("work") as span:
        assert work(2.5) == RESULT
        world.set("gpu", code=pynvml.NVML_ERROR_GPU_IS_LOST)
        assert work(1.0) == RESULT
    energy = span.energy
    part = energy.components["gpu:0"]
    assert 0.9 < part.gap_s < part.duration_s / 2
    assert noted(energy, "GPU is lost")
    low, high = energy.interval_j
    assert low < POWER_W * energy.duration_s < high
    assert edges_w(energy) > edges_w(before)
    gone = measured(meter, work, 0.5).energy
    assert "covers only 0 %" in gone.absent["gpu:0"]
    assert noted(gone, "GPU is lost")
    assert math.isnan(gone.gross_j)
    assert "GPU is lost" in str(gone)


def test_the_driver_fails_for_three_seconds(world, meter, work):
    before = measured(meter, work, 0.7).energy
    with meter.span("work") as span:
        assert work(0.7) == RESULT
        world.set("gpu", code=pynvml.NVML_ERROR_UNKNOWN)
        assert work(3.0) == RESULT
        world.mend("gpu")
        assert work(0.7) == RESULT
    energy = span.energy
    assert noted(energy, "gpu:0: gap in nvml.samples (NVML: Unknown Error)")
    # The counter tells what was drawn meanwhile, as well as it is known when it was read.
    uncertainty_j = energy.components["gpu:0"].edge_uncertainty_j
    assert uncertainty_j < 0.05 * energy.gross_j
    assert energy.gross_j == pytest.approx(
        POWER_W * energy.duration_s, abs=COVERAGE_FACTOR * uncertainty_j
    )
    assert edges_w(energy) > edges_w(before)
    eventually(lambda: not measured(meter, work, 0.2).energy.notes)
    after = measured(meter, work, 0.5).energy
    assert after.gross_j == pytest.approx(POWER_W * after.duration_s, rel=0.01)


def test_the_driver_fails_for_a_span_and_its_counter_knows(world, meter, work):
    measured(meter, work, 1.0)
    world.set("gpu", code=pynvml.NVML_ERROR_UNKNOWN)
    work(0.7)
    short = measured(meter, work, 0.3)
    work(0.7)
    blind = short.energy
    assert noted(blind, "Unknown Error")
    assert blind.gross_j != 0
    world.mend("gpu")
    work(1.5)
    meter.trace  # noqa: B018  (reads what the ring had kept meanwhile)
    seen = short.energy
    assert seen.gross_j == pytest.approx(POWER_W * seen.duration_s, rel=0.05)


def test_the_energy_counter_is_reset(world, meter, work):
    with meter.span("work") as span:
        assert work(1.5) == RESULT
        world.set("reset", at_ns=time.monotonic_ns())
        assert work(1.5) == RESULT
    energy = span.energy
    low, high = energy.interval_j
    assert low < POWER_W * energy.duration_s < high
    assert energy.gross_j == pytest.approx(POWER_W * energy.duration_s, rel=0.02)


@pytest.mark.parametrize(("by_s", "way"), [(3600.0, "forward"), (-3600.0, "back")])
def test_the_wall_clock_is_set_by_an_hour(world, meter, work, by_s, way):
    before = measured(meter, work, 0.7).energy
    with meter.span("work") as span:
        assert work(0.7) == RESULT
        world.set("step", clocks=[time.CLOCK_REALTIME], at_ns=time.monotonic_ns(), by_s=by_s)
        assert work(1.5) == RESULT
    energy = span.energy
    assert noted(energy, f"the wall clock was set {way} by 1 h")
    low, high = energy.interval_j
    assert low < POWER_W * energy.duration_s < high
    assert edges_w(energy) > edges_w(before)
    # Until the ring holds no stamp of the old clock any more.
    eventually(lambda: not measured(meter, work, 0.2).energy.notes)
    after = measured(meter, work, 0.7).energy
    assert after.notes == ()
    assert after.gross_j == pytest.approx(POWER_W * after.duration_s, rel=0.01)


def test_the_machine_is_suspended(world, meter, work):
    before = measured(meter, work, 1.0).energy
    with meter.span("work") as span:
        assert work(1.0) == RESULT
        clocks = [time.CLOCK_REALTIME, time.CLOCK_BOOTTIME]
        world.set("step", clocks=clocks, at_ns=time.monotonic_ns(), by_s=12.5)
        assert work(2.0) == RESULT
    work(1.0)
    energy = span.energy
    assert noted(energy, "the machine was suspended for 12.5 s")
    assert not noted(energy, "wall clock was set forward")
    assert energy.duration_s < 4
    low, high = energy.interval_j
    assert low < POWER_W * energy.duration_s < high
    assert edges_w(energy) > edges_w(before)


def test_the_recorder_is_killed(meter, work):
    with meter.span("work") as span:
        assert work(2.5) == RESULT
        os.kill(meter.recorder_pid, signal.SIGKILL)
        eventually(lambda: not meter.alive)
        assert work(0.7) == RESULT
    energy = span.energy
    assert "killed by signal 9" in meter.failure
    assert energy.gap_s > 0.5
    low, high = energy.interval_j
    assert low < POWER_W * energy.duration_s < high
    work(1.0)
    after = measured(meter, work, 0.2).energy
    assert "covers only 0 %" in after.absent["gpu:0"]
    assert noted(after, "the recording ended early")
    assert math.isnan(after.gross_j)


def test_the_disk_is_full(meter, work, tmp_path):
    """By a limit on the size of files: to the recorder it is a write that fails, all the same."""
    before = measured(meter, work, 1.0)
    seen = before.energy
    size = max(path.stat().st_size for path in (tmp_path / "run").iterdir())
    resource.prlimit(meter.recorder_pid, resource.RLIMIT_FSIZE, (size + 10, size + 10))
    with meter.span("work") as span:
        assert work(1.0) == RESULT
    eventually(lambda: not meter.alive)
    assert "File too large" in meter.failure
    assert before.energy.gross_j == pytest.approx(seen.gross_j)
    assert "covers only" in span.energy.absent["gpu:0"]
    assert read_trace(tmp_path / "run").size > 0
