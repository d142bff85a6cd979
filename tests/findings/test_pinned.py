"""Findings and tables of two studies, pinned to 1e-9 before they were rebuilt on one frame."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

PINNED = Path(__file__).parent / "pinned"


def assert_equal(found, name):
    """Compare a table with the pinned one: texts exactly, numbers to 1e-9."""
    pinned = pd.read_csv(PINNED / f"{name}.csv.gz", low_memory=False)
    known = [column for column in found if column in pinned]
    assert known == list(pinned)
    assert len(found) == len(pinned)
    for column in pinned:
        if pd.api.types.is_numeric_dtype(pinned[column]) and pinned[column].notna().any():
            values = found[column].astype("float64").to_numpy(dtype=float, na_value=np.nan)
            expected = pinned[column].to_numpy(dtype=float)
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=column)
        else:
            texts, expected = (one[column].astype("string") for one in (found, pinned))
            assert texts.fillna("").tolist() == expected.fillna("").tolist(), column


@pytest.mark.parametrize("study", ["h100", "factors"])
def test_findings_are_those_of_the_pinned_version(request, study):
    analysis = request.getfixturevalue(study)
    rows = pd.DataFrame([finding.to_json() for finding in analysis.findings])
    columns = ["id", "study", "setting", "estimate", "low", "high", "n", "unit"]
    assert_equal(rows[columns], f"{study}-findings")


@pytest.mark.parametrize(
    ("study", "table"),
    [("h100", "runs"), ("h100", "summary"), ("factors", "runs"), ("factors", "summary"),
     ("factors", "epochs")],
)  # fmt: skip
def test_tables_are_those_of_the_pinned_version(request, study, table):
    tables = request.getfixturevalue(study).tables
    assert_equal(getattr(tables, table), f"{study}-{table}")
