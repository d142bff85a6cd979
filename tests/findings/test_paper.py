"""The paper's claims next to a study's values: the rule, every claim's row, and noise."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.findings.all import analyze
from joulelab.findings.paper import (
    Agreement,
    Comparison,
    Value,
    Verdict,
    claims,
    compare_with_paper,
    decide,
    decide_most,
    read_h100,
)
from joulelab.findings.schema import Finding
from joulelab.findings.tables import StudyTables

YES, NO, NOT_TESTED = Agreement
INF, NAN = math.inf, math.nan
MEASURED = [claim for claim in claims() if not claim.untested]
BOUNDS = {"largest_batch_size": 512.0}
"""Values of the columns that bounds name."""


@pytest.mark.parametrize(
    ("value", "allowed", "excludes", "expected"),
    [
        ((0.9, 0.7, 0.98), (0.85, 0.95), (0,), YES),
        ((0.6, 0.3, 0.84), (0.85, 0.95), (0,), NO),
        ((0.2, -0.3, 0.9), (0.85, 0.95), (0,), NOT_TESTED),
        ((4.0, 3.65, 4.35), (3, 3), (1,), NO),
        ((2.9, 2.5, 3.2), (3, 3), (1,), YES),
        ((2.0, 0.5, 8.0), (3, 3), (1,), NOT_TESTED),
        ((5.0, 1.0, 9.0), (0, INF), (0,), YES),
        ((-5.0, -9.0, -1.0), (0, INF), (0,), NO),
        ((0.1, -0.2, 0.4), (-0.5, 0.5), (-0.5, 0.5), YES),
        ((0.4, -0.1, 0.7), (-0.5, 0.5), (-0.5, 0.5), NOT_TESTED),
        ((0.9, 0.8, 1.0), (-0.5, 0.5), (-0.5, 0.5), NO),
        ((3.2, 3.01, 3.4), (-INF, INF), (3,), YES),
        ((3.2, 2.9, 3.4), (-INF, INF), (3,), NOT_TESTED),
        ((3.0, NAN, NAN), (3, 3), (1,), NOT_TESTED),
        ((64.0, 64.0, 64.0), (0, INF), (512,), YES),
        ((NAN, NAN, NAN), (3, 3), (1,), NOT_TESTED),
    ],
)
def test_rule(value, allowed, excludes, expected):
    assert decide(Value(*value), allowed, excludes).agreement is expected


def test_rule_with_the_test_of_a_finding():
    value = Value(300.0, 250.0, 350.0)
    for significant, expected in ((True, YES), (False, NOT_TESTED), (None, NOT_TESTED)):
        found = decide(value, (0, INF), significant=significant)
        assert found.agreement is expected
    departs = decide(value, (0, INF), (0,), significant=True, departure=True)
    assert departs == Verdict(NO, "a departure from the claim is significant (95 %)")
    found = decide(value, (0, INF), (0,), significant=False, departure=True)
    assert found.agreement is YES
    assert "no departure" in found.why


def test_most_needs_more_than_half():
    yes, no, unknown = (Verdict(agreement, "reason") for agreement in Agreement)
    assert decide_most([yes]) == yes
    assert decide_most([yes, yes, no]) == Verdict(YES, "for 2 of 3 models, reason")
    assert decide_most([no, no, unknown]).agreement is NO
    assert decide_most([yes, no]).agreement is NOT_TESTED
    most = decide_most([yes, unknown, unknown])
    assert most == Verdict(NOT_TESTED, "for 2 of 3 models, reason")


@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(1, 5), st.floats(-1, 1), st.floats(0, 1))
def test_a_wider_interval_decides_no_more(estimate, half, factor, low, width):
    allowed, excludes = (low, low + width), (0.0,)
    narrow = Value(estimate, estimate - half, estimate + half)
    wide = Value(estimate, estimate - factor * half, estimate + factor * half)
    if decide(narrow, allowed, excludes).agreement is NOT_TESTED:
        assert decide(wide, allowed, excludes).agreement is NOT_TESTED


@pytest.mark.parametrize("claim", MEASURED, ids=lambda claim: claim.id)
def test_noise_agrees_with_nothing(claim):
    """Without an effect, at most the intervals that miss the truth by chance agree."""
    bounds = [BOUNDS.get(one, one) for one in claim.excludes]
    truths = bounds or [1.0]
    rng = np.random.default_rng(7)
    for truth in truths:
        for half in (0.02, 0.2, 2.0, 20.0):
            estimates = truth + half / 1.96 * rng.standard_normal(2000)
            agreed = [
                decide(Value(one, one - half, one + half), claim.allowed, bounds,
                       significant=False).agreement is YES
                for one in estimates
            ]  # fmt: skip
            assert np.mean(agreed) < 0.065


@pytest.fixture(scope="module")
def small(synthetic, tmp_path_factory, few_resamples):
    """The analysis of two models on an RTX 3090."""
    writer = synthetic.Writer(tmp_path_factory.mktemp("paper") / "small", repeats=2)
    for block in range(2):
        writer.idle(block, "before")
        for model in ("LeNet", "VGG16"):
            writer.cell(model, block, stretch=1 + 0.02 * block)
        writer.idle(block, "after")
    with pytest.MonkeyPatch.context() as patch:
        few_resamples(patch)
        return analyze(StudyTables.read([writer.directory]))


def with_value(analysis, claim, value, significant):
    """Return the analysis with this value where the claim's is found, and what it requires."""
    runs = analysis.tables.runs.assign(
        **{name: f"the {least}" if isinstance(least, str) else least
           for name, least in claim.requires.items()}
    )  # fmt: skip
    analysis = replace(analysis, tables=replace(analysis.tables, runs=runs))
    if claim.finding:
        if claim.limit:
            watts = 125.0 if claim.finding.endswith("cpu") else 350.0
            value = Value(*(one * watts / 100 for one in value))
        finding = Finding(
            id=claim.finding, question="?", statement="Unknown.", n=2, unit="1",
            significant=significant, **value._asdict(),
        )  # fmt: skip
        others = [one for one in analysis.findings if one.id != claim.finding]
        return replace(analysis, findings=(*others, finding))
    table = getattr(analysis, claim.table)
    (group, *_) = analysis.tables.measurements.to_dict("records")
    row = {name: group[name] for name in ("group", "family", "study", "machine")}
    row |= dict(claim.where) | BOUNDS | dict(zip(claim.columns, value, strict=True))
    missing = {*claim.where, *claim.columns} - set(table.columns)
    assert not missing
    row = {name: row.get(name) for name in table.columns}
    return replace(analysis, **{claim.table: pd.DataFrame([row])})


