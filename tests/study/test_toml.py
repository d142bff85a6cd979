"""The TOML that plans are written as, read back by the standard library."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.study.toml import dumps

SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]))
TABLES = st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=4), max_size=5)


@given(TABLES, st.dictionaries(KEYS, TABLES, max_size=3))
def test_what_is_written_reads_back_equal(top, tables):
    data = {**top, **tables}
    assert tomllib.loads(dumps(data)) == data


def test_none_is_left_out():
    text = dumps({"a": None, "b": 1, "c": {"d": None, "e": 2}})
    assert tomllib.loads(text) == {"b": 1, "c": {"e": 2}}


def test_what_has_no_place_is_refused():
    with pytest.raises(TypeError, match="object"):
        dumps({"a": object()})
