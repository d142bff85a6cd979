"""Many spans: all of them arrive, whatever happens to the recorder, or those lost are counted."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import joulelab
from joulelab.recording import span_columns
from joulelab.recording import spans as recording_spans
from joulelab.recording.span_blocks import NONE, Block
from joulelab.recording.span_columns import SpanColumns, SpanTable
from joulelab.recording.trace import TraceReader, read_trace
from joulelab.recording.trace_format import EVENTS_FILE, TraceWriter, span_lines
from joulelab.recording.trace_schema import parse_event
from joulelab.sensors.simulated import SimulatedMachine

MACHINE = SimulatedMachine.default()
SPANS = 20_000
PYTHON = [sys.executable, "-W", "ignore:This process:DeprecationWarning"]
"""Python 3.12 warns of any fork next to a thread, such as the meter's."""

pytestmark = pytest.mark.usefixtures("home")


def flood(meter, count, name="step"):
    for i in range(count):
        with meter.span(name, index=i, loss=0.5):
            pass


FLOOD = """
import json, os, random, signal, sys, threading, joulelab
from joulelab.sensors.simulated import SimulatedMachine

directory, n, what = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
sensors = None if directory == "-" else SimulatedMachine.default()
meter = joulelab.Meter(sensors=sensors, directory=None if directory == "-" else directory)

def mark(count):
    for i in range(count):
        with meter.span(f"part {i % 50}", index=i, loss=0.5):
            pass

if "stopped" in what:
    os.kill(meter.recorder_pid, signal.SIGSTOP)
with meter.span("epoch"):
    jobs = [threading.Thread(target=mark, args=(n // 4,)) for _ in range(4)]
    for one in jobs:
        one.start()
    for _ in range(3 if "forked" in what else 0):
        if os.fork() == 0:
            mark(n // 16)
            os._exit(0)
    for one in jobs:
        one.join()
    for _ in range(3 if "forked" in what else 0):
        os.wait()
if "stopped" in what:
    os.kill(meter.recorder_pid, signal.SIGKILL if "killed" in what else signal.SIGCONT)
if "left open" not in what:
    meter.close()
    print(json.dumps([meter.failure, meter.alive]))
"""


