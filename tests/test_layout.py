"""Wrapped text: it fits the width, and no value is broken."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.format import duration, with_interval
from joulelab.layout import labelled, wrap

VALUES = [
    with_interval(2882.0, 2622.0, 3141.0, "J"),
    with_interval(-1.2, -3.4, 1.0, "J"),
    duration(7325.0),
    "1,234.50 EUR",
    "36.0 J ± 4.2 J",
    "-5.80 %",
    "see `joulelab doctor`",
]
BROKEN = re.compile(r"(\d\n *[A-Za-z%])|(±\n)|(%\n *CI)|(`joulelab\n)")


@given(
    st.lists(st.sampled_from(VALUES) | st.text("abc ", max_size=12), max_size=12),
    st.integers(1, 220),
)
def test_text_fits_any_width_and_keeps_values_whole(texts, width):
    text = ", ".join(texts)
    wrapped = wrap(text, width)
    assert wrapped.split() == text.split()
    assert not BROKEN.search(wrapped)
    widest = max(map(len, wrapped.split("\n")))
    assert widest <= max(width, 30), "only a value that is wider than the terminal exceeds it"
    assert wrap(text, None) == text


def test_a_long_path_stays_whole():
    path = "/home/user/" + "x" * 60
    assert path in labelled([("record", path)], 40).split()


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, ["spans     epoch  3 times  24.9 J"]),
        (40, ["spans     epoch  3 times  24.9 J"]),
        (30, ["spans     epoch  3 times", "                 24.9 J"]),
    ],
)
def test_a_line_feed_is_where_a_line_is_broken_if_it_must_be(width, lines):
    text = labelled([("spans", "epoch  3 times\n       24.9 J")], width)
    assert text.splitlines() == lines


def test_a_label_that_repeats_is_shown_once():
    assert labelled([("note", "one"), ("note", "two")], 80) == "note      one\n          two\n"
