"""The energy since the beginning equals that of the whole trace, however it was followed."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import BEGIN_S, CPU, GPU, Recording

from joulelab.energy.energy import total
from joulelab.energy.estimator import EnergyEstimator, energies_of_spans
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_format import pack
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.watch import running_energy
from joulelab.watch.growing_trace import GrowingTrace
from joulelab.watch.running_energy import FinishedSpans

LOST = replace(GPU, kind="power", update_period_s=0.1, lost_s=((BEGIN_S + 50, BEGIN_S + 62),))
NAMES = {"epoch": 20.0, "step": 2.5}


@pytest.fixture
def short_stretches(monkeypatch, no_pauses):
    """Use stretches of seconds where a real recording has hours."""
    monkeypatch.setattr(running_energy, "SETTLED_NS", 20 * 10**9)
    monkeypatch.setattr(running_energy, "LONGEST_NS", 45 * 10**9)


def grow(recording, elapsed_s):
    """Continue the recording, with the spans that ended."""
    before_s = recording.until_s - BEGIN_S
    recording.until(elapsed_s)
    for name, length_s in NAMES.items():
        for number in range(int(before_s / length_s), int(elapsed_s / length_s)):
            recording.span(name, number * length_s, (number + 1) * length_s, index=number)


@pytest.mark.usefixtures("short_stretches")
@pytest.mark.parametrize("gpu", [GPU, LOST], ids=["whole", "lost for a while"])
@pytest.mark.parametrize("polls_s", [[130.0], [3.0, 40.0, 57.0, 61.0, 90.0, 130.0]])
def test_the_energy_does_not_depend_on_the_polls(tmp_path, gpu, polls_s):
    recording = Recording(tmp_path, (gpu, CPU))
    growing = None
    for elapsed_s in polls_s:
        grow(recording, elapsed_s)
        growing = growing or GrowingTrace(tmp_path)
        snapshot = growing.poll()
    shares = []
    while snapshot.read_share < 1:
        shares.append(snapshot.read_share)
        snapshot = growing.poll()
    assert shares == sorted(shares)
    assert len(shares) == (2 if len(polls_s) == 1 else 0)
    snapshot = growing.poll()
    trace = read_trace(tmp_path)
    (true,) = EnergyEstimator(trace).energies([Window(growing.start_ns, snapshot.until_ns)])
    assert snapshot.view.energy.duration_s == pytest.approx(true.duration_s)
    for name, part in true.components.items():
        found = snapshot.view.energy.components[name]
        assert found.gross_j == pytest.approx(part.gross_j, rel=2e-3)
        assert found.uncertainty_j == pytest.approx(part.uncertainty_j, rel=0.5)
    assert {one.name: one.count for one in snapshot.view.ended} == {"epoch": 6, "step": 52}
    for one in snapshot.view.ended:
        windows = [span.window for span in trace.spans if span.name == one.name]
        true = total(EnergyEstimator(trace).energies(windows))
        assert set(one.energy.components) == set(true.components)
        assert one.energy.gross_j == pytest.approx(true.gross_j, rel=2e-3)


@pytest.mark.usefixtures("short_stretches")
def test_a_component_that_appears_later_is_included(tmp_path):
    late = replace(LOST, lost_s=((BEGIN_S, BEGIN_S + 30),))
    recording = Recording(tmp_path, (late, CPU))
    growing = None
    for elapsed_s in range(5, 130, 5):
        recording.until(elapsed_s)
        growing = growing or GrowingTrace(tmp_path)
        snapshot = growing.poll()
    assert set(snapshot.view.energy.components) == {"gpu:0", "cpu:0"}
    assert snapshot.view.energy.components["gpu:0"].gap_s == pytest.approx(30, abs=1)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("polls_s", [[60.0], [13.0, 21.0, 28.0, 41.0, 60.0]])
def test_time_in_spans_of_several_threads_counts_once_as_in_the_record(tmp_path, polls_s):
    recording = Recording(tmp_path, (GPU, CPU))
    # One long request, and next to it shorter ones that partly overlap each other.
    times_s = [(1.0, 39.0), (2.0, 8.0), (5.0, 12.0), (20.0, 20.5), (27.0, 40.0), (45.0, 50.0)]
    growing = None
    for after_s, elapsed_s in pairwise([0.0, *polls_s]):
        recording.until(elapsed_s)
        for thread, (start_s, stop_s) in enumerate(times_s):
            if after_s < stop_s <= elapsed_s:
                recording.span("request", start_s, stop_s, thread=thread)
        growing = growing or GrowingTrace(tmp_path)
        snapshot = growing.poll()
    trace = read_trace(tmp_path)
    (true,) = energies_of_spans(EnergyEstimator(trace), [trace.spans])
    (found,) = snapshot.view.ended
    assert found.count == len(times_s)
    assert found.duration_s == pytest.approx(44.0)
    assert found.duration_s == pytest.approx(true.duration_s)
    assert found.energy.gross_j == pytest.approx(true.gross_j, rel=2e-3)
    assert found.energy.gross_j < snapshot.view.energy.gross_j


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=12), most=st.integers(1, 60))
@settings(max_examples=30)
def test_every_finished_span_is_counted(counts, most):
    finished = FinishedSpans()
    index = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_energy, "MOST_WAITING", most)
        for count in counts:
            numbers = range(index, index + count)
            finished.add(TraceSpan("step", i * 10**9, (i + 1) * 10**9, key=(1, i)) for i in numbers)
            index += count
        waiting = finished.waiting(0, 1 << 62)
    totals = finished.totals()
    assert sum(row.count for row in totals) + len(waiting) == index
    if index > most:
        assert not waiting
        assert totals[0].duration_s == pytest.approx(index)
        assert totals[0].energy is None


@pytest.mark.usefixtures("no_pauses")
def test_a_long_recording_is_not_read_at_each_poll(tmp_path, monkeypatch):
    recording = Recording(tmp_path).until(900.0)
    growing = GrowingTrace(tmp_path)
    growing.poll()
    read = []
    between = growing._reader.read_between
    monkeypatch.setattr(
        growing._reader, "read_between",
        lambda *arguments: read.append(between(*arguments)) or read[-1],
    )  # fmt: skip
    for elapsed_s in range(901, 911):
        recording.until(float(elapsed_s))
        growing.poll()
    assert read
    assert max(trace.size for trace in read) < 0.1 * read_trace(tmp_path).size


@pytest.mark.usefixtures("short_stretches")
def test_a_component_that_is_lost_for_good_does_not_end_the_energy_of_the_others(tmp_path):
    lost = replace(LOST, lost_s=((BEGIN_S + 100, BEGIN_S + 1000),))
    Recording(tmp_path, (lost, CPU)).until(190.0)
    energy = GrowingTrace(tmp_path).poll(final=True).view.energy
    assert energy.duration_s == pytest.approx(190, abs=1)
    assert energy.components["cpu:0"].gross_j == pytest.approx(60 * energy.duration_s, rel=0.1)
    assert energy.components["gpu:0"].gap_s == pytest.approx(90, abs=2)


@pytest.mark.usefixtures("short_stretches")
def test_gpus_of_other_jobs_are_left_out_however_long_ago_the_job_began(tmp_path):
    other = replace(GPU, component="gpu:1")
    gpus = {"gpu:0": ["GPU-a"], "gpu:1": ["GPU-b"]}
    recording = Recording(tmp_path, (GPU, other), gpus=gpus)
    recording.writer.event(
        event="joined", pid=7, t_ns=round(BEGIN_S * 1e9), gpus=["gpu:0"], gpus_on_host="1",
        launch={"launcher": "torchrun", "job": "1", "rank": 0, "local_rank": 0},
    )  # fmt: skip
    growing = GrowingTrace(tmp_path)
    for elapsed_s in (10.0, 40.0, 80.0, 120.0):
        recording.until(elapsed_s)
        view = growing.poll().view
        assert set(view.energy.components) == {"gpu:0"}
        assert [one.name for one in view.components] == ["gpu:0"]
        assert view.power_w == view.components[0].power_w > 0
        assert view.absent["gpu:1"] == "not used by this job"


@pytest.mark.usefixtures("short_stretches")
def test_centuries_without_readings_take_no_time(tmp_path):
    """As a damaged clock may write."""
    recording = Recording(tmp_path)
    recording.until(60.0)
    recording.writer.readings([pack(4 * 10**18, 1.0, 0)])
    snapshot = GrowingTrace(tmp_path).poll(final=True)
    assert "gpu:0" in snapshot.view.absent