def examples(claim):
    """Return a value that agrees, one that decides nothing, and one that disagrees, if any."""
    low, high = claim.allowed
    bounds = [BOUNDS.get(one, one) for one in claim.excludes]
    if math.isinf(low):
        return (3.5, 3.2, 3.8), (3.1, 2.9, 3.3), None
    wide = (low, min([low, *bounds]) - 1, max([low, *bounds]) + 1)
    if math.isinf(high):
        return (low + 1, low + 0.5, low + 1.5), wide, (low - 2, low - 3, low - 1)
    middle = (low + high) / 2
    return (middle, middle - 0.1, middle + 0.1), wide, (high + 2, high + 1, high + 3)


@pytest.mark.parametrize("claim", MEASURED, ids=lambda claim: claim.id)
def test_row_of_every_claim(small, claim):
    yes, wide, no = examples(claim)
    significant = not claim.departure
    cases = [
        (yes, significant, YES),
        (wide, False, NOT_TESTED),
        ((NAN, NAN, NAN), None, NOT_TESTED),
        (no, significant, NO),
    ]
    for value, tested, expected in cases[: 4 if no else 3]:
        analysis = with_value(small, claim, Value(*value), tested)
        (row,) = [one for one in compare_with_paper(analysis) if one.claim.id == claim.id]
        assert row.agreement is expected, (value, row)
        assert re.search(r"[^.]\.$", row.why)
        assert bool(row.ours) == (not math.isnan(value[0]))
        if row.ours:
            assert row.value.estimate == pytest.approx(value[0])
        assert repr(Comparison.from_json(row.to_json())) == repr(row)


@pytest.mark.parametrize(
    "claim", [one for one in MEASURED if one.requires], ids=lambda claim: claim.id
)
def test_what_a_claim_requires(small, claim):
    value, _, _ = examples(claim)
    analysis = with_value(small, replace(claim, requires={}), Value(*value), significant=True)
    (row,) = [one for one in compare_with_paper(analysis) if one.claim.id == claim.id]
    assert row.agreement is NOT_TESTED
    assert row.why == f"Needs {claim.needs}."


def test_a_study_without_values_tests_nothing():
    rows = compare_with_paper(analyze(StudyTables.of([])))
    assert [row.claim.id for row in rows] == [claim.id for claim in claims()]
    assert {row.agreement for row in rows} == {NOT_TESTED}


def test_each_machine_has_its_rows(factors):
    rows = [row for row in compare_with_paper(factors) if row.claim.id == "three.mean"]
    assert len({row.machine for row in rows}) == len(rows) == 2


def test_claims_are_complete():
    assert len({claim.id for claim in claims()}) == len(claims())
    for claim in claims():
        assert re.match(r"V(I|-[AB]|, Table I)?\b", claim.source)
        ways = [bool(claim.finding), bool(claim.table), bool(claim.untested)]
        assert sum(ways) == 1, claim
        assert claim.needs or claim.untested
        assert not claim.text.endswith(".")


def test_the_shipped_comparison_is_that_of_the_recording(h100):
    found, shipped = compare_with_paper(h100), read_h100()
    assert len(found) == len(shipped)
    by_id = {finding.id: finding for finding in h100.findings}
    for one, other in zip(found, shipped, strict=True):
        assert (one.claim, one.machine, one.agreement) == (
            other.claim, other.machine, other.agreement,
        ), "run python docs/refresh_h100.py"  # fmt: skip
        assert one.value == pytest.approx(other.value, rel=0.05, abs=0.03, nan_ok=True)
        if one.ours and one.claim.finding and not one.claim.limit:
            assert one.value.estimate == by_id[one.claim.finding].estimate
            assert one.ours.split(" (")[0] in by_id[one.claim.finding].statement


def test_what_the_recording_confirms():
    of = {row.claim.id: row.agreement for row in read_h100()}
    assert of["macs_per_parameter.train"] is of["macs.train"] is of["knee.infer"] is YES
    assert of["three.most"] is of["phases.time"] is of["three.mean"] is NO
    assert of["better.train"] is of["knee.w.train"] is of["cap.train"] is NOT_TESTED
