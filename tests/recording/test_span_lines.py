"""What of a span goes to the trace: anything may be its attribute."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.recording.trace_format import ATOMIC_WRITE_BYTES, span_lines

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.tuples(st.integers()), inner),
    max_leaves=20,
)


def row(index, name, attributes):
    return (index, None, 1, name, attributes, 10**15 + index, None)


@given(
    spans=st.lists(st.tuples(st.text(), st.dictionaries(st.text(), values, max_size=4))),
    long=st.booleans(),
)
def test_every_span_reaches_the_trace_whatever_its_attributes(spans, long):
    if long:
        spans = [(name, {**attributes, "long": "x" * 3000}) for name, attributes in spans]
    rows = [row(i, name, attributes) for i, (name, attributes) in enumerate(spans)]
    made = span_lines("spans", rows)
    assert all(len(line) <= ATOMIC_WRITE_BYTES and line.endswith(b"\n") for line in made)
    read = [one for line in made for one in json.loads(line)["rows"]]
    assert [(one[0], one[5]) for one in read] == [(i, 10**15 + i) for i in range(len(spans))]
    for one, (name, _) in zip(read, spans, strict=True):
        assert one[3] in (name, name[:256])


class Hostile:
    def __str__(self):
        raise RuntimeError("no words")


def circular():
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize("value", [Hostile(), circular(), {(1, 2): 3}, "x" * 10**6])
def test_what_cannot_be_written_is_left_out_and_the_spans_beside_it_stay(value):
    rows = [row(i, f"span {i}", {"i": i}) for i in range(50)]
    rows[20] = row(20, "odd", {"value": value})
    read = [one for line in span_lines("spans", rows) for one in json.loads(line)["rows"]]
    assert [one[0] for one in read] == list(range(50))
    assert read[20][3:5] == ["odd", {"attributes_omitted": True}]
    assert read[21][4] == {"i": 21}


def test_a_name_that_cannot_be_written():
    [line] = span_lines("spans", [row(0, Hostile(), {})])
    assert json.loads(line)["rows"][0][3] == "?"
