"""The energy since the beginning is that of the accounting, however it was followed."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import BEGIN_S, CPU, GPU, Recording

from joulelab.energy.energy import total
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_spans import Window
from joulelab.watch import running, spans, totals
from joulelab.watch.following import Following

LOST = replace(GPU, kind="power", update_period_s=0.1, lost_s=((BEGIN_S + 50, BEGIN_S + 62),))
NAMES = {"epoch": 20.0, "step": 2.5}


@pytest.fixture
def short_stretches(monkeypatch, no_pauses):
    """Stretches of some seconds, where a real recording has some hours."""
    monkeypatch.setattr(running, "SETTLED_NS", 20 * 10**9)
    monkeypatch.setattr(running, "LONGEST_NS", 45 * 10**9)


def grow(recording, elapsed_s):
    """Goes on, and tells of the spans that ended meanwhile."""
    before_s = recording.until_s - BEGIN_S
    recording.until(elapsed_s)
    for name, length_s in NAMES.items():
        for number in range(int(before_s / length_s), int(elapsed_s / length_s)):
            recording.span(name, number * length_s, (number + 1) * length_s, index=number)


@pytest.mark.usefixtures("short_stretches")
@pytest.mark.parametrize("gpu", [GPU, LOST], ids=["whole", "lost for a while"])
@pytest.mark.parametrize("looks_s", [[130.0], [3.0, 40.0, 57.0, 61.0, 90.0, 130.0]])
def test_followed_or_read_at_once(tmp_path, gpu, looks_s):
    recording = Recording(tmp_path, (gpu, CPU))
    follower = None
    for elapsed_s in looks_s:
        grow(recording, elapsed_s)
        follower = follower or Following(tmp_path)
        figures = follower.look()
    shares = []
    while figures.read_share < 1:
        shares.append(figures.read_share)
        figures = follower.look()
    assert shares == sorted(shares)
    assert len(shares) == (2 if len(looks_s) == 1 else 0)
    figures = follower.look()
    trace = read_trace(tmp_path)
    (true,) = EnergyEstimator(trace).energies([Window(follower.start_ns, figures.until_ns)])
    assert figures.energy.duration_s == pytest.approx(true.duration_s)
    for name, part in true.components.items():
        found = figures.energy.components[name]
        assert found.gross_j == pytest.approx(part.gross_j, rel=2e-3)
        assert found.uncertainty_j == pytest.approx(part.uncertainty_j, rel=0.5)
    assert {one.name: one.count for one in figures.ended} == {"epoch": 6, "step": 52}
    for one in figures.ended:
        windows = [span.window for span in trace.spans if span.name == one.name]
        true = total(EnergyEstimator(trace).energies(windows))
        assert set(one.energy.components) == set(true.components)
        assert one.energy.gross_j == pytest.approx(true.gross_j, rel=2e-3)


@pytest.mark.usefixtures("short_stretches")
def test_a_component_that_comes_later_is_part_of_it(tmp_path):
    late = replace(LOST, lost_s=((BEGIN_S, BEGIN_S + 30),))
    recording = Recording(tmp_path, (late, CPU))
    follower = None
    for elapsed_s in range(5, 130, 5):
        recording.until(elapsed_s)
        follower = follower or Following(tmp_path)
        figures = follower.look()
    assert set(figures.energy.components) == {"gpu:0", "cpu:0"}
    assert figures.energy.components["gpu:0"].gap_s == pytest.approx(30, abs=1)


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=12), most=st.integers(1, 60))
@settings(max_examples=30)
def test_spans_are_counted_however_they_come(counts, most):
    book, sums = spans.SpanBook(), totals.Totals()
    index = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(totals, "MOST_WAITING", most)
        for count in counts:
            rows = [
                (i, None, 1, "step", {}, i * 10**9, (i + 1) * 10**9)
                for i in range(index, index + count)
            ]
            index += count
            book.add([{"event": "spans", "pid": 1, "rows": rows}])
            sums.add(book.newly_ended())
        waiting = sums.waiting(0, 1 << 62)
    counted = sum(row.count for row in sums.rows())
    assert counted + len(waiting) == index
    if index > most:
        assert not waiting
        assert sums.rows()[0].duration_s == pytest.approx(index)
        assert sums.rows()[0].energy is None


@pytest.mark.usefixtures("no_pauses")
def test_a_day_is_not_read_at_each_look(tmp_path, monkeypatch):
    """After the first look only what is new is looked at."""
    recording = Recording(tmp_path).until(900.0)
    follower = Following(tmp_path)
    follower.look()
    read = []
    between = follower._reader.read_between
    monkeypatch.setattr(
        follower._reader, "read_between",
        lambda *arguments: read.append(between(*arguments)) or read[-1],
    )  # fmt: skip
    for elapsed_s in range(901, 911):
        recording.until(float(elapsed_s))
        follower.look()
    assert read
    assert max(trace.size for trace in read) < 0.1 * read_trace(tmp_path).size
