"""Spans that are over are as they were, in less memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from joulelab.recording.span_log import SpanLog
from joulelab.recording.spans import Span

VALUES = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.none(), st.booleans())
KINDS = st.tuples(
    st.sampled_from(["step", "epoch", ""]),
    st.dictionaries(st.sampled_from(["index", "phase", "of"]), VALUES),
)


def make_log():
    return SpanLog(lambda line: True, lambda span: None)


def state(span):
    fields = (span.index, span.parent, span.thread, span.name, span.start_ns, span.stop_ns)
    values = [(name, type(value), value) for name, value in span.attributes.items()]
    return (*fields, values)


@given(st.lists(KINDS, max_size=30))
def test_they_are_as_they_were(kinds):
    log = make_log()
    held = []
    for name, attributes in kinds:
        with Span(log, name, attributes) as span:
            held.append(span)
            if len(held) % 3 == 0:
                log.flush()
    log.finish()
    assert log.spans() == held
    assert [state(span) for span in log.spans()] == [state(span) for span in held]
    assert log.spans("step") == [span for span in held if span.name == "step"]


def test_spans_that_are_open_stand_among_them_in_their_place():
    log = make_log()
    with Span(log, "epoch", {}) as epoch:
        for index in range(3):
            with Span(log, "step", {"index": index}):
                pass
        log.flush()
        assert [span.name for span in log.spans()] == ["epoch", "step", "step", "step"]
        assert log.spans()[0] is epoch
        assert {span.parent for span in log.spans("step")} == {epoch.index}
    log.finish()


def test_a_name_that_is_no_text_is_kept_too():
    log = make_log()
    for name in (["a", "list"], 7, None):
        with Span(log, name, {}):
            pass
    log.finish()
    assert [span.name for span in log.spans()] == [["a", "list"], 7, None]


def test_equal_is_the_same_span_of_the_same_log():
    one, other = make_log(), make_log()
    spans = [Span(log, "step", {}).__enter__() for log in (one, one, other)]
    for log in (one, other):
        log.finish()
    assert len(set(spans)) == 3
    assert spans[0] == one.spans()[0]
    assert spans[0] not in (spans[1], spans[2], "step")


def test_they_take_a_third_of_the_memory_at_most():
    log = make_log()
    tracemalloc.start()
    for _ in range(5):
        before = tracemalloc.get_traced_memory()[0]
        held = [span_of(log, index) for index in range(5000)]
        as_objects = tracemalloc.get_traced_memory()[0] - before
        del held
        log.flush()
    # A fifth time: what is needed while they are on their way has been made before.
    assert tracemalloc.get_traced_memory()[0] - before < as_objects / 3
    tracemalloc.stop()
    log.finish()


def span_of(log, index):
    with Span(log, "step", {"index": index}) as span:
        return span
