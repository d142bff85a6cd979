"""A trace can be read back: complete, cut short or damaged."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from energy_parts import make_channel
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import TraceError
from joulelab.recording.trace import RECORD, Trace, TraceReader, read_trace
from joulelab.recording.trace_format import (
    EVENTS_FILE,
    READINGS_FILE,
    RECORD_SIZE,
    TraceWriter,
    pack,
)
from joulelab.sensors.sensor import Absence, Channel, Gap, Reading
from joulelab.validation import convert

CHANNEL = make_channel()
HEADER = {
    "channels": [CHANNEL.to_json()],
    "absent": [{"component": "cpu:0", "source": "rapl", "reason": "none", "hint": ""}],
    "host": "h",
}


def write(directory: Path, count: int) -> TraceWriter:
    writer = TraceWriter(directory, HEADER)
    writer.readings(pack(1000 + i, 2.5 * i, 0) for i in range(count))
    return writer


@given(
    t_ns=st.integers(1, 2**62),
    value=st.floats(allow_nan=True, allow_infinity=True),
    channel=st.integers(0, 2**31),
)
def test_a_record_reads_back_as_it_was_packed(t_ns, value, channel):
    record = np.frombuffer(pack(t_ns, value, channel), dtype=RECORD)[0]
    assert record["t_ns"] == t_ns
    assert record["channel"] == channel
    assert record["value"] == value or (math.isnan(value) and math.isnan(record["value"]))


def test_a_trace_reads_back_as_it_was_written(tmp_path):
    writer = write(tmp_path, 5)
    writer.event(event="gap", channel=0, t_ns=7, reason="lost")
    writer.close()
    trace = read_trace(tmp_path)
    t_ns, value = trace.series[0]
    assert trace.channels == (CHANNEL,)
    assert trace.absent == (Absence("cpu:0", "rapl", "none"),)
    assert trace.header["host"] == "h"
    assert list(t_ns) == [1000, 1001, 1002, 1003, 1004]
    assert list(value) == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert trace.gap_reasons("gpu:0") == ["lost"]
    assert trace.gap_reasons("cpu:0") == []


@given(cut=st.integers(1, 5 * RECORD_SIZE))
def test_a_trace_cut_anywhere_reads_up_to_its_last_whole_record(tmp_path_factory, cut):
    directory = tmp_path_factory.mktemp("cut")
    write(directory, 5).close()
    path = directory / READINGS_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    t_ns, _ = read_trace(directory).series[0]
    assert len(t_ns) == (5 * RECORD_SIZE - cut) // RECORD_SIZE


@given(byte=st.integers(0, 5 * RECORD_SIZE - 1), flip=st.integers(1, 255))
def test_a_damaged_record_ends_the_trace(tmp_path_factory, byte, flip):
    directory = tmp_path_factory.mktemp("damage")
    write(directory, 5).close()
    path = directory / READINGS_FILE
    data = bytearray(path.read_bytes())
    data[len(data) - 5 * RECORD_SIZE + byte] ^= flip
    path.write_bytes(data)
    t_ns, _ = read_trace(directory).series[0]
    assert list(t_ns) == [1000 + i for i in range(byte // RECORD_SIZE)]


def test_a_tail_of_zeros_is_not_read(tmp_path):
    write(tmp_path, 3).close()
    with (tmp_path / READINGS_FILE).open("ab") as file:
        file.write(bytes(10 * RECORD_SIZE))
    assert read_trace(tmp_path).size == 3


def test_a_last_event_without_its_end_is_not_read(tmp_path):
    writer = write(tmp_path, 1)
    writer.event(event="begin", name="epoch")
    writer.close()
    with (tmp_path / EVENTS_FILE).open("ab") as file:
        file.write(b'{"event": "end", "na')
    assert [event["event"] for event in read_trace(tmp_path).events] == ["begin"]


def test_a_growing_trace_is_read_incrementally(tmp_path):
    writer = write(tmp_path, 2)
    reader = TraceReader(tmp_path)
    assert reader.read().size == 2
    writer.readings([pack(5000, 1.0, 0), pack(6000, math.nan, 0)])
    trace = reader.read()
    assert list(trace.series[0][0]) == [1000, 1001, 5000, 6000]
    assert math.isnan(trace.series[0][1][-1])
    writer.close()


def test_a_trace_is_never_overwritten(tmp_path):
    write(tmp_path, 1).close()
    with pytest.raises(FileExistsError):
        write(tmp_path, 1)


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"no json\n", b'{"schema": "other"}\n', b"[1]\n"]
)
def test_other_files_are_refused_in_one_line(tmp_path, content):
    (tmp_path / READINGS_FILE).write_bytes(content)
    (tmp_path / EVENTS_FILE).write_bytes(b"")
    with pytest.raises(TraceError) as caught:
        read_trace(tmp_path)
    assert "\n" not in str(caught.value)
    assert READINGS_FILE in str(caught.value) or str(tmp_path) in str(caught.value)


def test_a_missing_trace_is_refused(tmp_path):
    with pytest.raises(TraceError, match="cannot read the trace"):
        read_trace(tmp_path / "nowhere")


def test_series_are_in_order_of_time():
    trace = Trace.of([CHANNEL], [Reading(30, 0, 3.0), Reading(10, 0, 1.0), Gap(20, 0, "lost")])
    t_ns, value = trace.series[0]
    assert list(t_ns) == [10, 20, 30]
    assert value[0] == 1.0
    assert math.isnan(value[1])


def test_a_channel_is_restored_from_json():
    assert convert(json.loads(json.dumps(CHANNEL.to_json())), Channel) == CHANNEL


def test_damage_in_a_later_block_ends_every_channel(tmp_path, monkeypatch):
    monkeypatch.setattr("joulelab.recording.trace.BLOCK", 7)
    header = {"channels": [channel.to_json() for channel in (CHANNEL, CHANNEL)], "absent": []}
    writer = TraceWriter(tmp_path, header)
    writer.readings([pack(1000 - i, float(i), i % 2) for i in range(40)])
    writer.readings([bytes(RECORD_SIZE)])
    writer.readings([pack(5000, 1.0, 0)])
    writer.close()
    trace = read_trace(tmp_path)
    assert trace.size == 40
    for channel in (0, 1):
        t_ns, value = trace.series[channel]
        assert t_ns.tolist() == [1000 - i for i in range(39 - (channel == 0), -1, -2)]
        assert value.tolist() == [float(i) for i in range(39 - (channel == 0), -1, -2)]


def test_a_channel_that_the_header_does_not_name_is_an_error(tmp_path):
    writer = write(tmp_path, 2)
    writer.readings([pack(5000, 1.0, 9)])
    writer.close()
    with pytest.raises(TraceError, match="damaged"):
        read_trace(tmp_path)


def test_the_readings_between_two_times_are_those_of_the_whole_trace(tmp_path):
    writer = write(tmp_path, 5)
    reader = TraceReader(tmp_path)
    writer.event(event="gap", channel=0, t_ns=7, reason="lost")
    events = reader.new_events()
    trace = reader.read_between(1003, 2000, events)
    assert trace.series[0].t_ns.tolist() == [1003, 1004]
    assert trace.gap_reasons("gpu:0") == ["lost"]
    assert reader.new_events() == []
    writer.readings([pack(1009, 1.0, 0)])
    assert reader.read_between(1004, 2000).series[0].t_ns.tolist() == [1004, 1009]
    assert reader.read_between(1001, 1003).series[0].t_ns.tolist() == [1001, 1002, 1003]
    assert reader.latest_ns() == 1009
    assert reader.read_between(2000, 3000).size == 0
    assert reader.read_between(0, 3000).size == 6
    writer.close()