def run_flood(directory, *what):
    command = [*PYTHON, "-c", FLOOD, directory, str(SPANS), ",".join(what)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not done.stderr
    return json.loads(done.stdout) if done.stdout else None


@pytest.mark.parametrize("what", [("forked",), ("stopped", "forked"), ("left open",)])
def test_a_burst_arrives_whole(tmp_path, what):
    """Threads, children, a recorder that is stopped for a while, a meter that is not closed."""
    found = run_flood(str(tmp_path / "run"), *what)
    assert found in (["", True], None)
    spans = read_trace(tmp_path / "run").finished_spans
    assert len(spans) == 1 + SPANS + ("forked" in what) * 3 * (SPANS // 16)
    assert [span.name for span in spans].count("epoch") == 1
    part = spans.named("part 7")
    assert {(one.attributes["loss"], one.attributes["index"] % 50) for one in part} == {(0.5, 7)}


def test_a_killed_recorder_loses_no_span_and_the_failure_states_its_end(tmp_path):
    failure, alive = run_flood(str(tmp_path / "run"), "stopped", "killed", "forked")
    assert "killed by signal 9" in failure
    assert not alive
    assert "spans" not in failure
    assert len(read_trace(tmp_path / "run").finished_spans) == 1 + SPANS + 3 * (SPANS // 16)


def test_the_spans_of_a_wrapped_program_arrive_whole(tmp_path):
    run = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-m", "joulelab", "run", "--quiet", "--sensors", "simulated",
         "--out", run, "--", sys.executable, "-c", FLOOD, "-", str(SPANS), "forked"],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert sum(span.count for span in joulelab.open_run(run).spans) == 1 + SPANS + 3 * (SPANS // 16)


def test_the_number_of_lost_spans_is_stated_in_the_failure_and_the_record(tmp_path):
    """Whatever the cause: here the lines are cut out of the file behind the meter's back."""
    meter = joulelab.Meter(sensors=MACHINE, directory=tmp_path / "run")
    flood(meter, 5000)
    meter._log.flush()
    os.truncate(tmp_path / "run" / EVENTS_FILE, 0)
    flood(meter, 200, name="other")
    meter.close()
    assert "5,000 of 5,200 spans are not in the recording" in meter.failure
    assert meter.failure in joulelab.open_run(tmp_path / "run").notes


def test_spans_that_a_full_disk_refused_arrive_when_there_is_room(tmp_path):
    """A limit of the file's size stands for the disk."""
    script = (
        "import resource, signal, sys, joulelab\n"
        "from joulelab.sensors.simulated import SimulatedMachine\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "meter = joulelab.Meter(sensors=SimulatedMachine.default(), directory=sys.argv[1])\n"
        "def flood():\n"
        "    for i in range(3000):\n"
        "        with meter.span('step', index=i): pass\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))\n"
        "flood()\n"
        "assert not meter._log.flush()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "flood()\n"
        "meter.close()\n"
        "assert 'spans' not in meter.failure, meter.failure\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "run"], check=True)
    assert len(read_trace(tmp_path / "run").finished_spans) == 6000


CLOSING = """
import os, sys, joulelab
from joulelab.sensors.simulated import SimulatedMachine

meter = joulelab.Meter(sensors=SimulatedMachine.default(), directory=sys.argv[1])
with meter.span("before"):
    pass
os.closerange(3, 256)
mine = [os.open(sys.argv[2], os.O_RDWR | os.O_CREAT, 0o600) for _ in range(40)]
for i in range(100):
    with meter.span("after", index=i):
        pass
if os.fork() == 0:
    with meter.span("child"):
        pass
    meter.close()
    os._exit(0)
assert os.wait()[1] == 0
meter.close()
assert os.path.getsize(sys.argv[2]) == 0
for one in mine:
    os.close(one)
"""


def test_a_program_that_closes_all_descriptors_keeps_its_spans_and_its_files(tmp_path):
    command = [*PYTHON, "-c", CLOSING, tmp_path / "run", tmp_path / "mine"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not done.stderr
    names = [span.name for span in read_trace(tmp_path / "run").finished_spans]
    assert names == ["before", *["after"] * 100, "child"]


def test_a_recording_that_is_removed_while_measuring_is_stated(tmp_path):
    meter = joulelab.Meter(sensors=MACHINE, directory=tmp_path / "run", record=False)
    flood(meter, 100)
    shutil.rmtree(tmp_path / "run")
    meter.close()
    assert "removed" in meter.failure
    assert not meter.alive


names = st.sampled_from(["step", "epoch", "validate"])
values = st.integers() | st.floats(allow_nan=False) | st.text() | st.none() | st.booleans()
rows = st.tuples(
    st.integers(0, 2**61),
    st.none() | st.integers(0, 2**61),
    st.integers(0, 2**47),
    names,
    st.builds(lambda index, loss: {"index": index, "loss": loss}, st.integers(), values),
    st.integers(0, 2**61),
    st.integers(2**61, 2**62),
)


@given(st.lists(rows, min_size=1, max_size=30))
def test_a_block_is_restored_exactly_from_its_line(spans):
    line = Block.of(7, spans).line()
    if line is None:
        assert any(type(row[4]["loss"]) is str and len(row[4]["loss"]) > 256 for row in spans)
        return
    event = parse_event(line)
    assert event["pid"] == 7
    restored = Block.of_event(event).rows()
    assert restored == spans
    types = [[(name, type(one)) for name, one in row[4].items()] for row in restored]
    assert types == [[(name, type(one)) for name, one in row[4].items()] for row in spans]


@given(st.data(), st.lists(rows, min_size=1, max_size=30, unique_by=lambda row: row[0]))
def test_spans_are_the_same_from_rows_and_from_columns(data, spans):
    by_rows, by_columns = SpanTable(), SpanTable()
    for line in span_lines("spans", spans):
        by_rows.add(json.loads(line))
    split = data.draw(st.integers(0, len(spans)))
    for some in (spans[:split], spans[split:]):
        if some and (line := Block.of(os.getpid(), some).line()):
            by_columns.add(parse_event(line))
        else:
            by_columns.add_rows(os.getpid(), some)
    found = list(by_columns.spans())
    assert found == list(by_rows.spans())
    assert [span.start_ns for span in found] == sorted(row[5] for row in spans)
    again = SpanColumns.of(found)
    assert list(again) == found
    for name, group in again.by_name().items():
        assert list(group) == [span for span in found if span.name == name]
        assert list(again.named(name)) == list(group)


def test_a_damaged_line_of_columns_is_counted_and_the_others_are_read(tmp_path):
    spans = [(i, 0, 1, "step", {"index": i}, 10 * i, 10 * i + 5) for i in range(1, 101)]
    good = Block.of(7, spans).line()
    event = json.loads(good)
    damaged = []
    for name, column in event["columns"].items():
        cut = {**column, "data": column["data"][: len(column["data"]) // 2 // 4 * 4]}
        far = {**column, "after": 2**62}
        damaged += [{**event, "columns": {**event["columns"], name: one}} for one in (cut, far)]
    damaged += [
        {**event, "names": []},
        {**event, "pid": 2**40},
        {**event, "attributes": {"a": [1]}},
    ]
    writer = TraceWriter(tmp_path, {"channels": [], "absent": []})
    for one in damaged:
        writer.event(**one)
    writer.events(good)
    writer.close()
    trace = TraceReader(tmp_path).read()
    assert len(trace.spans) == 100
    assert f"{len(damaged)} damaged entries" in trace.damage[0]


@pytest.mark.parametrize("attributes", [{"b": 1}, {}, {"a": 1, "b": 2}])
def test_spans_with_different_attributes_have_no_block(attributes):
    spans = [(0, None, 1, "s", {"a": 1}, 0, 1), (1, None, 1, "s", attributes, 0, 1)]
    with pytest.raises(ValueError, match="attribute"):
        Block.of(7, spans)


def test_threads_wait_for_spans_to_be_passed_on(monkeypatch):
    monkeypatch.setattr(recording_spans, "MOST_WAITING", 100)
    monkeypatch.setattr(recording_spans, "FLUSH_INTERVAL_S", 0.01)
    passed_on = []

    def send(lines):
        passed_on.extend(lines)
        return len(lines)

    log = recording_spans.SpanLog(send, None)
    waiting = 0
    for _ in range(1000):
        with recording_spans.Span(log, "step", {}):
            waiting = max(waiting, len(log.begun))
    log.finish()
    with recording_spans.Span(log, "step", {}):
        pass
    assert waiting < 900
    assert passed_on
    assert len(log.spans()) == 1001


def test_spans_are_in_order_however_many_arrays_they_fill(monkeypatch):
    monkeypatch.setattr(span_columns, "FEW_SPANS", 3)
    monkeypatch.setattr(span_columns, "MANY_SPANS", 5)
    table = SpanTable()
    for first, length in ((20, 4), (0, 9), (9, 1), (10, 10), (24, 6)):
        rows = [
            (i, None, 1, f"s{i % 3}", {"index": i}, i, i + 1) for i in range(first, first + length)
        ]
        table.add_block(Block.of(1, rows))
        spans = table.spans()
        assert [span.start_ns for span in spans] == sorted(span.key[1] for span in spans)
        assert [span.attributes["index"] for span in spans] == [span.key[1] for span in spans]
    assert len(spans) == 30


def test_a_million_spans_as_columns_take_60_bytes_each():
    count = 100_000
    table = SpanTable()
    for first in range(0, count, 8192):
        indices = range(first, min(first + 8192, count))
        table.add_block(Block.of(1, [(i, 0, 1, "s", {"index": i}, i, i + 1) for i in indices]))
    spans = table.spans()
    assert len(spans) == count
    assert spans.spans.nbytes == 56 * count
    assert spans[-1].attributes == {"index": count - 1}
    assert np.all(spans.spans["stop_ns"] != NONE)
