"""Faults under a real recorder: the workload is untouched, and the energy states what is missing.

In each case: the workload's own result and no exception; a note about the fault; a wider interval;
and nothing is 0.
"""

import math
import os
import resource
import signal
import time

import pynvml
import pytest
from faulty_world import POWER_MW
from waiting import wait_for

from joulelab.recording.trace import read_trace
from joulelab.uncertain import COVERAGE_FACTOR

POWER_W = POWER_MW / 1e3
RESULT = sum(range(1000))


def edges_w(energy, component="gpu:0"):
    """The uncertainty from edges and gaps, as power."""
    part = energy.components[component]
    return part.edge_uncertainty_j / part.duration_s


def measured(meter, work, seconds):
    with meter.span("work") as span:
        assert work(seconds) == RESULT
    return span


def noted(energy, text):
    return [note for note in energy.notes if text in note]


def covers_truth(energy):
    low_j, high_j = energy.interval_j
    return low_j < POWER_W * energy.duration_s < high_j


def assert_recovers(meter, work):
    """Once the fault is gone, spans are measured as before."""
    wait_for(lambda: not measured(meter, work, 0.2).energy.notes)
    energy = measured(meter, work, 0.7).energy
    assert energy.notes == ()
    assert energy.gap_s == 0
    assert energy.gross_j == pytest.approx(POWER_W * energy.duration_s, rel=0.01)


def test_without_a_fault_energy_is_exact(shared, work):
    _, meter = shared
    energy = measured(meter, work, 1.0).energy
    assert energy.gross_j == pytest.approx(POWER_W * energy.duration_s, rel=0.01)
    assert energy.notes == ()
    assert energy.gap_s == 0


def test_the_driver_fails_for_three_seconds(shared, work):
    world, meter = shared
    before = measured(meter, work, 0.7).energy
    with meter.span("work") as span:
        assert work(0.7) == RESULT
        world.set("gpu", code=pynvml.NVML_ERROR_UNKNOWN)
        assert work(3.0) == RESULT
        world.clear("gpu")
        assert work(0.7) == RESULT
    energy = span.energy
    assert noted(energy, "gpu:0: gap in nvml.samples (NVML: Unknown Error)")
    # The counter measured the time without samples, except for when it was read.
    uncertainty_j = energy.components["gpu:0"].edge_uncertainty_j
    assert uncertainty_j < 0.05 * energy.gross_j
    assert energy.gross_j == pytest.approx(
        POWER_W * energy.duration_s, abs=COVERAGE_FACTOR * uncertainty_j
    )
    assert edges_w(energy) > edges_w(before)
    assert_recovers(meter, work)


def test_the_driver_fails_during_a_span_that_its_counter_measures_later(shared, work):
    world, meter = shared
    world.set("gpu", code=pynvml.NVML_ERROR_UNKNOWN)
    work(0.7)
    short = measured(meter, work, 0.3)
    work(0.7)
    blind = short.energy
    assert noted(blind, "Unknown Error")
    assert blind.gross_j != 0
    world.clear("gpu")
    work(1.5)
    meter.trace  # noqa: B018  (reads what the ring has kept)
    seen = short.energy
    assert seen.gross_j == pytest.approx(POWER_W * seen.duration_s, rel=0.05)
    assert_recovers(meter, work)


def test_a_gpu_is_lost(shared, work):
    world, meter = shared
    before = measured(meter, work, 0.5).energy
    with meter.span("work") as span:
        assert work(2.5) == RESULT
        world.set("gpu", code=pynvml.NVML_ERROR_GPU_IS_LOST)
        assert work(1.0) == RESULT
    energy = span.energy
    part = energy.components["gpu:0"]
    assert 0.9 < part.gap_s < part.duration_s / 2
    assert noted(energy, "GPU is lost")
    assert covers_truth(energy)
    assert edges_w(energy) > edges_w(before)
    gone = measured(meter, work, 0.5).energy
    assert "covers only 0 %" in gone.absent["gpu:0"]
    assert noted(gone, "GPU is lost")
    assert math.isnan(gone.gross_j)
    assert "GPU is lost" in str(gone)
    world.clear("gpu")


def test_costly_scans_of_processes_are_rare_but_come_when_requested(own, work):
    world, meter = own
    world.set("scans", cpu_s=0.02)
    wait_for(lambda: any(event["event"] == "looks" for event in meter.trace.events))
    for _ in range(4):
        work(0.3)
        energy = measured(meter, work, 0.2).energy
        assert energy.notes == ()
        assert energy.components["gpu:0"].share.is_whole
    last = measured(meter, work, 0.3)
    meter.close()
    assert last.energy.notes == ()
    assert last.energy.components["gpu:0"].share.is_whole


def test_the_energy_counter_is_reset(own, work):
    world, meter = own
    with meter.span("work") as span:
        assert work(1.5) == RESULT
        world.set("reset", at_ns=time.monotonic_ns())
        assert work(1.5) == RESULT
    energy = span.energy
    assert covers_truth(energy)
    assert energy.gross_j == pytest.approx(POWER_W * energy.duration_s, rel=0.02)


def test_the_wall_clock_is_set_forward_and_back_by_an_hour(own, work):
    world, meter = own
    before = measured(meter, work, 0.7).energy
    for direction in ("forward", "back"):
        with meter.span("work") as span:
            assert work(0.7) == RESULT
            if direction == "forward":
                now_ns = time.monotonic_ns()
                world.set("step", clocks=[time.CLOCK_REALTIME], at_ns=now_ns, by_s=3600.0)
            else:
                world.clear("step")
            assert work(1.5) == RESULT
        energy = span.energy
        assert noted(energy, f"the wall clock was set {direction} by 1 h")
        assert covers_truth(energy)
        assert edges_w(energy) > edges_w(before)
        # Until the ring has no timestamp of the old clock.
        assert_recovers(meter, work)


def test_the_machine_is_suspended(own, work):
    world, meter = own
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
    assert covers_truth(energy)
    assert edges_w(energy) > edges_w(before)


def test_the_recorder_is_killed(own, work):
    _, meter = own
    with meter.span("work") as span:
        # Readings of the last second may not have been written, and half of a span must be covered.
        assert work(4.0) == RESULT
        os.kill(meter.recorder_pid, signal.SIGKILL)
        wait_for(lambda: not meter.alive)
        assert work(0.7) == RESULT
    energy = span.energy
    assert "killed by signal 9" in meter.failure
    assert energy.gap_s > 0.5
    assert covers_truth(energy)
    work(1.0)
    after = measured(meter, work, 0.2).energy
    assert "covers only 0 %" in after.absent["gpu:0"]
    assert noted(after, "the recording ended early")
    assert math.isnan(after.gross_j)


def test_the_disk_is_full(own, work):
    """By a limit on the size of files: for the recorder, too, a write that fails."""
    _, meter = own
    before = measured(meter, work, 1.0)
    gross_j = before.energy.gross_j
    size = max(path.stat().st_size for path in meter.directory.iterdir())
    resource.prlimit(meter.recorder_pid, resource.RLIMIT_FSIZE, (size + 10, size + 10))
    with meter.span("work") as span:
        assert work(1.0) == RESULT
    wait_for(lambda: not meter.alive)
    assert "File too large" in meter.failure
    assert before.energy.gross_j == pytest.approx(gross_j)
    assert "covers only" in span.energy.absent["gpu:0"]
    assert read_trace(meter.directory).size > 0
