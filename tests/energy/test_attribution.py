"""The job's share of a shared machine, from simulated use and from a real processor."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from energy_parts import idle_point, make_channel
from hypothesis import given
from hypothesis import strategies as st

import joulelab
from joulelab.energy.attribution import Attribution, Share
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.processes import busy_s
from joulelab.sensors.sensor import Gap, Provenance, Quantity, Reading

S = 10**9
ALONE = Share(fraction=1.0, low=1.0, high=1.0, method="CPU time")
HALF = Share(fraction=0.5, low=1 / 3, high=2 / 3, method="CPU time")
RARE_SAMPLES = {"event": "looks", "pace_s": 3.4, "t_ns": 0}


def channel(component, quantity):
    return make_channel(component, quantity, provenance=Provenance.MEASURED, update_period_s=1.0)


def machine(*, others, job=1.0, gap=None, gaps_s=range(20), samples_s=range(15), events=()):
    """A machine at 100 W; the job and others use this many threads.

    Processes are sampled at ``samples_s``. With ``gap`` their use is unknown at ``gaps_s``, for the
    reason that it gives.
    """
    channels = [
        channel("cpu:0", Quantity.ENERGY),
        channel("cpu", Quantity.USE),
        channel("cpu", Quantity.JOB_USE),
    ]
    readings = [Reading(i * S, 0, 100.0 * i) for i in range(20)]
    for at_s in samples_s:
        t_ns, use = round(at_s * 1e9), ((job + others) * at_s, job * at_s)
        readings += [
            Gap(t_ns, k, gap) if gap and at_s in gaps_s else Reading(t_ns, k, use[k - 1])
            for k in (1, 2)
        ]
    trace = Trace.of(channels, readings)
    if gap:
        events = (*events, {"event": "gap", "channel": 1, "t_ns": 0, "reason": gap})
    return Trace(trace.channels, trace.series, events=events)


def energy_of(trace, start_s=2, stop_s=12, baseline=None):
    window = Window(round(start_s * 1e9), round(stop_s * 1e9))
    return EnergyEstimator(trace, baseline).energies([window])[0]


def shares(trace, *spans_s, component="cpu:0"):
    return Attribution(trace).shares(component, np.array(spans_s, dtype=float))


def fractions(trace, *spans_s):
    return [share and share.fraction for share in shares(trace, *spans_s)]


def test_a_share_is_by_use_and_its_interval_allows_for_different_use():
    used = [[pid, name, 1.0 / pid] for pid, name in enumerate(("stress", "make"), 1)]
    others = {"event": "others", "component": "cpu", "used": used, "more": 3, "t_ns": 0}
    energy = energy_of(machine(others=1.0, events=[others]))
    assert energy.gross_j == pytest.approx(1000), "totals stay the machine's"
    share = energy.components["cpu:0"].share
    assert (share.fraction, share.low, share.high) == pytest.approx((1 / 2, 1 / 3, 2 / 3))
    assert energy.job_j == pytest.approx(500)
    assert energy.notes == (
        "other processes also used the CPU: stress (pid 1), make (pid 2) and 3 more",
    )
    text = (
        "this job used about 500 J (95 % CI 333–667 J) of it, 50 % (33–67 %), "
        "estimated from CPU time"
    )
    assert energy.job_text == text
    assert text in str(energy)


def test_the_lower_end_excludes_idle_energy():
    point = idle_point({"cpu:0": 40.0})
    energy = energy_of(machine(others=1.0), baseline=Baseline((point,)))
    assert energy.net_j == pytest.approx(600)
    assert energy.job_j == pytest.approx(500)
    low_j, high_j = energy.net_interval_j[0] / 3, energy.interval_j[1] * 2 / 3
    assert energy.job_interval_j == pytest.approx((low_j, high_j))
    assert "about 500 J (95 % CI 190–667 J) of it, 50 % (20–67 %)" in energy.job_text


@pytest.mark.parametrize("others", [0.0, 0.04])
def test_a_job_that_is_alone_has_no_note(others):
    energy = energy_of(machine(others=others))
    assert energy.components["cpu:0"].share.is_whole
    assert energy.job_j == energy.gross_j
    assert energy.job_interval_j == energy.interval_j
    assert energy.notes == ()
    assert "this job" not in str(energy)


def test_a_job_that_used_nothing_has_no_energy():
    assert energy_of(machine(others=1.0, job=0.0)).job_j == 0.0


def test_an_unknown_share_has_its_reason():
    energy = energy_of(machine(others=1.0, gap="processes are hidden"))
    assert energy.components["cpu:0"].share is None
    assert np.isnan(energy.job_j)
    assert energy.to_json()["job_j"] is None
    assert energy.notes == ("the CPU: this job's share is unknown: processes are hidden",)


def test_time_without_samples_may_be_anyones():
    shorter = energy_of(machine(others=1.0, samples_s=range(8))).components["cpu:0"].share
    unseen = (12 - 7 - 2) / 10
    assert shorter.fraction == pytest.approx(1 / 2)
    assert shorter.low == pytest.approx(1 / 3 * (1 - unseen))
    assert shorter.high == pytest.approx(2 / 3 * (1 - unseen) + unseen)
    alone = energy_of(machine(others=0.0, samples_s=range(8)))
    assert "of it, 100 % (70–100 %)" in alone.job_text
    assert alone.notes == (), "no other process was seen"
    little = energy_of(machine(others=1.0, samples_s=range(3)))
    assert little.components["cpu:0"].share is None
    assert "sampled in too little of the span" in little.notes[0]


def test_time_of_unknown_use_may_be_anyones():
    trace = machine(others=1.0, gap="busy", gaps_s=(5, 6, 7))
    share = energy_of(trace).components["cpu:0"].share
    assert share.low == pytest.approx(1 / 3 * 0.7)
    assert share.high == pytest.approx(2 / 3 * 0.7 + 0.3)
    within = energy_of(trace, 5.2, 6.8)
    assert within.components["cpu:0"].share is None
    assert within.notes == ("the CPU: this job's share is unknown: busy",)


def test_samples_around_a_span_cover_it_however_far_apart_they_are():
    trace = machine(others=1.0, samples_s=(0, 0.3, 3.7, 7.1), events=[RARE_SAMPLES])
    assert fractions(trace, [1.0, 1.2], [3.0, 4.0], [4.0, 7.0]) == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(
    ("events", "known"), [([], [True, False, False]), ([RARE_SAMPLES], [True, True, False])]
)
def test_use_is_extrapolated_by_two_samples_at_their_stated_pace(events, known):
    trace = machine(others=1.0, samples_s=(0, 0.3, 0.6), events=events)
    found = shares(trace, [2.0, 2.5], [7.0, 7.3], [8.0, 8.5])
    assert [share is not None for share in found] == known


def test_a_short_span_is_like_the_time_around_it():
    trace = machine(others=3.0)
    assert fractions(trace, [5.2, 5.3], [14.5, 14.6], [7, 7]) == pytest.approx([0.25] * 3)
    for length_s in (0.001, 0.01, 0.1):
        assert fractions(machine(others=1.0), [5.0, 5.0 + length_s]) == pytest.approx([0.5])


@given(
    rates=st.lists(st.tuples(st.floats(0, 2), st.floats(0.2, 2)), min_size=2, max_size=8),
    first=st.floats(0, 1),
    length_s=st.floats(0.001, 2),
)
def test_a_share_lies_between_those_of_the_samples_around_it(rates, first, length_s):
    used = np.vstack([[0.0, 0.0], np.cumsum(rates, axis=0)])
    channels = [channel("cpu", Quantity.USE), channel("cpu", Quantity.JOB_USE)]
    readings = [
        Reading(i * S, k, value)
        for i, (job, others) in enumerate(used.tolist())
        for k, value in enumerate((job + others, job))
    ]
    start_s = first * (len(rates) - length_s)
    (share,) = shares(Trace.of(channels, readings), [start_s, start_s + length_s])
    around = rates[int(start_s) : int(np.ceil(start_s + length_s))]
    possible = [job / (job + others) for job, others in around]
    assert min(possible) - 1e-6 <= share.fraction <= max(possible) + 1e-6
    assert share.low <= share.fraction <= share.high


def test_a_trace_without_samples_of_processes_has_no_shares():
    readings = [Reading(i * S, 0, 9.0 * i) for i in range(20)]
    energy = energy_of(Trace.of([channel("cpu:0", Quantity.ENERGY)], readings))
    assert energy.components["cpu:0"].share is None
    assert energy.notes == ()


def test_the_share_of_memory_is_between_its_size_and_the_work_on_it():
    channels = [
        channel(component, quantity)
        for component in ("cpu", "dram")
        for quantity in (Quantity.USE, Quantity.JOB_USE)
    ]
    rates = (2.0, 1.0, 0.5, 0.05)
    readings = [Reading(i * S, k, rates[k] * i) for i in range(10) for k in range(4)]
    (share,) = shares(Trace.of(channels, readings), [1.0, 8.0], component="dram:0")
    assert (share.fraction, share.low, share.high) == pytest.approx((0.1, 0.1, 2 / 3))


def part(**more):
    values = {"component": "cpu:0", "source": "test", "provenance": Provenance.MEASURED}
    return ComponentEnergy(**values, duration_s=1.0, **more)


def test_shares_of_spans_combine_by_their_energies():
    both = part(gross_j=300.0, share=ALONE) + part(gross_j=100.0, share=HALF)
    assert both.job_j == pytest.approx(350)
    assert (both + part(gross_j=1.0)).share is None, "unknown if one is unknown"


def test_a_share_survives_json_and_older_records_have_none():
    energy = Energy(duration_s=1.0, components={"cpu:0": part(gross_j=10.0, share=HALF)})
    data = json.loads(json.dumps(energy.to_json()))
    assert Energy.from_json(data) == energy
    assert data["job_j"] == 5.0
    del data["components"]["cpu:0"]["share"]
    assert Energy.from_json(data).components["cpu:0"].share is None


def test_another_process_on_the_same_processor_is_named_and_has_its_part(tmp_path):
    pid_file = tmp_path / "pid"
    spin = (
        f"import os, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()) + ' ')\n"
        "while os.getppid() == os.getppid(): pass"
    )
    # A process in its own session, whose parent ends immediately: no process of this job.
    subprocess.run(["setsid", "--fork", sys.executable, "-c", spin], check=True)
    while not (pid_file.exists() and pid_file.read_text().endswith(" ")):
        time.sleep(0.01)
    pid = int(pid_file.read_text())
    try:
        with joulelab.Meter(sensors=["cpu"]) as meter:
            before_s, own_before_s = busy_s(), time.process_time()
            with meter.span("work") as span:
                while time.process_time() < own_before_s + 1.5:
                    pass
            truth = (time.process_time() - own_before_s) / (busy_s() - before_s)
            energy = span.energy
    finally:
        subprocess.run(["kill", "-9", str(pid)], check=True)
    share = energy.components["cpu:0"].share
    assert share.fraction == pytest.approx(truth, abs=0.1)
    assert share.low < truth < share.high
    assert any(f"(pid {pid})" in note for note in energy.notes)
