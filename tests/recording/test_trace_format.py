"""What the recorder writes: records of readings, and lines of spans with any attributes."""

import json
import struct
from functools import reduce
from operator import xor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.recording.trace_format import ATOMIC_WRITE_BYTES, CHECK, pack_all, span_lines

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.tuples(st.integers()), inner),
    max_leaves=8,
)


def row(index, name, attributes):
    return (index, None, 1, name, attributes, 10**15 + index, None)


def read(lines):
    return [one for line in lines for one in json.loads(line)["rows"]]


@given(
    spans=st.lists(
        st.tuples(st.text(), st.dictionaries(st.text(), values, max_size=3)), max_size=8
    ),
    repeats=st.integers(1, 9),
    long=st.booleans(),
)
@settings(max_examples=40)
def test_every_span_reaches_the_trace_whatever_its_attributes(spans, repeats, long):
    spans *= repeats
    if long:
        spans = [(name, {**attributes, "long": "x" * 3000}) for name, attributes in spans]
    lines = span_lines("spans", [row(i, *span) for i, span in enumerate(spans)])
    assert all(len(line) <= ATOMIC_WRITE_BYTES and line.endswith(b"\n") for line in lines)
    rows = read(lines)
    assert [(one[0], one[5]) for one in rows] == [(i, 10**15 + i) for i in range(len(spans))]
    for one, (name, _) in zip(rows, spans, strict=True):
        assert one[3] in (name, name[:256])


class Hostile:
    def __str__(self):
        raise RuntimeError("no text")


def circular():
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize("value", [Hostile(), circular(), {(1, 2): 3}, "x" * 10**6])
def test_attributes_that_cannot_be_written_are_omitted_and_other_spans_are_complete(value):
    rows = [row(i, f"span {i}", {"i": i}) for i in range(50)]
    rows[20] = row(20, "odd", {"value": value})
    found = read(span_lines("spans", rows))
    assert [one[0] for one in found] == list(range(50))
    assert found[20][3:5] == ["odd", {"attributes_omitted": True}]
    assert found[21][4] == {"i": 21}


def test_a_name_that_cannot_be_written_is_replaced():
    [one] = read(span_lines("spans", [row(0, Hostile(), {})]))
    assert one[3] == "?"


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(), st.integers(0, 2**32 - 1)))
)
def test_each_of_many_records_has_its_own_check(readings):
    records = list(struct.iter_unpack("<qdII", pack_all(readings)))
    assert [struct.pack("<qdI", *one[:3]) for one in records] == [
        struct.pack("<qdI", *one) for one in readings
    ]
    for words in struct.iter_unpack("<6I", pack_all(readings)):
        assert reduce(xor, words) == CHECK
