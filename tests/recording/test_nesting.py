"""Which span is around which: told afterwards, as it was when each began."""

from hypothesis import given
from hypothesis import strategies as st

from joulelab.recording.span_log import SpanLog
from joulelab.recording.spans import Span

ACTS = st.lists(
    st.one_of(st.just("begin"), st.just("place"), st.tuples(st.just("end"), st.integers(0, 9))),
    max_size=60,
)


@given(ACTS)
def test_a_span_is_in_the_last_begun_that_was_open(acts):
    log = SpanLog(lambda line: True, lambda span: None)
    open_spans, expected = [], []
    for act in acts:
        if act == "begin":
            expected.append(open_spans[-1] if open_spans else None)
            open_spans.append(Span(log, "span", {}).__enter__())
        elif act == "place":
            log.flush()
        elif open_spans:
            open_spans.pop(act[1] % len(open_spans)).end()
    log.finish()
    assert [span.index for span in log.spans()] == list(range(len(expected)))
    assert [span.parent for span in log.spans()] == [
        None if around is None else around.index for around in expected
    ]
