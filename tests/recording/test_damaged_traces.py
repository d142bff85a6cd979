"""Whatever is damaged in a trace is one clear error, or a note on what is left out."""

import contextlib
import json
import math
import os

import pytest
from energy_parts import make_channel
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.estimator import energies_of
from joulelab.errors import TraceError
from joulelab.recording.trace import TraceReader, read_trace
from joulelab.recording.trace_format import (
    EVENTS_FILE,
    READINGS_FILE,
    RECORD_SIZE,
    TraceWriter,
    pack,
    pack_header,
)
from joulelab.recording.trace_spans import Window

SECOND = 10**9
CHANNEL = make_channel()
HEADER = {"channels": [CHANNEL.to_json()], "absent": [], "intervals_s": [0.1], "host": "h"}
RECORDS = b"".join(pack(SECOND + i * SECOND // 10, 100.0, 0) for i in range(100))
WHOLE = Window(2 * SECOND, 10 * SECOND)
SPAN = {"event": "spans", "pid": 7, "rows": [[0, None, 1, "epoch", {}, 2 * SECOND, 3 * SECOND]]}


def write(directory, records=RECORDS, *, header=HEADER, events=(SPAN,)):
    writer = TraceWriter(directory, header)
    writer.readings([records])
    for event in events:
        writer.event(**event)
    writer.close()


def energy(directory):
    (found,) = energies_of(read_trace(directory), [WHOLE])
    return found


@pytest.fixture(scope="module")
def line():
    return pack_header(HEADER)


@given(data=st.data())
def test_no_flipped_bit_of_the_header_passes_silently(line, tmp_path_factory, data):
    bit = data.draw(st.integers(0, 8 * len(line) - 1))
    directory = tmp_path_factory.mktemp("header")
    write(directory)
    flipped = bytearray(line)
    flipped[bit // 8] ^= 1 << bit % 8
    (directory / READINGS_FILE).write_bytes(flipped + RECORDS)
    with contextlib.suppress(TraceError):
        assert read_trace(directory).channels == (CHANNEL,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gain", -1.0),
        ("gain", math.inf),
        ("gain", "1"),
        ("update_period_s", 0.0),
        ("window_s", -1.0),
        ("wrap", 0.0),
        ("quantity", "volts"),
        ("component", None),
        ("max_power_w", 1e300),
        ("window_s", 1e12),
        ("delay_s", -1e12),
        ("time_uncertainty_s", 1e12),
    ],
)
def test_an_old_header_without_checksum_is_checked_by_its_values(tmp_path, field, value):
    write(tmp_path)
    header = {**HEADER, "channels": [{**CHANNEL.to_json(), field: value}]}
    text = json.dumps({"schema": "joulelab-trace-2", **header}).encode()
    text += b" " * (-(len(text) + 1) % RECORD_SIZE) + b"\n"
    (tmp_path / READINGS_FILE).write_bytes(text + RECORDS)
    with pytest.raises(TraceError, match=field):
        read_trace(tmp_path)


def test_a_header_nested_too_deeply_is_one_error(tmp_path):
    write(tmp_path)
    nested = b'{"schema": "joulelab-trace-2", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    (tmp_path / READINGS_FILE).write_bytes(nested)
    with pytest.raises(TraceError, match="nested too deeply"):
        read_trace(tmp_path)


def test_a_damaged_record_in_the_middle_is_stated(tmp_path):
    damaged = bytearray(RECORDS)
    damaged[50 * RECORD_SIZE + 9] ^= 4
    write(tmp_path, bytes(damaged))
    (found,) = energies_of(read_trace(tmp_path), [Window(2 * SECOND, 7 * SECOND)])
    assert "trace.bin is damaged: its last 50 readings are left out" in found.notes
    assert found.gross_j == pytest.approx(500)
    assert found.gap_s == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300, 1e18])
