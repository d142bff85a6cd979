"""Spans in memory: nesting, and compact storage once they are finished."""

import tracemalloc
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.recording.spans import Span, SpanLog

ACTIONS = st.lists(
    st.one_of(st.just("begin"), st.just("flush"), st.tuples(st.just("end"), st.integers(0, 9))),
    max_size=60,
)
VALUES = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.none(), st.booleans())
KINDS = st.tuples(
    st.sampled_from(["step", "epoch", ""]),
    st.dictionaries(st.sampled_from(["index", "phase", "of"]), VALUES),
)


def make_log():
    return SpanLog(len, lambda span: None)


@pytest.fixture
def log():
    log = make_log()
    yield log
    log.finish()


def state(span):
    fields = (span.index, span.parent, span.thread, span.name, span.start_ns, span.stop_ns)
    values = [(name, type(value), value) for name, value in span.attributes.items()]
    return (*fields, values)


@given(ACTIONS)
def test_the_parent_is_the_last_span_that_was_open(actions):
    log = make_log()
    open_spans, expected = [], []
    for action in actions:
        if action == "begin":
            expected.append(open_spans[-1] if open_spans else None)
            open_spans.append(Span(log, "span", {}).__enter__())
        elif action == "flush":
            log.flush()
        elif open_spans:
            open_spans.pop(action[1] % len(open_spans)).end()
    log.finish()
    assert [span.index for span in log.spans()] == list(range(len(expected)))
    assert [span.parent for span in log.spans()] == [
        None if around is None else around.index for around in expected
    ]


@given(st.lists(KINDS, max_size=30))
def test_stored_spans_are_restored_exactly(kinds):
    log = make_log()
    made = []
    for name, attributes in kinds:
        with Span(log, name, attributes) as span:
            made.append(span)
            if len(made) % 3 == 0:
                log.flush()
    log.finish()
    assert log.spans() == made
    assert [state(span) for span in log.spans()] == [state(span) for span in made]
    assert log.spans("step") == [span for span in made if span.name == "step"]


def test_open_spans_are_in_order_among_stored_ones(log):
    with Span(log, "epoch", {}) as epoch:
        for index in range(3):
            with Span(log, "step", {"index": index}):
                pass
        log.flush()
        assert [span.name for span in log.spans()] == ["epoch", "step", "step", "step"]
        assert log.spans()[0] is epoch
        assert {span.parent for span in log.spans("step")} == {epoch.index}


class Key(StrEnum):
    LOSS = "loss"


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        (["a", "list"], {}),
        (7, {}),
        (None, {}),
        ("step", {"loss": memoryview(b"a buffer")}),
        ("step", {Key.LOSS: 1.5}),
        ("step", {"losses": [1.5, {"of": ()}]}),
    ],
)
def test_names_and_values_of_other_types_are_stored_too(log, name, attributes):
    with Span(log, name, attributes):
        pass
    log.flush()
    [span] = log.spans()
    assert span.name == name
    assert span.attributes == attributes
    assert list(map(type, span.attributes.values())) == list(map(type, attributes.values()))


def test_spans_are_equal_if_they_are_the_same_of_one_log(log):
    other = make_log()
    spans = [Span(one, "step", {}).__enter__() for one in (log, log, other)]
    log.flush()
    other.finish()
    assert len(set(spans)) == 3
    assert spans[0] == log.spans()[0]
    assert spans[0] not in (spans[1], spans[2], "step")


def test_stored_spans_take_at_most_a_third_of_the_memory(log):
    tracemalloc.start()
    for _ in range(5):
        before = tracemalloc.get_traced_memory()[0]
        made = [span_of(log, index) for index in range(5000)]
        as_objects = tracemalloc.get_traced_memory()[0] - before
        del made
        log.flush()
    # The fifth time, since what is needed on the way exists by then.
    assert tracemalloc.get_traced_memory()[0] - before < as_objects / 3
    tracemalloc.stop()


def span_of(log, index):
    with Span(log, "step", {"index": index}) as span:
        return span