def test_values_that_cannot_be_are_gaps(tmp_path, value):
    records = RECORDS + b"".join(pack((11 + i) * SECOND, value, 0) for i in range(3))
    write(tmp_path, records)
    (found,) = energies_of(read_trace(tmp_path), [Window(2 * SECOND, 12 * SECOND)])
    assert found.gross_j == pytest.approx(1000, rel=0.1)
    assert found.gap_s > 0.5


@pytest.mark.parametrize("t_ns", [-5, -(2**63), 2**63 - 1])
def test_times_that_cannot_be_end_the_trace(tmp_path, t_ns):
    write(tmp_path, RECORDS + pack(t_ns, 1.0, 0))
    damage = "trace.bin is damaged: its last 1 reading is left out"
    assert read_trace(tmp_path).damage == (damage,)
    assert read_trace(tmp_path).size == 100


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"event": "spans", "pid": 7}\n',
        b'{"event":"spans","pid":7,"rows":[[1,null,1,"x",{},"a",3]]}\n',
        b'{"event":"spans","pid":7,"rows":[[1,null,1,"x",{},30,3]]}\n',
        b'{"event":"devices","pid":7,"rows":[[0,1.5,3,0]]}\n',
        b'{"event": "gap", "t_ns": 5, "channel": "a", "reason": "lost"}\n',
        b'{"event": "gap", "t_ns": 1e999, "channel": 0, "reason": "lost"}\n',
        b'{"event": "joined", "t_ns": 5, "pid": 3, "launch": {"rank": 1}}\n',
        b'{"event": "others", "t_ns": 5, "component": "cpu", "used": [[1]], "more": 0}\n',
        b'{"event": "new", "t_ns": "now"}\n',
        b"[" * 100_000 + b"\n",
        b'{"event":"spans","rows":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    ],
)
def test_damaged_events_are_left_out_and_counted(tmp_path, damaged):
    write(tmp_path)
    with (tmp_path / EVENTS_FILE).open("ab") as file:
        file.write(damaged * 2 + json.dumps({**SPAN, "pid": 8}).encode() + b"\n")
    trace = read_trace(tmp_path)
    assert [span.key for span in trace.spans] == [(7, 0), (8, 0)]
    assert trace.damage == ("2 damaged entries are left out of events.jsonl",)
    assert trace.damage[0] in energy(tmp_path).notes


def test_attributes_that_json_lacks_are_not_damage(tmp_path):
    row = [0, None, 1, "step", {"loss": math.nan}, 5, 6]
    write(tmp_path, events=[{**SPAN, "rows": [row]}, {"event": "later version", "x": [1]}])
    trace = read_trace(tmp_path)
    assert math.isnan(trace.spans[0].attributes["loss"])
    assert trace.events[0]["x"] == [1]
    assert trace.damage == ()


def test_gaps_of_channels_that_do_not_exist_are_ignored(tmp_path):
    write(tmp_path, events=[{"event": "gap", "t_ns": 5, "channel": 9, "reason": "lost"}])
    assert energy(tmp_path).gross_j == pytest.approx(800)


def test_a_trace_that_is_cut_short_while_it_is_read_gives_what_is_left(tmp_path):
    write(tmp_path)
    reader = TraceReader(tmp_path)
    before = reader.read()
    os.truncate(tmp_path / READINGS_FILE, (tmp_path / READINGS_FILE).stat().st_size // 2)
    after = reader.read()
    assert 0 < before.series[0].t_ns.size == after.series[0].t_ns.size < 100
    assert after.damage == ("trace.bin was cut short while it was read",)
    os.truncate(tmp_path / READINGS_FILE, 0)
    assert reader.read().series[0].t_ns.size == 0


def test_readings_without_events_still_give_energy(tmp_path):
    write(tmp_path)
    (tmp_path / EVENTS_FILE).unlink()
    found = energy(tmp_path)
    assert found.gross_j == pytest.approx(800)
    assert "there is no events.jsonl, so spans and gaps are unknown" in found.notes


@pytest.mark.parametrize("name", [READINGS_FILE, EVENTS_FILE])
def test_a_pipe_in_the_place_of_a_trace_is_not_waited_for(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(TraceError, match="not a regular file"):
        read_trace(tmp_path)
